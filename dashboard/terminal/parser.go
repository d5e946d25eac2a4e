package terminal

// parser is what of an escape sequence has come.
type parser struct {
	state   state
	private byte  // '?', '>', '=' or '<' of a control sequence; 0: none
	params  []int // of a control sequence
	partial []byte
}

type state int

const (
	ground     state = iota
	escape           // after ESC
	charset          // after ESC and an intermediate byte: one more follows
	sequence         // after ESC [ (ECMA-48, section 5.4)
	ignored          // a control sequence with what this does not know, to its end
	text             // after ESC ], P, X, ^ or _: a string, to BEL or ESC \
	textEscape       // and an ESC in it
)

const (
	maxParams = 16
	maxParam  = 9999
)

// feed takes the next byte.
func (s *Screen) feed(b byte) {
	switch s.state {
	case text:
		switch b {
		case 0x07, 0x18, 0x1a:
			s.state = ground
		case 0x1b:
			s.state = textEscape
		}
		return
	case textEscape:
		s.state = text
		if b == '\\' {
			s.state = ground
		}
		return
	}
	if b < 0x20 || b == 0x7f { // which are obeyed also within a sequence
		s.control(b)
		return
	}
	switch s.state {
	case ground:
		s.character(b)
	case escape:
		s.escaped(b)
	case charset:
		s.state = ground
	case sequence, ignored:
		s.part(b)
	}
}

// control obeys a C0 control character.
func (s *Screen) control(b byte) {
	if len(s.partial) > 0 { // text that ends in the middle of a character
		s.partial = s.partial[:0]
		s.put('\uFFFD')
	}
	switch b {
	case 0x08:
		s.column = max(0, min(s.column, s.columns-1)-1)
	case 0x09:
		s.column = min(s.columns-1, (s.column/8+1)*8)
	case 0x0a, 0x0b, 0x0c:
		s.down()
	case 0x0d:
		s.column = 0
	case 0x18, 0x1a:
		s.state = ground
	case 0x1b:
		s.state, s.private, s.params = escape, 0, s.params[:0]
	}
}

// escaped obeys what follows ESC.
func (s *Screen) escaped(b byte) {
	s.state = ground
	switch b {
	case '[':
		s.state = sequence
	case ']', 'P', 'X', '^', '_':
		s.state = text
	case ' ', '#', '%', '(', ')', '*', '+', '-', '.', '/':
		s.state = charset
	case '7':
		s.saved = position{s.row, s.column}
	case '8':
		s.move(s.saved.row, s.saved.column)
	case 'D':
		s.down()
	case 'E':
		s.column = 0
		s.down()
	case 'M':
		s.up()
	case 'c':
		s.reset()
	}
}

// part takes a byte of a control sequence.
func (s *Screen) part(b byte) {
	switch {
	case b >= '0' && b <= '9':
		if len(s.params) == 0 {
			s.params = append(s.params, 0)
		}
		last := &s.params[len(s.params)-1]
		*last = min(maxParam, *last*10+int(b-'0'))
	case b == ';' || b == ':':
		if len(s.params) == 0 {
			s.params = append(s.params, 0)
		}
		if len(s.params) == maxParams {
			s.state = ignored
			return
		}
		s.params = append(s.params, 0)
	case b >= '<' && b <= '?':
		s.private = b
	case b >= 0x20 && b <= 0x2f, b >= 0x80:
		s.state = ignored
	case b >= 0x40:
		if s.state == sequence {
			s.obey(b)
		}
		s.state = ground
	}
}

// param returns a parameter, or fallback where it is left out or 0.
func (s *Screen) param(i, fallback int) int {
	if i < len(s.params) && s.params[i] != 0 {
		return s.params[i]
	}
	return fallback
}

// obey does what a whole control sequence says (ECMA-48, section 8.3; xterm's
// ctlseqs for the private ones).
func (s *Screen) obey(final byte) {
	if s.private != 0 {
		if s.private == '?' && (final == 'h' || final == 'l') {
			s.modes(final == 'h')
		}
		return
	}
	n := s.param(0, 1)
	switch final {
	case 'A':
		s.move(max(s.row-n, s.limit(s.row >= s.top, s.top, 0)), s.column)
	case 'B', 'e':
		s.move(min(s.row+n, s.limit(s.row <= s.bottom, s.bottom, s.rows-1)), s.column)
	case 'C', 'a':
		s.move(s.row, s.column+n)
	case 'D':
		s.move(s.row, min(s.column, s.columns-1)-n)
	case 'E':
		s.move(s.row+n, 0)
	case 'F':
		s.move(s.row-n, 0)
	case 'G', '`':
		s.move(s.row, n-1)
	case 'H', 'f':
		s.move(n-1, s.param(1, 1)-1)
	case 'd':
		s.move(n-1, s.column)
	case 'J':
		s.eraseDisplay(s.param(0, 0))
	case 'K':
		s.eraseLine(s.param(0, 0))
	case 'X':
		s.erase(s.row, min(s.column, s.columns-1), s.column+n)
	case '@':
		s.shift(n)
	case 'P':
		s.shift(-n)
	case 'L':
		if s.row >= s.top && s.row <= s.bottom {
			s.scroll(s.row, s.bottom, -n)
			s.column = 0
		}
	case 'M':
		if s.row >= s.top && s.row <= s.bottom {
			s.scroll(s.row, s.bottom, n)
			s.column = 0
		}
	case 'S':
		s.scroll(s.top, s.bottom, n)
	case 'T':
		s.scroll(s.top, s.bottom, -n)
	case 'r':
		top, bottom := s.param(0, 1)-1, min(s.param(1, s.rows), s.rows)-1
		if top < bottom {
			s.top, s.bottom = top, bottom
			s.move(0, 0)
		}
	case 's':
		s.saved = position{s.row, s.column}
	case 'u':
		s.move(s.saved.row, s.saved.column)
	}
}

func (s *Screen) limit(within bool, inside, outside int) int {
	if within {
		return inside
	}
	return outside
}

func (s *Screen) modes(on bool) {
	for _, p := range s.params {
		switch p {
		case 7:
			s.noWrap = !on
		case 47, 1047, 1049:
			s.show(on)
		}
	}
}

func (s *Screen) eraseDisplay(what int) {
	from, to := 0, s.rows
	switch what {
	case 0:
		s.eraseLine(0)
		from = s.row + 1
	case 1:
		s.eraseLine(1)
		to = s.row
	case 2:
	default: // 3: what has scrolled away, which is not kept
		return
	}
	for row := from; row < to; row++ {
		s.erase(row, 0, s.columns)
	}
}

func (s *Screen) eraseLine(what int) {
	at := min(s.column, s.columns-1)
	switch what {
	case 0:
		s.erase(s.row, at, s.columns)
	case 1:
		s.erase(s.row, 0, at+1)
	case 2:
		s.erase(s.row, 0, s.columns)
	}
}

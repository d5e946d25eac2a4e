// Package terminal shows what a terminal would: given the output of a recorded
// session, the characters on its screen.
//
// It knows what programs use to move about and to erase (ECMA-48, and of xterm's
// control sequences those that change which characters stand where). Colours and
// other attributes are read and left out. Whatever the output is, the screen
// keeps its size, and nothing but printable characters are on it.
package terminal

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// The largest screen. What a recording says beyond that is cut.
const (
	MaxColumns = 500
	MaxRows    = 200
)

// Screen is a terminal's screen. The zero Screen has no size; New makes one.
type Screen struct {
	columns, rows int
	main, other   [][]rune // other: the one that is not shown, main or alternate
	alternate     bool

	row, column int  // of the cursor; column may be columns: the next character wraps
	top, bottom int  // the scrolling region, inclusive
	noWrap      bool // ?7l

	saved, savedMain position // DECSC; and the main screen's cursor while the alternate one is shown

	parser
}

type position struct{ row, column int }

// blank stands in a cell without a character; after a wide character, wide does.
const (
	blank = ' '
	wide  = rune(-1)
)

// New returns an empty screen. A size that is none is 80 by 24.
func New(columns, rows uint32) *Screen {
	s := &Screen{}
	s.columns, s.rows = size(columns, rows)
	s.reset()
	return s
}

func size(columns, rows uint32) (int, int) {
	if columns == 0 || rows == 0 {
		return 80, 24
	}
	return int(min(columns, MaxColumns)), int(min(rows, MaxRows))
}

func (s *Screen) reset() {
	*s = Screen{columns: s.columns, rows: s.rows, bottom: s.rows - 1}
	s.main, s.other = s.empty(), s.empty()
}

func (s *Screen) empty() [][]rune {
	lines := make([][]rune, s.rows)
	for i := range lines {
		lines[i] = s.line()
	}
	return lines
}

func (s *Screen) line() []rune {
	l := make([]rune, s.columns)
	clearLine(l)
	return l
}

// Resize changes the screen's size. What no longer fits is cut; of lines, those
// at the top go where the cursor would be lost otherwise.
func (s *Screen) Resize(columns, rows uint32) {
	s.columns, s.rows = size(columns, rows)
	gone := max(0, s.row-s.rows+1)
	for _, screen := range []*[][]rune{&s.main, &s.other} {
		old := (*screen)[min(gone, len(*screen)):]
		lines := s.empty()
		for i := range min(len(old), s.rows) {
			copy(lines[i], old[i])
			if last := &lines[i][s.columns-1]; len(old[i]) > s.columns && old[i][s.columns] == wide {
				*last = blank
			}
		}
		*screen = lines
	}
	s.top, s.bottom = 0, s.rows-1
	s.move(s.row-gone, s.column)
}

// Lines returns the screen's lines without blanks at their ends: as many as it
// has rows.
func (s *Screen) Lines() []string {
	lines := make([]string, len(s.main))
	var b strings.Builder
	for i, cells := range s.main {
		b.Reset()
		for _, r := range cells {
			if r != wide {
				b.WriteRune(r)
			}
		}
		lines[i] = strings.TrimRight(b.String(), " ")
	}
	return lines
}

// Cursor returns where the next character goes, both from 0.
func (s *Screen) Cursor() (row, column int) { return s.row, min(s.column, s.columns-1) }

// put writes one printable character at the cursor.
func (s *Screen) put(r rune) {
	if r == '\u00a0' { // a blank that does not break, and does not count as printable
		r = blank
	}
	w := width(r)
	if w == 0 || w > s.columns {
		return
	}
	if s.column+w > s.columns {
		if s.noWrap {
			s.column = s.columns - w
		} else {
			s.column = 0
			s.down()
		}
	}
	cells := s.main[s.row]
	s.halve(cells, s.column)
	s.halve(cells, s.column+w)
	cells[s.column] = r
	if w == 2 {
		cells[s.column+1] = wide
	}
	s.column += w
}

// halve leaves no half of a wide character where one is about to be overwritten
// at column.
func (s *Screen) halve(cells []rune, column int) {
	if column < len(cells) && cells[column] == wide {
		cells[column], cells[column-1] = blank, blank
	}
}

// width is how many cells a character takes; 0: it is not shown.
func width(r rune) int {
	switch {
	case r >= ' ' && r < 0x7f:
		return 1
	case unicode.Is(unicode.Bidi_Control, r), !unicode.IsPrint(r), unicode.Is(unicode.Mn, r), unicode.Is(unicode.Me, r):
		return 0
	// East Asian Wide and Fullwidth of UAX #11, in rough blocks, and emoji.
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf && r != 0x303f, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1f64f,
		r >= 0x1f900 && r <= 0x1f9ff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// down moves the cursor a line down, and scrolls at the region's end.
func (s *Screen) down() {
	switch {
	case s.row == s.bottom:
		s.scroll(s.top, s.bottom, 1)
	case s.row < s.rows-1:
		s.row++
	}
}

// up is down's counterpart.
func (s *Screen) up() {
	switch {
	case s.row == s.top:
		s.scroll(s.top, s.bottom, -1)
	case s.row > 0:
		s.row--
	}
}

// scroll moves the lines from top to bottom up by n, or down where n is negative.
func (s *Screen) scroll(top, bottom, n int) {
	height := bottom - top + 1
	for range min(max(n, 0), height) {
		gone := s.main[top]
		copy(s.main[top:bottom], s.main[top+1:bottom+1])
		s.main[bottom] = gone
		clearLine(gone)
	}
	for range min(max(-n, 0), height) {
		gone := s.main[bottom]
		copy(s.main[top+1:bottom+1], s.main[top:bottom])
		s.main[top] = gone
		clearLine(gone)
	}
}

func clearLine(cells []rune) {
	for i := range cells {
		cells[i] = blank
	}
}

func (s *Screen) move(row, column int) {
	s.row, s.column = min(max(row, 0), s.rows-1), min(max(column, 0), s.columns-1)
}

// erase blanks the cells of a row from one column up to another.
func (s *Screen) erase(row, from, to int) {
	cells := s.main[row]
	from, to = min(max(from, 0), s.columns), min(max(to, 0), s.columns)
	if from >= to {
		return
	}
	s.halve(cells, from)
	s.halve(cells, to)
	for i := from; i < to; i++ {
		cells[i] = blank
	}
}

// shift moves what stands right of the cursor by n cells: to the right, or to the
// left where n is negative.
func (s *Screen) shift(n int) {
	cells := s.main[s.row]
	at := min(s.column, s.columns-1)
	s.halve(cells, at)
	switch {
	case n > 0:
		n = min(n, s.columns-at)
		copy(cells[at+n:], cells[at:])
		s.erase(s.row, at, at+n)
		if last := len(cells) - 1; width(cells[last]) == 2 && cells[last] != wide {
			cells[last] = blank // its other half has gone over the edge
		}
	case n < 0:
		n = min(-n, s.columns-at)
		s.halve(cells, at+n)
		copy(cells[at:], cells[at+n:])
		for i := s.columns - n; i < s.columns; i++ {
			cells[i] = blank
		}
	}
}

// show switches between the main and the alternate screen.
func (s *Screen) show(alternate bool) {
	if s.alternate == alternate {
		return
	}
	s.alternate = alternate
	s.main, s.other = s.other, s.main
	if alternate {
		s.savedMain = position{s.row, s.column}
		s.main = s.empty()
	} else {
		s.move(s.savedMain.row, s.savedMain.column)
	}
}

// Write shows output. It always takes all of it.
func (s *Screen) Write(p []byte) (int, error) {
	for _, b := range p {
		s.feed(b)
	}
	return len(p), nil
}

// character takes a byte of text in UTF-8.
func (s *Screen) character(b byte) {
	if b < utf8.RuneSelf && len(s.partial) == 0 {
		s.put(rune(b))
		return
	}
	s.partial = append(s.partial, b)
	for len(s.partial) > 0 && (utf8.FullRune(s.partial) || len(s.partial) >= utf8.UTFMax) {
		r, n := utf8.DecodeRune(s.partial)
		s.partial = append(s.partial[:0], s.partial[n:]...)
		s.put(r)
	}
}

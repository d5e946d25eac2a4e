package conformance

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// field is one header field as it stands on the wire, its name in lower case.
type field struct{ name, value string }

// message is a request or a response, whole.
type message struct {
	method, target string // of a request
	status         int    // of a response
	version        string // over HTTP/1: "HTTP/1.1"
	info           []message
	fields         []field // without the framing that a protocol adds by itself
	body           string
	trailer        []field
	open           bool // has a body, if an empty one
}

// get returns the values of a field, joined.
func (m message) get(name string) string {
	var values []string
	for _, f := range m.fields {
		if f.name == name {
			values = append(values, f.value)
		}
	}
	return strings.Join(values, "|")
}

// sorted is fields by name, those of one name in their order.
func sorted(fields []field) []field {
	out := slices.Clone(fields)
	slices.SortStableFunc(out, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return out
}

// errReset is how a stream ends that was aborted.
var errReset = errors.New("aborted")

// wire is one end of a connection on which messages are written and read as
// they are, one exchange after the other. The exchange is over when both
// messages have been read or written to their end.
type wire interface {
	writeHead(m message, end bool) error
	writeData(p string) error // one chunk, one DATA frame
	writeEnd(trailer []field) error
	readHead() (m message, end bool, err error)
	readData() (string, error) // io.EOF at the end, errReset for a stream cut off
	trailer() []field          // after io.EOF
	abort() error              // cuts the exchange off
	goAway(last bool) error    // no more exchanges; last: this one was processed
	conn() *tls.Conn
}

// write sends a whole message.
func write(w wire, m message) error {
	for _, early := range m.info {
		if err := w.writeHead(early, true); err != nil {
			return err
		}
	}
	end := m.body == "" && m.trailer == nil && !m.open
	if err := w.writeHead(m, end); err != nil || end {
		return err
	}
	if m.body != "" {
		if err := w.writeData(m.body); err != nil {
			return err
		}
	}
	return w.writeEnd(m.trailer)
}

// read reads a whole message.
func read(w wire) (message, error) {
	var info []message
	for {
		m, end, err := w.readHead()
		if err != nil {
			return m, err
		}
		if m.status >= 100 && m.status < 200 && m.status != 101 {
			info = append(info, m)
			continue
		}
		m.info = info
		if end {
			return m, nil
		}
		m.body, err = readBody(w)
		m.trailer = w.trailer()
		return m, err
	}
}

func readBody(w wire) (string, error) {
	var body strings.Builder
	for {
		p, err := w.readData()
		body.WriteString(p)
		if err == io.EOF {
			return body.String(), nil
		}
		if err != nil {
			return body.String(), err
		}
	}
}

// wire1 speaks HTTP/1.1.
type wire1 struct {
	c       *tls.Conn
	br      *bufio.Reader
	server  bool
	host    string
	method  string // of the request that is answered next
	chunked bool   // what is written
	left    int64  // of what is read; -1: chunked, -2: until the connection ends
	tail    []field
}

func (w *wire1) conn() *tls.Conn { return w.c }

func (w *wire1) writeHead(m message, end bool) error {
	var b bytes.Buffer
	if w.server {
		fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", m.status, http.StatusText(m.status))
	} else {
		version := m.version
		if version == "" {
			version = "HTTP/1.1"
		}
		fmt.Fprintf(&b, "%s %s %s\r\nHost: %s\r\n", m.method, m.target, version, w.host)
		w.method = m.method
	}
	length := false
	for _, f := range m.fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
		length = length || f.name == "content-length"
	}
	bodiless := w.server && (m.status < 200 || m.status == 204 || m.status == 304 || w.method == http.MethodHead)
	w.chunked = !length && !bodiless && (w.server || !end)
	if w.chunked {
		b.WriteString("Transfer-Encoding: chunked\r\n")
		if len(m.trailer) > 0 {
			b.WriteString("Trailer: " + m.trailer[0].name + "\r\n")
		}
	}
	b.WriteString("\r\n")
	if w.chunked && end {
		b.WriteString("0\r\n\r\n")
	}
	_, err := w.c.Write(b.Bytes())
	return err
}

func (w *wire1) writeData(p string) error {
	if w.chunked {
		p = fmt.Sprintf("%x\r\n%s\r\n", len(p), p)
	}
	_, err := io.WriteString(w.c, p)
	return err
}

func (w *wire1) writeEnd(trailer []field) error {
	if !w.chunked {
		return nil
	}
	var b strings.Builder
	b.WriteString("0\r\n")
	for _, f := range trailer {
		fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
	}
	b.WriteString("\r\n")
	_, err := io.WriteString(w.c, b.String())
	return err
}

func (w *wire1) line() (string, error) {
	line, err := w.br.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

func (w *wire1) readFields() (fields []field, err error) {
	for {
		line, err := w.line()
		if err != nil {
			return nil, err
		}
		if line == "" {
			return fields, nil
		}
		name, value, _ := strings.Cut(line, ":")
		fields = append(fields, field{strings.ToLower(name), strings.TrimSpace(value)})
	}
}

func (w *wire1) readHead() (m message, end bool, err error) {
	start, err := w.line()
	if err != nil {
		return m, false, err
	}
	a, rest, _ := strings.Cut(start, " ")
	b, c, _ := strings.Cut(rest, " ")
	if w.server {
		m.method, m.target, m.version = a, b, c
		w.method = a
	} else {
		m.version = a
		if m.status, err = strconv.Atoi(b); err != nil {
			return m, false, fmt.Errorf("status line %q", start)
		}
	}
	fields, err := w.readFields()
	if err != nil {
		return m, false, err
	}
	w.left = 0
	if !w.server {
		w.left = -2
	}
	for _, f := range fields {
		switch f.name {
		case "transfer-encoding":
			w.left = -1
			continue
		case "content-length":
			if w.left, err = strconv.ParseInt(f.value, 10, 64); err != nil {
				return m, false, err
			}
		case "trailer":
			continue
		case "host":
			if w.server {
				continue
			}
		}
		m.fields = append(m.fields, f)
	}
	if !w.server && (m.status < 200 || m.status == 204 || m.status == 304 || w.method == http.MethodHead) {
		w.left = 0
	}
	w.tail = nil
	return m, w.left == 0, nil
}

func (w *wire1) readData() (string, error) {
	switch w.left {
	case 0:
		return "", io.EOF
	case -2:
		p := make([]byte, 32<<10)
		n, err := w.br.Read(p)
		return string(p[:n]), err
	case -1:
		line, err := w.line()
		if err != nil {
			return "", cut(err)
		}
		n, err := strconv.ParseInt(line, 16, 32)
		if err != nil {
			return "", err
		}
		if n == 0 {
			if w.tail, err = w.readFields(); err != nil {
				return "", cut(err)
			}
			w.left = 0
			return "", io.EOF
		}
		p := make([]byte, n+2)
		if _, err := io.ReadFull(w.br, p); err != nil {
			return "", cut(err)
		}
		return string(p[:n]), nil
	}
	p := make([]byte, min(w.left, 32<<10))
	n, err := w.br.Read(p)
	w.left -= int64(n)
	return string(p[:n]), cut(err)
}

// cut is err, or errReset where the connection ended in the middle.
func cut(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errReset, errors.Join(err))
}

func (w *wire1) trailer() []field { return w.tail }

// abort resets the TCP connection.
func (w *wire1) abort() error {
	if tcp, ok := w.c.NetConn().(*net.TCPConn); ok {
		return errors.Join(tcp.SetLinger(0), tcp.Close())
	}
	return w.c.Close()
}

func (w *wire1) goAway(bool) error { return errors.New("HTTP/1.1 has no GOAWAY") }

// wire2 speaks HTTP/2, one stream at a time.
type wire2 struct {
	c         *tls.Conn
	framer    *http2.Framer
	buf       bytes.Buffer
	encoder   *hpack.Encoder
	server    bool
	authority string
	stream    uint32
	ended     bool // the other end's half of the stream
	tail      []field
	settings  map[http2.SettingID]uint32 // the other end's
}

// maxFrame is SETTINGS_MAX_FRAME_SIZE where nothing is said.
const maxFrame = 16 << 10

// window is what either end may send unasked: more than any message here.
const window = 1 << 28

func newWire2(c *tls.Conn, server bool, authority string) (*wire2, error) {
	w := &wire2{c: c, server: server, authority: authority, framer: http2.NewFramer(c, bufio.NewReader(c)), settings: make(map[http2.SettingID]uint32)}
	w.encoder = hpack.NewEncoder(&w.buf)
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.framer.MaxHeaderListSize = 1 << 20
	if server {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil {
			return nil, err
		}
		w.framer = http2.NewFramer(c, c)
		w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		w.framer.MaxHeaderListSize = 1 << 20
	} else if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, err
	}
	settings := []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: window}}
	if !server {
		settings = append(settings, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	}
	return w, errors.Join(w.framer.WriteSettings(settings...), w.framer.WriteWindowUpdate(0, window))
}

func (w *wire2) conn() *tls.Conn { return w.c }

func (w *wire2) writeFields(fields []field, end bool) error {
	w.buf.Reset()
	for _, f := range fields {
		if err := w.encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}); err != nil {
			return err
		}
	}
	block := w.buf.Bytes()
	part := block[:min(maxFrame, len(block))]
	block = block[len(part):]
	err := w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: w.stream, BlockFragment: part, EndStream: end, EndHeaders: len(block) == 0})
	for err == nil && len(block) > 0 {
		part = block[:min(maxFrame, len(block))]
		block = block[len(part):]
		err = w.framer.WriteContinuation(w.stream, len(block) == 0, part)
	}
	return err
}

func (w *wire2) writeHead(m message, end bool) error {
	var fields []field
	if w.server {
		fields = append(fields, field{":status", strconv.Itoa(m.status)})
		end = end && m.status >= 200
	} else {
		if w.stream == 0 {
			w.stream = 1
		} else {
			w.stream += 2
		}
		w.ended = false
		fields = append(fields, field{":method", m.method}, field{":scheme", "https"}, field{":path", m.target}, field{":authority", w.authority})
		if len(m.trailer) > 0 {
			fields = append(fields, field{"trailer", m.trailer[0].name})
		}
	}
	return w.writeFields(append(fields, m.fields...), end)
}

func (w *wire2) writeData(p string) error {
	for p != "" {
		part := p[:min(maxFrame, len(p))]
		p = p[len(part):]
		if err := w.framer.WriteData(w.stream, false, []byte(part)); err != nil {
			return err
		}
	}
	return nil
}

func (w *wire2) writeEnd(trailer []field) error {
	if len(trailer) > 0 {
		return w.writeFields(trailer, true)
	}
	return w.framer.WriteData(w.stream, true, nil)
}

// next returns the next frame that is not about the connection alone.
func (w *wire2) next() (http2.Frame, error) {
	for {
		frame, err := w.framer.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = f.ForeachSetting(func(s http2.Setting) error { w.settings[s.ID] = s.Val; return nil })
				if err := w.framer.WriteSettingsAck(); err != nil {
					return nil, err
				}
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				if err := w.framer.WritePing(true, f.Data); err != nil {
					return nil, err
				}
			}
		case *http2.WindowUpdateFrame:
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return nil, fmt.Errorf("GOAWAY %v", f.ErrCode)
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == w.stream {
				return nil, fmt.Errorf("%w: RST_STREAM %v", errReset, f.ErrCode)
			}
		case *http2.DataFrame, *http2.MetaHeadersFrame:
			if w.server || f.Header().StreamID == w.stream {
				return frame, nil
			}
		}
	}
}

func (w *wire2) readHead() (m message, end bool, err error) {
	frame, err := w.next()
	if err != nil {
		return m, false, err
	}
	f, ok := frame.(*http2.MetaHeadersFrame)
	if !ok {
		return m, false, fmt.Errorf("%v where a head was due", frame)
	}
	w.stream, w.tail = f.StreamID, nil
	for _, h := range f.Fields {
		switch h.Name {
		case ":method":
			m.method = h.Value
		case ":path":
			m.target = h.Value
		case ":status":
			if m.status, err = strconv.Atoi(h.Value); err != nil {
				return m, false, err
			}
		case ":scheme", ":authority", "trailer":
		case "cookie": // crumbs are one field: RFC 9113 section 8.2.3
			i := slices.IndexFunc(m.fields, func(f field) bool { return f.name == "cookie" })
			if i >= 0 {
				m.fields[i].value += "; " + h.Value
				continue
			}
			m.fields = append(m.fields, field{h.Name, h.Value})
		default:
			m.fields = append(m.fields, field{h.Name, h.Value})
		}
	}
	w.ended = f.StreamEnded()
	return m, w.ended, nil
}

func (w *wire2) readData() (string, error) {
	if w.ended {
		return "", io.EOF
	}
	frame, err := w.next()
	if err != nil {
		if !errors.Is(err, errReset) {
			err = cut(err)
		}
		return "", err
	}
	switch f := frame.(type) {
	case *http2.DataFrame:
		w.ended = f.StreamEnded()
		if len(f.Data()) == 0 {
			return w.readData()
		}
		return string(f.Data()), nil
	case *http2.MetaHeadersFrame:
		for _, h := range f.Fields {
			w.tail = append(w.tail, field{h.Name, h.Value})
		}
		w.ended = true
		return "", io.EOF
	}
	return "", fmt.Errorf("%v in a body", frame)
}

func (w *wire2) trailer() []field { return w.tail }

func (w *wire2) abort() error { return w.framer.WriteRSTStream(w.stream, http2.ErrCodeInternal) }

func (w *wire2) goAway(last bool) error {
	id := w.stream
	if !last {
		id -= 2
	}
	return w.framer.WriteGoAway(id, http2.ErrCodeNo, nil)
}

// newWire speaks what ALPN settled on.
func newWire(c *tls.Conn, server bool, authority string) (wire, error) {
	if err := c.SetDeadline(time.Now().Add(2 * wait)); err != nil {
		return nil, err
	}
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	if c.ConnectionState().NegotiatedProtocol == "h2" {
		return newWire2(c, server, authority)
	}
	return &wire1{c: c, br: bufio.NewReader(c), server: server, host: authority}, nil
}

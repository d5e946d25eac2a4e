package https

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// answer is an exchange's side towards an HTTP/1.1 agent: an http.ResponseWriter
// that sends what it is given and nothing else. The head goes out with the first
// bytes of the body, and a body without a length is chunked, or for HTTP/1.0 ends
// with the connection.
type answer struct {
	agent  *agentConn
	r      *http.Request
	header http.Header

	mu      sync.Mutex    // a 100 or 103 may come from another goroutine than the rest
	out     *bufio.Writer // guarded by mu; nil once finished
	status  int           // guarded by mu; 0 until WriteHeader
	begun   bool          // the head is in out; guarded by mu
	chunked bool
	length  int64 // declared, or -1
	written int64 // of the body
	close   bool  // the connection ends with this answer
	awaited bool  // the agent sends its body when asked; guarded by mu
	failed  error // of a write; guarded by mu
}

// writeBuffer is a TLS record: the head of a message and a small body go out in
// one.
const writeBuffer = 16 << 10

var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(io.Discard, writeBuffer) }}

func writerTo(w io.Writer) *bufio.Writer {
	bw := writers.Get().(*bufio.Writer)
	bw.Reset(w)
	return bw
}

func putWriter(bw *bufio.Writer) {
	bw.Reset(io.Discard)
	writers.Put(bw)
}

func newAnswer(a *agentConn, r *http.Request) *answer {
	clear(a.header)
	return &answer{
		agent: a, r: r, header: a.header, out: writerTo(a.conn), length: -1,
		awaited: r.ContentLength != 0 && r.ProtoAtLeast(1, 1) && hasToken(r.Header["Expect"], "100-continue"),
	}
}

func (w *answer) Header() http.Header { return w.header }

// WriteHeader sends a 1xx at once; of any other status the first counts.
func (w *answer) WriteHeader(code int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status != 0 || w.out == nil {
		return
	}
	if code >= 200 {
		w.status = code
		return
	}
	if w.r.ProtoAtLeast(1, 1) {
		w.statusLine(code)
		writeFields(w.out, w.header)
		_, _ = w.out.WriteString("\r\n")
		w.failed = w.out.Flush()
	}
}

// askBody sends the 100 that the agent waits for with its body, once.
func (w *answer) askBody() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.awaited || w.out == nil {
		return
	}
	w.awaited = false
	if w.begun {
		return
	}
	w.statusLine(http.StatusContinue)
	_, _ = w.out.WriteString("\r\n")
	w.failed = w.out.Flush()
}

// bodyWanted is false where the agent was never asked for its body.
func (w *answer) bodyWanted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.awaited
}

func (w *answer) statusLine(code int) {
	version := "HTTP/1.1 "
	if !w.r.ProtoAtLeast(1, 1) {
		version = "HTTP/1.0 "
	}
	_, _ = w.out.WriteString(version)
	var digits [3]byte
	_, _ = w.out.Write(strconv.AppendInt(digits[:0], int64(code), 10))
	_ = w.out.WriteByte(' ')
	_, _ = w.out.WriteString(http.StatusText(code))
	_, _ = w.out.WriteString("\r\n")
}

// hasBody reports whether a body follows the head.
func (w *answer) hasBody() bool {
	return w.r.Method != http.MethodHead && w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// begin puts the head into the buffer; mu is held. last says that no body will
// come that is not there yet.
func (w *answer) begin(last bool) {
	if w.begun {
		return
	}
	w.begun = true
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if said := w.header["Content-Length"]; len(said) > 0 {
		if n, err := strconv.ParseInt(said[0], 10, 64); err == nil && n >= 0 {
			w.length = n
		}
	}
	old := !w.r.ProtoAtLeast(1, 1)
	keep := !w.r.Close
	switch {
	case w.status == http.StatusNoContent: // RFC 9110 section 8.6
		delete(w.header, "Content-Length")
	case !w.hasBody() || w.length >= 0:
	case last && len(w.header["Trailer"]) == 0 && !w.announced():
		w.length = 0
		w.header["Content-Length"] = []string{"0"}
	case old:
		keep = false
	default:
		w.chunked = true
	}
	if hasToken(w.header["Connection"], "close") || w.awaited {
		keep = false
	}
	w.close = !keep

	w.statusLine(w.status)
	switch {
	case !keep && !old:
		w.header["Connection"] = []string{"close"}
	case keep && old:
		w.header["Connection"] = []string{"keep-alive"}
	default:
		delete(w.header, "Connection")
	}
	if !w.chunked {
		delete(w.header, "Trailer") // RFC 9110 section 6.5.1: there will be none
	}
	writeFields(w.out, w.header)
	if w.chunked {
		_, _ = w.out.WriteString("Transfer-Encoding: chunked\r\n")
	}
	_, _ = w.out.WriteString("\r\n")
}

// announced reports whether trailer fields that nobody announced are to follow.
func (w *answer) announced() bool {
	for name := range w.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

func (w *answer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out == nil {
		return 0, http.ErrHijacked
	}
	w.begin(false)
	switch {
	case w.failed != nil:
		return 0, w.failed
	case !w.hasBody():
		return 0, http.ErrBodyNotAllowed
	case len(p) == 0:
		return 0, nil
	case w.length >= 0 && w.written+int64(len(p)) > w.length:
		return 0, http.ErrContentLength
	}
	n, err := 0, error(nil)
	if w.chunked {
		n, err = writeChunk(w.out, p)
	} else {
		n, err = w.out.Write(p)
	}
	w.written += int64(n)
	w.failed = err
	return n, err
}

// FlushError sends what there is, the head at least.
func (w *answer) FlushError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out == nil {
		return http.ErrHijacked
	}
	w.begin(false)
	if w.failed == nil {
		w.failed = w.out.Flush()
	}
	return w.failed
}

// finish ends the answer and reports whether another may follow on the
// connection.
func (w *answer) finish() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out == nil {
		return false
	}
	w.begin(true)
	if w.chunked {
		_, _ = w.out.WriteString("0\r\n")
		w.trailer()
		_, _ = w.out.WriteString("\r\n")
	}
	if w.failed == nil {
		w.failed = w.out.Flush()
	}
	if w.hasBody() && w.length >= 0 && w.written != w.length {
		w.agent.cut = true
	}
	w.release()
	return w.failed == nil && !w.close
}

// trailer writes the announced trailer fields and those under
// http.TrailerPrefix; mu is held.
func (w *answer) trailer() {
	fields := make(http.Header)
	for _, name := range w.header["Trailer"] {
		if values, ok := w.header[name]; ok {
			fields[name] = values
		}
	}
	for name, values := range w.header {
		if late, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			fields[late] = values
		}
	}
	writeFields(w.out, fields)
}

// drop ends an answer that is not to be seen whole.
func (w *answer) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out != nil {
		w.release()
	}
}

func (w *answer) release() {
	putWriter(w.out)
	w.out = nil
}

// Hijack gives the connection away: see http.Hijacker.
func (w *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.agent.watch.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out == nil || w.begun {
		return nil, nil, http.ErrHijacked
	}
	w.agent.switched = true
	w.release()
	return w.agent.conn, bufio.NewReadWriter(w.agent.br, bufio.NewWriter(w.agent.conn)), nil
}

package https_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// records notes how many reads, which crypto/tls ends with a record, it took to
// get something.
type records struct {
	*tls.Conn
	buf bytes.Buffer
	n   int
}

func (r *records) Read(p []byte) (int, error) {
	if r.buf.Len() == 0 {
		b := make([]byte, 32<<10)
		n, err := r.Conn.Read(b)
		if err != nil {
			return 0, err
		}
		r.n++
		r.buf.Write(b[:n])
	}
	return r.buf.Read(p)
}

// The last piece of an answer whose length is known waits for the end that is
// sure to follow. How fast that is, is the machine's affair: one of many will do.
func TestHTTP2AnswerOfKnownLengthIsOneRecord(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 1<<10)
	l := newLab(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
	conn := &records{Conn: l.dial(l.Approve("a", "ci"), host, "h2")}
	_, err := io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	fr := http2.NewFramer(conn, conn)
	must(t, fr.WriteSettings())
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	best := 100
	for i := range uint32(50) { // less than the window
		block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {":path", "/"}} {
			must(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
		}
		before := conn.n
		must(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1 + 2*i, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
		for ended := false; !ended; {
			f, err := fr.ReadFrame()
			must(t, err)
			ended = f.Header().StreamID == 1+2*i && f.Header().Flags.Has(http2.FlagDataEndStream) && f.Header().Type == http2.FrameData
		}
		best = min(best, conn.n-before)
	}
	if best > 1 {
		t.Errorf("%d records", best)
	}
}

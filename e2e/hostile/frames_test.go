package hostile

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// framed is an HTTP/2 connection of an agent that sends whatever frames it
// likes. One goroutine sends; another reads what comes back until the end.
type framed struct {
	*http2.Framer // for sending; refuses nothing
	conn          *tls.Conn
	host          string
	block         bytes.Buffer
	encoder       *hpack.Encoder
	next          uint32 // stream

	flush func() error // of what the Framer has written

	got  atomic.Int64  // bytes of DATA
	done atomic.Uint32 // streams that have ended
	over chan struct{}

	mu      sync.Mutex
	answers map[uint32]answer
	away    http2.ErrCode // of the GOAWAY
	gone    bool          // there was one
	seen    int           // frames
}

// answer is what became of a stream.
type answer struct {
	status string
	reset  bool
	code   http2.ErrCode // of the reset
	ended  bool
}

// frames begins HTTP/2 to host on conn, as settings say, and reads from it where
// reads is set. It owns conn.
func frames(ctx context.Context, conn net.Conn, host string, reads bool, settings ...http2.Setting) (*framed, error) {
	secure, err := handshake(ctx, conn, host, "h2")
	if err != nil {
		return nil, err
	}
	_ = secure.SetDeadline(time.Now().Add(30 * time.Second))
	c := &framed{Framer: http2.NewFramer(secure, nil), flush: func() error { return nil }, conn: secure, host: host, next: 1, over: make(chan struct{}), answers: make(map[uint32]answer)}
	c.AllowIllegalWrites = true
	c.encoder = hpack.NewEncoder(&c.block)
	if _, err = io.WriteString(secure, http2.ClientPreface); err == nil {
		err = c.WriteSettings(settings...)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	if reads {
		go c.read()
	}
	return c, nil
}

// close ends the connection and waits for the reader.
func (c *framed) close(reads bool) {
	_ = c.conn.NetConn().Close()
	if reads {
		<-c.over
	}
}

func (c *framed) read() {
	defer close(c.over)
	in := http2.NewFramer(io.Discard, c.conn)
	in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := in.ReadFrame()
		if err != nil {
			return
		}
		c.note(f)
	}
}

func (c *framed) note(f http2.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen++
	id := f.Header().StreamID
	a := c.answers[id]
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		if status := f.PseudoValue("status"); status != "" {
			a.status = status
		}
		a.ended = f.StreamEnded()
	case *http2.DataFrame:
		c.got.Add(int64(len(f.Data())))
		a.ended = f.StreamEnded()
	case *http2.RSTStreamFrame:
		a.reset, a.code = true, f.ErrCode
	case *http2.GoAwayFrame:
		if !c.gone || f.ErrCode != http2.ErrCodeNo {
			c.gone, c.away = true, f.ErrCode
		}
		return
	default:
		return
	}
	if a.ended || a.reset {
		c.done.Add(1)
	}
	c.answers[id] = a
}

// result returns what is known of all streams, and the GOAWAY's code.
func (c *framed) result() (answers map[uint32]answer, away http2.ErrCode, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.answers), c.away, c.gone
}

// answered waits until a stream has ended one way or another.
func (c *framed) answered(ctx context.Context, id uint32) (a answer, err error) {
	err = lab.Eventually(ctx, 15*time.Second, func() error {
		answers, away, gone := c.result()
		a = answers[id]
		if a.ended || a.reset {
			return nil
		}
		select {
		case <-c.over:
			if gone {
				a.reset, a.code = true, away // as good as
			}
			a.ended = true
			return nil
		default:
		}
		return fmt.Errorf("stream %d: no answer", id)
	})
	return a, err
}

// field is one of a request's, on the wire as it stands here.
type field = hpack.HeaderField

func f(name, value string) field { return field{Name: name, Value: value} }

// request is the head of a request for path, with fields after the four usual
// ones.
func (c *framed) request(method, path string, fields ...field) []field {
	return append([]field{f(":method", method), f(":scheme", "https"), f(":authority", c.host), f(":path", path)}, fields...)
}

// open sends a head on a new stream.
func (c *framed) open(end bool, fields []field) (id uint32, err error) {
	c.block.Reset()
	for _, field := range fields {
		if err := c.encoder.WriteField(field); err != nil {
			return 0, err
		}
	}
	id = c.next
	c.next += 2
	return id, c.head(id, end, c.block.Bytes())
}

// head sends a header block in as many frames as it takes.
func (c *framed) head(id uint32, end bool, block []byte) error {
	const most = 16 << 10 // SETTINGS_MAX_FRAME_SIZE where nothing is said
	part := block[:min(most, len(block))]
	block = block[len(part):]
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: part, EndStream: end, EndHeaders: len(block) == 0})
	for err == nil && len(block) > 0 {
		part = block[:min(most, len(block))]
		block = block[len(part):]
		err = c.WriteContinuation(id, len(block) == 0, part)
	}
	return err
}

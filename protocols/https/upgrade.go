package https

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/clawpatrol/clawpatrol/proxy"
)

// upgradeOf returns the protocol an HTTP/1.1 request asks to switch to (RFC 9110
// section 7.8), or "". A switch to HTTP/2 is not relayed: requests would follow
// that nobody decides on. Neither is one on a request with a body.
func upgradeOf(r *http.Request) string {
	if r.ProtoMajor != 1 || !r.ProtoAtLeast(1, 1) || r.ContentLength != 0 || !hasToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	values := r.Header["Upgrade"]
	if len(values) != 1 {
		return ""
	}
	name, _, _ := strings.Cut(values[0], "/")
	if !isToken(name) || strings.EqualFold(name, "h2c") || strings.EqualFold(name, "HTTP") || strings.EqualFold(name, "TLS") {
		return ""
	}
	return values[0]
}

// switchProtocols relays a 101 and then bytes, both ways, until both sides have
// ended theirs.
func (x *exchange) switchProtocols(resp *http.Response) {
	bad := func(reason string) {
		x.answer(http.StatusBadGateway, &proxy.Refusal{Code: codeUpgrade, Reason: reason})
	}
	got := resp.Header.Get("Upgrade")
	upstream, ok := resp.Body.(io.ReadWriteCloser)
	switch {
	case x.upgrade == "":
		bad("the endpoint switched protocols unasked")
		return
	case !strings.EqualFold(got, x.upgrade), !ok:
		bad("the endpoint switched to another protocol than the one asked for")
		return
	}
	header := make(http.Header)
	x.responseHeader(header, resp.Header)
	header["Connection"] = []string{"Upgrade"}
	header["Upgrade"] = []string{x.upgrade}

	agent, buffered, err := x.control.Hijack()
	if err != nil {
		bad("the connection cannot be switched")
		return
	}
	defer agent.Close()
	x.status = "101 aborted"
	// An upgraded stream ends with its flow; the copies below wake when either
	// connection is closed.
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-x.conversation.ctx.Done():
		case <-x.conversation.closed:
		case <-ended:
		}
		_ = upstream.Close()
		_ = agent.Close()
	})
	defer watch.Wait()
	defer close(ended)

	head := buffered.Writer
	fmt.Fprintf(head, "HTTP/1.1 101 %s\r\n", http.StatusText(http.StatusSwitchingProtocols))
	if header.Write(head) != nil {
		return
	}
	if _, err := head.WriteString("\r\n"); err != nil || head.Flush() != nil {
		return
	}
	x.pump(agent, buffered.Reader, upstream)
	x.status = "101"
}

// pump copies both ways. The end of one direction is passed on as a half-close
// and leaves the other open; an error ends both.
func (x *exchange) pump(agent net.Conn, fromAgent *bufio.Reader, upstream io.ReadWriteCloser) {
	x.body = &requestBody{exchange: x, from: fromAgent}
	x.body.started.Store(true)
	var up sync.WaitGroup
	up.Go(func() {
		if err := copyHalf(upstream, x.body); err != nil {
			_ = upstream.Close()
			_ = agent.Close()
		}
	})
	counted := &countingWriter{to: agent, n: &x.out}
	if err := copyHalf(counted, upstream); err != nil {
		_ = upstream.Close()
		_ = agent.Close()
	}
	up.Wait()
	x.body.ended.Store(true) // nothing follows on this connection
}

// copyHalf copies from one side until it ends, then half-closes the other.
func copyHalf(to io.Writer, from io.Reader) error {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			if half, ok := to.(interface{ CloseWrite() error }); ok {
				return half.CloseWrite()
			}
			return io.ErrClosedPipe
		}
		if err != nil {
			return err
		}
	}
}

// countingWriter counts what reaches the agent.
type countingWriter struct {
	to net.Conn
	n  *int64 // owned by the writer until pump returns
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	*w.n += int64(n)
	return n, err
}

func (w *countingWriter) CloseWrite() error {
	if half, ok := w.to.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return io.ErrClosedPipe
}

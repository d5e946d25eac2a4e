package https

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// full is a connection whose send buffer can be full: writes wait for the end. So a peer leaves it that takes a request and reads on no
// more; what the gateway still has to write on an idle connection is the answer
// to a KeyUpdate (by the goroutine that parks it, or by quiet) and close_notify.
type full struct {
	*net.TCPConn
	on, gone chan struct{}
}

func (c *full) Write(p []byte) (int, error) {
	select {
	case <-c.on:
	default:
		return c.TCPConn.Write(p)
	}
	<-c.gone
	return 0, net.ErrClosed
}

func (c *full) Close() error {
	select {
	case <-c.gone:
	default:
		close(c.gone)
	}
	return c.TCPConn.Close()
}

func TestI16_UpstreamsThatReadNothingHoldUpNobody(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.StartTLS()
	defer s.Close()
	p := &h1Pool{}
	const n = 3
	for range n {
		raw, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c := &full{raw.(*net.TCPConn), make(chan struct{}), make(chan struct{})}
		sock := newSocket(c, func() {})
		// Whether the peer stops reading is what matters here, not who it is.
		conn := tls.Client(sock, &tls.Config{InsecureSkipVerify: true})
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		close(c.on)
		p.put(newUpstream(p, conn, sock))
	}
	closed := make(chan struct{})
	go func() { p.close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Error("closing idle connections waits for upstreams that do not read, one after the other")
	}
}

// The same, where the parked goroutine has a KeyUpdate to answer: it holds the
// write half of the TLS connection, and unpark and hangUp wait for it.
func TestI16_AnIdleUpstreamIsTakenBackWhateverTLSHasToSay(t *testing.T) {
	near, far := net.Pipe() // nobody reads
	defer near.Close()
	defer far.Close()
	sock := newSocket(near, func() {})
	u := &upstream{pool: &h1Pool{}, socket: sock, parked: make(chan struct{})}
	go func() { // what tls.Conn.Read does for a KeyUpdate that asks for an answer
		defer close(u.parked)
		_, _ = sock.Write([]byte("a record"))
	}()
	back := make(chan struct{})
	go func() { u.unpark(); close(back) }()
	select {
	case <-back:
	case <-time.After(20 * time.Second):
		t.Error("unpark does not come back; neither the agent's leaving nor revocation ends it")
	}
}

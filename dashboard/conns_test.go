package dashboard_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

// Idle connections from one source are bounded, and keep out neither others nor
// an operator at the same source, as all on loopback are (I16).
func TestI16_ConnectionsPerSourceAreBounded(t *testing.T) {
	g := newOperated(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.cfg.Listen = ln.Addr().String()
	g.restart()
	s := dashboard.Server(g.handler)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	get := func(from string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "GET /login HTTP/1.1\r\nHost: %s\r\n\r\n", ln.Addr()) // and stays open
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return nil, err
		}
		return c, answered(c)
	}
	var open []net.Conn
	for i := range 128 {
		c, err := get("127.0.0.1")
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		open = append(open, c)
	}
	if _, err := get("127.0.0.1"); err != nil {
		t.Errorf("one more is not served: %v", err)
	}
	// Which of the first has been idle for longest is the server's to know.
	open = without(t, open, firstClosed(t, open))
	if _, err := get("127.0.0.2"); err != nil {
		t.Errorf("another source is not served: %v", err)
	}
	fmt.Fprintf(open[0], "GET /login HTTP/1.1\r\nHost: %s\r\n\r\n", ln.Addr())
	if err := answered(open[0]); err != nil {
		t.Errorf("another was closed too: %v", err)
	}
	for range 200 { // requests that never end
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "POST /api/login HTTP/1.1\r\nHost: %s\r\nContent-Length: 9\r\n\r\n", ln.Addr())
	}
	if _, err := get("127.0.0.1"); err != nil {
		t.Errorf("beside requests that never end, one is not served: %v", err)
	}
	for _, c := range open {
		c.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := get("127.0.0.1"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("closed connections keep their places: %v", err)
		}
	}
}

// answered reads one answer.
func answered(c net.Conn) error {
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return errors.Join(err, r.Body.Close())
}

// firstClosed waits until the other end closes one of conns.
func firstClosed(t *testing.T, conns []net.Conn) net.Conn {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		for _, c := range conns {
			if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			_, err := c.Read(make([]byte, 1))
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return c
			}
		}
	}
	t.Fatal("no connection was closed")
	return nil
}

// without returns conns but for c, ready to be read again.
func without(t *testing.T, conns []net.Conn, c net.Conn) []net.Conn {
	t.Helper()
	rest := slices.DeleteFunc(slices.Clone(conns), func(o net.Conn) bool { return o == c })
	for _, o := range rest {
		if err := o.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return rest
}

package dashboard_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

// Idle connections from one source leave room for the operator elsewhere, and
// give their places back when they close (I16).
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
		_, err = io.ReadFull(c, make([]byte, len("HTTP/1.1 200 OK")))
		return c, err
	}
	var open []net.Conn
	for i := range 128 {
		c, err := get("127.0.0.1")
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		open = append(open, c)
	}
	if _, err := get("127.0.0.1"); err == nil {
		t.Error("one too many is served")
	}
	if _, err := get("127.0.0.2"); err != nil {
		t.Errorf("another source is not served: %v", err)
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

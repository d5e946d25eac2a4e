package hostile

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// dripper is the world's end of all flows: it drips bytes into each for as long
// as it lasts.
type dripper struct {
	mu    sync.Mutex
	open  map[string]int       // flows by tag; guarded by mu
	heard map[string]time.Time // the last datagram by tag and source; guarded by mu
}

func (d *dripper) add(tag string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[tag] += n
}

// streams is how many of a tag's flows last, but for UDP's.
func (d *dripper) streams(tag string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[tag]
}

// living is how many of a tag's flows last.
func (d *dripper) living(tag string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.open[tag]
	for key, at := range d.heard {
		if strings.HasPrefix(key, tag+" ") && time.Since(at) < udpAlive {
			n++
		}
	}
	return n
}

// drip writes until that fails or ended is closed.
func (d *dripper) drip(tag string, drop []byte, ended <-chan struct{}, write func([]byte) error) {
	d.add(tag, 1)
	defer d.add(tag, -1)
	tick := time.NewTicker(dripEvery)
	defer tick.Stop()
	for write(drop) == nil {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
	}
}

// ServeHTTP drips into an answer, or into the WebSocket that it becomes.
func (d *dripper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tag := strings.TrimPrefix(r.URL.Path, "/")
	if r.Header.Get("Upgrade") == "" {
		flush := http.NewResponseController(w)
		d.drip(tag, []byte("x"), r.Context().Done(), func(b []byte) error {
			_, err := w.Write(b)
			return errors.Join(err, flush.Flush())
		})
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	// RFC 6455 section 1.3: the key and the answer to it.
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	d.stream(tag, conn, []byte{0x82, 1, 'x'})
}

// stream drips into a connection until either direction ends.
func (d *dripper) stream(tag string, conn net.Conn, drop []byte) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, conn) // how it ends is no matter
	}()
	d.drip(tag, drop, ended, func(b []byte) error { _, err := conn.Write(b); return err })
}

// serveDrip serves d under dripHost. What the server would log are connections
// that the gateway dialled before it knew what the agent wants.
func serveDrip(t *testing.T, l *lab.Lab, d *dripper) error {
	cert, err := l.PKI.Certificate(dripHost)
	if err != nil {
		return err
	}
	at := netip.MustParseAddrPort(dripTLS)
	if err := l.World.Script(t.Context(), fmt.Sprintf("ip address add %s/32 dev lo", at.Addr())); err != nil {
		return err
	}
	ln, err := l.World.Listen(dripTLS)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: d, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = srv.ServeTLS(ln, "", "") }() // ends at Close
	t.Cleanup(func() { srv.Close() })
	l.Names.Set(dripHost, at.Addr())
	return nil
}

func (d *dripper) serveTCP(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			line := bufio.NewReader(io.LimitReader(conn, 64))
			tag, err := line.ReadString('\n')
			if err == nil {
				d.stream(strings.TrimSpace(tag), conn, []byte("x"))
			}
		}()
	}
}

func (d *dripper) serveUDP(pc net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		d.mu.Lock()
		d.heard[string(b[:n])+" "+from.String()] = time.Now()
		d.mu.Unlock()
		_, _ = pc.WriteTo([]byte("x"), from) // into nothing once it is cut
	}
}

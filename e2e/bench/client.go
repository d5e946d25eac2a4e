package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// warmUp is how long a load runs before it is measured: its first requests make
// the connections upstream.
const warmUp = 100 * time.Millisecond

// target is one way to apiHost: from a host of the lab, to an address.
type target struct {
	host  *lab.Host
	addr  string
	stage *stage
}

// dial connects and shakes hands, with nothing to resume.
func (t target) dial(ctx context.Context, alpn string) (*tls.Conn, error) {
	raw, err := t.host.Dial(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, &tls.Config{
		RootCAs:    t.stage.roots,
		ServerName: apiHost,
		NextProtos: []string{alpn},
		// What all the servers know: Debian's OpenSSL lacks X25519MLKEM768.
		CurvePreferences: []tls.CurveID{tls.X25519},
	})
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", t.addr, err)
	}
	if got := c.ConnectionState(); got.NegotiatedProtocol != alpn || got.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		_ = c.Close()
		return nil, fmt.Errorf("%s speaks %q with %s: not comparable", t.addr, got.NegotiatedProtocol, tls.CipherSuiteName(got.CipherSuite))
	}
	return c, nil
}

// exchange is the request that a load repeats.
type exchange struct {
	down int // bytes of the response's body
	up   int // bytes of the request's body; 0: a GET
}

func (e exchange) path() string {
	if e.up > 0 {
		return "/upload"
	}
	return "/" + strconv.Itoa(e.down)
}

// h1Client is an HTTP/1.1 client that is nothing but its bytes: the request is
// made once, and of the response it reads the status, the length and the body.
type h1Client struct {
	conn    net.Conn
	request []byte
	want    int // bytes of a response's body
	buf     []byte
}

func newH1Client(conn net.Conn, e exchange) *h1Client {
	method, length := "GET", ""
	if e.up > 0 {
		method, length = "POST", fmt.Sprintf("Content-Length: %d\r\n", e.up)
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAuthorization: Bearer %s\r\n%s\r\n",
		method, e.path(), apiHost, placeholder, length)
	return &h1Client{conn, append([]byte(head), make([]byte, e.up)...), e.down, make([]byte, 64<<10)}
}

// once exchanges a request for its response.
func (c *h1Client) once() error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	n, end := 0, -1
	for end < 0 {
		if n == len(c.buf) {
			return errors.New("the response's head is too long")
		}
		k, err := c.conn.Read(c.buf[n:])
		if err != nil {
			return err
		}
		n += k
		end = bytes.Index(c.buf[:n], []byte("\r\n\r\n"))
	}
	head := c.buf[:end+2]
	length := contentLength(head)
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) || length != c.want {
		return fmt.Errorf("want 200 and %d bytes, got %.100q and %d", c.want, head, length)
	}
	for n -= end + 4; n < length; {
		k, err := c.conn.Read(c.buf)
		if err != nil {
			return err
		}
		n += k
	}
	if n > length {
		return fmt.Errorf("%d bytes more than the response's length", n-length)
	}
	return nil
}

var lengthField = []byte("\r\ncontent-length:")

// contentLength returns the field's value; -1 where it is not found.
func contentLength(head []byte) int {
	for rest := head; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 || i+len(lengthField) > len(rest) {
			return -1
		}
		rest = rest[i+1:]
		if name := lengthField[2:]; len(rest) >= len(name) && bytes.EqualFold(rest[:len(name)], name) {
			value, _, _ := bytes.Cut(rest[len(name):], []byte("\r"))
			n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil {
				return -1
			}
			return n
		}
	}
}

// h1Load is clients that each send one request after the other.
type h1Load []*h1Client

// h1 opens a load over so many connections.
func (t target) h1(conns int, e exchange) func(context.Context) (load, error) {
	return func(ctx context.Context) (load, error) {
		l := make(h1Load, 0, conns)
		for range conns {
			c, err := t.dial(ctx, "http/1.1")
			if err != nil {
				l.close()
				return nil, err
			}
			l = append(l, newH1Client(c, e))
		}
		if _, err := l.run(ctx, warmUp); err != nil {
			l.close()
			return nil, err
		}
		return l, nil
	}
}

func (l h1Load) run(_ context.Context, length time.Duration) (figures, error) {
	return atOnce(len(l), length, func(i int) error { return l[i].once() })
}

func (l h1Load) close() {
	for _, c := range l {
		_ = c.conn.Close()
	}
}

// fresh is a load whose every request comes on a connection of its own.
func (t target) fresh(workers int, e exchange) func(context.Context) (load, error) {
	return loadFunc(func(ctx context.Context, length time.Duration) (figures, error) {
		return atOnce(workers, length, func(int) error {
			c, err := t.dial(ctx, "http/1.1")
			if err != nil {
				return err
			}
			defer c.Close()
			return newH1Client(c, e).once()
		})
	}).open
}

// atOnce runs f in n goroutines for a time.
func atOnce(n int, length time.Duration, f func(i int) error) (figures, error) {
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	took := make([][]float64, n)
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			for began := start; began.Sub(start) < length && failed.Load() == nil; {
				if err := f(i); err != nil {
					failed.Store(&err)
					return
				}
				now := time.Now()
				took[i] = append(took[i], now.Sub(began).Seconds())
				began = now
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start).Seconds()
	if err := failed.Load(); err != nil {
		return figures{}, *err
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return figures{rate: float64(len(all)) / elapsed, p50: all[len(all)/2]}, nil
}

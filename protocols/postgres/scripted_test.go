package postgres_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"

	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/registry"
)

// message is one of the protocol's.
func message(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))) + body
}

// startupMessage asks for a session.
func startupMessage(version uint32, pairs ...string) string {
	body := string(binary.BigEndian.AppendUint32(nil, version)) + strings.Join(pairs, "\x00") + "\x00\x00"
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))) + body
}

// readMessage reads one message, or what there is of it.
func readMessage(r io.Reader) string {
	head := make([]byte, 5)
	if n, err := io.ReadFull(r, head); err != nil {
		return string(head[:n])
	}
	body := make([]byte, min(binary.BigEndian.Uint32(head[1:])-4, 1<<20))
	n, _ := io.ReadFull(r, body)
	return string(head) + string(body[:n])
}

// readUntil reads messages up to one that is the last.
func readUntil(t testing.TB, r io.Reader, last func(kind byte) bool) string {
	t.Helper()
	var all strings.Builder
	for {
		m := readMessage(r)
		all.WriteString(m)
		if len(m) < 5 {
			t.Fatalf("it ended after %q", all.String())
		}
		if last(m[0]) {
			return all.String()
		}
	}
}

// listen serves connections to a port of loopback, one after the other.
func listen(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(wait))
			serve(conn)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = ln.Close(); serving.Wait() })
	return ln.Addr().String()
}

// scripted is a lab with scram_user's credential for an upstream that speaks TLS,
// takes the startup message, and goes on as serve does.
func scripted(t testing.TB, serve func(up net.Conn), more ...string) (*lab, registry.ID) {
	t.Helper()
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca")})
	must(t, err)
	leaf, err := authority.Leaf(host)
	must(t, err)
	c := &cluster{caFile: filepath.Join(t.TempDir(), "world.pem")}
	must(t, os.WriteFile(c.caFile, authority.CertPEM(), 0o600))
	c.address = listen(t, func(conn net.Conn) {
		var request [8]byte
		if _, err := io.ReadFull(conn, request[:]); err != nil {
			return
		}
		_, _ = conn.Write([]byte("S"))
		up := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*leaf}})
		head := make([]byte, 4)
		if _, err := io.ReadFull(up, head); err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, up, int64(binary.BigEndian.Uint32(head))-4)
		serve(up)
		_ = up.Close()
	})
	l := newLab(t, c.policy("scram_user", more...))
	l.SetSecret("postgres.scram_user", "password", password)
	return l, l.Approve("a", "ci")
}

// letIn is what an upstream says that takes the password in clear.
func letIn(up net.Conn) {
	_, _ = io.WriteString(up, message('R', "\x00\x00\x00\x03"))
	readMessage(up)
	_, _ = io.WriteString(up, message('R', "\x00\x00\x00\x00")+message('S', "client_encoding\x00UTF8\x00")+message('K', "\x00\x00\x00\x07secret")+message('Z', "I"))
}

// open connects in plaintext and asks for a session.
func (l *lab) open(id registry.ID, user, database string, more ...string) net.Conn {
	l.t.Helper()
	conn := l.Serve(l.handler, id, host, 5432)
	must(l.t, conn.SetDeadline(time.Now().Add(wait)))
	_, err := io.WriteString(conn, startupMessage(3<<16, append([]string{"user", user, "database", database}, more...)...))
	must(l.t, err)
	return conn
}

// session opens one and reads to where it is ready.
func (l *lab) session(id registry.ID) net.Conn {
	l.t.Helper()
	conn := l.open(id, "scram_user", "orders")
	readUntil(l.t, conn, func(kind byte) bool { return kind == 'Z' })
	return conn
}

// dialer is pgx's way to another host of the policy.
func (l *lab) dialer(id registry.ID, host string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		return l.Serve(l.handler, id, host, 5432), nil
	}
}

// sniff runs f with the address of somebody between the gateway and the cluster
// who has a certificate for its host, and returns what the gateway said.
func (c *cluster) sniff(t testing.TB, f func(address string)) string {
	t.Helper()
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(c.dir, "ca")})
	must(t, err)
	leaf, err := authority.Leaf(host)
	must(t, err)
	var mu sync.Mutex
	var heard bytes.Buffer
	address := listen(t, func(conn net.Conn) {
		var request [8]byte
		_, _ = io.ReadFull(conn, request[:])
		_, _ = conn.Write([]byte("S"))
		near := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*leaf}})
		raw, err := net.Dial("tcp4", c.address)
		if err != nil {
			return
		}
		defer raw.Close()
		_, _ = raw.Write(request[:])
		_, _ = io.ReadFull(raw, request[:1])
		far := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // an attacker does not mind
		var both sync.WaitGroup
		both.Go(func() {
			buf := make([]byte, 4096)
			for {
				n, err := near.Read(buf)
				mu.Lock()
				heard.Write(buf[:n])
				mu.Unlock()
				if err != nil {
					break
				}
				_, _ = far.Write(buf[:n])
			}
			_ = far.Close()
		})
		_, _ = io.Copy(near, far)
		_ = near.Close()
		both.Wait()
	})
	f(address)
	mu.Lock()
	defer mu.Unlock()
	return heard.String()
}

package proxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

// upstream is a server on loopback that runs serve for each connection.
func upstream(t testing.TB, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func echo(conn *net.TCPConn) {
	_, _ = io.Copy(conn, conn)
	_ = conn.CloseWrite()
}

// closedPort is an address that refuses connections.
func closedPort(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// reaching is a policy with an endpoint api.test at port, under which agents may
// reach the given addresses.
func reaching(port uint16, allow ...netip.AddrPort) string {
	var list []string
	for _, a := range allow {
		list = append(list, fmt.Sprintf("%q", a))
	}
	return fmt.Sprintf(`
egress {
  allow = [%s]
}
endpoint "https" "api" {
  hosts = ["api.test:%d", "192.0.2.7"]
}
credential "bearer" "red" {
  endpoint = https.api
}
profile "red" {
  credentials = [bearer.red]
}
`, strings.Join(list, ", "), port)
}

func dial(t *testing.T, k *proxytest.Kit, id registry.ID, dst netip.AddrPort) *net.TCPConn {
	t.Helper()
	conn, err := k.Dial(id, dst)
	if err != nil {
		t.Fatalf("connecting to %v: %v", dst, err)
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func TestSpliceIsByteForByteAndLogged(t *testing.T) {
	up := upstream(t, echo)
	k := proxytest.New(t, reaching(443, up))
	id := k.Approve("a", "red")
	conn := dial(t, k, id, up)

	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back, or others than the %d sent", len(got), len(sent))
	}
	k.Eventually(soon, "the flow is gone", func() bool { return k.Proxy.Counters().Flows == 0 })
	rows := k.Actions(id)
	if len(rows) != 1 {
		t.Fatalf("%d rows, want 1", len(rows))
	}
	r := rows[0]
	if r.Protocol != "tcp" || r.Endpoint != "" || r.Verdict != "allow" || r.Summary != up.String() {
		t.Errorf("logged %+v", r.Action)
	}
	if r.Result == nil || r.Result.BytesIn != 1<<20 || r.Result.BytesOut != 1<<20 || r.Result.Status != "closed" {
		t.Errorf("the result is %+v", r.Result)
	}
}

func TestSpliceKeepsHalfCloses(t *testing.T) {
	t.Run("the agent's", func(t *testing.T) {
		up := upstream(t, func(conn *net.TCPConn) {
			all, _ := io.ReadAll(conn) // ends with the half-close only
			_, _ = conn.Write(append([]byte("after "), all...))
		})
		k := proxytest.New(t, reaching(443, up))
		conn := dial(t, k, k.Approve("a", "red"), up)
		_, _ = conn.Write([]byte("all of it"))
		_ = conn.CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "after all of it" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("the upstream's", func(t *testing.T) {
		heard := make(chan string, 1)
		up := upstream(t, func(conn *net.TCPConn) {
			_, _ = conn.Write([]byte("bye"))
			_ = conn.CloseWrite()
			all, _ := io.ReadAll(conn)
			heard <- string(all)
		})
		k := proxytest.New(t, reaching(443, up))
		conn := dial(t, k, k.Approve("a", "red"), up)
		if got, err := io.ReadAll(conn); string(got) != "bye" {
			t.Errorf("got %q, %v", got, err)
		}
		_, _ = conn.Write([]byte("still here"))
		_ = conn.CloseWrite()
		if got := <-heard; got != "still here" {
			t.Errorf("the upstream heard %q", got)
		}
	})
}

func TestSplicePassesResetsOn(t *testing.T) {
	t.Run("the upstream's", func(t *testing.T) {
		up := upstream(t, func(conn *net.TCPConn) {
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.SetLinger(0)
		})
		k := proxytest.New(t, reaching(443, up))
		conn := dial(t, k, k.Approve("a", "red"), up)
		_, _ = conn.Write([]byte("x"))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the agent sees %v, want a reset", err)
		}
	})
	t.Run("the agent's", func(t *testing.T) {
		seen := make(chan error, 1)
		up := upstream(t, func(conn *net.TCPConn) {
			_, _ = conn.Write([]byte("x"))
			_, err := io.Copy(io.Discard, conn)
			seen <- err
		})
		k := proxytest.New(t, reaching(443, up))
		conn := dial(t, k, k.Approve("a", "red"), up)
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.SetLinger(0)
		_ = conn.Close()
		if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the upstream sees %v, want a reset", err)
		}
	})
}

func TestWhatRefusesIsRefused(t *testing.T) {
	closed := closedPort(t)
	k := proxytest.New(t, reaching(443, closed))
	id := k.Approve("a", "red")
	if _, err := k.Dial(id, closed); err != proxytest.ErrRefused {
		t.Errorf("a closed port: %v", err)
	}
	if rows := k.Actions(id); len(rows) != 0 {
		t.Errorf("logged %+v", rows)
	}
	for _, dst := range []string{"127.0.0.1:1", "169.254.169.254:80", "10.55.0.18:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "10.55.192.9:80"} {
		if _, err := k.Dial(id, addrPort(dst)); err != proxytest.ErrRefused {
			t.Errorf("%s: %v", dst, err)
		}
	}
	rows := k.Actions(id)
	if len(rows) != 6 {
		t.Errorf("%d rows, want 6", len(rows))
	}
	for _, r := range rows {
		if r.Verdict != "deny" || r.Protocol != "tcp" || r.Reason == "" {
			t.Errorf("logged %+v", r.Action)
		}
	}
	// A scan does not fill the log.
	for range 200 {
		_, _ = k.Dial(id, addrPort("127.0.0.1:1"))
	}
	if n := len(k.Actions(id)); n > 100 {
		t.Errorf("%d rows about 206 refused connections", n)
	}
	if n := k.Proxy.Counters().Refused; n != 207 {
		t.Errorf("%d refusals counted, want 207", n)
	}
}

func TestEndpointByItsAddress(t *testing.T) {
	k := proxytest.New(t, reaching(443))
	asked := make(chan string, 1)
	k.Handler = handler(func(_ context.Context, f *proxy.Flow) error {
		asked <- f.Match.Host
		return nil
	})
	dial(t, k, k.Approve("a", "red"), addrPort("192.0.2.7:443"))
	if got := <-asked; got != "192.0.2.7" {
		t.Errorf("the handler serves %q", got)
	}
}

// hello is the ClientHello of a real TLS stack, naming sni, in one record.
func hello(t testing.TB, sni string) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() {
		_ = tls.Client(far, &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"h2"}}).Handshake()
	}()
	header := make([]byte, 5)
	if _, err := io.ReadFull(near, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(near, body); err != nil {
		t.Fatal(err)
	}
	return append(header, body...)
}

// records cuts a record into several of at most n bytes (RFC 8446, section 5.1).
func records(record []byte, n int) []byte {
	var out []byte
	for body := record[5:]; len(body) > 0; {
		m := min(n, len(body))
		out = append(out, record[0], record[1], record[2], byte(m>>8), byte(m))
		out = append(out, body[:m]...)
		body = body[m:]
	}
	return out
}

func TestPeekRoutesByTheClientHello(t *testing.T) {
	mine, theirs := hello(t, "api.test"), hello(t, "elsewhere.test")
	for _, c := range []struct {
		name    string
		say     []byte
		piece   int // bytes a write; 0: all at once
		handler bool
	}{
		{"an endpoint's name", mine, 0, true},
		{"another name", theirs, 0, false},
		{"no name", hello(t, ""), 0, false},
		{"fragmented records", records(mine, 16), 0, true},
		{"a byte at a time", mine, 1, true},
		{"followed by early data", append(append([]byte{}, mine...), "early"...), 0, true},
		{"garbage", []byte("\x16\x03\x01\xff\xffgarbage that is no hello at all"), 0, false},
		{"a record that is no handshake", []byte("\x17\x03\x03\x00\x05hello"), 0, false},
		{"h2 with prior knowledge", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 0, false},
		{"a plain request naming the endpoint", []byte("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n"), 0, false},
		{"a hello without end", records(append(append([]byte{22, 3, 1, 0, 0}, 1, 0, 0xff, 0xff), make([]byte, 50<<10)...), 1<<14), 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			spliced := make(chan struct{}, 1)
			up := upstream(t, func(conn *net.TCPConn) {
				if n, _ := conn.Read(make([]byte, 1)); n > 0 {
					spliced <- struct{}{}
				}
			})
			exact := up
			echoing := upstream(t, echo)
			if !c.handler {
				exact = echoing
			}
			k := proxytest.New(t, reaching(exact.Port(), exact))
			k.Handler = handler(func(_ context.Context, f *proxy.Flow) error {
				if f.Match.Host != "api.test" || f.Destination != exact {
					return fmt.Errorf("a flow to %s, %v", f.Match.Host, f.Destination)
				}
				_, err := io.Copy(f.Conn, f.Conn)
				return err
			})
			conn := dial(t, k, k.Approve("a", "red"), exact)
			go func() {
				for rest := c.say; len(rest) > 0; {
					n := len(rest)
					if c.piece > 0 {
						n = c.piece
					}
					if _, err := conn.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
				_ = conn.CloseWrite()
			}()
			got, err := io.ReadAll(conn)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, c.say) {
				t.Errorf("%d bytes came back, or others than the %d sent", len(got), len(c.say))
			}
			select {
			case <-spliced:
				t.Error("the upstream of a flow that SNI selected was used")
			default:
			}
		})
	}
}

func TestPeekLogsTheNameOfASplicedHello(t *testing.T) {
	up := upstream(t, echo)
	k := proxytest.New(t, reaching(up.Port(), up))
	id := k.Approve("a", "red")
	conn := dial(t, k, id, up)
	_, _ = conn.Write(hello(t, "elsewhere.test"))
	_ = conn.CloseWrite()
	_, _ = io.Copy(io.Discard, conn)
	want := fmt.Sprintf("elsewhere.test:%d (%v)", up.Port(), up)
	if rows := k.Actions(id); len(rows) != 1 || rows[0].Summary != want {
		t.Errorf("logged %+v, want %q", rows, want)
	}
}

func TestPeekGivesWayToAServerThatSpeaksFirst(t *testing.T) {
	up := upstream(t, func(conn *net.TCPConn) {
		_, _ = conn.Write([]byte("220 ready"))
		echo(conn)
	})
	k := proxytest.New(t, reaching(up.Port(), up))
	conn := dial(t, k, k.Approve("a", "red"), up)
	greeting := make([]byte, 9)
	if _, err := io.ReadFull(conn, greeting); err != nil || string(greeting) != "220 ready" {
		t.Fatalf("the agent, saying nothing, hears %q, %v", greeting, err)
	}
	_, _ = conn.Write([]byte("HELO"))
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "HELO" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestPeekPassesOnAServerThatCloses(t *testing.T) {
	up := upstream(t, func(*net.TCPConn) {})
	k := proxytest.New(t, reaching(up.Port(), up))
	conn := dial(t, k, k.Approve("a", "red"), up)
	if got, err := io.ReadAll(conn); len(got) != 0 || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestI09_ForbiddenAddressIsAcceptedOnlyToPeek: nothing but a ClientHello that
// selects an endpoint comes of a connection to a forbidden address.
func TestI09_ForbiddenAddressIsAcceptedOnlyToPeek(t *testing.T) {
	touched := make(chan struct{}, 16)
	up := upstream(t, func(*net.TCPConn) { touched <- struct{}{} })
	k := proxytest.New(t, reaching(up.Port())) // does not allow it
	id := k.Approve("a", "red")
	k.Handler = handler(func(_ context.Context, f *proxy.Flow) error {
		_, err := f.Conn.Write([]byte("served"))
		return err
	})

	conn := dial(t, k, id, up)
	_, _ = conn.Write(hello(t, "api.test"))
	got := make([]byte, 6)
	if _, err := io.ReadFull(conn, got); string(got) != "served" {
		t.Errorf("the endpoint's name gets %q, %v", got, err)
	}

	for _, say := range [][]byte{hello(t, "elsewhere.test"), []byte("GET / HTTP/1.1\r\n\r\n")} {
		conn := dial(t, k, id, up)
		_, _ = conn.Write(say)
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("a forbidden address answers %q", say[:3])
		}
	}
	select {
	case <-touched:
		t.Error("a forbidden address was connected to")
	default:
	}
	rows := k.Actions(id)
	if len(rows) != 2 || rows[0].Verdict != "deny" || !strings.Contains(rows[0].Reason, "egress") {
		t.Errorf("logged %+v", rows)
	}
}

func TestPolicyChangeClosesSplicedFlows(t *testing.T) {
	up := upstream(t, echo)
	for name, next := range map[string]string{
		"egress forbids it":       reaching(443),
		"an endpoint takes it up": strings.Replace(reaching(443, up), `"192.0.2.7"`, fmt.Sprintf("%q", up), 1),
	} {
		t.Run(name, func(t *testing.T) {
			k := proxytest.New(t, reaching(443, up))
			conn := dial(t, k, k.Approve("a", "red"), up)
			_, _ = conn.Write([]byte("x"))
			_, _ = conn.Read(make([]byte, 1))
			k.Reload(reaching(443, up)) // changes nothing about it
			_, _ = conn.Write([]byte("y"))
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatalf("the flow does not survive a reload: %v", err)
			}
			k.Reload(next)
			closedSoon(t, conn)
		})
	}
}

func TestFlowLimitPerRegistration(t *testing.T) {
	k := proxytest.New(t, reaching(443))
	one, two := k.Approve("a", "red"), k.Approve("b", "red")
	dst := k.Virtual(one, "api.test", 443)
	k.Virtual(two, "api.test", 443)
	var held []func(net.Conn)
	for {
		serve, ok := k.Proxy.TCP(t.Context(), k.Source(one, false), dst)
		if !ok {
			break
		}
		if held = append(held, serve); len(held) > 5000 {
			t.Fatal("no limit")
		}
	}
	if len(held) != 4096 {
		t.Errorf("%d flows, want 4096", len(held))
	}
	serve, ok := k.Proxy.TCP(t.Context(), k.Source(two, false), k.Virtual(two, "api.test", 443))
	if !ok {
		t.Fatal("another registration is refused")
	}
	serve(nil)
	for _, serve := range held {
		serve(nil)
	}
	if serve, ok = k.Proxy.TCP(t.Context(), k.Source(one, false), dst); !ok {
		t.Fatal("places are not given back")
	}
	serve(nil)
}

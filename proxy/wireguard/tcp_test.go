package wireguard_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

type tcpHandler = func(context.Context, netip.AddrPort, netip.AddrPort) (func(net.Conn), bool)

// always accepts every connection with serve.
func always(serve func(net.Conn)) tcpHandler {
	return func(context.Context, netip.AddrPort, netip.AddrPort) (func(net.Conn), bool) { return serve, true }
}

// handOver accepts every connection and gives it to the test.
func handOver() (tcpHandler, <-chan *wireguard.Conn) {
	conns := make(chan *wireguard.Conn, 1024)
	return always(func(c net.Conn) {
		if c != nil {
			conns <- c.(*wireguard.Conn)
		}
	}), conns
}

func TestTCPToAnyDestination(t *testing.T) {
	handler, conns := handOver()
	asked := make(chan [2]netip.AddrPort, 16)
	gw := open(t, wireguard.Config{TCP: func(ctx context.Context, src, dst netip.AddrPort) (func(net.Conn), bool) {
		asked <- [2]netip.AddrPort{src, dst}
		return handler(ctx, src, dst)
	}})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	for _, dst := range []string{"93.184.216.34:80", "10.55.2.2:22", "[2606:2800::1]:443", "[fd00::9]:5432"} {
		out := a.dial(t, dst)
		in := within(t, "connection", conns)
		q := within(t, "question", asked)
		if got := in.LocalAddr().(*net.TCPAddr).AddrPort(); got != netip.MustParseAddrPort(dst) || q[1] != got {
			t.Errorf("%s: LocalAddr %v, asked about %v", dst, got, q[1])
		}
		src := out.LocalAddr().(*net.TCPAddr).AddrPort()
		if got := in.RemoteAddr().(*net.TCPAddr).AddrPort(); got != src || q[0] != got {
			t.Errorf("%s: RemoteAddr %v, asked about %v, want %v", dst, got, q[0], src)
		}
		echo(t, out, in)
		in.Close()
	}
}

// echo sends a line each way.
func echo(t testing.TB, out, in net.Conn) {
	t.Helper()
	for _, way := range [][2]net.Conn{{out, in}, {in, out}} {
		if _, err := way[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		way[1].SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, 5)
		if _, err := io.ReadFull(way[1], b); err != nil || string(b) != "hello" {
			t.Fatalf("read %q, %v", b, err)
		}
	}
}

func TestHalfCloseKeepsData(t *testing.T) {
	handler, conns := handOver()
	gw := open(t, wireguard.Config{TCP: handler})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	type halfCloser interface {
		net.Conn
		CloseWrite() error
	}
	for _, agentFirst := range []bool{true, false} {
		out := a.dial(t, "192.0.2.1:80").(halfCloser)
		var first, second halfCloser = out, within(t, "connection", conns)
		if !agentFirst {
			first, second = second, first
		}
		data := make([]byte, 300_000)
		rand.Read(data)
		go func() {
			first.Write(data)
			first.CloseWrite()
		}()
		second.SetDeadline(time.Now().Add(patience))
		first.SetDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(second)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("agent first %v: %d of %d bytes, %v", agentFirst, len(got), len(data), err)
		}
		// The other direction still works after the FIN.
		go func() {
			second.Write(data)
			second.CloseWrite()
		}()
		got, err = io.ReadAll(first)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("agent first %v, after half-close: %d of %d bytes, %v", agentFirst, len(got), len(data), err)
		}
		first.Close()
		second.Close()
	}
}

func TestAbortReachesTheAgentAsReset(t *testing.T) {
	handler, conns := handOver()
	gw := open(t, wireguard.Config{TCP: handler})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	out := a.dial(t, "192.0.2.1:80")
	in := within(t, "connection", conns)
	echo(t, out, in)
	in.Abort()
	_, err := out.Read(make([]byte, 1))
	if err == nil || err == io.EOF {
		t.Fatalf("agent read %v, want a reset", err)
	}
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Abort: %v", err)
	}
	if err := in.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close after Abort: %v", err)
	}
}

func TestAgentsResetIsSeen(t *testing.T) {
	handler, conns := handOver()
	gw := open(t, wireguard.Config{TCP: handler})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	out := a.dial(t, "[2001:db8::1]:80")
	in := within(t, "connection", conns)
	in.Write([]byte("never read"))
	eventually(t, "data at the agent", func() bool {
		out.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _ := out.Read(make([]byte, 1))
		return n == 1
	})
	out.Close() // with unread data: RST
	in.SetReadDeadline(time.Now().Add(patience))
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read: %v, want ECONNRESET", err)
	}
	in.Close()
}

func TestRefusedIsRefused(t *testing.T) {
	gw := open(t, wireguard.Config{TCP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(net.Conn), bool) { return nil, false }})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	for _, dst := range []string{"192.0.2.1:81", "[2001:db8::1]:81"} {
		c, err := a.net.DialTCPAddrPort(netip.MustParseAddrPort(dst))
		if err == nil {
			c.Close()
			t.Fatalf("%s: connected", dst)
		}
		if got := err.Error(); !bytes.Contains([]byte(got), []byte("refused")) {
			t.Errorf("%s: %v, want connection refused", dst, err)
		}
	}
}

func TestZeroConfigRefusesTCP(t *testing.T) {
	gw := open(t, wireguard.Config{})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	if c, err := a.net.DialTCPAddrPort(netip.MustParseAddrPort("192.0.2.1:80")); err == nil {
		c.Close()
		t.Fatal("connected")
	}
}

func TestHandshakeWaitsForTheDecision(t *testing.T) {
	decide := make(chan bool)
	asked := make(chan struct{}, 16)
	gw := open(t, wireguard.Config{TCP: func(ctx context.Context, _, _ netip.AddrPort) (func(net.Conn), bool) {
		asked <- struct{}{}
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		return func(c net.Conn) { c.Close() }, <-decide
	}})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	for _, verdict := range []bool{true, false} {
		result := make(chan error, 1)
		go func() {
			c, err := a.net.DialTCPAddrPort(netip.MustParseAddrPort("192.0.2.1:80"))
			if err == nil {
				c.Close()
			}
			result <- err
		}()
		within(t, "question", asked)
		select {
		case err := <-result:
			t.Fatalf("handshake ended before the decision: %v", err)
		case <-time.After(100 * time.Millisecond): // time for a wrong SYN-ACK to arrive; none must
		}
		decide <- verdict
		if err := within(t, "handshake", result); (err == nil) != verdict {
			t.Errorf("decision %v: %v", verdict, err)
		}
	}
}

func TestLargeTransfersArriveIntact(t *testing.T) {
	const size = 10 << 20
	handler, conns := handOver()
	gw := open(t, wireguard.Config{TCP: handler})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	for _, dst := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		out := a.dial(t, dst)
		in := within(t, "connection", conns)
		in.SetDeadline(time.Now().Add(3 * patience))
		out.SetDeadline(time.Now().Add(3 * patience))
		for name, way := range map[string][2]net.Conn{"up": {out, in}, "down": {in, out}} {
			data := make([]byte, size)
			rand.Read(data)
			sent := make(chan error, 1)
			go func() {
				_, err := way[0].Write(data)
				sent <- err
			}()
			h := sha256.New()
			if n, err := io.CopyN(h, way[1], size); err != nil {
				t.Fatalf("%s %s: %d bytes, then %v", dst, name, n, err)
			}
			if err := within(t, "write", sent); err != nil {
				t.Fatal(err)
			}
			if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
				t.Errorf("%s %s: arrived changed", dst, name)
			}
		}
		in.Close()
	}
	if c := gw.Counters(); c.BadChecksum+c.Malformed+c.Unsupported+c.NotAdmitted != 0 {
		t.Errorf("dropped packets of a good transfer: %+v", c)
	}
}

func TestAcceptedConnectionsAreKeptAlive(t *testing.T) {
	handler, conns := handOver()
	gw := open(t, wireguard.Config{TCP: handler})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	a.dial(t, "192.0.2.1:80")
	in := within(t, "connection", conns)
	defer in.Close()
	idle, interval, count := wireguard.KeepAlive(in)
	if idle <= 0 || idle+time.Duration(count)*interval > 2*time.Minute {
		t.Errorf("keep-alive after %v, then %d times every %v: a dead agent is noticed after more than two minutes", idle, count, interval)
	}
}

// Beyond the first connections of an agent buffers are small: all must still
// carry data, and more of it than a buffer holds.
func TestManyConnectionsAtOnce(t *testing.T) {
	const count, size = 100, 300 << 10
	handler, conns := handOver()
	gw := open(t, wireguard.Config{TCP: handler})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	data := make([]byte, size)
	rand.Read(data)
	done := make(chan error, 2*count)
	for range count {
		out := a.dial(t, "192.0.2.1:80")
		in := within(t, "connection", conns)
		out.SetDeadline(time.Now().Add(3 * patience))
		in.SetDeadline(time.Now().Add(3 * patience))
		go func() {
			defer in.Close()
			if _, err := in.Write(data); err != nil {
				done <- err
				return
			}
			_, err := io.CopyN(in, in, size)
			done <- err
		}()
		go func() {
			got := make([]byte, size)
			for range 2 {
				if _, err := io.ReadFull(out, got); err != nil || !bytes.Equal(got, data) {
					done <- fmt.Errorf("read: %v", err)
					return
				}
				go out.Write(data)
			}
			done <- nil
		}()
	}
	for range 2 * count {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeadlinesAndClose(t *testing.T) {
	handler, conns := handOver()
	gw := open(t, wireguard.Config{TCP: handler})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	out := a.dial(t, "192.0.2.1:80")
	in := within(t, "connection", conns)
	in.SetReadDeadline(time.Now().Add(-time.Second))
	_, err := in.Read(make([]byte, 1))
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read past its deadline: %v", err)
	}
	in.SetDeadline(time.Time{})
	echo(t, out, in)
	in.SetDeadline(time.Time{})

	ended := make(chan error, 1)
	go func() {
		_, err := in.Read(make([]byte, 1))
		ended <- err
	}()
	in.Close()
	if err := within(t, "read after Close", ended); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read interrupted by Close: %v", err)
	}
	if n, err := out.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("agent read %d, %v, want EOF", n, err)
	}
}

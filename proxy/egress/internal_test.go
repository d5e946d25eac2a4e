package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// The control hook alone, without the look beforehand: what protects where
// anything changes between the two.
func TestI09_SocketIsCheckedWhenItConnects(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	address := netip.MustParseAddrPort(ln.Addr().String())
	d := New(Rules{})
	defer d.Close()
	for _, a := range []netip.Addr{address.Addr(), netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("0.0.0.0")} {
		for _, network := range []string{"tcp", "udp"} {
			conn, err := d.connect(t.Context(), network, netip.AddrPortFrom(a, address.Port()), byAgent)
			var r *Refused
			if !errors.As(err, &r) {
				t.Errorf("%s %s: %v", network, a, err)
			}
			if conn != nil {
				conn.Close()
			}
		}
	}
	// The rules in force when it connects are the ones that count.
	d.SetRules(Rules{AllowExact: []netip.AddrPort{address}})
	conn, err := d.connect(t.Context(), "tcp", address, byAgent)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("allowed")); err != nil {
		t.Fatal(err)
	}
	first, err := ln.Accept() // in order: a refused one would come before
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	got := make([]byte, 7)
	if _, err := io.ReadFull(first, got); err != nil || string(got) != "allowed" {
		t.Errorf("somebody was here before: %q %v", got, err)
	}
}

func TestEgress_AttemptsAreStaggered(t *testing.T) {
	candidates := []netip.AddrPort{
		netip.MustParseAddrPort("[2001:db8::1]:443"), netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("[2001:db8::2]:443"),
	}
	type attempt struct {
		after time.Duration // until it ends
		err   error
	}
	for name, tt := range map[string]struct {
		attempts []attempt
		winner   int // -1: none
		took     time.Duration
		err      error
	}{
		"the first is quick":         {[]attempt{{10 * time.Millisecond, nil}, {0, nil}, {0, nil}}, 0, 10 * time.Millisecond, nil},
		"the first is silent":        {[]attempt{{time.Hour, nil}, {10 * time.Millisecond, nil}, {0, nil}}, 1, 260 * time.Millisecond, nil},
		"two are silent":             {[]attempt{{time.Hour, nil}, {time.Hour, nil}, {time.Millisecond, nil}}, 2, 501 * time.Millisecond, nil},
		"the first is slow but wins": {[]attempt{{300 * time.Millisecond, nil}, {time.Hour, nil}, {time.Hour, nil}}, 0, 300 * time.Millisecond, nil},
		"a failure starts the next":  {[]attempt{{time.Millisecond, syscall.ECONNREFUSED}, {time.Millisecond, nil}, {0, nil}}, 1, 2 * time.Millisecond, nil},
		"no route says nothing":      {[]attempt{{0, syscall.ENETUNREACH}, {time.Millisecond, syscall.ECONNREFUSED}, {0, syscall.ENETUNREACH}}, -1, time.Millisecond, syscall.ECONNREFUSED},
		"all are silent":             {[]attempt{{time.Hour, nil}, {time.Hour, nil}, {time.Hour, nil}}, -1, 10 * time.Second, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
				defer cancel()
				var open [3]*fakeConn
				begin := time.Now()
				conn, err := race(ctx, candidates, func(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
					i := 0
					for candidates[i] != ap {
						i++
					}
					select {
					case <-time.After(tt.attempts[i].after):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if err := tt.attempts[i].err; err != nil {
						return nil, fmt.Errorf("dial: %w", err)
					}
					open[i] = &fakeConn{}
					return open[i], nil
				})
				if got := time.Since(begin); got != tt.took { // synctest's clock: exact
					t.Errorf("took %s, want %s", got, tt.took)
				}
				if tt.winner < 0 {
					if !errors.Is(err, tt.err) {
						t.Errorf("%v, want %v", err, tt.err)
					}
					return
				}
				if err != nil || conn != open[tt.winner] {
					t.Errorf("got %v, %v", conn, err)
				}
				for i, c := range open {
					if c != nil && c.closed != (i != tt.winner) {
						t.Errorf("attempt %d: closed is %t", i, c.closed)
					}
				}
			})
		})
	}
}

// Two that connect at the same instant: one is closed.
func TestEgress_LosersAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conns []*fakeConn
		made := make(chan *fakeConn, 2)
		conn, err := race(t.Context(), make([]netip.AddrPort, 2), func(context.Context, netip.AddrPort) (net.Conn, error) {
			time.Sleep(2 * attemptDelay) // deaf to its context
			c := &fakeConn{}
			made <- c
			return c, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		close(made)
		for c := range made {
			conns = append(conns, c)
		}
		if len(conns) != 2 {
			t.Fatalf("%d attempts", len(conns))
		}
		for _, c := range conns {
			if c.closed != (c != conn) {
				t.Errorf("closed is %t for winner %t", c.closed, c == conn)
			}
		}
	})
}

type fakeConn struct {
	net.Conn
	closed bool
}

func (c *fakeConn) Close() error { c.closed = true; return nil }

func TestEgress_CacheIsBounded(t *testing.T) {
	r := newResolver(nil)
	defer r.close()
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	for i := range 3 * maxNames {
		r.store(nameKey{fmt.Sprintf("n%d.example.com", i), "ip4"}, addrs, time.Duration(i%2)*time.Hour+time.Nanosecond)
		if len(r.cache) > maxNames {
			t.Fatalf("%d names cached", len(r.cache))
		}
	}
	if len(r.cache) < maxNames/2 {
		t.Errorf("%d names cached", len(r.cache))
	}
}

// ends lists the IPv4 addresses that any router could make out of a, written
// independently of embedded: every 32 bits of it at a byte boundary, and their
// complement in the last.
func ends(a netip.Addr) (all []netip.Addr) {
	b := a.As16()
	for i := 0; i+4 <= 16; i++ {
		all = append(all, netip.AddrFrom4([4]byte(b[i:i+4])))
	}
	return append(all, netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
}

func FuzzI09_NoRefusedIPv4ThroughAnyEmbedding(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "8.8.8.8", "100.64.0.1", "224.0.0.1", "0.0.0.0"} {
		f.Add(netip.MustParseAddr(s).AsSlice(), []byte("\x20\x02"), uint16(443))
		f.Add(netip.MustParseAddr(s).AsSlice(), []byte("\x00\x64\xff\x9b"), uint16(1))
	}
	d := New(Rules{Tunnel: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	f.Cleanup(func() { d.Close() })
	f.Fuzz(func(t *testing.T, v4, rest []byte, port uint16) {
		if len(v4) != 4 {
			return
		}
		var noise [16]byte
		copy(noise[:], rest)
		a4 := netip.AddrFrom4([4]byte(v4))
		refused := d.Check(netip.AddrPortFrom(a4, port)) != nil
		for name, at := range map[string]struct {
			prefix netip.Prefix
			offset int
			invert byte
		}{
			"mapped":       {netip.MustParsePrefix("::ffff:0:0/96"), 12, 0},
			"compatible":   {netip.MustParsePrefix("::/96"), 12, 0},
			"translated":   {netip.MustParsePrefix("::ffff:0:0:0/96"), 12, 0},
			"NAT64":        {netip.MustParsePrefix("64:ff9b::/96"), 12, 0},
			"local NAT64":  {netip.MustParsePrefix("64:ff9b:1::/48"), 12, 0},
			"6to4":         {netip.MustParsePrefix("2002::/16"), 2, 0},
			"Teredo":       {netip.MustParsePrefix("2001::/32"), 12, 0xff},
			"its server":   {netip.MustParsePrefix("2001::/32"), 4, 0},
			"as it stands": {netip.PrefixFrom(netip.AddrFrom16(noise), 0), 12, 0},
		} {
			b := noise
			p := at.prefix.Addr().As16()
			copy(b[:at.prefix.Bits()/8], p[:])
			for i := range 4 {
				b[at.offset+i] = v4[i] ^ at.invert
			}
			a := netip.AddrFrom16(b)
			err := d.Check(netip.AddrPortFrom(a, port))
			if name != "as it stands" && refused && err == nil {
				t.Errorf("%s is refused, and reachable as %s (%s)", a4, a, name)
			}
			if err != nil {
				continue
			}
			// Whatever passes is public by every reading of its family.
			u := a.Unmap()
			if u.IsLoopback() || u.IsPrivate() || u.IsLinkLocalUnicast() || u.IsMulticast() || u.IsUnspecified() || !u.IsGlobalUnicast() {
				t.Errorf("%s passes (%s)", a, name)
			}
			if nat64.Contains(a) || sixTo4.Contains(a) || teredo.Contains(a) {
				reachable := false
				for _, end := range ends(a) {
					reachable = reachable || d.Check(netip.AddrPortFrom(end, port)) == nil
				}
				if !reachable {
					t.Errorf("%s passes, although nothing in it may be reached", a)
				}
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	d := New(Rules{})
	defer d.Close()
	for _, s := range []string{"8.8.8.8:53", "[2606:4700::1111]:443", "10.0.0.1:80"} {
		a := netip.MustParseAddrPort(s)
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d.Check(a)
			}
		})
	}
}

package datagrams

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

func TestTrainLength(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		most  int
		want  int
	}{
		{[]int{100}, 64, 1},
		{[]int{100, 100, 100}, 64, 3},
		{[]int{100, 100, 100}, 2, 2},
		{[]int{100, 100, 100}, 1, 1},
		{[]int{100, 50, 100}, 64, 2}, // a shorter one is the last
		{[]int{100, 101}, 64, 1},
		{[]int{40000, 40000}, 64, 1}, // no datagram is that long
	} {
		var packets [][]byte
		for _, size := range c.sizes {
			packets = append(packets, make([]byte, size))
		}
		if got := trainLength(packets, c.most); got != c.want {
			t.Errorf("%v, at most %d: %d, want %d", c.sizes, c.most, got, c.want)
		}
	}
}

func open(t *testing.T, addr netip.Addr) *Socket {
	t.Helper()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(udp, addr.Is4())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestDatagramsArriveAsTheyWereSent(t *testing.T) {
	for _, name := range []string{"127.0.0.1", "::1"} {
		for _, trains := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s trains=%v", name, trains), func(t *testing.T) {
				addr := netip.MustParseAddr(name)
				from, to := open(t, addr), open(t, addr)
				if !trains {
					from.trainsOut.Store(false)
				}
				var packets [][]byte
				for i := range 120 {
					size := 1452
					if i%17 == 0 {
						size = 32 + i
					}
					packets = append(packets, bytes.Repeat([]byte{byte(i)}, size))
				}
				if err := from.Send(packets, netip.AddrPortFrom(addr, to.Port())); err != nil {
					t.Fatal(err)
				}
				if err := to.udp.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Fatal(err)
				}
				bufs, sizes, eps := make([][]byte, 128), make([]int, 128), make([]conn.Endpoint, 128)
				for i := range bufs {
					bufs[i] = make([]byte, 1<<16)
				}
				for got := 0; got < len(packets); {
					n, err := to.Receive(bufs, sizes, eps)
					if err != nil {
						t.Fatal(err)
					}
					for i := range n {
						if !bytes.Equal(bufs[i][:sizes[i]], packets[got]) {
							t.Fatalf("datagram %d arrived with %d bytes, want %d", got, sizes[i], len(packets[got]))
						}
						if want := netip.AddrPortFrom(addr, from.Port()).String(); eps[i].DstToString() != want {
							t.Fatalf("from %s, want %s", eps[i].DstToString(), want)
						}
						got++
					}
				}
				if err := from.Close(); err != nil {
					t.Error(err)
				}
				if err := from.Send(packets, netip.AddrPortFrom(addr, to.Port())); err == nil {
					t.Error("sent after Close")
				}
			})
		}
	}
}

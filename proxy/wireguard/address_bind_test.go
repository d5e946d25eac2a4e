package wireguard

import (
	"bytes"
	"fmt"
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

func TestAddressBindKeepsDatagrams(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		for _, trains := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s trains=%v", addr, trains), func(t *testing.T) {
				from, to := newAddressBind(netip.MustParseAddr(addr)), newAddressBind(netip.MustParseAddr(addr))
				_, fromPort, err := from.Open(0)
				if err != nil {
					t.Fatal(err)
				}
				defer from.Close()
				receive, port, err := to.Open(0)
				if err != nil {
					t.Fatal(err)
				}
				defer to.Close()
				if _, _, err := to.Open(0); err != conn.ErrBindAlreadyOpen {
					t.Errorf("second Open: %v", err)
				}
				if !trains {
					from.socket.Load().trainsOut.Store(false)
				}
				end, err := from.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr(addr), port).String())
				if err != nil {
					t.Fatal(err)
				}
				var packets [][]byte
				for i := range 120 {
					size := 1452
					if i%17 == 0 {
						size = 32 + i
					}
					packets = append(packets, bytes.Repeat([]byte{byte(i)}, size))
				}
				if err := from.Send(packets, end); err != nil {
					t.Fatal(err)
				}
				if err := to.socket.Load().udp.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Fatal(err)
				}
				bufs, sizes, eps := make([][]byte, 128), make([]int, 128), make([]conn.Endpoint, 128)
				for i := range bufs {
					bufs[i] = make([]byte, 1<<16)
				}
				for got := 0; got < len(packets); {
					n, err := receive[0](bufs, sizes, eps)
					if err != nil {
						t.Fatal(err)
					}
					for i := range n {
						if !bytes.Equal(bufs[i][:sizes[i]], packets[got]) {
							t.Fatalf("datagram %d arrived with %d bytes, want %d", got, sizes[i], len(packets[got]))
						}
						if want := netip.AddrPortFrom(netip.MustParseAddr(addr), fromPort).String(); eps[i].DstToString() != want {
							t.Fatalf("from %s, want %s", eps[i].DstToString(), want)
						}
						got++
					}
				}
				if err := from.Close(); err != nil {
					t.Error(err)
				}
				if err := from.Send(packets, end); err == nil {
					t.Error("sent after Close")
				}
			})
		}
	}
}

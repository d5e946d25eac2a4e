package wireguard

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
)

func TestAddressBindListensOnOneAddress(t *testing.T) {
	for _, name := range []string{"127.0.0.1", "::1"} {
		addr := netip.MustParseAddr(name)
		from, to := newAddressBind(addr), newAddressBind(addr)
		_, fromPort, err := from.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		receive, port, err := to.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := to.Open(0); err != conn.ErrBindAlreadyOpen {
			t.Errorf("second Open: %v", err)
		}
		end, err := from.ParseEndpoint(netip.AddrPortFrom(addr, port).String())
		if err != nil {
			t.Fatal(err)
		}
		if err := from.Send([][]byte{[]byte("hello")}, end); err != nil {
			t.Fatal(err)
		}
		bufs, sizes, eps := [][]byte{make([]byte, 1<<16)}, make([]int, 1), make([]conn.Endpoint, 1)
		if n, err := receive[0](bufs, sizes, eps); n != 1 || err != nil || !bytes.Equal(bufs[0][:sizes[0]], []byte("hello")) {
			t.Errorf("received %d, %v", n, err)
		} else if want := netip.AddrPortFrom(addr, fromPort).String(); eps[0].DstToString() != want {
			t.Errorf("from %s, want %s", eps[0].DstToString(), want)
		}
		other, err := from.ParseEndpoint("[2001:db8::1]:1")
		if err != nil {
			t.Fatal(err)
		}
		if addr.Is4() && from.Send([][]byte{[]byte("hello")}, other) == nil {
			t.Error("sent to the other family")
		}
		for _, b := range []*addressBind{from, to} {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := from.Send([][]byte{[]byte("hello")}, end); err == nil {
			t.Error("sent after Close")
		}
	}
}

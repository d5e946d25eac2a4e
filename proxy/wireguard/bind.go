package wireguard

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.zx2c4.com/wireguard/conn"
)

// newBind returns a bind for a UDP host:port and the port, 0 for any. An empty
// or unspecified host is both families.
func newBind(listen string) (conn.Bind, uint16, error) {
	host, portText, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, 0, fmt.Errorf("reading listen address %q: %w", listen, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, 0, fmt.Errorf("reading listen address %q: port must be a number up to 65535", listen)
	}
	bind := conn.NewStdNetBind()
	if host == "" {
		return bind, uint16(port), nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		return nil, 0, fmt.Errorf("reading listen address %q: host must be an IP address without zone, or empty", listen)
	}
	if addr = addr.Unmap(); addr.IsUnspecified() {
		return bind, uint16(port), nil
	}
	return &addressBind{Bind: bind, addr: addr}, uint16(port), nil
}

// addressBind answers on one local address only. WireGuard's bind takes but a
// port, so the port is taken on all addresses, and a datagram that came in on
// another one is dropped before the device sees it. Answers leave from the
// address the question came to (IP_PKTINFO).
type addressBind struct {
	conn.Bind
	addr netip.Addr
}

func (b *addressBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive, port, err := b.Bind.Open(port)
	for i, fn := range receive {
		receive[i] = b.filter(fn)
	}
	return receive, port, err
}

func (b *addressBind) filter(receive conn.ReceiveFunc) conn.ReceiveFunc {
	return func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, err := receive(packets, sizes, eps)
		for i := range n {
			if sizes[i] > 0 && eps[i].SrcIP().Unmap() != b.addr {
				sizes[i] = 0 // the device skips what is shorter than a message
			}
		}
		return n, err
	}
}

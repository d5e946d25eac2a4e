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
	if host == "" {
		return conn.NewStdNetBind(), uint16(port), nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil, 0, fmt.Errorf("reading listen address %q: host must be an IP address or empty", listen)
	}
	if addr = addr.Unmap(); addr.IsUnspecified() {
		return conn.NewStdNetBind(), uint16(port), nil
	}
	return newAddressBind(addr), uint16(port), nil
}

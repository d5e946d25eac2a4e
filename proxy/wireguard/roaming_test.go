package wireguard_test

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

// roamingBind is an agent host's bind whose source address a test changes, and
// which keeps what it has sent.
type roamingBind struct {
	conn.Bind // ParseEndpoint

	gateway4, gateway6 netip.AddrPort
	mu                 sync.Mutex
	source             netip.AddrPort // guarded by mu
	sockets            map[netip.AddrPort]*net.UDPConn
	sent               [][]byte // guarded by mu
	got                map[netip.AddrPort]int
	in                 chan []byte
	closed             chan struct{} // from Open to Close; guarded by mu
}

func newRoamingBind(t testing.TB, gw *wireguard.Tunnel, source string) *roamingBind {
	b := &roamingBind{
		Bind:     conn.NewStdNetBind(),
		gateway4: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), gw.ListenPort()),
		gateway6: netip.AddrPortFrom(netip.IPv6Loopback(), gw.ListenPort()),
		sockets:  make(map[netip.AddrPort]*net.UDPConn),
		got:      make(map[netip.AddrPort]int),
		in:       make(chan []byte, 1024),
	}
	t.Cleanup(b.shut)
	b.moveTo(t, source)
	return b
}

// moveTo has the agent host speak from an address; a new socket of the same
// address is another port.
func (b *roamingBind) moveTo(t testing.TB, source string) {
	t.Helper()
	addr := netip.MustParseAddr(source)
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(udp.LocalAddr().String())
	at := netip.MustParseAddrPort(net.JoinHostPort(source, port))
	b.mu.Lock()
	b.source, b.sockets[at] = at, udp
	b.mu.Unlock()
	go func() {
		for {
			p := make([]byte, 65535)
			n, err := udp.Read(p)
			if err != nil {
				return
			}
			b.mu.Lock()
			b.got[at]++
			b.mu.Unlock()
			select {
			case b.in <- p[:n]:
			default:
			}
		}
	}()
}

// answers is how many datagrams have come to an address.
func (b *roamingBind) answers(source string) (n int) {
	addr := netip.MustParseAddr(source)
	b.mu.Lock()
	defer b.mu.Unlock()
	for at, count := range b.got {
		if at.Addr() == addr {
			n += count
		}
	}
	return n
}

// last is the latest message of a type that was sent, or nil.
func (b *roamingBind) last(kind byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := len(b.sent) - 1; i >= 0; i-- {
		if b.sent[i][0] == kind {
			return b.sent[i]
		}
	}
	return nil
}

// raw sends a datagram as it is.
func (b *roamingBind) raw(t testing.TB, message []byte) {
	t.Helper()
	if err := b.write(message); err != nil {
		t.Fatal(err)
	}
}

func (b *roamingBind) write(message []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	to := b.gateway6
	if b.source.Addr().Is4() {
		to = b.gateway4
	}
	_, err := b.sockets[b.source].WriteToUDPAddrPort(message, to)
	return err
}

func (b *roamingBind) shut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sockets {
		s.Close()
	}
}

func (b *roamingBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	endpoint, err := b.ParseEndpoint(b.gateway4.String())
	if err != nil {
		return nil, 0, err
	}
	closed := make(chan struct{})
	b.mu.Lock()
	b.closed = closed
	b.mu.Unlock()
	return []conn.ReceiveFunc{func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case p := <-b.in:
			sizes[0], eps[0] = copy(packets[0], p), endpoint
			return 1, nil
		case <-closed:
			return 0, net.ErrClosed
		}
	}}, 1, nil
}

func (b *roamingBind) Send(packets [][]byte, _ conn.Endpoint) error {
	for _, p := range packets {
		b.mu.Lock()
		b.sent = append(b.sent, append([]byte(nil), p...))
		b.mu.Unlock()
		_ = b.write(p) // into nothing is not this test's business
	}
	return nil
}

func (b *roamingBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		close(b.closed)
		b.closed = nil
	}
	return nil
}

func (b *roamingBind) BatchSize() int       { return 1 }
func (b *roamingBind) SetMark(uint32) error { return nil }

const aMoment = 300 * time.Millisecond // in which something must not happen

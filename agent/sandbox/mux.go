package sandbox

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

// link is one run's interface, seen from outside: packets without any header
// before IP. tun.NativeTun is one.
type link interface {
	Read(bufs [][]byte, sizes []int, offset int) (int, error)
	Write(bufs [][]byte, offset int) (int, error)
	Close() error
}

// batchesPerLink bounds how far one run may be ahead of the tunnel; batchRoom is
// the room for one packet beyond the MTU.
const (
	batchesPerLink = 2
	batchRoom      = 128 // bytes

	maxPacket = 1<<16 - 1 // bytes: RFC 791 section 3.1
)

// mux makes one tun.Device of the interfaces of all runs, and of the host's own
// where there is one. What comes from a run has that run's address, or goes
// nowhere; what comes from the host has none that is for runs. What goes to an
// address that no run has goes to the host, or nowhere.
type mux struct {
	mtu    int
	in     chan *batch
	done   chan struct{}
	events chan tun.Event // nil: the host's are
	once   sync.Once
	host   *attached // nil: there is none
	device tun.Device

	mu    sync.RWMutex
	links map[netip.Addr]*attached

	held *batch // of Read, which one goroutine calls: what did not fit
	from int    // its first packet that is left
}

var _ tun.Device = (*mux)(nil)

type attached struct {
	link link
	owns func(netip.Addr) bool // the sources that it may send from
	free chan *batch
	once sync.Once
	gone chan struct{} // closed with the link
}

// batch is what one read of one link returned.
type batch struct {
	bufs  [][]byte
	sizes []int
	n     int
	from  *attached
}

func newMux(mtu int) *mux {
	m := &mux{
		mtu:    mtu,
		in:     make(chan *batch),
		done:   make(chan struct{}),
		events: make(chan tun.Event, 1),
		links:  make(map[netip.Addr]*attached),
	}
	m.events <- tun.EventUp
	return m
}

// newHostMux is newMux with the interface of a host besides, which it takes over.
// Of the addresses that reserved reports, none is the host's.
func newHostMux(host tun.Device, mtu int, reserved func(netip.Addr) bool) *mux {
	m := newMux(mtu)
	m.events, m.device = nil, host
	// Whoever sets the interface's MTU higher loses no packet to that.
	m.host = newAttached(host, func(src netip.Addr) bool { return !reserved(src) }, maxPacket)
	go func() {
		m.pump(m.host)
		_ = m.Close() // without it there is no host to serve: WireGuard hears of it
	}()
	return m
}

func newAttached(l link, owns func(netip.Addr) bool, room int) *attached {
	a := &attached{link: l, owns: owns, free: make(chan *batch, batchesPerLink), gone: make(chan struct{})}
	for range batchesPerLink {
		b := &batch{from: a, sizes: make([]int, conn.IdealBatchSize)}
		for range conn.IdealBatchSize {
			b.bufs = append(b.bufs, make([]byte, room))
		}
		a.free <- b
	}
	return a
}

// attach connects a run's interface. It returns what disconnects it and closes
// it, and a channel that is closed when it has ended by itself. Nobody else has
// these addresses.
func (m *mux) attach(l link, addrs []netip.Addr) (detach func(), gone <-chan struct{}) {
	a := newAttached(l, func(src netip.Addr) bool { return slices.Contains(addrs, src) }, m.mtu+batchRoom)
	m.mu.Lock()
	for _, addr := range addrs {
		m.links[addr] = a
	}
	m.mu.Unlock()
	select {
	case <-m.done:
		a.close() // Close may have been through the links already
	default:
	}
	var pump sync.WaitGroup
	pump.Go(func() { m.pump(a) })
	return func() {
		m.mu.Lock()
		for _, addr := range addrs {
			if m.links[addr] == a {
				delete(m.links, addr)
			}
		}
		m.mu.Unlock()
		a.close()
		pump.Wait()
	}, a.gone
}

func (a *attached) close() {
	a.once.Do(func() {
		close(a.gone)
		_ = a.link.Close()
	})
}

// pump reads a link's packets for Read until it is closed. A packet that the
// segmentation of wireguard-go cannot take costs a run its interface, and nobody
// else anything (I16).
func (m *mux) pump(a *attached) {
	defer func() {
		if recover() != nil {
			a.close()
		}
	}()
	for {
		var b *batch
		select {
		case b = <-a.free:
		case <-a.gone:
			return
		}
		n, err := a.link.Read(b.bufs, b.sizes, 0)
		if err != nil && n == 0 {
			if os.IsTimeout(err) || err == tun.ErrTooManySegments {
				a.free <- b
				continue
			}
			a.close()
			return
		}
		b.n = a.keepOwn(b, n)
		if b.n == 0 {
			a.free <- b
			continue
		}
		select {
		case m.in <- b:
		case <-a.gone:
			return
		case <-m.done:
			return
		}
	}
}

// keepOwn moves the packets whose source is this link's to the front of b, and
// returns how many they are.
func (a *attached) keepOwn(b *batch, n int) int {
	kept := 0
	for i := range n {
		src, _, ok := addresses(b.bufs[i][:b.sizes[i]])
		if !ok || !a.owns(src) {
			continue
		}
		b.bufs[kept], b.bufs[i] = b.bufs[i], b.bufs[kept]
		b.sizes[kept] = b.sizes[i]
		kept++
	}
	return kept
}

// addresses reads source and destination of an IP packet (RFC 791 section 3.1,
// RFC 8200 section 3). It takes no packet whose own length is not that of p.
func addresses(p []byte) (src, dst netip.Addr, ok bool) {
	if len(p) == 0 {
		return src, dst, false
	}
	switch p[0] >> 4 {
	case 4:
		if len(p) < 20 || int(p[0]&15)*4 < 20 || int(binary.BigEndian.Uint16(p[2:])) != len(p) {
			return src, dst, false
		}
		return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), true
	case 6:
		if len(p) < 40 || int(binary.BigEndian.Uint16(p[4:]))+40 != len(p) {
			return src, dst, false
		}
		return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), true
	}
	return src, dst, false
}

// Read returns the packets of the run whose turn it is.
func (m *mux) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if m.held == nil {
		select {
		case m.held = <-m.in:
			m.from = 0
		case <-m.done:
			return 0, os.ErrClosed
		}
	}
	b, n := m.held, 0
	for n < len(bufs) && m.from < b.n {
		sizes[n] = copy(bufs[n][offset:], b.bufs[m.from][:b.sizes[m.from]])
		n++
		m.from++
	}
	if m.from == b.n {
		m.held = nil
		b.from.free <- b
	}
	return n, nil
}

// Write passes what came from the gateway on to the runs.
func (m *mux) Write(bufs [][]byte, offset int) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var (
		to    *attached
		first int
	)
	flush := func(end int) {
		if to != nil && end > first {
			// A run that cannot take a packet loses it, as on any network.
			_, _ = to.link.Write(bufs[first:end], offset)
		}
		first = end
	}
	for i, b := range bufs {
		var next *attached
		if _, dst, ok := addresses(b[offset:]); ok {
			if next = m.links[dst]; next == nil {
				next = m.host
			}
		}
		if next != to {
			flush(i)
			to = next
		}
	}
	flush(len(bufs))
	return len(bufs), nil
}

func (m *mux) Close() error {
	m.once.Do(func() {
		close(m.done)
		if m.events != nil {
			close(m.events)
		}
		if m.host != nil {
			m.host.close()
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, a := range m.links {
			a.close()
		}
	})
	return nil
}

func (m *mux) MTU() (int, error) {
	if m.device != nil {
		return m.device.MTU()
	}
	return m.mtu, nil
}

func (m *mux) Name() (string, error) {
	if m.device != nil {
		return m.device.Name()
	}
	return "runs", nil
}

func (m *mux) File() *os.File {
	if m.device != nil {
		return m.device.File()
	}
	return nil
}

func (m *mux) Events() <-chan tun.Event {
	if m.device != nil {
		return m.device.Events()
	}
	return m.events
}

func (m *mux) BatchSize() int { return conn.IdealBatchSize }

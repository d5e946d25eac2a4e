package wireguard

import (
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
)

const (
	batchSize = conn.IdealBatchSize // packets a Read or Write: what the bind moves at once

	// queueSize is how many packets may wait for Read. One may be a whole TCP
	// send of up to gsoMaxSize bytes, so this is 32 MiB at worst.
	queueSize  = 512
	gsoMaxSize = 65535 // the largest length an IPv4 header can say

	// groBucketSize mirrors the constant of that name in stack/gro.
	groBucketSize = 8
)

// link is the one thing between the WireGuard device and netstack: the tun
// device of the one and the network cards of the other. It has two cards.
// Netstack takes the word of a card for the checksums of everything that comes
// in through it, and it must, or segments that were merged on the way in would
// fail theirs. So the card "verified" gets only plain TCP segments whose
// checksums link has verified, and the card "plain" gets the rest (UDP, ICMP,
// fragments), which netstack and our handlers then verify.
type link struct {
	mtu    int
	tunnel *Tunnel

	transit *transit     // of the device's other side as well
	bind    *watchedBind // the device's other side

	verified, plain *card

	queue   chan *stack.PacketBuffer
	closed  chan struct{}
	closing sync.Once
	events  chan tun.Event
	gro     sync.Pool   // *gro.GRO
	pending *segmenter  // owned by the one goroutine that calls Read
	active  atomic.Bool // there was traffic since the last session poll
}

func newLink(mtu int, t *Tunnel) *link {
	l := &link{
		mtu:     mtu,
		tunnel:  t,
		transit: newTransit(),
		queue:   make(chan *stack.PacketBuffer, queueSize),
		closed:  make(chan struct{}),
		events:  make(chan tun.Event),
	}
	l.verified = &card{link: l, capabilities: stack.CapabilityRXChecksumOffload}
	l.plain = &card{link: l}
	l.gro.New = func() any {
		g := new(gro.GRO)
		g.Init(true)
		return g
	}
	return l
}

var _ tun.Device = (*link)(nil)

// File is nil: there is no file behind this tun.
func (l *link) File() *os.File { return nil }

// MTU returns the bytes of an inner packet.
func (l *link) MTU() (int, error) { return l.mtu, nil }

// Name returns a name for the device's log.
func (l *link) Name() (string, error) { return "netstack", nil }

// Events never has any: Open brings the device up itself, to see the error.
func (l *link) Events() <-chan tun.Event { return l.events }

// BatchSize is the number of packets of one Read or Write.
func (l *link) BatchSize() int { return batchSize }

// Close ends Read and every wait for room in the queue.
func (l *link) Close() error {
	l.closing.Do(func() {
		close(l.closed)
		close(l.events)
	})
	return nil
}

// drain releases what Read will not take any more. Only after Close, when
// nothing calls Read.
func (l *link) drain() {
	if l.pending != nil {
		l.pending.release()
		l.pending = nil
	}
	for {
		select {
		case p := <-l.queue:
			p.DecRef()
		default:
			return
		}
	}
}

// Read gives the device the packets netstack has sent, cut to the MTU. It waits
// for the first and takes along what else is there. A packet with more segments
// than there is room for goes on in the next Read.
func (l *link) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	l.transit.room(l.closed)
	if l.pending == nil {
		select {
		case p := <-l.queue:
			l.pending = newSegmenter(p)
		case <-l.closed:
			return 0, os.ErrClosed
		}
	}
	n := 0
	defer func() { l.transit.out.Add(int64(n)) }()
	for {
		for n < len(bufs) && l.pending.more() {
			sizes[n] = l.pending.next(bufs[n][offset:])
			n++
		}
		if l.pending.more() {
			return n, nil
		}
		l.pending.release()
		l.pending = nil
		if n == len(bufs) {
			return n, nil
		}
		select {
		case p := <-l.queue:
			l.pending = newSegmenter(p)
		default:
			return n, nil
		}
	}
}

// Write gives netstack packets that the device has decrypted. It never fails: a
// packet that is not wanted is dropped and counted. The device calls it from
// one goroutine per peer.
func (l *link) Write(bufs [][]byte, offset int) (int, error) {
	verified, plain := l.verified.dispatcher(), l.plain.dispatcher()
	if verified == nil || plain == nil {
		return len(bufs), nil
	}
	var merger *gro.GRO
	var from netip.Addr // of the packet before: a batch comes from one peer, mostly from one address
	var sender *peer
	for _, b := range bufs {
		if offset > len(b) {
			continue
		}
		in, verdict := parse(b[offset:])
		if verdict == malformed {
			l.tunnel.counters.malformed.Add(1)
			continue
		}
		if sender == nil || in.src != from {
			if sender != nil {
				sender.inside.busy.Add(-1)
			}
			if sender, from = l.tunnel.peers.Load().find(in.src), in.src; sender != nil {
				sender.inside.busy.Add(1)
			}
		}
		if sender != nil {
			sender.inside.gone.Add(1)
			if l.doubtful(sender, b) {
				continue
			}
		}
		if sender == nil || !l.tunnel.admit(in.src) {
			l.tunnel.counters.notAdmitted.Add(1)
			continue
		}
		if verdict == plausible {
			verdict = in.check(sender)
		}
		switch verdict {
		case badChecksum:
			l.tunnel.counters.badChecksum.Add(1)
			continue
		case unsupported, malformed, plausible:
			l.tunnel.counters.unsupported.Add(1)
			continue
		}
		if sender.heard(sinceStart()) {
			l.active.Store(true)
		}
		packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(in.bytes)})
		packet.NetworkProtocolNumber = in.protocol()
		switch {
		case verdict != verifiedTCP:
			plain.DeliverNetworkPacket(packet.NetworkProtocolNumber, packet)
		case len(bufs) == 1:
			verified.DeliverNetworkPacket(packet.NetworkProtocolNumber, packet)
		default:
			if merger == nil {
				merger = l.gro.Get().(*gro.GRO)
				merger.Dispatcher = verified
			}
			packet.RXChecksumValidated = true
			merger.Enqueue(packet)
		}
		packet.DecRef()
	}
	if sender != nil {
		defer sender.inside.busy.Add(-1)
	}
	if merger != nil {
		// One Flush releases one packet of each bucket: removing the first resets
		// the link that its loop would follow to the second.
		for range groBucketSize {
			merger.Flush()
		}
		merger.Dispatcher = nil
		l.gro.Put(merger)
	}
	return len(bufs), nil
}

// doubtful reports whether a packet is one that must go no further: of a peer
// that has deviated, which this packet may prove.
func (l *link) doubtful(sender *peer, packet []byte) bool {
	if l.bind != nil && l.bind.marking.Load() {
		if from, ok := suspicious(packet); ok {
			// It may have become the pin's while the packet was inside.
			if from.IsValid() && !sender.allows(from) {
				l.tunnel.deviate(sender, from, "a data packet")
			}
			return true
		}
	}
	return sender.deviated.Load()
}

// send queues one packet of netstack's for Read, or drops it.
func (l *link) send(packet *stack.PacketBuffer) tcpip.Error {
	t := l.tunnel
	dst, ok := outbound(packet)
	if !ok {
		// Not TCP, UDP or an echo reply: an ICMP error, a neighbour or router
		// solicitation, a group report. Those are ours to send, see icmp.go.
		return nil
	}
	p := t.peers.Load().find(dst)
	if p == nil || p.deviated.Load() || !t.admit(dst) {
		t.counters.notAdmitted.Add(1)
		return nil
	}
	segments := 1
	if mss := int(packet.GSOOptions.MSS); packet.GSOOptions.Type != stack.GSONone && mss > 0 {
		segments = max(1, (packet.Data().Size()+mss-1)/mss)
	}
	if !p.maySend(sinceStart(), segments) {
		t.counters.noSession.Add(1)
		return nil
	}
	if !l.active.Load() {
		l.active.Store(true)
	}
	packet.IncRef()
	if packet.TransportProtocolNumber != header.TCPProtocolNumber {
		select {
		case l.queue <- packet:
		default:
			packet.DecRef()
			t.counters.queueFull.Add(1)
		}
		return nil
	}
	// TCP waits: that is how netstack learns to slow down. Read goes on whatever
	// this goroutine holds, so the wait ends.
	select {
	case l.queue <- packet:
	case <-l.closed:
		packet.DecRef()
		return &tcpip.ErrClosedForSend{}
	}
	return nil
}

// admit asks Config.Admit; a panic is a no.
func (t *Tunnel) admit(addr netip.Addr) (ok bool) {
	defer t.contain("Admit")
	return t.cfg.Admit(addr)
}

// card is one of link's two network cards. Both send into the same queue.
type card struct {
	*link
	capabilities stack.LinkEndpointCapabilities
	attached     atomic.Pointer[stack.NetworkDispatcher]
}

var (
	_ stack.LinkEndpoint = (*card)(nil)
	_ stack.GSOEndpoint  = (*card)(nil)
)

// dispatcher is nil before the card is attached and after it is removed.
func (c *card) dispatcher() stack.NetworkDispatcher {
	if d := c.attached.Load(); d != nil {
		return *d
	}
	return nil
}

// Attach sets or, with nil, removes netstack's side.
func (c *card) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		c.attached.Store(nil)
		return
	}
	c.attached.Store(&d)
}

// IsAttached reports whether netstack is there.
func (c *card) IsAttached() bool { return c.attached.Load() != nil }

// WritePackets takes packets from netstack.
func (c *card) WritePackets(packets stack.PacketBufferList) (int, tcpip.Error) {
	for i, packet := range packets.AsSlice() {
		if err := c.send(packet); err != nil {
			return i, err
		}
	}
	return packets.Len(), nil
}

// MTU returns the bytes of an inner packet.
func (c *card) MTU() uint32 { return uint32(c.link.mtu) }

// SetMTU does nothing: the MTU is Config's.
func (c *card) SetMTU(uint32) {}

// Capabilities says whether the card's packets come with checksums verified.
func (c *card) Capabilities() stack.LinkEndpointCapabilities { return c.capabilities }

// SupportedGSO tells netstack to send TCP in pieces larger than the MTU and
// without checksums; Read cuts them and fills those in.
func (c *card) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize bounds such a piece.
func (c *card) GSOMaxSize() uint32 { return gsoMaxSize }

// A card has no link layer.

func (c *card) MaxHeaderLength() uint16                 { return 0 }
func (c *card) LinkAddress() tcpip.LinkAddress          { return "" }
func (c *card) SetLinkAddress(tcpip.LinkAddress)        {}
func (c *card) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (c *card) AddHeader(*stack.PacketBuffer)           {}
func (c *card) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (c *card) SetOnCloseAction(func())                 {}
func (c *card) Wait()                                   {}

// Close does nothing: the link closes with the WireGuard device.
func (c *card) Close() {}

package hostile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// What an agent that is root on its own host can do to its tunnel takes raw
// sockets there. So this test binary runs itself on the agent host, with the
// name of an attack and its arguments in its environment.
const attackVariable = "CLAWPATROL_ATTACK"

func init() {
	args := strings.Fields(os.Getenv(attackVariable))
	if len(args) == 0 {
		return
	}
	if err := perform(args[0], args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "attack %s: %v\n", args[0], err)
		os.Exit(1)
	}
	os.Exit(0)
}

func perform(name string, args []string) error {
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	limit, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	switch name {
	case "junk": // trains of datagrams that look like WireGuard data
		return junk(to, args[2], time.Now().Add(limit))
	case "syn": // connection attempts that go no further
		return synFlood(to, time.Now().Add(limit))
	case "udp": // small datagrams
		return udpFlood(to, time.Now().Add(limit))
	case "fetch": // an answer in segments of at most so many bytes
		mss, err := strconv.ParseUint(args[2], 10, 16)
		if err != nil {
			return err
		}
		return fetch(to, time.Now().Add(limit), uint16(mss))
	case "zerowindow": // answers that are never taken, on so many connections
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return zeroWindow(to, time.Now().Add(limit), n)
	case "frames": // a flood of HTTP/2 frames, by its key
		return floodFrames(to, time.Now().Add(limit), args[2], args[3])
	}
	return errors.New("no such attack")
}

// attack runs one on an agent host to its end, on what this machine has left:
// the agent host would be another.
func attack(ctx context.Context, agent *lab.Joined, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return agent.Run(ctx, "nice", "-n", "19", "env", attackVariable+"="+strings.Join(args, " "), self)
}

// junk sends what looks like data of a WireGuard session, in trains of 60: with
// the index of the agent host's own session, past the tunnel, if index is "own";
// else with random ones, through the tunnel.
func junk(to netip.AddrPort, index string, until time.Time) error {
	receiver := uint32(0)
	if index == "own" {
		var err error
		if receiver, err = ownIndex(to, until); err != nil {
			return err
		}
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	const size, train = 1000, 60
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) }); err != nil {
		return err
	}
	b := make([]byte, size*train)
	sent := 0
	for time.Now().Before(until) {
		for i := range train {
			p := b[i*size:]
			binary.LittleEndian.PutUint32(p, 4)
			if receiver != 0 {
				binary.LittleEndian.PutUint32(p[4:], receiver)
			} else {
				binary.LittleEndian.PutUint32(p[4:], rand.Uint32())
			}
			binary.LittleEndian.PutUint64(p[8:], rand.Uint64())
		}
		if _, err := conn.Write(b); err == nil {
			sent += train
		}
	}
	fmt.Println("sent", sent)
	return nil
}

// ownIndex looks at what the tunnel sends and returns the index that the gateway
// knows its session by.
func ownIndex(gateway netip.AddrPort, until time.Time) (uint32, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, unix.ETH_P_ALL>>8|unix.ETH_P_ALL&0xff<<8)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(time.Until(until).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return 0, err
	}
	if c, err := net.Dial("udp", "192.0.2.10:9"); err == nil { // so that there is something to look at
		_, _ = c.Write([]byte("x"))
		_ = c.Close()
	}
	b := make([]byte, 65536)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return 0, err
		}
		if n < 60 || b[0]>>4 != 4 && b[0]>>4 != 6 {
			continue
		}
		size, next := int(b[0]&0xf)*4, b[9]
		if b[0]>>4 == 6 {
			size, next = 40, b[6]
		}
		if next != 17 || binary.BigEndian.Uint16(b[size+2:]) != gateway.Port() {
			continue
		}
		if m := b[size+8 : n]; binary.LittleEndian.Uint32(m) == 4 {
			return binary.LittleEndian.Uint32(m[4:]), nil
		}
	}
}

func udpFlood(to netip.AddrPort, until time.Time) error {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	b := make([]byte, 64)
	sent := 0
	for time.Now().Before(until) {
		if _, err := conn.Write(b); err == nil {
			sent++
		}
	}
	fmt.Println("sent", sent)
	return nil
}

// wire is the tunnel's interface, for packets of one's own.
type wire struct {
	fd    int
	index int
	src   netip.Addr // of the registration's, unknown to this host's kernel
}

func openWire() (*wire, error) {
	ifi, err := net.InterfaceByName("clawpatrol0")
	if err != nil {
		return nil, err
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, err
	}
	w := &wire{index: ifi.Index}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.(*net.IPNet).IP); ok && ip.Unmap().Is4() {
			w.src = ip.Unmap().Next().Next()
		}
	}
	const ip4 = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, ip4); err != nil {
		return nil, err
	}
	return w, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: ip4, Ifindex: w.index})
}

// segment is what matters of a TCP segment.
type segment struct {
	port     uint16 // of the agent
	seq, ack uint32
	flags    header.TCPFlags
	window   uint16
	options  []byte
	payload  []byte
}

func (w *wire) send(to netip.AddrPort, s segment) error {
	size := header.TCPMinimumSize + len(s.options)
	b := make([]byte, header.IPv4MinimumSize+size+len(s.payload))
	src, dst := tcpip.AddrFromSlice(w.src.AsSlice()), tcpip.AddrFromSlice(to.Addr().AsSlice())
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: 6, SrcAddr: src, DstAddr: dst})
	ip.SetChecksum(^ip.CalculateChecksum())
	tcp := header.TCP(b[header.IPv4MinimumSize:])
	tcp.Encode(&header.TCPFields{SrcPort: s.port, DstPort: to.Port(), SeqNum: s.seq, AckNum: s.ack, DataOffset: uint8(size), Flags: s.flags, WindowSize: s.window})
	copy(tcp[header.TCPMinimumSize:], s.options)
	copy(tcp[size:], s.payload)
	sum := header.PseudoHeaderChecksum(6, src, dst, uint16(size+len(s.payload)))
	tcp.SetChecksum(^checksum.Checksum(tcp, sum))
	return unix.Sendto(w.fd, b, 0, &unix.SockaddrLinklayer{Protocol: 8, Ifindex: w.index})
}

// receive returns the next segment to one of our ports, with the agent's port.
func (w *wire) receive(b []byte, until time.Time) (segment, error) {
	for {
		left := time.Until(until)
		if left <= 0 {
			return segment{}, os.ErrDeadlineExceeded
		}
		tv := unix.NsecToTimeval(left.Nanoseconds())
		if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return segment{}, err
		}
		n, from, err := unix.Recvfrom(w.fd, b, 0)
		if err != nil {
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				continue
			}
			return segment{}, err
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 40 || b[9] != 6 {
			continue
		}
		if netip.AddrFrom4([4]byte(b[16:20])) != w.src {
			continue
		}
		tcp := header.TCP(b[20:n])
		return segment{
			port: tcp.DestinationPort(), seq: tcp.SequenceNumber(), ack: tcp.AckNumber(),
			flags: tcp.Flags(), window: tcp.WindowSize(), payload: tcp[tcp.DataOffset():],
		}, nil
	}
}

// synFlood begins connections and answers nothing. In the end it resets them, so
// that none is left to those who come after.
func synFlood(to netip.AddrPort, until time.Time) error {
	w, err := openWire()
	if err != nil {
		return err
	}
	const ports = 50000
	sent := 0
	for time.Now().Before(until) {
		if w.send(to, segment{port: uint16(1024 + sent%ports), seq: 1, flags: header.TCPFlagSyn, window: 65535}) == nil {
			sent++
		}
	}
	fmt.Println("sent", sent)
	return w.reset(to, 1024, min(sent, ports), 2)
}

// reset ends the connections from n ports on.
func (w *wire) reset(to netip.AddrPort, first uint16, n int, seq uint32) error {
	for i := range n {
		if i%100 == 0 {
			time.Sleep(time.Millisecond) // or the tunnel's queue drops some
		}
		if err := w.send(to, segment{port: first + uint16(i), seq: seq, flags: header.TCPFlagRst}); err != nil {
			return err
		}
	}
	return nil
}

const request = "GET / HTTP/1.0\r\n\r\n"

// fetch asks for something, acknowledges what comes and throws it away.
func fetch(to netip.AddrPort, until time.Time, mss uint16) error {
	w, err := openWire()
	if err != nil {
		return err
	}
	port, seq := uint16(20000+rand.IntN(20000)), uint32(1)
	syn := segment{port: port, seq: seq, flags: header.TCPFlagSyn, window: 65535,
		options: []byte{2, 4, byte(mss >> 8), byte(mss), 3, 3, 10, 0}} // MSS, window scale
	if err := w.send(to, syn); err != nil {
		return err
	}
	seq++
	b := make([]byte, 65536)
	got, next := 0, uint32(0)
	for {
		s, err := w.receive(b, until)
		if err != nil {
			fmt.Println("sent", got) // by the other side
			return w.reset(to, port, 1, seq)
		}
		switch {
		case s.port != port:
		case s.flags&header.TCPFlagRst != 0:
			return errors.New("reset")
		case s.flags&header.TCPFlagSyn != 0:
			next = s.seq + 1
			err = w.send(to, segment{port: port, seq: seq, ack: next, flags: header.TCPFlagAck | header.TCPFlagPsh, window: 4096, payload: []byte(request)})
			seq += uint32(len(request))
		default:
			got += len(s.payload)
			if d := int32(s.seq + uint32(len(s.payload)) - next); d > 0 {
				next += uint32(d)
			}
			err = w.send(to, segment{port: port, seq: seq, ack: next, flags: header.TCPFlagAck, window: 4096})
		}
		if err != nil {
			return err
		}
	}
}

// zeroWindow opens n connections one after the other, asks for something on each,
// ends its own side, and never makes room for the answer; it acknowledges every
// probe for room.
func zeroWindow(to netip.AddrPort, until time.Time, n int) error {
	w, err := openWire()
	if err != nil {
		return err
	}
	b := make([]byte, 65536)
	opened, reset, probes := 0, 0, 0
	open := func() error {
		opened++
		return w.send(to, segment{port: uint16(10000 + opened), seq: 1, flags: header.TCPFlagSyn, window: 65535})
	}
	next := map[uint16]uint32{}
	for i := 0; i < min(n, 100); i++ {
		if err := open(); err != nil {
			return err
		}
	}
	for {
		s, err := w.receive(b, until)
		if err != nil {
			fmt.Println("sent", opened, "reset", reset, "probes", probes)
			return w.reset(to, 10001, opened, 2+uint32(len(request))+1)
		}
		switch {
		case s.flags&header.TCPFlagRst != 0:
			reset++
			if next[s.port] == 0 && opened < n {
				err = open()
			}
		case s.flags&header.TCPFlagSyn != 0:
			next[s.port] = s.seq + 1
			err = w.send(to, segment{port: s.port, seq: 2, ack: s.seq + 1, flags: header.TCPFlagAck | header.TCPFlagPsh | header.TCPFlagFin, payload: []byte(request)})
			if opened < n {
				err = open()
			}
		default:
			probes++
			err = w.send(to, segment{port: s.port, seq: 2 + uint32(len(request)) + 1, ack: next[s.port], flags: header.TCPFlagAck})
		}
		if err != nil {
			return err
		}
	}
}

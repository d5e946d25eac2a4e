package sandbox

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/clawpatrol/clawpatrol/agent"
)

// fakeLink is a run's interface: what is put into out, the run sends; what it
// gets is in in.
type fakeLink struct {
	out  chan []byte
	once sync.Once
	done chan struct{}

	mu sync.Mutex
	in [][]byte
}

func newFakeLink() *fakeLink {
	return &fakeLink{out: make(chan []byte), done: make(chan struct{})}
}

func (l *fakeLink) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case p := <-l.out:
		if p == nil {
			panic("a packet that the segmentation cannot take")
		}
		sizes[0] = copy(bufs[0][offset:], p)
		return 1, nil
	case <-l.done:
		return 0, io.EOF
	}
}

func (l *fakeLink) Write(bufs [][]byte, offset int) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range bufs {
		l.in = append(l.in, slices.Clone(b[offset:]))
	}
	return len(bufs), nil
}

func (l *fakeLink) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *fakeLink) got() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.in)
}

// packet is an IP packet without anything inside.
func packet(src, dst string) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is4() {
		p := make([]byte, 20)
		p[0] = 0x45
		binary.BigEndian.PutUint16(p[2:], 20)
		copy(p[12:], s.AsSlice())
		copy(p[16:], d.AsSlice())
		return p
	}
	p := make([]byte, 40)
	p[0] = 0x60
	copy(p[8:], s.AsSlice())
	copy(p[24:], d.AsSlice())
	return p
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// readOne reads what comes out of the mux next.
func readOne(t *testing.T, m *mux) []byte {
	t.Helper()
	bufs, sizes := [][]byte{make([]byte, 2000)}, []int{0}
	n, err := m.Read(bufs, sizes, 16)
	if n != 1 || err != nil {
		t.Fatalf("Read: %d, %v", n, err)
	}
	return bufs[0][16 : 16+sizes[0]]
}

func TestMux_OnlyARunsOwnAddressPasses(t *testing.T) {
	m := newMux(1420)
	defer m.Close()
	one, two := newFakeLink(), newFakeLink()
	m.attach(one, addrs("10.55.0.2", "fd55::2"))
	m.attach(two, addrs("10.55.0.3", "fd55::3"))
	short := packet("10.55.0.2", "192.0.2.1")
	short[3] = 21 // its length is not the packet's
	for _, forged := range [][]byte{
		packet("10.55.0.3", "192.0.2.1"), packet("fd55::3", "2001:db8::1"), packet("0.0.0.0", "255.255.255.255"),
		packet("fe80::1", "ff02::2"), packet("::ffff:10.55.0.2", "2001:db8::1"), short, {0x45}, {}, make([]byte, 40),
	} {
		one.out <- forged
	}
	for _, honest := range [][]byte{packet("10.55.0.2", "192.0.2.1"), packet("fd55::2", "2001:db8::1")} {
		go func() { one.out <- honest }()
		if got := readOne(t, m); !slices.Equal(got, honest) {
			t.Fatalf("got %x, want %x", got, honest)
		}
	}
}

func TestMux_PacketsGoToTheRunThatHasTheAddress(t *testing.T) {
	m := newMux(1420)
	defer m.Close()
	one, two := newFakeLink(), newFakeLink()
	detach, _ := m.attach(one, addrs("10.55.0.2", "fd55::2"))
	m.attach(two, addrs("10.55.0.3", "fd55::3"))
	var bufs [][]byte
	for _, p := range [][]byte{
		packet("192.0.2.1", "10.55.0.2"), packet("192.0.2.1", "10.55.0.2"), packet("192.0.2.1", "10.55.0.3"), packet("2001:db8::1", "fd55::2"),
		packet("192.0.2.1", "10.55.0.9"), packet("2001:db8::1", "fd55::9"), {}, {0x45, 0},
	} {
		bufs = append(bufs, append(make([]byte, 16), p...))
	}
	if n, err := m.Write(bufs, 16); n != len(bufs) || err != nil {
		t.Fatal(n, err)
	}
	if one.got() != 3 || two.got() != 1 {
		t.Fatalf("one got %d, two %d", one.got(), two.got())
	}
	// Once a run has ended its address is nobody's.
	detach()
	if _, err := m.Write(bufs[:1], 16); err != nil || one.got() != 3 {
		t.Fatalf("after the end: %v, %d", err, one.got())
	}
}

// One run's interface may do what it likes: another's goes on (I16).
func TestI16_OneRunsPanicIsItsOwn(t *testing.T) {
	m := newMux(1420)
	defer m.Close()
	one, two := newFakeLink(), newFakeLink()
	m.attach(one, addrs("10.55.0.2"))
	m.attach(two, addrs("10.55.0.3"))
	one.out <- nil
	<-one.done // it was closed
	go func() { two.out <- packet("10.55.0.3", "192.0.2.1") }()
	readOne(t, m)
}

func TestMux_CloseEndsReadAndLinks(t *testing.T) {
	m := newMux(1420)
	l := newFakeLink()
	detach, _ := m.attach(l, addrs("10.55.0.2"))
	ended := make(chan error)
	go func() {
		_, err := m.Read(make([][]byte, conn.IdealBatchSize), make([]int, conn.IdealBatchSize), 16)
		ended <- err
	}()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	detach()
}

func FuzzAddresses(f *testing.F) {
	f.Add(packet("10.55.0.2", "192.0.2.1"))
	f.Add(packet("fd55::2", "2001:db8::1"))
	f.Add([]byte{0x4f, 0, 0, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		src, dst, ok := addresses(p)
		if ok && (!src.IsValid() || !dst.IsValid() || src.BitLen() != dst.BitLen()) {
			t.Fatalf("%v %v of %x", src, dst, p)
		}
	})
}

func TestAddressPool(t *testing.T) {
	p, err := newAddressPool([]netip.Prefix{netip.MustParsePrefix("10.55.0.17/28"), netip.MustParsePrefix("fd55:0:0:1::1/64")})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[netip.Addr]bool)
	var releases []func()
	for range maxRuns {
		got, release, err := p.take()
		if err != nil || len(got) != 2 {
			t.Fatal(got, err)
		}
		for _, a := range got {
			if seen[a] {
				t.Errorf("%s twice", a)
			}
			seen[a] = true
		}
		if !netip.MustParsePrefix("10.55.0.16/28").Contains(got[0]) || !netip.MustParsePrefix("fd55:0:0:1::/64").Contains(got[1]) {
			t.Errorf("%v is outside the ranges", got)
		}
		releases = append(releases, release)
	}
	if _, _, err := p.take(); !errors.Is(err, errFull) || agent.HintOf(err) == "" {
		t.Fatal(err)
	}
	releases[3]()
	releases[3]() // once is enough
	if _, _, err := p.take(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.take(); !errors.Is(err, errFull) {
		t.Fatal("an address was given back twice")
	}
	if _, err := newAddressPool([]netip.Prefix{netip.MustParsePrefix("10.55.0.17/30")}); err == nil {
		t.Fatal("a range with too few addresses was taken")
	}
}

// An address that has just been given back is the last to be given again: what
// still comes for its last holder is not for the next one.
func TestAddressPool_RestsAddresses(t *testing.T) {
	p, err := newAddressPool([]netip.Prefix{netip.MustParsePrefix("10.55.0.16/28")})
	if err != nil {
		t.Fatal(err)
	}
	var order []netip.Addr
	for range 2 * maxRuns {
		got, release, err := p.take()
		if err != nil {
			t.Fatal(err)
		}
		release()
		order = append(order, got[0])
	}
	if !slices.Equal(order[:maxRuns], order[maxRuns:]) || order[0] == order[1] {
		t.Fatal(order)
	}
}

// A run that comes while the tunnel goes is not left waiting.
func TestMux_AttachesNothingOnceClosed(t *testing.T) {
	m := newMux(1420)
	m.Close()
	l := newFakeLink()
	detach, gone := m.attach(l, addrs("10.55.0.2"))
	defer detach()
	select {
	case <-gone:
	default:
		t.Error("it is attached")
	}
	select {
	case <-l.done:
	default:
		t.Error("its link is open")
	}
}

package egress_test

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// world is a real resolver on loopback. Its names answer what the test says.
type world struct {
	addr netip.AddrPort

	mu      sync.Mutex
	answers map[string][]func() []dns.RR // by name and type: one call each, the last stays
	asked   map[string]int
	edit    func(transport string, reply *dns.Msg)
}

func startWorld(t *testing.T) *world {
	t.Helper()
	w := &world{answers: map[string][]func() []dns.RR{}, asked: map[string]int{}}
	var (
		pc  net.PacketConn
		ln  net.Listener
		err error
	)
	for range 10 { // the port must be free for both transports
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
	for transport, s := range map[string]*dns.Server{"udp": {PacketConn: pc}, "tcp": {Listener: ln}} {
		s.Handler = dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) { w.serve(transport, rw, q) })
		started, ended := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(ended)
			s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() { s.Shutdown(); <-ended })
	}
	return w
}

func (w *world) serve(transport string, rw dns.ResponseWriter, q *dns.Msg) {
	key := q.Question[0].Name + dns.TypeToString[q.Question[0].Qtype]
	reply := new(dns.Msg).SetReply(q)
	w.mu.Lock()
	w.asked[key]++
	known := w.answers[key]
	if len(known) > 1 {
		w.answers[key] = known[1:]
	}
	if w.answers[q.Question[0].Name+"A"] == nil && w.answers[q.Question[0].Name+"AAAA"] == nil {
		reply.Rcode = dns.RcodeNameError
	}
	edit := w.edit
	w.mu.Unlock()
	if len(known) > 0 {
		reply.Answer = known[0]()
	}
	if edit != nil {
		edit(transport, reply)
	}
	rw.WriteMsg(reply)
}

// records says what the question key, name and type, is answered with.
func (w *world) records(key string, rrs func() []dns.RR) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[key] = append(w.answers[key], rrs)
}

// change has every answer edited from now on; nil: as they are.
func (w *world) change(edit func(transport string, reply *dns.Msg)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.edit = edit
}

// name makes host resolve to addrs; a second call for the same host and family
// says what follows.
func (w *world) name(host string, ttl uint32, addrs ...string) {
	byType := map[string][]dns.RR{}
	for _, s := range addrs {
		a := netip.MustParseAddr(s)
		h := dns.RR_Header{Name: host + ".", Class: dns.ClassINET, Ttl: ttl}
		if a.Is4() {
			h.Rrtype = dns.TypeA
			byType["A"] = append(byType["A"], &dns.A{Hdr: h, A: a.AsSlice()})
		} else {
			h.Rrtype = dns.TypeAAAA
			byType["AAAA"] = append(byType["AAAA"], &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for qtype, rrs := range byType {
		w.answers[host+"."+qtype] = append(w.answers[host+"."+qtype], func() []dns.RR { return rrs })
	}
}

func (w *world) queries(host, qtype string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[host+"."+qtype]
}

// service is a real listener that knows who reached it.
type service struct {
	port uint16
	mu   sync.Mutex
	from []string        // network and source, in order
	own  map[string]bool // those of seen itself
}

// startService listens for TCP and UDP on every address of this host.
func startService(t *testing.T) *service {
	t.Helper()
	s := &service{own: map[string]bool{}}
	var (
		ln  net.Listener
		pc  net.PacketConn
		err error
	)
	for range 10 {
		if ln, err = net.Listen("tcp", ":0"); err != nil {
			t.Fatal(err)
		}
		s.port = netip.MustParseAddrPort(ln.Addr().String()).Port()
		if pc, err = net.ListenPacket("udp", ln.Addr().String()); err == nil {
			break
		}
		ln.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.note(conn.RemoteAddr())
			conn.Close()
		}
	})
	running.Go(func() {
		buf := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			s.note(from)
		}
	})
	t.Cleanup(func() { ln.Close(); pc.Close(); running.Wait() })
	return s
}

func key(a net.Addr) string {
	ap := netip.MustParseAddrPort(a.String())
	return a.Network() + " " + netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}

func (s *service) note(a net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from = append(s.from, key(a))
}

// seen is how many have reached the service until now: connections and
// datagrams are taken in order, so those before seen's own are counted when
// its own have arrived.
func (s *service) seen(t *testing.T) int {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		conn, err := net.Dial(network, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(s.port))))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte("own"))
		own := key(conn.LocalAddr())
		for deadline := time.Now().Add(5 * time.Second); !s.has(own); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the service does not answer")
			}
		}
		s.mu.Lock()
		s.own[own] = true
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, from := range s.from {
		if !s.own[from] {
			n++
		}
	}
	return n
}

func (s *service) has(from string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.from, from)
}

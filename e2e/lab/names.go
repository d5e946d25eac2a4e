package lab

import (
	"errors"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Names is the world's DNS: the public resolver of the lab.
type Names struct {
	mu      sync.Mutex
	hosts   map[string][]netip.Addr // by lower-case name with trailing dot
	queries []string
}

// Set makes name resolve to addrs.
func (n *Names) Set(name string, addrs ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[strings.ToLower(dns.Fqdn(name))] = addrs
}

// Queries returns the names asked so far.
func (n *Names) Queries() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.queries...)
}

// ServeDNS answers A and AAAA from the table, NXDOMAIN for names it lacks.
func (n *Names) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if len(q.Question) == 1 {
		name := strings.ToLower(q.Question[0].Name)
		n.mu.Lock()
		n.queries = append(n.queries, name)
		addrs, ok := n.hosts[name]
		n.mu.Unlock()
		if !ok {
			m.Rcode = dns.RcodeNameError
		}
		for _, a := range addrs {
			h := dns.RR_Header{Name: q.Question[0].Name, Class: dns.ClassINET, Ttl: 5}
			switch {
			case a.Is4() && q.Question[0].Qtype == dns.TypeA:
				h.Rrtype = dns.TypeA
				m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
			case a.Is6() && q.Question[0].Qtype == dns.TypeAAAA:
				h.Rrtype = dns.TypeAAAA
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
			}
		}
	}
	_ = w.WriteMsg(m) // the asker may be gone
}

func (l *Lab) serveNames() (*Names, error) {
	n := &Names{hosts: map[string][]netip.Addr{}}
	for _, a := range []netip.Addr{NamesIPv4, NamesIPv6} {
		addr := netip.AddrPortFrom(a, 53).String()
		pc, err := l.World.ListenUDP(addr)
		if err != nil {
			return nil, err
		}
		ln, err := l.World.Listen(addr)
		if err != nil {
			return nil, errors.Join(err, pc.Close())
		}
		for _, s := range []*dns.Server{{PacketConn: pc, Handler: n}, {Listener: ln, Handler: n}} {
			done := make(chan struct{})
			started := make(chan struct{})
			s.NotifyStartedFunc = func() { close(started) }
			go func() {
				defer close(done)
				_ = s.ActivateAndServe() // ends at Shutdown
			}()
			<-started
			l.onClose(func() error {
				err := s.Shutdown()
				<-done
				return err
			})
		}
	}
	return n, nil
}

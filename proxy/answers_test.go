package proxy_test

import (
	"net/netip"
	"sync"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// recorder collects what goes back into the tunnel.
type recorder struct {
	mu      sync.Mutex
	sent    []answer
	echoes  []wireguard.Echo
	refused []refusal
}

type answer struct {
	from, to netip.AddrPort
	payload  string
}

// refusal is an ICMP error about a datagram from agent to remote.
type refusal struct {
	remote, agent netip.AddrPort
	why           wireguard.Disposition
}

func record(k *proxytest.Kit) *recorder {
	r := new(recorder)
	k.Proxy.SetAnswers(r)
	return r
}

func (r *recorder) SendUDP(from, to netip.AddrPort, payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, answer{from, to, string(payload)})
	return nil
}

func (r *recorder) SendEcho(e wireguard.Echo) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.echoes = append(r.echoes, e)
	return nil
}

func (r *recorder) RefuseUDP(remote, agent netip.AddrPort, d wireguard.Disposition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = append(r.refused, refusal{remote, agent, d})
}

func (r *recorder) refusals() []refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]refusal(nil), r.refused...)
}

func (r *recorder) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sent) + len(r.echoes)
}

func (r *recorder) answers() []answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]answer(nil), r.sent...)
}

// query is a DNS query for the A records of name.
func query(t *testing.T, name string) []byte {
	t.Helper()
	b, err := new(mdns.Msg).SetQuestion(name, mdns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

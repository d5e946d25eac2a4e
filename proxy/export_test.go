package proxy

import (
	"net/netip"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

// Answers stands for the tunnel in tests.
type Answers interface {
	SendUDP(from, to netip.AddrPort, payload []byte) error
	SendEcho(e wireguard.Echo) error
	RefuseUDP(remote, agent netip.AddrPort, d wireguard.Disposition)
}

// KeepVirtual does what follow does from time to time.
func (p *Proxy) KeepVirtual() { p.keepVirtual() }

// SetAnswers is SetTunnel for tests.
func (p *Proxy) SetAnswers(a Answers) { p.setAnswers(a) }

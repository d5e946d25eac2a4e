package proxy

import (
	"slices"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// LiveFlow is one running flow, for operators. It has nothing of what the flow
// carries.
type LiveFlow struct {
	Protocol    string // "tcp", "udp", "dns", or the endpoint's type
	Destination string // host:port: the name that the agent used where it is known, else the address
	Endpoint    string // ref; "": the flow is carried unchanged
	Since       time.Time
	// Bytes went both ways, so far. Of an endpoint's flow they are those of its
	// actions that have finished.
	Bytes int64
}

// Flows lists a registration's running flows, newest first and at most limit of
// them.
func (p *Proxy) Flows(id registry.ID, limit int) []LiveFlow {
	running := p.flows.of(id)
	slices.SortFunc(running, func(a, b *live) int { return b.began.Compare(a.began) })
	running = running[:min(len(running), max(limit, 0))]
	list := make([]LiveFlow, 0, len(running))
	for _, l := range running {
		list = append(list, l.describe())
	}
	return list
}

// of is all for one registration.
func (t *liveTable) of(id registry.ID) []*live {
	t.mu.Lock()
	defer t.mu.Unlock()
	var flows []*live
	for l := range t.flows {
		if l.id == id {
			flows = append(flows, l)
		}
	}
	return flows
}

func (l *live) describe() LiveFlow {
	l.mu.Lock()
	defer l.mu.Unlock()
	host := l.target.host
	if l.target.sni != "" {
		host = l.target.sni
	}
	f := LiveFlow{Protocol: l.protocol, Destination: hostPort(host, l.target.port), Since: l.began, Bytes: l.moved.Load()}
	if l.endpoint != nil {
		f.Endpoint = l.endpoint.Ref()
	}
	if l.carried != nil {
		f.Bytes = l.carried()
	}
	return f
}

package wireguard

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A connection that was closed stays in netstack, with what it has not sent yet,
// until the agent has taken that. An agent that never does, and answers every
// probe for room in its window, could have any number of them. So they count as
// the agent's for as long as they are there, and that has an end.
const (
	lingerMax   = 5 * time.Minute // 4 MiB at 100 kbit/s
	lingerFirst = 10 * time.Millisecond
	lingerEvery = time.Second
)

// linger waits until netstack is done with a closed endpoint, and aborts one
// that takes too long. gone is called once.
func linger(ep tcpip.Endpoint, gone func()) {
	deadline := time.Now().Add(lingerMax)
	wait := lingerFirst
	var look func()
	look = func() {
		switch {
		case finished(ep):
			gone()
			return
		case time.Now().After(deadline):
			ep.Abort()
			gone()
			return
		}
		wait = min(2*wait, lingerEvery)
		time.AfterFunc(wait, look)
	}
	time.AfterFunc(wait, look)
}

// finished reports whether an endpoint has nothing left to send or to wait for:
// TIME-WAIT keeps an address pair, and no data.
func finished(ep tcpip.Endpoint) bool {
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateClose, tcp.StateError, tcp.StateTimeWait:
		return true
	}
	return false
}

package https

import (
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A pool whose idle connections were all closed for their places parks and
// sweeps those that come later.
func TestPoolsAreTendedAfterTheirIdleConnectionsWereClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &h1Pool{}
		idle := func() *upstream {
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close(); far.Close() })
			s := newSocket(near, func() {})
			// Nobody is at the other end: no handshake is ever made.
			return newUpstream(p, tls.Client(s, &tls.Config{InsecureSkipVerify: true}), s)
		}
		p.put(idle())
		p.closeIdle()
		u := idle()
		p.put(u)
		time.Sleep(3 * parkAfter)
		synctest.Wait()
		p.mu.Lock()
		parked := u.parked != nil
		p.mu.Unlock()
		if !parked {
			t.Error("nobody waits for the upstream to hang up")
		}
		p.close()
	})
}

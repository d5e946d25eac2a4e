package proxy_test

import (
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
)

func TestPeers_HealthReachesTheRegistry(t *testing.T) {
	w := openTunnel(t, proxytest.New(t, ""))
	a := w.enrol(t, "agent")
	w.Eventually(30*time.Second, "the registry knows of the handshake and of keepalives", func() bool {
		h := w.DB.Health(a.id)
		return h.Handshakes > 0 && h.BytesIn > 0 && h.BytesOut > 0 && !h.LastHandshake.IsZero()
	})
	before := w.DB.Health(a.id)
	w.Eventually(30*time.Second, "keepalives add to it", func() bool { return w.DB.Health(a.id).BytesIn > before.BytesIn })
}

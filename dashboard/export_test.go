package dashboard

import (
	"maps"
	"net/http"
	"net/netip"
	"slices"
)

// ForTest sets what production leaves to defaults: a password hash that costs
// little, and the gateway's own addresses.
func (c Config) ForTest(cost int, own ...netip.Addr) Config {
	c.passwordCost = cost
	c.gatewayAddrs = func() []netip.Addr { return own }
	return c
}

// Routes lists the patterns behind the gate, and those before it.
func Routes(h http.Handler) (gated, public []string) {
	rt := h.(*dashboard).router
	return rt.patterns, slices.Sorted(maps.Keys(rt.public))
}

// AddRoute adds a route as a later issue would.
func AddRoute(h http.Handler, pattern string, serve http.HandlerFunc) {
	h.(*dashboard).router.handle(pattern, serve)
}

// Hashing takes every place for bcrypt work until release is called.
func Hashing(h http.Handler) (release func()) {
	p := h.(*dashboard).passwords
	for range maxHashing {
		p.hashing <- struct{}{}
	}
	return func() {
		for range maxHashing {
			<-p.hashing
		}
	}
}

// Waiting counts the callers that wait for bcrypt work or do it.
func Waiting(h http.Handler) int { return len(h.(*dashboard).passwords.waiting) }

const MaxWaiting = maxHashing + maxWaiting

// Shown is how pages show outside text.
func Shown(s string) string { return shown(s) }

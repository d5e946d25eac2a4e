package dashboard

import (
	"bytes"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
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

// ShellWord quotes a word for a shell.
func ShellWord(s string) string { return shellWord(s) }

// Replayed is the text that pages show of a file, read as either kind of
// recording.
func Replayed(file []byte, columns, rows uint32, at float64) string {
	var b strings.Builder
	if f, err := replay(bytes.NewReader(file), columns, rows, at); err == nil {
		b.WriteString(strings.Join(f.Lines, "") + seconds(f.At) + seconds(f.End) + shown(f.Mark))
		for _, l := range replayLinks("/", f) {
			b.WriteString(l.URL)
		}
	}
	chunks, _, err := transcript(bytes.NewReader(file), 0)
	for _, c := range chunks {
		b.WriteString(seconds(c.At) + c.Stream + c.Text)
	}
	if err != nil {
		b.WriteString(err.Error())
	}
	return b.String()
}

// Strength is what pages tell of a new password.
func Strength(password string) (weak bool, said string) {
	s := strengthOf(password)
	return s.weak(), s.String()
}

// OpenAPI is the description of the API as it is served.
func OpenAPI() []byte { return apiDocument() }

// CheckingDraft takes the turn at checking drafts until release is called.
func CheckingDraft(h http.Handler) (release func()) {
	release, err := h.(*dashboard).drafts.enter()
	if err != nil {
		panic(err)
	}
	return release
}

// Drafts counts the drafts that are checked or wait.
func Drafts(h http.Handler) int { return int(h.(*dashboard).drafts.inside.Load()) }

// KeptFields are the fields of forms that come back to who has no session.
func KeptFields() []string { return keptFields }

// OwnedBy has connections from this host belong to whom says so.
func (c Config) OwnedBy(whom func(from netip.AddrPort) uint64) Config {
	c.connectionOwner = func(from, _ netip.AddrPort) owner { return owner(whom(from)) }
	return c
}

// ConnectionOwner is what the kernel says: a UNIX user's ID and 1, or 0.
func ConnectionOwner(from, to netip.AddrPort) uint64 { return uint64(connectionOwner(from, to)) }

// StillLoggedIn reports whether a stream that r asks for would go on.
func StillLoggedIn(h http.Handler, r *http.Request) (bool, error) {
	alive, err := h.(*dashboard).stillLoggedIn(r)
	if err != nil {
		return false, err
	}
	return alive(), nil
}

// Streams counts the open streams of events.
func Streams(h http.Handler) int { return len(h.(*dashboard).streams) }

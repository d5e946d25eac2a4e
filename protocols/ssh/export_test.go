package ssh

import (
	"io"
	"time"

	"golang.org/x/time/rate"

	"github.com/clawpatrol/clawpatrol/secret"
)

// SetRekeyAfter makes both halves of later connections change keys after n bytes.
func (h *Handler) SetRekeyAfter(n uint64) { h.rekey = n }

// SetKeepAlive makes later connections ask their upstream every d.
func (h *Handler) SetKeepAlive(d time.Duration) { h.patience.keepAlive = d }

// NewScrubbed returns what looks for a password in one stream.
func NewScrubbed(password secret.Secret) func([]byte) { return newScrubber(password).stream().pass }

// SetOpens makes registrations that connect later open n channels a second.
func (h *Handler) SetOpens(n float64) { h.shares.opens = rate.Limit(n) }

// Ledger is one with a stream that nobody reads, and one that is read of.
type Ledger struct {
	*ledger
	stuck, busy *stream
}

// NewLedger returns one for a registration with two channels.
func NewLedger(over func()) *Ledger {
	s := &share{}
	s.channels.Take(2)
	l := &Ledger{ledger: &ledger{share: s, over: over}}
	l.stuck, l.busy = l.follow(neverRead{}), l.follow(neverRead{})
	return l
}

var someBytes [64 << 10]byte

type neverRead struct{}

func (neverRead) Read(p []byte) (int, error) { return len(p), nil }

// Received tells of n bytes that came over the wire.
func (l *Ledger) Received(n int) { l.received(n) }

// Read reads n bytes of one stream, and there are more.
func (l *Ledger) Read(n int) {
	_, _ = l.busy.Read(someBytes[:n])
	l.busy.empty.Store(l.unread.Load()) // and then none
}

// Idle has an ended stream instead of the one that nobody reads.
func (l *Ledger) Idle(r io.Reader) {
	l.stuck.leave()
	_, _ = l.follow(r).Read(make([]byte, 1))
}

// Leave ends all streams.
func (l *Ledger) Leave() {
	for s := range l.streams {
		s.leave()
	}
}

// OffersFastest reports whether a client's version and offer name aes128-gcm.
func OffersFastest(r io.Reader) bool { return offersFastest(r) }

// SetPatience has later connections wait for agents and upstreams so long.
func (h *Handler) SetPatience(agent, upstream time.Duration) {
	h.patience.agent, h.patience.upstream = agent, upstream
}

// Opened is how many keys with a passphrase have been opened, or not.
func (h *Handler) Opened() int { return h.opened.times }

// Shares is how many registrations' shares are kept.
func (h *Handler) Shares() int {
	h.shares.mu.Lock()
	defer h.shares.mu.Unlock()
	return len(h.shares.of)
}

// Connected is how many flows hold one of them.
func (h *Handler) Connected() (n int) {
	h.shares.mu.Lock()
	defer h.shares.mu.Unlock()
	for _, s := range h.shares.of {
		n += s.holders
	}
	return n
}

package ssh

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/clawpatrol/clawpatrol/secret"
)

// SetRekeyAfter makes both halves of later connections change keys after n bytes.
func (h *Handler) SetRekeyAfter(n uint64) { h.rekeyAfter = n }

// SetKeepAlive makes later connections ask their upstream every d.
func (h *Handler) SetKeepAlive(d time.Duration) { h.keepAliveAfter = d }

// NewScrubbed returns what looks for a password in one stream.
func NewScrubbed(password secret.Secret) func([]byte) { return newScrubber(password).stream().pass }

// SetOpens makes registrations that connect later open n channels a second.
func (h *Handler) SetOpens(n float64) { h.shares.opens = rate.Limit(n) }

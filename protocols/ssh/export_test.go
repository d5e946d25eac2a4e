package ssh

import "time"

// SetRekeyAfter makes both halves of later connections change keys after n bytes.
func (h *Handler) SetRekeyAfter(n uint64) { h.rekeyAfter = n }

// SetKeepAlive makes later connections ask their upstream every d.
func (h *Handler) SetKeepAlive(d time.Duration) { h.keepAliveAfter = d }

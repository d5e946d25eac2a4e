package agent

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

// Hint returns what the operator of the agent host can do about it.
func (h *hinted) Hint() string  { return h.hint }
func (h *hinted) Unwrap() error { return h.error }

// withHint adds advice to an error. nil stays nil.
func withHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, hint}
}

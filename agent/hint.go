package agent

import "errors"

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

// Hint returns what the operator of the agent host can do about it.
func (h *hinted) Hint() string  { return h.hint }
func (h *hinted) Unwrap() error { return h.error }

// ErrUsage is in the chain of an error about what a command was asked for, before
// anything was done.
var ErrUsage = errors.New("wrong usage")

// usage puts ErrUsage into the chain of err, whose words stay. nil stays nil.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

type usageError struct{ error }

func (e *usageError) Unwrap() []error { return []error{e.error, ErrUsage} }

// HintOf returns the advice an error carries, or "".
func HintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// WithHint adds advice to an error, where there is any. nil stays nil.
func WithHint(err error, hint string) error {
	if err == nil || hint == "" {
		return err
	}
	return &hinted{err, hint}
}

package main

import (
	"errors"
	"fmt"
	"syscall"
)

// hinted is an error with advice, which main prints on a line of its own.
type hinted struct {
	error
	advice string
}

func (h *hinted) Unwrap() error { return h.error }
func (h *hinted) Hint() string  { return h.advice }

// hint returns the advice an error carries, if any error in its chain has some.
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// portTaken adds advice to the error of a bind that found its port in use.
func portTaken(err error, attribute string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	return &hinted{err, fmt.Sprintf("another program, perhaps another gateway, has this port: stop it (`ss -lntup` shows it) or change %s", attribute)}
}

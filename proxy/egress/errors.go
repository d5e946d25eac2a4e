package egress

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
)

// dialError is a failure whose text an agent may read: it names what the caller
// asked for and what went wrong, and no resolved address, resolver or interface
// of the gateway. The cause is below, for errors.Is and errors.As.
type dialError struct {
	target string
	reason string
	cause  error
}

func (e *dialError) Error() string { return "connecting to " + e.target + ": " + e.reason }
func (e *dialError) Unwrap() error { return e.cause }

func target(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// describe turns the error of a dial into what this package returns: *Refused
// itself where the rules refused, else a *dialError.
func describe(target string, err error) error {
	if r, ok := errors.AsType[*Refused](err); ok {
		return r
	}
	reason := "failed"
	var (
		errno   syscall.Errno
		dns     *net.DNSError
		timeout net.Error
	)
	switch {
	case errors.Is(err, context.Canceled):
		reason = "canceled"
	case errors.As(err, &dns):
		switch {
		case dns.IsNotFound:
			reason = "no such host"
		case dns.IsTimeout:
			reason = "resolving the name timed out"
		default:
			reason = "the name could not be resolved"
		}
	case errors.As(err, &errno):
		reason = errno.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		reason = "timed out"
	}
	return &dialError{target: target, reason: reason, cause: err}
}

package protocols

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/clawpatrol/clawpatrol/proxy/egress"
)

// Failure is why an upstream could not be used, in words an agent may read: no
// address, nothing the upstream said.
type Failure struct {
	Class  string // for the log and for programs: "dns", "refused", "timeout", ...
	Reason string // completes "the endpoint could not be reached: "
}

// Explain classifies an error of dialling, of the TLS handshake, or of using
// the connection. Errors it does not know are "upstream_error".
func Explain(err error) Failure {
	var (
		dns       *net.DNSError
		forbidden *egress.Refused
		hostname  x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		certErr   *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &forbidden):
		return Failure{"egress", "the gateway's egress rules forbid its address"}
	case errors.As(err, &dns) && dns.IsNotFound:
		return Failure{"dns", "its name does not resolve"}
	case errors.As(err, &dns):
		return Failure{"dns", "resolving its name failed"}
	case errors.As(err, &hostname):
		return Failure{"certificate_host", "its certificate is not valid for this host"}
	case errors.As(err, &authority):
		return Failure{"certificate_authority", "its certificate is signed by an unknown authority"}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Failure{"certificate_expired", "its certificate has expired or is not yet valid"}
	case errors.As(err, &invalid), errors.As(err, &certErr):
		return Failure{"certificate", "its certificate could not be verified"}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Failure{"timeout", "it did not answer in time"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return Failure{"refused", "it refused the connection"}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return Failure{"unreachable", "there is no route to it"}
	case errors.As(err, &record), isTLS(err):
		return Failure{"tls", "the TLS handshake with it failed"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Failure{"closed", "it closed the connection before it answered"}
	}
	return Failure{"upstream_error", "its answer could not be used"}
}

// isTLS recognises crypto/tls's alerts, whose type is not exported.
func isTLS(err error) bool { return strings.Contains(err.Error(), "tls: ") }

// WantsOtherProtocol reports whether the upstream ended the handshake because
// it speaks none of the protocols offered by ALPN (RFC 7301 section 3.2).
func WantsOtherProtocol(err error) bool {
	return err != nil && strings.Contains(err.Error(), "tls: no application protocol")
}

package protocols_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
)

func TestExplainNamesTheClassAndNothingElse(t *testing.T) {
	inner := "10.20.30.40:8443 said SECRET"
	for class, err := range map[string]error{
		"egress":                &egress.Refused{Reason: "private range"},
		"dns":                   &net.DNSError{Err: "no such host", Name: inner, IsNotFound: true},
		"refused":               &net.OpError{Op: "dial", Err: fmt.Errorf("%s: %w", inner, syscall.ECONNREFUSED)},
		"unreachable":           &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH},
		"timeout":               fmt.Errorf("%s: %w", inner, context.DeadlineExceeded),
		"certificate_host":      &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}},
		"certificate_authority": &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
		"certificate_expired":   &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}},
		"certificate":           &tls.CertificateVerificationError{Err: errors.New(inner)},
		"tls":                   tls.RecordHeaderError{Msg: inner},
		"closed":                fmt.Errorf("%s: %w", inner, io.EOF),
		"upstream_error":        errors.New(inner),
	} {
		f := protocols.Explain(fmt.Errorf("doing it: %w", err))
		if f.Class != class {
			t.Errorf("%v: class %q, want %q", err, f.Class, class)
		}
		if f.Reason == "" || strings.Contains(f.Reason, "10.20") || strings.Contains(f.Reason, "SECRET") {
			t.Errorf("%v: reason %q", err, f.Reason)
		}
	}
	if f := protocols.Explain(&net.OpError{Op: "dial", Err: timeoutError{}}); f.Class != "timeout" {
		t.Errorf("a timeout is %q", f.Class)
	}
	if protocols.WantsOtherProtocol(nil) || protocols.WantsOtherProtocol(io.EOF) {
		t.Error("not an ALPN failure")
	}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

// handshake runs config against a server with a leaf for name, up to TLS max.
func handshake(t *testing.T, world *ca.CA, name string, max uint16, config *tls.Config, alpn ...string) error {
	t.Helper()
	leaf, err := world.Leaf(name)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	_, _ = near.SetDeadline(deadline), far.SetDeadline(deadline)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer far.Close()
		server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{*leaf}, MinVersion: tls.VersionTLS10, MaxVersion: max, NextProtos: alpn})
		if server.Handshake() == nil {
			_, _ = server.Read(make([]byte, 1))
		}
	})
	client := tls.Client(near, config)
	err = client.Handshake()
	near.Close()
	wg.Wait()
	return err
}

func TestI04_UpstreamTLSVerifiesTheHost(t *testing.T) {
	world, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca")})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(world.CertPEM())
	trusting, system := &policy.Endpoint{RootCAs: roots}, &policy.Endpoint{}
	for name, tc := range map[string]struct {
		endpoint *policy.Endpoint
		host     string
		leaf     string
		max      uint16
		want     string // "": succeeds
	}{
		"right":             {trusting, "a.example", "a.example", tls.VersionTLS13, ""},
		"TLS 1.2":           {trusting, "a.example", "a.example", tls.VersionTLS12, ""},
		"address":           {trusting, "192.0.2.1", "192.0.2.1", tls.VersionTLS13, ""},
		"IPv6 address":      {trusting, "2001:db8::1", "2001:db8::1", tls.VersionTLS13, ""},
		"another host":      {trusting, "a.example", "b.example", tls.VersionTLS13, "certificate_host"},
		"another address":   {trusting, "192.0.2.1", "192.0.2.2", tls.VersionTLS13, "certificate_host"},
		"unknown authority": {system, "a.example", "a.example", tls.VersionTLS13, "certificate_authority"},
		"TLS 1.1":           {trusting, "a.example", "a.example", tls.VersionTLS11, "tls"},
	} {
		err := handshake(t, world, tc.leaf, tc.max, protocols.UpstreamTLS(tc.endpoint, tc.host, 1))
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (err == nil || protocols.Explain(err).Class != tc.want):
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
	if err := handshake(t, world, "a.example", tls.VersionTLS13, protocols.UpstreamTLS(trusting, "a.example", 0, "http/1.1"), "none"); !protocols.WantsOtherProtocol(err) {
		t.Errorf("no protocol in common: %v", err)
	}
	a, b := protocols.UpstreamTLS(trusting, "a.example", 1), protocols.UpstreamTLS(trusting, "a.example", 1)
	if a.ClientSessionCache == nil || a.ClientSessionCache == b.ClientSessionCache {
		t.Error("two configurations share their sessions")
	}
}

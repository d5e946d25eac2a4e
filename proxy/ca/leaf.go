package ca

import (
	"container/list"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// leafLifetime is short because nothing revokes a leaf, and long enough for
	// a tool that keeps a connection over a weekend and then renegotiates.
	leafLifetime = 7 * 24 * time.Hour

	// backdate lets agent hosts with a slow clock accept a new certificate.
	backdate = time.Hour

	// maxLeaves bounds the cache: about 2 KiB each.
	maxLeaves = 4096
)

// mint signs a leaf for name, which is canonical.
func (c *CA) mint(name string) (*tls.Certificate, error) {
	now := c.now()
	if now.After(c.cert.NotAfter) {
		return nil, errors.New("the CA certificate has expired")
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	// The subject stays empty: the name is in the SAN alone, which x509 then
	// marks critical (RFC 5280 section 4.2.1.6).
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             later(now.Add(-backdate), c.cert.NotBefore),
		NotAfter:              earlier(now.Add(leafLifetime), c.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if template.SubjectKeyId, err = keyID(&c.leafKey.PublicKey); err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		template.IPAddresses = []net.IP{addr.AsSlice()}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, &c.leafKey.PublicKey, c.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{
		Certificate: [][]byte{der, c.cert.Raw},
		PrivateKey:  c.leafKey,
		Leaf:        parsed,
	}, nil
}

// fresh reports whether a cached leaf can still be handed out: at least a third
// of its life remains, or the CA's own end allows no longer one.
func (c *CA) fresh(leaf *x509.Certificate) bool {
	now := c.now()
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return false
	}
	if leaf.NotAfter.Equal(c.cert.NotAfter) {
		return true
	}
	return leaf.NotAfter.Sub(now) >= leafLifetime/3
}

// newSerial returns a random 128-bit positive number: RFC 5280 section 4.1.2.2
// asks for at most 20 octets.
func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	serial := new(big.Int).SetBytes(b)
	return serial.SetBit(serial, 126, 1), nil // never zero
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// canonicalHost returns the text a leaf's SAN gets: an IP address in its
// canonical form, unmapped and without zone, or a DNS name in lower case
// without trailing dot. Anything else, wildcards included, is an error: the
// name is the agent's word until it has passed here.
func canonicalHost(host string) (string, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", fmt.Errorf("%q has a zone", clip(host))
		}
		return addr.Unmap().String(), nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if len(name) == 0 || len(name) > 253 { // RFC 1035 section 2.3.4, less the root label
		return "", fmt.Errorf("%q is not a host name", clip(host))
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if !validLabel(label) {
			return "", fmt.Errorf("%q is not a host name", clip(host))
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		// What some resolvers read as an IPv4 address must not pass as a name.
		return "", fmt.Errorf("%q is not a host name", clip(host))
	}
	return name, nil
}

// validLabel allows letters, digits, hyphens inside, and underscores, which
// real hosts have although RFC 952 does not.
func validLabel(label string) bool {
	if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for i := range len(label) {
		switch b := label[i]; {
		case 'a' <= b && b <= 'z', '0' <= b && b <= '9', b == '-', b == '_':
		default:
			return false
		}
	}
	return true
}

// clip bounds outside input quoted in an error.
func clip(s string) string {
	if len(s) > 260 {
		return s[:260] + "…"
	}
	return s
}

// leafCache holds the leaves used most recently. The zero value is empty.
type leafCache struct {
	mu    sync.Mutex
	order list.List                // of *cachedLeaf, most recent first; guarded by mu
	byKey map[string]*list.Element // guarded by mu
}

type cachedLeaf struct {
	name string
	cert *tls.Certificate
}

// get returns the leaf for name, or nil where there is none that is fresh.
func (l *leafCache) get(name string, fresh func(*x509.Certificate) bool) *tls.Certificate {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.byKey[name]
	if !ok {
		return nil
	}
	cert := e.Value.(*cachedLeaf).cert
	if !fresh(cert.Leaf) {
		return nil
	}
	l.order.MoveToFront(e)
	return cert
}

func (l *leafCache) put(name string, cert *tls.Certificate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byKey == nil {
		l.byKey = make(map[string]*list.Element)
	}
	if e, ok := l.byKey[name]; ok {
		e.Value.(*cachedLeaf).cert = cert
		l.order.MoveToFront(e)
		return
	}
	l.byKey[name] = l.order.PushFront(&cachedLeaf{name, cert})
	for l.order.Len() > maxLeaves {
		oldest := l.order.Back()
		delete(l.byKey, oldest.Value.(*cachedLeaf).name)
		l.order.Remove(oldest)
	}
}

// Package ca is the gateway's local certificate authority. Agent hosts trust
// it, so that the gateway can terminate TLS for the endpoints of the policy.
//
// The CA is one ECDSA P-256 key with a certificate that may sign leaves and
// nothing below them (path length 0). It lives in state_dir/ca as ca.crt and
// ca.key, made together on first use and never replaced: agent hosts trust this
// very certificate, so a damaged pair is an error for the operator to settle,
// not a reason to make another.
//
// Leaves name exactly one host, are valid for seven days at most, and share one
// key that exists only in this process's memory.
//
// SSH is the same for SSH, derived from a seed that the registry keeps: a CA of
// host certificates, and one host key for each endpoint.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/singleflight"
)

// CA mints TLS leaves. Safe for concurrent use.
type CA struct {
	now     func() time.Time
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	leafKey *ecdsa.PrivateKey // shared by all leaves of this process

	minting singleflight.Group
	leaves  leafCache
}

// Config says where the CA lives. Dir is required; Now nil means time.Now.
type Config struct {
	Dir string // state_dir/ca, 0700; made with a new CA when it is absent
	Now func() time.Time
}

// Open loads the CA from cfg.Dir or makes one. It makes one only where Dir does
// not exist or is empty. A pair that is incomplete, damaged, mismatched,
// expired or readable by others is an error; where the operator can do
// something about it, the error has a method Hint() string that says what.
func Open(cfg Config) (*CA, error) {
	if cfg.Dir == "" {
		return nil, errors.New("opening the CA: no directory given")
	}
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	p, err := openPair(cfg.Dir, now)
	if err != nil {
		return nil, fmt.Errorf("opening the CA in %s: %w", cfg.Dir, err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the leaf key: %w", err)
	}
	return &CA{now: now, cert: p.cert, key: p.key, leafKey: leafKey}, nil
}

// CertPEM returns the CA certificate in PEM.
func (c *CA) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// Certificate returns the CA certificate. The caller must not change it.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// Fingerprint returns "sha256:" and the hex SHA-256 of the CA certificate's DER.
func (c *CA) Fingerprint() string {
	sum := sha256.Sum256(c.cert.Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Leaf returns a certificate for exactly one SAN, host: a DNS name or an IP
// address. The chain is the leaf and the CA. It comes from an LRU and is minted
// anew before it expires; concurrent calls for one host mint once. A host that
// is neither a DNS name without wildcard nor an IP address is an error.
func (c *CA) Leaf(host string) (*tls.Certificate, error) {
	name, err := canonicalHost(host)
	if err != nil {
		return nil, fmt.Errorf("minting a certificate: %w", err)
	}
	if leaf := c.leaves.get(name, c.fresh); leaf != nil {
		return leaf, nil
	}
	v, err, _ := c.minting.Do(name, func() (any, error) {
		if leaf := c.leaves.get(name, c.fresh); leaf != nil {
			return leaf, nil // another call minted between our look and this one
		}
		leaf, err := c.mint(name)
		if err != nil {
			return nil, err
		}
		c.leaves.put(name, leaf)
		return leaf, nil
	})
	if err != nil {
		return nil, fmt.Errorf("minting a certificate for %q: %w", name, err)
	}
	return v.(*tls.Certificate), nil
}

// hinted is an error with advice for the operator, printed on a "hint:" line.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// Hint says what the operator can do.
func (h *hinted) Hint() string { return h.hint }

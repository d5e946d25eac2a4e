// Package ca is the local certificate authority.
package ca

import (
	"crypto/tls"
	"time"
)

// CA mints TLS leaves. Safe for concurrent use.
type CA struct{}

// Config says where the CA lives. Dir is required; Now nil means time.Now.
type Config struct {
	Dir string // state_dir/ca, 0700; made with a new CA when it is absent
	Now func() time.Time
}

// Open loads the CA from cfg.Dir or makes one.
func Open(cfg Config) (*CA, error) { panic("ca: not built yet") }

// CertPEM returns the CA certificate in PEM.
func (c *CA) CertPEM() []byte { panic("ca: not built yet") }

// Fingerprint returns "sha256:" and the hex SHA-256 of the CA certificate's DER.
func (c *CA) Fingerprint() string { panic("ca: not built yet") }

// Leaf returns a certificate for exactly one SAN, host: a DNS name or an IP
// address. The chain is the leaf and the CA. It comes from an LRU and is minted
// anew before it expires; concurrent calls for one host mint once.
func (c *CA) Leaf(host string) (*tls.Certificate, error) { panic("ca: not built yet") }

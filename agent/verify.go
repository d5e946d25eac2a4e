package agent

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// fingerprint is the SHA-256 of a CA certificate's DER.
type fingerprint [sha256.Size]byte

// String returns the form that operators pass around: "sha256:" and lower-case
// hex.
func (f fingerprint) String() string { return "sha256:" + hex.EncodeToString(f[:]) }

// parseFingerprint reads String's form. Upper-case hex and the colons that
// openssl prints between bytes are accepted too.
func parseFingerprint(s string) (fingerprint, error) {
	var f fingerprint
	hint := "the gateway prints it as it starts: sha256: and 64 hex digits"
	digits, ok := strings.CutPrefix(s, "sha256:")
	if !ok {
		return f, WithHint(fmt.Errorf("reading the CA fingerprint %q: sha256: is missing in front", s), hint)
	}
	if len(digits) == 3*len(f)-1 {
		digits = strings.ReplaceAll(digits, ":", "")
	}
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(f) {
		return f, WithHint(fmt.Errorf("reading the CA fingerprint %q: it is not 64 hex digits", s), hint)
	}
	copy(f[:], b)
	return f, nil
}

// parseCA reads the gateway's CA certificate: exactly one PEM block, a CA.
func parseCA(text string) (*x509.Certificate, fingerprint, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fingerprint{}, errors.New("it is not one PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fingerprint{}, err
	}
	if !cert.IsCA || !cert.BasicConstraintsValid {
		return nil, fingerprint{}, errors.New("it is not a CA certificate")
	}
	return cert, sha256.Sum256(cert.Raw), nil
}

// identity is how the gateway proves that it is the one meant (I11).
type identity struct {
	host string // of the URL; what the certificate must be for

	// pin is the CA that must be in the presented chain. With it the system's
	// roots are ignored; nil: only they count.
	pin *fingerprint

	roots *x509.CertPool // nil: the system's. Only without pin
	now   func() time.Time
}

// tlsConfig returns a configuration with which no handshake completes, and hence
// no request is sent, unless the gateway has proven its identity.
func (id identity) tlsConfig() *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: id.host,
		RootCAs:    id.roots,
		Time:       id.now,
	}
	if id.pin != nil {
		// crypto/tls cannot express "this CA and no other, if it is presented":
		// its own check is replaced by verifyPinned, not left out. VerifyConnection
		// also runs on resumed sessions.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(cs tls.ConnectionState) error { return id.verifyPinned(cs.PeerCertificates) }
	}
	return c
}

// verifyPinned checks a chain as presented, the leaf first.
func (id identity) verifyPinned(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("the gateway presented no certificate")
	}
	roots := x509.NewCertPool()
	found := false
	for i, c := range chain {
		if sha256.Sum256(c.Raw) != *id.pin {
			continue
		}
		if i == 0 || !c.IsCA || !c.BasicConstraintsValid {
			return WithHint(fmt.Errorf("%s is the fingerprint of the server's certificate, not of the CA that issued it", id.pin),
				"use the fingerprint that the gateway prints as it starts")
		}
		roots.AddCert(c)
		found = true
	}
	if !found {
		return WithHint(fmt.Errorf("the gateway's certificate was not issued by the CA %s", id.pin),
			"compare the fingerprint with what the gateway prints as it starts; if they are the same, somebody is between this host and the gateway")
	}
	// No intermediates: the gateway's CA signs its leaf itself.
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: id.host, Roots: roots, CurrentTime: id.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

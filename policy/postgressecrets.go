package policy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// The slots of a credential of type "postgres". Which of them the server wants is
// its own configuration (pg_hba.conf); a password and a certificate together are
// usual where it says clientcert=verify-full.
const (
	slotPassword          = "password"
	slotClientCertificate = "client_certificate"
	slotClientKey         = "client_key"
)

// maxPassword bounds a password in bytes: tokens that stand for one are a few
// thousand, and PostgreSQL reads 65535 (PG_MAX_AUTH_TOKEN_LENGTH).
const maxPassword = 16 << 10

// checkPostgres wants a password, or a client certificate with its key, or both.
func (c *Credential) checkPostgres(slots map[string]secret.Secret) error {
	password := slots[slotPassword].Reveal()
	certificate, key := slots[slotClientCertificate].Reveal(), slots[slotClientKey].Reveal()
	switch {
	case len(password) == 0 && len(certificate) == 0 && len(key) == 0:
		return &SlotError{slotPassword, "there is nothing to authenticate with: a password, or a client certificate and its key"}
	case len(password) > maxPassword:
		return &SlotError{slotPassword, "the password is longer than 16 KiB"}
	case bytes.IndexByte(password, 0) >= 0:
		return &SlotError{slotPassword, "the password has a NUL byte, which the protocol cannot carry"}
	case len(certificate) == 0 && len(key) == 0:
		return nil
	case c.Endpoint != nil && c.Endpoint.Postgres != nil && c.Endpoint.Postgres.DisableTLS:
		return &SlotError{slotClientCertificate, "the endpoint says tls = \"disable\", and a certificate is shown over TLS only"}
	case len(certificate) == 0:
		return &SlotError{slotClientCertificate, "the key's certificate is missing; the two are set together"}
	case len(key) == 0:
		return &SlotError{slotClientKey, "the certificate's key is missing; the two are set together"}
	}
	if err := checkClientCertificate(certificate, time.Now()); err != nil {
		return &SlotError{slotClientCertificate, err.Error()}
	}
	if err := checkClientKey(key); err != nil {
		return &SlotError{slotClientKey, err.Error()}
	}
	// crypto/tls compares the two. Its errors may quote what they could not read.
	if _, err := tls.X509KeyPair(certificate, key); err != nil {
		return &SlotError{slotClientKey, "this is not the certificate's key, or it is damaged, or of a kind that is not supported: RSA, ECDSA and ed25519 are"}
	}
	return nil
}

// checkClientCertificate wants certificates in PEM form, with nothing but text before each, the
// first of them one to authenticate with, at a time when it is still good.
func checkClientCertificate(b []byte, now time.Time) error {
	var leaf *x509.Certificate
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = rest
		if block.Type != "CERTIFICATE" {
			return errors.New("there is something besides certificates; the key belongs in " + slotClientKey)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return errors.New("the certificate is damaged")
		}
		if leaf == nil {
			leaf = cert
		}
	}
	switch {
	case leaf == nil:
		return errors.New("this is not a certificate in PEM form, or not all of it: it begins with -----BEGIN CERTIFICATE-----")
	case len(bytes.TrimSpace(b)) > 0:
		return errors.New("there is something behind the certificate that is none")
	case now.After(leaf.NotAfter):
		return errors.New("the certificate has expired")
	case len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return errors.New("the certificate is not for authenticating a client (RFC 5280, section 4.2.1.12)")
	}
	return nil
}

// checkClientKey wants one private key in PEM form, without a passphrase.
func checkClientKey(b []byte) error {
	keys := 0
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = rest
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return errors.New("the key is protected by a passphrase; write it without one: openssl pkey -in KEY -out NEW")
		case block.Type == "OPENSSH PRIVATE KEY":
			return errors.New("this is a key in OpenSSH's form; convert it with ssh-keygen -p -m pkcs8 -f KEY")
		case block.Type == "EC PARAMETERS": // as openssl ecparam writes before a key
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			keys++
		default:
			return errors.New("there is something besides a private key; the certificate belongs in " + slotClientCertificate)
		}
	}
	switch {
	case keys == 0:
		return errors.New("this is not a private key in PEM form, or not all of it: it begins with -----BEGIN and ends with a line -----END …-----")
	case keys > 1 || len(bytes.TrimSpace(b)) > 0:
		return errors.New("there is more than one key, or something behind it; one private key belongs here")
	}
	return nil
}

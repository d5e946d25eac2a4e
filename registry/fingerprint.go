package registry

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"

	"github.com/clawpatrol/clawpatrol/secret"
)

const (
	fingerprintLabel = "clawpatrol registry fingerprint v1"
	fingerprintSize  = 4 // bytes that are shown, of the 32 there are
)

// printer makes the fingerprints that operators compare secrets by. Its key is
// derived from the master key and serves nothing else: without it a fingerprint
// says nothing about a value, not even whether a guess is right.
type printer struct{ key secret.Secret }

func newPrinter(master secret.Secret) (printer, error) {
	key, err := hkdf.Key(sha256.New, master.Reveal(), nil, fingerprintLabel, sha256.Size)
	return printer{secret.New(key)}, err
}

// of returns value's fingerprint: the first 8 hexadecimal digits of its
// HMAC-SHA256 (RFC 2104).
func (p printer) of(value secret.Secret) string {
	mac := hmac.New(sha256.New, p.key.Reveal())
	mac.Write(value.Reveal())
	return hex.EncodeToString(mac.Sum(nil)[:fingerprintSize])
}

// Fingerprint returns eight hexadecimal digits by which operators compare what
// the slot of the credential ref holds without seeing it: the same value has the
// same fingerprint in every credential and named secret of this gateway, as long
// as its master key is the same, and another one on every other gateway. Empty:
// nothing is set there, or what is does not open. It is for operators' eyes and
// not for logs: whoever may set values can try guesses against it.
func (db *DB) Fingerprint(ref, slot string) string {
	c := db.credentials.Load().byRef[ref]
	if c == nil || c.slots[slot].IsZero() {
		return ""
	}
	return db.seal.prints.of(c.slots[slot])
}

// SecretFingerprint is Fingerprint of a named secret.
func (db *DB) SecretFingerprint(name string) string {
	value := db.NamedSecret(name)
	if value.IsZero() {
		return ""
	}
	return db.seal.prints.of(value)
}

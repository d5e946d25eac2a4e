package registry

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/clawpatrol/clawpatrol/secret"
)

const (
	masterKeySize = 32 // bytes
	sealLabel     = "clawpatrol registry seal v1"
)

// place is where a sealed value belongs. A value sealed for one place opens in
// no other (I03).
type place struct {
	kind string // "credential", "named", "registration", "setting"
	ref  string // which one: a credential's ref, a registration's ID, ...
	slot string // which value of it
}

// The kinds of places.
const (
	kindCredential   = "credential"
	kindNamed        = "named"
	kindRegistration = "registration"
	kindSetting      = "setting"
)

// associated encodes p unambiguously: each part preceded by its length.
func (p place) associated() []byte {
	b := []byte(sealLabel)
	for _, part := range []string{p.kind, p.ref, p.slot} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}

// sealer seals and opens values with XChaCha20-Poly1305, whose 192-bit nonces
// may be drawn at random (draft-irtf-cfrg-xchacha-03, section 2).
type sealer struct {
	aead   cipher.AEAD
	prints printer
}

// newSealer derives its keys from the master key, which serves no other purpose
// directly.
func newSealer(master secret.Secret) (sealer, error) {
	if len(master.Reveal()) != masterKeySize {
		return sealer{}, fmt.Errorf("a master key has %d bytes", masterKeySize)
	}
	key, err := hkdf.Key(sha256.New, master.Reveal(), nil, sealLabel, chacha20poly1305.KeySize)
	if err != nil {
		return sealer{}, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return sealer{}, err
	}
	prints, err := newPrinter(master)
	return sealer{aead, prints}, err
}

// seal returns nonce and ciphertext of value for p.
func (s sealer) seal(p place, value []byte) []byte {
	nonce := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(value)+chacha20poly1305.Overhead)
	rand.Read(nonce) // never fails: crypto/rand ends the program instead
	return s.aead.Seal(nonce, nonce, value, p.associated())
}

var errUnseal = errors.New("a sealed value does not open: it was altered, or belongs to another place")

// open undoes seal.
func (s sealer) open(p place, sealed []byte) (secret.Secret, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return secret.Secret{}, errUnseal
	}
	nonce, box := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	value, err := s.aead.Open(nil, nonce, box, p.associated())
	if err != nil {
		return secret.Secret{}, errUnseal
	}
	return secret.New(value), nil
}

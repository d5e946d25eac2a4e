// Package secret holds values that must never be printed.
//
// A Secret keeps its bytes in a closure. A struct with a redacting String
// method would not be enough: fmt walks the unexported fields of an enclosing
// struct without calling their methods, and would print the bytes of a plain
// slice. A func field has no contents to walk, so %v, %+v, %#v, encoding/json
// and log/slog all see at most an address.
package secret

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

const redacted = "[secret]"

// Secret is an immutable byte string that prints as "[secret]". The zero value
// is an absent secret: IsZero reports true and Reveal returns nil.
type Secret struct {
	reveal func() []byte
}

// New returns a Secret holding a copy of b. The caller still owns b and may
// wipe it.
func New(b []byte) Secret {
	kept := append([]byte{}, b...)
	return Secret{reveal: func() []byte { return kept }}
}

// Reveal returns the bytes. They belong to the Secret: the caller must not
// change them, nor keep them longer than the use they were revealed for.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// IsZero reports whether there is no secret. A present but empty one is not
// zero.
func (s Secret) IsZero() bool { return s.reveal == nil }

// Equal compares in time that depends on the lengths only.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), other.Reveal()) == 1 && s.IsZero() == other.IsZero()
}

// String, GoString, Format, MarshalText, MarshalJSON and LogValue all hide the
// bytes.
func (s Secret) String() string               { return redacted }
func (s Secret) GoString() string             { return redacted }
func (s Secret) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(redacted)) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }

package policy

import "github.com/clawpatrol/clawpatrol/secret"

// SlotError is why a value cannot be what a credential's slot holds. Its text is
// fit for the operator's eyes: nothing of the value is in it.
type SlotError struct {
	Slot   string
	Reason string // one sentence without its full stop
}

func (e *SlotError) Error() string { return e.Slot + ": " + e.Reason }

// credentialTypeOf returns the type of that name; its zero value where there is none.
func credentialTypeOf(name string) credentialType {
	for _, t := range credentialTypes {
		if t.name == name {
			return t
		}
	}
	return credentialType{}
}

// Slots returns the secret values this type of credential needs. The caller
// must not change them.
func (c *Credential) Slots() []Slot { return credentialTypeOf(c.Type).slots }

// SetTogether reports whether the slots of this credential make sense only
// together, so that setting any of them replaces them all: a passphrase belongs
// to one private key.
func (c *Credential) SetTogether() bool { return credentialTypeOf(c.Type).together }

// CheckSecrets reports whether slots can be what the credential presents, before
// they are stored: a mistake is to be learned of when it is made, not at first
// use. Where SetTogether, slots are all that it will have. The error is a
// *SlotError. Slots that the type does not have are not looked at.
func (c *Credential) CheckSecrets(slots map[string]secret.Secret) error {
	if check := credentialTypeOf(c.Type).check; check != nil {
		return check(c, slots)
	}
	return nil
}

// Complete reports whether what is stored suffices for the credential to be
// used. set says whether the slot of that name holds anything.
func (c *Credential) Complete(set func(slot string) bool) bool {
	some := false
	for _, s := range c.Slots() {
		some = some || set(s.Name)
		if !s.Optional && !set(s.Name) {
			return false
		}
	}
	return some // of slots that are all optional CheckSecrets has seen that they suffice
}

package statement

import "fmt"

// ReadOnly returns why a read_only credential refuses a text with these facts,
// or nil. It refuses whatever writes, whatever is Unknown for more than the
// functions in it, and whatever leaves the read-only session or changes whose
// rights hold. An Opaque function alone is let through: the session is
// read-only upstream, and the server refuses it what it may not do.
//
// RESET ALL and DISCARD ALL are let through. So default_transaction_read_only has
// to stand in the startup message, whose values are what they go back to.
func ReadOnly(all []Facts) error {
	for i := range all {
		if reason := all[i].notReadOnly(); reason != "" {
			return fmt.Errorf("the credential is read-only: %s", reason)
		}
	}
	return nil
}

func (f *Facts) notReadOnly() string {
	kind := f.Kind
	if kind == "" {
		kind = "the statement"
	}
	switch {
	case f.SetsRole:
		return kind + " changes the role"
	case f.SetsPassword:
		return kind + " changes a password"
	case f.ReadWrite && f.Kind != "":
		return kind + " may leave the read-only mode"
	case f.Unknown && !f.onlyOpaque:
		return "it cannot be told what " + kind + " does: " + f.Why
	case f.ReadWrite:
		return kind + " may leave the read-only mode"
	case f.ServerFile:
		return kind + " uses a file or program of the server"
	case f.Writes:
		return kind + " writes"
	}
	return ""
}

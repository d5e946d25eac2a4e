package statement

import "fmt"

// ReadOnly returns why a read_only credential refuses a text with these facts,
// or nil. It refuses whatever writes, whatever is Unknown, and whatever leaves the
// read-only session or changes whose rights hold. But it counts on three things:
//
//   - The session is read-only upstream. So functions that are merely Opaque are
//     let through: the server refuses them what they may not do.
//   - Every text of the session is judged, those in Parse messages too. So EXECUTE
//     is let through, as pg_dump needs it: what was prepared has been judged.
//   - default_transaction_read_only stands in the startup message, whose values are
//     what RESET ALL and DISCARD ALL, which are let through, go back to.
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
	case f.Unknown && !f.judgedElsewhere:
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

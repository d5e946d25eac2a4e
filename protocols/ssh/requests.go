package ssh

import (
	"errors"
	"strings"

	xssh "golang.org/x/crypto/ssh"
)

// Limits of what agents ask for.
const (
	maxCommand = 128 << 10 // bytes of a command: Linux takes no longer argument (MAX_ARG_STRLEN)
	maxRequest = 16 << 10  // bytes of any other request
	maxEnv     = 64        // variables of a session
	maxName    = 128       // bytes of the name of a variable, a signal, a kind of channel
)

// execRequest is also that of a subsystem (RFC 4254, section 6.5).
type execRequest struct{ Command string }

// ptyRequest: RFC 4254, section 6.2.
type ptyRequest struct {
	Term          string
	Columns, Rows uint32
	Width, Height uint32 // pixels
	Modes         string
}

// windowChange: RFC 4254, section 6.7.
type windowChange struct {
	Columns, Rows uint32
	Width, Height uint32 // pixels
}

// envRequest: RFC 4254, section 6.4.
type envRequest struct{ Name, Value string }

// signalRequest: RFC 4254, section 6.9.
type signalRequest struct{ Name string }

// breakRequest: RFC 4335, section 3.
type breakRequest struct{ Milliseconds uint32 }

// exitStatus: RFC 4254, section 6.10.
type exitStatus struct{ Status uint32 }

// exitSignal: RFC 4254, section 6.10.
type exitSignal struct {
	Name     string
	Core     bool
	Message  string
	Language string
}

// forwardRequest is what opens a direct-tcpip channel: RFC 4254, section 7.2.
type forwardRequest struct {
	Host       string
	Port       uint32
	Originator string
	From       uint32
}

var errMalformed = errors.New("the request is malformed")

// parse reads a payload that may have max bytes into v; what is too long, too
// short or followed by more is malformed.
func parse(payload []byte, max int, v any) error {
	if len(payload) > max {
		return errMalformed
	}
	if xssh.Unmarshal(payload, v) != nil {
		return errMalformed
	}
	return nil
}

// parseCommand reads what exec and subsystem carry. Programs upstream end a
// string at a zero byte: what is behind one would not be what was decided on.
func parseCommand(payload []byte) (string, error) {
	var r execRequest
	if err := parse(payload, 4+maxCommand, &r); err != nil {
		return "", err
	}
	if strings.IndexByte(r.Command, 0) >= 0 {
		return "", errMalformed
	}
	return r.Command, nil
}

// parseEnv reads a variable whose name is one, and whose value no program reads
// to another end.
func parseEnv(payload []byte) (envRequest, error) {
	var r envRequest
	if err := parse(payload, maxRequest, &r); err != nil {
		return envRequest{}, err
	}
	if r.Name == "" || len(r.Name) > maxName || strings.ContainsAny(r.Name, "=\x00") || strings.IndexByte(r.Value, 0) >= 0 {
		return envRequest{}, errMalformed
	}
	return r, nil
}

// mayEnv reports whether agents may set a variable: by its name, or by the
// beginning of one that ends in an asterisk.
func mayEnv(allowed []string, name string) bool {
	for _, a := range allowed {
		if prefix, open := strings.CutSuffix(a, "*"); a == name || open && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

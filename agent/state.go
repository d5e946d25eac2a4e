package agent

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/secret"
)

// stateVersion is raised when an older program could misread the file.
const stateVersion = 1

// errNotEnrolled is returned where there is no state file.
var errNotEnrolled = WithHint(errors.New("this host is not enrolled"), "run: clawpatrol join URL --ca-fingerprint sha256:HEX")

// errUnfinished is returned where a join ended before the gateway had seen this
// host's addresses.
var errUnfinished = WithHint(errors.New("this host's enrolment was never finished"), "run clawpatrol join again")

// state is one registration as the agent host remembers it.
type state struct {
	URL           string
	CAFingerprint string // what join was given; "": the certificate is publicly trusted
	GatewayCA     string // fingerprint of the local CA, as verified when joining

	Name         string
	Registration string
	UserCode     string
	ExpiresAt    time.Time
	Family       family   // start's
	Invite       string   // ID of the invite that it was made with; "": none
	Invited      []string // the profiles that the invite approves it with

	JoinCredential enrolment.JoinCredential
	WireGuardKey   secret.Secret // 32 bytes

	Claim    *enrolment.ClaimResponse // nil: not claimed yet
	Approved bool                     // has ever been

	Ways   map[family][]way // that have led to the pin
	Asking bool             // an operator for another pin, until the next approval

	RunUsers string // the group of this host's users who may run on this enrolment, or everyUser; "": nobody
}

// stateFile is its form on disk: the one place outside the closures where both
// secrets are.
type stateFile struct {
	Version        int                      `json:"version"`
	URL            string                   `json:"url"`
	CAFingerprint  string                   `json:"ca_fingerprint,omitempty"`
	GatewayCA      string                   `json:"gateway_ca"`
	Name           string                   `json:"name"`
	Registration   string                   `json:"registration"`
	UserCode       string                   `json:"user_code"`
	ExpiresAt      time.Time                `json:"expires_at"`
	Family         family                   `json:"family"`
	Invite         string                   `json:"invite,omitempty"`
	Invited        []string                 `json:"invited,omitempty"`
	JoinCredential string                   `json:"join_credential"`
	WireGuardKey   string                   `json:"wireguard_private_key"`
	Claim          *enrolment.ClaimResponse `json:"claim,omitempty"`
	Approved       bool                     `json:"approved"`
	Ways           map[family][]way         `json:"ways,omitempty"`
	Asking         bool                     `json:"asking,omitempty"`
	RunUsers       string                   `json:"run_users,omitempty"`
}

// saveState makes s durable.
func saveState(p paths, s *state) error {
	b, err := json.MarshalIndent(stateFile{
		Version:        stateVersion,
		URL:            s.URL,
		CAFingerprint:  s.CAFingerprint,
		GatewayCA:      s.GatewayCA,
		Name:           s.Name,
		Registration:   s.Registration,
		UserCode:       s.UserCode,
		ExpiresAt:      s.ExpiresAt,
		Family:         s.Family,
		Invite:         s.Invite,
		Invited:        s.Invited,
		JoinCredential: s.JoinCredential.Encode(),
		WireGuardKey:   base64.StdEncoding.EncodeToString(s.WireGuardKey.Reveal()),
		Claim:          s.Claim,
		Approved:       s.Approved,
		Ways:           s.Ways,
		Asking:         s.Asking,
		RunUsers:       s.RunUsers,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the state file: %w", err)
	}
	if err := replaceFile(p.state(), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the state file: %w", err)
	}
	return nil
}

// loadState returns errNotEnrolled when there is none.
func loadState(p paths) (*state, error) {
	for _, c := range []struct {
		path string
		mode fs.FileMode
	}{{p.private(), 0o700}, {p.state(), 0o600}} {
		if err := checkMode(c.path, c.mode); errors.Is(err, fs.ErrNotExist) {
			return nil, errNotEnrolled
		} else if errors.Is(err, fs.ErrPermission) {
			return nil, WithHint(err, "run it as root")
		} else if err != nil {
			return nil, err
		}
	}
	b, err := os.ReadFile(p.state())
	if err != nil {
		return nil, fmt.Errorf("reading the state file: %w", err)
	}
	s, err := decodeState(b)
	if err != nil {
		return nil, WithHint(fmt.Errorf("reading %s: %w", p.state(), err), "restore it from a backup, or run: clawpatrol leave, and join again")
	}
	return s, nil
}

// decodeState reads what saveState wrote. Its errors quote none of it.
func decodeState(b []byte) (*state, error) {
	var f stateFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, errors.New("it is damaged")
	}
	if f.Version != stateVersion {
		return nil, fmt.Errorf("it has version %d, this program knows %d", f.Version, stateVersion)
	}
	cred, err := enrolment.ParseJoinCredential(f.JoinCredential)
	if err != nil {
		return nil, errors.New("its join credential is damaged")
	}
	key, err := base64.StdEncoding.DecodeString(f.WireGuardKey)
	if err != nil || len(key) != keySize {
		return nil, errors.New("its WireGuard key is damaged")
	}
	if f.URL == "" || f.Registration == "" || (f.Family != ipv4 && f.Family != ipv6) {
		return nil, errors.New("it is incomplete")
	}
	return &state{
		URL:            f.URL,
		CAFingerprint:  f.CAFingerprint,
		GatewayCA:      f.GatewayCA,
		Name:           f.Name,
		Registration:   f.Registration,
		UserCode:       f.UserCode,
		ExpiresAt:      f.ExpiresAt,
		Family:         f.Family,
		Invite:         f.Invite,
		Invited:        f.Invited,
		JoinCredential: cred,
		WireGuardKey:   secret.New(key),
		Claim:          f.Claim,
		Approved:       f.Approved,
		Ways:           f.Ways,
		Asking:         f.Asking,
		RunUsers:       f.RunUsers,
	}, nil
}

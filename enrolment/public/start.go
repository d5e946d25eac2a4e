package public

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// start opens a pending registration for the TCP peer's address and sends the
// join credential, the only time it is ever sent. An invite is used by the same
// transaction that stores the registration.
func (h *handler) start(w http.ResponseWriter, r *http.Request) {
	source := peer(r)
	if !source.IsValid() {
		refuse(w, http.StatusBadRequest, "bad_request", "the connection has no address", "")
		return
	}
	if !h.starts.allow(source) {
		w.Header().Set("Retry-After", "60")
		refuse(w, http.StatusTooManyRequests, "too_many_requests", "too many enrolments from this address", "wait a minute")
		return
	}
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	req, key, bad := h.parseStart(body)
	if bad != nil {
		refuse(w, http.StatusBadRequest, bad.code, bad.message, bad.hint)
		return
	}
	invite, ok := h.admission(w, req.Invite)
	if !ok {
		return
	}

	credential := enrolment.NewJoinCredential()
	keys := credential.Keys()
	reg, err := h.Registry.Enrol(r.Context(), registry.NewRegistration{
		Name:         req.Name,
		PublicKey:    key,
		MACKey:       keys.MAC,
		PresharedKey: keys.PresharedKey,
		Source:       source,
		Invite:       invite,
	})
	switch {
	case errors.Is(err, registry.ErrInvite):
		h.Log.Info("enrolment refused: no good invite", "source", source)
		refuseInvite(w)
		return
	case errors.Is(err, registry.ErrTooManyPending):
		w.Header().Set("Retry-After", "60")
		refuse(w, http.StatusTooManyRequests, "too_many_pending", "too many registrations are waiting for approval", "have an operator approve or revoke those that wait, or wait until they expire")
		return
	case errors.Is(err, registry.ErrDuplicateKey):
		refuse(w, http.StatusConflict, "duplicate_key", "a registration with this WireGuard key exists", "make a new key")
		return
	case errors.Is(err, registry.ErrSubnetFull):
		h.Log.Error("enrolment refused: wireguard.subnets has no range left")
		refuse(w, http.StatusServiceUnavailable, "subnet_full", "the gateway has no address range left", "the operator can widen wireguard.subnets or revoke registrations")
		return
	case errors.Is(err, registry.ErrInvalid):
		refuse(w, http.StatusBadRequest, "bad_request", "the registry does not accept this registration", "")
		return
	case err != nil:
		h.Log.Error("enrolment failed", "err", err)
		refuse(w, http.StatusInternalServerError, "internal", "the gateway failed; its log says why", "")
		return
	}
	h.Log.Info("registration pending", "registration", reg.ID, logName(reg.Name), "source", source, "invite", reg.Invite)
	if name, ok := invites.Unknown(h.Policy(), reg.Invited); !ok {
		h.Log.Warn("the policy no longer has a profile that an invite approves: the registration waits for an operator", "registration", reg.ID, "invite", reg.Invite, "profile", name)
	}
	answer(w, http.StatusCreated, enrolment.StartResponse{
		Registration:   string(reg.ID),
		UserCode:       reg.UserCode,
		JoinCredential: credential.Encode(),
		ExpiresAt:      reg.ExpiresAt.UTC(),
	})
}

// admission decides whether a start is taken at all, and with which invite. On
// failure it has answered.
func (h *handler) admission(w http.ResponseWriter, token string) (registry.InviteID, bool) {
	switch enrolling := h.Policy().Gateway.Enrolment; enrolling {
	case policy.EnrolmentOpen:
		if token == "" {
			return "", true
		}
	case policy.EnrolmentInvite: // without one it is looked for in vain, like a forged one
	default:
		refuse(w, http.StatusForbidden, "enrolment_closed", "this gateway enrols nobody at present", "ask its operator")
		return "", false
	}
	return h.Invites.Identify(token), true
}

// refuseInvite is the one answer to every start that comes without a good invite
// where it needs one, or with one that is not good (I10).
func refuseInvite(w http.ResponseWriter) {
	refuse(w, http.StatusForbidden, "invite_refused", "there is no good invite with this request",
		"it may have expired, been used or voided, be another gateway's, or not be for this host's address; ask the operator for a new one")
}

// refusal is why a request is refused, for its sender.
type refusal struct{ code, message, hint string }

func (h *handler) parseStart(body []byte) (enrolment.StartRequest, [32]byte, *refusal) {
	var req enrolment.StartRequest
	if err := decode(body, &req); err != nil {
		return req, [32]byte{}, &refusal{"bad_request", err.Error(), ""}
	}
	if err := checkName(req.Name); err != nil {
		return req, [32]byte{}, &refusal{"bad_name", err.Error(), "choose another with --name"}
	}
	key, err := decodeKey(req.WireGuardPublicKey)
	if err == nil && (key == h.WireGuardPublicKey || h.weakKey(key)) {
		err = errors.New("wireguard_public_key is not a usable key")
	}
	if err != nil {
		return req, [32]byte{}, &refusal{"bad_key", err.Error(), ""}
	}
	return req, key, nil
}

// checkName accepts printable ASCII without spaces at the ends or in a row. An
// operator approves by this name: two names that look the same must be the same.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("name is missing")
	case len(name) > enrolment.MaxName:
		return fmt.Errorf("name is longer than %d bytes", enrolment.MaxName)
	case strings.TrimSpace(name) != name || strings.Contains(name, "  "):
		return errors.New("name has spaces at an end or in a row")
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] > '~' {
			return errors.New("name has a character that is not printable ASCII")
		}
	}
	return nil
}

func encodeKey(k [32]byte) string { return base64.StdEncoding.EncodeToString(k[:]) }

// decodeKey accepts only the canonical spelling of a Curve25519 public key:
// two spellings of one key would be two registrations with one key.
func decodeKey(s string) (key [32]byte, err error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != len(key) || base64.StdEncoding.EncodeToString(b) != s {
		return key, errors.New("wireguard_public_key is not 32 bytes in standard base64")
	}
	copy(key[:], b)
	if key[31]&0x80 != 0 { // RFC 7748 section 5: receivers mask this bit
		return key, errors.New("wireguard_public_key is not a usable key")
	}
	return key, nil
}

// weakKeyCheck returns a function that reports whether a public key is of low
// order (RFC 7748 section 6.1): with such a key every shared secret is zero.
// crypto/ecdh refuses exactly that, zero included.
func weakKeyCheck() (func([32]byte) bool, error) {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return func(key [32]byte) bool {
		pub, err := ecdh.X25519().NewPublicKey(key[:])
		if err != nil {
			return true
		}
		_, err = own.ECDH(pub)
		return err != nil
	}, nil
}

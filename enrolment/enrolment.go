// Package enrolment is the protocol between `clawpatrol join` and the gateway's
// public listener: its messages, the keys both sides derive from the join
// credential, and the MAC that claim and poll carry. It does no I/O, and it is
// the one package that agent and gateway share.
package enrolment

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// Limits of the protocol.
const (
	MaxBody     = 512 << 10        // bytes of any response body: of poll, with MaxSSHHosts of 253 bytes; requests are smaller
	MaxName     = 64               // bytes of a registration's name
	MaxSSHHosts = 1024             // in one answer to poll
	MACWindow   = 60 * time.Second // how far ts may be from the gateway's clock, either way

	joinCredentialSize = 32
	nonceSize          = 16
)

// Paths on the public listener.
const (
	PathInfo  = "/info"
	PathCA    = "/ca.crt"
	PathStart = "/api/onboard/start"
	PathClaim = "/api/onboard/claim"
	PathPoll  = "/api/onboard/poll"
)

// Info is the answer to GET /info.
type Info struct {
	Version       string        `json:"version"`
	CAFingerprint string        `json:"ca_fingerprint"` // "sha256:<hex>" of the CA certificate's DER
	WireGuard     InfoWireGuard `json:"wireguard"`
	YourAddress   string        `json:"your_address"`
}

// InfoWireGuard is the gateway's half of the tunnel.
type InfoWireGuard struct {
	PublicKey string `json:"public_key"` // standard base64
	Endpoint  string `json:"endpoint"`   // host:port
}

// StartRequest opens a registration.
type StartRequest struct {
	Name               string `json:"name"`
	WireGuardPublicKey string `json:"wireguard_public_key"` // standard base64, 32 bytes
	Invite             string `json:"invite,omitempty"`
}

// StartResponse is 201's body. It is the only time the join credential is sent.
type StartResponse struct {
	Registration   string    `json:"registration"`
	UserCode       string    `json:"user_code"` // XXXX-XXXX
	JoinCredential string    `json:"join_credential"`
	ExpiresAt      time.Time `json:"expires_at"`
}

// ClaimResponse configures the tunnel.
type ClaimResponse struct {
	Pin       Pin            `json:"pin"`
	Addresses []string       `json:"addresses"` // the interface's, with prefix lengths: "10.55.0.17/28", "fd55:c1a5:0:1::1/64"
	WireGuard ClaimWireGuard `json:"wireguard"`
	DNS       []string       `json:"dns"` // the gateway's resolver inside the tunnel
	CAPEM     string         `json:"ca_pem"`
	SSHCA     string         `json:"ssh_ca"`
	// Env maps an environment variable to the placeholder it should hold.
	Env map[string]string `json:"env,omitempty"`
}

// Pin is the address pair observed so far; a family never seen is empty.
type Pin struct {
	IPv4 string `json:"ipv4"`
	IPv6 string `json:"ipv6"`
}

// ClaimWireGuard is what the agent's tunnel needs to know.
type ClaimWireGuard struct {
	PublicKey string `json:"public_key"` // the gateway's, standard base64
	Endpoint  string `json:"endpoint"`   // host:port
	MTU       int    `json:"mtu"`        // bytes
	Keepalive int    `json:"keepalive"`  // seconds
}

// PollResponse tells where the registration stands.
type PollResponse struct {
	State      string            `json:"state"`            // pending, approved, blocked, revoked
	Reason     string            `json:"reason,omitempty"` // of a blocked one: nothing that helps whoever has copied the join credential
	Pin        *Pin              `json:"pin,omitempty"`    // as proven over TCP; of one that is not blocked
	Profiles   []string          `json:"profiles"`
	SSHHosts   []string          `json:"ssh_hosts"`
	Env        map[string]string `json:"env,omitempty"` // as in ClaimResponse; filled once approved
	RetryAfter int               `json:"retry_after"`   // seconds
}

// ErrorResponse is the body of every refusal.
type ErrorResponse struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitempty"`
	} `json:"error"`
}

// JoinCredential is the one secret an agent host holds. The gateway keeps only
// Keys.
type JoinCredential struct{ secret.Secret }

// NewJoinCredential returns 256 random bits.
func NewJoinCredential() JoinCredential {
	b := make([]byte, joinCredentialSize)
	rand.Read(b) // never fails, crypto/rand
	return JoinCredential{secret.New(b)}
}

// ParseJoinCredential reads what Encode wrote. The error does not quote it.
func ParseJoinCredential(s string) (JoinCredential, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != joinCredentialSize || base64.RawURLEncoding.EncodeToString(b) != s {
		return JoinCredential{}, errors.New("not a join credential")
	}
	return JoinCredential{secret.New(b)}, nil
}

// Encode returns the text form for StartResponse and the agent's state file:
// the secret itself, not for logs.
func (c JoinCredential) Encode() string {
	return base64.RawURLEncoding.EncodeToString(c.Reveal())
}

// Keys is what both sides derive from a join credential (RFC 5869, SHA-256).
type Keys struct {
	MAC          secret.Secret // 32 bytes: authenticates claim and poll
	PresharedKey secret.Secret // 32 bytes: WireGuard's preshared key
}

// Keys derives both keys under distinct labels. A zero credential gives zero
// keys, with which nothing verifies.
func (c JoinCredential) Keys() Keys {
	if c.IsZero() {
		return Keys{}
	}
	derive := func(label string) secret.Secret {
		k, err := hkdf.Key(sha256.New, c.Reveal(), nil, label, 32)
		if err != nil {
			panic("enrolment: HKDF-SHA256 of 32 bytes: " + err.Error())
		}
		return secret.New(k)
	}
	return Keys{MAC: derive("clawpatrol-onboard-mac-v1"), PresharedKey: derive("clawpatrol-wireguard-psk-v1")}
}

const authScheme = "CP-MAC "

// Authorization is a parsed CP-MAC header. It proves nothing until Verify.
type Authorization struct {
	ID    string
	Time  time.Time
	Nonce string
	mac   []byte
}

// Authorize returns the Authorization header's value for one request.
func Authorize(key secret.Secret, id, method, path string, body []byte, now time.Time) string {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	n := base64.RawURLEncoding.EncodeToString(nonce)
	ts := strconv.FormatInt(now.Unix(), 10)
	return fmt.Sprintf("%sid=%s,ts=%s,nonce=%s,mac=%s", authScheme, id, ts, n, hex.EncodeToString(mac(key, method, path, ts, n, body)))
}

var errAuthorization = errors.New("not a CP-MAC authorization")

// ParseAuthorization reads a header made by Authorize. It accepts exactly that
// form: four parameters, in that order, each once.
func ParseAuthorization(h http.Header) (Authorization, error) {
	v := h.Values("Authorization")
	if len(v) != 1 || len(v[0]) > 512 || !strings.HasPrefix(v[0], authScheme) {
		return Authorization{}, errAuthorization
	}
	parts := strings.Split(v[0][len(authScheme):], ",")
	if len(parts) != 4 {
		return Authorization{}, errAuthorization
	}
	var vals [4]string
	for i, name := range []string{"id=", "ts=", "nonce=", "mac="} {
		val, ok := strings.CutPrefix(parts[i], name)
		if !ok || val == "" {
			return Authorization{}, errAuthorization
		}
		vals[i] = val
	}
	ts, err := strconv.ParseInt(vals[1], 10, 64)
	if err != nil || strconv.FormatInt(ts, 10) != vals[1] {
		return Authorization{}, errAuthorization
	}
	// Decoders are lenient (line breaks, stray trailing bits, upper case): only
	// the one spelling that Authorize writes is accepted.
	nonce, err := base64.RawURLEncoding.DecodeString(vals[2])
	if err != nil || len(nonce) != nonceSize || base64.RawURLEncoding.EncodeToString(nonce) != vals[2] {
		return Authorization{}, errAuthorization
	}
	sum, err := hex.DecodeString(vals[3])
	if err != nil || len(sum) != sha256.Size || hex.EncodeToString(sum) != vals[3] {
		return Authorization{}, errAuthorization
	}
	return Authorization{ID: vals[0], Time: time.Unix(ts, 0), Nonce: vals[2], mac: sum}, nil
}

// Verify reports whether a was made with key for this request. The caller
// checks Time against its clock and MACWindow, and that Nonce is new.
func (a Authorization) Verify(key secret.Secret, method, path string, body []byte) bool {
	if key.IsZero() {
		return false
	}
	ts := strconv.FormatInt(a.Time.Unix(), 10)
	return hmac.Equal(a.mac, mac(key, method, path, ts, a.Nonce, body))
}

func mac(key secret.Secret, method, path, ts, nonce string, body []byte) []byte {
	sum := sha256.Sum256(body)
	m := hmac.New(sha256.New, key.Reveal())
	fmt.Fprintf(m, "clawpatrol-onboard-v1\n%s\n%s\n%s\n%s\n%s", method, path, ts, nonce, hex.EncodeToString(sum[:]))
	return m.Sum(nil)
}

package enrolment

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/clawpatrol/clawpatrol/secret"
)

// Limits of an invite.
const (
	// MaxToken is the length of the longest token, in bytes: it fits, with the
	// rest of a start request, into what the public listener reads.
	MaxToken = 2048

	MaxInviteUses     = 1000
	MaxInviteProfiles = 16

	maxInviteHost    = 270     // bytes: a host name (RFC 1035 section 2.3.4), a colon and a port
	maxInviteProfile = 64      // bytes of one profile's name
	maxInviteExpiry  = 1 << 33 // Unix seconds: the year 2242
)

const (
	// tokenPrefix is what every token begins with: the format's name and version.
	tokenPrefix = "cpi1_"

	inviteMACLabel = "clawpatrol-invite-v1"    // what is signed begins with it
	inviteIDLabel  = "clawpatrol-invite-id-v1" // what an ID is the hash of begins with it

	inviteNonceSize = 16
)

// Invite is what a token says: where to enrol, how the gateway there proves
// itself, and until when and from where the gateway takes it. To the agent host
// it is a promise; what the gateway goes by is its own record of the invite.
type Invite struct {
	URL string // the gateway's public_url: https://host[:port]
	CA  [sha256.Size]byte

	// PublicCertificate says that the gateway proves itself with a publicly
	// trusted certificate instead of one of its CA.
	PublicCertificate bool

	Expires  time.Time    // whole seconds
	Uses     int          // registrations it can make
	Source   netip.Prefix // where start has to come from; zero: anywhere
	Profiles []string     // an approval given in advance; none: an operator approves

	nonce  secret.Secret // makes the token a secret, also from who has the signing key
	signed []byte
	mac    []byte
}

// IsToken reports whether s looks like an invite's token, not like a URL.
func IsToken(s string) bool { return strings.HasPrefix(s, tokenPrefix) }

// SignInvite makes a new invite of what i says, and returns its token and its
// ID. The token is a secret, and stored nowhere; the ID is not, and does not
// lead back to it.
func SignInvite(key secret.Secret, i Invite) (token, id string, err error) {
	if key.IsZero() {
		return "", "", errors.New("signing an invite: there is no key")
	}
	nonce := make([]byte, inviteNonceSize)
	rand.Read(nonce)
	i.nonce = secret.New(nonce)
	if i.signed, err = i.encode(); err != nil {
		return "", "", fmt.Errorf("signing an invite: %w", err)
	}
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(append(i.signed, inviteMAC(key, i.signed)...))
	if len(token) > MaxToken {
		return "", "", fmt.Errorf("signing an invite: a token of %d bytes is longer than %d: name fewer profiles", len(token), MaxToken)
	}
	// What cannot be read back must not be handed out.
	if _, err := ParseInvite(token); err != nil {
		return "", "", fmt.Errorf("signing an invite: %w", err)
	}
	return token, i.ID(), nil
}

// ID names the invite in the gateway's registry, log and API. It is a hash of
// the token's random part, which the gateway does not keep.
func (i Invite) ID() string {
	sum := sha256.Sum256(append([]byte(inviteIDLabel), i.nonce.Reveal()...))
	return "i_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// Verify reports whether the gateway that holds key made this invite. It says
// nothing about whether the invite is still good.
func (i Invite) Verify(key secret.Secret) bool {
	if key.IsZero() {
		return false
	}
	return hmac.Equal(i.mac, inviteMAC(key, i.signed))
}

func inviteMAC(key secret.Secret, signed []byte) []byte {
	m := hmac.New(sha256.New, key.Reveal())
	m.Write([]byte(inviteMACLabel))
	m.Write([]byte{0})
	m.Write(signed)
	return m.Sum(nil)
}

// encode writes what is signed, big-endian:
//
//	nonce     16 bytes
//	flags     1 byte: bit 0 is PublicCertificate
//	ca        32 bytes
//	expires   8 bytes, Unix seconds
//	uses      2 bytes
//	host      length (2 bytes) and host[:port] of the URL
//	source    length (1 byte) and nothing, or prefix length (1 byte) and address
//	profiles  length (2 bytes) and for each its length (1 byte) and name
func (i Invite) encode() ([]byte, error) {
	host, ok := strings.CutPrefix(i.URL, "https://")
	if !ok {
		return nil, fmt.Errorf("the URL %q is not an https one", i.URL)
	}
	if i.Uses < 1 || i.Uses > MaxInviteUses {
		return nil, fmt.Errorf("%d uses are not between 1 and %d", i.Uses, MaxInviteUses)
	}
	var flags uint8
	if i.PublicCertificate {
		flags |= 1
	}
	b := cryptobyte.NewBuilder(nil)
	b.AddBytes(i.nonce.Reveal())
	b.AddUint8(flags)
	b.AddBytes(i.CA[:])
	b.AddUint64(uint64(max(0, i.Expires.Unix())))
	b.AddUint16(uint16(i.Uses))
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(host)) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) {
		if i.Source.IsValid() {
			b.AddUint8(uint8(i.Source.Bits()))
			b.AddBytes(i.Source.Addr().AsSlice())
		}
	})
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, p := range i.Profiles {
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(p)) })
		}
	})
	return b.Bytes()
}

// errToken is every failure of ParseInvite. It does not quote the token.
var errToken = errors.New("not an invite's token")

// ParseInvite reads a token, in the one spelling that SignInvite writes. What it
// returns is not verified: only the gateway can do that.
func ParseInvite(token string) (Invite, error) {
	text, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok || len(token) > MaxToken {
		return Invite{}, errToken
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) < sha256.Size || base64.RawURLEncoding.EncodeToString(raw) != text {
		return Invite{}, errToken
	}
	i := Invite{signed: raw[:len(raw)-sha256.Size], mac: raw[len(raw)-sha256.Size:]}
	if !i.decode(i.signed) {
		return Invite{}, errToken
	}
	return i, nil
}

// decode reads what encode wrote, and reports whether that is what it is.
func (i *Invite) decode(signed []byte) bool {
	var (
		in                     = cryptobyte.String(signed)
		nonce, ca              []byte
		flags                  uint8
		expires                uint64
		uses                   uint16
		host, source, profiles cryptobyte.String
	)
	if !in.ReadBytes(&nonce, inviteNonceSize) || !in.ReadUint8(&flags) || !in.ReadBytes(&ca, len(i.CA)) ||
		!in.ReadUint64(&expires) || !in.ReadUint16(&uses) || !in.ReadUint16LengthPrefixed(&host) ||
		!in.ReadUint8LengthPrefixed(&source) || !in.ReadUint16LengthPrefixed(&profiles) || !in.Empty() {
		return false
	}
	if flags > 1 || expires > maxInviteExpiry || uses == 0 || uses > MaxInviteUses {
		return false
	}
	i.nonce = secret.New(nonce)
	i.PublicCertificate = flags == 1
	copy(i.CA[:], ca)
	i.Expires = time.Unix(int64(expires), 0).UTC()
	i.Uses = int(uses)
	return i.decodeURL(string(host)) && i.decodeSource(source) && i.decodeProfiles(profiles)
}

func (i *Invite) decodeURL(host string) bool {
	u, err := url.Parse("https://" + host)
	if err != nil || len(host) > maxInviteHost || u.Host != host || u.Hostname() == "" || u.String() != "https://"+host || !printable(host) {
		return false
	}
	i.URL = u.String()
	return true
}

func (i *Invite) decodeSource(s cryptobyte.String) bool {
	if s.Empty() {
		return true
	}
	var bits uint8
	if !s.ReadUint8(&bits) {
		return false
	}
	addr, ok := netip.AddrFromSlice(s)
	p := netip.PrefixFrom(addr, int(bits))
	if !ok || !p.IsValid() || p.Masked() != p || addr.Is4In6() {
		return false
	}
	i.Source = p
	return true
}

func (i *Invite) decodeProfiles(s cryptobyte.String) bool {
	for !s.Empty() {
		var name cryptobyte.String
		if !s.ReadUint8LengthPrefixed(&name) || len(name) == 0 || len(name) > maxInviteProfile || !printable(string(name)) || len(i.Profiles) == MaxInviteProfiles {
			return false
		}
		i.Profiles = append(i.Profiles, string(name))
	}
	return true
}

// printable reports whether s is ASCII that shows, without spaces: a terminal
// gets to see it.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

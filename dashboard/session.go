package dashboard

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	cookieName   = "cp_dash"
	secretHeader = "X-Clawpatrol-Secret"

	sessionLife  = 12 * time.Hour
	sessionBytes = 32
)

// passwordExists reports whether there is a root password. Like all that is read
// before the gate, it is read to the end also for who has hung up: cut off, it
// would be a failure to log, made by anyone, as often as they like.
func (d *dashboard) passwordExists(r *http.Request) (bool, error) {
	hash, err := d.Registry.RootPasswordHash(context.WithoutCancel(r.Context()))
	if err != nil {
		return false, fmt.Errorf("reading the root password's hash: %w", err)
	}
	return len(hash) > 0, nil
}

// authenticate returns nil if r carries an operator's credential.
func (d *dashboard) authenticate(r *http.Request) error {
	if _, ok := d.sessionOf(r); ok {
		return nil
	}
	header := r.Header.Values(secretHeader)
	if len(header) != 1 || header[0] == "" {
		return unauthorized
	}
	_, err := d.passwords.check(r.Context(), d.caller(r), header[0], true)
	if errors.Is(err, wrongPassword) {
		d.Log.Warn("dashboard: wrong password in header", "source", source(r))
		return unauthorized
	}
	return err
}

// sessionOf returns the hash of the session whose cookie r carries.
func (d *dashboard) sessionOf(r *http.Request) (hash [32]byte, ok bool) {
	for _, hash := range tokenHashes(r) {
		if d.Registry.SessionValid(hash) {
			return hash, true
		}
	}
	return hash, false
}

// tokenHashes are those of r's cookies that could be a session's: all that
// maxHeaderBytes lets through, since another port of this host may set more of our
// name, and browsers may send those first.
func tokenHashes(r *http.Request) [][32]byte {
	var hashes [][32]byte
	for _, c := range r.CookiesNamed(cookieName) {
		if hash, ok := tokenHash(c.Value); ok {
			hashes = append(hashes, hash)
		}
	}
	return hashes
}

// tokenHash returns what the registry knows a session token by. Only hashes are
// compared, so how long a comparison takes says nothing about a token.
func tokenHash(token string) (hash [32]byte, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) != sessionBytes {
		return hash, false
	}
	return sha256.Sum256(raw), true
}

// openSession starts a session and sets its cookie, for who has shown the password
// of this hash. Sessions whose cookies came with r end: nobody who planted one is
// logged in by the log-in (I14).
func (d *dashboard) openSession(ctx context.Context, w http.ResponseWriter, r *http.Request, password []byte) error {
	token, hash, s := d.newSession(r)
	err := d.Registry.NewSession(ctx, password, hash, s, tokenHashes(r)...)
	if errors.Is(err, registry.ErrState) {
		return wrongPassword // it was right until a moment ago
	}
	if err != nil {
		return fmt.Errorf("opening a session: %w", err)
	}
	http.SetCookie(w, d.cookie(token, int(sessionLife.Seconds())))
	return nil
}

// newSession makes a session for who sent r, which is stored nowhere yet.
func (d *dashboard) newSession(r *http.Request) (token string, hash [32]byte, s registry.Session) {
	raw := make([]byte, sessionBytes)
	rand.Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw), sha256.Sum256(raw),
		registry.Session{Expires: d.Now().Add(sessionLife), Source: source(r), Browser: r.UserAgent()}
}

func (d *dashboard) cookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name:     cookieName,
		Value:    value,
		Path:     "/",
		MaxAge:   maxAge,
		HttpOnly: true,
		Secure:   d.TLS, // off loopback the listener is TLS: New sees to it
		SameSite: http.SameSiteStrictMode,
	}
}

// logIn checks the password and opens a session.
func (d *dashboard) logIn(w http.ResponseWriter, r *http.Request, password string) error {
	who := d.caller(r)
	hash, err := d.passwords.check(r.Context(), who, password, false)
	if err != nil {
		// An attempt beyond the limits is not worth a line: anyone can make as many
		// as the network carries, and fill the log's disk. What used the limits up
		// was logged.
		if errors.Is(err, wrongPassword) {
			d.Log.Warn("dashboard: wrong password", "source", source(r))
		}
		return err
	}
	if err := d.openSession(r.Context(), w, r, hash); err != nil {
		return err
	}
	d.remember(w, r, who.known)
	d.Log.Info("dashboard: logged in", "source", source(r))
	return nil
}

// setUp stores the first root password and opens a session. Two at once: the
// registry lets one win.
func (d *dashboard) setUp(w http.ResponseWriter, r *http.Request, password, code string) error {
	from := source(r)
	if err := checkNew(password); err != nil {
		return err
	}
	if err := d.checkCode(r, code); err != nil {
		return err
	}
	hash, err := d.passwords.hash(r.Context(), password)
	if err != nil {
		return err
	}
	// Not cut off with the connection: the password would be set and nobody told.
	ctx := context.WithoutCancel(r.Context())
	if err := d.Registry.SetRootPasswordHash(ctx, hash, true); errors.Is(err, registry.ErrState) {
		return alreadySet
	} else if err != nil {
		return fmt.Errorf("storing the root password: %w", err)
	}
	d.Log.Info("dashboard: root password set", "source", from)
	if err := d.openSession(ctx, w, r, hash); err != nil {
		return err
	}
	d.remember(w, r, knownID{})
	return nil
}

// checkCode compares the one-time code that a reset asks for. Only wrong ones use
// up attempts: 80 random bits need no limit, the log does, and whoever sends wrong
// ones must not keep out who has the right one.
func (d *dashboard) checkCode(r *http.Request, code string) error {
	want, required, err := d.Registry.SetupCodeHash(context.WithoutCancel(r.Context()))
	if err != nil {
		return fmt.Errorf("reading the set-up code's hash: %w", err)
	}
	if !required {
		return nil
	}
	got := sha256.Sum256([]byte(strings.ToUpper(strings.TrimSpace(code))))
	if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
		return nil
	}
	if _, ok := d.passwords.attempts.take(d.caller(r)); !ok {
		return tooManyTries
	}
	d.Log.Warn("dashboard: wrong set-up code", "source", source(r))
	return wrongCode
}

// logOut ends the sessions of r's cookies and clears the cookie.
func (d *dashboard) logOut(w http.ResponseWriter, r *http.Request) error {
	for _, hash := range tokenHashes(r) {
		if !d.Registry.SessionValid(hash) {
			continue
		}
		if err := d.Registry.EndSession(r.Context(), hash); err != nil {
			return fmt.Errorf("ending a session: %w", err)
		}
	}
	http.SetCookie(w, d.cookie("", -1))
	d.Log.Info("dashboard: logged out", "source", source(r))
	return nil
}

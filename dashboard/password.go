package dashboard

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"

	"github.com/clawpatrol/clawpatrol/registry"
)

// BcryptCost is the cost of the root password's hash: a quarter of a second of
// one core.
const BcryptCost = 12

// Lengths of the root password in bytes. bcrypt reads 72 at most, and a longer
// password is refused rather than hashed first: what is stored stays a plain
// bcrypt hash, and no byte of a password is without effect.
const (
	minPassword = 12
	maxPassword = 72
)

// CheckPassword says what is wrong with a new root password, without quoting it.
func CheckPassword(password string) error {
	switch {
	case len(password) < minPassword:
		return fmt.Errorf("the password is shorter than %d bytes", minPassword)
	case len(password) > maxPassword:
		return fmt.Errorf("the password is longer than %d bytes", maxPassword)
	case !utf8.ValidString(password):
		return errors.New("the password is not UTF-8")
	case strings.TrimSpace(password) != password:
		return errors.New("the password begins or ends with a space") // a header would lose it
	case hasControl(password):
		return errors.New("the password has a control character")
	}
	return nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// Limits of bcrypt work.
const (
	maxHashing = 2                // at a time: cores that guessing may use
	maxWaiting = 8                // for one of those
	maxWait    = 10 * time.Second // for one of those
)

var (
	wrongPassword = &failure{http.StatusUnauthorized, "wrong_password", "the password is wrong", ""}
	tooManyTries  = &failure{http.StatusTooManyRequests, "too_many_attempts", "too many wrong passwords", "wait a minute and try again"}
	tooBusy       = &failure{http.StatusServiceUnavailable, "busy", "too many log-ins at once", "try again in a moment"}
	alreadySet    = &failure{http.StatusConflict, "already_set_up", "a root password exists already", "log in; to replace it run clawpatrol gateway --set-dashboard-password"}
	wrongCode     = &failure{http.StatusForbidden, "wrong_code", "the set-up code is missing or wrong", "--reset-dashboard-password printed it"}
)

// passwords checks the root password. Every check goes through the same limits,
// whether it comes from a form, the API or the header.
type passwords struct {
	db       *registry.DB
	cost     int
	attempts *attempts

	hashing chan struct{} // holds a value per running bcrypt
	waiting chan struct{} // holds a value per caller that runs or waits

	cacheKey [32]byte

	mu        sync.Mutex
	cachedSum []byte // HMAC of the last right password from a header; guarded by mu
	cachedFor []byte // the hash it was right for; guarded by mu
}

func newPasswords(cfg Config) *passwords {
	p := &passwords{
		db:       cfg.Registry,
		cost:     cfg.passwordCost,
		attempts: newAttempts(cfg.Now),
		hashing:  make(chan struct{}, maxHashing),
		waiting:  make(chan struct{}, maxHashing+maxWaiting),
	}
	rand.Read(p.cacheKey[:])
	return p
}

// check compares password with the stored hash, which it returns if it is right. With cached, a password that was
// right before is right again without bcrypt, until the hash changes; a wrong
// one still costs bcrypt, and both take an attempt first, so the cache cannot be
// used to guess faster.
func (p *passwords) check(ctx context.Context, who caller, password string, cached bool) (hash []byte, err error) {
	try, ok := p.attempts.take(who)
	if !ok {
		return nil, tooManyTries
	}
	hash, err = p.db.RootPasswordHash(context.WithoutCancel(ctx))
	if err != nil {
		p.attempts.undone(try)
		return nil, fmt.Errorf("reading the root password's hash: %w", err)
	}
	sum := p.sum(password)
	if cached && p.isCached(sum, hash) {
		p.attempts.succeeded(try)
		return hash, nil
	}
	if len(hash) == 0 || len(password) < minPassword || len(password) > maxPassword {
		return nil, wrongPassword // bcrypt would ignore what is beyond 72 bytes
	}
	release, err := p.acquire(ctx)
	if err != nil {
		p.attempts.undone(try)
		return nil, err
	}
	err = bcrypt.CompareHashAndPassword(hash, []byte(password))
	release()
	if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return nil, wrongPassword
	}
	if err != nil {
		return nil, fmt.Errorf("comparing the root password: %w", err)
	}
	p.attempts.succeeded(try)
	if cached {
		p.remember(sum, hash)
	}
	return hash, nil
}

// hash returns the bcrypt hash of a new password.
func (p *passwords) hash(ctx context.Context, password string) ([]byte, error) {
	release, err := p.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	h, err := bcrypt.GenerateFromPassword([]byte(password), p.cost)
	if err != nil {
		return nil, fmt.Errorf("hashing the root password: %w", err)
	}
	return h, nil
}

// acquire waits for one of the places for bcrypt work.
func (p *passwords) acquire(ctx context.Context) (release func(), err error) {
	select {
	case p.waiting <- struct{}{}:
	default:
		return nil, tooBusy
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	select {
	case p.hashing <- struct{}{}:
		return func() { <-p.hashing; <-p.waiting }, nil
	case <-ctx.Done():
		<-p.waiting
		return nil, tooBusy
	}
}

func (p *passwords) sum(password string) []byte {
	m := hmac.New(sha256.New, p.cacheKey[:])
	m.Write([]byte(password))
	return m.Sum(nil)
}

func (p *passwords) isCached(sum, hash []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cachedSum != nil && hmac.Equal(p.cachedSum, sum) && len(hash) > 0 && bytes.Equal(p.cachedFor, hash)
}

func (p *passwords) remember(sum, hash []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cachedSum, p.cachedFor = sum, hash
}

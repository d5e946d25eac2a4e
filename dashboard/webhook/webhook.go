// Package webhook announces to a URL of the operator's what waits for one: each
// new pending approval and each new pending registration, once, as a small JSON
// object with a link to its page. The link decides nothing: the page is behind
// the login.
//
// It follows the registry and touches nothing else. What is announced is bounded:
// an agent that asks for much is announced so often and no more, and a URL that
// does not answer delays nobody.
//
// A request can be told from anybody else's by its signature:
//
//	X-Clawpatrol-Signature: t=1700000000,v1=<hex>
//
// where v1 is HMAC-SHA256 under the secret over t, a full stop and the body.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// Limits.
const (
	lookEvery  = 500 * time.Millisecond
	maxQueued  = 64               // announcements that wait to be sent
	perSecond  = 1                // sent on average
	burst      = 20               // sent at once
	timeout    = 10 * time.Second // of one attempt, whole
	attempts   = 3
	maxSummary = 256 // bytes
)

// pauses are between the attempts for one announcement.
var pauses = [attempts - 1]time.Duration{time.Second, 5 * time.Second}

// Config is what New needs. Every field without a stated default is required.
type Config struct {
	Registry  *registry.DB
	URL       string // https, or http to a loopback address
	Dashboard string // URL of the dashboard without a slash at its end, for links

	// Secret returns what announcements are signed with; one that is not set is an
	// error, and then nothing is sent. Nil: they are not signed.
	Secret func() (secret.Secret, error)

	TLS *tls.Config      // nil: the system's roots
	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: nothing is logged

	pauses *[attempts - 1]time.Duration // nil: pauses
}

// Status is how announcing fares.
type Status struct {
	Host    string    // where to; the rest of the URL may be a secret
	Sent    int       // since the start
	Dropped int       // since the start: not sent, as every attempt failed
	Problem string    // why the last one failed; empty: it did not
	Since   time.Time // when they began to fail; zero: they do not
}

// Webhook announces.
type Webhook struct {
	Config
	host   string
	client *http.Client
	queue  chan announcement

	known knownIDs // owned by Run's goroutine

	mu     sync.Mutex
	status Status // guarded by mu
}

// announcement is what is sent, and what asks whether it is worth it still.
type announcement struct {
	Kind    string `json:"kind"` // "approval" or "registration"
	Summary string `json:"summary"`
	URL     string `json:"url"`

	waits func() bool
}

// errFull is why something is not queued yet.
var errFull = errors.New("too much is to be announced: what is left over follows when there is room")

// knownIDs are what waits and has been announced, or waited at the start.
type knownIDs struct {
	approvals     map[registry.ApprovalID]bool
	registrations map[registry.ID]bool
}

// New checks cfg. Nothing is sent before Run.
func New(cfg Config) (*Webhook, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" {
		return nil, errors.New("webhook: the URL is none") // what was written there may be a secret
	}
	if cfg.Registry == nil || cfg.Dashboard == "" {
		return nil, errors.New("webhook: no registry, or no URL of the dashboard")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.pauses == nil {
		cfg.pauses = &pauses
	}
	w := &Webhook{
		Config: cfg, host: u.Host, queue: make(chan announcement, maxQueued), status: Status{Host: u.Host},
		client: &http.Client{
			Timeout: timeout,
			// Whatever answers with another place does not get to choose who hears of it.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
				TLSHandshakeTimeout: timeout, MaxResponseHeaderBytes: 64 << 10,
			},
		},
	}
	// What waits already was announced by the gateway before this one.
	w.known.registrations = make(map[registry.ID]bool)
	for _, reg := range cfg.Registry.Snapshot().All() {
		w.known.registrations[reg.ID] = reg.State == registry.Pending
	}
	return w, nil
}

// Status is safe to call at any time.
func (w *Webhook) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Run announces until ctx ends, and returns its error.
func (w *Webhook) Run(ctx context.Context) error {
	var sending sync.WaitGroup
	sending.Go(func() { w.send(ctx) })
	defer sending.Wait()
	defer w.client.CloseIdleConnections()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var seen struct {
		approvals uint64
		snapshot  *registry.Snapshot
	}
	for {
		if n := w.Registry.ApprovalChanges(); n != seen.approvals && w.lookForApprovals(ctx) == nil {
			seen.approvals = n
		}
		if s := w.Registry.Snapshot(); s != seen.snapshot && w.lookForRegistrations(s) == nil {
			seen.snapshot = s
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *Webhook) lookForApprovals(ctx context.Context) error {
	pending, err := w.Registry.Approvals(ctx, registry.ApprovalPending)
	if err != nil {
		w.Log.Error("webhook: reading what waits failed", "err", err)
		return err
	}
	known := make(map[registry.ApprovalID]bool)
	for _, h := range slices.Backward(pending) { // the oldest first
		if w.known.approvals[h.ID] {
			known[h.ID] = true
			continue
		}
		name := string(h.Registration)
		if reg, ok := w.Registry.Snapshot().ByID(h.Registration); ok {
			name = reg.Name
		}
		known[h.ID] = w.add(announcement{"approval", summary(name + " waits: " + h.Summary), w.Dashboard + "/approvals/" + url.PathEscape(string(h.ID)), func() bool {
			now, err := w.Registry.Approval(ctx, h.ID)
			return err == nil && now.State == registry.ApprovalPending
		}})
		if !known[h.ID] {
			err = errFull
		}
	}
	w.known.approvals = known
	return err
}

func (w *Webhook) lookForRegistrations(s *registry.Snapshot) (err error) {
	known := make(map[registry.ID]bool)
	for _, reg := range s.All() {
		if reg.State != registry.Pending {
			continue
		}
		if w.known.registrations[reg.ID] {
			known[reg.ID] = true
			continue
		}
		known[reg.ID] = w.add(announcement{"registration", summary(reg.Name + " wants to enrol, from " + reg.Source.String()), w.Dashboard + "/registrations/" + url.PathEscape(string(reg.ID)), func() bool {
			now, ok := w.Registry.Snapshot().ByID(reg.ID)
			return ok && now.State == registry.Pending
		}})
		if !known[reg.ID] {
			err = errFull
		}
	}
	w.known.registrations = known
	return err
}

// add reports whether there was room.
func (w *Webhook) add(a announcement) bool {
	select {
	case w.queue <- a:
		return true
	default:
		w.late()
		return false
	}
}

// send is the goroutine that sends what is queued.
func (w *Webhook) send(ctx context.Context) {
	limit := rate.NewLimiter(perSecond, burst)
	for {
		select {
		case a := <-w.queue:
			// What is over costs the others no time: whoever asks and goes must not
			// use up what is sent in a second.
			if !a.waits() {
				continue
			}
			if limit.Wait(ctx) != nil {
				return
			}
			if !a.waits() {
				continue
			}
			err := w.deliver(ctx, a)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				w.failed(err)
			} else {
				w.succeeded()
			}
		case <-ctx.Done():
			return
		}
	}
}

// permanent is an error after which another attempt is no use.
type permanent struct{ error }

func (w *Webhook) deliver(ctx context.Context, a announcement) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		err := w.attempt(ctx, body)
		if _, final := errors.AsType[permanent](err); err == nil || final || n == len(w.pauses) {
			return err
		}
		select {
		case <-time.After(w.pauses[n]):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *Webhook) attempt(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return permanent{errors.New("the URL is none")}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "clawpatrol")
	if w.Secret != nil {
		key, err := w.Secret()
		if err != nil {
			return permanent{err}
		}
		r.Header.Set("X-Clawpatrol-Signature", sign(key, w.Now(), body))
	}
	answer, err := w.client.Do(r)
	if err != nil {
		// Its text has the URL.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 4<<10) // so that the connection can be used again
	switch s := answer.StatusCode; {
	case s >= 200 && s < 300:
		return nil
	case s >= 300 && s < 400:
		return permanent{fmt.Errorf("it answers %d: redirects are not followed", s)}
	case s == http.StatusRequestTimeout || s == http.StatusTooManyRequests || s >= 500:
		return fmt.Errorf("it answers %d", s)
	default:
		return permanent{fmt.Errorf("it answers %d", s)}
	}
}

func sign(key secret.Secret, now time.Time, body []byte) string {
	at := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, key.Reveal())
	mac.Write([]byte(at + "."))
	mac.Write(body)
	return "t=" + at + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// failed counts what was not sent, and logs the first in a row.
func (w *Webhook) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Dropped++
	if w.status.Since.IsZero() {
		w.status.Since = w.Now()
		w.Log.Warn("webhook: what waits for an operator cannot be announced", "host", w.host, "err", err)
	}
	w.status.Problem = err.Error()
}

// late notes that something waits for room. It is no failure: it follows.
func (w *Webhook) late() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status.Since.IsZero() {
		w.status.Problem = errFull.Error()
	}
}

func (w *Webhook) succeeded() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Sent++
	if !w.status.Since.IsZero() {
		w.Log.Info("webhook: announcing works again", "host", w.host)
	}
	w.status.Problem, w.status.Since = "", time.Time{}
}

package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

const (
	requestTimeout = 30 * time.Second // one request to the gateway, dialling included

	// refusedRetry and refusedFor: a proof is refused for a moment when the gateway
	// has just restarted (it takes no timestamp from before its start). Only one
	// that stays refused means something.
	refusedRetry = 2 * time.Second
	refusedFor   = 10 * time.Second
)

// errRefused is the gateway's one answer to a request that proves no
// registration (401).
var errRefused = errors.New("the gateway does not know this registration")

// statusError is any other refusal.
type statusError struct {
	status        int
	code, message string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the gateway answered %d %s: %s", e.status, e.code, e.message)
}

// session talks to the gateway's public listener, over one address family at a
// time and never through the tunnel. No request leaves before the gateway has
// proven its identity; no proxy is used and no redirect followed (I11).
type session struct {
	url    *url.URL
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	now    func() time.Time
	id     identity

	// where decides what a request that carries the registration's name may leave
	// from. nil: nothing is pinned yet.
	where  *whereabouts
	asking atomic.Bool // for another pin: such requests may leave from anywhere

	clients map[family]*http.Client      // for what carries no name, and while asking
	proven  map[family]*http.Client      // for the rest
	dialTo  func(netip.Addr) *net.Dialer // which bypasses the tunnel; nil: by mark
}

// parseGatewayURL accepts https://host[:port] only.
func parseGatewayURL(s string) (*url.URL, error) {
	hint := "use the address the gateway prints as it starts, like https://gw.example.com:8443"
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, WithHint(fmt.Errorf("reading the gateway's URL %q: it is not a URL", s), hint)
	case u.Scheme != "https":
		return nil, WithHint(fmt.Errorf("reading the gateway's URL %q: it must begin with https://", s), hint)
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || (u.Path != "" && u.Path != "/"):
		return nil, WithHint(fmt.Errorf("reading the gateway's URL %q: it must be a host and a port, nothing else", s), hint)
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, WithHint(fmt.Errorf("reading the gateway's URL %q: %q is not a port", s, p), hint)
		}
	}
	return &url.URL{Scheme: "https", Host: u.Host}, nil
}

// newSession prepares to talk to the gateway at u. pin is nil where its
// certificate must be publicly trusted.
func newSession(u *url.URL, pin *fingerprint, lookup func(context.Context, string) ([]netip.Addr, error), now func() time.Time) *session {
	s := &session{
		url:    u,
		lookup: lookup,
		now:    now,
		id:     identity{host: u.Hostname(), pin: pin, now: now},
	}
	s.connect()
	return s
}

// connect makes the HTTP side of it.
func (s *session) connect() {
	s.clients, s.proven = make(map[family]*http.Client), make(map[family]*http.Client)
	for _, f := range families {
		s.clients[f] = s.client(s.dialer(f))
		s.proven[f] = s.client(s.dialFrom(f, s.whereabouts))
	}
}

func (s *session) client(dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			Proxy:                  nil, // the environment's would see the traffic
			DialContext:            dial,
			TLSClientConfig:        s.id.tlsConfig(),
			TLSHandshakeTimeout:    dialTimeout,
			MaxResponseHeaderBytes: 16 << 10,
			MaxConnsPerHost:        1, // one connection: one source address
			IdleConnTimeout:        90 * time.Second,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (s *session) close() {
	for _, f := range families {
		s.clients[f].CloseIdleConnections()
		s.proven[f].CloseIdleConnections()
	}
}

var (
	errNoAddress   = errors.New("no address of this family")
	errUnreachable = errors.New("no connection")
)

// unreachable reports whether a request failed before the gateway could say or
// prove anything.
func unreachable(err error) bool {
	var away *moved
	return errors.Is(err, errUnreachable) || errors.Is(err, errNoAddress) || errors.As(err, &away)
}

// dialer returns a dial function for one family, from wherever the kernel
// chooses.
func (s *session) dialer(f family) func(context.Context, string, string) (net.Conn, error) {
	return s.dialFrom(f, func(_ context.Context, to netip.Addr) (*net.Dialer, error) {
		if s.dialTo != nil {
			return s.dialTo(to), nil
		}
		return markedDialer(), nil
	})
}

// whereabouts returns a dialer from where the pin says.
func (s *session) whereabouts(ctx context.Context, to netip.Addr) (*net.Dialer, error) {
	source, err := s.where.source(ctx, to)
	if err != nil {
		return nil, err
	}
	return s.dialerFrom(source), nil
}

// bypass is how its sockets get around the tunnel.
func (s *session) bypass() bypass { return s.dialTo == nil }

func (s *session) dialerFrom(source netip.Addr) *net.Dialer {
	d := markedDialer()
	if s.dialTo != nil {
		d = s.dialTo(source)
	}
	d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	return d
}

// seen asks the gateway, with a request that names nobody, which address it sees
// this one of the host's as.
func (s *session) seen(ctx context.Context, source netip.Addr) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, otherFamilyTimeout)
	defer cancel()
	from := &session{url: s.url, lookup: s.lookup, now: s.now, id: s.id, dialTo: func(netip.Addr) *net.Dialer { return s.dialerFrom(source) }}
	from.connect()
	defer from.close()
	info, err := from.info(ctx, familyOf(source))
	if err != nil {
		return netip.Addr{}, err
	}
	addr, err := netip.ParseAddr(info.YourAddress)
	if err != nil {
		return netip.Addr{}, errors.New("reading the gateway's answer: it does not say which address it sees")
	}
	return addr.Unmap(), nil
}

func (s *session) dialFrom(f family, dialer func(context.Context, netip.Addr) (*net.Dialer, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		addrs, err := s.lookup(ctx, s.url.Hostname())
		if err != nil {
			return nil, err
		}
		port := s.url.Port()
		if port == "" {
			port = "443"
		}
		err = errNoAddress
		for _, a := range f.of(addrs) {
			var (
				c net.Conn
				d *net.Dialer
			)
			if d, err = dialer(ctx, a); err != nil {
				continue
			}
			if c, err = d.DialContext(ctx, "tcp"+string(f), net.JoinHostPort(a.String(), port)); err == nil {
				return c, nil
			}
		}
		return nil, err
	}
}

// info asks what the gateway is, and checks this host's clock against it.
func (s *session) info(ctx context.Context, f family) (enrolment.Info, error) {
	var info enrolment.Info
	date, err := s.do(ctx, s.clients[f], http.MethodGet, enrolment.PathInfo, nil, nil, &info)
	if err != nil {
		return info, err
	}
	if skew := s.now().Sub(date); !date.IsZero() && skew.Abs() > enrolment.MACWindow {
		return info, clockError(skew)
	}
	return info, nil
}

func clockError(skew time.Duration) error {
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	return WithHint(fmt.Errorf("this host's clock is %s %s the gateway's", skew.Abs().Round(time.Second), direction),
		"set the clock of whichever is wrong, for example with: timedatectl set-ntp true")
}

// start opens a registration.
func (s *session) start(ctx context.Context, f family, req enrolment.StartRequest) (enrolment.StartResponse, error) {
	var resp enrolment.StartResponse
	body, err := json.Marshal(req)
	if err != nil {
		return resp, err
	}
	_, err = s.do(ctx, s.clients[f], http.MethodPost, enrolment.PathStart, body, nil, &resp)
	return resp, err
}

// claim adds the address this family is seen from to the registration's pin.
func (s *session) claim(ctx context.Context, f family, st *state) (*enrolment.ClaimResponse, error) {
	var resp enrolment.ClaimResponse
	if err := s.prove(ctx, s.clients[f], enrolment.PathClaim, st, &resp); err != nil {
		return nil, err
	}
	return &resp, nil
}

// poll asks where the registration stands, over the first family of the pin's
// that leads to the gateway from where the pin says.
func (s *session) poll(ctx context.Context, st *state) (enrolment.PollResponse, error) {
	var (
		over    []family
		clients = s.proven
	)
	switch {
	case s.where == nil: // nothing is claimed, as far as this host knows
		over, clients = []family{st.Family}, s.clients
	case s.asking.Load():
		over, clients = []family{st.Family, st.Family.other()}, s.clients
	default:
		over = s.where.families()
	}
	var first error
	for _, f := range over {
		resp, err := s.pollOver(ctx, clients[f], st)
		if err == nil || !unreachable(err) {
			return resp, err
		}
		// Of two families, one that has moved says more than one that is away.
		if m := (*moved)(nil); first == nil || errors.As(err, &m) {
			first = err
		}
	}
	return enrolment.PollResponse{}, first
}

func (s *session) pollOver(ctx context.Context, c *http.Client, st *state) (enrolment.PollResponse, error) {
	var resp enrolment.PollResponse
	err := s.prove(ctx, c, enrolment.PathPoll, st, &resp)
	return resp, err
}

// prove sends a request with the registration's MAC. errRefused is returned only
// once it has lasted.
func (s *session) prove(ctx context.Context, c *http.Client, path string, st *state, resp any) error {
	body := []byte("{}")
	key := st.JoinCredential.Keys().MAC
	for deadline := s.now().Add(refusedFor); ; {
		date, err := s.do(ctx, c, http.MethodPost, path, body, func(h http.Header) {
			h.Set("Authorization", enrolment.Authorize(key, st.Registration, http.MethodPost, path, body, s.now()))
		}, resp)
		if !errors.Is(err, errRefused) {
			return err
		}
		if skew := s.now().Sub(date); !date.IsZero() && skew.Abs() > enrolment.MACWindow {
			return clockError(skew)
		}
		if s.now().After(deadline) {
			return err
		}
		if err := sleep(ctx, refusedRetry); err != nil {
			return err
		}
	}
}

// do sends one request and decodes the answer into resp. It returns the
// gateway's clock where the answer tells it.
func (s *session) do(ctx context.Context, c *http.Client, method, path string, body []byte, header func(http.Header), resp any) (date time.Time, err error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return date, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if header != nil {
		header(req.Header)
	}
	r, err := c.Do(req)
	if err != nil {
		return date, s.explain(err)
	}
	defer r.Body.Close()
	date, _ = http.ParseTime(r.Header.Get("Date")) // zero when absent
	b, err := io.ReadAll(io.LimitReader(r.Body, enrolment.MaxBody+1))
	if err != nil {
		return date, fmt.Errorf("reading the gateway's answer: %w", quoted{err})
	}
	if len(b) > enrolment.MaxBody {
		return date, fmt.Errorf("reading the gateway's answer: it is larger than %d bytes", enrolment.MaxBody)
	}
	switch {
	case r.StatusCode == http.StatusOK || r.StatusCode == http.StatusCreated:
		if err := json.Unmarshal(b, resp); err != nil {
			return date, WithHint(fmt.Errorf("reading the gateway's answer to %s: it is not what this program expects", path),
				"is the URL that of a Claw Patrol gateway's public listener (gateway.listen), not of its dashboard?")
		}
		return date, nil
	case r.StatusCode >= 300 && r.StatusCode < 400:
		return date, WithHint(fmt.Errorf("the gateway answered %s with a redirect, which is never followed", path),
			"is the URL that of the gateway's public listener (gateway.listen)?")
	case r.StatusCode == http.StatusUnauthorized:
		return date, errRefused
	}
	return date, refusal(r, b)
}

// refusal turns an error answer into an error. What it quotes is bounded and
// printed with %q only where it may hold anything.
func refusal(r *http.Response, body []byte) error {
	var e enrolment.ErrorResponse
	if err := json.Unmarshal(body, &e); err != nil || e.Error.Code == "" {
		return WithHint(&statusError{r.StatusCode, "", "not in the way of a Claw Patrol gateway"},
			"is the URL that of the gateway's public listener (gateway.listen)?")
	}
	se := &statusError{r.StatusCode, oneLine(e.Error.Code), oneLine(e.Error.Message)}
	hint := oneLine(e.Error.Hint)
	if r.StatusCode == http.StatusTooManyRequests {
		if secs, err := strconv.Atoi(r.Header.Get("Retry-After")); err == nil && secs > 0 && hint == "" {
			hint = fmt.Sprintf("try again in %d seconds", secs)
		}
	}
	return WithHint(se, hint)
}

// maxQuoted bounds what is quoted of the gateway's words.
const maxQuoted = 300 // bytes

// Printable makes outside text safe to print on a terminal: one line, bounded,
// and without what a terminal acts on.
func Printable(s string) string { return oneLine(s) }

// oneLine is Printable.
func oneLine(s string) string {
	if len(s) > maxQuoted {
		s = s[:maxQuoted] + "…"
	}
	var b strings.Builder
	for _, r := range s {
		if strconv.IsGraphic(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// quoted is an error that may hold words of the other end's, safe to print: a
// header line that net/http cannot read, or the names in a certificate.
type quoted struct{ error }

func (q quoted) Error() string { return oneLine(q.error.Error()) }
func (q quoted) Unwrap() error { return q.error }

// explain finds the sentence for a request that got no answer.
func (s *session) explain(err error) error {
	var (
		u       *url.Error
		h       interface{ Hint() string }
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		plain   tls.RecordHeaderError
		away    *moved
	)
	if errors.As(err, &u) {
		err = u.Err // it names the URL, which our own sentence does too
	}
	if certErr := (*tls.CertificateVerificationError)(nil); errors.As(err, &certErr) {
		err = certErr.Err
	}
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, errNoAddress):
		return err
	case errors.As(err, &away):
		return away
	case errors.As(err, &h):
		return fmt.Errorf("verifying the gateway: %w", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		c, now := invalid.Cert, s.now()
		return WithHint(fmt.Errorf("verifying the gateway: its certificate is valid from %s to %s, and this host's clock says %s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)),
			"if the clock is wrong, set it, for example with: timedatectl set-ntp true")
	case errors.As(err, &name):
		return WithHint(fmt.Errorf("verifying the gateway: its certificate is not for %s", s.id.host),
			"join with the URL the gateway prints as it starts (gateway.public_url)")
	case errors.As(err, &unknown) && s.id.pin == nil:
		return WithHint(errors.New("verifying the gateway: its certificate is not publicly trusted"),
			"add --ca-fingerprint sha256:HEX, which the gateway prints as it starts")
	case errors.As(err, &invalid) || errors.As(err, &unknown):
		return WithHint(fmt.Errorf("verifying the gateway: %w", quoted{err}), "somebody may be between this host and the gateway; compare the fingerprint")
	case errors.As(err, &plain) || errors.Is(err, http.ErrSchemeMismatch):
		return WithHint(fmt.Errorf("verifying the gateway: %s does not speak TLS", s.url.Host), "is the port that of the gateway's public listener (gateway.listen)?")
	}
	return WithHint(fmt.Errorf("reaching the gateway at %s: %w: %w", s.url.Host, errUnreachable, quoted{err}),
		"check the address and port, that the gateway runs, and that no firewall is in the way")
}

// sleep waits for d or the end of ctx, and returns why it was cut short.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Package public is the gateway's public listener: what an agent host needs to
// enrol, and nothing else.
//
// It answers exactly GET /info, GET /ca.crt, GET /healthz and POST
// /api/onboard/{start,poll,claim}. Every other path is 404 whatever the
// credentials, so nothing of the dashboard can be reached, guessed at or
// mounted here. A registration made here is pending: it carries no traffic
// until an operator approves it in the dashboard.
//
// Who is asking is the TCP peer, and for poll and claim whoever holds the join
// credential. Forwarding headers are never read: behind a reverse proxy every
// agent host would have the proxy's address, so this listener is not put behind
// one.
package public

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/listener"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// Config is what New needs. Every field without a stated default is required.
type Config struct {
	Registry *registry.DB
	Policy   func() *policy.Policy // the one in force

	Version       string // shown by /info; may be empty
	CAFingerprint string // "sha256:<hex>" of the local CA's DER
	CAPEM         []byte // the local CA's certificate

	WireGuardPublicKey [32]byte // the gateway's
	WireGuardEndpoint  string   // host:port that agent hosts dial
	MTU                int      // bytes, inside the tunnel

	// SSHAuthority is the gateway's SSH CA, "ssh-ed25519 AAAA…"; empty: it has none.
	// KnownHost returns the line of known_hosts for a host of an endpoint; nil:
	// there are none.
	SSHAuthority string
	KnownHost    func(endpointRef, host string, port uint16) string

	Invites *invites.Office // nil: no invite is good

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: nothing is logged
}

// handler serves the public listener.
type handler struct {
	Config
	routes  map[string]route
	csrf    *http.CrossOriginProtection
	starts  *sourceLimiter
	proof   *verifier
	pubKey  string // standard base64
	weakKey func([32]byte) bool
}

type route struct {
	method string
	serve  func(http.ResponseWriter, *http.Request)
}

// New returns the listener's handler. Requests proven before this call are
// refused from then on: see verifier.
func New(cfg Config) (http.Handler, error) {
	switch {
	case cfg.Registry == nil:
		return nil, errors.New("public listener: no registry")
	case cfg.Policy == nil:
		return nil, errors.New("public listener: no policy")
	case cfg.CAFingerprint == "" || len(cfg.CAPEM) == 0:
		return nil, errors.New("public listener: no CA certificate")
	case cfg.WireGuardPublicKey == [32]byte{} || cfg.WireGuardEndpoint == "":
		return nil, errors.New("public listener: no WireGuard key or endpoint")
	case cfg.MTU <= 0:
		return nil, fmt.Errorf("public listener: MTU %d", cfg.MTU)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	weak, err := weakKeyCheck()
	if err != nil {
		return nil, fmt.Errorf("public listener: %w", err)
	}
	h := &handler{
		Config:  cfg,
		csrf:    http.NewCrossOriginProtection(),
		starts:  newSourceLimiter(cfg.Now),
		proof:   newVerifier(cfg.Registry, cfg.Now),
		pubKey:  encodeKey(cfg.WireGuardPublicKey),
		weakKey: weak,
	}
	h.routes = map[string]route{
		"/healthz":          {http.MethodGet, h.healthz},
		enrolment.PathInfo:  {http.MethodGet, h.info},
		enrolment.PathCA:    {http.MethodGet, h.caCertificate},
		enrolment.PathStart: {http.MethodPost, h.start},
		enrolment.PathClaim: {http.MethodPost, h.claim},
		enrolment.PathPoll:  {http.MethodPost, h.poll},
	}
	return h, nil
}

// ServeHTTP matches the path as it was sent: no cleaning, no decoding, no
// redirects. A mux that rewrites paths would answer more than this list.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer h.recoverPanic(w, r)
	head := w.Header()
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	// Bounded before anything is routed: no path reads more.
	r.Body = http.MaxBytesReader(w, r.Body, maxRequestBody)

	rt, ok := h.routes[r.URL.EscapedPath()]
	if !ok {
		refuse(w, http.StatusNotFound, "not_found", "no such path on this listener", "")
		return
	}
	if r.Method != rt.method && (rt.method != http.MethodGet || r.Method != http.MethodHead) {
		head.Set("Allow", rt.method)
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "this path takes "+rt.method, "")
		return
	}
	// No page belongs here: a browser that posts does so for someone else's page,
	// and would enrol keys of its choice from the operator's address.
	if err := h.csrf.Check(r); err != nil {
		refuse(w, http.StatusForbidden, "cross_origin", "browsers may not post here", "")
		return
	}
	rt.serve(w, r)
}

// recoverPanic ends a panic at its request (I16).
func (h *handler) recoverPanic(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v)
	}
	h.Log.Error("public listener: panic", "path", r.URL.EscapedPath(), "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
	refuse(w, http.StatusInternalServerError, "internal", "the gateway failed; its log says why", "")
}

func (h *handler) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

func (h *handler) info(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, enrolment.Info{
		Version:       h.Version,
		CAFingerprint: h.CAFingerprint,
		WireGuard:     enrolment.InfoWireGuard{PublicKey: h.pubKey, Endpoint: h.WireGuardEndpoint},
		YourAddress:   peer(r).String(),
	})
}

func (h *handler) caCertificate(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(h.CAPEM)
}

// peer is the address of the other end of the TCP connection, an IPv4 address
// as IPv4. It is the zero Addr where the server did not say.
func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// Limits of Server.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second // headers and body
	answerTimeout  = 20 * time.Second
	idleTimeout    = 20 * time.Second // a little more than agents wait between polls
	maxHeaderBytes = 8 << 10
	// Anyone may open maxConns connections: each holds at most maxStreams requests
	// (an agent host has one under way) of maxHeaderBytes and maxRequestBody.
	maxStreams     = 4
	maxRequestBody = 4 << 10 // the longest start, with an invite, is less than two thirds of that

	maxConns          = 2048
	maxConnsPerSource = 512 // agent hosts behind one NAT share it
)

// Server returns the server for handler: every wait, every size and the number
// of connections bounded. It sets no TLS configuration: the caller serves a TLS
// listener.
func Server(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:                      handler,
		ReadHeaderTimeout:            headerTimeout,
		ReadTimeout:                  requestTimeout,
		WriteTimeout:                 answerTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ConnState:                    listener.NewLimit(maxConns, maxConnsPerSource).Track,
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is a 404 like the rest
		// Anyone can fail a TLS handshake as often as they like: not worth a line.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
}

// logName is a registration's name as a log attribute: names are outside input.
func logName(s string) slog.Attr { return slog.String("name", strings.ToValidUTF8(s, "?")) }

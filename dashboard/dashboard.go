// Package dashboard is the operators' listener: the management API and the
// pages over it, on one origin.
//
// Nothing here answers without an operator's credential, on whatever address it
// is bound: the session cookie cp_dash, or the root password in the header
// X-Clawpatrol-Secret. That a request reached the listener proves nothing.
// Before a root password exists there is only the set-up form; see router for
// the few routes that need no credential.
//
// The dashboard writes rows in the registry and reads the policy. It never
// touches the data path: that follows the registry on its own.
package dashboard

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard/webhook"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/listener"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/registry"
)

// Config is what New needs. Every field without a stated default is required.
type Config struct {
	Registry *registry.DB
	Policy   func() *policy.Policy // the one in force

	// Listen is the listener's own host:port, for the Host check. TLS says
	// whether it is served over TLS: off loopback it must be.
	Listen string
	TLS    bool

	Invites    *invites.Office  // nil: this gateway makes none
	Recordings *recording.Store // of SSH sessions; nil: there are none

	Webhook func() webhook.Status // how announcing fares; nil: nothing is announced

	Flows func(registry.ID) []Flow // running now, newest first; nil: nobody tells them, and none are shown

	System func() System // nil: nothing is known of the gateway itself

	PolicyFile func() PolicyFile // nil: nothing is known of the policy's file

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: nothing is logged

	// passwordCost is bcrypt's; 0: BcryptCost. Tests lower it.
	passwordCost int
	// gatewayAddrs lists the gateway's own addresses; nil: its interfaces'.
	gatewayAddrs func() []netip.Addr
	// connectionOwner says who on this host made a connection; nil: the kernel.
	connectionOwner func(from, to netip.AddrPort) owner
}

// dashboard serves the listener.
type dashboard struct {
	Config
	hosts      hostCheck
	csrf       *http.CrossOriginProtection
	passwords  *passwords
	pages      pageSet
	router     *router
	streams    chan struct{} // holds a value per open stream of events
	drafts     drafts
	kept       chan struct{} // holds a value per form that is being kept; see showEnded
	profilesMu sync.Mutex    // held from looking at a registration's profiles until they are replaced
	secretsMu  sync.Mutex    // held from looking at what is stored until it is replaced or cleared
}

// New returns the listener's handler.
func New(cfg Config) (http.Handler, error) {
	d, err := newDashboard(cfg)
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	return d, nil
}

func newDashboard(cfg Config) (*dashboard, error) {
	if cfg.Registry == nil {
		return nil, errors.New("no registry")
	}
	if cfg.Policy == nil {
		return nil, errors.New("no policy")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.System == nil {
		cfg.System = func() System { return System{} }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.passwordCost == 0 {
		cfg.passwordCost = BcryptCost
	}
	if cfg.gatewayAddrs == nil {
		cfg.gatewayAddrs = interfaceAddrs
	}
	if cfg.connectionOwner == nil {
		cfg.connectionOwner = connectionOwner
	}
	hosts, err := newHostCheck(cfg.Listen, cfg.TLS)
	if err != nil {
		return nil, err
	}
	if !cfg.TLS && !hosts.loopback {
		return nil, fmt.Errorf("listening on %s needs TLS: passwords would cross the network in clear text", cfg.Listen)
	}
	pages, err := parsePages()
	if err != nil {
		return nil, err
	}
	d := &dashboard{
		Config:    cfg,
		hosts:     hosts,
		csrf:      http.NewCrossOriginProtection(),
		passwords: newPasswords(cfg),
		pages:     pages,
		streams:   make(chan struct{}, maxEventStreams),
		kept:      make(chan struct{}, maxKept),
	}
	public := map[string]publicRoute{
		"GET /setup":      {d.setupPage, whileUnset},
		"POST /setup":     {d.setupForm, whileUnset},
		"POST /api/setup": {d.setupAPI, whileUnset},
		"GET /login":      {d.loginPage, onceSet},
		"POST /login":     {d.loginForm, onceSet},
		"POST /api/login": {d.loginAPI, onceSet},
	}
	for _, name := range publicStatic {
		public["GET /static/"+name] = publicRoute{serveStatic(name), always}
	}
	d.router = newRouter(d.passwordExists, d.authenticate, d.fail, d.showEnded, public)
	d.handleRoutes()
	return d, nil
}

// handleRoutes adds every route that needs an operator's credential: router has no
// other way to add one. Each room of the dashboard lists its own.
func (d *dashboard) handleRoutes() {
	d.handleSession()
	d.handleOverview()
	d.handleRegistrations()
	d.handleInvites()
	d.handleApprovals()
	d.handleCredentials()
	d.handleActions()
	d.handleRecordings()
	d.handlePolicy()
	d.handleSystem()
	d.handleLive()
	d.handleDocument()
	d.handleStatic()
}

// Limits of Server and of requests.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 15 * time.Second
	answerTimeout  = 60 * time.Second // a login may queue for bcrypt
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 16 << 10
	maxStreams     = 64      // concurrent requests on one HTTP/2 connection
	maxBody        = 1 << 20 // bytes of any request body
	maxPublicBody  = 4 << 10 // bytes of one before the gate: a password, a code, a form

	maxConns          = 256
	maxConnsPerSource = 128 // on loopback everyone shares it
)

// Server returns the server for handler: every wait, every size and the number
// of connections bounded. It sets no TLS configuration: the caller serves a TLS
// listener where it must.
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
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is gated like the rest
		ErrorLog:                     slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
}

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
	"time"

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

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: nothing is logged

	// passwordCost is bcrypt's; 0: BcryptCost. Tests lower it.
	passwordCost int
	// gatewayAddrs lists the gateway's own addresses; nil: its interfaces'.
	gatewayAddrs func() []netip.Addr
}

// dashboard serves the listener.
type dashboard struct {
	Config
	hosts     hostCheck
	csrf      *http.CrossOriginProtection
	passwords *passwords
	pages     pageSet
	router    *router
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
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.passwordCost == 0 {
		cfg.passwordCost = BcryptCost
	}
	if cfg.gatewayAddrs == nil {
		cfg.gatewayAddrs = interfaceAddrs
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
	}
	d.router = newRouter(d.passwordExists, d.authenticate, d.fail, map[string]publicRoute{
		"GET /setup":            {d.setupPage, whileUnset},
		"POST /setup":           {d.setupForm, whileUnset},
		"POST /api/setup":       {d.setupAPI, whileUnset},
		"GET /login":            {d.loginPage, onceSet},
		"POST /login":           {d.loginForm, onceSet},
		"POST /api/login":       {d.loginAPI, onceSet},
		"GET /static/style.css": {d.stylesheet, always},
	})
	d.handleAPI()
	d.handlePages()
	return d, nil
}

// handleAPI adds the API's routes. All are gated: router has no other way.
func (d *dashboard) handleAPI() {
	d.router.handle("POST /api/logout", d.logoutAPI)

	d.router.handle("GET /api/registrations", d.listRegistrations)
	d.router.handle("GET /api/registrations/{id}", d.getRegistration)
	d.router.handle("POST /api/registrations/{id}/approve", d.approveAPI)
	d.router.handle("PUT /api/registrations/{id}/profiles", d.profilesAPI)
	d.router.handle("POST /api/registrations/{id}/block", d.blockAPI)
	d.router.handle("DELETE /api/registrations/{id}", d.revokeAPI)
	d.router.handle("GET /api/removals", d.listRemovals)
	d.router.handle("DELETE /api/removals", d.seenRemovalsAPI)

	d.router.handle("GET /api/endpoints", d.listEndpoints)
	d.router.handle("GET /api/profiles", d.listProfiles)

	d.router.handle("GET /api/credentials", d.listCredentials)
	d.router.handle("PUT /api/credentials/{type}/{name}", d.setCredentialAPI)
	d.router.handle("DELETE /api/credentials/{type}/{name}", d.clearCredentialAPI)
	d.router.handle("PUT /api/secrets/{name}", d.setSecretAPI)

	d.router.handle("GET /api/approvals", d.listApprovals)
	d.router.handle("GET /api/approvals/{id}", d.getApproval)
	d.router.handle("POST /api/approvals/{id}", d.decideAPI)
	d.router.handle("GET /api/host-keys", d.listHostKeys)
	d.router.handle("DELETE /api/host-keys/{endpoint}/{host}/{port}", d.forgetHostKeyAPI)

	d.router.handle("GET /api/actions", d.listActions)

	d.router.handle("GET /api/recordings", d.listRecordings)
	d.router.handle("GET /api/recordings/{id}", d.recordingAPI)

	d.router.handle("GET /api/invites", d.listInvites)
	d.router.handle("POST /api/invites", d.makeInviteAPI)
	d.router.handle("DELETE /api/invites/{id}", d.voidInviteAPI)
}

// handlePages adds the pages. Every form posts, is answered 303, and works
// without JavaScript.
func (d *dashboard) handlePages() {
	d.router.handle("GET /{$}", func(w http.ResponseWriter, r *http.Request) { seeOther(w, r, "/registrations") })
	d.router.handle("POST /logout", d.logoutForm)

	d.router.handle("GET /registrations", d.registrationsPage)
	d.router.handle("GET /registrations/{id}", d.registrationPage)
	d.router.handle("POST /registrations/{id}/approve", d.approveForm)
	d.router.handle("POST /registrations/{id}/profiles", d.profilesForm)
	d.router.handle("POST /registrations/{id}/block", d.blockForm)
	d.router.handle("GET /registrations/{id}/revoke", d.revokePage)
	d.router.handle("POST /registrations/{id}/revoke", d.revokeForm)
	d.router.handle("POST /removals/seen", d.seenRemovalsForm)

	d.router.handle("GET /credentials", d.credentialsPage)
	d.router.handle("GET /credentials/{type}/{name}", d.credentialPage)
	d.router.handle("POST /credentials/{type}/{name}", d.credentialForm)
	d.router.handle("GET /credentials/{type}/{name}/clear", d.clearCredentialPage)
	d.router.handle("POST /credentials/{type}/{name}/clear", d.clearCredentialForm)

	d.router.handle("GET /approvals", d.approvalsPage)
	d.router.handle("POST /approvals/{id}", d.decideForm)
	d.router.handle("POST /host-keys/forget", d.forgetHostKeyForm)

	d.router.handle("GET /actions", d.actionsPage)

	d.router.handle("GET /recordings", d.recordingsPage)
	d.router.handle("GET /recordings/{id}", d.recordingPage)
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

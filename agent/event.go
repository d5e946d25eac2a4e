package agent

import (
	"encoding/json"
	"fmt"
	"time"
)

// Event is one thing that Join, Up, Down, Repin and Leave report: a line for people, or
// with Config.JSON this as an object on a line of its own. The names stay as they
// are (docs/agent-hosts.md); the words of Message may change.
type Event struct {
	Event   string `json:"event"`   // EventNote: nothing that a script waits for
	Message string `json:"message"` // the line for people
	Hint    string `json:"hint,omitempty"`

	Gateway       string     `json:"gateway,omitempty"` // URL
	CAFingerprint string     `json:"ca_fingerprint,omitempty"`
	Name          string     `json:"name,omitempty"`
	Registration  string     `json:"registration,omitempty"`
	UserCode      string     `json:"user_code,omitempty"`
	ExpiresAt     *time.Time `json:"expires_at,omitempty"` // of the user code
	Address       string     `json:"address,omitempty"`
	Path          string     `json:"path,omitempty"`
	Profiles      []string   `json:"profiles,omitzero"`
	Service       string     `json:"service,omitempty"`
}

// The names of events.
const (
	EventNote               = "note"
	EventGateway            = "gateway"              // Gateway and CAFingerprint: it has proven its identity
	EventName               = "name"                 // Name
	EventRegistration       = "registration"         // Registration
	EventUserCode           = "user_code"            // UserCode and ExpiresAt, until it is approved
	EventAddress            = "address"              // Address: is in the pin
	EventTunnelUp           = "tunnel_up"            // also when the gateway is found again
	EventTunnelDown         = "tunnel_down"          // undone
	EventWaitingForGateway  = "waiting_for_gateway"  // nothing leaves this host until it answers
	EventWaitingForApproval = "waiting_for_approval" //
	EventCAInstalled        = "ca_installed"         // Path
	EventCANotInstalled     = "ca_not_installed"     // this system has no trust store that is known
	EventApproved           = "approved"             //
	EventProfiles           = "profiles"             // Profiles: at the approval and when they change
	EventReady              = "ready"                // all of it is done
	EventBlocked            = "blocked"              // nothing leaves this host
	EventRepin              = "repin"                // the gateway has seen where it is now
	EventMoved              = "moved"                // the same: it is not where its pin says
	EventRevoked            = "revoked"              // the same, for good
	EventService            = "service"              // Service: systemd holds the tunnel
	EventLeft               = "left"                 // Registration and Name, where they are known
	EventNotEnrolled        = "not_enrolled"         // there was nothing to leave
)

// tell reports an event. It may be called from any goroutine.
func (a *Agent) tell(e Event, format string, args ...any) {
	e.Message = fmt.Sprintf(format, args...)
	text := e.Message + "\n"
	if e.Hint != "" {
		text += "hint: " + e.Hint + "\n"
	}
	if a.cfg.JSON {
		b, err := json.Marshal(e)
		if err != nil {
			panic("agent: encoding an event: " + err.Error()) // it has nothing but text and a time
		}
		text = string(b) + "\n"
	}
	a.outMu.Lock()
	defer a.outMu.Unlock()
	_, _ = a.cfg.Out.Write([]byte(text)) // whoever read it is gone; the tunnel is not theirs to end
}

// say is tell for what no script waits for.
func (a *Agent) say(format string, args ...any) { a.tell(Event{Event: EventNote}, format, args...) }

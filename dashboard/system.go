package dashboard

import (
	"net/http"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// System is what the gateway says of itself.
type System struct {
	Version string
	Go      string // the version of Go that built it
	Started time.Time

	Listeners []Listener
	WireGuard WireGuard

	CAFingerprint string // "sha256:" and hex digits
	CAExpires     time.Time
	CAPEM         []byte
	SSHAuthority  string // a line of known_hosts

	StateDir  string
	Database  int64 // bytes, with what is not checkpointed
	DiskFree  int64 // bytes that the gateway may use, where state_dir is
	DiskTotal int64 // bytes
}

// Listener is an address that the gateway answers on.
type Listener struct {
	Name    string // the policy's attribute
	Address string
	TLS     bool
}

// WireGuard is the tunnel's end.
type WireGuard struct {
	PublicKey string
	Port      uint16
}

type listenerView struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	TLS     bool   `json:"tls"`
}

type transportView struct {
	Name      string   `json:"name"` // "wireguard"
	Port      uint16   `json:"port"`
	Endpoint  string   `json:"endpoint"` // what agent hosts dial
	PublicKey string   `json:"public_key"`
	Subnets   []string `json:"subnets"`
}

type caView struct {
	Fingerprint  string    `json:"fingerprint"`
	Expires      time.Time `json:"expires"`
	SSHAuthority string    `json:"ssh_authority"`
}

type storeView struct {
	StateDir  string `json:"state_dir"`
	Database  int64  `json:"database_bytes"`
	DiskFree  int64  `json:"disk_free_bytes"`
	DiskTotal int64  `json:"disk_total_bytes"`
}

type logView struct {
	Last           int64      `json:"last"` // ID of the newest row on disk
	Queued         int        `json:"queued"`
	DroppedResults uint64     `json:"dropped_results"`
	Error          string     `json:"error,omitempty"` // why rows are not written, and actions denied
	Keep           string     `json:"keep,omitempty"`  // how long rows stay; empty: the default
	MaxSize        int64      `json:"max_bytes,omitempty"`
	Removed        int64      `json:"removed"` // rows that went because they were too old or too many
	RemovedUpTo    *time.Time `json:"removed_up_to"`
}

// systemView is what the API shows of the gateway itself.
type systemView struct {
	Version       string         `json:"version"`
	Go            string         `json:"go"`
	Started       time.Time      `json:"started"`
	PublicURL     string         `json:"public_url"`
	Enrolment     string         `json:"enrolment"`
	Listeners     []listenerView `json:"listeners"`
	Transport     transportView  `json:"transport"`
	CA            caView         `json:"ca"`
	Store         storeView      `json:"store"`
	ActionLog     logView        `json:"action_log"`
	Registrations map[string]int `json:"registrations"` // by state
	EventStreams  int            `json:"event_streams"` // pages that listen at present
}

func (d *dashboard) system() systemView {
	s, p := d.System(), d.Policy()
	v := systemView{
		Version: s.Version, Go: s.Go, Started: s.Started.UTC(),
		PublicURL: p.Gateway.PublicURL, Enrolment: string(p.Gateway.Enrolment),
		Transport:     transportView{Name: "wireguard", Port: s.WireGuard.Port, Endpoint: p.WireGuard.Endpoint, PublicKey: s.WireGuard.PublicKey},
		CA:            caView{s.CAFingerprint, s.CAExpires.UTC(), s.SSHAuthority},
		Store:         storeView{s.StateDir, s.Database, s.DiskFree, s.DiskTotal},
		ActionLog:     newLogView(d.Registry.LogHealth(), d.Registry.LastAction(), p.Gateway.ActionLog),
		Listeners:     []listenerView{},
		Registrations: make(map[string]int),
		EventStreams:  len(d.streams),
	}
	for _, l := range s.Listeners {
		v.Listeners = append(v.Listeners, listenerView(l))
	}
	for _, n := range p.WireGuard.Subnets {
		v.Transport.Subnets = append(v.Transport.Subnets, n.String())
	}
	for _, state := range []registry.State{registry.Pending, registry.Approved, registry.Blocked, registry.Revoked} {
		v.Registrations[string(state)] = 0
	}
	for _, reg := range d.Registry.Snapshot().All() {
		v.Registrations[string(reg.State)]++
	}
	return v
}

func newLogView(h registry.LogHealth, last int64, keep policy.ActionLog) logView {
	v := logView{Last: last, Queued: h.Queued, DroppedResults: h.DroppedResults, MaxSize: keep.MaxSize,
		Removed: h.Removed.Rows, RemovedUpTo: optionalTime(h.Removed.Newest)}
	if keep.Keep != 0 {
		v.Keep = keep.Keep.String()
	}
	if h.Err != nil {
		v.Error = h.Err.Error()
	}
	return v
}

func (d *dashboard) systemAPI(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, d.system())
}

// caPEM is the CA's certificate to keep: agent hosts have it already.
func (d *dashboard) caPEM(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Header().Set("Content-Disposition", `attachment; filename="clawpatrol-ca.pem"`)
	_, _ = w.Write(d.System().CAPEM)
}

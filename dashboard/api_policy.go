package dashboard

import (
	"net"
	"net/http"
	"strconv"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/policy"
)

type endpointView struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Hosts   []string `json:"hosts"`             // host:port
	Address string   `json:"address,omitempty"` // where it is dialled instead
	OwnCA   bool     `json:"ca_file"`           // verified against ca_file instead of the system's roots
	Cookies string   `json:"cookies,omitempty"` // of type "https": "pass", "strip" or "none"
	// Identity is "pass" where the agent's own Authorization and the like go along
	// with the credential; else it is left out.
	Identity string        `json:"identity,omitempty"`
	SSH      *sshView      `json:"ssh,omitempty"`      // of type "ssh" only
	Postgres *postgresView `json:"postgres,omitempty"` // of type "postgres" only
}

// postgresView is what an endpoint of type "postgres" has.
type postgresView struct {
	TLS         string   `json:"tls"`     // "verify-full" or "disable"
	Options     []string `json:"options"` // run-time parameters that agents may set besides the harmless ones
	Replication bool     `json:"replication"`
	LogLiterals bool     `json:"log_literals"`
}

func newPostgresView(x *policy.Postgres) *postgresView {
	v := &postgresView{TLS: "verify-full", Options: append([]string{}, x.Options...), Replication: x.Replication, LogLiterals: x.LogLiterals}
	if x.DisableTLS {
		v.TLS = "disable"
	}
	return v
}

// sshView is what an endpoint of type "ssh" has. Keys are shown by their
// fingerprints, as OpenSSH prints them.
type sshView struct {
	HostKeys   []string `json:"host_keys"`
	HostCAs    []string `json:"host_ca"`
	KnownHosts bool     `json:"known_hosts_file"`
	Approve    bool     `json:"approve"` // an operator decides on keys that nothing else accepts
	Env        []string `json:"env"`
	Forward    []string `json:"forward"` // host:port
	Jump       string   `json:"jump,omitempty"`
	Record     bool     `json:"record"`
}

func newSSHView(x *policy.SSH) *sshView {
	v := &sshView{HostKeys: fingerprints(x.HostKeys), HostCAs: fingerprints(x.HostCAs), KnownHosts: x.KnownHosts != nil,
		Approve: x.ApproveHostKeys, Env: append([]string{}, x.Env...), Forward: hostList(x.Forward), Record: x.Record}
	if x.Jump != nil {
		v.Jump = x.Jump.Ref()
	}
	return v
}

func fingerprints(keys []ssh.PublicKey) []string {
	prints := []string{}
	for _, k := range keys {
		prints = append(prints, ssh.FingerprintSHA256(k))
	}
	return prints
}

type profileView struct {
	Name        string   `json:"name"`
	Credentials []string `json:"credentials"` // refs
	Default     bool     `json:"default"`
}

func (d *dashboard) listEndpoints(w http.ResponseWriter, _ *http.Request) {
	var items []endpointView
	for _, e := range d.Policy().Endpoints {
		v := endpointView{Type: e.Type, Name: e.Name, Hosts: hostList(e.Hosts), OwnCA: e.RootCAs != nil}
		if e.Address.IsValid() {
			v.Address = e.Address.String()
		}
		switch {
		case e.SSH != nil:
			v.SSH = newSSHView(e.SSH)
		case e.Postgres != nil:
			v.Postgres = newPostgresView(e.Postgres)
		case e.PassCookies:
			v.Cookies = "pass"
		case e.DropCookies:
			v.Cookies = "none"
		default:
			v.Cookies = "strip"
		}
		if e.PassIdentity {
			v.Identity = "pass"
		}
		items = append(items, v)
	}
	writeList(w, items, "")
}

// hostList shows hosts, each with its port.
func hostList(of []policy.Host) []string {
	hosts := []string{}
	for _, h := range of {
		hosts = append(hosts, net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port))))
	}
	return hosts
}

func (d *dashboard) listProfiles(w http.ResponseWriter, _ *http.Request) {
	var items []profileView
	for _, p := range d.Policy().Profiles {
		v := profileView{Name: p.Name, Credentials: []string{}, Default: p.Default}
		for _, c := range p.Credentials {
			v.Credentials = append(v.Credentials, c.Ref())
		}
		items = append(items, v)
	}
	writeList(w, items, "")
}

// configAPI answers with the policy in force as text, and how its file stands to
// it.
func (d *dashboard) configAPI(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, d.config())
}

// draftRequest is a policy that stands in no file.
type draftRequest struct {
	Source string `json:"source"`
}

// validateAPI checks a draft. That it has mistakes is an answer, not a failure.
func (d *dashboard) validateAPI(w http.ResponseWriter, r *http.Request) {
	var req draftRequest
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	v, err := d.checkDraft(req.Source, nil)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, v)
}

// ruleView is a rule of the policy in force. No policy of this version has any:
// Compile refuses them.
type ruleView struct {
	Name string `json:"name"`
}

func (d *dashboard) listRules(w http.ResponseWriter, _ *http.Request) {
	writeList[ruleView](w, nil, "")
}

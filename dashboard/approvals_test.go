package dashboard_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/registry"
)

const sshHCL = `
gateway { public_url = "https://gw.example.com:8443" }
endpoint "ssh" "build" {
  hosts     = ["build.example.com"]
  host_keys = "approve"
  forward   = ["db.internal:5432"]
}
credential "ssh_key" "deploy" {
  endpoint = ssh.build
  user     = "deploy"
}
credential "ssh_password" "ops" {
  endpoint = ssh.build
  users    = ["ops", "admin"]
}
profile "ci" { credentials = [ssh_key.deploy, ssh_password.ops] }
`

// holder is an agent's connection that waits for an operator.
type holder struct {
	id     string
	result chan error // nil: allowed
	leave  context.CancelFunc
}

// hold makes a registration wait for the acceptance of key. known are the
// fingerprints that were expected.
func (g *gateway) hold(reg registry.ID, key ssh.PublicKey, known ...string) holder {
	g.t.Helper()
	before := g.db.PendingApprovals()
	ctx, cancel := context.WithCancel(g.t.Context())
	h := holder{result: make(chan error, 1), leave: cancel}
	go func() {
		d, err := g.db.Hold(ctx, registry.HeldRequest{
			Registration: reg, Endpoint: "ssh.build", Kind: registry.ApproveHostKey,
			Summary: "the host key of build.example.com port 22: " + ssh.FingerprintSHA256(key),
			Detail: registry.HostKeyDetail{Host: "build.example.com", Port: 22, KeyType: key.Type(),
				Fingerprint: ssh.FingerprintSHA256(key), Known: known},
			HostKey: registry.HostKey{Host: "build.example.com", Port: 22, Key: key.Marshal()},
		})
		if err == nil && !d.Allowed() {
			err = errors.New(string(d.State) + ": " + d.Reason)
		}
		h.result <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); g.db.PendingApprovals() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatal("nothing waits")
		}
	}
	list, err := g.db.Approvals(g.t.Context(), registry.ApprovalPending)
	if err != nil {
		g.t.Fatal(err)
	}
	h.id = string(list[0].ID)
	return h
}

func (h holder) outcome(t testing.TB) string {
	t.Helper()
	select {
	case err := <-h.result:
		if err != nil {
			return err.Error()
		}
		return "allowed"
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting")
		return ""
	}
}

func newHostKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSSHGateway(t testing.TB) (*gateway, *registry.Registration) {
	g := newOperated(t)
	g.load(sshHCL)
	reg := g.enrol("build-01", "198.51.100.1")
	if err := g.db.Approve(t.Context(), reg.ID, []string{"ci"}, ""); err != nil {
		t.Fatal(err)
	}
	return g, reg
}

type approvalAnswer struct {
	ID           string
	Registration string
	Name         string `json:"registration_name"`
	Endpoint     string
	Kind         string
	State        string
	Reason       string
	Operator     string
	Detail       registry.HostKeyDetail
	DecidedAt    *time.Time `json:"decided_at"`
}

func TestApprovals_DecidedByTheAPI(t *testing.T) {
	g, reg := newSSHGateway(t)
	first, second := newHostKey(t), newHostKey(t)
	var list struct{ Items []approvalAnswer }

	h := g.hold(reg.ID, first)
	read(t, g.api("GET", "/api/approvals?state=pending", ""), http.StatusOK, &list)
	if len(list.Items) != 1 || list.Items[0].ID != h.id || list.Items[0].Name != "build-01" || list.Items[0].Kind != "host_key" ||
		list.Items[0].Detail.Fingerprint != ssh.FingerprintSHA256(first) || list.Items[0].DecidedAt != nil {
		t.Errorf("%+v", list)
	}
	at := "/api/approvals/" + h.id
	for body, code := range map[string]string{
		`{}`:                                   "bad_decision",
		`{"decision":"approve"}`:               "bad_decision",
		`{"decision":"allow","reason":"a\nb"}`: "bad_reason",
		`{"decision":"allow","reason":"` + strings.Repeat("x", 513) + `"}`: "bad_reason",
	} {
		refused(t, g.api("POST", at, body), http.StatusUnprocessableEntity, code)
	}
	refused(t, g.api("POST", "/api/approvals/a_nobody", `{"decision":"allow"}`), http.StatusNotFound, "not_found")
	refused(t, g.api("GET", "/api/approvals/a_nobody", ""), http.StatusNotFound, "not_found")
	refused(t, g.api("GET", "/api/approvals?state=maybe", ""), http.StatusBadRequest, "bad_request")

	var v approvalAnswer
	read(t, g.api("POST", at, `{"decision":"allow","reason":"compared"}`), http.StatusOK, &v)
	if v.State != "allowed" || v.Reason != "compared" || v.Operator != "dashboard 192.0.2.1" || v.DecidedAt == nil {
		t.Errorf("%+v", v)
	}
	if got := h.outcome(t); got != "allowed" {
		t.Error(got)
	}
	refused(t, g.api("POST", at, `{"decision":"deny"}`), http.StatusConflict, "wrong_state")

	h = g.hold(reg.ID, second, ssh.FingerprintSHA256(first))
	read(t, g.api("POST", "/api/approvals/"+h.id, `{"decision":"deny","reason":"who is that?"}`), http.StatusOK, &v)
	if got := h.outcome(t); got != "denied: who is that?" {
		t.Error(got)
	}
	read(t, g.api("GET", "/api/approvals", ""), http.StatusOK, &list)
	if len(list.Items) != 2 || list.Items[0].State != "denied" || list.Items[1].State != "allowed" {
		t.Errorf("%+v", list)
	}

	var keys struct {
		Items []struct{ Endpoint, Host, Fingerprint string }
	}
	read(t, g.api("GET", "/api/host-keys", ""), http.StatusOK, &keys)
	if len(keys.Items) != 1 || keys.Items[0].Fingerprint != ssh.FingerprintSHA256(first) || keys.Items[0].Endpoint != "ssh.build" {
		t.Errorf("%+v", keys)
	}
	refused(t, g.api("DELETE", "/api/host-keys/ssh.build/build.example.com/x", ""), http.StatusBadRequest, "bad_request")
	refused(t, g.api("DELETE", "/api/host-keys/ssh.build/build.example.com/23", ""), http.StatusNotFound, "not_found")
	status(t, g.api("DELETE", "/api/host-keys/ssh.build/build.example.com/22", ""), http.StatusNoContent)
	if len(g.db.AcceptedHostKeys()) != 0 {
		t.Error("the key is still accepted")
	}
}

func TestApprovals_DecidedOnThePage(t *testing.T) {
	g, reg := newSSHGateway(t)
	known, now := newHostKey(t), newHostKey(t)
	// The page looks again by itself, until there is something to decide: what is
	// being typed stays.
	const again = `<meta http-equiv="refresh" content="5;url=/approvals">`
	if page := g.page("/approvals?done=allowed"); !strings.Contains(page, again) || !strings.Contains(page, "<title>Approvals") {
		t.Error("nothing waits, and the page does not look again")
	}
	h := g.hold(reg.ID, now, ssh.FingerprintSHA256(known))
	page := html.UnescapeString(g.page("/approvals"))
	if strings.Contains(page, "http-equiv") || !strings.Contains(page, "<title>(1) Approvals") {
		t.Error("something waits, and the page goes away, or its title does not say so")
	}
	for _, want := range []string{"build-01", "/registrations/" + string(reg.ID), "build.example.com", ssh.FingerprintSHA256(known), ssh.FingerprintSHA256(now), "has changed", "ssh.build"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	for _, p := range []string{"/registrations", "/credentials", "/actions"} {
		if !strings.Contains(g.page(p), `1<span class="hidden"> waiting for you`) {
			t.Errorf("%s does not say that something waits", p)
		}
	}
	if body := status(t, g.post("/approvals/"+h.id, url.Values{"decision": {"perhaps"}}), http.StatusUnprocessableEntity); !strings.Contains(body, "The decision is neither") {
		t.Error("the page does not say why")
	}
	goesTo(t, g.post("/approvals/"+h.id, url.Values{"decision": {"allow"}, "reason": {"<b>reinstalled</b>"}}), "/approvals/"+h.id+"?done=allowed")
	if got := h.outcome(t); got != "allowed" {
		t.Error(got)
	}
	if page = g.page("/approvals/" + h.id + "?done=allowed"); !strings.Contains(page, "Allowed. Whoever") || strings.Contains(page, "<form method=\"post\" action=\"/approvals") {
		t.Error("the card does not say what was done, or asks again")
	}
	page = g.page("/approvals")
	for _, want := range []string{"it was allowed by dashboard 192.0.2.1 at 2026-03-01 12:00:00 UTC: &lt;b&gt;reinstalled", "Nothing. What needs an operator", `action="/host-keys/forget"`} {
		if !strings.Contains(page, want) {
			t.Errorf("afterwards the page does not show %q", want)
		}
	}
	status(t, g.post("/approvals/"+h.id, url.Values{"decision": {"deny"}}), http.StatusConflict)
	goesTo(t, g.post("/host-keys/forget", url.Values{"endpoint": {"ssh.build"}, "host": {"build.example.com"}, "port": {"22"}}), "/approvals?done=forgotten")
	status(t, g.post("/host-keys/forget", url.Values{"endpoint": {"ssh.build"}, "host": {"build.example.com"}, "port": {"22"}}), http.StatusNotFound)

	denied := g.hold(reg.ID, known)
	goesTo(t, g.post("/approvals/"+denied.id, url.Values{"decision": {"deny"}, "reason": {"not ours"}}), "/approvals/"+denied.id+"?done=denied")
	if got := denied.outcome(t); got != "denied: not ours" {
		t.Error(got)
	}

	waiting := g.hold(reg.ID, known)
	doc, err := html.Parse(strings.NewReader(g.page("/approvals")))
	if err != nil {
		t.Fatal(err)
	}
	checkMarkup(t, "/approvals", doc)
	waiting.leave()
	waiting.outcome(t)
}

// However often agents ask and go away, the page shows what operators decided.
func TestI20_DecisionsStayOnThePage(t *testing.T) {
	g, reg := newSSHGateway(t)
	denied := g.hold(reg.ID, newHostKey(t))
	goesTo(t, g.post("/approvals/"+denied.id, url.Values{"decision": {"deny"}, "reason": {"not ours"}}), "/approvals/"+denied.id+"?done=denied")
	denied.outcome(t)

	key := newHostKey(t)
	for _, from := range []string{"198.51.100.2", "198.51.100.3"} {
		asking := g.enrol("agent-"+from, from)
		if err := g.db.Approve(t.Context(), asking.ID, []string{"ci"}, asking.UserCode); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			h := g.hold(asking.ID, key)
			h.leave()
			h.outcome(t)
		}
	}
	page := g.page("/approvals")
	if n := strings.Count(page, `class="state withdrawn"`); n != 25 || !strings.Contains(page, "not ours") {
		t.Errorf("%d that were withdrawn are shown; the decision: %t", n, strings.Contains(page, "not ours"))
	}
}

// sshPEM returns a new private key in OpenSSH's form.
func sshPEM(t testing.TB, passphrase string) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

// A private key that cannot work is refused when it is set, by the API and on the
// page, there beside its field; what was stored stays, and nothing shows a value.
func TestI02_SSHKeysAreCheckedWhenSet(t *testing.T) {
	g, _ := newSSHGateway(t)
	const at = "/api/credentials/ssh_key/deploy"
	slots := func(of map[string]string) string {
		b, err := json.Marshal(map[string]any{"slots": of})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	set := func() string {
		t.Helper()
		var v struct {
			Items []struct {
				Type     string
				User     string
				Users    []string
				Together bool `json:"set_together"`
				Slots    []struct {
					Name string
					Set  bool
				}
			}
		}
		read(t, g.api("GET", "/api/credentials", ""), http.StatusOK, &v)
		if v.Items[0].User != "deploy" || !v.Items[0].Together || strings.Join(v.Items[1].Users, ",") != "ops,admin" || v.Items[1].Together {
			t.Errorf("%+v", v)
		}
		var names []string
		for _, s := range v.Items[0].Slots {
			if s.Set {
				names = append(names, s.Name)
			}
		}
		return strings.Join(names, ",")
	}
	locked := sshPEM(t, "opensesame-4711")
	for body, message := range map[string]string{
		slots(map[string]string{"private_key": "hunter2-4711"}):                                 "private_key: ",
		slots(map[string]string{"private_key": locked}):                                         "passphrase: ",
		slots(map[string]string{"private_key": locked, "passphrase": "hunter2-4711"}):           "passphrase: ",
		slots(map[string]string{"passphrase": "opensesame-4711"}):                               "private_key: ",
		slots(map[string]string{"private_key": sshPEM(t, ""), "certificate": "hunter2-4711 x"}): "certificate: ",
	} {
		var v struct {
			Error struct{ Code, Message string }
		}
		read(t, g.api("PUT", at, body), http.StatusUnprocessableEntity, &v)
		if v.Error.Code != "bad_value" || !strings.HasPrefix(v.Error.Message, message) {
			t.Errorf("%+v, want %s", v, message)
		}
	}
	if got := set(); got != "" {
		t.Errorf("what was refused is stored: %s", got)
	}
	status(t, g.api("PUT", at, slots(map[string]string{"private_key": locked, "passphrase": "opensesame-4711\n"})), http.StatusNoContent)
	if got := set(); got != "private_key,passphrase" {
		t.Error(got)
	}
	// The next key has no passphrase: the last one's goes.
	status(t, g.api("PUT", at, slots(map[string]string{"private_key": sshPEM(t, "")})), http.StatusNoContent)
	if got := set(); got != "private_key" {
		t.Error(got)
	}

	const page = "/credentials/ssh_key/deploy"
	if body := g.page(page); strings.Count(body, "<textarea") != 2 || !strings.Contains(body, "These are set together") || !strings.Contains(body, "<code>deploy</code>") {
		t.Error("the form is not that of a key")
	}
	body := status(t, g.post(page, url.Values{"slot.private_key": {strings.ReplaceAll(locked, "\n", "\r\n")}, "slot.passphrase": {"hunter2-4711"}}), http.StatusUnprocessableEntity)
	if !strings.Contains(body, `id="problem-passphrase"`) || !strings.Contains(body, `aria-describedby="problem-passphrase"`) || strings.Contains(body, `id="problem-private_key"`) {
		t.Error("what is wrong does not stand beside the passphrase")
	}
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	checkMarkup(t, page, doc)
	goesTo(t, g.post(page, url.Values{"slot.private_key": {strings.ReplaceAll(locked, "\n", "\r\n")}, "slot.passphrase": {"opensesame-4711"}, "slot.certificate": {""}}), "/credentials?done=set")
	if got := set(); got != "private_key,passphrase" {
		t.Error(got)
	}
	status(t, g.api("PUT", "/api/credentials/ssh_password/ops", slots(map[string]string{"password": "hunter2-4711"})), http.StatusNoContent)
	seen := html.UnescapeString(g.seen.String()) + g.log.String() // pages write + as &#43;
	for _, secret := range []string{"4711", strings.Split(locked, "\n")[2]} {
		if strings.Contains(seen, secret) {
			t.Errorf("%q was shown or logged", secret)
		}
	}
}

func TestPolicy_ListsSSHEndpoints(t *testing.T) {
	g, _ := newSSHGateway(t)
	got := status(t, g.api("GET", "/api/endpoints", ""), http.StatusOK)
	want := `{"items":[{"type":"ssh","name":"build","hosts":["build.example.com:22"],"ca_file":false,"ssh":{"host_keys":[],"host_ca":[],"known_hosts_file":false,` +
		`"approve":true,"env":["LANG","LC_*"],"forward":["db.internal:5432"],"record":false}}]}` + "\n"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

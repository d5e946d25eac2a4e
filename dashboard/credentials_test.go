package dashboard_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// everyTypeHCL has a credential of each type there is.
const everyTypeHCL = `
gateway { public_url = "https://gw.example.com:8443" }
endpoint "https" "api" { hosts = ["api.example.com"] }
endpoint "ssh" "build" {
  hosts     = ["build.example.com"]
  host_keys = "approve"
}
endpoint "postgres" "orders" { hosts = ["db.example.com"] }
credential "bearer" "b" { endpoint = https.api }
credential "basic" "ci" {
  endpoint = https.api
  username = "ci"
}
credential "header" "h" {
  endpoint = https.api
  header   = "X-Api-Key"
}
credential "query" "q" {
  endpoint  = https.api
  parameter = "key"
}
credential "cookie" "c" {
  endpoint = https.api
  cookie   = "session"
}
credential "ssh_key" "k" {
  endpoint = ssh.build
  user     = "deploy"
}
credential "ssh_password" "p" {
  endpoint = ssh.build
  user     = "deploy"
}
credential "postgres" "pg" {
  endpoint  = postgres.orders
  user      = "reader"
  databases = ["orders"]
}
profile "ci" {
  credentials = [bearer.b, basic.ci]
  default     = true
}
profile "deploy" { credentials = [bearer.b, ssh_key.k] }
`

// sshSecrets returns a private key under a passphrase, and a certificate for it.
func sshSecrets(t testing.TB, passphrase string) (key, certificate string) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	_, authority, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(authority)
	if err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: sshPub, CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert)))
}

// pieces are what of a value must be found nowhere: itself, or of what has lines,
// each that is long enough to be told from others.
func pieces(value string) []string {
	if !strings.Contains(strings.TrimSpace(value), "\n") && len(value) < 100 {
		return []string{strings.TrimSpace(value)}
	}
	var out []string
	for _, word := range strings.Fields(value) {
		if len(word) >= 20 && !strings.HasPrefix(word, "-----") && !strings.Contains(word, "-cert-v01@") {
			out = append(out, word)
		}
	}
	return out
}

// TestI02_NoSlotOfAnyTypeIsShown puts a secret into every slot of every type,
// through the API and through the form, well and so that it is refused, looks at
// every page and every route there is, and searches what was answered and logged.
func TestI02_NoSlotOfAnyTypeIsShown(t *testing.T) {
	g := newOperated(t)
	g.load(everyTypeHCL)
	var all []string // secrets
	fresh := func(what string) string {
		s := "sesame<" + what + ">&+" + rand.Text()
		all = append(all, s)
		return s
	}
	values := func(ref string) map[string]string {
		switch typ, _, _ := strings.Cut(ref, "."); typ {
		case "ssh_key":
			passphrase := fresh("passphrase")
			key, cert := sshSecrets(t, passphrase)
			all = append(all, key, cert)
			return map[string]string{"private_key": key, "passphrase": passphrase, "certificate": cert}
		case "postgres":
			cert, key := clientPair(t)
			all = append(all, cert, key)
			return map[string]string{"password": fresh("password"), "client_certificate": cert, "client_key": key}
		case "ssh_password":
			return map[string]string{"password": fresh("password")}
		default:
			return map[string]string{"secret": fresh(typ)}
		}
	}
	body := func(slots map[string]string) string {
		b, err := json.Marshal(map[string]any{"slots": slots})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	form := func(slots map[string]string) url.Values {
		f := url.Values{}
		for name, v := range slots {
			f.Set("slot."+name, strings.ReplaceAll(v, "\n", "\r\n"))
		}
		return f
	}
	// What each slot refuses, with a secret in it.
	bad := map[string]string{"private_key": "-----BEGIN OPENSSH PRIVATE KEY-----\n%s\n", "client_key": "-----BEGIN PRIVATE KEY-----\n%s\n", "client_certificate": "%s", "certificate": "ssh-ed25519-cert-v01@openssh.com %s"}
	slots := 0
	for _, c := range g.policy.Load().Credentials {
		page := "/credentials/" + c.Type + "/" + c.Name
		good := values(c.Ref())
		if len(good) != len(c.Slots()) {
			t.Fatalf("%s has %d slots, and this test fills %d", c.Ref(), len(c.Slots()), len(good))
		}
		slots += len(good)
		status(t, g.api("PUT", "/api"+page, body(good)), http.StatusNoContent)
		goesTo(t, g.post(page, form(values(c.Ref()))), "/credentials?done=set")
		for slot := range good {
			wrong := maps.Clone(good)
			if wrong[slot] = fresh("refused") + "\x01"; bad[slot] != "" {
				wrong[slot] = fmt.Sprintf(bad[slot], strings.ReplaceAll(fresh("refused"), "<refused>&+", ""))
				all = append(all, strings.Fields(wrong[slot])[len(strings.Fields(wrong[slot]))-1])
			}
			status(t, g.api("PUT", "/api"+page, body(wrong)), http.StatusUnprocessableEntity)
			again := status(t, g.post(page, form(wrong)), http.StatusUnprocessableEntity)
			checkEmptyFields(t, c.Ref()+" "+slot, again)
		}
		// Nor where a session has ended: what the form was made from comes back.
		late := form(values(c.Ref()))
		late.Set("seen", "4711")
		ended := status(t, g.send(request{method: "POST", path: page, form: late, header: http.Header{"Sec-Fetch-Site": {"same-origin"}}}), http.StatusUnauthorized)
		if !strings.Contains(ended, `name="seen" value="4711"`) {
			t.Errorf("%s: the page of an ended session does not keep what the form was made from", c.Ref())
		}
		status(t, g.post(page, form(map[string]string{"no_such_slot": fresh("unknown")})), http.StatusUnprocessableEntity)
	}
	if slots != 12 {
		t.Errorf("%d slots: is there a type that this test does not have?", slots)
	}
	status(t, g.api("PUT", "/api/secrets/NAME", `{"value":"`+fresh("named")+`"}`), http.StatusNoContent)
	goesTo(t, g.post("/secrets", url.Values{"name": {"OTHER"}, "value": {fresh("named")}}), "/secrets?done=set")
	goesTo(t, g.post("/secrets/NAME", url.Values{"value": {fresh("named")}}), "/secrets?done=set")
	for _, form := range []url.Values{
		{"name": {"bad-name"}, "value": {fresh("named")}},
		{"name": {fresh("name")}, "value": {"x"}},
		{"name": {"NAME"}, "value": {fresh("named")}},
		{"name": {"VERY_LONG"}, "value": {fresh("named") + strings.Repeat("x", 64<<10)}},
	} {
		r := g.post("/secrets", form)
		if r.StatusCode < 400 {
			t.Errorf("%v: %d", form["name"], r.StatusCode)
		}
		checkEmptyFields(t, "/secrets", text(t, r))
	}

	gated, public := dashboard.Routes(g.handler)
	for _, c := range g.policy.Load().Credentials {
		fill := strings.NewReplacer("{type}", c.Type, "{$}", "")
		for _, name := range []string{c.Name, "NAME"} {
			for _, p := range append(gated, public...) {
				if m, path, _ := strings.Cut(p, " "); m == "GET" && !strings.Contains(path, "{id}") && path != "/api/live" && !strings.HasSuffix(path, "/stream") {
					g.send(request{method: m, path: strings.ReplaceAll(fill.Replace(path), "{name}", name), secret: password})
				}
			}
		}
	}
	g.page("/credentials?by=profile")

	seen, log := g.seen.String(), g.log.String()
	if !strings.Contains(seen, "ssh_key.k") || !strings.Contains(log, "credential set") {
		t.Fatal("nothing to search")
	}
	for where, hay := range map[string]string{"an answer": seen + html.UnescapeString(seen), "the log": log} {
		for _, value := range all {
			for _, s := range pieces(value) {
				for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s), html.EscapeString(s), base64.StdEncoding.EncodeToString([]byte(s)), hex.EncodeToString([]byte(s)), strings.Trim(fmt.Sprintf("%q", s), `"`)} {
					if strings.Contains(hay, form) {
						t.Fatalf("%s has %q", where, form)
					}
				}
			}
		}
	}
	stored, err := g.db.Credentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range stored {
		for slot := range status.Slots {
			if digits := g.db.Fingerprint(status.Ref, slot); digits == "" || !strings.Contains(seen, digits) || strings.Contains(log, digits) {
				t.Errorf("%s %s: the fingerprint %q should be in pages, and not in the log", status.Ref, slot, digits)
			}
		}
	}
}

// checkEmptyFields wants every field of a page's forms empty in which a secret
// may be, and what is not shown while it is typed marked so.
func checkEmptyFields(t *testing.T, what, body string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	fields := 0
	for n := range doc.Descendants() {
		a := attributes(n)
		switch {
		case n.Type != html.ElementNode:
		case n.Data == "textarea":
			fields++
			if n.FirstChild != nil || a["autocomplete"] != "off" || a["spellcheck"] != "false" {
				t.Errorf("%s: the box %s is not empty, or is kept or sent elsewhere by the browser", what, a["name"])
			}
		case n.Data == "input":
			fields++
			if a["type"] == "hidden" && a["name"] == "seen" {
				continue
			}
			if _, filled := a["value"]; filled || a["autocomplete"] != "off" || a["spellcheck"] != "false" {
				t.Errorf("%s: the field %s is not empty, or is kept or sent elsewhere by the browser", what, a["name"])
			}
			if a["type"] != "password" && a["name"] != "name" {
				t.Errorf("%s: the field %s is of type %s", what, a["name"], a["type"])
			}
		case n.Data == "form" && a["action"] != "/logout" && a["method"] != "post":
			t.Errorf("%s: a form puts what is typed into the URL", what)
		}
	}
	if fields == 0 {
		t.Errorf("%s: no form", what)
	}
}

type slotAnswer struct {
	Name        string
	Set         bool
	Fingerprint string
}

type credentialAnswer struct {
	Type, Name    string
	Complete      bool
	Slots         []slotAnswer
	Profiles      []string
	LastUsed      *struct{ Time, Registration, Name string } `json:"last_used"`
	Registrations []struct {
		Registration, Name, State string
		Profiles                  []string
		LastUsed                  *time.Time `json:"last_used"`
	}
	More int `json:"more_registrations"`
}

// The same key has the same fingerprint whether a browser sent it or a script,
// and another value another one.
func TestCredentials_Fingerprints(t *testing.T) {
	g := newOperated(t)
	g.load(everyTypeHCL)
	digits := func(ref, slot string) string {
		t.Helper()
		var v credentialAnswer
		read(t, g.api("GET", "/api/credentials/"+ref, ""), http.StatusOK, &v)
		i := slices.IndexFunc(v.Slots, func(s slotAnswer) bool { return s.Name == slot })
		got := v.Slots[i]
		if got.Set != regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(got.Fingerprint) {
			t.Errorf("%s %+v", ref, got)
		}
		if page := g.page("/credentials/" + ref); got.Set && !strings.Contains(page, "fingerprint <code>"+got.Fingerprint+"</code>") {
			t.Errorf("the page of %s does not show %s", ref, got.Fingerprint)
		}
		return got.Fingerprint
	}
	if got := digits("bearer/b", "secret"); got != "" {
		t.Errorf("of nothing: %q", got)
	}
	status(t, g.api("PUT", "/api/credentials/bearer/b", `{"slots":{"secret":"tok-4711\n"}}`), http.StatusNoContent)
	goesTo(t, g.post("/credentials/header/h", url.Values{"slot.secret": {"tok-4711"}}), "/credentials?done=set")
	goesTo(t, g.post("/credentials/query/q", url.Values{"slot.secret": {"tok-4712"}}), "/credentials?done=set")
	if a, b, c := digits("bearer/b", "secret"), digits("header/h", "secret"), digits("query/q", "secret"); a != b || a == c {
		t.Errorf("%s %s %s", a, b, c)
	}
	cert, key := clientPair(t)
	send := func(key string) string {
		goesTo(t, g.post("/credentials/postgres/pg", url.Values{"slot.client_certificate": {cert}, "slot.client_key": {key}}), "/credentials?done=set")
		return digits("postgres/pg", "client_key")
	}
	file := send(key)
	for _, other := range []string{strings.ReplaceAll(key, "\n", "\r\n"), strings.TrimSpace(key), "\n" + key + "\n\n"} {
		if got := send(other); got != file {
			t.Errorf("%q has another fingerprint than the file", other)
		}
	}
	status(t, g.api("PUT", "/api/secrets/NAME", `{"value":"tok-4711"}`), http.StatusNoContent)
	if got := status(t, g.api("GET", "/api/secrets", ""), http.StatusOK); !strings.Contains(got, `"fingerprint":"`+digits("bearer/b", "secret")+`"`) {
		t.Errorf("a named secret's: %s", got)
	}
}

// use has reg use a credential as the data path does.
func (g *gateway) use(reg *registry.Registration, ref string) {
	g.t.Helper()
	if _, err := g.db.Release(g.t.Context(), registry.Action{Registration: reg.ID, Credential: ref, Verdict: "allow"}); err != nil {
		g.t.Fatal(err)
	}
}

// holding makes an approved registration with these profiles.
func (g *gateway) holding(name, from string, profiles ...string) *registry.Registration {
	g.t.Helper()
	reg := g.enrol(name, from)
	if err := g.db.Approve(g.t.Context(), reg.ID, profiles, ""); err != nil {
		g.t.Fatal(err)
	}
	return reg
}

// What is in use is cleared by who types its name, and the server checks that;
// what nobody has used for a day by a click.
func TestCredentials_ClearingSaysWhoLosesWhat(t *testing.T) {
	g := newOperated(t)
	g.load(everyTypeHCL)
	const page, path = "/credentials/bearer/b", "/api/credentials/bearer/b"
	set := func() {
		t.Helper()
		status(t, g.api("PUT", path, `{"slots":{"secret":"tok-4711"}}`), http.StatusNoContent)
	}
	isSet := func() bool { return g.db.Fingerprint("bearer.b", "secret") != "" }
	set()
	first := g.holding("build-01", "198.51.100.1", "ci", "deploy")
	second := g.holding("build-02", "198.51.100.2", "deploy")
	blocked := g.holding("build-03", "198.51.100.3", "ci")
	gone := g.holding("build-04", "198.51.100.4", "ci")
	g.enrol("build-05", "198.51.100.5")
	for _, err := range []error{g.db.Block(t.Context(), blocked.ID, "strange"), g.db.Revoke(t.Context(), gone.ID)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if body := g.page(page + "/clear"); strings.Contains(body, `name="confirm"`) || !strings.Contains(body, "build-01") || !strings.Contains(body, "never used") {
		t.Errorf("before any use:\n%s", body)
	}
	g.use(second, "bearer.b")
	g.clock.pass(time.Hour)
	var v credentialAnswer
	read(t, g.api("GET", path, ""), http.StatusOK, &v)
	got := ""
	for _, h := range v.Registrations {
		got += fmt.Sprintf("%s %s %v %t; ", h.Name, h.State, h.Profiles, h.LastUsed != nil)
	}
	if want := "build-02 approved [deploy] true; build-01 approved [ci deploy] false; build-03 blocked [ci] false; "; got != want || v.More != 0 {
		t.Errorf("%s\nwant %s", got, want)
	}
	if v.LastUsed == nil || v.LastUsed.Name != "build-02" || v.LastUsed.Registration != string(second.ID) {
		t.Errorf("last used %+v", v.LastUsed)
	}
	body := g.page(page + "/clear")
	for _, want := range []string{`name="confirm"`, `href="/registrations/` + string(first.ID) + `"`, "https.api", "api.example.com:443", "1 hour ago"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	if strings.Contains(body, "build-04") || strings.Contains(body, "build-05") {
		t.Error("who has nothing to lose is listed")
	}
	for _, list := range []string{"/credentials", "/credentials?by=profile", page} {
		if !strings.Contains(g.page(list), `by <a href="/registrations/`+string(second.ID)+`">build-02</a>`) {
			t.Errorf("%s does not say who used it last", list)
		}
	}
	for _, typed := range []url.Values{{}, {"confirm": {""}}, {"confirm": {"bearer"}}, {"confirm": {"basic.ci"}}} {
		if body := status(t, g.post(page+"/clear", typed), http.StatusUnprocessableEntity); !strings.Contains(body, `id="problem-confirm"`) || !isSet() {
			t.Errorf("%v cleared it, or the page does not say what is wrong", typed)
		}
	}
	goesTo(t, g.post(page+"/clear", url.Values{"confirm": {" bearer.b "}}), "/credentials?done=cleared")
	if isSet() {
		t.Error("it is still set")
	}
	set()
	g.clock.pass(24 * time.Hour)
	goesTo(t, g.post(page+"/clear", url.Values{}), "/credentials?done=cleared")
	set()
	g.use(second, "bearer.b")
	status(t, g.api("DELETE", path, ""), http.StatusNoContent) // a program means what it says
}

func TestCredentials_HoldersAreBounded(t *testing.T) {
	g := newOperated(t)
	g.load(everyTypeHCL)
	for i := range 103 {
		g.holding(fmt.Sprintf("host-%03d", i), fmt.Sprintf("198.51.%d.%d", 100+i/200, 1+i%200), "ci")
	}
	var v credentialAnswer
	read(t, g.api("GET", "/api/credentials/bearer/b", ""), http.StatusOK, &v)
	if len(v.Registrations) != 100 || v.More != 3 {
		t.Errorf("%d and %d more", len(v.Registrations), v.More)
	}
	status(t, g.api("PUT", "/api/credentials/bearer/b", `{"slots":{"secret":"x"}}`), http.StatusNoContent)
	if body := g.page("/credentials/bearer/b/clear"); strings.Count(body, `href="/registrations/`) != 100 || !strings.Contains(body, "and 3 more registrations") {
		t.Error("the page lists another number")
	}
}

func TestPages_CredentialsByEndpointAndProfile(t *testing.T) {
	g := newOperated(t)
	g.load(everyTypeHCL)
	headings := func(path string) string {
		var out []string
		for _, m := range regexp.MustCompile(`<h2 id="group-\d+">([^<]*)</h2>|<th scope="row"[^>]*><a[^>]*>([^<]*)</a>`).FindAllStringSubmatch(g.page(path), -1) {
			if m[1] != "" {
				out = append(out, "["+m[1]+"]")
			} else {
				out = append(out, m[2])
			}
		}
		return strings.Join(out, " ")
	}
	if got, want := headings("/credentials"), "[https.api] bearer.b basic.ci header.h query.q cookie.c [ssh.build] ssh_key.k ssh_password.p [postgres.orders] postgres.pg"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got, want := headings("/credentials?by=profile"), "[ci] bearer.b basic.ci [deploy] bearer.b ssh_key.k [In no profile] header.h query.q cookie.c ssh_password.p postgres.pg"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	status(t, g.api("PUT", "/api/credentials/bearer/b", `{"slots":{"secret":"x"}}`), http.StatusNoContent)
	note := regexp.MustCompile(`(?s)Without a secret.*?</div>`).FindString(g.page("/credentials"))
	if strings.Contains(note, "bearer.b") || !strings.Contains(note, `<a href="/credentials/ssh_key/k">ssh_key.k</a>`) {
		t.Errorf("what is missing: %s", note)
	}
}

func TestCredentials_ListsArePaged(t *testing.T) {
	g := newOperated(t)
	var hcl strings.Builder
	hcl.WriteString("gateway { public_url = \"https://gw.example.com:8443\" }\nendpoint \"https\" \"api\" { hosts = [\"api.example.com\"] }\n")
	for i := range 503 {
		fmt.Fprintf(&hcl, "credential \"bearer\" \"t%03d\" { endpoint = https.api }\n", i)
	}
	g.load(hcl.String())
	var all []string
	next := "/api/credentials"
	for answers := 0; next != ""; answers++ {
		var v struct {
			Items []credentialAnswer
			Next  string
		}
		read(t, g.api("GET", next, ""), http.StatusOK, &v)
		if len(v.Items) > 500 || answers > 1 {
			t.Fatalf("%d items in answer %d", len(v.Items), answers)
		}
		for _, c := range v.Items {
			all = append(all, c.Name)
		}
		if next = ""; v.Next != "" {
			next = "/api/credentials?cursor=" + url.QueryEscape(v.Next)
		}
	}
	if len(all) != 503 || !slices.IsSorted(all) {
		t.Errorf("%d of 503", len(all))
	}
	for _, q := range []string{"limit=0", "limit=501", "limit=x", "cursor=bearer.nothing"} {
		refused(t, g.api("GET", "/api/credentials?"+q, ""), http.StatusBadRequest, "bad_request")
	}
	rows := func(path string) int { return strings.Count(g.page(path), `<th scope="row"`) }
	for page, want := range map[string]int{"": 200, "?page=1": 200, "?page=2": 103, "?page=99": 103, "?page=-1": 200, "?page=x": 200, "?by=profile&page=2": 103} {
		if got := rows("/credentials" + page); got != want {
			t.Errorf("page %q has %d rows, want %d", page, got, want)
		}
	}
	if body := g.page("/credentials?by=profile&page=1"); !strings.Contains(body, `href="/credentials?by=profile&amp;page=2"`) || !strings.Contains(body, `href="/credentials?by=profile&amp;page=0"`) {
		t.Error("no way on or back")
	}
	if body := g.page("/credentials"); !strings.Contains(body, "and 493 more credentials") {
		t.Error("the page does not say how many are missing")
	}
}

func TestPages_NamedSecrets(t *testing.T) {
	g := newOperated(t)
	if body := g.page("/secrets"); !strings.Contains(body, "There are none") {
		t.Error("an empty list does not say so")
	}
	status(t, g.post("/secrets", url.Values{"name": {"with-dash"}, "value": {"x"}}), http.StatusUnprocessableEntity)
	status(t, g.post("/secrets", url.Values{"name": {"NAME"}, "value": {""}}), http.StatusUnprocessableEntity)
	goesTo(t, g.post("/secrets", url.Values{"name": {"NAME"}, "value": {"sesame"}}), "/secrets?done=set")
	digits := g.db.SecretFingerprint("NAME")
	if body := g.page("/secrets"); !strings.Contains(body, `<a href="/secrets/NAME">NAME</a>`) || !strings.Contains(body, "<code>"+digits+"</code>") || !strings.Contains(body, "2026-03-01 12:00:00 UTC") {
		t.Errorf("the list:\n%s", body)
	}
	// A second operator's, of the same name, does not replace the first.
	status(t, g.post("/secrets", url.Values{"name": {"NAME"}, "value": {"other"}}), http.StatusConflict)
	if g.db.SecretFingerprint("NAME") != digits {
		t.Error("replaced without a word")
	}
	g.clock.pass(time.Hour)
	if body := g.page("/secrets/NAME"); !strings.Contains(body, "since 2026-03-01 12:00:00 UTC") {
		t.Error("the form does not say what it replaces")
	}
	goesTo(t, g.post("/secrets/NAME", url.Values{"value": {"other"}}), "/secrets?done=set")
	if string(g.db.NamedSecret("NAME").Reveal()) != "other" {
		t.Error("not replaced")
	}
	if body := g.page("/secrets/NAME/clear"); !strings.Contains(body, "Clear NAME?") || g.db.NamedSecret("NAME").IsZero() {
		t.Error("looking at the question cleared it, or there is none")
	}
	goesTo(t, g.post("/secrets/NAME/clear", url.Values{}), "/secrets?done=cleared")
	if !g.db.NamedSecret("NAME").IsZero() || strings.Contains(g.page("/secrets"), "NAME</a>") {
		t.Error("not cleared")
	}
	for _, path := range []string{"/secrets/NAME", "/secrets/NAME/clear"} {
		status(t, g.send(request{method: "GET", path: path, secret: password}), http.StatusNotFound)
	}
	status(t, g.post("/secrets/NAME/clear", url.Values{}), http.StatusNotFound)
	status(t, g.api("PUT", "/api/secrets/NAME", `{"value":"x"}`), http.StatusNoContent)
	if got := status(t, g.api("GET", "/api/secrets", ""), http.StatusOK); !strings.Contains(got, `{"items":[{"name":"NAME","set_at":"2026-03-01T13:00:00Z","fingerprint":"`) {
		t.Error(got)
	}
	status(t, g.api("DELETE", "/api/secrets/NAME", ""), http.StatusNoContent)
	refused(t, g.api("DELETE", "/api/secrets/NAME", ""), http.StatusNotFound, "unknown_secret")
	if got := status(t, g.api("GET", "/api/secrets", ""), http.StatusOK); got != `{"items":[]}`+"\n" {
		t.Error(got)
	}
}

// Of two operators at once, or one with a page that is old, the second is told
// that it is not what they looked at, and undoes nothing.
func TestPages_CredentialsOfTwoOperatorsAtOnce(t *testing.T) {
	g := newOperated(t)
	g.load(everyTypeHCL)
	seen := func(path string) string {
		t.Helper()
		m := regexp.MustCompile(`name="seen" value="(\d+)"`).FindStringSubmatch(g.page(path))
		if m == nil {
			t.Fatalf("%s does not say what it shows", path)
		}
		return m[1]
	}
	told := func(r *http.Response) {
		t.Helper()
		if body := status(t, r, http.StatusConflict); !strings.Contains(body, "somebody else has set or cleared it") {
			t.Error("the page does not say why")
		}
	}
	const page = "/credentials/bearer/b"
	value := func(v string, seen string) url.Values { return url.Values{"slot.secret": {v}, "seen": {seen}} }
	old := seen(page)
	goesTo(t, g.post(page, value("first", old)), "/credentials?done=set")
	first := g.db.Fingerprint("bearer.b", "secret")
	told(g.post(page, value("second", old)))
	told(g.post(page+"/clear", url.Values{"seen": {old}}))
	if g.db.Fingerprint("bearer.b", "secret") != first {
		t.Fatal("the first operator's value is gone")
	}
	g.clock.pass(time.Second)
	goesTo(t, g.post(page, value("second", seen(page))), "/credentials?done=set")
	goesTo(t, g.post(page+"/clear", url.Values{"seen": {seen(page + "/clear")}}), "/credentials?done=cleared")

	goesTo(t, g.post("/secrets", url.Values{"name": {"NAME"}, "value": {"first"}}), "/secrets?done=set")
	old = seen("/secrets/NAME")
	g.clock.pass(time.Second)
	goesTo(t, g.post("/secrets/NAME", url.Values{"value": {"second"}, "seen": {old}}), "/secrets?done=set")
	told(g.post("/secrets/NAME", url.Values{"value": {"third"}, "seen": {old}}))
	told(g.post("/secrets/NAME/clear", url.Values{"seen": {old}}))
	if string(g.db.NamedSecret("NAME").Reveal()) != "second" {
		t.Error("the second value is gone")
	}
	goesTo(t, g.post("/secrets/NAME/clear", url.Values{"seen": {seen("/secrets/NAME/clear")}}), "/secrets?done=cleared")

	// At the same instant one of many wins.
	old = seen(page)
	var wins atomic.Int32
	var posts sync.WaitGroup
	for i := range 20 {
		posts.Go(func() {
			if g.post(page, value(fmt.Sprintf("value-%d", i), old)).StatusCode == http.StatusSeeOther {
				wins.Add(1)
			}
		})
	}
	posts.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d won", wins.Load())
	}
}

// What does not open any more counts as missing, and is marked.
func TestPages_DamagedSecretsAreMarked(t *testing.T) {
	g := newOperated(t)
	dir := filepath.Join(t.TempDir(), "state")
	cfg := registry.Config{Dir: dir, Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")}, Now: g.clock.Now}
	db, err := registry.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		db.SetCredential(t.Context(), "bearer.b", map[string]secret.Secret{"secret": secret.New([]byte("sesame"))}),
		db.SetSecret(t.Context(), "NAME", secret.New([]byte("sesame"))),
		db.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	file, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "clawpatrol.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"UPDATE credential_slots SET sealed = zeroblob(60)", "UPDATE named_secrets SET sealed = zeroblob(60)"} {
		if _, err := file.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = registry.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := g.db.Close(); err != nil {
		t.Fatal(err)
	}
	g.cfg.Registry, g.db = db, db // which the gateway's clean-up closes
	g.restart()
	g.setPassword(password)
	g.load(everyTypeHCL)
	for _, path := range []string{"/credentials", "/credentials/bearer/b", "/secrets"} {
		if body := g.page(path); !strings.Contains(body, "set it again") {
			t.Errorf("%s does not say it", path)
		}
	}
	var v credentialAnswer
	read(t, g.api("GET", "/api/credentials/bearer/b", ""), http.StatusOK, &v)
	if v.Complete || !v.Slots[0].Set || v.Slots[0].Fingerprint != "" {
		t.Errorf("%+v", v)
	}
	goesTo(t, g.post("/credentials/bearer/b", url.Values{"slot.secret": {"sesame"}}), "/credentials?done=set")
	goesTo(t, g.post("/secrets/NAME", url.Values{"value": {"sesame"}}), "/secrets?done=set")
	for _, path := range []string{"/credentials", "/credentials/bearer/b", "/secrets"} {
		if body := g.page(path); strings.Contains(body, "set it again") {
			t.Errorf("%s still says it", path)
		}
	}
}

func TestPages_CredentialMarkup(t *testing.T) {
	g := newOperated(t)
	g.load(everyTypeHCL)
	reg := g.holding("build-01", "198.51.100.1", "ci", "deploy")
	status(t, g.api("PUT", "/api/credentials/bearer/b", `{"slots":{"secret":"x"}}`), http.StatusNoContent)
	status(t, g.api("PUT", "/api/secrets/NAME", `{"value":"x"}`), http.StatusNoContent)
	g.use(reg, "bearer.b")
	pages := map[string]string{
		"a name that is not typed": status(t, g.post("/credentials/bearer/b/clear", url.Values{}), http.StatusUnprocessableEntity),
		"a key that is none":       status(t, g.post("/credentials/ssh_key/k", url.Values{"slot.private_key": {"x"}}), http.StatusUnprocessableEntity),
	}
	for _, path := range []string{"/credentials", "/credentials?by=profile", "/credentials/bearer/b", "/credentials/bearer/b/clear", "/credentials/ssh_key/k", "/credentials/postgres/pg", "/secrets", "/secrets/NAME", "/secrets/NAME/clear"} {
		pages[path] = g.page(path)
	}
	for where, body := range pages {
		doc, err := html.Parse(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		checkMarkup(t, where, doc)
	}
	if !strings.Contains(pages["a key that is none"], `aria-describedby="problem-private_key"`) {
		t.Error("what is wrong with the key does not stand beside it")
	}
}

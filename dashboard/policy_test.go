package dashboard_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// onDisk says how the policy's file stands to the policy in force.
func (g *gateway) onDisk(f dashboard.PolicyFile) {
	g.t.Helper()
	g.cfg.PolicyFile = func() dashboard.PolicyFile { return f }
	g.restart()
}

func compiled(t testing.TB, src string) (*policy.Policy, error) {
	t.Helper()
	p, diags := policy.Compile("/etc/clawpatrol/gateway.hcl", []byte(src), policy.Options{})
	if p == nil {
		return nil, policy.NewDiagnosticsError(diags, []byte(src))
	}
	return p, nil
}

// elements returns all of a page that has this attribute.
func elements(t testing.TB, page, attribute string) map[string]*html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*html.Node{}
	for n := range root.Descendants() {
		for _, a := range n.Attr {
			if a.Key == attribute {
				found[a.Val] = n
			}
		}
	}
	return found
}

// textOf is what an element says.
func textOf(n *html.Node) string {
	var b strings.Builder
	if n != nil {
		for d := range n.Descendants() {
			if d.Type == html.TextNode {
				b.WriteString(d.Data)
			}
		}
	}
	return b.String()
}

func TestPolicy_ThePageShowsWhatIsInForce(t *testing.T) {
	g := newOperated(t)
	for range 3 {
		if _, err := g.db.Append(t.Context(), registry.Action{Endpoint: "https.github", Verdict: "allow", Summary: "GET /"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.db.Append(t.Context(), registry.Action{Endpoint: "https.github", Verdict: "deny", Summary: "GET /"}); err != nil {
		t.Fatal(err)
	}
	if err := g.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !g.db.Stats(g.clock.Now()).Ready; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the log is not counted")
		}
	}
	page := g.page("/policy")
	ids, links := elements(t, page, "id"), elements(t, page, "href")
	for i, line := range strings.Split(gatewayHCL, "\n") {
		n := ids[fmt.Sprint("L", i+1)]
		if n == nil || !strings.HasPrefix(textOf(n), line) {
			t.Fatalf("line %d is %q, want %q", i+1, textOf(n), line)
		}
	}
	for anchor, line := range map[string]string{
		"endpoint.https.github": `endpoint "https" "github" {`, "credential.basic.registry": `credential "basic" "registry" {`, "profile.ci": `profile "ci" {`,
	} {
		if got := textOf(ids[anchor]); got != line || links["#"+anchor] == nil {
			t.Errorf("%s leads to %q", anchor, got)
		}
	}
	for link, label := range map[string]string{
		"/actions?endpoint=https.github&since=24h":          "4 actions in 24 hours, 1 denial",
		"/actions?endpoint=https.internal&since=24h":        "no action in 24 hours",
		"/actions?credential=bearer.github_token&since=24h": "its actions",
	} {
		if got := textOf(links[link]); got != label {
			t.Errorf("%s: %q, want %q", link, got, label)
		}
		status(t, g.send(request{method: "GET", path: link, secret: password}), http.StatusOK)
	}
	for _, want := range []string{`<span class="hcl-block">endpoint</span>`, `<span class="hcl-attribute">hosts</span>`, `<span class="hcl-word">true</span>`, "/policy/draft"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %s", want)
		}
	}
	if strings.Contains(page, `class="note`) {
		t.Error("the page warns of a file that it knows nothing of")
	}
}

// What is shown is what was loaded; where the file says something else, the page
// and the API tell, and which line is wrong.
func TestI18_ThePageTellsOfAFileThatIsNotInForce(t *testing.T) {
	g := newOperated(t)
	now := g.policy.Load()
	g.onDisk(dashboard.PolicyFile{LoadedAt: g.clock.Now().Add(-time.Hour), Next: now})
	if page := g.page("/policy"); !strings.Contains(page, "Loaded 2026-03-01 11:00:00 UTC") || strings.Contains(page, `class="note`) {
		t.Error("the file is as it was loaded, and the page says something else")
	}

	_, err := compiled(t, strings.Replace(gatewayHCL, "endpoint = https.github", "endpoint = https.githup", 1))
	since := g.clock.Now().Add(-time.Minute)
	g.onDisk(dashboard.PolicyFile{LoadedAt: g.clock.Now().Add(-time.Hour), Differs: true, Since: since, Problem: err})
	page := g.page("/policy")
	for _, want := range []string{"cannot be put in force, since 2026-03-01 11:59:00 UTC", "does not compile: 1 error", "Unknown endpoint",
		"/etc/clawpatrol/gateway.hcl</code> line 15", "Did you mean https.github?", "stays in force"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if ids := elements(t, page, "id"); !strings.Contains(textOf(ids["L15"]), "https.github") || strings.Contains(textOf(ids["policy"]), "https.githup\n") {
		t.Error("the page does not show what is in force")
	}
	var v struct {
		LoadedAt, Since time.Time
		FileDiffers     bool `json:"file_differs"`
		Problem         struct {
			Message     string
			Diagnostics []struct {
				Severity, Summary, Detail, File string
				Line, Column                    int
			}
		}
		Changes *struct{}
	}
	read(t, g.api("GET", "/api/config", ""), http.StatusOK, &v)
	if len(v.Problem.Diagnostics) != 1 || !v.FileDiffers || !v.Since.Equal(since) || v.Changes != nil {
		t.Fatalf("%+v", v)
	}
	if d := v.Problem.Diagnostics[0]; d.Severity != "error" || d.Line != 15 || d.Column != 14 || d.File != "/etc/clawpatrol/gateway.hcl" {
		t.Errorf("%+v", d)
	}

	g.onDisk(dashboard.PolicyFile{Differs: true, Problem: errors.New("checking who can change it: others may write it, ghp_16C7e42F292c6912E7710c838347Ae178B4a")})
	if page := g.page("/policy"); !strings.Contains(page, "others may write it") || strings.Contains(page, "16C7e42F") {
		t.Error("a file that cannot be read is not told of, or with too much")
	}

	next, err := compiled(t, strings.Replace(gatewayHCL, "uploads.github.com", "uploads.example.com", 1))
	if err != nil {
		t.Fatal(err)
	}
	g.onDisk(dashboard.PolicyFile{Differs: true, Since: since, Next: next, AtStart: []string{"gateway", "wireguard"}})
	page = g.page("/policy")
	for _, want := range []string{"not what is in force, since", "SIGHUP", "changed: <code>https.github</code>", "to one that has changed: <code>bearer.github_token</code>", "blocks take effect at the gateway"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(page, "uploads.example.com") {
		t.Error("the page shows the file instead of what is in force")
	}
}

// I02: a key that a hand has pasted into the policy is in no answer.
func TestI02_ThePolicyIsShownWithoutPastedSecrets(t *testing.T) {
	g := newOperated(t)
	const key, token = "MC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAA", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
	g.load(gatewayHCL + "# -----BEGIN PRIVATE KEY-----\n# " + key + "\n# -----END PRIVATE KEY-----\n/* " + token + " */\n")
	for _, path := range []string{"/policy", "/policy/draft", "/api/config"} {
		body := g.page(path)
		if strings.Contains(body, key) || strings.Contains(body, "16C7e42F") {
			t.Errorf("%s shows it", path)
		}
		if !strings.Contains(body, "****") {
			t.Errorf("%s does not show that something is left out", path)
		}
	}
	if page := g.page("/policy"); !strings.Contains(page, "No secret belongs in this file") {
		t.Error("the page does not say what to do")
	}
}

// The policy's text is the operator's, and still nothing in it is obeyed.
func TestPolicy_ItsTextIsText(t *testing.T) {
	g := newOperated(t)
	const hostile = "# </code></ol><script>alert(1)</script>\u202e\" onload=x {{template}}"
	g.load(gatewayHCL + hostile + "\n")
	for _, page := range []string{g.page("/policy"), text(t, g.post("/policy/draft", url.Values{"source": {hostile + "\nx = \"</textarea><script>\"\n"}}))} {
		if strings.Contains(page, "<script>") || strings.Contains(page, `" onload`) {
			t.Error("the policy's text is markup")
		}
		if !strings.Contains(page, `\u{202e}`) {
			t.Error("what turns text around is not spelled out")
		}
	}
}

const validate = "/api/config/validate"

func draft(t testing.TB, source string) string {
	t.Helper()
	b, err := json.Marshal(map[string]string{"source": source})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type difference struct{ Added, Removed, Changed []string }

type validation struct {
	Valid       bool
	Diagnostics []struct {
		Severity, Summary, Detail string
		Line, Column              int
	}
	Changes *struct {
		Endpoints, Credentials, Profiles, Rules difference
		Settings                                []string
		AtStart                                 []string `json:"at_next_start"`
		Moved                                   []string `json:"moved_credentials"`
		Missing                                 []struct {
			Registration, Name string
			Profiles           []string
		} `json:"registrations_missing_profiles"`
	}
}

func TestDraft_SaysWhatWouldChange(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("build-01", "198.51.100.1") // with profile ci
	gone := g.enrol("revoked-host", "198.51.100.2")
	if err := errors.Join(g.db.Approve(t.Context(), gone.ID, []string{"ci"}, ""), g.db.Revoke(t.Context(), gone.ID)); err != nil {
		t.Fatal(err)
	}
	before := g.policy.Load()
	src := strings.NewReplacer(`profile "ci"`, `profile "ci2"`, "uploads.github.com", "uploads.example.com", `"internal"`, `"inside"`, "https.internal", "https.inside",
		"https://gw.example.com:8443", "https://gw.example.com:9443").Replace(gatewayHCL) + "egress { unknown = \"deny\" }\n"
	var v validation
	read(t, g.api("POST", validate, draft(t, src)), http.StatusOK, &v)
	if !v.Valid || len(v.Diagnostics) != 0 || v.Changes == nil {
		t.Fatalf("%+v", v)
	}
	c := v.Changes
	for what, eq := range map[string]bool{
		"endpoints":     reflect.DeepEqual(c.Endpoints, difference{[]string{"https.inside"}, []string{"https.internal"}, []string{"https.github"}}),
		"credentials":   reflect.DeepEqual(c.Credentials, difference{[]string{}, []string{}, []string{"basic.registry", "header.apikey"}}),
		"profiles":      reflect.DeepEqual(c.Profiles, difference{[]string{"ci2"}, []string{"ci"}, []string{}}),
		"rules":         reflect.DeepEqual(c.Rules, difference{[]string{}, []string{}, []string{}}),
		"settings":      reflect.DeepEqual(c.Settings, []string{"egress"}),
		"at_next_start": reflect.DeepEqual(c.AtStart, []string{"gateway"}),
		"moved":         reflect.DeepEqual(c.Moved, []string{"bearer.github_token", "basic.registry", "header.apikey"}),
	} {
		if !eq {
			t.Errorf("%s: %+v", what, c)
		}
	}
	if len(c.Missing) != 1 || c.Missing[0].Registration != string(reg.ID) || !reflect.DeepEqual(c.Missing[0].Profiles, []string{"ci"}) {
		t.Errorf("missing profiles: %+v", c.Missing)
	}
	page := status(t, g.post("/policy/draft", url.Values{"source": {strings.ReplaceAll(src, "\n", "\r\n")}}), http.StatusOK)
	for _, want := range []string{"The draft compiles", "added: <code>https.inside</code>", "removed: <code>ci</code>", "/registrations/" + string(reg.ID), "build-01", "clawpatrol validate gateway.hcl.new"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if got := textOf(elements(t, page, "name")["source"]); got != src {
		t.Errorf("the draft came back as %q", got)
	}
	if g.policy.Load() != before || g.get(reg.ID).State != registry.Approved {
		t.Error("checking a draft changed something")
	}

	// What the form begins with is what is in force.
	source := textOf(elements(t, g.page("/policy/draft"), "name")["source"])
	if page := text(t, g.post("/policy/draft", url.Values{"source": {source}})); source != gatewayHCL || !strings.Contains(page, "Nothing would change") {
		t.Errorf("the form begins with %q", source)
	}
}

func TestDraft_SaysWhatIsWrong(t *testing.T) {
	g := newOperated(t)
	src := strings.Replace(gatewayHCL, "header   = \"X-Api-Key\"", "heeder   = \"X-Api-Key\"", 1)
	var v validation
	read(t, g.api("POST", validate, draft(t, src)), http.StatusOK, &v)
	if v.Valid || len(v.Diagnostics) != 2 || v.Changes != nil {
		t.Fatalf("%+v", v)
	}
	if d := v.Diagnostics[1]; d.Severity != "error" || d.Line != 24 || d.Column != 3 || !strings.Contains(d.Detail, "Did you mean header?") {
		t.Errorf("%+v", d)
	}
	page := status(t, g.post("/policy/draft", url.Values{"source": {src}}), http.StatusOK)
	ids := elements(t, page, "id")
	if n := ids["L24"]; n == nil || !strings.Contains(textOf(n), "mistake: ") || !strings.Contains(textOf(n), "heeder") || elements(t, page, "href")["#L24"] == nil {
		t.Errorf("line 24 is not marked: %q", textOf(n))
	}
	if strings.Contains(textOf(ids["L25"]), "mistake") || !strings.Contains(page, "Did you mean header?") {
		t.Error("other lines are marked, or the mistake is not told of")
	}
	for _, body := range []string{"", "{}x", `{"source":1}`, `{"other":""}`, `[]`} {
		refused(t, g.api("POST", validate, body), http.StatusBadRequest, "bad_request")
	}
}

// A draft is no way to read the gateway's files: what it names is not opened,
// and the answer is the same whether it is there or not.
func TestI02_ADraftReadsNoFile(t *testing.T) {
	g := newOperated(t)
	secret := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(secret, []byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQ\n-----END PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, attribute := range []string{"ca_file", "known_hosts_file"} {
		typ := map[string]string{"ca_file": "https", "known_hosts_file": "ssh"}[attribute]
		var answers []string
		for _, file := range []string{secret, secret + ".not-there", "/dev/zero", "/etc/passwd"} {
			body := text(t, g.api("POST", validate, draft(t, gatewayHCL+fmt.Sprintf("endpoint %q \"x\" {\n  hosts = [\"x.example.com\"]\n  %s = %q\n}\n", typ, attribute, file))))
			if !strings.Contains(body, "annot be checked here") {
				t.Errorf("%s: %s", file, body)
			}
			answers = append(answers, strings.ReplaceAll(body, file, "FILE"))
		}
		for _, a := range answers[1:] {
			if a != answers[0] {
				t.Errorf("%s: the answers differ:\n%s%s", attribute, answers[0], a)
			}
		}
	}
}

// Any number of drafts at once cost one processor: one is checked, one waits.
func TestI16_DraftsAreCheckedOneAtATime(t *testing.T) {
	g := newOperated(t)
	release := dashboard.CheckingDraft(g.handler)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if r := g.api("POST", validate, draft(t, gatewayHCL)); r.StatusCode != http.StatusOK {
			t.Errorf("who waited: status %d", r.StatusCode)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); dashboard.Drafts(g.handler) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the second draft does not wait")
		}
	}
	third := make(chan *http.Response, 1)
	go func() { third <- g.api("POST", validate, draft(t, gatewayHCL)) }()
	select {
	case r := <-third:
		refused(t, r, http.StatusServiceUnavailable, "busy")
	case <-time.After(20 * time.Second):
		release()
		t.Fatal("the third draft waits")
	}
	r := g.post("/policy/draft", url.Values{"source": {"what was typed"}})
	if body := status(t, r, http.StatusServiceUnavailable); !strings.Contains(body, "what was typed") || r.Header.Get("Retry-After") == "" && !strings.Contains(body, "try again") {
		t.Errorf("the page: %s", body)
	}
	release()
	waiting.Wait()
	status(t, g.api("POST", validate, draft(t, gatewayHCL)), http.StatusOK)
	if n := dashboard.Drafts(g.handler); n != 0 {
		t.Errorf("%d drafts are being checked", n)
	}
}

func TestI16_DraftsAreBounded(t *testing.T) {
	g := newOperated(t)
	long := strings.Repeat("# a comment\n", 1<<17)
	refused(t, g.api("POST", validate, draft(t, long)), http.StatusRequestEntityTooLarge, "body_too_large")
	status(t, g.post("/policy/draft", url.Values{"source": {long}}), http.StatusRequestEntityTooLarge)
	for _, src := range []string{strings.Repeat("[", 1<<19), strings.Repeat("a {", 1<<18), "x = " + strings.Repeat("a.", 1<<18), "x = [" + strings.Repeat(",", 1<<19), strings.Repeat("a b c\n", 1<<16)} {
		var v validation
		read(t, g.api("POST", validate, draft(t, src)), http.StatusOK, &v)
		if v.Valid || len(v.Diagnostics) == 0 || len(v.Diagnostics) > 100 {
			t.Errorf("%.10s…: %d diagnostics", src, len(v.Diagnostics))
		}
	}
}

func TestPolicy_ThereAreNoRules(t *testing.T) {
	g := newOperated(t)
	var v struct{ Items []any }
	if read(t, g.api("GET", "/api/rules", ""), http.StatusOK, &v); v.Items == nil || len(v.Items) != 0 {
		t.Errorf("%+v", v)
	}
	if _, err := compiled(t, gatewayHCL+"rule \"r\" {}\n"); err == nil || !strings.Contains(err.Error(), "does not support rule blocks") {
		t.Errorf("a policy with a rule: %v", err)
	}
}

// FuzzDraftPage checks any text as an operator would: an answer, whatever it is,
// and nothing that changes (I16).
func FuzzDraftPage(f *testing.F) {
	g := newOperated(f)
	session := g.logIn()
	before := g.policy.Load()
	f.Add(gatewayHCL)
	f.Add("gateway {")
	f.Add("x = \"\u202e${a}\"\r\n<script>")
	f.Add("endpoint \"https\" \"a\" {\n  ca_file = \"/etc/passwd\"\n}")
	g.forget()
	f.Fuzz(func(t *testing.T, src string) {
		g.t = t
		page := g.send(request{method: "POST", path: "/policy/draft", form: url.Values{"source": {src}}, cookie: session})
		if s := page.StatusCode; s != http.StatusOK && s != http.StatusRequestEntityTooLarge {
			t.Fatalf("the page: status %d", s)
		}
		b, err := json.Marshal(map[string]string{"source": src})
		if err != nil {
			t.Fatal(err)
		}
		if s := g.send(request{method: "POST", path: validate, body: string(b), cookie: session}).StatusCode; s != http.StatusOK && s != http.StatusRequestEntityTooLarge {
			t.Fatalf("the API: status %d", s)
		}
		if g.policy.Load() != before {
			t.Fatal("the policy in force changed")
		}
	})
}

// A draft outlives the session that it was typed in.
func TestDraft_ComesBackWithoutASession(t *testing.T) {
	g := newOperated(t)
	r := g.send(request{method: "POST", path: "/policy/draft", form: url.Values{"source": {gatewayHCL}}, header: http.Header{"Sec-Fetch-Site": {"same-origin"}}})
	page := status(t, r, http.StatusUnauthorized)
	for _, a := range elements(t, page, "name")["source"].Attr {
		if a.Key == "value" && a.Val == gatewayHCL {
			return
		}
	}
	t.Errorf("the page is\n%s", page)
}

// One line can have as many parts as it is long, and each takes ten times its text
// of the page.
func TestI16_TheListOfADraftIsBounded(t *testing.T) {
	g := newOperated(t)
	source := gatewayHCL + "x = [" + strings.Repeat(`"",`, 100_000) + "]\n"
	page := status(t, g.send(request{method: "POST", path: "/policy/draft", form: url.Values{"source": {source}}, secret: password}), http.StatusOK)
	if n := strings.Count(page, "<span class=\"hcl-"); n > 60_000 {
		t.Errorf("%d parts", n)
	}
	if !strings.Contains(page, "more.</p>") {
		t.Error("it does not say that it ends early")
	}
}

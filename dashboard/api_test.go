package dashboard_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func TestRegistrations_Shape(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("build-01", "198.51.100.1")
	var one map[string]any
	read(t, g.api("GET", "/api/registrations/"+string(reg.ID), ""), http.StatusOK, &one)
	want := []string{"id", "name", "state", "user_code", "addresses", "pin", "profiles", "transport", "last_handshake", "created_at", "blocked_reason", "blocked_at", "seen", "seen_remarks", "health"}
	for _, k := range want {
		if _, ok := one[k]; !ok {
			t.Errorf("no field %q in %v", k, slices.Sorted(maps.Keys(one)))
		}
	}
	if one["state"] != "pending" || one["name"] != "build-01" || one["user_code"] != reg.UserCode || one["transport"] != "wireguard" || one["last_handshake"] != nil {
		t.Errorf("registration %v", one)
	}
	if pin := one["pin"].(map[string]any); pin["ipv4"] != "198.51.100.1" || pin["ipv6"] != "" {
		t.Errorf("pin %v", pin)
	}
	if _, err := time.Parse(time.RFC3339, one["created_at"].(string)); err != nil {
		t.Error(err)
	}
	var all struct{ Items []map[string]any }
	read(t, g.api("GET", "/api/registrations", ""), http.StatusOK, &all)
	if len(all.Items) != 1 || all.Items[0]["id"] != string(reg.ID) {
		t.Errorf("list %v", all)
	}
	refused(t, g.api("GET", "/api/registrations/r_nothing", ""), http.StatusNotFound, "not_found")
}

func TestRegistrations_EmptyListIsAList(t *testing.T) {
	g := newOperated(t)
	g.load(strings.Split(gatewayHCL, "endpoint")[0])
	for _, p := range []string{"registrations", "endpoints", "profiles", "credentials", "actions", "approvals", "host-keys"} {
		if got := status(t, g.api("GET", "/api/"+p, ""), http.StatusOK); got != "{\"items\":[]}\n" {
			t.Errorf("%s: %s", p, got)
		}
	}
}

func TestRegistrations_Life(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("build-01", "198.51.100.1")
	at := "/api/registrations/" + string(reg.ID)
	var v struct {
		State         string   `json:"state"`
		Profiles      []string `json:"profiles"`
		BlockedReason string   `json:"blocked_reason"`
	}
	refused(t, g.api("POST", at+"/approve", `{}`), http.StatusUnprocessableEntity, "no_profiles")
	refused(t, g.api("POST", at+"/approve", `{"profiles":[]}`), http.StatusUnprocessableEntity, "no_profiles")
	refused(t, g.api("POST", at+"/approve", `{"profiles":["ci","nope"]}`), http.StatusUnprocessableEntity, "unknown_profile")
	refused(t, g.api("POST", at+"/approve", `{"profiles":["ci"],"repin":{"ipv4":"198.51.100.1"}}`), http.StatusConflict, "wrong_state")
	refused(t, g.api("POST", at+"/approve", `{"profiles":["ci"],"user_code":"BBBB-BBBB"}`), http.StatusConflict, "wrong_user_code")
	if s := g.get(reg.ID).State; s != registry.Pending {
		t.Fatalf("refused approvals made it %s", s)
	}
	read(t, g.api("POST", at+"/approve", `{"profiles":["ci","ci","deploy"]}`), http.StatusOK, &v)
	if v.State != "approved" || !slices.Equal(v.Profiles, []string{"ci", "deploy"}) {
		t.Errorf("approved: %+v", v)
	}
	refused(t, g.api("POST", at+"/approve", `{"profiles":["ci"]}`), http.StatusConflict, "already_approved")
	read(t, g.api("PUT", at+"/profiles", `{"profiles":["deploy"]}`), http.StatusOK, &v)
	if !slices.Equal(v.Profiles, []string{"deploy"}) {
		t.Errorf("profiles: %+v", v)
	}
	refused(t, g.api("PUT", at+"/profiles", `{"profiles":[]}`), http.StatusUnprocessableEntity, "no_profiles")
	refused(t, g.api("PUT", at+"/profiles", `{"profiles":["nope"]}`), http.StatusUnprocessableEntity, "unknown_profile")
	refused(t, g.api("POST", at+"/block", `{"reason":"two\nlines"}`), http.StatusUnprocessableEntity, "bad_reason")
	read(t, g.api("POST", at+"/block", `{"reason":"left the company"}`), http.StatusOK, &v)
	if v.State != "blocked" || v.BlockedReason != "left the company" {
		t.Errorf("blocked: %+v", v)
	}
	read(t, g.api("POST", at+"/approve", `{"profiles":["ci"]}`), http.StatusOK, &v)
	if v.State != "approved" || v.BlockedReason != "" {
		t.Errorf("approved again: %+v", v)
	}
	status(t, g.api("DELETE", at, ""), http.StatusNoContent)
	refused(t, g.api("POST", at+"/approve", `{"profiles":["ci"]}`), http.StatusConflict, "revoked")
	refused(t, g.api("PUT", at+"/profiles", `{"profiles":["ci"]}`), http.StatusConflict, "wrong_state")
	refused(t, g.api("POST", at+"/block", `{"reason":""}`), http.StatusConflict, "wrong_state")
	if s := g.get(reg.ID).State; s != registry.Revoked {
		t.Errorf("revoked: %s", s)
	}
	refused(t, g.api("DELETE", "/api/registrations/r_nothing", ""), http.StatusNotFound, "not_found")
}

// Where two that wait look alike, only the code from the agent host tells which
// is which.
func TestApprove_LookAlikesNeedTheCode(t *testing.T) {
	g := newOperated(t)
	mine := g.enrol("build-01", "198.51.100.1")
	evil := g.enrol("Build-01", "203.0.113.77")
	at := "/api/registrations/" + string(evil.ID)
	refused(t, g.api("POST", at+"/approve", `{"profiles":["ci"]}`), http.StatusConflict, "user_code_required")
	refused(t, g.api("POST", at+"/approve", fmt.Sprintf(`{"profiles":["ci"],"user_code":%q}`, mine.UserCode)), http.StatusConflict, "wrong_user_code")
	if s := g.get(evil.ID).State; s != registry.Pending {
		t.Fatalf("approved without its code: %s", s)
	}
	read(t, g.api("POST", "/api/registrations/"+string(mine.ID)+"/approve", fmt.Sprintf(`{"profiles":["ci"],"user_code":%q}`, strings.ToLower(strings.ReplaceAll(mine.UserCode, "-", " ")))), http.StatusOK, &struct{}{})
}

func TestPolicy_Lists(t *testing.T) {
	g := newOperated(t)
	got := status(t, g.api("GET", "/api/endpoints", ""), http.StatusOK)
	want := `{"items":[{"type":"https","name":"github","hosts":["api.github.com:443","uploads.github.com:443"],"ca_file":false,"cookies":"strip"},` +
		`{"type":"https","name":"internal","hosts":["api.internal.example.com:8443"],"address":"10.20.0.7:8443","ca_file":false,"cookies":"pass"}]}` + "\n"
	if got != want {
		t.Errorf("endpoints:\n%s\nwant\n%s", got, want)
	}
	got = status(t, g.api("GET", "/api/profiles", ""), http.StatusOK)
	want = `{"items":[{"name":"ci","credentials":["bearer.github_token"],"default":true},{"name":"deploy","credentials":["basic.registry","header.apikey"],"default":false}]}` + "\n"
	if got != want {
		t.Errorf("profiles:\n%s\nwant\n%s", got, want)
	}
}

// Credentials in the query and in a cookie have one slot like the others, and an
// endpoint that says otherwise than the default shows it.
func TestCredentials_QueryAndCookie(t *testing.T) {
	g := newOperated(t)
	g.load(strings.Replace(gatewayHCL, `cookies = "pass"`, "cookies = \"none\"\n identity = \"pass\"", 1) + `
credential "query" "key" {
  endpoint  = https.internal
  parameter = "key"
}
credential "cookie" "session" {
  endpoint = https.internal
  cookie   = "session"
}
`)
	got := status(t, g.api("GET", "/api/endpoints", ""), http.StatusOK)
	if !strings.Contains(got, `"ca_file":false,"cookies":"none","identity":"pass"}`) {
		t.Errorf("endpoints:\n%s", got)
	}
	for _, ref := range []string{"query/key", "cookie/session"} {
		status(t, g.api("PUT", "/api/credentials/"+ref, `{"slots":{"secret":"a secret"}}`), http.StatusNoContent)
		refused(t, g.api("PUT", "/api/credentials/"+ref, `{"slots":{"password":"a secret"}}`), http.StatusUnprocessableEntity, "unknown_slot")
	}
	var v credentialsAnswer
	read(t, g.api("GET", "/api/credentials", ""), http.StatusOK, &v)
	set := 0
	for _, c := range v.Items {
		if (c.Type == "query" || c.Type == "cookie") && len(c.Slots) == 1 && c.Slots[0].Name == "secret" && c.Slots[0].Set {
			set++
		}
	}
	if set != 2 {
		t.Errorf("credentials: %+v", v.Items)
	}
}

type credentialsAnswer struct {
	Items []struct {
		Type, Name, Endpoint string
		Unused               bool
		Slots                []struct {
			Name  string
			Set   bool
			SetAt *time.Time `json:"set_at"`
		}
	}
}

func TestCredentials_SetReplaceClear(t *testing.T) {
	g := newOperated(t)
	const at = "/api/credentials/bearer/github_token"
	list := func() credentialsAnswer {
		var v credentialsAnswer
		read(t, g.api("GET", "/api/credentials", ""), http.StatusOK, &v)
		return v
	}
	if v := list(); len(v.Items) != 3 || v.Items[0].Endpoint != "https.github" || v.Items[0].Slots[0].Name != "secret" || v.Items[0].Slots[0].Set {
		t.Errorf("at first: %+v", v)
	}
	status(t, g.api("PUT", at, `{"slots":{"secret":"tok-4711\n"}}`), http.StatusNoContent)
	if v := list(); !v.Items[0].Slots[0].Set || !v.Items[0].Slots[0].SetAt.Equal(g.clock.Now()) {
		t.Errorf("set: %+v", v)
	}
	// The line break that files end with is not part of the token.
	reg := g.enrol("host", "198.51.100.1")
	if err := g.db.Approve(t.Context(), reg.ID, []string{"ci"}, ""); err != nil {
		t.Fatal(err)
	}
	released, err := g.db.Release(t.Context(), registry.Action{Registration: reg.ID, Credential: "bearer.github_token", Verdict: "allow"})
	if err != nil || string(released.Slots["secret"].Reveal()) != "tok-4711" {
		t.Errorf("stored %q, %v", released.Slots["secret"].Reveal(), err)
	}
	// What the policy no longer declares is shown as unused and can be cleared.
	g.load(strings.ReplaceAll(strings.ReplaceAll(gatewayHCL, `"github_token"`, `"renamed"`), "bearer.github_token", "bearer.renamed"))
	if v := list(); len(v.Items) != 4 || !v.Items[3].Unused || v.Items[3].Name != "github_token" {
		t.Errorf("after a rename: %+v", v)
	}
	refused(t, g.api("PUT", at, `{"slots":{"secret":"x"}}`), http.StatusNotFound, "unknown_credential")
	status(t, g.api("DELETE", at, ""), http.StatusNoContent)
	if v := list(); len(v.Items) != 3 {
		t.Errorf("cleared: %+v", v)
	}
	refused(t, g.api("DELETE", at, ""), http.StatusNotFound, "unknown_credential")
}

func TestCredentials_RefuseBadValues(t *testing.T) {
	g := newOperated(t)
	slots := func(v string) string {
		b, err := json.Marshal(map[string]any{"slots": map[string]string{"secret": v}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, ref := range []string{"bearer/github_token", "basic/registry", "header/apikey"} {
		for _, v := range []string{"", "\n", "a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "a\x7fb", "a\n\n", strings.Repeat("x", 64<<10+1)} {
			r := g.api("PUT", "/api/credentials/"+ref, slots(v))
			refused(t, r, http.StatusUnprocessableEntity, "bad_value")
		}
		status(t, g.api("PUT", "/api/credentials/"+ref, slots(strings.Repeat("x", 64<<10))), http.StatusNoContent)
	}
	const at = "/api/credentials/bearer/github_token"
	refused(t, g.api("PUT", at, `{"slots":{}}`), http.StatusUnprocessableEntity, "no_slots")
	refused(t, g.api("PUT", at, `{"slots":{"password":"x"}}`), http.StatusUnprocessableEntity, "unknown_slot")
	refused(t, g.api("PUT", "/api/credentials/basic/github_token", slots("x")), http.StatusNotFound, "unknown_credential")
	refused(t, g.api("PUT", at, slots(strings.Repeat("x", 1<<20))), http.StatusRequestEntityTooLarge, "body_too_large")
}

func TestSecrets_Put(t *testing.T) {
	g := newOperated(t)
	status(t, g.api("PUT", "/api/secrets/TS_AUTHKEY", `{"value":"tskey-4711"}`), http.StatusNoContent)
	if got := string(g.db.NamedSecret("TS_AUTHKEY").Reveal()); got != "tskey-4711" {
		t.Errorf("stored %q", got)
	}
	refused(t, g.api("PUT", "/api/secrets/with-dash", `{"value":"x"}`), http.StatusUnprocessableEntity, "bad_name")
	refused(t, g.api("PUT", "/api/secrets/%7b%7b", `{"value":"x"}`), http.StatusUnprocessableEntity, "bad_name")
	refused(t, g.api("PUT", "/api/secrets/X", `{"value":""}`), http.StatusUnprocessableEntity, "bad_value")
	refused(t, g.api("GET", "/api/secrets/TS_AUTHKEY", ""), http.StatusMethodNotAllowed, "method_not_allowed")
}

func TestAPI_StrictJSON(t *testing.T) {
	g := newOperated(t)
	for _, body := range []string{"", "null", "[]", `"x"`, `{"value":"x"}{}`, `{"value":"x"} x`, `{"value":"x","other":1}`, `{"value":1}`, `{"value":`} {
		refused(t, g.api("PUT", "/api/secrets/X", body), http.StatusBadRequest, "bad_request")
	}
	// What was sent by mistake is not quoted back.
	r := g.api("PUT", "/api/secrets/X", `{"value":{"nested":"sesame"},"sesame":1}`)
	if body := text(t, r); strings.Contains(body, "sesame") {
		t.Errorf("quoted: %s", body)
	}
}

func TestActions_FiltersAndCursor(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("host", "198.51.100.1")
	for i := range 25 {
		a := registry.Action{
			Registration: reg.ID, Profile: "ci", Endpoint: "https.github", Credential: "bearer.github_token", Protocol: "https",
			Summary: fmt.Sprintf("GET api.github.com/%d", i), Verdict: "allow", Time: g.clock.Now(),
		}
		if i%5 == 0 {
			a.Verdict, a.Endpoint, a.Rule, a.Reason = "deny", "https.internal", "no-deletion", "needs a human"
		}
		id, err := g.db.Append(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		if i != 24 {
			g.db.Finish(id, registry.ActionResult{Status: "200", BytesIn: 10, BytesOut: 2048, Duration: 1500 * time.Millisecond})
		}
		g.clock.pass(time.Minute)
	}
	type answer struct {
		Items []map[string]any
		Next  string
	}
	get := func(query string) answer {
		t.Helper()
		var v answer
		read(t, g.api("GET", "/api/actions?"+query, ""), http.StatusOK, &v)
		return v
	}
	var seen []string
	pages := 0
	for cursor := ""; ; pages++ {
		v := get("limit=10&cursor=" + cursor)
		for _, a := range v.Items {
			seen = append(seen, a["summary"].(string))
		}
		if cursor = v.Next; cursor == "" {
			break
		}
	}
	if len(seen) != 25 || seen[0] != "GET api.github.com/24" || seen[24] != "GET api.github.com/0" || pages != 2 {
		t.Errorf("%d rows in %d pages: %v", len(seen), pages+1, seen)
	}
	newest := get("limit=2").Items
	want := []string{"bytes_in", "bytes_out", "credential", "duration_ms", "endpoint", "id", "profile", "protocol", "reason", "registration", "rule", "status", "summary", "time", "verdict"}
	if got := slices.Sorted(maps.Keys(newest[0])); !slices.Equal(got, want) {
		t.Errorf("fields %v", got)
	}
	if newest[0]["status"] != "" || newest[1]["status"] != "200" || newest[1]["bytes_out"] != 2048.0 || newest[1]["duration_ms"] != 1500.0 {
		t.Errorf("newest %v", newest)
	}
	for query, n := range map[string]int{
		"verdict=deny":                    5,
		"endpoint=https.github":           20,
		"endpoint=https.nothing":          0,
		"registration=" + string(reg.ID):  25,
		"registration=r_other":            0,
		"since=10m":                       10,
		"since=2026-03-01T12:20:00Z":      5,
		"verdict=deny&since=10m":          2,
		"verdict=allow&endpoint=https.gh": 0,
	} {
		if got := len(get(query).Items); got != n {
			t.Errorf("%s: %d rows, want %d", query, got, n)
		}
	}
	for _, bad := range []string{"limit=0", "limit=501", "limit=x", "cursor=x", "cursor=-1", "since=yesterday", "since=-1h", "verdict=maybe"} {
		refused(t, g.api("GET", "/api/actions?"+bad, ""), http.StatusBadRequest, "bad_request")
	}
}

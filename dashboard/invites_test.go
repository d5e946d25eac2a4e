package dashboard_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/enrolment"
)

type inviteShown struct {
	ID, State, Source, Token string
	MadeBy                   string `json:"made_by"`
	Profiles                 []string
	Uses, Used               int
	CreatedAt                time.Time  `json:"created_at"`
	ExpiresAt                time.Time  `json:"expires_at"`
	LastUsedAt               *time.Time `json:"last_used_at"`
	VoidedAt                 *time.Time `json:"voided_at"`
}

func TestInvites_AreMadeListedAndVoided(t *testing.T) {
	g := newOperated(t)
	if got := status(t, g.api("GET", "/api/invites", ""), http.StatusOK); got != "{\"items\":[]}\n" {
		t.Errorf("the list of none is %s", got)
	}
	var made, short inviteShown
	read(t, g.api("POST", "/api/invites", `{"ttl":"1h","profiles":["ci"],"uses":3,"source":"198.51.100.0/24"}`), http.StatusCreated, &made)
	if !strings.HasPrefix(made.Token, "cpi1_") || made.State != "good" || made.Uses != 3 || made.Used != 0 || made.Source != "198.51.100.0/24" ||
		strings.Join(made.Profiles, ",") != "ci" || !made.ExpiresAt.Equal(g.clock.Now().Add(time.Hour)) || !strings.HasPrefix(made.MadeBy, "dashboard 192.0.2.1") {
		t.Errorf("%+v", made)
	}
	read(t, g.api("POST", "/api/invites", `{}`), http.StatusCreated, &short)
	if short.Uses != 1 || !short.ExpiresAt.Equal(g.clock.Now().Add(15*time.Minute)) || short.Profiles == nil || len(short.Profiles) != 0 {
		t.Errorf("%+v", short)
	}
	status(t, g.api("DELETE", "/api/invites/"+made.ID, ""), http.StatusNoContent)
	refused(t, g.api("DELETE", "/api/invites/i_nothing", ""), http.StatusNotFound, "not_found")
	g.clock.pass(16 * time.Minute)
	var list struct{ Items []inviteShown }
	text := status(t, g.api("GET", "/api/invites", ""), http.StatusOK)
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 2 || list.Items[0].ID != short.ID || list.Items[0].State != "expired" || list.Items[1].State != "voided" || list.Items[1].VoidedAt == nil {
		t.Errorf("%s", text)
	}
	if log := g.log.String(); strings.Contains(text, "cpi1_") || strings.Contains(log, "cpi1_") || strings.Contains(log, made.Token[5:40]) {
		t.Error("a token is shown again, or logged")
	}
}

func TestInvites_RefusesWhatMakesNoSense(t *testing.T) {
	g := newOperated(t)
	for body, code := range map[string]string{
		`{"ttl":"200h"}`: "bad_ttl", `{"uses":-1}`: "bad_uses", `{"source":"x"}`: "bad_source", `{"profiles":["nope"]}`: "unknown_profile",
	} {
		refused(t, g.api("POST", "/api/invites", body), http.StatusUnprocessableEntity, code)
	}
	refused(t, g.api("POST", "/api/invites", `{"token":"x"}`), http.StatusBadRequest, "bad_request")
	refused(t, g.api("POST", "/api/invites", ``), http.StatusBadRequest, "bad_request")
	g.load(strings.Replace(gatewayHCL, "public_url", "enrolment = \"closed\"\n  public_url", 1))
	refused(t, g.api("POST", "/api/invites", `{}`), http.StatusUnprocessableEntity, "enrolment_closed")
}

var tokenText = regexp.MustCompile(`cpi1_[A-Za-z0-9_-]+`)

// The token stands in the answer to the form and nowhere else, ever.
func TestPages_AnInviteIsShownOnce(t *testing.T) {
	g := newOperated(t)
	empty := g.page("/invites")
	doc, _ := html.Parse(strings.NewReader(empty))
	checkMarkup(t, "/invites", doc)
	values := form(t, empty, "/invites")
	if values.Get("ttl") != "15m" || values.Get("uses") != "1" || values.Get("source") != "" || values.Has("profile") {
		t.Errorf("the form begins with %v", values)
	}
	values.Set("profile", "ci")
	values.Set("uses", "3")
	values.Set("ttl", "8h")
	values.Set("source", "198.51.100.0/24")
	answer := g.post("/invites", values)
	if c := answer.Header.Get("Cache-Control"); c != "no-store" {
		t.Errorf("Cache-Control %q", c)
	}
	page := status(t, answer, http.StatusOK)
	doc, _ = html.Parse(strings.NewReader(page))
	checkMarkup(t, "an invite", doc)
	token := tokenText.FindString(page)
	if token == "" {
		t.Fatalf("no token in\n%s", page)
	}
	command := html.UnescapeString(section(t, page, "invite-command"))
	want := "echo " + token + " | sudo clawpatrol join https://gw.example.com:8443 --ca-fingerprint sha256:" + strings.Repeat("ab", 32) + " --invite -"
	if !strings.Contains(command, ">"+want+"<") || !strings.Contains(page, `data-copy="invite-command"`) {
		t.Errorf("the command is %s", command)
	}
	if parsed, err := enrolment.ParseInvite(token); err != nil || parsed.URL != "https://gw.example.com:8443" || parsed.Uses != 3 || strings.Join(parsed.Profiles, ",") != "ci" {
		t.Errorf("%+v %v", parsed, err)
	}
	list := g.page("/invites")
	rows := section(t, list, "invites")
	for _, want := range []string{"0 of 3", "198.51.100.0/24", "2026-03-01 20:00:00 UTC", ">good<", "ci"} {
		if !strings.Contains(rows, want) {
			t.Errorf("the list has no %q:\n%s", want, rows)
		}
	}
	for _, p := range []string{"/invites", "/registrations", "/api/invites", "/actions"} {
		if strings.Contains(g.page(p), "cpi1_") {
			t.Errorf("%s shows the token again", p)
		}
	}
	if strings.Contains(g.log.String(), token[5:40]) {
		t.Error("the token is logged")
	}
	void := regexp.MustCompile(`action="(/invites/[^"]+/void)"`).FindStringSubmatch(rows)
	goesTo(t, g.post(void[1], url.Values{}), "/invites?done=voided")
	list = g.page("/invites?done=voided")
	if !strings.Contains(list, "Voided.") || !strings.Contains(section(t, list, "invites"), ">voided<") || strings.Contains(list, "/void\"") {
		t.Errorf("after it was voided:\n%s", list)
	}
	status(t, g.post("/invites/i_nothing/void", url.Values{}), http.StatusNotFound)
}

func TestPages_AnInviteThatIsRefusedKeepsWhatWasTyped(t *testing.T) {
	g := newOperated(t)
	for what, c := range map[string]struct {
		field, value, says string
	}{
		"ttl":     {"ttl", "200h", "ttl is not a duration"},
		"uses":    {"uses", "many", "uses is not between 1 and 1000"},
		"no uses": {"uses", "0", "uses is not between 1 and 1000"},
		"source":  {"source", `"><script>`, "neither an address nor a range"},
	} {
		values := url.Values{"profile": {"deploy"}, "ttl": {"1h"}, "uses": {"2"}, "source": {"192.0.2.0/24"}}
		values.Set(c.field, c.value)
		page := status(t, g.post("/invites", values), http.StatusUnprocessableEntity)
		if !strings.Contains(page, c.says) || strings.Contains(page, "cpi1_") {
			t.Errorf("%s: the page does not say %q, or has a token", what, c.says)
		}
		if got := form(t, page, "/invites"); got.Encode() != values.Encode() {
			t.Errorf("%s: the form has %v, not %v", what, got, values)
		}
	}
	if rows := section(t, g.page("/invites"), "invites"); !strings.Contains(rows, "None in the last 30 days") {
		t.Errorf("an invite was made:\n%s", rows)
	}
}

func TestInvites_ComeInPages(t *testing.T) {
	g := newOperated(t)
	var ids []string
	for range 60 {
		g.clock.pass(time.Second)
		var made inviteShown
		read(t, g.api("POST", "/api/invites", `{"ttl":"1h"}`), http.StatusCreated, &made)
		ids = append(ids, made.ID)
	}
	slices.Reverse(ids)
	var got []string
	for cursor := ""; ; {
		var list struct {
			Items []inviteShown
			Next  string
		}
		read(t, g.api("GET", "/api/invites?limit=25"+cursor, ""), http.StatusOK, &list)
		for _, i := range list.Items {
			got = append(got, i.ID)
		}
		if list.Next == "" {
			break
		}
		cursor = "&cursor=" + list.Next
	}
	if !slices.Equal(got, ids) {
		t.Errorf("%d of %d, or in another order", len(got), len(ids))
	}
	older := section(t, g.page(g.href("/invites", "Older")), "invites")
	if strings.Count(older, "<tr>") != 11 || !strings.Contains(older, ids[59]) {
		t.Errorf("the older ones:\n%s", older)
	}
	refused(t, g.api("GET", "/api/invites?cursor=x", ""), http.StatusBadRequest, "bad_request")
	status(t, g.send(request{method: "GET", path: "/invites?limit=x", secret: password}), http.StatusBadRequest)
}

func TestInvites_OfAGatewayThatMakesNone(t *testing.T) {
	g := newOperated(t)
	g.cfg.Invites = nil
	g.restart()
	status(t, g.send(request{method: "GET", path: "/invites", secret: password}), http.StatusNotFound)
	status(t, g.post("/invites", url.Values{}), http.StatusNotFound)
	status(t, g.post("/invites/i_x/void", url.Values{}), http.StatusNotFound)
	if strings.Contains(g.page("/registrations"), `href="/invites"`) {
		t.Error("the list leads to invites")
	}
}

// Its certificate is publicly trusted, and not of the gateway's own CA.
func TestPages_TheCommandForAPublicCertificateHasNoFingerprint(t *testing.T) {
	g := newOperated(t)
	g.load(strings.Replace(gatewayHCL, "public_url", "tls {\n    cert_file = \"/tmp/c\"\n    key_file = \"/tmp/k\"\n  }\n  public_url", 1))
	page := status(t, g.post("/invites", url.Values{}), http.StatusOK)
	command := section(t, page, "invite-command")
	if strings.Contains(command, "--ca-fingerprint") || !strings.Contains(command, " --invite -") {
		t.Error(command)
	}
}

func TestShellWord_IsOneWordToAShell(t *testing.T) {
	for _, word := range []string{"plain-1_x.y/z:8@=+", "a b", "it's", "$(id)", "`id`", "a;b", "a\nb", "", "*", "\\", `"`, "'", "-"} {
		out, err := exec.Command("/bin/sh", "-c", "printf %s "+dashboard.ShellWord(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q became %q (%v)", word, out, err)
		}
	}
}

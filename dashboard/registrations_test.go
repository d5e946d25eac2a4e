package dashboard_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// form is what a browser sends of the page's form to this place when its button
// is pressed and nothing else was touched.
func form(t *testing.T, page, action string) url.Values {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode || n.Data != "form" || attributes(n)["action"] != action {
			continue
		}
		values := url.Values{}
		for in := range n.Descendants() {
			a := attributes(in)
			_, checked := a["checked"]
			if in.Type == html.ElementNode && in.Data == "input" && (checked || a["type"] == "hidden" || a["type"] == "text") {
				values.Add(a["name"], a["value"])
			}
		}
		return values
	}
	t.Fatalf("no form to %s in\n%s", action, page)
	return nil
}

// section is the part of a page with this id.
func section(t *testing.T, page, id string) string {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && attributes(n)["id"] == id {
			var b strings.Builder
			if err := html.Render(&b, n); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}
	}
	t.Fatalf("no #%s in\n%s", id, page)
	return ""
}

// One click approves with the default profiles, and with the pin that the card
// showed.
func TestPages_ApprovesFromTheList(t *testing.T) {
	g := newOperated(t)
	reg, other := g.enrol("build-01", "198.51.100.1"), g.enrol("laptop", "198.51.100.2")
	at := "/registrations/" + string(reg.ID)
	list := g.page("/registrations")
	doc, _ := html.Parse(strings.NewReader(list))
	checkMarkup(t, "/registrations", doc)
	card := section(t, list, "pending")
	for _, want := range []string{`<code class="usercode">` + reg.UserCode, "198.51.100.1", "Approve build-01", "Approve laptop"} {
		if !strings.Contains(card, want) {
			t.Errorf("the card has no %q", want)
		}
	}
	stale := form(t, list, "/registrations/"+string(other.ID)+"/approve")
	goesTo(t, g.post(at+"/approve", form(t, list, at+"/approve")), "/registrations?done=approved")
	if s := g.get(reg.ID); s.State != registry.Approved || !slices.Equal(s.Profiles, []string{"ci"}) {
		t.Errorf("%s with %v", s.State, s.Profiles)
	}
	if page := g.page("/registrations?done=approved"); !strings.Contains(page, "Approved. Traffic") || strings.Contains(section(t, page, "pending"), "build-01") {
		t.Error("the list does not say so")
	}
	// Where its address has changed since, the card is not what is approved.
	stale.Set("pin4", "198.51.100.99")
	body := status(t, g.post("/registrations/"+string(other.ID)+"/approve", stale), http.StatusConflict)
	if !strings.Contains(body, "the observed addresses have changed") || g.get(other.ID).State != registry.Pending {
		t.Error("approved another pin than was shown")
	}
	// Two operators: the second is told.
	if body := status(t, g.post(at+"/approve", url.Values{"profile": {"deploy"}, "from": {"list"}}), http.StatusConflict); !strings.Contains(body, "approved already") {
		t.Errorf("the second approval:\n%s", body)
	}
}

// A look-alike's card asks for the code, as its page does, and does not have it.
func TestI10_TheListAsksForTheCodeOfALookAlike(t *testing.T) {
	g := newOperated(t)
	mine, evil := g.enrol("build-01", "198.51.100.1"), g.enrol("build-01", "198.51.100.2")
	at := "/registrations/" + string(mine.ID) + "/approve"
	page := g.page("/registrations")
	click := form(t, page, at)
	if !click.Has("user_code") || strings.Contains(page, mine.UserCode) || strings.Contains(page, evil.UserCode) {
		t.Fatalf("the form has %v, or the page shows the code", click)
	}
	body := status(t, g.post(at, click), http.StatusConflict)
	if !strings.Contains(body, `name="user_code"`) || strings.Contains(body, mine.UserCode) {
		t.Error("after the refusal the page does not ask, or tells")
	}
	click.Set("user_code", evil.UserCode)
	status(t, g.post(at, click), http.StatusConflict)
	if s := g.get(mine.ID).State; s != registry.Pending {
		t.Fatalf("approved without its code: %s", s)
	}
	click.Set("user_code", mine.UserCode)
	goesTo(t, g.post(at, click), "/registrations?done=approved")
}

// What was ticked stays ticked where the form is refused, and no event takes the
// page back to what it was.
func TestPages_ARefusedFormKeepsWhatWasTicked(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("build-01", "198.51.100.1")
	at := "/registrations/" + string(reg.ID) + "/approve"
	if now := section(t, g.page("/registrations/"+string(reg.ID)), "now"); !strings.Contains(now, `data-live=""`) || !strings.Contains(now, `hx-trigger="sse:registrations`) {
		t.Error("the page does not follow the registration")
	}
	body := status(t, g.post(at, url.Values{"profile": {"deploy"}, "pin4": {"192.0.2.1"}}), http.StatusConflict)
	if got := form(t, body, at)["profile"]; !slices.Equal(got, []string{"deploy"}) {
		t.Errorf("ticked: %v", got)
	}
	if strings.Contains(section(t, body, "now"), "data-live") {
		t.Error("the form renews itself, and what was ticked is lost")
	}
	for _, what := range []string{"approve", "profiles", "block"} { // reloaded after a refusal
		goesTo(t, g.send(request{method: "GET", path: "/registrations/" + string(reg.ID) + "/" + what, secret: password}), "/registrations/"+string(reg.ID))
	}
	status(t, g.send(request{method: "GET", path: "/registrations/r_nothing/approve", secret: password}), http.StatusNotFound)
}

// The parts of the page that renew themselves do so by asking for the page that
// they are on, and say which part they are.
func TestPages_PartsRenewThemselves(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("build-01", "198.51.100.1")
	for range 3 {
		g.clock.pass(time.Second)
		g.approved(fmt.Sprintf("host %d", g.clock.Now().Unix()), "198.51.100.9")
	}
	for path, parts := range map[string][]string{
		"/registrations":                          {"alarms", "pending", "table"},
		"/registrations?limit=2":                  {"alarms", "pending", "table"},
		"/registrations?state=approved":           {"table"},
		"/registrations/" + string(reg.ID):        {"now", "doing"},
		"/invites":                                {"invites"},
		g.href("/registrations?limit=2", "Older"): {"table"},
	} {
		page := g.page(path)
		doc, err := html.Parse(strings.NewReader(page))
		if err != nil {
			t.Fatal(err)
		}
		checkMarkup(t, path, doc)
		var live []string
		for n := range doc.Descendants() {
			a := attributes(n)
			if _, ok := a["data-live"]; !ok {
				continue
			}
			live = append(live, a["id"])
			// Forms inside would inherit hx-select and hx-swap; a throttle would drop
			// the last of several events.
			if a["hx-select"] != "#"+a["id"] || a["hx-swap"] != "outerHTML" || a["hx-disinherit"] != "*" || !strings.HasPrefix(a["hx-trigger"], "sse:registrations delay:") {
				t.Errorf("%s: %v", path, a)
			}
			if got := section(t, g.page(a["hx-get"]), a["id"]); got != section(t, page, a["id"]) {
				t.Errorf("%s: #%s asks for %s, which is another:\n%s", path, a["id"], a["hx-get"], got)
			}
		}
		if !slices.Equal(live, parts) || !strings.Contains(page, `sse-connect="/api/live"`) {
			t.Errorf("%s renews %v, want %v", path, live, parts)
		}
	}
}

// href is where the page's link with this text goes.
func (g *gateway) href(path, text string) string {
	g.t.Helper()
	m := regexp.MustCompile(`<a href="([^"]*)">` + text + `</a>`).FindStringSubmatch(g.page(path))
	if m == nil {
		g.t.Fatalf("%s has no link %q", path, text)
	}
	return html.UnescapeString(m[1])
}

type flowShown struct {
	Protocol, Destination, Endpoint string
	Since                           time.Time
	Bytes                           int64
}

func TestFlows_OnThePageAndInTheAPI(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("build-01", "198.51.100.1")
	at := "/registrations/" + string(reg.ID)
	if strings.Contains(g.page(at), "Running flows") {
		t.Error("nobody tells the flows, and the page has them")
	}
	refused(t, g.api("GET", "/api"+at+"/flows", ""), http.StatusNotFound, "not_found")
	var running []dashboard.Flow
	g.cfg.Flows = func(id registry.ID) []dashboard.Flow {
		if id != reg.ID {
			t.Errorf("asked for %s", id)
		}
		return running
	}
	g.restart()
	if got := status(t, g.api("GET", "/api"+at+"/flows", ""), http.StatusOK); got != "{\"items\":[]}\n" {
		t.Errorf("none: %s", got)
	}
	if doing := section(t, g.page(at), "doing"); !strings.Contains(doing, "None at this instant") {
		t.Error("the page does not say that there are none")
	}
	since := g.clock.Now().Add(-time.Minute)
	running = []dashboard.Flow{
		{Protocol: "https", Destination: "api.github.com:443", Endpoint: "https.github", Since: since, Bytes: 5 << 20},
		{Protocol: "tcp", Destination: "<script>\u202e:1", Since: since},
	}
	var list struct{ Items []flowShown }
	read(t, g.api("GET", "/api"+at+"/flows", ""), http.StatusOK, &list)
	if len(list.Items) != 2 || list.Items[0] != (flowShown{"https", "api.github.com:443", "https.github", since, 5 << 20}) {
		t.Errorf("%+v", list)
	}
	page := g.page(at)
	for _, want := range []string{"api.github.com:443", "https.github", "2026-03-01 11:59:00 UTC", "5.0 MiB", `&lt;script&gt;\u{202e}:1`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for range 200 {
		running = append(running, dashboard.Flow{Protocol: "udp", Destination: "192.0.2.1:9", Since: since})
	}
	read(t, g.api("GET", "/api"+at+"/flows", ""), http.StatusOK, &list)
	if page := g.page(at); len(list.Items) != dashboard.MaxFlows || !strings.Contains(page, "The newest 100") || strings.Count(page, "192.0.2.1:9") != 98 {
		t.Errorf("of 202: %d", len(list.Items))
	}
	refused(t, g.api("GET", "/api/registrations/r_nothing/flows", ""), http.StatusNotFound, "not_found")
}

func TestPages_RegistrationTellsWhatItCanUseAndDid(t *testing.T) {
	g := newOperated(t)
	reg, other := g.approved("build-01", "198.51.100.1"), g.approved("laptop", "198.51.100.2")
	at := "/registrations/" + string(reg.ID)
	if err := g.db.SetProfiles(t.Context(), reg.ID, []string{"ci", "deploy", "gone"}); err != nil {
		t.Fatal(err)
	}
	status(t, g.api("PUT", "/api/credentials/bearer/github_token", `{"slots":{"secret":"tok-4711"}}`), http.StatusNoContent)
	for i := range 12 {
		for _, id := range []registry.ID{reg.ID, other.ID} {
			if _, err := g.db.Append(t.Context(), registry.Action{Registration: id, Endpoint: "https.github", Summary: fmt.Sprintf("GET /of/%s/%d", id, i), Verdict: "allow"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := g.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	doing := section(t, g.page(at), "doing")
	rows := regexp.MustCompile(`(?s)<tr>.*?</tr>`).FindAllString(doing, -1)
	row := func(has string) string {
		for _, r := range rows {
			if strings.Contains(r, has) {
				return r
			}
		}
		t.Errorf("no row with %q in\n%s", has, doing)
		return ""
	}
	if r := row("bearer.github_token"); !strings.Contains(r, `href="/credentials/bearer/github_token"`) || !strings.Contains(r, ">set<") || !strings.Contains(r, "https.github") {
		t.Errorf("of the one that is set:\n%s", r)
	}
	if r := row("basic.registry"); !strings.Contains(r, ">missing<") || !strings.Contains(r, "deploy") {
		t.Errorf("of the one that is not:\n%s", r)
	}
	if r := row(">gone<"); !strings.Contains(r, "the policy has no such profile") {
		t.Errorf("of a profile that is gone:\n%s", r)
	}
	actions := regexp.MustCompile(`href="/actions/(\d+)"`).FindAllStringSubmatch(doing, -1)
	if len(actions) != 10 || !strings.Contains(row("/"+string(reg.ID)+"/11<"), "/actions/"+actions[0][1]) || strings.Contains(doing, string(other.ID)) || strings.Contains(doing, "/1<") {
		t.Errorf("the last actions are %v", actions)
	}
	if !strings.Contains(doing, `href="/actions?registration=`+string(reg.ID)+`"`) {
		t.Error("no link to all of them")
	}
	if strings.Contains(g.page(at), "tok-4711") {
		t.Error("the page has the secret")
	}
}

// A click on the wrong page revokes nothing; what an operator types is what the
// page shows.
func TestPages_RevocationTakesTheNameAsItIsShown(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("mein  Rechner\u202e (größe)", "198.51.100.1")
	at := "/registrations/" + string(reg.ID) + "/revoke"
	name := regexp.MustCompile(`<strong>([^<]*)</strong>`).FindStringSubmatch(g.page(at))
	if name == nil {
		t.Fatal("the page does not say what to type")
	}
	if values := form(t, g.page(at), at); values.Get("confirm") != "" {
		t.Error("the page types it itself")
	}
	status(t, g.post(at, form(t, g.page(at), at)), http.StatusUnprocessableEntity)
	status(t, g.post(at, url.Values{"confirm": {"mein Rechner"}}), http.StatusUnprocessableEntity)
	if s := g.get(reg.ID).State; s != registry.Approved {
		t.Fatalf("unconfirmed, it is %s", s)
	}
	goesTo(t, g.post(at, url.Values{"confirm": {html.UnescapeString(name[1])}}), "/registrations/"+string(reg.ID)+"?done=revoked")
	status(t, g.post("/registrations/r_nothing/revoke", url.Values{"confirm": {""}}), http.StatusNotFound)
	// The API names what it deletes in the URL.
	other := g.approved("other", "198.51.100.2")
	status(t, g.api("DELETE", "/api/registrations/"+string(other.ID), ""), http.StatusNoContent)
}

func TestRegistrations_ComeInPages(t *testing.T) {
	g := newOperated(t)
	var ids []string
	for i := range 7 {
		g.clock.pass(time.Second)
		ids = append(ids, string(g.approved(fmt.Sprintf("host-%d", i), "198.51.100.1").ID))
	}
	type listed struct {
		Items []struct{ ID string }
		Next  string
	}
	walk := func(query string, between func(page int)) (got []string, pages int) {
		t.Helper()
		for cursor := ""; ; pages++ {
			var l listed
			read(t, g.api("GET", "/api/registrations?"+query+cursor, ""), http.StatusOK, &l)
			for _, item := range l.Items {
				got = append(got, item.ID)
			}
			if l.Next == "" {
				return got, pages + 1
			}
			cursor = "&cursor=" + url.QueryEscape(l.Next)
			if between != nil {
				between(pages)
			}
		}
	}
	if got, pages := walk("", nil); pages != 1 || !slices.Equal(got, ids) {
		t.Errorf("in %d pages: %v", pages, got)
	}
	if got, pages := walk("limit=3", nil); pages != 3 || !slices.Equal(got, ids) {
		t.Errorf("in %d pages by three: %v", pages, got)
	}
	// One that goes while somebody walks takes no other with it.
	g.clock.pass(time.Second)
	late := g.enrol("late", "198.51.100.200")
	g.clock.pass(time.Second)
	ids = append(ids, string(g.approved("last", "198.51.100.1").ID))
	expire := func(int) {
		g.clock.pass(16 * time.Minute)
		refused(t, g.api("POST", "/api/registrations/"+string(late.ID)+"/approve", `{"profiles":["ci"]}`), http.StatusNotFound, "not_found")
		if _, there := g.db.Snapshot().ByID(late.ID); there {
			t.Fatal("it was not removed")
		}
	}
	if got, _ := walk("limit=8", expire); !slices.Equal(got, append(slices.Clone(ids[:7]), string(late.ID), ids[7])) {
		t.Errorf("after the cursor's own registration was removed: %v", got)
	}
	status(t, g.api("DELETE", "/api/registrations/"+ids[2], ""), http.StatusNoContent)
	if got, _ := walk("state=revoked", nil); !slices.Equal(got, ids[2:3]) {
		t.Errorf("revoked: %v", got)
	}
	if got, _ := walk("state=approved&limit=2", nil); len(got) != 7 || slices.Contains(got, ids[2]) {
		t.Errorf("approved: %v", got)
	}
	for _, q := range []string{"limit=0", "limit=501", "limit=x", "cursor=x", "cursor=5", "state=x", "cursor=x-y"} {
		refused(t, g.api("GET", "/api/registrations?"+q, ""), http.StatusBadRequest, "bad_request")
		if body := status(t, g.send(request{method: "GET", path: "/registrations?" + q, secret: password}), http.StatusBadRequest); !strings.Contains(body, `role="alert"`) {
			t.Errorf("the page of %s does not say what is wrong", q)
		}
	}
}

func TestRegistrations_ThePageIsBounded(t *testing.T) {
	g := newOperated(t)
	for i := range 130 {
		g.clock.pass(time.Second)
		reg := g.approved(fmt.Sprintf("host-%03d", i), "198.51.100.1")
		if i >= 70 {
			if err := g.db.Revoke(t.Context(), reg.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	page := g.page("/registrations")
	table := section(t, page, "table")
	if strings.Count(table, "<tr>") != 51 || !strings.Contains(table, "host-069") || strings.Contains(table, "host-019") || strings.Contains(table, "host-129") {
		t.Errorf("the table has %d rows", strings.Count(table, "<tr>"))
	}
	older := section(t, g.page(g.href("/registrations", "Older")), "table")
	if strings.Count(older, "<tr>") != 21 || !strings.Contains(older, "host-019") || !strings.Contains(older, "host-000") {
		t.Errorf("the older ones:\n%s", older)
	}
	if back := g.href(g.href("/registrations", "Older"), "Newest"); back != "/registrations" {
		t.Errorf("the newest are at %s", back)
	}
	details := regexp.MustCompile(`(?s)<details>.*</details>`).FindString(page)
	if strings.Count(details, "<tr>") != 51 || !strings.Contains(details, "60 registrations") || !strings.Contains(details, "host-129") || strings.Contains(details, "host-079") {
		t.Errorf("the revoked ones: %d rows", strings.Count(details, "<tr>"))
	}
	revoked := g.page(g.href("/registrations", "All that are revoked"))
	if strings.Count(revoked, ">revoked<") != 50 || !strings.Contains(revoked, "Older") || strings.Contains(revoked, "<details>") {
		t.Errorf("all that are revoked:\n%s", revoked)
	}
}

// The attack: one operator takes a profile from an agent host, and another gives it
// back by a page that was open before.
func TestPages_AStalePageDoesNotUndoAChangeOfProfiles(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("build-7", "198.51.100.20")
	page := "/registrations/" + string(reg.ID)
	change := func(f url.Values, profiles ...string) *http.Response {
		f["profile"] = profiles
		return g.send(request{method: "POST", path: page + "/profiles", form: f, secret: password})
	}
	stale := form(t, g.page(page), page+"/profiles")
	goesTo(t, change(form(t, g.page(page), page+"/profiles"), "deploy"), page+"?done=profiles")
	body := status(t, change(stale, "ci", "deploy"), http.StatusConflict)
	if got := g.get(reg.ID).Profiles; !slices.Equal(got, []string{"deploy"}) {
		t.Errorf("it has %v", got)
	}
	goesTo(t, change(form(t, body, page+"/profiles"), "deploy", "ci"), page+"?done=profiles")
}

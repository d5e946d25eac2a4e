package dashboard_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// act appends an action, allowed unless it says otherwise.
func (g *gateway) act(a registry.Action) int64 {
	g.t.Helper()
	if a.Verdict == "" {
		a.Verdict = "allow"
	}
	id, err := g.db.Append(g.t.Context(), a)
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

type actionList struct {
	Items []struct {
		ID      int64
		Summary string
	}
	Next     string
	Searched time.Time `json:"searched_back_to"`
}

func (g *gateway) actions(query string) (v actionList) {
	g.t.Helper()
	read(g.t, g.api("GET", "/api/actions?"+query, ""), http.StatusOK, &v)
	return v
}

func TestActions_FilterByRuleCredentialTextAndTime(t *testing.T) {
	g := newOperated(t)
	g.act(registry.Action{Rule: "no-writes", Verdict: "deny", Credential: "bearer.github_token", Summary: "DELETE /repos", Reason: "read only"})
	g.clock.pass(time.Hour)
	g.act(registry.Action{Rule: "reads", Credential: "basic.registry", Summary: "GET /repos"})
	g.clock.pass(time.Hour)
	for query, want := range map[string][]int64{
		"rule=reads":                           {2},
		"credential=bearer.github_token":       {1},
		"text=REPOS":                           {2, 1},
		"text=only&verdict=deny":               {1},
		"text=%25":                             nil,
		"until=90m":                            {1},
		"since=90m":                            {2},
		"since=3h&until=30m":                   {2, 1},
		"until=2026-03-01T13:00:00Z":           {1},
		"until=2026-03-01T13:00":               {1},
		"since=2026-03-01T13:00:00":            {2},
		"until=2026-03-01T14:00:00%2B02:00":    nil,
		"rule=reads&credential=basic.registry": {2},
	} {
		var got []int64
		for _, a := range g.actions(query).Items {
			got = append(got, a.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	for _, bad := range []string{"until=tomorrow", "until=-1h", "text=" + strings.Repeat("x", 65)} {
		refused(t, g.api("GET", "/api/actions?"+bad, ""), http.StatusBadRequest, "bad_request")
	}
	// The form's own field for a time stands before its list of periods.
	if page := g.page("/actions?since=15m&from=2026-03-01T13:00&until="); !strings.Contains(page, "GET /repos<") || strings.Contains(page, "DELETE /repos<") || !strings.Contains(page, `value="2026-03-01T13:00:00"`) {
		t.Error("from is not obeyed, or not kept in the form")
	}
	// A filter that nothing offers is still seen to be in force.
	if page := g.page("/actions?endpoint=https.gone"); !strings.Contains(page, `<option value="https.gone" selected>`) {
		t.Error("the form does not show the endpoint that is filtered by")
	}
}

// A page that looked at enough rows says how far it came, and the next goes on.
func TestActions_SearchFurtherBack(t *testing.T) {
	g := newOperated(t)
	g.act(registry.Action{Summary: "GET /needle"})
	for range 40_000 {
		g.act(registry.Action{Summary: "GET /hay"})
	}
	first := g.actions("text=needle")
	if len(first.Items) != 0 || first.Next == "" || first.Searched.IsZero() {
		t.Fatalf("%+v", first)
	}
	second := g.actions("text=needle&cursor=" + first.Next)
	if len(second.Items) != 1 || second.Next != "" || !second.Searched.IsZero() {
		t.Fatalf("%+v", second)
	}
	page := g.page("/actions?text=needle")
	further := regexp.MustCompile(`href="(/actions\?[^"]*)">Search further back<`).FindStringSubmatch(page)
	if further == nil || !strings.Contains(page, "None back to") || strings.Contains(page, "None that match") {
		t.Fatal("the page does not say that it has not searched everything")
	}
	if page := g.page(html.UnescapeString(further[1])); !strings.Contains(page, "GET /needle<") {
		t.Error("the next page does not go on")
	}
}

func TestActions_TheNewestPageRenewsItself(t *testing.T) {
	g := newOperated(t)
	g.act(registry.Action{Summary: "GET /"})
	live := g.page("/actions?verdict=allow")
	if !strings.Contains(live, `hx-get="/actions?verdict=allow"`) || !strings.Contains(live, `sse-connect="/api/live"`) || !strings.Contains(live, `hx-trigger="sse:actions delay:200ms"`) || !strings.Contains(live, `href="/actions?live=off&amp;verdict=allow"`) && !strings.Contains(live, `href="/actions?verdict=allow&amp;live=off"`) {
		t.Error("the newest page is not live, or cannot be paused")
	}
	for _, still := range []string{"/actions?live=off", "/actions?cursor=9", "/actions?until=1h"} {
		if page := g.page(still); !strings.Contains(page, `<section id="log" aria-label="Actions, newest first">`) {
			t.Errorf("%s renews itself", still)
		}
	}
}

func TestAction_PageAndAPI(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("build-01", "198.51.100.1")
	id := g.act(registry.Action{
		Registration: reg.ID, Profile: "ci", Endpoint: "https.github", Credential: "bearer.github_token", Protocol: "https",
		Summary: "DELETE api.github.com/x", Verdict: "deny", Rule: "no writes&more", Reason: "it is <b>read only</b>",
	})
	var v map[string]any
	read(t, g.api("GET", fmt.Sprint("/api/actions/", id), ""), http.StatusOK, &v)
	if v["id"] != float64(id) || v["reason"] != "it is <b>read only</b>" || v["rule"] != "no writes&more" {
		t.Errorf("%v", v)
	}
	page := g.page(fmt.Sprint("/actions/", id))
	for _, want := range []string{
		`href="/registrations/` + string(reg.ID) + `">build-01<`, `href="/credentials/bearer/github_token"`, `href="/actions?registration=` + string(reg.ID) + `"`,
		`href="/actions?endpoint=https.github"`, `href="/actions?rule=no&#43;writes%26more"`, `href="/actions?credential=bearer.github_token"`, "it is &lt;b&gt;read only&lt;/b&gt;",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %s", want)
		}
	}
	near := regexp.MustCompile(`href="(/actions\?[^"]*since[^"]*)"`).FindStringSubmatch(page)
	if near == nil || !strings.Contains(g.page(html.UnescapeString(near[1])), "DELETE api.github.com/x<") {
		t.Error("what is around it does not have the action itself")
	}
	for _, none := range []string{"0", "-1", "x", "999999", "9223372036854775808", string(reg.ID)} {
		refused(t, g.api("GET", "/api/actions/"+none, ""), http.StatusNotFound, "not_found")
		status(t, g.send(request{method: "GET", path: "/actions/" + none, secret: password}), http.StatusNotFound)
	}
	for _, p := range []string{fmt.Sprint("/actions/", id), "/actions?live=off", "/actions?text=%22%3E&rule=%3Cb%3E&until=1h"} {
		doc, err := html.Parse(strings.NewReader(g.page(p)))
		if err != nil {
			t.Fatal(err)
		}
		checkMarkup(t, p, doc)
	}
}

// What an agent wrote is text on an action's own page as well.
func TestAction_HostileText(t *testing.T) {
	g := newOperated(t)
	const evil = `<script>alert(1)</script>"'>{{.}}` + "\u202e\u200b"
	id := g.act(registry.Action{Registration: registry.ID(evil), Profile: evil, Endpoint: evil, Credential: evil, Protocol: evil, Summary: evil, Rule: evil, Reason: evil})
	g.db.Finish(id, registry.ActionResult{Status: evil})
	page := withoutOwnScripts(g.page(fmt.Sprint("/actions/", id)))
	for _, bad := range []string{"<script", "\u202e", "\u200b", "<no value>", "ZgotmplZ"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
}

// event is one of a stream; data is empty for an ID alone.
type event struct{ name, id, data string }

// follow reads the stream at path until the test ends.
func follow(t *testing.T, g *gateway, path, cookie, last string) <-chan event {
	t.Helper()
	server := httptest.NewServer(g.handler)
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = listen
	r.AddCookie(&http.Cookie{Name: "cp_dash", Value: cookie})
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: %s, %s", path, answer.Status, answer.Header.Get("Content-Type"))
	}
	all := make(chan event, 4096)
	go func() {
		defer close(all)
		var e event
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			switch name, value, _ := strings.Cut(lines.Text(), ": "); name {
			case "event":
				e.name = value
			case "id":
				e.id = value
			case "data":
				e.data = value
			case "":
				if e != (event{}) {
					all <- e
				}
				e = event{}
			}
		}
	}()
	return all
}

// take is the next n events.
func take(t *testing.T, from <-chan event, n int) (list []event) {
	t.Helper()
	for range n {
		select {
		case e := <-from:
			list = append(list, e)
		case <-time.After(20 * time.Second):
			t.Fatalf("only %d of %d events: %v", len(list), n, list)
		}
	}
	return list
}

func TestActionStream(t *testing.T) {
	g := newOperated(t)
	cookie := g.logIn()
	for range 3 {
		g.act(registry.Action{Summary: "GET /before"})
	}
	if err := g.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := follow(t, g, "/api/actions/stream", cookie, "")
	denied := follow(t, g, "/api/actions/stream?verdict=deny", cookie, "")
	resumed := follow(t, g, "/api/actions/stream", cookie, "2")
	for i := range 5 { // 4 to 8
		verdict := "allow"
		if i == 3 {
			verdict = "deny"
		}
		g.act(registry.Action{Summary: "GET /\r\nid: 99", Verdict: verdict})
	}
	check := func(what string, events []event, first int64) {
		t.Helper()
		for i, e := range events {
			var v struct{ ID int64 }
			if err := json.Unmarshal([]byte(e.data), &v); err != nil {
				t.Errorf("%s: %v in %+v", what, err, e)
			}
			if want := first + int64(i); v.ID != want || e.id != strconv.FormatInt(want, 10) || e.name != "action" {
				t.Errorf("%s: event %+v, want row %d", what, e, want)
			}
		}
	}
	check("all", take(t, all, 5), 4)
	check("denied", take(t, denied, 1), 7)
	check("resumed", take(t, resumed, 6), 3)

	g.clock.pass(time.Hour)
	g.act(registry.Action{Summary: "GET /after"})
	if err := g.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("since", take(t, follow(t, g, "/api/actions/stream?since=30m", cookie, ""), 1), 9)
	for _, bad := range []string{"until=1h", "limit=3", "cursor=3", "verdict=x", "since=x"} {
		refused(t, g.api("GET", "/api/actions/stream?"+bad, ""), http.StatusBadRequest, "bad_request")
	}
	refused(t, g.send(request{method: "GET", path: "/api/actions/stream", secret: password, header: http.Header{"Last-Event-Id": {"x"}}}), http.StatusBadRequest, "bad_request")
}

// Rows that do not match are not looked at again by who comes back.
func TestActionStream_TellsHowFarItCame(t *testing.T) {
	g := newOperated(t)
	cookie := g.logIn()
	for range 10_000 {
		g.act(registry.Action{Summary: "GET /hay"})
	}
	if err := g.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	events := follow(t, g, "/api/actions/stream?text=needle", cookie, "0")
	if e := take(t, events, 1)[0]; e.id != "10000" || e.data != "" || e.name != "" {
		t.Errorf("%+v", e)
	}
	g.act(registry.Action{Summary: "GET /needle"})
	if e := take(t, events, 1)[0]; e.id != "10001" || e.name != "action" {
		t.Errorf("%+v", e)
	}
}

// The live stream of actions ends with the session.
func TestI14_TheActionStreamEndsWithTheSession(t *testing.T) {
	g := newOperated(t)
	cookie := g.logIn()
	events := follow(t, g, "/api/actions/stream", cookie, "")
	status(t, g.send(request{method: "POST", path: "/api/logout", cookie: cookie}), http.StatusNoContent)
	if e := take(t, events, 1)[0]; e.name != "ended" {
		t.Errorf("after the session ended: %+v", e)
	}
	g.act(registry.Action{Summary: "GET /"})
	if e := take(t, events, 1)[0]; e != (event{}) {
		t.Errorf("after ended: %+v", e)
	}
}

func TestActionDownloads(t *testing.T) {
	g := newOperated(t)
	const rows = 1201 // three pages
	for i := range rows {
		a := registry.Action{Registration: "r_x", Endpoint: "https.github", Summary: fmt.Sprintf(`GET /%d,"quoted"`, i), Time: g.clock.Now().Add(time.Duration(i) * time.Millisecond)}
		if i%3 == 0 {
			a.Verdict = "deny"
		}
		g.db.Finish(g.act(a), registry.ActionResult{Status: "200", BytesIn: 1, BytesOut: 2, Duration: 3 * time.Millisecond})
	}
	for query, want := range map[string]int{"": rows, "verdict=deny": 401, "cursor=1000": 999, "text=zebra": 0} {
		r := g.api("GET", "/api/actions.csv?"+query, "")
		if got := r.Header.Get("Content-Disposition"); got != `attachment; filename="actions-20260301T120000Z.csv"` {
			t.Errorf("Content-Disposition %q", got)
		}
		body := status(t, r, http.StatusOK)
		records, err := csv.NewReader(strings.NewReader(body)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if len(records) != want+1 || strings.Join(records[0], ",") != "id,time,registration,profile,endpoint,credential,protocol,summary,verdict,rule,reason,status,bytes_in,bytes_out,duration_ms" {
			t.Fatalf("%q: %d records, the first %v", query, len(records), records[0])
		}
		lines := strings.Split(status(t, g.api("GET", "/api/actions.jsonl?"+query, ""), http.StatusOK), "\n")
		if len(lines) != want+1 || lines[want] != "" {
			t.Fatalf("%q: %d lines", query, len(lines)-1)
		}
		for i, line := range lines[:want] {
			var v map[string]any
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				t.Fatal(err)
			}
			for column, name := range records[0] {
				if got, want := records[i+1][column], fmt.Sprint(v[name]); got != want {
					t.Fatalf("row %d: %s is %q in CSV and %q in JSON", i, name, got, want)
				}
			}
			if i > 0 && records[i][0] <= records[i+1][0] && len(records[i][0]) == len(records[i+1][0]) {
				t.Fatalf("row %s comes after row %s", records[i+1][0], records[i][0])
			}
		}
	}
	for _, bad := range []string{"limit=5", "verdict=x", "cursor=x"} {
		refused(t, g.api("GET", "/api/actions.csv?"+bad, ""), http.StatusBadRequest, "bad_request")
	}
	if page := html.UnescapeString(g.page("/actions?verdict=deny&cursor=9&limit=3")); !strings.Contains(page, `href="/api/actions.csv?verdict=deny"`) || !strings.Contains(page, `href="/api/actions.jsonl?verdict=deny"`) {
		t.Error("the page does not offer its filter's rows")
	}
}

// A spreadsheet takes no agent's text for a formula.
func TestActionDownloads_NoFormulas(t *testing.T) {
	g := newOperated(t)
	for _, evil := range []string{`=HYPERLINK("https://evil.example")`, "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"} {
		g.db.Finish(g.act(registry.Action{
			Registration: registry.ID(evil), Profile: evil, Endpoint: evil, Credential: evil, Protocol: evil, Summary: evil, Rule: evil, Reason: evil,
		}), registry.ActionResult{Status: evil})
	}
	records, err := csv.NewReader(strings.NewReader(status(t, g.api("GET", "/api/actions.csv", ""), http.StatusOK))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records[1:] {
		for _, cell := range record {
			if strings.ContainsAny(cell[:1], "=+-@\t\r") {
				t.Errorf("a cell begins with %q", cell[:1])
			}
		}
		if record[7] != "'"+strings.TrimPrefix(record[7], "'") && !strings.HasPrefix(record[7], "\ufffd") {
			t.Errorf("summary %q", record[7])
		}
	}
}

// Where the comma is a decimal point, a spreadsheet parts cells at semicolons.
func TestActionDownloads_NoFormulasBehindASemicolon(t *testing.T) {
	g := newOperated(t)
	g.act(registry.Action{Summary: `x;=HYPERLINK("https://evil.example");;+1; -1 a;b`, Reason: "＝1"})
	csv := status(t, g.api("GET", "/api/actions.csv", ""), http.StatusOK)
	if !strings.Contains(csv, `x;'=HYPERLINK(""https://evil.example"");;'+1; -1 a;b`) || !strings.Contains(csv, "'＝1") {
		t.Errorf("%s", csv)
	}
}

func TestActionDownloads_AreFewAndEndWithTheSession(t *testing.T) {
	g := newOperated(t)
	for range 1200 {
		g.act(registry.Action{Summary: "GET /"})
	}
	dashboard.AddRoute(g.handler, "GET /api/busy", dashboard.DownloadWhenBusy(g.handler))
	refused(t, g.api("GET", "/api/busy", ""), http.StatusServiceUnavailable, "busy")

	cookie := g.logIn()
	pages := 0
	dashboard.AddRoute(g.handler, "GET /api/slow", dashboard.DownloadWith(g.handler, func() {
		if pages++; pages == 1 {
			status(t, g.send(request{method: "POST", path: "/api/logout", cookie: cookie}), http.StatusNoContent)
		}
	}))
	defer func() {
		if v := recover(); v != http.ErrAbortHandler || pages != 1 {
			t.Errorf("after %d pages it ended with %v", pages, v)
		}
	}()
	g.send(request{method: "GET", path: "/api/slow", cookie: cookie})
}

// I16: a download has an end, also where the log goes on growing, and where a
// page is empty.
func TestI16_DownloadsAreBounded(t *testing.T) {
	for _, test := range []struct{ perPage, most, want, pages int }{{500, 1000, 1000, 2}, {500, 1200, 1200, 3}, {0, 1000, 0, 101}, {7, 20, 20, 3}} {
		pages, sent := 0, 0
		err := dashboard.AllActions(t.Context(), func(_ context.Context, f registry.ActionFilter) (registry.ActionPage, error) {
			if pages++; pages > 100 {
				return registry.ActionPage{}, nil
			}
			return registry.ActionPage{Actions: make([]registry.LoggedAction, min(test.perPage, f.Limit)), Next: 1000 - int64(pages)}, nil
		}, registry.ActionFilter{}, test.most, func(views []dashboard.ActionView) error {
			sent += len(views)
			return nil
		})
		if err != nil || sent != test.want || pages != test.pages {
			t.Errorf("%+v: %d rows in %d pages, %v", test, sent, pages, err)
		}
	}
}

// What a page links to has the filter and nothing else of the address.
func TestActions_LinksKeepTheFilter(t *testing.T) {
	g := newOperated(t)
	for range 3 {
		g.act(registry.Action{Summary: "GET /a&b", Rule: "a&b"})
	}
	page := html.UnescapeString(g.page("/actions?limit=1&rule=a%26b&text=%26&evil=1"))
	older := regexp.MustCompile(`href="/actions\?([^"]*)">Older`).FindStringSubmatch(page)
	if older == nil {
		t.Fatal("no way to older rows")
	}
	q, err := url.ParseQuery(older[1])
	if err != nil || q.Get("rule") != "a&b" || q.Get("text") != "&" || q.Get("limit") != "1" || q.Has("evil") || q.Get("cursor") != "3" {
		t.Errorf("%v, %v", q, err)
	}
}

// BenchmarkActionsPage is what a page of 100 rows costs beyond reading them, which
// registry's BenchmarkActions measures.
func BenchmarkActionsPage(b *testing.B) {
	g := newOperated(b)
	g.forget()
	for range 200 {
		g.db.Finish(g.act(registry.Action{Registration: "r_x", Endpoint: "https.github", Credential: "bearer.github_token", Summary: "GET api.github.com/repos/example/project/issues"}), registry.ActionResult{Status: "200"})
	}
	cookie := g.logIn()
	for _, path := range []string{"/actions", "/api/actions"} {
		b.Run(path, func(b *testing.B) {
			for b.Loop() {
				status(b, g.send(request{method: "GET", path: path, cookie: cookie}), http.StatusOK)
			}
		})
	}
}

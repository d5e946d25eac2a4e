package dashboard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/registry"
)

// holdAction makes a registration wait for an action that rule holds.
func (g *gateway) holdAction(reg registry.ID, rule, summary string, detail any) holder {
	g.t.Helper()
	before := g.db.PendingApprovals()
	ctx, cancel := context.WithCancel(g.t.Context())
	h := holder{result: make(chan error, 1), leave: cancel}
	go func() {
		d, err := g.db.Hold(ctx, registry.HeldRequest{
			Registration: reg, Endpoint: "https.github", Kind: registry.ApproveAction, Rule: rule, Summary: summary, Detail: detail,
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

func deletion(path string) registry.ActionDetail {
	return registry.ActionDetail{RuleReason: "deleting needs a human", HTTP: &registry.HTTPDetail{
		Method: "DELETE", Host: "api.github.com", Path: path, Parameters: []string{"force", "token"}, ContentType: "application/json", BodyBytes: 12,
	}}
}

// A card has everything that is decided on, all of it, and as text.
func TestI19_CardsShowAllThatIsDecidedOn(t *testing.T) {
	g, reg := newSSHGateway(t)
	const evil = "<script>alert(1)</script>\u202e"
	long := strings.Repeat("SELECT 1; ", 600) + "DROP TABLE orders"
	for what, c := range map[string]struct {
		detail any
		want   []string
	}{
		"http": {deletion("/repos/" + evil), []string{"deleting needs a human", "Method", "DELETE", "api.github.com", `/repos/<script>alert(1)</script>\u{202e}`, "force, token", "application/json", "12 bytes"}},
		"ssh": {registry.ActionDetail{SSH: &registry.SSHDetail{Action: "exec", User: "deploy", Host: "build", Command: "rm -rf / " + evil, Path: "/etc/passwd", Subsystem: "sftp", Forward: "db:5432"}},
			[]string{"exec", "deploy", "rm -rf / <script>", "/etc/passwd", "sftp", "db:5432"}},
		"sql": {registry.ActionDetail{SQL: &registry.SQLDetail{Statement: long, Verbs: []string{"select", "drop"}, Tables: []string{"orders"}, Functions: []string{"now"}, Database: "shop", User: "orders_ro"}},
			[]string{"DROP TABLE orders", "select, drop", "Tables", "now", "shop", "orders_ro"}},
		"unknown":         {map[string]any{"gopher": evil}, []string{`{"gopher":"\u003cscript\u003ealert(1)\u003c/script\u003e\u{202e}"}`}},
		"more than known": {map[string]any{"http": map[string]any{"method": "GET", "hidden": evil}}, []string{`"hidden":`}},
		"none":            {nil, []string{"{}"}},
	} {
		h := g.holdAction(reg.ID, "no-"+what[:2], what+evil, c.detail)
		for _, path := range []string{"/approvals", "/approvals/" + h.id} {
			raw := g.page(path)
			page := html.UnescapeString(raw)
			for _, want := range append(c.want, what+"<script>alert(1)</script>\uFFFD", "build-01", "/registrations/"+string(reg.ID), "https.github", "no-"+what[:2], "data-until", "until 2026-03-01 12:10:00 UTC") {
				if !strings.Contains(page, want) {
					t.Errorf("%s: %s does not show %q", what, path, want)
				}
			}
			if strings.Contains(withoutOwnScripts(raw), "<script") || strings.Contains(raw, "\u202e") {
				t.Errorf("%s: %s has an agent's text as it is", what, path)
			}
			doc, err := html.Parse(strings.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			checkMarkup(t, path, doc)
		}
		status(t, g.api("POST", "/api/approvals/"+h.id, `{"decision":"deny"}`), http.StatusOK)
		h.outcome(t)
	}
}

type grantAnswer struct {
	ID           string
	Approval     string
	Registration string
	Name         string `json:"registration_name"`
	Endpoint     string
	Rule         string
	Operator     string
	Uses, Used   int
	ExpiresAt    time.Time  `json:"expires_at"`
	EndedAt      *time.Time `json:"ended_at"`
}

func TestGrants_ByTheAPI(t *testing.T) {
	g, reg := newSSHGateway(t)
	h := g.holdAction(reg.ID, "no-deletion", "DELETE /x", deletion("/x"))
	at := "/api/approvals/" + h.id
	for _, body := range []string{
		`{"decision":"allow","for":"30s"}`, `{"decision":"allow","for":"25h"}`, `{"decision":"allow","for":"x"}`, `{"decision":"allow","for":"-1h","uses":1}`,
		`{"decision":"allow","uses":-1}`, `{"decision":"allow","uses":1001}`, `{"decision":"deny","for":"15m"}`, `{"decision":"deny","uses":3}`,
	} {
		refused(t, g.api("POST", at, body), http.StatusUnprocessableEntity, "bad_grant")
	}
	for name, other := range map[string]holder{"a host key": g.hold(reg.ID, newHostKey(t)), "no rule": g.holdAction(reg.ID, "", "GET /x", nil)} {
		refused(t, g.api("POST", "/api/approvals/"+other.id, `{"decision":"allow","for":"15m"}`), http.StatusUnprocessableEntity, "bad_grant")
		if v, err := g.db.Approval(t.Context(), registry.ApprovalID(other.id)); err != nil || v.State != registry.ApprovalPending {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
		status(t, g.api("POST", "/api/approvals/"+other.id, `{"decision":"deny"}`), http.StatusOK)
		other.outcome(t)
	}
	var v struct {
		State, Rule string
		Grant       *grantAnswer
	}
	read(t, g.api("POST", at, `{"decision":"allow","reason":"go on","for":"15m","uses":2}`), http.StatusOK, &v)
	if v.State != "allowed" || v.Rule != "no-deletion" || v.Grant == nil || v.Grant.Uses != 2 || v.Grant.Approval != h.id {
		t.Errorf("%+v", v)
	}
	if got := h.outcome(t); got != "allowed" {
		t.Error(got)
	}
	if d, err := g.db.Hold(t.Context(), registry.HeldRequest{Registration: reg.ID, Endpoint: "https.github", Kind: registry.ApproveAction, Rule: "no-deletion", Summary: "next"}); err != nil || !d.Allowed() {
		t.Errorf("%+v, %v", d, err)
	}
	var list struct{ Items []grantAnswer }
	read(t, g.api("GET", "/api/grants", ""), http.StatusOK, &list)
	if len(list.Items) != 1 || list.Items[0].Used != 1 || list.Items[0].Name != "build-01" || list.Items[0].Endpoint != "https.github" || list.Items[0].Rule != "no-deletion" ||
		list.Items[0].Operator != "dashboard 192.0.2.1" || !list.Items[0].ExpiresAt.Equal(g.clock.Now().Add(15*time.Minute)) {
		t.Fatalf("%+v", list)
	}
	status(t, g.api("DELETE", "/api/grants/"+list.Items[0].ID, ""), http.StatusNoContent)
	refused(t, g.api("DELETE", "/api/grants/"+list.Items[0].ID, ""), http.StatusNotFound, "not_found")
	read(t, g.api("GET", at, ""), http.StatusOK, &v)
	if v.Grant == nil || v.Grant.EndedAt == nil {
		t.Errorf("%+v", v.Grant)
	}
	next := g.holdAction(reg.ID, "no-deletion", "DELETE /x", deletion("/x"))
	read(t, g.api("POST", "/api/approvals/"+next.id, `{"decision":"allow","uses":5}`), http.StatusOK, &v)
	next.outcome(t)
	if !v.Grant.ExpiresAt.Equal(g.clock.Now().Add(24 * time.Hour)) {
		t.Errorf("%+v", v.Grant)
	}
}

func TestGrants_OnThePage(t *testing.T) {
	g, reg := newSSHGateway(t)
	h := g.holdAction(reg.ID, "no-deletion", "DELETE /x", deletion("/x"))
	for _, form := range []url.Values{
		{"for": {"15m"}, "uses": {"x"}}, {"for": {"15m"}, "uses": {"0"}}, {"for": {"15m"}, "uses": {"1001"}}, {"for": {"1s"}}, {},
	} {
		form.Set("decision", "grant")
		form.Set("reason", "typed before")
		if page := status(t, g.post("/approvals/"+h.id, form), http.StatusUnprocessableEntity); !strings.Contains(page, `value="typed before"`) || !strings.Contains(page, `id="a-`+h.id) {
			t.Errorf("%v: what was typed is lost", form)
		}
	}
	goesTo(t, g.post("/approvals/"+h.id, url.Values{"decision": {"grant"}, "for": {"15m"}, "uses": {""}, "reason": {"go on"}}), "/approvals/"+h.id+"?done=granted")
	h.outcome(t)
	page := g.page("/approvals")
	for _, want := range []string{"any number, used 0 times", "no-deletion", "2026-03-01 12:15:00 UTC", "dashboard 192.0.2.1: go on"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if one := g.page("/approvals/" + h.id); !strings.Contains(one, "any number, used 0 times") {
		t.Error("the approval's page does not show its grant")
	}
	end := regexp.MustCompile(`action="(/grants/g_[a-z0-9]+/end)"`).FindStringSubmatch(page)
	if end == nil {
		t.Fatal("nothing takes it back")
	}
	goesTo(t, g.post(end[1], nil), "/approvals?done=taken-back")
	if len(g.db.Grants()) != 0 {
		t.Error("it is in force still")
	}
	status(t, g.post(end[1], nil), http.StatusNotFound)
	if one := g.page("/approvals/" + h.id); !strings.Contains(one, "That is over.") {
		t.Error("the approval's page does not say that its grant is over")
	}
}

// Each end is told from the others, and of two operators the second is told who
// decided what; so is who looks at an old page.
func TestDecide_TheSecondOperatorIsToldWhatBecameOfIt(t *testing.T) {
	g, reg := newSSHGateway(t)
	for n, c := range []struct {
		end  func(h holder)
		told string
	}{
		{func(h holder) {
			status(t, g.api("POST", "/api/approvals/"+h.id, `{"decision":"allow","reason":"mine"}`), http.StatusOK)
		}, "it was allowed by dashboard 192.0.2.1 at 2026-03-01 12:00:00 UTC: mine"},
		{func(h holder) {
			status(t, g.api("POST", "/api/approvals/"+h.id, `{"decision":"deny"}`), http.StatusOK)
		}, "it was denied by dashboard 192.0.2.1 at 2026-03-01 12:00:00 UTC"},
		{func(h holder) { h.leave(); h.outcome(t) }, "it was withdrawn at 2026-03-01 12:00:00 UTC: whoever waited has gone"},
		{func(h holder) { g.clock.pass(10 * time.Minute) }, "it expired at 2026-03-01 12:10:00 UTC: no operator decided in time"},
	} {
		h := g.holdAction(reg.ID, "no-deletion", fmt.Sprint("DELETE /", n), deletion("/x"))
		c.end(h)
		for _, from := range []string{"192.0.2.2", "192.0.2.3"} {
			var e struct {
				Error struct{ Code, Message string }
			}
			read(t, g.send(request{method: "POST", path: "/api/approvals/" + h.id, body: `{"decision":"allow"}`, secret: password, from: from}), http.StatusConflict, &e)
			if e.Error.Code != "wrong_state" || !strings.HasPrefix(e.Error.Message, c.told) {
				t.Errorf("%+v, want %s", e, c.told)
			}
			page := status(t, g.send(request{method: "POST", path: "/approvals/" + h.id, form: url.Values{"decision": {"deny"}, "reason": {"too late"}}, secret: password, from: from}), http.StatusConflict)
			if !strings.Contains(page, strings.ToUpper(c.told[:1])+c.told[1:]) || !strings.Contains(page, "Your answer changed nothing.") || !strings.Contains(page, `id="a-`+h.id) {
				t.Errorf("the page does not say %q:\n%s", c.told, page)
			}
		}
	}
}

// What is there comes in pages, and what waits does not depend on them.
func TestApprovals_ComeInPages(t *testing.T) {
	g, reg := newSSHGateway(t)
	for n := range 30 {
		h := g.holdAction(reg.ID, "no-deletion", fmt.Sprintf("DELETE /%d!", n), deletion("/x"))
		status(t, g.api("POST", "/api/approvals/"+h.id, `{"decision":"deny"}`), http.StatusOK)
		h.outcome(t)
		g.clock.pass(2 * time.Second)
	}
	waiting := g.holdAction(reg.ID, "no-deletion", "DELETE /waits", deletion("/x"))
	page := g.page("/approvals")
	older := regexp.MustCompile(`href="(/approvals\?decided=[0-9]+)#decided">Older`).FindStringSubmatch(page)
	if older == nil || !strings.Contains(page, "DELETE /29!") || strings.Contains(page, "DELETE /4!") {
		t.Fatalf("the first page:\n%s", page)
	}
	page = g.page(older[1])
	if !strings.Contains(page, "DELETE /4!") || strings.Contains(page, "DELETE /5!") || !strings.Contains(page, `action="/approvals/`+waiting.id+`"`) || strings.Contains(page, ">Older<") ||
		!strings.Contains(page, ">Newest<") {
		t.Errorf("the second page:\n%s", page)
	}
	var seen []string
	for cursor, pages := "", 0; ; pages++ {
		var list struct {
			Items []struct{ Summary string }
			Next  string
		}
		read(t, g.api("GET", "/api/approvals?limit=7&state=denied&cursor="+cursor, ""), http.StatusOK, &list)
		for _, a := range list.Items {
			seen = append(seen, a.Summary)
		}
		if cursor = list.Next; cursor == "" {
			if len(seen) != 30 || seen[0] != "DELETE /29!" || seen[29] != "DELETE /0!" || pages != 4 {
				t.Errorf("%d pages: %q", pages+1, seen)
			}
			break
		}
	}
	for _, bad := range []string{"limit=0", "limit=500", "limit=x", "cursor=x", "cursor=-1", "cursor=0"} {
		refused(t, g.api("GET", "/api/approvals?"+bad, ""), http.StatusBadRequest, "bad_request")
	}
	status(t, g.send(request{method: "GET", path: "/approvals?decided=x", secret: password}), http.StatusBadRequest)
	waiting.leave()
	waiting.outcome(t)
}

// A held action is announced to open pages, and so is what became of it.
func TestLive_TellsOfApprovals(t *testing.T) {
	g, reg := newSSHGateway(t)
	names := eventNames(t, g, "/api/live", g.logIn())
	h := g.holdAction(reg.ID, "no-deletion", "DELETE /x", deletion("/x"))
	for deadline := time.Now().Add(10 * time.Second); next(t, names) != "approvals"; {
		if time.Now().After(deadline) {
			t.Fatal("not told")
		}
	}
	for _, path := range []string{"/approvals", "/approvals/" + h.id} {
		if page := g.page(path); !strings.Contains(page, `sse-connect="/api/live"`) || !strings.Contains(page, `hx-trigger="sse:approvals delay:200ms"`) {
			t.Errorf("%s does not listen", path)
		}
	}
	h.leave()
	h.outcome(t)
}

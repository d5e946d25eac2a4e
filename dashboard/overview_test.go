package dashboard_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func TestOverview_SaysWhatNeedsTheOperator(t *testing.T) {
	g := newOperated(t)
	if page := g.page("/"); !strings.Contains(page, "No agent host has joined yet") || !strings.Contains(page, "sudo clawpatrol join https://") {
		t.Error("an empty gateway does not say how to join")
	}
	waits := g.enrol("waits-for-you", "198.51.100.7")
	blocked := g.enrol("was-blocked", "198.51.100.8")
	if err := g.db.Block(t.Context(), blocked.ID, "seen elsewhere"); err != nil {
		t.Fatal(err)
	}
	page := g.page("/")
	for _, want := range []string{
		"waits-for-you wants to join", "/registrations/" + string(waits.ID),
		"was-blocked: seen elsewhere", "/registrations/" + string(blocked.ID),
		"bearer.github_token has no secret yet", "/credentials/bearer/github_token",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Index(page, "was-blocked") > strings.Index(page, "waits-for-you") {
		t.Error("what is broken stands below what waits")
	}
	if strings.Contains(page, "No agent host has joined") {
		t.Error("the page still says that no agent host has joined")
	}
}

func TestOverview_SaysWhatHappened(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("busy-host", "198.51.100.7")
	for i := range 5 {
		row := registry.Action{Registration: reg.ID, Endpoint: "https.github", Protocol: "https", Verdict: "allow", Summary: "GET /repos"}
		if i == 4 {
			row.Verdict = "deny"
		}
		id, err := g.db.Append(t.Context(), row)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			g.db.Finish(id, registry.ActionResult{Status: "upstream_unreachable", Duration: time.Second})
		}
	}
	if err := g.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	page := g.page("/")
	for _, want := range []string{"<strong>4</strong> allowed", "<strong class=\"bad\">1</strong> denied", "12:00 UTC: 4 allowed, 1 denied",
		"/actions?registration=" + string(reg.ID), "/actions?endpoint=https.github", "GET /repos"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	var v struct {
		Hours []struct{ Allowed, Denied int }
		By    []struct {
			Ref, Name       string
			Allowed, Denied int
		} `json:"by_registration"`
	}
	read(t, g.api("GET", "/api/overview", ""), http.StatusOK, &v)
	if len(v.Hours) != 24 || v.Hours[23].Allowed != 4 || v.Hours[23].Denied != 1 {
		t.Errorf("hours: %v", v.Hours)
	}
	if len(v.By) != 1 || v.By[0].Name != "busy-host" || v.By[0].Allowed != 4 {
		t.Errorf("by registration: %v", v.By)
	}
}

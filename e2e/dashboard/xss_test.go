package dashboard

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/registry"
)

// evil is text by which an agent tries to become part of a page: it leaves an
// attribute, a text area and a title, runs a script, and asks another host for a
// picture. Whatever of it becomes an element violates the CSP, which the harness
// hears, or is found by planted.
func evil(field string) string {
	return field + `"'></textarea><img src=//evil.example/` + field + ` onerror=alert(1)><script>alert(2)</script>`
}

// evilPart is what the eye has to see of it: names are cut at 64 bytes.
func evilPart(field string) string { return field + `"'></textarea><img src=//evil` }

// plantedElements are what no page of the dashboard has by itself: scripts that
// are not files of its own, handlers in attributes, frames, foreign links, and
// attributes for htmx with markup or another host in them.
const plantedElements = `(() => {
	const found = [];
	for (const e of document.querySelectorAll("*")) {
		if (e.tagName === "SCRIPT" && !(e.getAttribute("src") || "").startsWith("/static/")) found.push("script " + e.textContent.slice(0, 80));
		if (["IFRAME", "OBJECT", "EMBED", "BASE", "IMG"].includes(e.tagName)) found.push(e.outerHTML.slice(0, 80));
		for (const a of e.attributes) {
			if (a.name.startsWith("on") || a.name === "style") found.push(e.tagName + " " + a.name + "=" + a.value.slice(0, 80));
			if (["href", "src", "action", "formaction"].includes(a.name) && !a.value.startsWith("/") && !a.value.startsWith("#") && !a.value.startsWith("?")) found.push(e.tagName + " " + a.name + "=" + a.value.slice(0, 80));
			if (/^(data-)?(hx-|sse-)/.test(a.name) && /[<>"']|^(\/\/|\w+:\/)/.test(a.value) && a.name !== "hx-trigger" && a.name !== "hx-vals") found.push(e.tagName + " " + a.name + "=" + a.value.slice(0, 80));
		}
	}
	return found;
})()`

// planted returns what is in the page that only its agents can have put there.
func (p *tab) planted() (found []string, err error) {
	b, err := p.evaluate(plantedElements)
	if err != nil {
		return nil, err
	}
	return found, json.Unmarshal(b, &found)
}

// The attack: text that is a page, in every field that an agent fills.
func TestDashboard_WhatAgentsWriteIsShownAsText(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	ctx := t.Context()
	fields := map[string]bool{}
	bad := func(field string) string {
		fields[field] = true
		return evil(field)
	}
	quiet := evil // of what pages do not show, or in other words
	reg := s.enrol(bad("approved-name"), "198.51.100.7")
	must(t, s.db.Approve(ctx, reg.ID, []string{"coding", "deploy"}, reg.UserCode))
	blocked := s.enrol(bad("blocked-name"), "198.51.100.8")
	must(t, s.db.Approve(ctx, blocked.ID, []string{"coding"}, blocked.UserCode))
	must(t, s.db.Block(ctx, blocked.ID, bad("blocked-reason")))
	strayed := s.enrol(bad("strayed-name"), "198.51.100.9")
	must(t, s.db.Approve(ctx, strayed.ID, []string{"coding"}, strayed.UserCode))
	must(t, s.db.Deviate(ctx, strayed.ID, registry.Deviation{From: netip.MustParseAddr("192.0.2.1"), UDP: true, What: bad("deviation")}))
	s.enrol(bad("pending-name"), "198.51.100.10")
	revoked := s.enrol(bad("revoked-name"), "198.51.100.11")
	must(t, s.db.Revoke(ctx, revoked.ID))

	for _, protocol := range []string{"https", "ssh", "postgres"} {
		s.act(registry.Action{
			Registration: reg.ID, Profile: "coding", Endpoint: "https.github", Credential: "bearer.github", Protocol: protocol,
			Summary: bad("summary-" + protocol), Verdict: "deny", Rule: bad("rule-" + protocol), Reason: bad("reason-" + protocol),
		}, registry.ActionResult{Status: bad("status-" + protocol)})
	}
	s.act(registry.Action{
		Registration: reg.ID, Profile: bad("action-profile"), Endpoint: bad("action-endpoint"), Credential: bad("action-credential"),
		Protocol: quiet("action-protocol"), Summary: "GET /", Verdict: "allow",
	}, registry.ActionResult{Status: "200"})
	must(t, s.db.Sync(ctx))

	host := s.hostKey(reg, "build.example.com", bad("known-key"))
	host.Summary = bad("hostkey-summary")
	detail := host.Detail.(registry.HostKeyDetail)
	detail.Host, detail.KeyType, detail.Fingerprint = bad("hostkey-host"), bad("hostkey-type"), bad("hostkey-fingerprint")
	host.Detail = detail
	s.hold(host)
	decided := s.hold(registry.HeldRequest{Registration: reg.ID, Endpoint: "ssh.build", Kind: "action", Summary: bad("decided-summary")})
	must(t, s.db.Decide(ctx, s.pending(), false, bad("decided-reason"), bad("operator")))
	<-decided.outcome
	for _, d := range []registry.ActionDetail{
		{RuleReason: bad("rule-reason"), HTTP: &registry.HTTPDetail{Method: bad("http-method"), Host: bad("http-host"), Path: bad("http-path")}},
		{SSH: &registry.SSHDetail{Host: bad("ssh-host"), User: bad("ssh-user"), Action: bad("ssh-action"), Command: bad("ssh-command"), Path: bad("ssh-path")}},
		{SQL: &registry.SQLDetail{Database: bad("sql-database"), User: bad("sql-user"), Statement: bad("sql-statement"), Verbs: []string{bad("sql-verb")}, Tables: []string{bad("sql-table")}}},
	} {
		s.hold(registry.HeldRequest{Registration: reg.ID, Endpoint: bad("held-endpoint"), Kind: registry.ApproveAction, Rule: bad("held-rule"), Summary: bad("held-summary"), Detail: d})
	}
	held := registry.HeldRequest{
		Registration: reg.ID, Endpoint: bad("held-endpoint"), Kind: registry.ApproveAction, Summary: bad("raw-summary"),
		Detail: map[string]any{quiet("detail-key"): quiet("detail-value")},
	}
	s.hold(held)

	rec, err := s.store.Start(recording.Meta{
		Registration: string(reg.ID), Endpoint: bad("recording-endpoint"), Credential: bad("recording-credential"), Host: bad("recording-host"),
		User: bad("recording-user"), Command: bad("recording-command"), PTY: true, Term: quiet("recording-term"), Columns: 200, Rows: 24,
	})
	must(t, err)
	must(t, rec.Stdout([]byte(bad("recording-output")+"\r\n\x1b]0;"+quiet("recording-title")+"\x07\r\n")))
	must(t, rec.Finish(bad("recording-end")))

	// Who logs in says what browser it is.
	req, err := http.NewRequestWithContext(ctx, "POST", s.base+"/api/login", strings.NewReader(`{"password":"`+stagePassword+`"}`))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", quiet("user-agent"))
	resp, err := http.DefaultTransport.RoundTrip(req)
	must(t, err)
	must(t, resp.Body.Close())

	p := s.open(t, setting{})
	p.expect(`status of 400 .*=%22%27%3E%3Cimg`)
	var all strings.Builder
	visited := append(s.everyPage(true), hostilePaths()...)
	if len(visited) > 120 {
		t.Errorf("%d pages", len(visited))
	}
	for _, path := range visited {
		p.visit(path)
		if found, err := p.planted(); err != nil || len(found) > 0 {
			t.Errorf("%s: %q (%v)", path, found, err)
		}
		text, err := p.text()
		must(t, err)
		all.WriteString(text)
	}
	text := all.String()
	for field := range fields {
		if !strings.Contains(text, evilPart(field)) {
			t.Errorf("%s is not shown as it is", field)
		}
	}
}

// hostilePaths are links that somebody sends an operator.
func hostilePaths() []string {
	var paths []string
	for _, at := range []string{"/actions?text=", "/actions?registration=", "/actions?endpoint=", "/actions?cursor=", "/approvals?done=", "/registrations?done=", "/registrations?cursor=", "/credentials?by="} {
		paths = append(paths, at+"%22%27%3E%3Cimg%20src=//evil.example/x%20onerror=alert(1)%3E%3Cscript%3Ealert(2)%3C/script%3E")
	}
	return paths
}

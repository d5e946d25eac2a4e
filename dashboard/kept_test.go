package dashboard_test

import (
	"html"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	nethtml "golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// own is what a browser says of a form on one of our pages.
func own() http.Header {
	return http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://" + listen}}
}

// formOf returns the fields of a page's only form, and where it goes.
func formOf(t *testing.T, page string) (action string, fields url.Values) {
	t.Helper()
	root, err := nethtml.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	fields = make(url.Values)
	for n := range root.Descendants() {
		attr := make(map[string]string)
		for _, a := range n.Attr {
			attr[a.Key] = a.Val
		}
		switch n.Data {
		case "form":
			action = attr["action"]
		case "input", "textarea":
			fields.Add(attr["name"], attr["value"])
		}
	}
	return action, fields
}

// An expired session in the middle of a form, without scripts: nothing is done,
// nothing is lost, and sent again from the page that says so it is done.
func TestEnded_AFormIsGivenBackAndCanBeSentAgain(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("host", "198.51.100.1")
	at := "/registrations/" + string(reg.ID) + "/approve"
	form := url.Values{"profile": {"ci", "deploy"}, "reason": {`"><script>alert(1)</script> & so on`}, "user_code": {""}}
	r := g.send(request{method: "POST", path: at, form: form, header: own()})
	page := status(t, r, http.StatusUnauthorized)
	if s := g.get(reg.ID).State; s != registry.Pending {
		t.Fatalf("the registration is %s", s)
	}
	if !strings.Contains(page, "nothing was done") || strings.Contains(page, "<script>alert") {
		t.Errorf("the page: %s", page)
	}
	action, fields := formOf(t, page)
	if action != at || fields.Encode() != form.Encode() {
		t.Errorf("given back to %q: %v, want %v", action, fields, form)
	}
	goesTo(t, g.send(request{method: "POST", path: action, form: fields, cookie: g.logIn(), header: own()}), "/registrations/"+string(reg.ID)+"?done=approved")
}

// Nobody is logged in on that page: secrets, passwords and codes are asked for
// again.
func TestI02_WhatComesBackToNobodyHoldsNoSecret(t *testing.T) {
	g := newOperated(t)
	form := url.Values{
		"slot.secret": {"SECRET-one"}, "slot.private_key": {"SECRET-two\nSECRET-three"}, "password": {"SECRET-four"}, "old": {"SECRET-five"},
		"user_code": {"SECRET-six"}, "code": {"SECRET-seven"}, "value": {"SECRET-eight"}, "something-new": {"SECRET-nine"}, "profile": {"ci"},
	}
	page := status(t, g.send(request{method: "POST", path: "/credentials/bearer/github_token", form: form, header: own()}), http.StatusUnauthorized)
	if strings.Contains(page, "SECRET") {
		t.Errorf("a secret came back: %s", page)
	}
	_, fields := formOf(t, page)
	for name := range form {
		if !fields.Has(name) {
			t.Errorf("%s is not asked for again", name)
		}
	}
	if fields.Get("profile") != "ci" || !strings.Contains(page, `<textarea id="again-`) {
		t.Error("what is no secret is lost, or a key of many lines has no room")
	}
}

// Where a browser does not say that a form came from a page of ours, another site
// could have an operator send what it chose.
func TestI14_OnlyOwnFormsAreGivenBack(t *testing.T) {
	g := newOperated(t)
	form := url.Values{"decision": {"allow"}, "reason": {"chosen elsewhere"}}
	for what, q := range map[string]request{
		"nothing said":     {path: "/approvals/a_1"},
		"typed in":         {path: "/approvals/a_1", header: http.Header{"Sec-Fetch-Site": {"none"}}},
		"another origin":   {path: "/approvals/a_1", header: http.Header{"Sec-Fetch-Site": {"same-origin"}}, host: "127.0.0.1:9999"},
		"a path of theirs": {path: "//evil.example/x", header: own()},
		"an API":           {path: "/api/approvals/a_1", header: own()},
	} {
		q.method, q.form = "POST", form
		r := g.send(q)
		if body := text(t, r); strings.Contains(body, "chosen elsewhere") || r.StatusCode/100 != 4 {
			t.Errorf("%s: status %d: %s", what, r.StatusCode, body)
		}
	}
	for _, h := range []http.Header{{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Origin": {"https://evil.example"}}} {
		if body := status(t, g.send(request{method: "POST", path: "/approvals/a_1", form: form, header: h}), http.StatusForbidden); strings.Contains(body, "chosen elsewhere") {
			t.Errorf("%v: %s", h, body)
		}
	}
	// Scripts keep what was typed themselves, and log out means what it says.
	h := own()
	h.Set("HX-Request", "true")
	if body := status(t, g.send(request{method: "POST", path: "/approvals/a_1", form: form, header: h}), http.StatusUnauthorized); strings.Contains(body, "chosen elsewhere") {
		t.Error("given back to a script")
	}
	goesTo(t, g.send(request{method: "POST", path: "/logout", form: url.Values{"x": {"y"}}, header: own()}), "/login")
}

// Anyone can send these (I16): they are bounded.
func TestI16_KeptFormsAreBounded(t *testing.T) {
	g := newOperated(t)
	many := make(url.Values)
	for range 201 {
		many.Add("reason", "x")
	}
	for _, form := range []url.Values{{"reason": {strings.Repeat("x", 257<<10)}}, many, {}} {
		page := status(t, g.send(request{method: "POST", path: "/approvals/a_1", form: form, header: own()}), http.StatusUnauthorized)
		if !strings.Contains(page, "could not be kept") || len(page) > 8<<10 {
			t.Errorf("%d bytes of page", len(page))
		}
	}
	page := status(t, g.send(request{method: "POST", path: "/approvals/a_1", form: url.Values{"reason": {strings.Repeat("x", 255<<10)}}, header: own()}), http.StatusUnauthorized)
	if _, fields := formOf(t, page); len(fields.Get("reason")) != 255<<10 {
		t.Error("a long text is lost")
	}
}

func TestLogin_GoesOnToWhereOneWas(t *testing.T) {
	g := newOperated(t)
	r := g.send(request{method: "GET", path: "/actions?verdict=deny&text=a+b"})
	to := "/login?next=" + url.QueryEscape("/actions?verdict=deny&text=a+b")
	goesTo(t, r, to)
	page := status(t, g.send(request{method: "GET", path: to}), http.StatusOK)
	_, fields := formOf(t, page)
	fields.Set("password", "a wrong password")
	page = status(t, g.send(request{method: "POST", path: "/login", form: fields}), http.StatusUnauthorized)
	_, fields = formOf(t, page)
	fields.Set("password", password)
	goesTo(t, g.send(request{method: "POST", path: "/login", form: fields}), "/actions?verdict=deny&text=a+b")
	goesTo(t, g.send(request{method: "GET", path: "/"}), "/login")
}

// A link to the log-in must not lead anywhere but to a page of this origin.
func TestI14_LoginIsNoOpenRedirect(t *testing.T) {
	g := newOperated(t)
	for _, next := range []string{
		"https://evil.example/", "//evil.example/", "///evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example", "/\n/evil.example", "javascript:alert(1)",
		"evil.example", "/.//evil.example", "/x/..//evil.example", "/%2fevil.example", "/%2Fevil.example/x", "/%5cevil.example", "/%09/evil.example", "?x", "#x", "http:evil.example", " /x",
		"/api/registrations", "/static/app.js", "/login", "/login?next=/x", "/setup", "/logout", "/" + strings.Repeat("x", 2000), "/a\x00b", "/@evil.example//", "/registrations/../logout",
	} {
		page := status(t, g.send(request{method: "GET", path: "/login?next=" + url.QueryEscape(next)}), http.StatusOK)
		if _, fields := formOf(t, page); fields.Has("next") {
			t.Errorf("%q: the form has %q", next, fields.Get("next"))
		}
		goesTo(t, g.send(request{method: "POST", path: "/login", form: url.Values{"password": {password}, "next": {next}}}), "/")
	}
	for _, next := range []string{"/actions", "/actions?x=https://evil.example/", "/registrations/r_x%20y", "/actions?q=%3Cb%3E\"'"} {
		r := g.send(request{method: "POST", path: "/login", form: url.Values{"password": {password}, "next": {next}}})
		status(t, r, http.StatusSeeOther)
		if to := html.UnescapeString(r.Header.Get("Location")); !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || to == "/" {
			t.Errorf("%q goes to %q", next, to)
		}
	}
}

// A field that is added later has to be decided about: is it given back to who has
// no session (keptFields), or typed again?
func TestI02_EveryFieldIsKnownToBeKeptOrNot(t *testing.T) {
	again := []string{"password", "old", "repeat", "code", "user_code", "value", "slot.{{.Name}}", "next", "{{.Name}}", "{{$f.Name}}"}
	files, err := filepath.Glob("pages/*.html")
	if err != nil {
		t.Fatal(err)
	}
	parts, err := filepath.Glob("pages/parts/*.html")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range append(files, parts...) {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range regexp.MustCompile(`<(?:input|textarea|select|button)\b[^>]*?\bname="([^"]*)"[^>]*`).FindAllStringSubmatch(string(page), -1) {
			kept := slices.Contains(dashboard.KeptFields(), field[1])
			if kept == slices.Contains(again, field[1]) {
				t.Errorf("%s: is %q kept for who has no session? Say so in kept.go or here", file, field[1])
			}
			if kept && strings.Contains(field[0], `type="password"`) {
				t.Errorf("%s: %q is a secret, and kept", file, field[1])
			}
		}
	}
}

// Also what refuses is a page one can read, and go on from.
func TestPages_EachHasOneHeadingAndErrorsTheNavigation(t *testing.T) {
	g := newOperated(t)
	fill := placeholders(g)
	gated, _ := dashboard.Routes(g.handler)
	cookie := g.logIn()
	check := func(what string, r *http.Response, nav bool) {
		t.Helper()
		body := text(t, r)
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") || r.StatusCode == http.StatusSeeOther {
			return
		}
		if n := strings.Count(body, "<h1"); n != 1 {
			t.Errorf("%s: %d headings of the first order", what, n)
		}
		if strings.Contains(body, `<nav id="nav"`) != nav {
			t.Errorf("%s: the navigation is there or not: %v", what, !nav)
		}
	}
	for _, p := range gated {
		method, path, _ := strings.Cut(p, " ")
		if method == "GET" && !isAPI(path) && !strings.HasPrefix(path, "/static/") {
			check(p, g.send(request{method: method, path: fill.Replace(path), cookie: cookie}), true)
			check("PUT "+path, g.send(request{method: "PUT", path: fill.Replace(path), cookie: cookie}), true)
		}
	}
	check("nothing there", g.send(request{method: "GET", path: "/nothing", cookie: cookie}), true)
	check("log-in", g.send(request{method: "GET", path: "/login"}), false)
	check("another host", g.send(request{method: "GET", path: "/login", host: "evil.example"}), false)
	check("another site", g.send(request{method: "POST", path: "/login", header: http.Header{"Origin": {"https://evil.example"}}}), false)
	check("no session", g.send(request{method: "POST", path: "/approvals/x", form: url.Values{"reason": {"x"}}, header: own()}), false)
	check("set-up", newGateway(t).send(request{method: "GET", path: "/setup"}), false)
}

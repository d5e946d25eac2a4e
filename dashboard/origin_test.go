package dashboard_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

func TestI14_HostMustBeTheListenersOwn(t *testing.T) {
	type listener struct {
		listen, local string
		tls           bool
		own, foreign  []string
	}
	always := []string{"", "evil.example:8080", "evil.example", "127.0.0.1.nip.io:8080", "localhost.evil.example:8080", "192.0.2.99:8080", "[::2]:8080", "127.0.0.1:8080:8080", "127.0.0.1:8080@evil.example", " 127.0.0.1:8080", "0.0.0.0:8080"}
	for _, l := range []listener{
		{"127.0.0.1:8080", "127.0.0.1:8080", false,
			[]string{"127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "[::1]:8080", "[0:0:0:0:0:0:0:1]:8080"},
			[]string{"127.0.0.1", "127.0.0.1:80", "127.0.0.1:9090", "localhost", "127.0.0.2:8080", "gw.example.com:8080"}},
		{"localhost:80", "127.0.0.1:80", false, []string{"localhost", "localhost:80", "127.0.0.1"}, []string{"localhost:8080", "localhost.:80"}},
		{"127.0.0.1:0", "127.0.0.1:40123", false, []string{"127.0.0.1:40123", "localhost:40123"}, []string{"127.0.0.1:0", "127.0.0.1:8080"}},
		{"192.0.2.10:8443", "192.0.2.10:8443", true, []string{"192.0.2.10:8443", "gw.example.com:8443"}, []string{"localhost:8443", "127.0.0.1:8443", "192.0.2.11:8443", "192.0.2.10"}},
		{"192.0.2.10:443", "192.0.2.10:443", true, []string{"192.0.2.10", "192.0.2.10:443", "gw.example.com"}, []string{"192.0.2.10:80"}},
		{"dash.example.com:8443", "192.0.2.10:8443", true, []string{"dash.example.com:8443", "Dash.Example.com:8443"}, []string{"192.0.2.10:8443", "dash.example.com"}},
		{":8443", "192.0.2.10:8443", true, []string{"192.0.2.10:8443", "gw.example.com:8443"}, []string{"192.0.2.11:8443", "localhost:8443", "127.0.0.1:8443"}},
		{"[::]:8443", "[2001:db8::1]:8443", true, []string{"[2001:db8::1]:8443", "[2001:DB8:0::1]:8443"}, []string{"[2001:db8::2]:8443", "192.0.2.10:8443"}},
		{"0.0.0.0:8443", "127.0.0.1:8443", true, []string{"localhost:8443", "127.0.0.1:8443"}, []string{"192.0.2.10:8443"}},
	} {
		g := newOperated(t)
		g.cfg.Listen, g.cfg.TLS = l.listen, l.tls
		g.restart()
		try := func(path, host string) *http.Response {
			g.t.Helper()
			q := request{method: "GET", path: path, host: host, local: l.local, secret: password}
			if host == "" {
				q.host = "-" // an empty Host
			}
			return g.send(q)
		}
		for _, h := range l.own {
			if r := try("/api/registrations", h); r.StatusCode != http.StatusOK {
				t.Errorf("listening on %s: own host %q: status %d", l.listen, h, r.StatusCode)
			}
		}
		for _, h := range append(l.foreign, always...) {
			for _, path := range []string{"/api/registrations", "/login", "/static/style.css"} {
				if r := try(path, h); r.StatusCode != http.StatusMisdirectedRequest {
					t.Errorf("listening on %s: %s of host %q: status %d, want 421", l.listen, path, h, r.StatusCode)
				}
			}
		}
	}
}

// A page of another site can neither log the operator in or out nor change
// anything, whatever the browser attaches.
func TestI14_CrossSiteRequestsAreRefused(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("host", "198.51.100.1")
	session := g.logIn()
	forms := map[string]url.Values{
		"/registrations/" + string(reg.ID) + "/approve": {"profile": {"ci"}},
		"/registrations/" + string(reg.ID) + "/block":   {"reason": {"x"}},
		"/registrations/" + string(reg.ID) + "/revoke":  {},
		"/credentials/bearer/github_token":              {"slot.secret": {"evil"}},
		"/approvals/a_1":                                {"decision": {"allow"}},
		"/host-keys/forget":                             {"endpoint": {"ssh.build"}, "host": {"h"}, "port": {"22"}},
		"/logout":                                       {},
		"/login":                                        {"password": {password}},
	}
	for path, form := range forms {
		for _, h := range []http.Header{
			{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Origin": {"https://evil.example"}},
			{"Origin": {"null"}}, {"Origin": {"http://127.0.0.1:9090"}},
		} {
			status(t, g.send(request{method: "POST", path: path, form: form, cookie: session, header: h.Clone()}), http.StatusForbidden)
		}
	}
	refused(t, g.send(request{method: "DELETE", path: "/api/registrations/" + string(reg.ID), cookie: session, header: http.Header{"Origin": {"https://evil.example"}}}), http.StatusForbidden, "cross_site")
	if s := g.get(reg.ID).State; s != "pending" {
		t.Fatalf("the registration is %s", s)
	}
	status(t, g.send(request{method: "GET", path: "/registrations", cookie: session}), http.StatusOK)
	own := http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://" + listen}}
	goesTo(t, g.send(request{method: "POST", path: "/registrations/" + string(reg.ID) + "/approve", form: url.Values{"profile": {"ci"}}, cookie: session, header: own}), "/registrations/"+string(reg.ID)+"?done=approved")
}

// Every answer has the headers, refusals included.
func TestI14_StrictHeadersOnEveryAnswer(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("host", "198.51.100.1")
	gated, public := dashboard.Routes(g.handler)
	fill := strings.NewReplacer("{id}", string(reg.ID), "{type}", "bearer", "{name}", "github_token", "{$}", "")
	for _, p := range append(append(gated, public...), "GET /nothing", "GET /api/nothing") {
		m, path, _ := strings.Cut(p, " ")
		for _, q := range []request{{}, {secret: password}, {host: "evil.example"}, {header: http.Header{"Origin": {"https://evil.example"}}}} {
			q.method, q.path = m, fill.Replace(path)
			r := g.send(q)
			for k, want := range map[string]string{
				"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
				"Cache-Control":           "no-store",
				"X-Content-Type-Options":  "nosniff",
				"X-Frame-Options":         "DENY",
			} {
				if got := r.Header.Values(k); len(got) != 1 || got[0] != want {
					t.Errorf("%s %s: status %d with %s %q", m, path, r.StatusCode, k, got)
				}
			}
			if r.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s: shared with other origins", m, path)
			}
		}
	}
}

// The attack: a page on another port of this host has the browser fetch what costs
// the gateway something, or what there are few of. The session's cookie comes along.
func TestI14_PagesOfOtherOriginsFetchNothing(t *testing.T) {
	g := newOperated(t)
	cookie := g.logIn()
	get := func(path, site, mode, dest string) int {
		h := http.Header{"Sec-Fetch-Site": {site}, "Sec-Fetch-Mode": {mode}}
		if dest != "" {
			h.Set("Sec-Fetch-Dest", dest)
		}
		return g.send(request{method: "GET", path: path, cookie: cookie, header: h}).StatusCode
	}
	for _, path := range []string{"/api/profiles", "/api/actions.csv", "/registrations", "/metrics", "/static/style.css"} {
		for _, site := range []string{"same-site", "cross-site"} {
			for mode, dest := range map[string]string{"no-cors": "image", "cors": "empty", "navigate": "iframe"} {
				if s := get(path, site, mode, dest); s != http.StatusForbidden {
					t.Errorf("%s %s %s %s: status %d", path, site, mode, dest, s)
				}
			}
			want := http.StatusOK // a link that was followed
			if isAPI(path) {
				want = http.StatusForbidden
			}
			for _, dest := range []string{"document", ""} {
				if s := get(path, site, "navigate", dest); s != want {
					t.Errorf("%s, a link, %s %q: status %d", path, site, dest, s)
				}
			}
		}
		for site, mode := range map[string]string{"same-origin": "cors", "none": "navigate"} {
			if s := get(path, site, mode, "empty"); s != http.StatusOK {
				t.Errorf("%s %s: status %d", path, site, s)
			}
		}
	}
}

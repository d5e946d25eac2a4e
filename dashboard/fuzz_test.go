package dashboard_test

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
)

// FuzzGate sends the handler anything, without a credential: it never panics
// and never answers more than the public pages (I13, I16).
func FuzzGate(f *testing.F) {
	g := newOperated(f)
	reg := g.enrol("host", "198.51.100.1")
	f.Add("GET", "/registrations", listen, "", "")
	f.Add("POST", "/api/registrations/"+string(reg.ID)+"/approve", listen, `{"profiles":["ci"]}`, "")
	f.Add("POST", "/login/../api/setup", "localhost:8080", `{"password":"x"}`, "x")
	f.Add("GET", "/static/style.css?x=%00", "[::1]:8080", "", strings.Repeat("A", 43))
	f.Add("PUT", "//api/secrets/X", "[::1%25eth0]:8080", "{}", "\"")
	f.Add("CONNECT", "*", ":8080", "\x00", ";")
	g.forget()
	f.Fuzz(func(t *testing.T, method, path, host, body, cookie string) {
		g.t = t
		if _, err := http.NewRequest(method, "http://x/", nil); err != nil {
			return // net/http refuses such a method
		}
		if u, err := url.ParseRequestURI(path); err != nil || u.IsAbs() || strings.ContainsAny(path, " \r\n") {
			return // and such a target
		}
		h := http.Header{}
		if cookie != "" {
			h["Cookie"] = []string{"cp_dash=" + cookie}
		}
		r := g.send(request{method: method, path: path, host: host, body: body, header: h})
		switch s := r.StatusCode; {
		case s == http.StatusOK:
			if u, _ := url.ParseRequestURI(path); u.Path != "/login" && u.Path != "/static/style.css" {
				t.Fatalf("%s %s: 200", method, path)
			}
		case s == http.StatusNoContent || s >= 500:
			t.Fatalf("%s %s of %q: status %d", method, path, host, s)
		}
		if got := g.get(reg.ID).State; got != registry.Pending {
			t.Fatalf("%s %s made the registration %s", method, path, got)
		}
	})
}

// FuzzCredentialBody sends any body as an operator would: it is stored as a
// value that fits a header, or refused.
func FuzzCredentialBody(f *testing.F) {
	g := newOperated(f)
	reg := g.enrol("host", "198.51.100.1")
	if err := g.db.Approve(f.Context(), reg.ID, []string{"ci"}, ""); err != nil {
		f.Fatal(err)
	}
	session := g.logIn()
	f.Add(`{"slots":{"secret":"x"}}`)
	f.Add(`{"slots":{"secret":"a\r\nb"}}`)
	f.Add(`{"slots":{"secret":"x","other":"y"}}`)
	f.Add(`{"slots":{"secret":"\ud800"},"slots":{"SECRET":null}}`)
	f.Add(`{"slots":null}`)
	g.forget()
	f.Fuzz(func(t *testing.T, body string) {
		g.t = t
		r := g.send(request{method: "PUT", path: "/api/credentials/bearer/github_token", body: body, cookie: session})
		if s := r.StatusCode; s != http.StatusNoContent {
			if s < 400 || s > 499 {
				t.Fatalf("status %d for %q", s, body)
			}
			return
		}
		released, err := g.db.Release(t.Context(), registry.Action{Registration: reg.ID, Credential: "bearer.github_token", Verdict: "allow"})
		if err != nil {
			t.Fatal(err)
		}
		value := string(released.Slots["secret"].Reveal())
		if value == "" || len(value) > 64<<10 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(released.Slots) != 1 {
			t.Fatalf("stored %q from %q", value, body)
		}
	})
}

// FuzzApprovalBody sends any body about a registration that is blocked: it stays
// so with the pin it has, or is approved with that, or with addresses it has
// proven itself from since (I08).
func FuzzApprovalBody(f *testing.F) {
	g := newOperated(f)
	reg := g.approved("host", "198.51.100.1")
	seen := registry.Pin{IPv4: netip.MustParseAddr("192.0.2.66"), IPv6: netip.MustParseAddr("2001:db8::66"), UDP4: netip.MustParseAddr("192.0.2.77")}
	session := g.logIn()
	f.Add(`{"profiles":["ci"]}`)
	f.Add(`{"profiles":["ci"],"repin":{"ipv4":"192.0.2.66","ipv6":"2001:db8::66","udp_ipv4":"192.0.2.77"},"pin":{"ipv4":"198.51.100.1","ipv6":""}}`)
	f.Add(`{"profiles":["ci"],"repin":{"ipv6":"2001:DB8:0::66"}}`)
	f.Add(`{"profiles":["ci"],"repin":{"ipv4":"::ffff:192.0.2.66","ipv6":"fe80::1%eth0"}}`)
	f.Add(`{"profiles":["ci"],"repin":null,"pin":null,"user_code":"BBBB-BBBB"}`)
	f.Add(`{"profiles":["ci"],"repin":{"udp_ipv4":"192.0.2.77"},"repin":{"ipv4":"198.51.100.1"}}`)
	g.forget()
	f.Fuzz(func(t *testing.T, body string) {
		g.t = t
		pin := g.get(reg.ID).Pin
		if err := g.db.Block(t.Context(), reg.ID, "why"); err != nil {
			t.Fatal(err)
		}
		for _, a := range []netip.Addr{seen.IPv4, seen.IPv6} {
			g.proves(reg.ID, a.String(), false)
		}
		g.proves(reg.ID, seen.UDP4.String(), true)
		s := g.send(request{method: "POST", path: "/api/registrations/" + string(reg.ID) + "/approve", body: body, cookie: session}).StatusCode
		if s != http.StatusOK && (s < 400 || s > 499) {
			t.Fatalf("status %d for %q", s, body)
		}
		got := g.get(reg.ID)
		if (s == http.StatusOK) != (got.State == registry.Approved) || got.State == registry.Blocked && got.Pin != pin {
			t.Fatalf("status %d, now %s with pin %v", s, got.State, got.Pin)
		}
		if got.Pin == pin {
			return
		}
		for _, ok := range []bool{
			!got.Pin.IPv4.IsValid() || got.Pin.IPv4 == seen.IPv4, !got.Pin.IPv6.IsValid() || got.Pin.IPv6 == seen.IPv6,
			!got.Pin.UDP4.IsValid() || got.Pin.UDP4 == seen.UDP4, !got.Pin.UDP6.IsValid(), got.Pin.IPv4.IsValid() || got.Pin.IPv6.IsValid(),
		} {
			if !ok {
				t.Fatalf("pinned to %v by %q", got.Pin, body)
			}
		}
	})
}

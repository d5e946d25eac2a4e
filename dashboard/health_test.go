package dashboard_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func TestHealth_InTheAPIAndOnThePages(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("build-01", "198.51.100.1")
	at := "/registrations/" + string(reg.ID)
	type health struct {
		LastHandshake *time.Time `json:"last_handshake"`
		BytesIn       uint64     `json:"bytes_in"`
		BytesOut      uint64     `json:"bytes_out"`
		Handshakes    int
		Silent        bool
	}
	get := func() health {
		t.Helper()
		var v struct {
			LastHandshake *time.Time `json:"last_handshake"`
			Health        health
		}
		read(t, g.api("GET", "/api"+at, ""), http.StatusOK, &v)
		if (v.LastHandshake == nil) != (v.Health.LastHandshake == nil) || v.LastHandshake != nil && !v.LastHandshake.Equal(*v.Health.LastHandshake) {
			t.Errorf("two last handshakes: %v, %v", v.LastHandshake, v.Health.LastHandshake)
		}
		return v.Health
	}
	silentOn := func() (pages []string) {
		t.Helper()
		for _, p := range []string{"/registrations", at} {
			if strings.Contains(g.page(p), "silent for 90 s or longer") {
				pages = append(pages, p)
			}
		}
		return pages
	}
	if h := get(); h != (health{}) || silentOn() != nil {
		t.Errorf("at first: %+v", h)
	}
	shook := g.clock.Now().Add(time.Second)
	g.db.ReportHealth(map[registry.ID]registry.PeerHealth{reg.ID: {LastHandshake: shook, BytesIn: 5 << 20, BytesOut: 148}})
	g.clock.pass(89 * time.Second)
	if h := get(); h.LastHandshake == nil || !h.LastHandshake.Equal(shook) || h.BytesIn != 5<<20 || h.BytesOut != 148 || h.Handshakes != 1 || h.Silent || silentOn() != nil {
		t.Errorf("after a handshake: %+v", h)
	}
	if page := g.page(at); !strings.Contains(page, "1 handshake, 5.0 MiB in, 148 B out") || !strings.Contains(page, "2026-03-01 12:00:01 UTC (1 minute ago)") {
		t.Errorf("the page does not tell:\n%s", page)
	}
	g.clock.pass(time.Second)
	if h := get(); !h.Silent || len(silentOn()) != 2 {
		t.Errorf("after 90 s of silence: %+v, shown on %v", h, silentOn())
	}
	var all struct{ Items []struct{ Health health } }
	read(t, g.api("GET", "/api/registrations", ""), http.StatusOK, &all)
	if len(all.Items) != 1 || !all.Items[0].Health.Silent {
		t.Errorf("the list: %+v", all)
	}
}

// pending, 15 minutes, gone; and said so, also where it was blocked meanwhile,
// until an operator has seen it.
func TestRemovals_AreShownUntilSeen(t *testing.T) {
	g := newOperated(t)
	late := g.enrol("late <b>host</b>", "198.51.100.1")
	stolen := g.enrol("stolen", "198.51.100.2")
	if err := g.db.Block(t.Context(), stolen.ID, "a poll came from 192.0.2.66, which is outside the pin"); err != nil {
		t.Fatal(err)
	}
	g.clock.pass(15*time.Minute - time.Millisecond)
	if s := g.state(late.ID).State; s != "pending" {
		t.Fatalf("before its time: %s", s)
	}
	if page := g.page("/registrations/" + string(stolen.ID)); !strings.Contains(page, "it was never approved") {
		t.Error("the page does not say that the blocked one is about to be removed")
	}
	if got := status(t, g.api("GET", "/api/removals", ""), http.StatusOK); got != "{\"items\":[]}\n" {
		t.Errorf("before: %s", got)
	}
	g.clock.pass(time.Millisecond)
	refused(t, g.api("POST", "/api/registrations/"+string(late.ID)+"/approve", `{"profiles":["ci"]}`), http.StatusNotFound, "not_found")
	refused(t, g.api("POST", "/api/registrations/"+string(stolen.ID)+"/approve", `{"profiles":["ci"]}`), http.StatusNotFound, "not_found")
	var list struct {
		Items []struct {
			ID, Name, Source string
			BlockedReason    string     `json:"blocked_reason"`
			BlockedAt        *time.Time `json:"blocked_at"`
			CreatedAt        time.Time  `json:"created_at"`
			RemovedAt        time.Time  `json:"removed_at"`
		}
	}
	read(t, g.api("GET", "/api/removals", ""), http.StatusOK, &list)
	if len(list.Items) != 2 {
		t.Fatalf("%+v", list)
	}
	for _, v := range list.Items {
		if blocked := v.Name == "stolen"; blocked != (v.BlockedReason != "") || blocked != (v.BlockedAt != nil) || v.Source == "" || !v.RemovedAt.Equal(g.clock.Now()) || v.CreatedAt.IsZero() {
			t.Errorf("%+v", v)
		}
	}
	page := g.page("/registrations")
	form := inputs(t, page)
	blocked, waiting, expired := strings.Index(page, "192.0.2.66"), strings.Index(page, "Waiting for approval"), strings.Index(page, "late &lt;b&gt;host&lt;/b&gt;")
	if blocked < 0 || blocked > waiting || expired < waiting {
		t.Errorf("the blocked one is at %d, the expired one at %d:\n%s", blocked, expired, page)
	}
	if len(form) != 2 || form[0]["name"] != "until" {
		t.Fatalf("forms: %v", form)
	}
	// What is removed after the page was shown stays.
	g.clock.pass(time.Second)
	unseen := g.enrol("unseen", "198.51.100.3")
	g.clock.pass(16 * time.Minute)
	goesTo(t, g.post("/removals/seen", url.Values{"until": {form[0]["value"]}}), "/registrations?done=seen")
	read(t, g.api("GET", "/api/removals", ""), http.StatusOK, &list)
	for deadline := time.Now().Add(10 * time.Second); len(list.Items) == 0; read(t, g.api("GET", "/api/removals", ""), http.StatusOK, &list) {
		if time.Now().After(deadline) {
			t.Fatal("the third was not removed")
		}
	}
	if len(list.Items) != 1 || list.Items[0].ID != string(unseen.ID) {
		t.Errorf("left: %+v", list)
	}
	for _, bad := range []string{"", "yesterday", "2026-13-01T00:00:00Z"} {
		refused(t, g.api("DELETE", "/api/removals?until="+bad, ""), http.StatusBadRequest, "bad_request")
		status(t, g.post("/removals/seen", url.Values{"until": {bad}}), http.StatusBadRequest)
	}
	status(t, g.api("DELETE", "/api/removals?until="+list.Items[0].RemovedAt.Format(time.RFC3339Nano), ""), http.StatusNoContent)
	if got := status(t, g.api("GET", "/api/removals", ""), http.StatusOK); got != "{\"items\":[]}\n" {
		t.Errorf("after: %s", got)
	}
}

// What was absent for long waits for an operator, with its pin and profiles.
func TestDormant_IsBlockedAndCanBeApprovedAgain(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("ghost", "198.51.100.1")
	g.clock.pass(registry.DormantAfter)
	for deadline := time.Now().Add(10 * time.Second); g.get(reg.ID).State != registry.Blocked; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not blocked within 10 s")
		}
	}
	at := "/registrations/" + string(reg.ID)
	for _, p := range []string{"/registrations", at} {
		if !strings.Contains(g.page(p), "dormant: no handshake for 100 days") {
			t.Errorf("%s does not say why", p)
		}
	}
	goesTo(t, g.post(at+"/approve", fill(t, g.page(at), "")), at+"?done=approved")
	if got := g.get(reg.ID); got.State != registry.Approved || got.Pin != reg.Pin || len(got.Profiles) != 1 {
		t.Errorf("%+v", got)
	}
}

// A name that an operator could take for another, or the same source, takes the
// code that only the agent host shows, in the API as on the page.
func TestI10_LookAlikesOfEveryKindNeedTheTypedCode(t *testing.T) {
	const mine = "Build-01 mirror"
	for what, other := range map[string]struct {
		name, from string
		alike      bool
	}{
		"the same":                 {mine, "198.51.100.2", true},
		"case":                     {"bUILD-01 MIRROR", "198.51.100.2", true},
		"blanks":                   {" Build-01   mirror ", "198.51.100.2", true},
		"no blanks":                {"Build01mirror", "198.51.100.2", true},
		"a no-break space":         {"Build-01\u00a0mirror", "198.51.100.2", true},
		"an ideographic space":     {"Build-01\u3000mirror", "198.51.100.2", true},
		"zero-width characters":    {"Bu\u200bild-01\u2060 mirror\ufeff", "198.51.100.2", true},
		"an invisible letter":      {"Build-01\u3164mirror", "198.51.100.2", true},
		"directions":               {"\u202eBuild-01 mirror\u202c", "198.51.100.2", true},
		"another dash":             {"Build\u201101 mirror", "198.51.100.2", true},
		"Cyrillic":                 {"Вuild-01 mіrrоr", "198.51.100.2", true},
		"Greek":                    {"Βuild-01 mirrοr", "198.51.100.2", true},
		"full width":               {"Ｂuild-０１ mirror", "198.51.100.2", true},
		"mathematical letters":     {"𝐁uild-01 𝓂irror", "198.51.100.2", true},
		"accents":                  {"Büild-01 mírror", "198.51.100.2", true},
		"a combining accent":       {"Bu\u0301ild-01 mirror", "198.51.100.2", true},
		"digits for letters":       {"Bu1ld-Ol mirror", "198.51.100.2", true},
		"r and n for m":            {"Build-01 rnirror", "198.51.100.2", true},
		"the same source":          {"quite another", "198.51.100.1", true},
		"another source and name":  {"quite another", "198.51.100.2", false},
		"another number":           {"Build-02 mirror", "198.51.100.2", false},
		"the source as IPv6 would": {"quite another", "::ffff:198.51.100.1", true},
	} {
		t.Run(what, func(t *testing.T) {
			g := newOperated(t)
			evil, reg := g.enrol(other.name, other.from), g.enrol(mine, "198.51.100.1")
			at := "/registrations/" + string(reg.ID)
			for _, p := range []string{"/registrations", at} {
				if strings.Contains(g.page(p), reg.UserCode) == other.alike {
					t.Errorf("%s shows the code: %v", p, !other.alike)
				}
			}
			if !other.alike {
				status(t, g.api("POST", "/api"+at+"/approve", `{"profiles":["ci"]}`), http.StatusOK)
				return
			}
			refused(t, g.api("POST", "/api"+at+"/approve", `{"profiles":["ci"]}`), http.StatusConflict, "user_code_required")
			refused(t, g.api("POST", "/api"+at+"/approve", `{"profiles":["ci"],"user_code":" "}`), http.StatusConflict, "user_code_required")
			refused(t, g.api("POST", "/api"+at+"/approve", `{"profiles":["ci"],"user_code":"`+evil.UserCode+`"}`), http.StatusConflict, "wrong_user_code")
			form := fill(t, g.page(at), "")
			status(t, g.post(at+"/approve", form), http.StatusConflict)
			form.Set("user_code", strings.ToLower(reg.UserCode))
			goesTo(t, g.post(at+"/approve", form), at+"?done=approved")
		})
	}
}

// Two hosts of one /64 are one source.
func TestI10_OneIPv6SubnetIsOneSource(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("one", "2001:db8:1:2::1")
	if g.state(reg.ID).State != "pending" || strings.Contains(g.page("/registrations/"+string(reg.ID)), `name="user_code"`) {
		t.Fatal("alone, it takes a code")
	}
	g.enrol("another", "2001:db8:1:2:ffff::9")
	refused(t, g.api("POST", "/api/registrations/"+string(reg.ID)+"/approve", `{"profiles":["ci"]}`), http.StatusConflict, "user_code_required")
}

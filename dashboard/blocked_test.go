package dashboard_test

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/registry"
)

// operated is the state of a registration as the API tells it.
type operated struct {
	State         string            `json:"state"`
	Pin           map[string]string `json:"pin"`
	PinRemarks    []string          `json:"pin_remarks"`
	BlockedReason string            `json:"blocked_reason"`
	BlockedAt     *time.Time        `json:"blocked_at"`
	Seen          map[string]string `json:"seen"`
	SeenRemarks   []string          `json:"seen_remarks"`
}

func (g *gateway) state(id registry.ID) operated {
	g.t.Helper()
	var v operated
	read(g.t, g.api("GET", "/api/registrations/"+string(id), ""), http.StatusOK, &v)
	return v
}

// approved is a registration in service at this address.
func (g *gateway) approved(name, from string) *registry.Registration {
	g.t.Helper()
	reg := g.enrol(name, from)
	if err := g.db.Approve(g.t.Context(), reg.ID, []string{"ci"}, reg.UserCode); err != nil {
		g.t.Fatal(err)
	}
	return g.get(reg.ID)
}

// proves is an authentic message from this address: a datagram, or a poll.
func (g *gateway) proves(id registry.ID, from string, udp bool) {
	g.t.Helper()
	d := registry.Deviation{From: netip.MustParseAddr(from), UDP: udp, What: "a poll"}
	if udp {
		d.What = "a data packet"
	}
	if err := g.db.Deviate(g.t.Context(), id, d); err != nil {
		g.t.Fatal(err)
	}
}

func same(got map[string]string, want string) bool {
	var w map[string]string
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		panic(err)
	}
	if len(got) != len(w) {
		return false
	}
	for k := range w {
		if v, ok := got[k]; !ok || v != w[k] {
			return false
		}
	}
	return true
}

// inputs returns the page's input elements that have a name.
func inputs(t *testing.T, page string) []map[string]string {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	checkMarkup(t, "a page of blocked registrations", doc)
	var list []map[string]string
	for n := range doc.Descendants() {
		if a := attributes(n); n.Type == html.ElementNode && n.Data == "input" && a["name"] != "" {
			list = append(list, a)
		}
	}
	return list
}

// fill is the form of a registration's page as a browser sends it, with this
// choice of addresses.
func fill(t *testing.T, page, choice string) url.Values {
	t.Helper()
	form := url.Values{}
	offered := false
	for _, in := range inputs(t, page) {
		_, checked := in["checked"]
		switch {
		case in["type"] == "hidden", in["type"] == "checkbox" && checked:
			form.Add(in["name"], in["value"])
		case in["name"] == "addresses":
			if _, must := in["required"]; !must || checked {
				t.Error("the page makes the choice of addresses itself")
			}
			if in["value"] == choice {
				form.Set("addresses", choice)
				offered = true
			}
		}
	}
	if choice != "" && !offered {
		t.Fatalf("the page does not offer %q", choice)
	}
	return form
}

func offersAnotherPin(page string) bool { return strings.Contains(page, `name="addresses"`) }

// That a join credential was used from elsewhere must not be found by whoever
// happens to look: it is above everything else, and counted on every page.
func TestI08_ABlockIsTheFirstThingAnOperatorSees(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("build-01", "198.51.100.1")
	g.enrol("waiting", "198.51.100.2")
	for _, p := range []string{"/registrations", "/credentials", "/actions"} {
		if strings.Contains(g.page(p), `title="blocked"`) {
			t.Errorf("%s counts a block", p)
		}
	}
	g.clock.pass(time.Hour)
	waiting := g.enrol("waiting again", "198.51.100.3")
	g.proves(reg.ID, "192.0.2.66", true)
	g.clock.pass(7 * time.Minute)
	_, main, _ := strings.Cut(g.page("/registrations"), "<main")
	block, wait := strings.Index(main, "build-01"), strings.Index(main, "waiting again")
	if block < 0 || wait < 0 || block > wait {
		t.Errorf("the blocked one is at %d, the waiting one at %d", block, wait)
	}
	for _, p := range []string{"/registrations", "/registrations/" + string(reg.ID)} {
		page := g.page(p)
		inputs(t, page)
		for _, want := range []string{"a data packet came from 192.0.2.66, which is outside the pin", "2026-03-01 13:00:00 UTC", "7 minutes ago"} {
			if !strings.Contains(page, want) {
				t.Errorf("%s does not say %q", p, want)
			}
		}
	}
	for _, p := range []string{"/registrations", "/credentials", "/actions", "/registrations/" + string(waiting.ID)} {
		if !strings.Contains(g.page(p), `title="blocked">1<`) {
			t.Errorf("%s does not count the block", p)
		}
	}
	byHand := g.approved("by hand", "198.51.100.4")
	if err := g.db.Block(t.Context(), byHand.ID, "for the weekend"); err != nil {
		t.Fatal(err)
	}
	_, main, _ = strings.Cut(g.page("/registrations"), "<main")
	if block, hand := strings.Index(main, "build-01"), strings.Index(main, "by hand"); hand < 0 || block > hand {
		t.Errorf("what was seen elsewhere is at %d, what was blocked by hand later at %d", block, hand)
	}
	v := g.state(reg.ID)
	if v.State != "blocked" || v.BlockedReason != "a data packet came from 192.0.2.66, which is outside the pin" || v.BlockedAt == nil || !v.BlockedAt.Equal(g.clock.Now().Add(-7*time.Minute)) ||
		!same(v.Seen, `{"ipv4":"","ipv6":"","udp_ipv4":"192.0.2.66"}`) || !same(v.Pin, `{"ipv4":"198.51.100.1","ipv6":""}`) {
		t.Errorf("%+v", v)
	}
	if w := g.state(waiting.ID); w.Seen != nil || w.BlockedAt != nil {
		t.Errorf("of one that is not blocked: %+v", w)
	}
}

func TestI08_ReapprovalKeepsThePin(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("build-01", "198.51.100.1")
	at := "/registrations/" + string(reg.ID)
	approve := map[string]func(){
		"api": func() { status(t, g.api("POST", "/api"+at+"/approve", `{"profiles":["ci"]}`), http.StatusOK) },
		"api with the pin": func() {
			status(t, g.api("POST", "/api"+at+"/approve", `{"profiles":["ci"],"pin":{"ipv4":"198.51.100.1","ipv6":""}}`), http.StatusOK)
		},
		"page": func() { goesTo(t, g.post(at+"/approve", fill(t, g.page(at), "keep")), at+"?done=approved") },
		"page without a choice": func() {
			form := fill(t, g.page(at), "keep")
			form.Del("addresses")
			goesTo(t, g.post(at+"/approve", form), at+"?done=approved")
		},
	}
	for name, f := range approve {
		g.proves(reg.ID, "192.0.2.66", false)
		if s := g.get(reg.ID).State; s != registry.Blocked {
			t.Fatalf("%s: %s", name, s)
		}
		f()
		if got := g.get(reg.ID); got.State != registry.Approved || got.Pin != reg.Pin {
			t.Errorf("%s: %s, pin %v", name, got.State, got.Pin)
		}
	}
	if v := g.state(reg.ID); v.Seen != nil || v.BlockedAt != nil || v.BlockedReason != "" {
		t.Errorf("%+v", v)
	}
}

// Another pin is one that the registration has proven to be at, over TCP, since
// it was blocked, and exactly the one that the operator was shown.
func TestI08_RepinNamesExactlyWhatWasSeen(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("build-01", "198.51.100.1")
	at := "/api/registrations/" + string(reg.ID) + "/approve"
	refusedRepin := func(repin, code string, st int) {
		t.Helper()
		refused(t, g.api("POST", at, `{"profiles":["ci"],"repin":`+repin+`}`), st, code)
	}
	refusedRepin(`{"ipv4":"192.0.2.66","ipv6":""}`, "already_approved", http.StatusConflict)
	g.proves(reg.ID, "192.0.2.66", true)
	refusedRepin(`{"ipv4":"192.0.2.66","ipv6":""}`, "repin_not_seen", http.StatusConflict) // over UDP only
	refusedRepin(`{"ipv4":"","ipv6":"","udp_ipv4":"192.0.2.66"}`, "repin_not_seen", http.StatusConflict)
	g.proves(reg.ID, "192.0.2.66", false)
	for repin, code := range map[string]string{
		`{"ipv4":"192.0.2.67","ipv6":""}`:                                 "repin_not_seen",
		`{"ipv4":"192.0.2.66","ipv6":"2001:db8::1"}`:                      "repin_not_seen",
		`{"ipv4":"198.51.100.1","ipv6":""}`:                               "repin_not_seen", // the pin it has, where it is not
		`{"ipv4":"192.0.2.66","ipv6":"","udp_ipv4":"192.0.2.67"}`:         "repin_not_seen",
		`{"ipv4":"","ipv6":""}`:                                           "repin_not_seen",
		`{}`:                                                              "repin_not_seen",
		`{"ipv4":"192.0.2.66","ipv6":""},"pin":{"ipv4":"","ipv6":""}`:     "pin_changed",
		`{"ipv4":"192.0.2.66","ipv6":""},"pin":{"ipv4":"192.0.2.66"}`:     "pin_changed",
		`{"ipv6":"192.0.2.66"}`:                                           "bad_request",
		`{"ipv4":"::ffff:192.0.2.66"}`:                                    "bad_request",
		`{"ipv6":"fe80::1%eth0"}`:                                         "bad_request",
		`{"ipv4":"192.0.2.66/24"}`:                                        "bad_request",
		`{"ipv4":"anywhere"}`:                                             "bad_request",
		`{"ipv4":"192.0.2.66","other":"192.0.2.66"}`:                      "bad_request",
		`"192.0.2.66"`:                                                    "bad_request",
		`{"ipv4":"192.0.2.66","ipv6":""},"user_code":"BBBB-BBBB"`:         "wrong_user_code",
		`{"ipv4":"192.0.2.66","ipv6":""},"profiles":["nope"]`:             "unknown_profile",
		`{"ipv4":"192.0.2.66","ipv6":""},"pin":{"ipv4":"x"},"x":"unkown"`: "bad_request",
	} {
		st := map[string]int{"bad_request": http.StatusBadRequest, "unknown_profile": http.StatusUnprocessableEntity}[code]
		if st == 0 {
			st = http.StatusConflict
		}
		refusedRepin(repin, code, st)
	}
	if got := g.get(reg.ID); got.State != registry.Blocked || got.Pin != reg.Pin {
		t.Fatalf("refusals changed it: %+v", got)
	}
	// What moves on after it was shown is not what was approved.
	g.proves(reg.ID, "192.0.2.99", false)
	refusedRepin(`{"ipv4":"192.0.2.66","ipv6":""}`, "repin_not_seen", http.StatusConflict)
	g.proves(reg.ID, "2001:db8::99", false)
	status(t, g.api("POST", at, `{"profiles":["ci"],"repin":{"ipv4":"192.0.2.99","ipv6":"2001:db8::99"},"pin":{"ipv4":"198.51.100.1","ipv6":""}}`), http.StatusOK)
	if v := g.state(reg.ID); v.State != "approved" || !same(v.Pin, `{"ipv4":"192.0.2.99","ipv6":"2001:db8::99"}`) {
		t.Errorf("%+v", v)
	}
	if !strings.Contains(g.log.String(), "repinned=true") {
		t.Error("the log does not say that the pin was replaced")
	}
}

// The page shows the two pins to choose from; nobody types an address.
func TestI08_ThePageOffersThePinOrThePlaceWhereItIs(t *testing.T) {
	g := newOperated(t)
	reg := g.approved("build-01", "198.51.100.1")
	at := "/registrations/" + string(reg.ID)
	if err := g.db.Block(t.Context(), reg.ID, "by hand"); err != nil {
		t.Fatal(err)
	}
	if page := g.page(at); offersAnotherPin(page) || !strings.Contains(page, "The pin is kept") {
		t.Error("nothing was seen, and the page offers a choice")
	}
	g.proves(reg.ID, "198.51.100.1", false)
	if offersAnotherPin(g.page(at)) {
		t.Error("it was seen inside the pin only, and the page offers a choice")
	}
	g.proves(reg.ID, "10.9.9.9", true)
	page := g.page(at)
	form := fill(t, page, "seen")
	for _, want := range []string{"<code>198.51.100.1</code>", "<code>10.9.9.9</code> (datagrams)", "10.9.9.9 is a private address: this pin proves nothing", "two hosts hold this join credential"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, in := range inputs(t, page) {
		if in["type"] == "text" && in["name"] != "user_code" && in["name"] != "reason" {
			t.Errorf("the operator is to type %q", in["name"])
		}
	}
	if form.Get("seen4") != "198.51.100.1" || form.Get("seen_udp4") != "10.9.9.9" || form.Get("seen6") != "" {
		t.Errorf("the form names %v", form)
	}
	// Between the page and the form, it moved.
	g.proves(reg.ID, "192.0.2.5", false)
	body := status(t, g.post(at+"/approve", form), http.StatusConflict)
	if !strings.Contains(body, "192.0.2.5") || g.get(reg.ID).State != registry.Blocked {
		t.Errorf("approved what was not there any more, or not shown:\n%s", body)
	}
	g.proves(reg.ID, "192.0.2.5", true) // its datagrams come from there too
	page = g.page(at)
	if strings.Contains(page, "two hosts") || !strings.Contains(page, "No longer in the pin: 198.51.100.1.") {
		t.Errorf("after it has moved:\n%s", page)
	}
	goesTo(t, g.post(at+"/approve", fill(t, page, "seen")), at+"?done=approved")
	if got := g.get(reg.ID); got.State != registry.Approved || got.Pin != (registry.Pin{IPv4: netip.MustParseAddr("192.0.2.5")}) {
		t.Errorf("%s, pin %+v", got.State, got.Pin)
	}
}

// Datagrams may come from another address than connections: the pin that an
// operator approves has both, and the page says what each is worth.
func TestI08_ApprovesTheAddressesOfDatagramsToo(t *testing.T) {
	g := newOperated(t)
	g.load(strings.Replace(gatewayHCL, "gw.example.com", "192.0.2.200", 1))
	reg := g.enrol("build-01", "198.51.100.1")
	at := "/registrations/" + string(reg.ID)
	before := fill(t, g.page(at), "")
	shake := func(id registry.ID, from string) {
		t.Helper()
		if err := g.db.RecordPeers(t.Context(), map[registry.ID]registry.PeerState{id: {From: netip.MustParseAddr(from), Newest: [12]byte{1}, Handshake: g.clock.Now()}}); err != nil {
			t.Fatal(err)
		}
	}
	shake(reg.ID, "100.64.7.7")
	v := g.state(reg.ID)
	if !same(v.Pin, `{"ipv4":"198.51.100.1","ipv6":"","udp_ipv4":"100.64.7.7"}`) || len(v.PinRemarks) != 1 || v.PinRemarks[0] != "100.64.7.7 is a carrier-grade NAT address: this pin proves nothing" {
		t.Errorf("%+v", v)
	}
	for _, p := range []string{"/registrations", at} {
		if page := g.page(p); !strings.Contains(page, "<code>100.64.7.7</code> (datagrams)") || !strings.Contains(page, v.PinRemarks[0]) {
			t.Errorf("%s does not show it, or what it is worth", p)
		}
	}
	refused(t, g.api("POST", "/api"+at+"/approve", `{"profiles":["ci"],"pin":{"ipv4":"198.51.100.1","ipv6":""}}`), http.StatusConflict, "pin_changed")
	if body := status(t, g.post(at+"/approve", before), http.StatusConflict); !strings.Contains(body, "100.64.7.7") {
		t.Error("after a refusal the page does not show it")
	}
	goesTo(t, g.post(at+"/approve", fill(t, g.page(at), "")), at+"?done=approved")
	if got := g.get(reg.ID); got.State != registry.Approved || len(got.Pin.Addrs()) != 2 {
		t.Errorf("%s %v", got.State, got.Pin)
	}
	// Over IPv6, and the gateway's own address in front of a NAT.
	other := g.enrol("other", "2001:db8::5")
	shake(other.ID, "fd00::9")
	if v := g.state(other.ID); !same(v.Pin, `{"ipv4":"","ipv6":"2001:db8::5","udp_ipv6":"fd00::9"}`) || len(v.PinRemarks) != 1 {
		t.Errorf("%+v", v)
	}
	own := g.enrol("hairpin", "192.0.2.200")
	if v := g.state(own.ID); len(v.PinRemarks) != 1 || !strings.Contains(v.PinRemarks[0], "the gateway's own address") {
		t.Errorf("%+v", v)
	}
}

// The attack: a registration is blocked while its page is open, and the operator
// approves it without having seen that.
func TestI08_AStalePageDoesNotUndoABlock(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("build-7", "198.51.100.20")
	page := "/registrations/" + string(reg.ID)
	shown := func() url.Values { return form(t, g.page(page), page+"/approve") }
	block := func(why string) {
		t.Helper()
		if err := g.db.Approve(t.Context(), reg.ID, []string{"ci"}, ""); err != nil {
			t.Fatal(err)
		}
		if err := g.db.Block(t.Context(), reg.ID, why); err != nil {
			t.Fatal(err)
		}
	}
	send := func(f url.Values) *http.Response {
		f["profile"] = []string{"ci"}
		return g.send(request{method: "POST", path: page + "/approve", form: f, secret: password})
	}
	stale := shown() // pending
	block("used from elsewhere")
	again := shown()
	for what, f := range map[string]url.Values{"pending": stale, "blocked, once less": again} {
		if what != "pending" {
			block("used from elsewhere again")
		}
		body := status(t, send(f), http.StatusConflict)
		if !strings.Contains(body, "used from elsewhere") || g.get(reg.ID).State != registry.Blocked {
			t.Errorf("%s: %s, with the page\n%s", what, g.get(reg.ID).State, body)
		}
	}
	goesTo(t, send(shown()), page+"?done=approved")
}

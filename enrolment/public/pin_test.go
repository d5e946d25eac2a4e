package public_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/registry"
)

// state returns the registration as the registry has it.
func (a *agentHost) state() *registry.Registration {
	a.g.t.Helper()
	reg, ok := a.g.db.Snapshot().ByID(registry.ID(a.Registration))
	if !ok {
		a.g.t.Fatal("the registration has gone")
	}
	return reg
}

func TestI08_AProvenRequestFromOutsideThePinBlocks(t *testing.T) {
	for _, path := range []string{enrolment.PathPoll, enrolment.PathClaim} {
		for name, from := range map[string]string{"same family": "192.0.2.2", "a family the pin does not have": "2001:db8::1"} {
			t.Run(path+" "+name, func(t *testing.T) {
				g := newGateway(t)
				a := g.start("host", "192.0.2.1")
				a.approve("ci")
				g.clock.pass(registry.ClaimWindow * 2)
				if p := a.poll(); p.State != "approved" {
					t.Fatalf("%+v", p)
				}
				refused(t, a.post(path, from), http.StatusUnauthorized, "unauthorized")
				reg := a.state()
				if reg.State != registry.Blocked || !strings.Contains(reg.BlockedReason, from) {
					t.Errorf("%s: %q", reg.State, reg.BlockedReason)
				}
				// The operator may let it in from there: that is noted.
				if reg.Seen.IPv4.String() != from && reg.Seen.IPv6.String() != from {
					t.Errorf("seen %+v", reg.Seen)
				}
				if p := a.poll(); p.State != "blocked" {
					t.Errorf("%+v", p)
				}
			})
		}
	}
}

func TestI08_AnUnprovenRequestFromOutsideThePinBlocksNobody(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	a.approve("ci")
	forged := a.authorization(enrolment.PathPoll, "{}", g.clock.Now())
	refused(t, g.send("POST", enrolment.PathPoll, "192.0.2.2", `{"x":1}`, forged), http.StatusUnauthorized, "unauthorized")

	recorded := a.authorization(enrolment.PathPoll, "{}", g.clock.Now())
	if r := g.send("POST", enrolment.PathPoll, a.from, "{}", recorded); r.StatusCode != http.StatusOK {
		t.Fatal(r.Status)
	}
	refused(t, g.send("POST", enrolment.PathPoll, "192.0.2.2", "{}", recorded), http.StatusUnauthorized, "unauthorized")
	if reg := a.state(); reg.State != registry.Approved {
		t.Errorf("%s: %q", reg.State, reg.BlockedReason)
	}
}

// An agent host with two families claims both at once, and the approval may come
// between the two.
func TestI08_ALateClaimOfTheOtherFamilyBlocksNobody(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	a.approve("ci")
	refused(t, a.post(enrolment.PathClaim, "2001:db8::1"), http.StatusConflict, "pin_sealed")
	if reg := a.state(); reg.State != registry.Approved {
		t.Errorf("%s: %q", reg.State, reg.BlockedReason)
	}
}

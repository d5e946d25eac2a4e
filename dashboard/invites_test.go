package dashboard_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

type inviteShown struct {
	ID, State, Source, Token string
	MadeBy                   string `json:"made_by"`
	Profiles                 []string
	Uses, Used               int
	CreatedAt                time.Time  `json:"created_at"`
	ExpiresAt                time.Time  `json:"expires_at"`
	LastUsedAt               *time.Time `json:"last_used_at"`
	VoidedAt                 *time.Time `json:"voided_at"`
}

func TestInvites_AreMadeListedAndVoided(t *testing.T) {
	g := newOperated(t)
	if got := status(t, g.api("GET", "/api/invites", ""), http.StatusOK); got != "{\"items\":[]}\n" {
		t.Errorf("the list of none is %s", got)
	}
	var made, short inviteShown
	read(t, g.api("POST", "/api/invites", `{"ttl":"1h","profiles":["ci"],"uses":3,"source":"198.51.100.0/24"}`), http.StatusCreated, &made)
	if !strings.HasPrefix(made.Token, "cpi1_") || made.State != "good" || made.Uses != 3 || made.Used != 0 || made.Source != "198.51.100.0/24" ||
		strings.Join(made.Profiles, ",") != "ci" || !made.ExpiresAt.Equal(g.clock.Now().Add(time.Hour)) || !strings.HasPrefix(made.MadeBy, "dashboard 192.0.2.1") {
		t.Errorf("%+v", made)
	}
	read(t, g.api("POST", "/api/invites", `{}`), http.StatusCreated, &short)
	if short.Uses != 1 || !short.ExpiresAt.Equal(g.clock.Now().Add(15*time.Minute)) || short.Profiles == nil || len(short.Profiles) != 0 {
		t.Errorf("%+v", short)
	}
	status(t, g.api("DELETE", "/api/invites/"+made.ID, ""), http.StatusNoContent)
	refused(t, g.api("DELETE", "/api/invites/i_nothing", ""), http.StatusNotFound, "not_found")
	g.clock.pass(16 * time.Minute)
	var list struct{ Items []inviteShown }
	text := status(t, g.api("GET", "/api/invites", ""), http.StatusOK)
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 2 || list.Items[0].ID != short.ID || list.Items[0].State != "expired" || list.Items[1].State != "voided" || list.Items[1].VoidedAt == nil {
		t.Errorf("%s", text)
	}
	if log := g.log.String(); strings.Contains(text, "cpi1_") || strings.Contains(log, "cpi1_") || strings.Contains(log, made.Token[5:40]) {
		t.Error("a token is shown again, or logged")
	}
}

func TestInvites_RefusesWhatMakesNoSense(t *testing.T) {
	g := newOperated(t)
	for body, code := range map[string]string{
		`{"ttl":"200h"}`: "bad_ttl", `{"uses":-1}`: "bad_uses", `{"source":"x"}`: "bad_source", `{"profiles":["nope"]}`: "unknown_profile",
	} {
		refused(t, g.api("POST", "/api/invites", body), http.StatusUnprocessableEntity, code)
	}
	refused(t, g.api("POST", "/api/invites", `{"token":"x"}`), http.StatusBadRequest, "bad_request")
	refused(t, g.api("POST", "/api/invites", ``), http.StatusBadRequest, "bad_request")
	g.load(strings.Replace(gatewayHCL, "public_url", "enrolment = \"closed\"\n  public_url", 1))
	refused(t, g.api("POST", "/api/invites", `{}`), http.StatusUnprocessableEntity, "enrolment_closed")
}

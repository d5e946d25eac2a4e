package hostile

import (
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The isolation matrix: agents x credentials x state of the profile x new and
// live connections.

// The attack: ask for a service whose credential only the other has. It is
// treated as one the gateway has no credential for: the agent talks to the real
// server, whose certificate the gateway has no part in.
func TestI06_AssignedAndOthersProfiles(t *testing.T) {
	for _, c := range []struct {
		agent    *lab.Joined
		host     string
		header   string
		want     string // what the upstream must see
		gateways bool   // whether the certificate is the gateway's
	}{
		{ci, "api.example.com", "Authorization", "Bearer " + apiToken, true},
		{ops, "ops.example.com", "X-Api-Key", opsKey, true},
		{ci, "ops.example.com", "X-Api-Key", "mine", false},
		{ops, "api.example.com", "Authorization", "mine", false},
	} {
		upstream.Forget()
		body, status := curl(t, c.agent, "-H", c.header+": mine", "https://"+c.host+"/matrix")
		if status != "200" {
			t.Errorf("%s to %s: status %s: %s", c.agent.Name, c.host, status, body)
		}
		seen := upstream.Seen()
		if len(seen) != 1 || seen[0].Header.Get(c.header) != c.want {
			t.Errorf("%s to %s: upstream saw %+v; want %s: %s", c.agent.Name, c.host, seen, c.header, c.want)
		}
		issuer, err := c.agent.Shell(t.Context(), "echo | openssl s_client -connect "+c.host+":443 -servername "+c.host+" 2>/dev/null | openssl x509 -noout -issuer")
		if err != nil || strings.Contains(issuer, "Claw Patrol") != c.gateways {
			t.Errorf("%s to %s: the certificate's issuer is %q, %v", c.agent.Name, c.host, issuer, err)
		}
	}
}

// A connection kept alive over the removal of the profile gets no further
// credential.
func TestI06_RemovedProfileEndsLiveConnections(t *testing.T) {
	live := startLive(t, ci, "api.example.com")
	if got := live.request(t); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Fatalf("the first request got %q", got)
	}
	if err := gateway.Operator.SetProfiles(t.Context(), ci.Registration, "ops"); err != nil {
		t.Fatal(err)
	}
	defer restoreProfile(t)
	if err := live.ended(t); err != nil {
		t.Errorf("the live connection: %v", err)
	}
	upstream.Forget()
	if _, status := curl(t, ci, "-H", "Authorization: mine", "https://api.example.com/after"); status != "200" {
		t.Errorf("a new connection got status %s, want the real server's answer", status)
	}
	for _, s := range upstream.Seen() {
		if s.Header.Get("Authorization") == "Bearer "+apiToken {
			t.Error("the token was injected after the profile had gone")
		}
	}
}

// A profile that the policy renames falls closed: the registration still has
// the old name, which means nothing any more.
func TestI06_RenamedProfileFailsClosed(t *testing.T) {
	live := startLive(t, ci, "api.example.com")
	live.request(t)
	renamed := strings.Replace(policyText, `profile "ci"`, `profile "continuous"`, 1)
	if ok, err := gateway.ReplacePolicy(t.Context(), renamed); err != nil || !ok {
		t.Fatalf("reload: %v, %v", ok, err)
	}
	defer func() {
		if ok, err := gateway.ReplacePolicy(t.Context(), policyText); err != nil || !ok {
			t.Errorf("restoring the policy: %v, %v", ok, err)
		}
		waitOK(t)
	}()
	if err := live.ended(t); err != nil {
		t.Errorf("the live connection: %v", err)
	}
	upstream.Forget()
	for _, host := range []string{"api.example.com", "ops.example.com"} {
		body, status := curl(t, ci, "https://"+host+"/")
		if status != "403" && status != "502" || !strings.Contains(body, "profile_missing") {
			t.Errorf("%s: status %s, body %s; want profile_missing", host, status, body)
		}
	}
	if n := len(upstream.Seen()); n != 0 {
		t.Errorf("the upstream saw %d requests", n)
	}
}

func restoreProfile(t *testing.T) {
	t.Helper()
	if err := gateway.Operator.SetProfiles(t.Context(), ci.Registration, "ci"); err != nil {
		t.Error(err)
	}
	waitOK(t)
}

// waitOK waits until ci is served as before.
func waitOK(t *testing.T) {
	t.Helper()
	if err := lab.Eventually(t.Context(), 10*time.Second, func() error {
		_, status, err := tryCurl(t.Context(), ci, "https://api.example.com/restored")
		if err == nil && status != "200" {
			err = errStatus(status)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

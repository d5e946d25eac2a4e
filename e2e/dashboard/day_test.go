package dashboard

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// dayPolicy is what a small company's gateway.hcl may look like.
const dayPolicy = `
gateway {
  state_dir  = "/var/lib/clawpatrol"
  public_url = "https://gw.example.com:8443"
}

# Code, and what is built of it.
endpoint "https" "github" { hosts = ["api.github.com", "uploads.github.com"] }
endpoint "https" "tickets" { hosts = ["tickets.example.com"] }
endpoint "ssh" "build" {
  hosts     = ["build.example.com"]
  host_keys = "approve"
  record    = true
}
endpoint "postgres" "orders" {
  hosts = ["orders.db.example.com"]
}

credential "bearer" "github" {
  endpoint = https.github
  env      = "GH_TOKEN"
}
credential "header" "tickets" {
  endpoint = https.tickets
  header   = "X-Api-Key"
}
credential "ssh_key" "deploy" {
  endpoint = ssh.build
  user     = "deploy"
}
credential "postgres" "reports" {
  endpoint  = postgres.orders
  user      = "reports"
  databases = ["orders"]
  read_only = true
}

profile "coding" {
  credentials = [bearer.github, header.tickets]
  default     = true
}
profile "deploy" { credentials = [bearer.github, ssh_key.deploy] }
profile "reports" { credentials = [postgres.reports] }
`

// newDay is a stage after a day of work: pictures are taken of it.
func newDay(t testing.TB) *stage {
	s := newStage(t, dayPolicy)
	ctx := t.Context()
	random := rand.New(rand.NewPCG(7, 24))
	s.ago(26 * time.Hour)
	ana := s.approved("ana-laptop", "198.51.100.7", "coding")
	build := s.approved("build-runner-2", "198.51.100.23", "coding", "deploy")
	etl := s.approved("nightly-reports", "203.0.113.60", "reports")
	bot := s.approved("support-bot", "203.0.113.61", "coding")
	gone := s.approved("interns-laptop", "198.51.100.99", "coding")
	for ref, slots := range map[string]map[string]secret.Secret{
		"bearer.github":    {"secret": secret.New([]byte("ghp_stage"))},
		"postgres.reports": {"password": secret.New([]byte("stage-password"))},
	} {
		must(t, s.db.SetCredential(ctx, ref, slots))
	}
	must(t, s.db.SetSecret(ctx, "webhook", secret.New([]byte("stage-webhook"))))

	type kind struct {
		reg    *registry.Registration
		weight int
		a      registry.Action
		status string
	}
	github := func(reg *registry.Registration, weight int, summary, status string) kind {
		return kind{reg, weight, registry.Action{Profile: "coding", Endpoint: "https.github", Credential: "bearer.github", Protocol: "https", Summary: summary, Verdict: "allow"}, status}
	}
	kinds := []kind{
		github(ana, 9, "GET /repos/example/shop/pulls", "200"),
		github(ana, 6, "GET /repos/example/shop/issues/{n}", "200"),
		github(ana, 2, "POST /repos/example/shop/issues/{n}/comments", "201"),
		github(build, 8, "GET /repos/example/shop/commits/main", "200"),
		github(build, 3, "POST /repos/example/shop/statuses/4f1c2ab", "201"),
		github(bot, 5, "GET /search/issues", "200"),
		{bot, 2, registry.Action{Profile: "coding", Endpoint: "https.tickets", Protocol: "https", Summary: "GET /v2/tickets/open", Verdict: "deny", Reason: "the credential header.tickets has no secret; an operator sets it in the dashboard"}, ""},
		{build, 2, registry.Action{Profile: "deploy", Endpoint: "ssh.build", Credential: "ssh_key.deploy", Protocol: "ssh", Summary: "exec make -C /srv/shop deploy", Verdict: "allow"}, "0"},
		{build, 1, registry.Action{Profile: "deploy", Endpoint: "ssh.build", Credential: "ssh_key.deploy", Protocol: "ssh", Summary: "sftp write /srv/shop/current/app.tar.gz", Verdict: "allow"}, "ok"},
		{build, 1, registry.Action{Profile: "deploy", Endpoint: "ssh.build", Credential: "ssh_key.deploy", Protocol: "ssh", Summary: "forward to db.internal:5432", Verdict: "deny", Reason: "the endpoint does not forward to db.internal:5432"}, ""},
		{etl, 7, registry.Action{Profile: "reports", Endpoint: "postgres.orders", Credential: "postgres.reports", Protocol: "postgres", Summary: "SELECT customer_id, sum(total) FROM orders WHERE placed_at > $1 GROUP BY customer_id", Verdict: "allow"}, "SELECT 412"},
		{etl, 1, registry.Action{Profile: "reports", Endpoint: "postgres.orders", Credential: "postgres.reports", Protocol: "postgres", Summary: "DELETE FROM orders WHERE placed_at < $1", Verdict: "deny", Reason: "the credential is for reading only"}, ""},
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for minutes := 25 * 60; minutes > 0; minutes -= 1 + random.IntN(8) {
		s.ago(time.Duration(minutes) * time.Minute)
		if hour := s.now().UTC().Hour(); hour < 6 && random.IntN(4) > 0 {
			continue
		}
		pick := random.IntN(total)
		for _, k := range kinds {
			if pick -= k.weight; pick < 0 {
				k.a.Registration = k.reg.ID
				s.act(k.a, registry.ActionResult{Status: k.status, BytesIn: random.Int64N(900), BytesOut: random.Int64N(90_000), Duration: time.Duration(20+random.IntN(300)) * time.Millisecond})
				break
			}
		}
	}
	s.ago(47 * time.Minute)
	must(t, s.db.Deviate(ctx, gone.ID, registry.Deviation{From: netip.MustParseAddr("192.0.2.66"), UDP: true, What: "a data packet"}))
	s.ago(0)
	must(t, s.db.Sync(ctx))
	s.db.ReportHealth(map[registry.ID]registry.PeerHealth{
		ana.ID:   {LastHandshake: s.now().Add(-40 * time.Second), BytesIn: 31 << 20, BytesOut: 212 << 20},
		build.ID: {LastHandshake: s.now().Add(-70 * time.Second), BytesIn: 480 << 20, BytesOut: 3 << 30},
		etl.ID:   {LastHandshake: s.now().Add(-12 * time.Second), BytesIn: 5 << 20, BytesOut: 96 << 20},
	})
	s.enrol("claude-workstation", "198.51.100.40")
	for i, command := range []string{"", "make -C /srv/shop deploy"} {
		rec, err := s.store.Start(recording.Meta{
			Registration: string(build.ID), Endpoint: "ssh.build", Credential: "ssh_key.deploy", Host: "build.example.com", User: "deploy",
			Command: command, PTY: i == 0, Term: "xterm", Columns: 80, Rows: 24,
		})
		must(t, err)
		must(t, rec.Stdout([]byte("deploy@build:~$ uptime\r\n 14:02:11 up 61 days,  3:10,  1 user\r\ndeploy@build:~$ exit\r\n")))
		must(t, rec.Finish("exit status 0"))
	}
	// What was decided before, and what waits now.
	for i, allow := range []bool{true, false} {
		held := s.hold(s.hostKey(build, []string{"build.example.com", "old.build.example.com"}[i]))
		must(t, s.db.Decide(ctx, s.pending(), allow, []string{"", "that host was retired in May"}[i], "198.51.100.5"))
		<-held.outcome
	}
	left := s.hold(s.hostKey(build, "gone.build.example.com"))
	left.leave()
	<-left.outcome
	s.hold(s.hostKey(build, "build.example.com", "SHA256:p1Xb4ZfYw5yqvT0cR3uJ6sN8mKdG2hLoQeViBtSxWz4"))
	s.hold(s.update(etl))
	return s
}

// update is a statement that a rule holds.
func (s *stage) update(reg *registry.Registration) registry.HeldRequest {
	const statement = "UPDATE orders SET status = $1 WHERE id = $2"
	return registry.HeldRequest{
		Registration: reg.ID, Endpoint: "postgres.orders", Kind: registry.ApproveAction, Rule: "writes-to-orders", Summary: statement,
		Detail: registry.ActionDetail{
			RuleReason: "changes to orders are looked at by a person",
			SQL:        &registry.SQLDetail{Database: "orders", User: "reports", Statement: statement, Verbs: []string{"UPDATE"}, Tables: []string{"orders"}},
		},
	}
}

// pending is the approval that waits, the newest.
func (s *stage) pending() registry.ApprovalID {
	s.t.Helper()
	list, err := s.db.Approvals(s.t.Context(), registry.ApprovalPending)
	must(s.t, err)
	if len(list) == 0 {
		s.t.Fatal("nothing waits")
	}
	return list[0].ID
}

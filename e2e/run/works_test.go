package run

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The first promise: a real curl, as an ordinary user, with a credential that it
// never held.
func TestRun_CurlGetsAnAnswerWithACredentialItNeverHeld(t *testing.T) {
	upstream.Forget()
	r := inside(t, `curl -sS -H "Authorization: Bearer $API_TOKEN" https://api.example.com/; echo "$API_TOKEN"`).ok(t)
	if !strings.HasPrefix(r.out, "ok HTTP/2.0") || !strings.Contains(r.out, "clawpatrol-api_token") {
		t.Fatalf("answer %q", r.out)
	}
	got := upstream.Seen()
	if len(got) != 1 || got[0].Header.Get("Authorization") != "Bearer "+apiToken {
		t.Fatalf("upstream saw %+v", got)
	}
}

func TestRun_EveryProtocolGoesThroughTheTunnel(t *testing.T) {
	v4, v6 := lab.WorldIPv4.String(), lab.WorldIPv6.String()
	for _, c := range []struct{ name, line, want string }{
		{"dig A", "dig +short A api.example.com", "10.55."},
		{"dig AAAA", "dig +short AAAA api.example.com", "fd55:"},
		{"dig over TCP", "dig +tcp +short A api.example.com", "10.55."},
		{"getent", "getent ahosts api.example.com", "10.55."},
		{"ping -4", "ping -4 -c1 -W5 " + v4, "1 received"},
		{"ping -6", "ping -6 -c1 -W5 " + v6, "1 received"},
		{"tcp over IPv4", "probe echo tcp " + v4 + ":7007 hello-tcp4", "hello-tcp4"},
		{"tcp over IPv6", "probe echo tcp [" + v6 + "]:7007 hello-tcp6", "hello-tcp6"},
		{"udp over IPv4", "probe echo udp " + v4 + ":7007 hello-udp4", "hello-udp4"},
		{"udp over IPv6", "probe echo udp [" + v6 + "]:7007 hello-udp6", "hello-udp6"},
		{"the way out is the gateway, IPv4", "probe connect tcp " + v4 + ":7008", lab.GatewayIPv4.String() + ":"},
		{"the way out is the gateway, IPv6", "probe connect tcp [" + v6 + "]:7008", lab.GatewayIPv6.String()},
		{"psql", "psql -w -h " + v4 + " -U nobody postgres 2>&1 || true", "the lab's server was reached"},
		{"ssh", "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null nobody@" + v4 + " hello", "ran hello"},
		{"a megabyte", "curl -sS https://api.example.com/bytes/1048576 | sha256sum", lab.PatternHash(1 << 20)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := inside(t, c.line).ok(t); !strings.Contains(r.out, c.want) {
				t.Fatalf("printed %q, %q; want %q", r.out, r.errs, c.want)
			}
		})
	}
}

func TestRun_FourteenAtOnceWithAddressesOfTheirOwnAndNoMore(t *testing.T) {
	const most = 14
	gate := host.Path(userHome + "/go-on")
	_ = os.Remove(gate)
	cmds := make([]*exec.Cmd, most)
	outs := make([]*lab.Output, most)
	for i := range cmds {
		outs[i] = new(lab.Output)
		// Each proves that its address works while all the others are there.
		cmds[i] = as(t.Context(), host, userID, userHome, "clawpatrol", "run", "sh", "-c",
			`ip -o addr show clawpatrol0; probe echo tcp 192.0.2.10:7007 one-of-many; while [ ! -e ~/go-on ]; do sleep 0.05; done; probe echo udp 192.0.2.10:7007 still-there`)
		cmds[i].Stdout, cmds[i].Stderr = outs[i], outs[i]
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range outs {
		if _, err := o.Wait(t.Context(), 60*time.Second, "one-of-many"); err != nil {
			t.Error(err)
		}
	}
	if r := inside(t, "true"); r.code != 1 || !strings.Contains(r.errs, "no address is free") || !strings.Contains(r.errs, "hint: ") {
		t.Errorf("one more: %+v", r)
	}
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(gate)
	used := make(map[string]bool)
	var wg sync.WaitGroup
	for i, c := range cmds {
		wg.Go(func() {
			if err := c.Wait(); err != nil || !strings.Contains(outs[i].String(), "still-there") {
				t.Errorf("run %d: %v: %s", i, err, outs[i])
			}
		})
		for _, f := range strings.Fields(outs[i].String()) {
			if p, err := netip.ParsePrefix(f); err == nil {
				if used[f] {
					t.Errorf("%s is used twice", p)
				}
				used[f] = true
			}
		}
	}
	wg.Wait()
	if len(used) != 2*most {
		t.Errorf("%d addresses for %d runs", len(used), most)
	}
	// They are all given back.
	if err := lab.Eventually(t.Context(), 5*time.Second, func() error {
		if r := inside(t, "true"); r.code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestRun_ExitStatusIsTheCommands(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		errs string
	}{
		{[]string{"run", "true"}, 0, ""},
		{[]string{"run", "--", "sh", "-c", "exit 7"}, 7, ""},
		{[]string{"run", "sh", "-c", "kill -9 $$"}, 128 + 9, ""},
		{[]string{"run", "sh", "-c", "kill -15 $$"}, 128 + 15, ""},
		{[]string{"run", "no-such-command"}, 127, `clawpatrol: starting "no-such-command"`},
		{[]string{"run", "/etc/passwd"}, 126, `clawpatrol: starting "/etc/passwd"`},
		{[]string{"run"}, 2, "hint: "},
		{[]string{"run", "--no-such-flag", "true"}, 2, "hint: "},
		{[]string{"run", "--state", "/var/home/dev/nowhere", "true"}, 1, "hint: "},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			r := finish(t, as(t.Context(), host, userID, userHome, append([]string{"clawpatrol"}, c.args...)...))
			if r.code != c.code || !strings.Contains(r.errs, c.errs) || (c.errs == "") != (r.errs == "") {
				t.Fatalf("status %d, stderr %q; want %d and %q", r.code, r.errs, c.code, c.errs)
			}
		})
	}
}

func TestRun_StandardInputAndOutputPassThrough(t *testing.T) {
	cmd := as(t.Context(), host, userID, userHome, "clawpatrol", "run", "sh", "-c", "tr a-z A-Z; echo on-stderr >&2")
	cmd.Stdin = strings.NewReader(strings.Repeat("hello\n", 20000))
	r := finish(t, cmd).ok(t)
	if r.out != strings.Repeat("HELLO\n", 20000) || r.errs != "on-stderr\n" {
		t.Fatalf("%d bytes, stderr %q", len(r.out), r.errs)
	}
}

func TestRun_EnvironmentHasPlaceholdersAndNoSecrets(t *testing.T) {
	set := []string{
		"GITHUB_TOKEN=a-real-one", "AWS_SECRET_ACCESS_KEY=a-real-one", "MY_API_KEY=a-real-one", "DATABASE_URL=postgres://u:a-real-one@db/x",
		"SSH_AUTH_SOCK=/tmp/agent", "https_proxy=http://127.0.0.1:3128", "API_TOKEN=a-real-one", "EDITOR=vim", "AWS_REGION=eu-west-1",
	}
	for _, keep := range []bool{false, true} {
		args := append([]string{"env"}, set...)
		args = append(args, "clawpatrol", "run")
		if keep {
			args = append(args, "--keep-env")
		}
		r := finish(t, as(t.Context(), host, userID, userHome, append(args, "env")...)).ok(t)
		if got := strings.Contains(r.out, "GITHUB_TOKEN=a-real-one"); got != keep {
			t.Errorf("--keep-env %v: %s", keep, r.out)
		}
		for _, want := range []string{"API_TOKEN=clawpatrol-api_token\n", "EDITOR=vim\n", "AWS_REGION=eu-west-1\n", "SSL_CERT_FILE=" + stateDir + "/public/bundle.pem\n"} {
			if !strings.Contains(r.out, want) {
				t.Errorf("--keep-env %v: no %q in %s", keep, want, r.out)
			}
		}
		if strings.Contains(r.out, "SSH_AUTH_SOCK") || strings.Contains(r.out, "proxy") || (!keep && strings.Contains(r.out, "a-real-one")) {
			t.Errorf("--keep-env %v: %s", keep, r.out)
		}
	}
}

// How long it takes is printed, for docs/agent-run.md, and what part that is of the
// time it should take at most; nothing is asserted.
func TestRun_StartUpTime(t *testing.T) {
	const (
		n    = 10
		most = 150 * time.Millisecond
	)
	mean := func(args ...string) time.Duration {
		began := time.Now()
		for range n {
			finish(t, as(t.Context(), host, userID, userHome, args...)).ok(t)
		}
		return time.Since(began) / n
	}
	inside(t, "true").ok(t) // the daemon is there
	with, without := mean("clawpatrol", "run", "true"), mean("true")
	t.Logf("clawpatrol run true: %s, %.2f of %s; the lab's share of it: %s", with, float64(with)/float64(most), most, without)
}

// /tmp is the run's own, but the directory that it was started in is there.
func TestRun_TmpIsItsOwn(t *testing.T) {
	dev(t, "mkdir -p /tmp/cp-run-test/sub && echo outside >/tmp/cp-run-test/sub/file && echo x >/tmp/cp-run-test-file").ok(t)
	defer dev(t, "rm -r /tmp/cp-run-test /tmp/cp-run-test-file")
	r := dev(t, "cd /tmp/cp-run-test/sub && clawpatrol run sh -c 'pwd; cat file; echo inside >file; echo y >/tmp/mine && cat /tmp/mine; test ! -e /tmp/cp-run-test-file'; ls /tmp/mine; cat file").out
	if r != "/tmp/cp-run-test/sub\noutside\ny\ninside\n" {
		t.Fatalf("%q", r)
	}
	if r := dev(t, "cd /run/user/"+userID+" && clawpatrol run true"); r.code != 1 || !strings.Contains(r.errs, "hint: this directory is not shown inside") {
		t.Fatalf("%+v", r)
	}
}

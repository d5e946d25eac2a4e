package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// agentEvent is a line of join, up, down and leave with --json.
type agentEvent struct {
	Event        string   `json:"event"`
	Message      string   `json:"message"`
	Name         string   `json:"name"`
	Registration string   `json:"registration"`
	UserCode     string   `json:"user_code"`
	Address      string   `json:"address"`
	Path         string   `json:"path"`
	Profiles     []string `json:"profiles"`
}

func events(t *testing.T, out string) (all []agentEvent, names []string) {
	t.Helper()
	for line := range strings.Lines(out) {
		var e agentEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event == "" || e.Message == "" {
			t.Fatalf("%q is no event: %v", line, err)
		}
		all = append(all, e)
		if e.Event != "note" {
			names = append(names, e.Event)
		}
	}
	return all, names
}

// run is a command on a host: its exit status and both outputs.
func run(t *testing.T, h *lab.Host, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := h.Command(t.Context(), args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// A script joins a host, reads what it needs, and undoes it, all in JSON.
func TestAgentCLI_JSON(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	h := w.lab.Agents[1]
	bin := w.lab.Bin
	before := state(t, h)
	out, errs := new(lab.Output), new(lab.Output)
	cmd := h.Command(context.WithoutCancel(ctx), bin, "join", "https://"+lab.GatewayHost+":8443", "--ca-fingerprint", w.gateway.CAFingerprint, "--name", "scripted", "--json")
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Error("join does not end")
		}
	})
	wait := func(event string) agentEvent {
		t.Helper()
		m, err := out.Wait(ctx, 30*time.Second, `(?m)^(\{"event":"`+event+`".*\})$`)
		if err != nil {
			t.Fatalf("%v\n%s", err, errs)
		}
		all, _ := events(t, m[1])
		return all[0]
	}
	r := lab.Registration{ID: wait("registration").Registration, UserCode: wait("user_code").UserCode}
	wait("waiting_for_approval")
	if err := w.gateway.Operator.Approve(ctx, r, "ci"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.gateway.Operator.Revoke(context.WithoutCancel(ctx), r.ID); err != nil {
			t.Error(err)
		}
	})
	wait("ready")
	all, names := events(t, out.String())
	want := []string{"gateway", "name", "registration", "user_code", "address", "address", "tunnel_up", "waiting_for_approval", "ca_installed", "ssh_hosts", "approved", "profiles", "ready"}
	if !slices.Equal(names, want) {
		t.Errorf("join told %q; want %q", names, want)
	}
	for _, e := range all {
		if e.Event == "profiles" && !slices.Equal(e.Profiles, []string{"ci"}) || e.Event == "ca_installed" && !strings.HasSuffix(e.Path, "/clawpatrol.crt") || e.Event == "name" && e.Name != "scripted" {
			t.Errorf("%+v", e)
		}
	}

	object := func(args ...string) map[string]any {
		t.Helper()
		code, stdout, stderr := run(t, h, append([]string{bin}, args...)...)
		var m map[string]any
		if err := json.Unmarshal([]byte(stdout), &m); err != nil || code != 0 || stderr != "" {
			t.Errorf("%q: exit status %d, %v, %q, %q", args, code, err, stdout, stderr)
		}
		return m
	}
	status := object("status", "--json")
	tunnel, _ := status["tunnel"].(map[string]any)
	if status["enrolled"] != true || status["state"] != "approved" || status["registration"] != r.ID || tunnel["up"] != true || tunnel["interface"] != "clawpatrol0" || tunnel["bypasses"] != nil {
		t.Errorf("status: %v", status)
	}
	if env := object("env", "--json"); env["API_TOKEN"] != "clawpatrol-api_token" {
		t.Errorf("env: %v", env)
	}
	if v := object("version", "--json"); v["version"] == "" || v["go"] == "" {
		t.Errorf("version: %v", v)
	}

	// Errors: the same exit status as without, one object, nothing on standard output.
	nobody := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", bin}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{bin, "up", "--json"}, 1, "another clawpatrol holds"},
		{[]string{bin, "join", "--json"}, 2, "wants an argument"},
		{append(nobody, "status", "--json"), 1, "root"},
		{append(nobody, "down", "--json"), 1, "root"},
		{append(nobody, "leave", "--json"), 1, "root"},
	} {
		code, stdout, stderr := run(t, h, c.args...)
		var f struct{ Error, Hint string }
		if err := json.Unmarshal([]byte(stderr), &f); err != nil || code != c.code || stdout != "" || !strings.Contains(f.Error, c.want) || f.Hint == "" {
			t.Errorf("%q: exit status %d, %q, %q, %v", c.args, code, stdout, stderr, err)
		}
	}

	// Down twice, up, leave twice.
	for _, c := range []struct{ command, want string }{{"down", "tunnel_down"}, {"down", "tunnel_down"}, {"up", "name registration tunnel_up approved ready tunnel_down"}, {"leave", "left"}, {"leave", "not_enrolled"}} {
		args := []string{bin, c.command, "--json"}
		if c.command == "up" {
			args = append([]string{"timeout", "--preserve-status", "-s", "INT", "6"}, args...)
		}
		code, stdout, stderr := run(t, h, args...)
		_, names := events(t, stdout)
		// The CA, the SSH hosts and the profiles are told where there is something to tell.
		names = slices.DeleteFunc(names, func(n string) bool { return n == "ca_installed" || n == "ssh_hosts" || n == "profiles" })
		if code != 0 || stderr != "" || strings.Join(names, " ") != c.want {
			t.Errorf("%s: exit status %d, %q; want %q\n%s\n%s", c.command, code, names, c.want, stdout, stderr)
		}
	}
	if status := object("status", "--json"); status["enrolled"] != false {
		t.Errorf("status: %v", status)
	}
	if after := state(t, h); after != before {
		t.Errorf("before join:\n%s\nafter leave:\n%s", before, after)
	}
}

// Doctor needs no HOST once the host has used one, and a route of the LAN's over
// the gateway's addresses does not go unseen: it would make endpoint hosts
// somebody else's.
func TestAgentCLI_RouteOverVirtualAddresses(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	j := w.joinSecond(t)
	if err := works(ctx, j); err != nil {
		t.Fatal(err)
	}
	told := func() (bypasses []struct {
		Route, Interface string
		Certain          bool
	}) {
		t.Helper()
		code, stdout, stderr := run(t, j.Host, w.lab.Bin, "status", "--json")
		var s struct {
			Tunnel struct{ Bypasses json.RawMessage }
		}
		if err := json.Unmarshal([]byte(stdout), &s); err != nil || code != 0 {
			t.Fatalf("%d %q %q %v", code, stdout, stderr, err)
		}
		if s.Tunnel.Bypasses != nil {
			if err := json.Unmarshal(s.Tunnel.Bypasses, &bypasses); err != nil {
				t.Fatal(err)
			}
		}
		return bypasses
	}
	routes := []string{"routes", "dns api.example.com"}
	if results := doctorUntil(ctx, t, j.Host, routes); results["dns api.example.com"] != "ok" || results["routes"] != "ok" || len(told()) != 0 {
		t.Errorf("before: %v, %v", results, told())
	}
	for _, route := range []string{"10.55.192.0/24", "fd55:c1a5:0:c000::/64"} {
		via, family := "via 198.51.101.1", "-4"
		if strings.Contains(route, ":") {
			via, family = "via 2001:db8:101::1", "-6"
		}
		if err := j.Script(ctx, "ip route add "+route+" "+via); err != nil {
			t.Fatal(err)
		}
		if out, err := j.Shell(ctx, "curl -sS -o /dev/null --max-time 3 "+family+" https://api.example.com/"); err == nil {
			t.Errorf("%s takes nothing out of the tunnel: the test proves nothing: %s", route, out)
		}
		if results := doctorUntil(ctx, t, j.Host, routes); results["routes"] != "fail" || results["dns api.example.com"] != "fail" {
			t.Errorf("%s: doctor says %v", route, results)
		}
		if b := told(); len(b) != 1 || b[0].Route != route || b[0].Interface != "eth0" || !b[0].Certain {
			t.Errorf("%s: status says %v", route, b)
		}
		if err := j.Script(ctx, "ip route del "+route+" "+via); err != nil {
			t.Fatal(err)
		}
	}
	// One beside them is the LAN's.
	if err := j.Script(ctx, "ip route add 10.55.24.0/24 via 198.51.101.1"); err != nil {
		t.Fatal(err)
	}
	if results := doctorUntil(ctx, t, j.Host, routes); results["routes"] != "ok" || len(told()) != 0 {
		t.Errorf("a route beside: %v, %v", results, told())
	}
	if err := j.Script(ctx, "ip route del 10.55.24.0/24"); err != nil {
		t.Fatal(err)
	}
}

// Whoever reads what join prints may go, as in `join | head`: the tunnel stays.
// The terminal's end is a Ctrl-C: a host that nobody holds a tunnel for would be
// left without any network.
func TestAgentCLI_OutlivesItsReaderButNotItsTerminal(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	j := w.joinSecond(t)
	if err := j.Stop(); err != nil {
		t.Fatal(err)
	}
	down := state(t, j.Host)
	cmd := j.Command(context.WithoutCancel(ctx), w.lab.Bin, "up")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if err := reader.Close(); err != nil { // every line meets a closed pipe
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := lab.Eventually(ctx, 30*time.Second, func() error { return works(ctx, j) }); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("up ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("up does not end with its terminal")
	}
	if after := state(t, j.Host); after != down {
		t.Errorf("before up:\n%s\nafter its end:\n%s", down, after)
	}
}

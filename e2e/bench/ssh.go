package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	sshHost    = "build.example.com"   // an endpoint of the policy
	sshSpliced = "spliced.example.com" // the same server by a name that is not in the policy
	sshCipher  = "aes128-gcm@openssh.com"

	sshDir = "/etc/bench-ssh" // on the agent hosts: the key of those without a gateway
)

// sshRows compares Debian's ssh through the gateway with the same without one,
// and with the same carried by the gateway's tunnel. All of them end at one sshd.
func (m *meter) sshRows(ctx context.Context) (err error) {
	s := m.stage
	world, err := s.startSSH(ctx)
	if err != nil {
		return fmt.Errorf("the world of the SSH rows: %w", err)
	}
	defer func() { err = errors.Join(err, world.close(context.WithoutCancel(ctx))) }()
	if err := m.sshStream(ctx, world); err != nil {
		return fmt.Errorf("%s: %w", sshStreamRow, err)
	}
	t := &table{meter: m, title: "SSH", names: []string{"direct", "spliced", "ours"}, against: []int{0, 1}, compared: []int{1}}
	client, server := otherPart("ssh", world.clients), otherPart("sshd", tree(world.sshd))
	tunnelled := []part{gatewayPart("gateway", pid(s.gateway.PID())), otherPart("tunnel's other end", pid(s.joined.PID())), client, server}
	all := func(open func(sshWay, context.Context) (load, error)) []contender {
		by := func(w sshWay) func(context.Context) (load, error) {
			return func(ctx context.Context) (load, error) { return open(w, ctx) }
		}
		return []contender{
			{[]part{client, server}, by(world.direct)},
			{tunnelled, by(world.spliced)},
			{tunnelled, by(world.ours)},
		}
	}
	return t.end(errors.Join(
		t.row(ctx, row{"SSH, one session down", "B/s", "0.85 of direct, 0.9 of spliced", "", ""}, all(sshWay.down)...),
		t.row(ctx, row{"SSH, one session up", "B/s", "0.85 of direct, 0.9 of spliced", "", ""}, all(sshWay.up)...),
		t.row(ctx, row{"SSH, echoes of 1 byte", "/s", "", "SSH, echo p50, and what ours adds", "+100 to direct"}, all(sshWay.echo)...),
		t.row(ctx, row{"SSH, a command on a connection that is there (ControlMaster)", "/s", "0.95 of direct", "", ""}, all(sshWay.shared)...),
		t.row(ctx, row{"SSH, a connection and a command", "/s", "0.95 of direct", "", ""}, all(sshWay.fresh)...),
	))
}

// sshWorld is the server of the SSH rows, and the ways to it.
type sshWorld struct {
	stage                 *stage
	server                *lab.SSHD
	sshd                  int // the process above it
	direct, spliced, ours sshWay
	running               map[int]bool // the clients' processes
	before                string       // the policy without this endpoint
}

// startSSH starts the server, and has the joined agent host use it.
func (s *stage) startSSH(ctx context.Context) (*sshWorld, error) {
	public, private, err := lab.SSHKey()
	if err != nil {
		return nil, err
	}
	// Its log tells the new keys; nothing else is said once a session runs.
	server, err := s.lab.StartSSHD(ctx, lab.SSHDConfig{Name: sshHost, Offset: 30, Authorized: public, More: fmt.Sprintf("RekeyLimit %d\nMatch User %s\n  LogLevel DEBUG1", rekeyAfter, lab.SSHAccount)})
	if err != nil {
		return nil, err
	}
	s.lab.Names.Set(sshSpliced, lab.WorldAddresses(30)...)
	for _, h := range []*lab.Host{s.plain, s.joined.Host} {
		if err := errors.Join(
			h.Script(ctx, "mkdir -m 700 "+sshDir),
			h.WriteFile(sshDir+"/key", private, 0o600),
			h.WriteFile(sshDir+"/known_hosts", sshHost+","+sshSpliced+" "+server.HostKey+"\n", 0o600),
		); err != nil {
			return nil, err
		}
	}
	current, err := s.lab.Gateway.ReadFile("/etc/clawpatrol/gateway.hcl")
	if err != nil {
		return nil, err
	}
	w := &sshWorld{stage: s, server: server, running: make(map[int]bool), before: strings.TrimPrefix(current, s.lab.GatewayBlock("127.0.0.1:8080"))}
	if err := s.usePolicy(ctx, w.before+fmt.Sprintf(`
endpoint "ssh" "build" {
  hosts     = [%q]
  host_keys = [%q]
}
credential "ssh_key" "build" {
  endpoint = ssh.build
  user     = %q
}
profile "ssh" { credentials = [ssh_key.build] }
`, sshHost, server.HostKey, lab.SSHAccount)); err != nil {
		return nil, err
	}
	if err := s.gateway.Operator.SetProfiles(ctx, s.joined.Registration, "bench", "ssh"); err != nil {
		return nil, err
	}
	if err := s.gateway.Operator.Do(ctx, http.MethodPut, "/api/credentials/ssh_key/build", map[string]any{"slots": map[string]string{"private_key": private}}, nil); err != nil {
		return nil, err
	}
	if w.sshd, err = sshdPID(); err != nil {
		return nil, err
	}
	ownKey := []string{"-i", sshDir + "/key", "-o", "UserKnownHostsFile=" + sshDir + "/known_hosts", "-o", "GlobalKnownHostsFile=none"}
	w.direct = sshWay{w, s.plain, ownKey, sshHost}
	w.spliced = sshWay{w, s.joined.Host, ownKey, sshSpliced}
	w.ours = sshWay{w, s.joined.Host, []string{"-o", "IdentityFile=none", "-o", "UserKnownHostsFile=none"}, sshHost}
	s.started = append(s.started, tree(w.sshd), func() []int { return w.clients()[1:] }) // without this process, which is counted
	return w, nil
}

func (s *stage) usePolicy(ctx context.Context, policy string) error {
	reloaded, err := s.gateway.ReplacePolicy(ctx, policy)
	if err == nil && !reloaded {
		err = fmt.Errorf("the policy was not taken: %s", s.gateway.Log.Tail(3))
	}
	return err
}

// close leaves the stage as it was.
func (w *sshWorld) close(ctx context.Context) error {
	s := w.stage
	return errors.Join(s.gateway.Operator.SetProfiles(ctx, s.joined.Registration, "bench"), s.usePolicy(ctx, w.before))
}

// clients are this process, which waits for those that have ended, and those that
// run.
func (w *sshWorld) clients() []int {
	all := []int{os.Getpid()}
	for p := range w.running {
		all = append(all, p)
	}
	return all
}

// sshdPID finds the lab's server among the processes that this one has started.
func sshdPID() (int, error) {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that has ended
		}
		for child := range strings.FieldsSeq(string(b)) {
			if line, err := os.ReadFile("/proc/" + child + "/cmdline"); err == nil && strings.Contains(string(line), "/usr/sbin/sshd") {
				return strconv.Atoi(child)
			}
		}
	}
	return 0, errors.New("no sshd is running")
}

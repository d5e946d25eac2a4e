package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The hosts. Each has a sshd of its own.
const (
	buildHost  = "build.example.com"  // its key is in the policy
	freshHost  = "fresh.example.com"  // its key is an operator's to accept
	legacyHost = "legacy.example.com" // takes a password; sessions are recorded
	innerHost  = "inner.example.com"  // reached through build
	farHost    = "far.example.com"    // no endpoint: the agent has a key of its own
	wrongHost  = "wrong.example.com"  // is build, where the policy has another key
	portHost   = "port.example.com"   // is build too, by an address in the policy and at another port
	unsetHost  = "unset.example.com"  // is build, with a credential that has no secret

	// What only build can reach, by names that only build knows.
	echoTarget    = "echo.internal:7000"
	privateTarget = "private.internal:7000"
)

const password = "REALpasswordOfLegacy-7531"

// An agent's user, who is not root. /home is not the host's own in the lab.
const (
	agentUser = "agent"
	agentHome = "/var/home/" + agentUser
)

// python is Debian's: that of its packages.
const python = "/usr/bin/python3"

type server struct {
	name string
	*lab.SSHD
}

// world is a lab with the servers, the gateway and a joined agent host.
type world struct {
	lab     *lab.Lab
	gateway *lab.Gateway
	agent   *lab.Joined
	other   *lab.Joined // has no SSH credentials
	servers map[string]server
	key     string // of the credential ssh_key.deploy
	fars    string // the key of the agent's own, for farHost
}

// prepare installs the programs that are missing.
func prepare(ctx context.Context) error {
	packages := []string{"sshd=openssh-server", "ssh=openssh-client", "rsync", "git", "curl", "script=bsdutils"}
	if exec.CommandContext(ctx, python, "-c", "import paramiko").Run() != nil {
		packages = append(packages, "python3-paramiko")
	}
	out, err := exec.CommandContext(ctx, "sh", append([]string{"../peers.sh"}, packages...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("installing the programs: %w: %s", err, out)
	}
	return nil
}

func newWorld(ctx context.Context, l *lab.Lab) (*world, error) {
	w := &world{lab: l, servers: make(map[string]server)}
	public, private, err := lab.SSHKey()
	if err != nil {
		return nil, err
	}
	w.key = private
	farPublic, farPrivate, err := lab.SSHKey()
	if err != nil {
		return nil, err
	}
	w.fars = farPrivate
	for i, name := range []string{buildHost, freshHost, legacyHost, innerHost, farHost} {
		cfg := lab.SSHDConfig{Name: name, Offset: 20 + i, Authorized: public, More: "AcceptEnv FORBIDDEN"}
		switch name {
		case legacyHost:
			cfg.Authorized, cfg.Password = "", password
		case farHost:
			cfg.Authorized = farPublic
		}
		s, err := l.StartSSHD(ctx, cfg)
		if err != nil {
			return nil, err
		}
		w.servers[name] = server{name, s}
	}
	l.Names.Set(wrongHost, lab.WorldAddresses(20)...)
	l.Names.Set(unsetHost, lab.WorldAddresses(20)...)
	if err := w.serveTargets(ctx); err != nil {
		return nil, err
	}
	_, otherKey, err := lab.SSHKey()
	if err != nil {
		return nil, err
	}
	if w.gateway, err = l.StartGateway(ctx, w.policy(), nil); err != nil {
		return nil, err
	}
	for credential, slots := range map[string]map[string]string{
		"ssh_key/deploy":      {"private_key": w.key},
		"ssh_key/fresh":       {"private_key": w.key},
		"ssh_key/port":        {"private_key": w.key},
		"ssh_key/inner":       {"private_key": w.key},
		"ssh_key/wrong":       {"private_key": otherKey},
		"ssh_password/legacy": {"password": password},
	} {
		if err := w.gateway.Operator.Do(ctx, "PUT", "/api/credentials/"+credential, map[string]any{"slots": slots}, nil); err != nil {
			return nil, err
		}
	}
	var joins errgroup.Group
	joins.Go(func() (err error) { w.agent, err = l.Join(ctx, l.Agents[0], w.gateway, "ci"); return err })
	joins.Go(func() (err error) { w.other, err = l.Join(ctx, l.Agents[1], w.gateway, "none"); return err })
	if err := joins.Wait(); err != nil {
		return nil, err
	}
	for _, h := range l.Agents {
		if err := h.Script(ctx, fmt.Sprintf("mkdir -p /var/home; useradd --create-home --home-dir %s --shell /bin/bash %s", agentHome, agentUser)); err != nil {
			return nil, err
		}
	}
	return w, w.prepareDirect(ctx)
}

func (w *world) policy() string {
	_, wrong, _ := strings.Cut(w.servers[farHost].HostKey, " ")
	return fmt.Sprintf(`
endpoint "ssh" "build" {
  hosts     = [%q]
  host_keys = [%q]
  forward   = [%q, "%s:22"]
}
endpoint "ssh" "fresh" {
  hosts     = [%q]
  host_keys = "approve"
}
endpoint "ssh" "legacy" {
  hosts     = [%q]
  host_keys = [%q]
  record    = true
}
endpoint "ssh" "inner" {
  hosts     = [%q]
  host_keys = [%q]
  jump      = ssh.build
}
endpoint "ssh" "wrong" {
  hosts     = [%q]
  host_keys = ["ssh-ed25519 %s"]
}
endpoint "ssh" "unset" {
  hosts     = [%q]
  host_keys = [%q]
}
endpoint "ssh" "port" {
  hosts     = ["%s:2222"]
  address   = "%s:22"
  host_keys = [%q]
}
endpoint "https" "api" { hosts = ["api.example.com"] }
credential "ssh_key" "deploy" {
  endpoint = ssh.build
  user     = %[17]q
}
credential "ssh_key" "fresh" {
  endpoint = ssh.fresh
  users    = [%[17]q, "root"]
}
credential "ssh_password" "legacy" {
  endpoint = ssh.legacy
  user     = %[17]q
}
credential "ssh_key" "inner" {
  endpoint = ssh.inner
  user     = %[17]q
}
credential "ssh_key" "wrong" {
  endpoint = ssh.wrong
  user     = %[17]q
}
credential "ssh_key" "unset" {
  endpoint = ssh.unset
  user     = %[17]q
}
credential "ssh_key" "port" {
  endpoint = ssh.port
  user     = %[17]q
}
credential "bearer" "api" { endpoint = https.api }
profile "ci" { credentials = [ssh_key.deploy, ssh_key.fresh, ssh_password.legacy, ssh_key.inner, ssh_key.wrong, ssh_key.unset, ssh_key.port] }
profile "none" { credentials = [bearer.api] }
`, buildHost, w.servers[buildHost].HostKey, echoTarget, farHost,
		freshHost,
		legacyHost, w.servers[legacyHost].HostKey,
		innerHost, w.servers[innerHost].HostKey,
		wrongHost, wrong,
		unsetHost, w.servers[buildHost].HostKey,
		portHost, lab.WorldAddresses(20)[0], w.servers[buildHost].HostKey,
		lab.SSHAccount)
}

// serveTargets are the two services behind build: one echoes.
func (w *world) serveTargets(ctx context.Context) error {
	hosts := "127.0.0.1 echo.internal\n127.0.0.2 private.internal\n"
	for name := range w.servers {
		v4 := lab.WorldAddresses(20 + map[string]int{buildHost: 0, freshHost: 1, legacyHost: 2, innerHost: 3, farHost: 4}[name])[0]
		hosts += v4.String() + " " + name + "\n"
	}
	if err := w.lab.World.WriteFile("/etc/hosts", hosts, 0o644); err != nil {
		return err
	}
	for _, addr := range []string{"127.0.0.1:7000", "127.0.0.2:7000"} {
		ln, err := w.lab.World.Listen(addr)
		if err != nil {
			return err
		}
		go echo(ln) // ends with this process
	}
	return nil
}

// directKey is where the world's root has the key: what a session is without a
// gateway is tried there.
const directKey = "/root/.ssh/direct"

func (w *world) prepareDirect(ctx context.Context) error {
	if err := w.lab.World.Script(ctx, "mkdir -p -m 700 /root/.ssh"); err != nil {
		return err
	}
	known := ""
	for name, s := range w.servers {
		known += name + " " + s.HostKey + "\n"
	}
	return errors.Join(
		w.lab.World.WriteFile(directKey, w.key, 0o600),
		w.lab.World.WriteFile("/root/.ssh/known_hosts", known, 0o600),
		w.lab.World.WriteFile("/root/.ssh/config", "IdentityFile "+directKey+"\nUser "+lab.SSHAccount+"\n", 0o600))
}

// ran is how a command ended.
type ran struct {
	stdout, stderr string
	code           int
}

func (r ran) String() string {
	return fmt.Sprintf("status %d\nstdout: %q\nstderr: %q", r.code, r.stdout, r.stderr)
}

// asAgent is a command that the agent's user runs on a host, with nothing in its
// environment.
func asAgent(ctx context.Context, h *lab.Host, line string) *exec.Cmd {
	return ending(h.Command(ctx, "setpriv", "--reuid="+agentUser, "--regid="+agentUser, "--init-groups",
		"env", "-i", "--chdir="+agentHome, "HOME="+agentHome, "USER="+agentUser, "LANG=C.UTF-8", "TERM=xterm", "PATH=/usr/local/bin:/usr/bin:/bin",
		"sh", "-c", line))
}

// ending makes a command end with all that it has started, when its context does.
func ending(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// runTimeout bounds one line of a program, which hangs then.
const runTimeout = 4 * time.Minute

// run runs a line as the agent's user does, without a terminal.
func (w *world) run(t *testing.T, line string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	return collect(t, asAgent(ctx, w.agent.Host, line))
}

// direct runs a line where there is no gateway, with the key at hand.
func (w *world) direct(t *testing.T, line string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	return collect(t, ending(w.lab.World.Command(ctx, "env", "-i", "--chdir=/root", "HOME=/root", "LANG=C.UTF-8", "TERM=xterm", "PATH=/usr/bin:/bin", "sh", "-c", line)))
}

func collect(t *testing.T, cmd *exec.Cmd) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return ran{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// works runs a line that must end well, and returns its stdout.
func (w *world) works(t *testing.T, line string) string {
	t.Helper()
	r := w.run(t, line)
	if r.code != 0 {
		t.Fatalf("%s\n%v", line, r)
	}
	return r.stdout
}

// scratch makes a directory of the agent's user, on the agent host, and returns
// its path. It is on disk and not in the lab's memory.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "clawpatrol-ssh-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o777)) // its user and the world's have other numbers
	return dir
}

// accepted counts how often a server has let the account in.
func (s server) accepted() int {
	return strings.Count(s.Log.String(), "Accepted publickey for "+lab.SSHAccount) + strings.Count(s.Log.String(), "Accepted password for "+lab.SSHAccount)
}

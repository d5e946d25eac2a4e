// Package agent is what runs on an agent host: it enrols the host with a
// gateway, brings the tunnel up, sends the host's traffic through it, and undoes
// all of that.
//
// What it changes outside its own state directory, it first writes to a journal
// there. Undoing replays the journal backwards, so that a host looks the same
// after `clawpatrol leave` as before `clawpatrol join`, also when the process was
// killed at any point in between.
//
// While the tunnel is wanted but not there, nothing leaves the host except to
// the gateway and to its own networks: the routes fail closed, and stay so when
// the process dies.
package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// DefaultStateDir is where an agent host keeps its registration.
const DefaultStateDir = "/var/lib/clawpatrol-agent"

// Config describes an agent host. The zero value is the real one.
type Config struct {
	StateDir string // "": DefaultStateDir

	// Root is put before every path of the host's that is read or changed: /etc,
	// /usr, /run. "": the host's own.
	Root string

	// Out receives the lines that scripts rely on (docs/agent-hosts.md). nil:
	// discarded.
	Out io.Writer

	JSON bool // Out receives each line as an Event in JSON

	// Run executes one of the host's own programs: update-ca-certificates,
	// systemctl, keytool. nil: os/exec, with the program's output in the error.
	Run func(ctx context.Context, name string, args ...string) error

	// Lookup resolves the gateway's name. nil: the host's original resolvers, in
	// marked queries that do not enter the tunnel.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// SystemBus is the address of the D-Bus where systemd-resolved may be. "": the
	// host's system bus.
	SystemBus string

	// Now is the host's clock. nil: time.Now.
	Now func() time.Time

	// Runs serves `clawpatrol run` of this host's users, where root has allowed it
	// (JoinRequest.RunUsers). It returns the device that WireGuard gets in the place
	// of host, which that device closes in the end, and what answers on ln until ctx
	// ends. nil: nobody is served.
	Runs func(host tun.Device, s Shared) (dev tun.Device, serve func(ctx context.Context, ln *net.UnixListener), err error)

	// checkpoint is called between any two changes. Tests end the process there.
	checkpoint func(name string)
}

// Agent is one agent host's registration with one gateway.
type Agent struct {
	cfg   Config
	paths paths
	outMu sync.Mutex // held to write to cfg.Out

	unprivileged bool // its enrolment serves `clawpatrol run` only, see NewForRun

	envTold map[string]string // what writeEnv was last given: it tells once
	sshTold string            // what knowSSH last said
}

// New returns the agent of a host. It reads and changes nothing.
func New(cfg Config) *Agent {
	if cfg.StateDir == "" {
		cfg.StateDir = DefaultStateDir
	}
	// What env and the service's unit name must not depend on where a command was
	// started.
	if abs, err := filepath.Abs(cfg.StateDir); err == nil {
		cfg.StateDir = abs
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	if cfg.Run == nil {
		cfg.Run = execute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.checkpoint == nil {
		cfg.checkpoint = func(string) {}
	}
	a := &Agent{cfg: cfg, paths: paths{dir: cfg.StateDir}}
	if a.cfg.Lookup == nil {
		a.cfg.Lookup = a.lookupOriginal
	}
	return a
}

// host returns where a path of the host's is.
func (a *Agent) host(path string) string { return filepath.Join(a.cfg.Root, path) }

// paths are the files below the state directory: secrets in private (0700), what
// every user of the host may read in public (0755).
type paths struct{ dir string }

func (p paths) private() string   { return filepath.Join(p.dir, "private") }
func (p paths) public() string    { return filepath.Join(p.dir, "public") }
func (p paths) state() string     { return filepath.Join(p.private(), "state.json") }
func (p paths) journal() string   { return filepath.Join(p.private(), "journal") }
func (p paths) lock() string      { return filepath.Join(p.private(), "lock") }
func (p paths) ca() string        { return filepath.Join(p.public(), "ca.pem") }
func (p paths) bundle() string    { return filepath.Join(p.public(), "bundle.pem") }
func (p paths) javaStore() string { return filepath.Join(p.public(), "java-cacerts") }
func (p paths) env() string       { return filepath.Join(p.public(), "env.json") }

const controlSocket = "control.sock"

// maxProgramOutput bounds what an error quotes of a failed program.
const maxProgramOutput = 2 << 10 // bytes

func execute(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		if len(out) > maxProgramOutput {
			out = out[len(out)-maxProgramOutput:]
		}
		return fmt.Errorf("running %s: %w: %s", name, err, out)
	}
	return nil
}

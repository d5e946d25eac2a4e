package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/crypto/curve25519"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	apiHost     = "api.example.com"
	token       = "the-real-token"
	placeholder = "clawpatrol-api"

	kib = 1 << 10
	mib = 1 << 20

	policyText = `
endpoint "https" "api" {
  hosts   = ["api.example.com"]
  ca_file = "lab-ca.pem"
}
credential "bearer" "api" { endpoint = https.api }
profile "bench" { credentials = [bearer.api, postgres.bench, postgres.bench_ro] }
egress { allow = ["203.0.113.2:9000", "203.0.113.2:9001"] }
`

	// Where no gateway is, and so no resolver of its own.
	alonePolicyText = `
gateway {
  state_dir  = "state"
  public_url = "https://gw.example.net:8443"
}
endpoint "https" "api" {
  hosts   = ["api.example.com"]
  address = "192.0.2.10:443"
  ca_file = "lab-ca.pem"
}
endpoint "https" "go" {
  hosts   = ["go.example.com"]
  address = "192.0.2.16:443"
  ca_file = "lab-ca.pem"
}
credential "bearer" "api" { endpoint = https.api }
credential "bearer" "go" { endpoint = https.go }
profile "bench" { credentials = [bearer.api, bearer.go, postgres.bench, postgres.bench_ro] }
`

	directIPv4 = "192.0.2.15" // the upstream, where only the direct contender goes
	goIPv4     = "192.0.2.16" // goHost, an upstream on net/http
	goHost     = "go.example.com"
)

// stage is the lab with its contenders. The first agent host has joined the
// gateway. The second has a plain WireGuard link to the gateway host (kernel TUNs
// at both ends), one to the TLS splice, and its network.
type stage struct {
	lab     *lab.Lab
	client  string // the load generator
	gateway *lab.Gateway
	joined  *lab.Joined
	plain   *lab.Host

	plainPeer, plainAgent    *exec.Cmd // WireGuard alone: the gateway's end, the agent's end
	spliceAgent, splicer     *exec.Cmd
	splicerAlone, ourHandler *exec.Cmd // without a tunnel
	upstream, nginx          *exec.Cmd

	roots   *x509.CertPool // of the lab, of the gateway and of the other programs with a CA
	virtual netip.Addr     // apiHost, towards the joined agent

	started []func() []int // the processes of the contenders
	closers []func()
}

func newStage(ctx context.Context, l *lab.Lab, client string) (_ *stage, err error) {
	s := &stage{lab: l, client: client, plain: l.Agents[1], roots: x509.NewCertPool()}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.roots.AppendCertsFromPEM(l.PKI.PEM)
	for _, h := range append([]*lab.Host{l.World, l.Gateway}, l.Agents...) {
		// A connection for every request needs many ports; see docs/performance.md.
		if err := h.Script(ctx, "sysctl -qw net.ipv4.tcp_tw_reuse=1 'net.ipv4.ip_local_port_range=10240 65535' net.ipv4.tcp_max_syn_backlog=4096"); err != nil {
			return nil, err
		}
	}
	if err := l.World.Script(ctx, "ip address add "+directIPv4+"/32 dev lo"); err != nil {
		return nil, err
	}
	l.Names.Set(apiHost, lab.WorldIPv4)
	if s.upstream, err = s.startNginx(ctx, l.World, upstreamConf, lab.WorldIPv4.String()); err != nil {
		return nil, err
	}
	if err := l.ServeHTTPS(ctx, goHost, 6, http.HandlerFunc(serveSized)); err != nil {
		return nil, err
	}
	if s.gateway, err = l.StartGateway(ctx, policyText+postgresPolicy(""), map[string]string{"lab-ca.pem": string(l.PKI.PEM)}); err != nil {
		return nil, err
	}
	if err := s.gateway.Operator.SetCredential(ctx, "bearer", "api", token); err != nil {
		return nil, err
	}
	if s.joined, err = l.Join(ctx, l.Agents[0], s.gateway, "bench"); err != nil {
		return nil, err
	}
	s.started = append(s.started, pid(s.gateway.PID()), pid(s.joined.PID()))
	if s.virtual, err = s.resolve(ctx); err != nil {
		return nil, err
	}
	ca, err := s.gateway.StateFile("ca/ca.crt")
	if err != nil {
		return nil, err
	}
	s.roots.AppendCertsFromPEM(ca)
	return s, s.startLimits(ctx)
}

func (s *stage) resolve(ctx context.Context) (netip.Addr, error) {
	c, err := s.joined.Dial(ctx, "udp", "10.55.0.1:53")
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	conn := &dns.Conn{Conn: c}
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return netip.Addr{}, err
	}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(apiHost+".", dns.TypeA)); err != nil {
		return netip.Addr{}, err
	}
	m, err := conn.ReadMsg()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A.To4())
			return addr, nil
		}
	}
	return netip.Addr{}, errors.New("the gateway's resolver gave no address")
}

// startLimits starts what the gateway is measured against.
func (s *stage) startLimits(ctx context.Context) (err error) {
	gwPriv, gwPub := key()
	agPriv, agPub := key()
	if s.plainPeer, err = s.start(ctx, s.lab.Gateway, "wireguard-peer", "plain0", "10.77.0.1/24", gwPriv, "51901", agPub, "", "10.77.0.2/32"); err != nil {
		return err
	}
	if s.plainAgent, err = s.start(ctx, s.plain, "wireguard-peer", "plain0", "10.77.0.2/24", agPriv, "51901", gwPub, lab.GatewayIPv4.String()+":51901", "10.77.0.1/32"); err != nil {
		return err
	}
	gwPriv, gwPub = key()
	agPriv, agPub = key()
	upstream := lab.WorldIPv4.String() + ":443"
	if s.splicer, err = s.startWithCA(ctx, "tls-splice", upstream, gwPriv, "51902", agPub, "10.78.0.0/24", "198.51.101.2"); err != nil {
		return err
	}
	if s.spliceAgent, err = s.start(ctx, s.plain, "wireguard-peer", "splice0", "10.78.0.2/24", agPriv, "51902", gwPub, lab.GatewayIPv4.String()+":51902", "0.0.0.0/0"); err != nil {
		return err
	}
	if err := s.plain.Script(ctx, "ip route replace 192.0.2.10/32 dev splice0"); err != nil {
		return err
	}
	if s.splicerAlone, err = s.startWithCA(ctx, "tls-splice-alone", upstream, ":"+splicePort); err != nil {
		return err
	}
	if s.ourHandler, err = s.startWithCA(ctx, "handler-alone", apiHost, ":"+handlerPort, goHost, ":"+goHandlerPort); err != nil {
		return err
	}
	s.nginx, err = s.startNginx(ctx, s.lab.Gateway, proxyConf, lab.GatewayIPv4.String())
	return err
}

// The ports of those without a tunnel, on the gateway host.
const (
	splicePort    = "4431"
	handlerPort   = "4432"
	goHandlerPort = "4433" // to goHost
)

// start runs a role on a host and waits until it prints "ready".
func (s *stage) start(ctx context.Context, h *lab.Host, role string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := h.Command(ctx, append([]string{self, role}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.onClose(func() { end(cmd) })
	s.started = append(s.started, pid(cmd.Process.Pid))
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, ready); err != nil {
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	return cmd, nil
}

// startWithCA starts a role on the gateway host that has a CA in its directory,
// its first argument, and trusts it.
func (s *stage) startWithCA(ctx context.Context, role string, args ...string) (*exec.Cmd, error) {
	dir, err := s.tempDir()
	if err != nil {
		return nil, err
	}
	for name, content := range map[string]string{"roots.pem": string(s.lab.PKI.PEM), "lab-ca.pem": string(s.lab.PKI.PEM), "gateway.hcl": alonePolicyText + postgresPolicy(`address = "`+databaseAddress+`"`)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	cmd, err := s.start(ctx, s.lab.Gateway, role, append([]string{dir}, args...)...)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca/ca.crt"))
	s.roots.AppendCertsFromPEM(ca)
	return cmd, err
}

func (s *stage) tempDir() (string, error) {
	dir, err := os.MkdirTemp("", "clawpatrol-bench-")
	if err == nil {
		s.onClose(func() { _ = os.RemoveAll(dir) })
	}
	return dir, err
}

func (s *stage) onClose(f func()) { s.closers = append(s.closers, f) }

// close ends what the stage started, last first.
func (s *stage) close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
}

// end stops a process: gently, for those that have children to stop, and then
// not. Its exit status says that it was stopped.
func end(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	kill.Stop()
}

// pids are the processes that a sample may use the machine with.
func (s *stage) pids() []int {
	all := []int{os.Getpid()}
	for _, pids := range s.started {
		all = append(all, pids()...)
	}
	return all
}

// key returns a WireGuard key pair in hex.
func key() (private, public string) {
	var k [32]byte
	rand.Read(k[:])
	k[0] &= 248
	k[31] = k[31]&127 | 64
	p, err := curve25519.X25519(k[:], curve25519.Basepoint)
	if err != nil {
		panic(err) // the base point is not a low order point
	}
	return fmt.Sprintf("%x", k), fmt.Sprintf("%x", p)
}

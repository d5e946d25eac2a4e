package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/crypto/curve25519"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	apiHost = "api.example.com"
	token   = "the-real-token"

	policyText = `
endpoint "https" "api" {
  hosts   = ["api.example.com"]
  ca_file = "lab-ca.pem"
}
credential "bearer" "api" { endpoint = https.api }
profile "bench" { credentials = [bearer.api] }
egress { allow = ["203.0.113.2:9000", "203.0.113.2:9001"] }
`
)

// stage is the lab with its contenders: the first agent host has joined the
// gateway; the second has a plain WireGuard link to the gateway host (kernel TUNs
// at both ends) and one to the TLS splice.
type stage struct {
	lab     *lab.Lab
	gateway *lab.Gateway
	joined  *lab.Joined
	plain   *lab.Host

	plainPeer, splicer *exec.Cmd // at the gateway's end
	spliceAgent        *exec.Cmd
	plainAgent         *exec.Cmd

	roots   *x509.CertPool // of the lab, of the gateway and of the TLS splice
	virtual netip.Addr     // apiHost, towards the joined agent
}

func newStage(ctx context.Context, l *lab.Lab) (*stage, error) {
	s := &stage{lab: l, plain: l.Agents[1], roots: x509.NewCertPool()}
	s.roots.AppendCertsFromPEM(l.PKI.PEM)
	if err := l.ServeHTTPS(ctx, apiHost, 0, http.HandlerFunc(serveSized)); err != nil {
		return nil, err
	}
	// The same server, where only the direct contender goes.
	if err := l.ServeHTTPS(ctx, "direct.example.com", 5, http.HandlerFunc(serveSized)); err != nil {
		return nil, err
	}
	var err error
	if s.gateway, err = l.StartGateway(ctx, policyText, map[string]string{"lab-ca.pem": string(l.PKI.PEM)}); err != nil {
		return nil, err
	}
	if err := s.gateway.Operator.SetCredential(ctx, "bearer", "api", token); err != nil {
		return nil, err
	}
	if s.joined, err = l.Join(ctx, l.Agents[0], s.gateway, "bench"); err != nil {
		return nil, err
	}
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
func (s *stage) startLimits(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	gwPriv, gwPub := key()
	agPriv, agPub := key()
	if s.plainPeer, err = s.start(ctx, s.lab.Gateway, self, "wireguard-peer", "plain0", "10.77.0.1/24", gwPriv, "51901", agPub, "", "10.77.0.2/32"); err != nil {
		return err
	}
	if s.plainAgent, err = s.start(ctx, s.plain, self, "wireguard-peer", "plain0", "10.77.0.2/24", agPriv, "51901", gwPub, lab.GatewayIPv4.String()+":51901", "10.77.0.1/32"); err != nil {
		return err
	}
	gwPriv, gwPub = key()
	agPriv, agPub = key()
	splicer, ca, err := s.startTLSSplice(ctx, self, gwPriv, agPub)
	if err != nil {
		return err
	}
	s.splicer = splicer
	s.roots.AppendCertsFromPEM(ca)
	s.spliceAgent, err = s.start(ctx, s.plain, self, "wireguard-peer", "splice0", "10.78.0.2/24", agPriv, "51902", gwPub, lab.GatewayIPv4.String()+":51902", "0.0.0.0/0")
	if err != nil {
		return err
	}
	return s.plain.Script(ctx, "ip route replace 192.0.2.10/32 dev splice0")
}

// start runs a role on a host and waits until it prints "ready".
func (s *stage) start(ctx context.Context, h *lab.Host, args ...string) (*exec.Cmd, error) {
	cmd := h.Command(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, ready); err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(args[1:3], " "), err)
	}
	return cmd, nil
}

func (s *stage) startTLSSplice(ctx context.Context, self, priv, peer string) (*exec.Cmd, []byte, error) {
	dir, err := os.MkdirTemp("", "clawpatrol-bench-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	roots := dir + "/roots.pem"
	if err := os.WriteFile(roots, s.lab.PKI.PEM, 0o600); err != nil {
		return nil, nil, err
	}
	cmd, err := s.start(ctx, s.lab.Gateway, self, "tls-splice", dir+"/ca", roots, priv, "51902", peer, "10.78.0.0/24", lab.WorldIPv4.String()+":443")
	if err != nil {
		return nil, nil, err
	}
	ca, err := os.ReadFile(dir + "/ca/ca.crt")
	return cmd, ca, err
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

// client returns an HTTP client on a host that connects to addr, whatever the
// URL says.
func (s *stage) client(h *lab.Host, addr string, http2 bool, conns int) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext:         func(ctx context.Context, network, _ string) (net.Conn, error) { return h.Dial(ctx, "tcp", addr) },
		TLSClientConfig:     &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12},
		Protocols:           &protocols,
		MaxIdleConnsPerHost: conns,
		MaxConnsPerHost:     conns,
		DisableCompression:  true,
	}}
}

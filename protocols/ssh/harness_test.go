package ssh_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/protocols/ssh"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	host = "build.example.com"
	wait = 10 * time.Second
)

// lab is the real data path around the handler.
type lab struct {
	*proxytest.Kit
	t       testing.TB
	handler *ssh.Handler
	keys    *hostKeys
	said    logBuffer // what the handler logged
}

// logBuffer collects a log.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newLab starts a gateway under a policy; change may alter its configuration.
func newLab(t testing.TB, policy string, change ...func(*ssh.Config)) *lab {
	t.Helper()
	l := &lab{t: t, keys: &hostKeys{authority: newKey(t), host: newKey(t)}, Kit: proxytest.New(t, policy)}
	cfg := ssh.Config{Keys: l.keys, Dialer: l.Dialer, Log: slog.New(slog.NewTextHandler(&l.said, nil))}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if l.handler, err = ssh.New(cfg); err != nil {
		t.Fatal(err)
	}
	l.Kit.Handler = l.handler
	t.Cleanup(l.handler.Close)
	return l
}

// hostKeys is the gateway's own identity, without proxy/ca.
type hostKeys struct{ authority, host xssh.Signer }

func (h *hostKeys) HostSigners(_, host string) (plain, certificate xssh.Signer, err error) {
	cert := &xssh.Certificate{
		Key:             h.host.PublicKey(),
		CertType:        xssh.HostCert,
		ValidPrincipals: []string{host},
		ValidAfter:      uint64(time.Now().Add(-time.Hour).Unix()),
		ValidBefore:     uint64(time.Now().Add(time.Hour).Unix()),
	}
	if err := cert.SignCert(rand.Reader, h.authority); err != nil {
		return nil, nil, err
	}
	certificate, err = xssh.NewCertSigner(cert, h.host)
	return h.host, certificate, err
}

func newKey(t testing.TB) xssh.Signer {
	t.Helper()
	signer, _ := newKeyPEM(t, "")
	return signer
}

// newKeyPEM makes an ed25519 key, and its file.
func newKeyPEM(t testing.TB, passphrase string) (xssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	signer, err := xssh.NewSignerFromKey(private)
	must(t, err)
	block, err := xssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = xssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	must(t, err)
	return signer, string(pem.EncodeToMemory(block))
}

// line is a public key as in a .pub file.
func line(k xssh.PublicKey) string {
	return strings.TrimSpace(string(xssh.MarshalAuthorizedKey(k)))
}

// endpoint is the policy text of an endpoint at address whose host key is known;
// more are further attributes.
func endpoint(name, hosts, address string, key xssh.PublicKey, more ...string) string {
	return fmt.Sprintf("endpoint \"ssh\" %q {\n hosts = [%q]\n address = %q\n host_keys = [%q]\n %s\n}\n",
		name, hosts, address, line(key), strings.Join(more, "\n"))
}

// config is that of an agent which knows the gateway's host key by its authority.
func (l *lab) config(login string) *xssh.ClientConfig {
	authority := l.keys.authority.PublicKey()
	check := &xssh.CertChecker{IsHostAuthority: func(k xssh.PublicKey, _ string) bool {
		return string(k.Marshal()) == string(authority.Marshal())
	}}
	return &xssh.ClientConfig{User: login, HostKeyCallback: check.CheckHostKey, Timeout: wait}
}

// try connects as an agent of the registration would. What it is told before it
// is let in comes with it.
func (l *lab) try(id registry.ID, host string, config *xssh.ClientConfig) (*xssh.Client, string, error) {
	var told strings.Builder
	config.BannerCallback = func(m string) error { told.WriteString(m); return nil }
	conn := l.Serve(l.handler, id, host, 22)
	c, channels, requests, err := xssh.NewClientConn(conn, net.JoinHostPort(host, "22"), config)
	if err != nil {
		return nil, told.String(), err
	}
	client := xssh.NewClient(c, channels, requests)
	l.t.Cleanup(func() { _ = client.Close() })
	return client, told.String(), nil
}

// connect is try, of what succeeds.
func (l *lab) connect(id registry.ID, login string) *xssh.Client {
	l.t.Helper()
	client, told, err := l.try(id, host, l.config(login))
	if err != nil {
		l.t.Fatalf("connecting: %v\ntold: %s\nlogged: %s", err, told, l.said.String())
	}
	return client
}

// output runs a command and returns what it says, and how it ends.
func output(t testing.TB, client *xssh.Client, command string) (out, errOut string, err error) {
	t.Helper()
	session, err := client.NewSession()
	must(t, err)
	defer session.Close()
	var o, e strings.Builder
	session.Stdout, session.Stderr = &o, &e
	err = session.Run(command)
	return o.String(), e.String(), err
}

// bridge listens on loopback for programs that connect by themselves, as agents
// of the registration.
func (l *lab) bridge(id registry.ID, host string) *net.TCPAddr {
	l.t.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(l.t, err)
	l.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			flow := l.Serve(l.handler, id, host, 22)
			go func() { _, _ = io.Copy(flow, conn); _ = flow.CloseWrite() }()
			go func() { _, _ = io.Copy(conn, flow); _ = conn.Close() }()
		}
	}()
	return ln.Addr().(*net.TCPAddr)
}

// summaries are the registration's rows, the oldest first, as "verdict summary".
func (l *lab) summaries(id registry.ID) []string {
	l.t.Helper()
	var rows []string
	for _, row := range l.Actions(id) {
		rows = append([]string{row.Verdict + " " + row.Summary}, rows...)
	}
	return rows
}

// status is how the registration's latest action with this summary ended.
func (l *lab) status(id registry.ID, summary string) string {
	l.t.Helper()
	var status string
	l.Eventually(wait, summary+" has a result", func() bool {
		for _, row := range l.Actions(id) {
			if row.Summary == summary && row.Result != nil {
				status = row.Result.Status
				return true
			}
		}
		return false
	})
	return status
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// id is the registration of the latest enrolled agent.
func (l *lab) id() registry.ID {
	l.t.Helper()
	var id registry.ID
	for _, r := range l.DB.Snapshot().All() {
		id = r.ID
	}
	return id
}

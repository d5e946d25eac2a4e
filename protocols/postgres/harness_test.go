package postgres_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/clawpatrol/clawpatrol/protocols/postgres"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	host = "db.example.com"
	wait = 20 * time.Second
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lab is the real data path around the handler.
type lab struct {
	*proxytest.Kit
	t       testing.TB
	handler *postgres.Handler
	roots   *x509.CertPool // of the gateway's CA
	caFile  string         // likewise
	said    logBuffer      // what the handler logged
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
func newLab(t testing.TB, policy string, change ...func(*postgres.Config)) *lab {
	t.Helper()
	l := &lab{t: t, Kit: proxytest.New(t, policy), roots: x509.NewCertPool()}
	dir := t.TempDir()
	authority := newAuthority(t)
	l.roots.AppendCertsFromPEM(authority.CertPEM())
	l.caFile = filepath.Join(dir, "gateway.pem")
	must(t, os.WriteFile(l.caFile, authority.CertPEM(), 0o600))
	cfg := postgres.Config{CA: authority, Dialer: l.Dialer, Log: slog.New(slog.NewTextHandler(&l.said, nil))}
	for _, f := range change {
		f(&cfg)
	}
	handler, err := postgres.New(cfg)
	must(t, err)
	l.handler = handler
	l.Kit.Handler = l.handler
	t.Cleanup(l.handler.Close)
	return l
}

// policy is a gateway's with the cluster as postgres.orders and a credential of
// this user in profile ci. more are further attributes of the credential.
func (c *cluster) policy(user string, more ...string) string {
	return c.endpoint() + credential(user, more...) + "\nprofile \"ci\" { credentials = [postgres." + user + "] }\n"
}

// endpoint is the cluster as postgres.orders.
func (c *cluster) endpoint(more ...string) string {
	return fmt.Sprintf("endpoint \"postgres\" \"orders\" {\n hosts = [%q]\n address = %q\n ca_file = %q\n %s\n}\n", host, c.address, c.caFile, strings.Join(more, "\n"))
}

func credential(user string, more ...string) string {
	databases := "databases = [\"orders\", \"other\"]"
	if strings.Contains(strings.Join(more, "\n"), "databases") {
		databases = ""
	}
	return fmt.Sprintf("credential \"postgres\" %q {\n endpoint = postgres.orders\n user = %q\n %s\n %s\n}\n", user, user, databases, strings.Join(more, "\n"))
}

// ordinary is a lab with scram_user's credential, and an approved registration.
func ordinary(t testing.TB, more ...string) (*lab, registry.ID) {
	t.Helper()
	l := newLab(t, startCluster(t).policy("scram_user", more...))
	l.SetSecret("postgres.scram_user", "password", password)
	return l, l.Approve("a", "ci")
}

// listen returns where programs find the endpoint as agents of the registration.
func (l *lab) listen(id registry.ID) *net.TCPAddr {
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
			flow := l.Serve(l.handler, id, host, 5432)
			go func() { _, _ = io.Copy(flow, conn); _ = flow.CloseWrite() }()
			go func() { _, _ = io.Copy(conn, flow); _ = conn.Close() }()
		}
	}()
	return ln.Addr().(*net.TCPAddr)
}

// conninfo is what a program of PostgreSQL's is told to reach the endpoint, its
// name verified by the gateway's CA. It has no password.
func (l *lab) conninfo(at *net.TCPAddr, user, database string, more ...string) string {
	return fmt.Sprintf("host=%s hostaddr=127.0.0.1 port=%d user=%s dbname=%s sslmode=verify-full sslrootcert=%s gssencmode=disable %s",
		host, at.Port, user, database, l.caFile, strings.Join(more, " "))
}

// program runs a program of PostgreSQL's, with nothing of this process's in its
// environment.
func program(t testing.TB, stdin string, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binaries+name, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8"}
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// psql runs a script as an agent; the error is what it wrote to standard error.
func (l *lab) psql(at *net.TCPAddr, user, database, script string, more ...string) (string, error) {
	l.t.Helper()
	out, errs, err := program(l.t, script, "psql", "-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose", l.conninfo(at, user, database, more...))
	if err != nil || errs != "" {
		return out, fmt.Errorf("%v: %s", err, errs)
	}
	return strings.TrimSpace(out), nil
}

// config is pgx's as an agent of the registration.
func (l *lab) config(id registry.ID, user, database string) *pgx.ConnConfig {
	l.t.Helper()
	config, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=5432 user=%s dbname=%s sslmode=verify-full sslrootcert=%s", host, user, database, l.caFile))
	must(l.t, err)
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil }
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		return l.Serve(l.handler, id, host, 5432), nil
	}
	return config
}

// connect is a session of pgx's.
func (l *lab) connect(id registry.ID, user, database string) *pgx.Conn {
	l.t.Helper()
	conn, err := pgx.ConnectConfig(l.t.Context(), l.config(id, user, database))
	if err != nil {
		l.t.Fatalf("connecting: %v\nlogged: %s", err, l.said.String())
	}
	l.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// rows are the registration's, the oldest first, as "verdict summary: status".
func (l *lab) rows(id registry.ID) []string {
	l.t.Helper()
	var rows []string
	for _, row := range l.Actions(id) {
		status := "running"
		if row.Verdict == "deny" {
			status = row.Reason
		} else if row.Result != nil {
			status = row.Result.Status
		}
		rows = append([]string{row.Verdict + " " + row.Summary + ": " + status}, rows...)
	}
	return rows
}

// heap is what is in use, garbage taken out.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func dial(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp4", address)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(wait)))
	return conn
}

func newAuthority(t testing.TB) *ca.CA {
	t.Helper()
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca")})
	must(t, err)
	return authority
}

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	databaseHost      = "db.example.com"
	databaseOffset    = 20
	databaseAddress   = "192.0.2.30:5432" // of that offset
	benchDatabase     = "bench"
	benchRole         = "bench"
	benchReadOnlyRole = "bench_ro"
	benchSpliceRole   = "bench_md5" // libpq takes no SCRAM that has lost its TLS
	benchPassword     = "the-real-password"

	// The ports of those without a tunnel, on the gateway host.
	databaseSplicePort  = "5431"
	bouncerPort         = "6432"
	databaseHandlerPort = "5430"
)

// postgresPolicy is what the policies have for Postgres; more is the endpoint's.
func postgresPolicy(more string) string {
	return fmt.Sprintf(`
endpoint "postgres" "bench" {
  hosts   = [%q]
  ca_file = "lab-ca.pem"
  %s
}
credential "postgres" "bench" {
  endpoint  = postgres.bench
  user      = %q
  databases = [%q]
}
credential "postgres" "bench_ro" {
  endpoint  = postgres.bench
  user      = %q
  databases = [%q]
  read_only = true
}
`, databaseHost, more, benchRole, benchDatabase, benchReadOnlyRole, benchDatabase)
}

// bouncerConf is pgbouncer as somebody would put it into the gateway's place.
const bouncerConf = `
[databases]
%[1]s = host=%[2]s port=%[3]s dbname=%[1]s
[pgbouncer]
listen_addr = *
listen_port = %[4]s
unix_socket_dir =
pool_mode = session
auth_type = scram-sha-256
auth_file = %[5]s/users
server_tls_sslmode = verify-full
server_tls_ca_file = %[5]s/roots.pem
max_client_conn = 500
default_pool_size = 100
log_connections = 0
log_disconnections = 0
`

// database is the contenders for Postgres.
type database struct {
	server                    *lab.Postgres
	bouncer                   *exec.Cmd
	splice, spliceAgent       *exec.Cmd
	spliceAlone, handlerAlone *exec.Cmd
	virtual                   string // databaseHost, towards the joined agent
}

func (s *stage) startDatabase(ctx context.Context) (p *database, err error) {
	p = new(database)
	p.server, err = s.lab.StartPostgres(ctx, lab.PostgresConfig{
		Names:    []string{databaseHost},
		Offset:   databaseOffset,
		HBA:      "hostssl all " + benchSpliceRole + " all md5\nhostssl all all all scram-sha-256",
		Settings: "max_connections = 200\nlog_connections = off\nautovacuum = off",
		Setup: fmt.Sprintf(`
			CREATE ROLE %[1]s LOGIN PASSWORD '%[3]s';
			CREATE ROLE %[2]s LOGIN PASSWORD '%[3]s';
			SET password_encryption = 'md5';
			CREATE ROLE %[5]s LOGIN PASSWORD '%[3]s';
			GRANT pg_read_all_data TO %[2]s, %[5]s;
			CREATE DATABASE %[4]s OWNER %[1]s;`, benchRole, benchReadOnlyRole, benchPassword, benchDatabase, benchSpliceRole),
	})
	if err != nil {
		return nil, err
	}
	s.started = append(s.started, tree(p.server.PID()))
	upstream := p.server.Addr()
	host, port, err := net.SplitHostPort(upstream)
	if err != nil {
		return nil, err
	}
	if _, err := s.plain.Run(ctx, "env", "PGPASSWORD="+benchPassword, "pgbench", "-h", host, "-p", port, "-U", benchRole, "-i", "-I", "dtGvp", "-s", "5", "-q", benchDatabase); err != nil {
		return nil, err
	}
	for _, name := range []string{"bench", "bench_ro"} {
		if err := s.gateway.Operator.Do(ctx, "PUT", "/api/credentials/postgres/"+name, map[string]any{"slots": map[string]string{"password": benchPassword}}, nil); err != nil {
			return nil, err
		}
	}
	out, err := s.joined.Run(ctx, "getent", "ahostsv4", databaseHost)
	if err != nil {
		return nil, err
	}
	p.virtual = strings.Fields(out)[0]

	if p.bouncer, err = s.startBouncer(ctx); err != nil {
		return nil, err
	}
	if p.handlerAlone, err = s.startWithCA(ctx, "handler-alone", databaseHost, ":"+databaseHandlerPort); err != nil {
		return nil, err
	}
	dir, err := s.tempDir()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "roots.pem"), s.lab.PKI.PEM, 0o600); err != nil {
		return nil, err
	}
	if p.spliceAlone, err = s.start(ctx, s.lab.Gateway, "postgres-splice", dir, upstream, databaseHost, ":"+databaseSplicePort); err != nil {
		return nil, err
	}
	gwPriv, gwPub := key()
	agPriv, agPub := key()
	if p.splice, err = s.start(ctx, s.lab.Gateway, "postgres-splice", dir, upstream, databaseHost, gwPriv, "51903", agPub, "10.79.0.0/24", "198.51.101.2"); err != nil {
		return nil, err
	}
	p.spliceAgent, err = s.start(ctx, s.plain, "wireguard-peer", "pgsplice0", "10.79.0.2/24", agPriv, "51903", gwPub, lab.GatewayIPv4.String()+":51903", "10.79.0.0/24")
	return p, err
}

// startBouncer starts Debian's pgbouncer on the gateway host, as nobody: it
// refuses to be root.
func (s *stage) startBouncer(ctx context.Context) (*exec.Cmd, error) {
	dir, err := s.tempDir()
	if err != nil {
		return nil, err
	}
	for name, content := range map[string]string{
		"users":     fmt.Sprintf("%q %q\n", benchRole, benchPassword),
		"roots.pem": string(s.lab.PKI.PEM),
		"conf":      fmt.Sprintf(bouncerConf, benchDatabase, databaseHost, lab.PostgresPort, bouncerPort, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	cmd := s.lab.Gateway.Command(ctx, "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL", "pgbouncer", "-q", dir+"/conf")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.onClose(func() { end(cmd) })
	s.started = append(s.started, tree(cmd.Process.Pid))
	return cmd, lab.Eventually(ctx, 10*time.Second, func() error {
		c, err := s.lab.Gateway.Dial(ctx, "tcp", "127.0.0.1:"+bouncerPort)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

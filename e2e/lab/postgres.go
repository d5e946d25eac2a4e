package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// PostgresPort is where the world's PostgreSQL servers listen.
const PostgresPort = "5432"

// Postgres is Debian's PostgreSQL server, in the world. It wants TLS of whoever
// comes over the network, and its data is gone with the lab.
type Postgres struct {
	Log *Output // says who was let in, by which method, and from where

	host  *Host
	bin   string // the directory of its programs
	dir   string
	addrs []string
	pid   int
	stop  func() error // nil: it does not run
}

// PostgresConfig describes one.
type PostgresConfig struct {
	Names     []string // which then resolve to it; its certificate is for them
	MoreNames []string // which do too; its certificate is not for them
	Offset    int      // of its addresses, as for ServeHTTPS
	HBA       string   // pg_hba.conf but for the superuser's own line
	Settings  string   // lines of postgresql.conf
	Setup     string   // what psql runs once it is up, as the superuser
}

// StartPostgres starts one.
func (l *Lab) StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	p, err := l.startPostgres(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("starting PostgreSQL for %s: %w", strings.Join(cfg.Names, " "), err)
	}
	return p, nil
}

func (l *Lab) startPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	if len(cfg.Names) == 0 {
		return nil, errors.New("it has no name")
	}
	v4, v6, err := l.worldAddresses(ctx, cfg.Offset)
	if err != nil {
		return nil, err
	}
	p := &Postgres{Log: new(Output), host: l.World, dir: "/var/lib/postgresql-" + cfg.Names[0], addrs: []string{v4, v6}}
	if p.bin, err = PostgresPrograms(); err != nil {
		return nil, err
	}
	// Below the host's own /var, which is in memory.
	if err := l.World.Script(ctx, fmt.Sprintf(`
		install -d -o postgres -g postgres -m 700 %[1]s %[1]s/socket
		setpriv --reuid=postgres --regid=postgres --init-groups %[2]s/initdb -D %[1]s/data -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null`,
		p.dir, p.bin)); err != nil {
		return nil, err
	}
	cert, key, err := l.PKI.Issue(cfg.Names...)
	if err != nil {
		return nil, err
	}
	// Sockets are the superuser's. A shared memory segment that outlives a killed
	// server would be this machine's: it has files instead.
	for name, content := range map[string]string{
		"server.crt":  string(cert),
		"server.key":  string(key),
		"clients.crt": string(l.PKI.PEM),
		"pg_hba.conf": "local all postgres trust\n" + cfg.HBA + "\n",
		"postgresql.conf": fmt.Sprintf(`
listen_addresses = '%s'
port = %s
unix_socket_directories = '%s/socket'
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'clients.crt'
fsync = off
full_page_writes = off
shared_buffers = '64MB'
dynamic_shared_memory_type = mmap
log_connections = on
log_line_prefix = '%%u@%%d '
%s
`, strings.Join(p.addrs, ","), PostgresPort, p.dir, cfg.Settings),
	} {
		if err := l.World.WriteFile(p.dir+"/data/"+name, content, 0o600); err != nil {
			return nil, err
		}
	}
	if err := l.World.Script(ctx, "chown -R postgres: "+p.dir); err != nil {
		return nil, err
	}
	l.onClose(p.Stop)
	for _, name := range slices.Concat(cfg.Names, cfg.MoreNames) {
		l.Names.Set(name, mustAddr(v4), mustAddr(v6))
	}
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	_, err = p.SQL(ctx, "postgres", cfg.Setup)
	return p, err
}

// PostgresPrograms is the directory of the newest PostgreSQL server that Debian
// has installed.
func PostgresPrograms() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.Join(errors.New("no PostgreSQL server is installed"), err)
	}
	return filepath.Dir(slices.Max(found)), nil
}

// Start starts it again.
func (p *Postgres) Start(ctx context.Context) error {
	// Its own PID and IPC namespaces: all its processes and segments end with it.
	// A change of user ends --kill-child's hold, so that is on the shell.
	cmd := p.host.Command(context.WithoutCancel(ctx), "unshare", "--pid", "--ipc", "--fork", "--kill-child", "sh", "-c",
		fmt.Sprintf("setpriv --reuid=postgres --regid=postgres --init-groups %s/postgres -D %s/data; exit", p.bin, p.dir))
	cmd.Stdout, cmd.Stderr = p.Log, p.Log
	p.Log.Mark()
	if err := p.host.Script(ctx, "rm -f "+p.dir+"/data/postmaster.pid"); err != nil { // of one that was killed
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.pid = cmd.Process.Pid
	p.stop = func() error {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait() // reports the kill
		return nil
	}
	_, err := p.Log.Wait(ctx, 20*time.Second, "database system is ready to accept connections")
	return err
}

// Stop kills it with all that it runs, as a machine that fails would.
func (p *Postgres) Stop() error {
	if p.stop == nil {
		return nil
	}
	err := p.stop()
	p.stop = nil
	return err
}

// PID returns the process id of what all its processes descend from.
func (p *Postgres) PID() int { return p.pid }

// Addr is where it listens, by IPv4.
func (p *Postgres) Addr() string { return net.JoinHostPort(p.addrs[0], PostgresPort) }

// SQL runs statements as the superuser, on the server's own host, and returns
// what they print: values only.
func (p *Postgres) SQL(ctx context.Context, database, sql string) (string, error) {
	cmd := p.host.Command(ctx, "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", p.dir+"/socket", "-p", PostgresPort, "-U", "postgres", "-d", database, "-f", "-")
	cmd.Stdin = strings.NewReader(sql)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), nil
}

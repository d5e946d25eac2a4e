package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// pgbench is a load: PostgreSQL's own benchmark, of rows by their key.
type pgbench struct {
	host     *lab.Host // where it runs
	addr     string
	user     string
	tls      bool
	mode     string
	clients  int
	connects bool // for every transaction
}

var (
	tpsLine     = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)
	connectLine = regexp.MustCompile(`(?m)^average connection time = ([0-9.]+) ms`)
)

func (b pgbench) open(context.Context) (load, error) { return loadFunc(b.run), nil }

// run takes whole seconds, which are all that pgbench knows, and one more: they
// begin before it has connected, which its rate leaves out. Its latency is a mean,
// of connecting alone.
func (b pgbench) run(ctx context.Context, length time.Duration) (f figures, err error) {
	host, port, err := net.SplitHostPort(b.addr)
	if err != nil {
		return f, err
	}
	sslmode := "disable" // in a tunnel there is no need
	if b.tls {
		sslmode = "require"
	}
	args := []string{"env", "PGPASSWORD=" + benchPassword, "PGSSLMODE=" + sslmode, "pgbench", "-h", host, "-p", port, "-U", b.user, "-n", "-S",
		"-M", b.mode, "-c", strconv.Itoa(b.clients), "-j", strconv.Itoa(min(b.clients, 2)), "-T", strconv.Itoa(1 + int(length.Round(time.Second).Seconds()))}
	if b.connects {
		args = append(args, "-C")
	}
	cmd := b.host.Command(ctx, append(args, benchDatabase)...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return f, fmt.Errorf("pgbench: %w: %s", err, stderr.String())
	}
	tps := tpsLine.FindSubmatch(out.Bytes())
	if tps == nil {
		return f, fmt.Errorf("pgbench printed %q", out.String())
	}
	if f.rate, err = strconv.ParseFloat(string(tps[1]), 64); err != nil {
		return f, err
	}
	if connect := connectLine.FindSubmatch(out.Bytes()); connect != nil {
		ms, err := strconv.ParseFloat(string(connect[1]), 64)
		if err != nil {
			return f, err
		}
		f.p50 = ms / 1e3
	}
	return f, nil
}

package postgres_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/clawpatrol/clawpatrol/registry"
)

// BenchmarkSelect compares `pgbench -S` through the handler with the same through
// a splice: a program that terminates the agent's TLS, speaks TLS upstream, and
// copies bytes without looking at them. Both run in turns, in one run; sessions
// are made before the clock starts.
func BenchmarkSelect(b *testing.B) {
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, clients := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/%d", mode, clients), func(b *testing.B) { compare(b, mode, clients) })
		}
	}
}

// seconds is how long one pgbench runs.
const seconds = 2

func compare(b *testing.B, mode string, clients int) {
	c := startCluster(b)
	l, id := ordinary(b)
	handled := l.conninfo(l.handle(id), "scram_user", "other")
	fillAccounts(b, handled)
	spliced := fmt.Sprintf("host=127.0.0.1 port=%d user=scram_user dbname=other sslmode=require gssencmode=disable channel_binding=disable password=%s", c.splice(b).Port, password)
	rate, cpu := inTurns(b, mode, clients, spliced, handled)
	b.ReportMetric(rate[1]/rate[0], "of-splice")
	b.ReportMetric(rate[0], "splice-tps")
	b.ReportMetric(rate[1], "tps")
	b.ReportMetric(cpu[0], "splice-cpu-us/tx")
	b.ReportMetric(cpu[1], "cpu-us/tx")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkReadOnly compares `pgbench -S` under a read_only credential, whose
// every statement is looked into, with the same without.
func BenchmarkReadOnly(b *testing.B) {
	for _, mode := range []string{"simple", "prepared"} {
		b.Run(mode+"/16", func(b *testing.B) {
			open, openID := ordinary(b)
			looks, looksID := ordinary(b, "read_only = true")
			free := open.conninfo(open.handle(openID), "scram_user", "other")
			fillAccounts(b, free)
			bound := looks.conninfo(looks.handle(looksID), "scram_user", "other")
			pgbench(b, mode, 1, bound) // the grammar is loaded
			rate, cpu := inTurns(b, mode, 16, free, bound)
			b.ReportMetric(rate[1]/rate[0], "of-without")
			b.ReportMetric(rate[1], "tps")
			b.ReportMetric(cpu[0], "without-cpu-us/tx")
			b.ReportMetric(cpu[1], "cpu-us/tx")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func fillAccounts(b *testing.B, conninfo string) {
	b.Helper()
	if _, errs, err := program(b, "", "pgbench", "-i", "-s", "10", "-q", conninfo); err != nil {
		b.Fatalf("pgbench -i: %v\n%s", err, errs)
	}
}

// inTurns runs pgbench by one way and the other, and returns transactions a second
// and the CPU time of this process, which is both ways' gateway, for each.
func inTurns(b *testing.B, mode string, clients int, one, other string) (rate, cpu [2]float64) {
	b.Helper()
	var done, used [2]float64
	for b.Loop() {
		for i, conninfo := range []string{one, other} {
			before := processTime(b)
			tps := pgbench(b, mode, clients, conninfo)
			used[i] += float64((processTime(b) - before).Microseconds())
			done[i] += tps * seconds
		}
	}
	for i := range done {
		rate[i], cpu[i] = done[i]/float64(b.N*seconds), used[i]/done[i]
	}
	return rate, cpu
}

func processTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var tps = regexp.MustCompile(`tps = ([0-9.]+) \(without initial connection time\)`)

func pgbench(b *testing.B, mode string, clients int, conninfo string) float64 {
	b.Helper()
	out, errs, err := program(b, "", "pgbench", "-n", "-S", "-M", mode, "-c", strconv.Itoa(clients), "-j", "1", "-T", strconv.Itoa(seconds), conninfo)
	found := tps.FindStringSubmatch(out)
	if err != nil || found == nil {
		b.Fatalf("pgbench: %v\n%s\n%s", err, out, errs)
	}
	rate, err := strconv.ParseFloat(found[1], 64)
	must(b, err)
	return rate
}

// handle is listen without a hop of the test's own.
func (l *lab) handle(id registry.ID) *net.TCPAddr {
	l.t.Helper()
	return serveEach(l.t, func(conn *net.TCPConn) {
		_ = l.handler.Serve(l.t.Context(), l.Flow(id, host, 5432, conn))
		_ = conn.Close()
	})
}

// splice is the program that the handler is compared with.
func (c *cluster) splice(t testing.TB) *net.TCPAddr {
	t.Helper()
	leaf, err := newAuthority(t).Leaf(host)
	must(t, err)
	return serveEach(t, func(conn *net.TCPConn) {
		defer conn.Close()
		ssl, err := (&pgproto3.SSLRequest{}).Encode(nil)
		must(t, err)
		if _, err := io.ReadFull(conn, make([]byte, len(ssl))); err != nil {
			return
		}
		raw, err := net.Dial("tcp4", c.address)
		if err != nil {
			return
		}
		defer raw.Close()
		_, _ = raw.Write(ssl)
		_, _ = io.ReadFull(raw, make([]byte, 1))
		_, _ = conn.Write([]byte("S"))
		near := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*leaf}})
		far := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // it is measured, not trusted
		var both sync.WaitGroup
		both.Go(func() { copyAll(far, near); _ = far.Close() })
		copyAll(near, far)
		_ = near.Close()
		both.Wait()
	})
}

// copyAll copies with a buffer as large as the handler's.
func copyAll(to io.Writer, from io.Reader) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 64<<10))
}

// serveEach serves connections to a port of loopback, each by itself.
func serveEach(t testing.TB, serve func(*net.TCPConn)) *net.TCPAddr {
	t.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			serving.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().(*net.TCPAddr)
}

// BenchmarkConnect is what making a session costs, beside one without a gateway.
func BenchmarkConnect(b *testing.B) {
	c := startCluster(b)
	l, id := ordinary(b)
	direct := fmt.Sprintf("host=127.0.0.1 port=%s user=scram_user dbname=other sslmode=require gssencmode=disable password=%s", c.port, password)
	handled := l.conninfo(l.handle(id), "scram_user", "other")
	if _, err := exec.LookPath(binaries + "pgbench"); err != nil {
		b.Fatal(err)
	}
	connect := func(conninfo string) float64 { // milliseconds
		out, errs, err := program(b, "\\set x 1\n", "pgbench", "-n", "-C", "-f", "/dev/stdin", "-c", "1", "-t", "50", conninfo)
		found := regexp.MustCompile(`average connection time = ([0-9.]+) ms`).FindStringSubmatch(out)
		if err != nil || found == nil {
			b.Fatalf("pgbench: %v\n%s\n%s", err, out, errs)
		}
		ms, err := strconv.ParseFloat(found[1], 64)
		must(b, err)
		return ms
	}
	var took [2]float64
	for b.Loop() {
		took[0] += connect(direct)
		took[1] += connect(handled)
	}
	b.ReportMetric(took[0]/float64(b.N), "direct-ms")
	b.ReportMetric(took[1]/float64(b.N), "ms")
	b.ReportMetric(0, "ns/op")
}

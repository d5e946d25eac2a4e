package https_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRequests compares the handler with a TLS splice: a program that
// terminates the agent's TLS, speaks TLS upstream, and copies bytes without
// looking at them. It interleaves both in one run and reports requests a second
// as a ratio, and the CPU time of each, agent and upstream included.
func BenchmarkRequests(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("h1/%dKiB", size>>10), func(b *testing.B) { compare(b, size) })
	}
}

const connections = 16

func compare(b *testing.B, size int) {
	body := strings.Repeat("x", size)
	l := newLab(b, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = io.WriteString(w, body)
	})
	id := l.Approve("a", "ci")
	request := "GET /repos/x/y?per_page=100 HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench/1.0\r\nAccept: application/json\r\nAuthorization: Bearer clawpatrol-token\r\n\r\n"

	handled := make([]*exchanger, connections)
	spliced := make([]*exchanger, connections)
	for i := range connections {
		handled[i] = newExchanger(b, tls.Client(l.Serve(l.handler, id, host, 443), &tls.Config{RootCAs: l.roots, ServerName: host}), request)
		spliced[i] = newExchanger(b, tls.Client(l.splice(b), &tls.Config{InsecureSkipVerify: true}), request)
	}
	var rate, cpu [2]float64
	rounds := 0
	for b.Loop() {
		for i, set := range [][]*exchanger{spliced, handled} {
			r, c := load(b, set, 500*time.Millisecond)
			rate[i] += r
			cpu[i] += c
		}
		rounds++
	}
	b.ReportMetric(rate[1]/rate[0], "of-splice")
	b.ReportMetric(rate[1]/float64(rounds), "req/s")
	b.ReportMetric(cpu[0]/float64(rounds)*1e6, "splice-cpu-us/req")
	b.ReportMetric(cpu[1]/float64(rounds)*1e6, "cpu-us/req")
	b.ReportMetric(0, "ns/op")
}

// splice copies plaintext between an agent and the upstream.
func (l *lab) splice(b *testing.B) net.Conn {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer ln.Close()
	agent, err := net.Dial("tcp", ln.Addr().String())
	must(b, err)
	raw, err := ln.Accept()
	must(b, err)
	leaf, err := l.world.Leaf(host)
	must(b, err)
	near := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{*leaf}})
	far, err := tls.Dial("tcp", l.upstream.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	must(b, err)
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			defer pair[0].Close()
			_, _ = io.CopyBuffer(struct{ io.Writer }{pair[0]}, struct{ io.Reader }{pair[1]}, make([]byte, 32<<10))
		}()
	}
	b.Cleanup(func() { agent.Close(); near.Close(); far.Close() })
	return agent
}

// exchanger sends one request again and again.
type exchanger struct {
	conn    net.Conn
	br      *bufio.Reader
	request string
}

func newExchanger(b *testing.B, conn *tls.Conn, request string) *exchanger {
	b.Helper()
	must(b, conn.Handshake())
	e := &exchanger{conn, bufio.NewReaderSize(conn, 32<<10), request}
	must(b, e.once())
	return e
}

func (e *exchanger) once() error {
	if _, err := io.WriteString(e.conn, e.request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(e.br, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// load runs all of set for d and returns requests a second and CPU seconds a
// request, the agents' and the upstream's share included.
func load(b *testing.B, set []*exchanger, d time.Duration) (rate, cpu float64) {
	b.Helper()
	var n atomic.Int64
	var wg sync.WaitGroup
	began, cpuBegan := time.Now(), cpuTime(b)
	for _, e := range set {
		wg.Go(func() {
			for time.Since(began) < d {
				if err := e.once(); err != nil {
					b.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(began).Seconds(), (cpuTime(b) - cpuBegan) / float64(n.Load())
}

func cpuTime(b *testing.B) float64 {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

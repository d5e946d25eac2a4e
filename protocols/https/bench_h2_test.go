package https_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// BenchmarkHTTP2 has an agent and an upstream that cost little themselves: they
// send frames made beforehand, and look at no more than the frames' headers.
// cpu-us/req is of all three.
func BenchmarkHTTP2(b *testing.B) {
	for _, conns := range []int{1, 10} {
		b.Run(fmt.Sprintf("10streams/%dconns", conns), func(b *testing.B) {
			l := newWorld(b)
			l.start(l.endpointAt("api", l.frameServer(b, strings.Repeat("x", 1<<10)), host) + `
				credential "bearer" "token" { endpoint = https.api }
				profile "ci" { credentials = [bearer.token] }`)
			l.SetSecret("bearer.token", "secret", token)
			id := l.Approve("a", "ci")
			agents := make([]*frameAgent, conns)
			for i := range agents {
				agents[i] = newFrameAgent(b, l.dial(id, host, "h2"), 10)
			}
			var rate, cpu float64
			rounds := 0
			for b.Loop() {
				before, began := cpuTime(b), time.Now()
				n := frameLoad(b, agents, 500*time.Millisecond)
				rate += n / time.Since(began).Seconds()
				cpu += (cpuTime(b) - before) / n
				rounds++
			}
			b.ReportMetric(rate/float64(rounds), "req/s")
			b.ReportMetric(cpu/float64(rounds)*1e6, "cpu-us/req")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// head is the frames of a head of fields, with what the stream is to be put in.
func headFrame(fields ...string) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	e.SetMaxDynamicTableSize(0)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return block.Bytes()
}

// frameServer answers every head with body, over HTTP/2.
func (l *lab) frameServer(b *testing.B, body string) (address string) {
	leaf, err := l.world.Leaf(host)
	must(b, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"h2"}})
	must(b, err)
	b.Cleanup(func() { ln.Close() })
	block := headFrame(":status", "200", "date", "Mon, 01 Jan 2024 00:00:00 GMT", "content-type", "text/plain", "content-length", fmt.Sprint(len(body)), "server", "bench")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReaderSize(conn, 32<<10)
				out := bufio.NewWriterSize(conn, 32<<10)
				fr := http2.NewFramer(out, in)
				fr.SetReuseFrames()
				if _, err := in.Discard(len(http2.ClientPreface)); err != nil {
					return
				}
				_ = fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000})
				for {
					if in.Buffered() == 0 && out.Flush() != nil {
						return
					}
					f, err := fr.ReadFrame()
					if err != nil {
						return
					}
					switch f := f.(type) {
					case *http2.SettingsFrame:
						if !f.IsAck() {
							_ = fr.WriteSettingsAck()
						}
					case *http2.PingFrame:
						if !f.IsAck() {
							_ = fr.WritePing(true, f.Data)
						}
					case *http2.HeadersFrame:
						_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: block, EndHeaders: true})
						_ = fr.WriteData(f.StreamID, true, []byte(body))
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// frameAgent keeps some streams of a connection busy.
type frameAgent struct {
	conn net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
	fr   *http2.Framer
	next uint32
	head []byte
	busy int
}

func newFrameAgent(b *testing.B, conn *tls.Conn, streams int) *frameAgent {
	must(b, conn.SetDeadline(time.Time{}))
	a := &frameAgent{conn: conn, in: bufio.NewReaderSize(conn, 32<<10), out: bufio.NewWriterSize(conn, 32<<10), next: 1, busy: streams}
	a.fr = http2.NewFramer(a.out, a.in)
	a.fr.SetReuseFrames()
	a.head = headFrame(":method", "GET", ":scheme", "https", ":authority", host, ":path", "/repos/x/y?per_page=100", "user-agent", "bench/1.0", "accept", "application/json", "authorization", "Bearer clawpatrol-token")
	_, _ = io.WriteString(a.out, http2.ClientPreface)
	_ = a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	_ = a.fr.WriteWindowUpdate(0, 1<<30)
	must(b, a.out.Flush())
	return a
}

// run asks until the time is over, and returns how many answers came.
func (a *frameAgent) run(over *atomic.Bool) (n int, err error) {
	ask := func() {
		_ = a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.next, BlockFragment: a.head, EndHeaders: true, EndStream: true})
		a.next += 2
	}
	for range a.busy {
		ask()
	}
	for open := a.busy; open > 0; {
		if a.in.Buffered() == 0 {
			if err := a.out.Flush(); err != nil {
				return n, err
			}
		}
		f, err := a.fr.ReadFrame()
		if err != nil {
			return n, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = a.fr.WriteSettingsAck()
			}
		case *http2.DataFrame:
			if n%1000 == 0 {
				_ = a.fr.WriteWindowUpdate(0, 1000<<10)
			}
			if f.StreamEnded() {
				n++
				if over.Load() {
					open--
				} else {
					ask()
				}
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return n, fmt.Errorf("%v", f)
		}
	}
	return n, nil
}

func frameLoad(b *testing.B, agents []*frameAgent, d time.Duration) float64 {
	var over atomic.Bool
	var total atomic.Int64
	var wg sync.WaitGroup
	for _, a := range agents {
		wg.Go(func() {
			n, err := a.run(&over)
			if err != nil {
				b.Error(err)
			}
			total.Add(int64(n))
		})
	}
	time.AfterFunc(d, func() { over.Store(true) })
	wg.Wait()
	return float64(total.Load())
}

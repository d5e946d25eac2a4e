package https_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/clawpatrol/clawpatrol/registry"
)

// record is a request as it stood on the wire to the upstream.
type record struct {
	method, target string
	fields         []string // "name: value", names in lower case, sorted by name, those of one name in their order; the trailer's too
	body           string
}

// values of a field, in their order.
func (r record) values(name string) (values []string) {
	for _, f := range r.fields {
		if v, ok := strings.CutPrefix(f, name+": "); ok {
			values = append(values, v)
		}
	}
	return values
}

func (r *record) add(name, value string) {
	r.fields = append(r.fields, strings.ToLower(name)+": "+value)
}

// recorder is an upstream of one HTTP version that keeps what reached it whole,
// and answers 200 to it.
type recorder struct {
	whole chan record
}

// seen returns what has come since the last call.
func (u *recorder) seen() (records []record) {
	for {
		select {
		case r := <-u.whole:
			records = append(records, r)
		default:
			return records
		}
	}
}

// recorder starts an upstream for name that speaks proto and nothing else.
func (l *lab) recorder(t testing.TB, name, proto string) (*recorder, string) {
	t.Helper()
	leaf, err := l.world.Leaf(name)
	must(t, err)
	config := &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{proto}}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, proto) {
			return nil, nil
		}
		return &tls.Config{Certificates: config.Certificates, NextProtos: []string{"none"}}, nil
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	must(t, err)
	u := &recorder{whole: make(chan record, 100)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(3 * wait))
				if proto == "h2" {
					_ = u.serve2(conn)
				} else {
					_ = u.serve1(conn)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); l.handler.Close(); wg.Wait() })
	return u, ln.Addr().String()
}

func (u *recorder) serve1(conn net.Conn) error {
	var raw strings.Builder
	br := bufio.NewReader(io.TeeReader(conn, &raw))
	for {
		parsed, err := http.ReadRequest(br)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(parsed.Body)
		if err != nil {
			return err
		}
		lines := strings.Split(raw.String(), "\r\n")
		raw.Reset()
		r := record{body: string(body)}
		method, rest, _ := strings.Cut(lines[0], " ")
		r.method, r.target = method, strings.TrimSuffix(rest, " HTTP/1.1")
		for _, line := range lines[1:] {
			if line == "" {
				break
			}
			name, value, _ := strings.Cut(line, ": ")
			r.add(name, value)
		}
		for name, values := range parsed.Trailer {
			for _, value := range values {
				r.add(name, value)
			}
		}
		u.keep(r)
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
			return err
		}
	}
}

func (u *recorder) keep(r record) {
	slices.SortStableFunc(r.fields, func(a, b string) int {
		a, _, _ = strings.Cut(a, ":")
		b, _, _ = strings.Cut(b, ":")
		return strings.Compare(a, b)
	})
	u.whole <- r
}

func (u *recorder) serve2(conn net.Conn) error {
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return err
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.MaxHeaderListSize = 1 << 20
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	open := make(map[uint32]*record)
	end := func(stream uint32) error {
		u.keep(*open[stream])
		delete(open, stream)
		return framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x88}, EndStream: true, EndHeaders: true}) // :status 200
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		stream := frame.Header().StreamID
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			if open[stream] == nil {
				open[stream] = &record{method: f.PseudoValue("method"), target: f.PseudoValue("path")}
			}
			for _, h := range f.RegularFields() {
				open[stream].add(h.Name, h.Value)
			}
			if f.StreamEnded() {
				err = end(stream)
			}
		case *http2.DataFrame:
			if open[stream] != nil {
				open[stream].body += string(f.Data())
				if f.StreamEnded() {
					err = end(stream)
				}
			}
		case *http2.RSTStreamFrame:
			delete(open, stream)
		}
		if err != nil {
			return err
		}
	}
}

// pairing is an agent and an upstream, each of one HTTP version.
type pairing struct {
	*lab
	name     string
	agent2   bool
	host     string
	upstream *recorder
	id       registry.ID
}

// pairings runs f in all four.
func pairings(t *testing.T, f func(t *testing.T, p *pairing)) {
	l := newWorld(t)
	const one, two = "one.example.com", "two.example.com"
	up1, address1 := l.recorder(t, one, "http/1.1")
	up2, address2 := l.recorder(t, two, "h2")
	l.start(l.endpointAt("one", address1, one) + l.endpointAt("two", address2, two) + `
		credential "bearer" "one" { endpoint = https.one }
		credential "bearer" "two" { endpoint = https.two }
		profile "ci" { credentials = [bearer.one, bearer.two] }`)
	l.SetSecret("bearer.one", "secret", token)
	l.SetSecret("bearer.two", "secret", token)
	for _, p := range []*pairing{
		{l, "h1-h1", false, one, up1, ""}, {l, "h1-h2", false, two, up2, ""}, {l, "h2-h1", true, one, up1, ""}, {l, "h2-h2", true, two, up2, ""},
	} {
		t.Run(p.name, func(t *testing.T) {
			p.id = l.Approve(p.name, "ci")
			f(t, p)
		})
	}
}

// ask sends a GET of target as the agent, and returns the status, or "reset".
func (p *pairing) ask(t testing.TB, target string, fields ...string) string {
	t.Helper()
	if p.agent2 {
		return p.ask2(t, "", append([]string{":method", "GET", ":scheme", "https", ":authority", p.host, ":path", target}, fields...)...)
	}
	raw := "GET " + target + " HTTP/1.1\r\nHost: " + p.host + "\r\n"
	for i := 0; i < len(fields); i += 2 {
		raw += fields[i] + ": " + fields[i+1] + "\r\n"
	}
	return p.raw(t, raw+"\r\n", 1)[0]
}

func (p *pairing) ask2(t testing.TB, body string, fields ...string) string {
	t.Helper()
	return h2Send(t, p.dial(p.id, p.host, "h2"), body, fields...)
}

// raw sends bytes as an HTTP/1.1 agent and returns the statuses of at most n
// answers; the last is "closed" where there are fewer.
func (p *pairing) raw(t testing.TB, bytes string, n int) (statuses []string) {
	t.Helper()
	conn := p.dial(p.id, p.host, "http/1.1")
	defer conn.Close()
	_, _ = io.WriteString(conn, bytes) // it may be refused half-way
	br := bufio.NewReader(conn)
	for range n {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return append(statuses, "closed")
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		statuses = append(statuses, fmt.Sprint(resp.StatusCode))
	}
	return statuses
}

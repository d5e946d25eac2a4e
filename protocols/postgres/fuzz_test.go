package postgres_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols/postgres"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

// FuzzOpening feeds whatever to what reads an agent's first message.
func FuzzOpening(f *testing.F) {
	for _, s := range []string{
		startupMessage(3<<16, "user", "u", "database", "d", "options", `-c a=b --c-d=e\ f`), startupMessage(3<<16|9999, "user", "u", "_pq_.x", "y"),
		"\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x00\x00\x00\x08\x04\xd2\x16\x30", "\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02",
	} {
		f.Add([]byte(s[4:]))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		settings, ok := postgres.ParseOpening(body)
		if !ok {
			return
		}
		// What is taken is what pgproto3 takes, as far as it knows the version.
		var m pgproto3.StartupMessage
		if len(body) > 4 && binary.BigEndian.Uint32(body) == 3<<16 && len(settings) > 0 {
			if err := m.Decode(body); err != nil {
				t.Fatalf("%q: %v", body, err)
			}
			for name, value := range m.Parameters {
				if settings[name] != value {
					t.Fatalf("%q: %s is %q, not %q", body, name, settings[name], value)
				}
			}
		}
	})
}

// FuzzStream checks that messages pass as they are, whole or in pieces, and that
// those taken out are, and nothing else.
func FuzzStream(f *testing.F) {
	f.Add([]byte(message('Q', "SELECT 1\x00")+message('S', "")+message('d', strings.Repeat("x", 300))), uint16(3), byte('S'))
	f.Add([]byte(message('D', strings.Repeat("y", 70000))+message('C', "x\x00")+"Z\x00"), uint16(1000), byte('D'))
	f.Fuzz(func(t *testing.T, in []byte, piece uint16, without byte) {
		var out bytes.Buffer
		err := postgres.PassAll(&pieces{in, int(piece)%4096 + 1}, &out, without)
		var want []byte
		rest := in
		for len(rest) >= 5 {
			n := int(binary.BigEndian.Uint32(rest[1:]))
			if n < 4 || n > 1<<30-2 {
				break
			}
			end := min(1+n, len(rest))
			if rest[0] != without {
				want = append(want, rest[:end]...)
			}
			rest = rest[end:]
		}
		if err == nil || !bytes.Equal(out.Bytes(), want) {
			t.Fatalf("%v: got %d bytes, want %d", err, out.Len(), len(want))
		}
	})
}

// pieces gives a text in pieces.
type pieces struct {
	text []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.text)
	p.text = p.text[n:]
	return n, nil
}

// FuzzFlow feeds whatever to a whole flow over net.Pipe, from the agent and from
// the upstream: it ends, nothing panics, and no password is told.
func FuzzFlow(f *testing.F) {
	start := startupMessage(3<<16, "user", "scram_user", "database", "orders")
	ask := message('R', "\x00\x00\x00\x03")
	letIn := message('R', "\x00\x00\x00\x00") + message('S', "client_encoding\x00UTF8\x00") + message('K', "\x00\x00\x00\x07abcd") + message('Z', "I")
	answer := message('T', "\x00\x00") + message('D', "\x00\x00") + message('C', "SELECT 1\x00") + message('Z', "I")
	failed := message('E', "SERROR\x00VERROR\x00C42601\x00Msyntax error\x00\x00")
	for _, seed := range [][2]string{
		{start + message('Q', "SELECT 1\x00"), ask + letIn + answer},
		{start + message('P', "s\x00SELECT 1\x00\x00\x00") + message('B', "\x00s\x00\x00\x00\x00\x00\x00\x00") + message('E', "\x00\x00\x00\x00\x00") + message('S', ""), letIn + message('1', "") + message('2', "") + failed + message('Z', "E")},
		{start + message('Q', "COPY t FROM STDIN\x00") + message('d', "x") + message('c', ""), ask + letIn + message('G', "\x00\x00\x00") + failed + message('Z', "T")},
		{start + message('F', "\x00\x00\x00\x01") + message('C', "Sx\x00") + message('X', ""), ask + letIn + message('V', "\xff\xff\xff\xff") + message('Z', "I")},
		{"\x00\x00\x00\x08\x04\xd2\x16\x30" + start, ask + message('E', "SFATAL\x00C28P01\x00Mno "+password+"\x00\x00")},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]), false)
		f.Add([]byte(seed[0]), []byte(seed[1]), true)
	}
	lasting := &proxytest.Lasting{TB: f}
	endpoint := "endpoint \"postgres\" \"orders\" {\n hosts = [\"" + host + "\"]\n address = \"127.0.0.1:5432\"\n tls = \"disable\"\n}\n"
	var mu sync.Mutex
	var upstream net.Conn
	labs := make(map[bool]*lab)
	ids := make(map[bool]string)
	for _, readOnly := range []bool{false, true} {
		more := ""
		if readOnly {
			more = "read_only = true"
		}
		l := newLab(lasting, endpoint+credential("scram_user", more)+"profile \"ci\" { credentials = [postgres.scram_user] }", func(c *postgres.Config) {
			c.Dial = func(context.Context, *policy.Endpoint, string, uint16) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				return upstream, nil
			}
		})
		l.handler.SetReadOnly(func(sql string) error {
			if strings.Contains(sql, "x") {
				return io.EOF
			}
			return nil
		})
		l.SetSecret("postgres.scram_user", "password", password)
		labs[readOnly], ids[readOnly] = l, string(l.Approve("a", "ci"))
	}
	f.Fuzz(func(t *testing.T, fromAgent, fromUpstream []byte, readOnly bool) {
		defer lasting.Input()()
		l := labs[readOnly]
		agent, near := net.Pipe()
		far, up := net.Pipe()
		mu.Lock()
		upstream = far
		mu.Unlock()
		deadline := time.Now().Add(5 * time.Second)
		_, _ = agent.SetDeadline(deadline), up.SetDeadline(deadline)
		flow := l.Flow(registry.ID(ids[readOnly]), host, 5432, near)
		var heard bytes.Buffer
		var tasks sync.WaitGroup
		tasks.Go(func() { _, _ = io.Copy(&heard, agent) })
		tasks.Go(func() { _, _ = agent.Write(fromAgent); _ = agent.Close() })
		tasks.Go(func() { _, _ = io.Copy(io.Discard, up) })
		tasks.Go(func() { _, _ = up.Write(fromUpstream); _ = up.Close() })
		_ = l.handler.Serve(lasting.Context(), flow)
		_ = near.Close()
		_ = far.Close()
		tasks.Wait()
		if bytes.Contains(heard.Bytes(), []byte(password)) && !bytes.Contains(fromUpstream, []byte(password)) {
			t.Fatalf("the agent heard the password: %q", heard.Bytes())
		}
		if strings.Contains(l.said.String(), "panicked") {
			t.Fatal(l.said.String())
		}
	})
}

package postgres_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// lastError returns the severity and SQLSTATE of the last ErrorResponse in what an
// agent read.
func lastError(heard string) (severity, code string) {
	for len(heard) >= 5 {
		n := 1 + int(binary.BigEndian.Uint32([]byte(heard[1:5])))
		if n > len(heard) {
			return severity, code
		}
		if heard[0] == 'E' {
			for _, field := range strings.Split(heard[5:n], "\x00") {
				if len(field) > 1 && field[0] == 'V' {
					severity = field[1:]
				} else if len(field) > 1 && field[0] == 'C' {
					code = field[1:]
				}
			}
		}
		heard = heard[n:]
	}
	return severity, code
}

// An upstream that dies says so to the agent in the protocol's own words, unless it
// has itself or a message is half way.
func TestI16_AnUpstreamThatDies(t *testing.T) {
	copying := message('G', "\x00\x00\x00")
	for name, tc := range map[string]struct {
		answer string
		code   string // "": no further word
	}{
		"before it answers":      {"", "08006"},
		"in the middle of rows":  {message('T', "\x00\x00") + message('D', "\x00\x00"), "08006"},
		"in a COPY":              {copying, "08006"},
		"with a word":            {copying + message('E', "SFATAL\x00VFATAL\x00C57P01\x00Mterminating connection\x00\x00"), "57P01"},
		"in a row":               {"D\x00\x00\xff\xffhalf", ""},
		"in a head":              {message('T', "\x00\x00") + "D\x00", "08006"},
		"with a short message":   {"D\x00\x00\x00\x03", "08P01"},
		"with a negative length": {"D\xff\xff\xff\xffxx", "08P01"},
		"in an error":            {"E\x00\x00\x00\x40SERROR", "08006"},
	} {
		l, id := scripted(t, func(up net.Conn) {
			letIn(up)
			readMessage(up)
			_, _ = io.WriteString(up, tc.answer)
		})
		conn := l.session(id)
		_, err := io.WriteString(conn, message('Q', "COPY t FROM STDIN\x00"))
		must(t, err)
		heard, err := io.ReadAll(conn)
		must(t, err)
		severity, code := lastError(string(heard))
		if code != tc.code || code != "" && severity != "FATAL" {
			t.Errorf("%s: %s %s in %q", name, severity, code, heard)
		}
		if tc.code == "08006" && strings.Contains(string(heard), "57P01") || strings.Count(string(heard), "FATAL") > 2 {
			t.Errorf("%s: two last words: %q", name, heard)
		}
		want := "upstream_lost"
		if name == "with a word" {
			want = "57P01"
		}
		l.Eventually(wait, name+": the row has its status", func() bool {
			rows := strings.Join(l.rows(id), "\n")
			return strings.HasSuffix(rows, ": "+want)
		})
		_ = conn.Close()
	}
}

// A server that is shut down in the middle of a COPY of a real program's.
func TestI16_TheServerDiesMidCopy(t *testing.T) {
	c := startCluster(t)
	l, id := ordinary(t)
	conn := l.connect(id, "scram_user", "orders").PgConn()
	_, err := conn.Exec(t.Context(), "CREATE TEMP TABLE t (i int)").ReadAll()
	must(t, err)
	pid := ""
	result := conn.ExecParams(t.Context(), "SELECT pg_backend_pid()", nil, nil, nil, nil).Read()
	pid = string(result.Rows[0][0])
	reader, writer := io.Pipe()
	go func() {
		line := bytes.Repeat([]byte("7\n"), 1000)
		for i := 0; ; i++ {
			if _, err := writer.Write(line); err != nil {
				return
			}
			if i == 50 {
				c.admin(t, "postgres", "SELECT pg_terminate_backend("+pid+")")
			}
		}
	}()
	_, err = conn.CopyFrom(t.Context(), reader, "COPY t FROM STDIN")
	_ = reader.Close()
	if err == nil || !strings.Contains(err.Error(), "57P01") {
		t.Errorf("the agent hears %v", err)
	}
}

// An upstream that does not behave while it lets the gateway in costs its own flow
// an error.
func TestI16_AnUpstreamThatMisbehavesAtTheStart(t *testing.T) {
	for name, say := range map[string]func(up net.Conn){
		"closes at once": func(net.Conn) {},
		"says nonsense":  func(up net.Conn) { _, _ = io.WriteString(up, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"says too much": func(up net.Conn) {
			_, _ = io.WriteString(up, strings.Repeat(message('S', "a\x00"+strings.Repeat("b", 1000)+"\x00"), 10000))
		},
		"a huge message":    func(up net.Conn) { _, _ = io.WriteString(up, "S\x7f\xff\xff\xff") },
		"a negative length": func(up net.Conn) { _, _ = io.WriteString(up, "R\xff\xff\xff\xff") },
		"ready at once":     func(up net.Conn) { _, _ = io.WriteString(up, message('Z', "I")) },
		"GSS":               func(up net.Conn) { _, _ = io.WriteString(up, message('R', "\x00\x00\x00\x07")) },
		"SCRAM that is wrong": func(up net.Conn) {
			_, _ = io.WriteString(up, message('R', "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"))
			readMessage(up)
			_, _ = io.WriteString(up, message('R', "\x00\x00\x00\x0br=other,s=AAAA,i=4096"))
			readMessage(up)
		},
		"a signature that is wrong": func(up net.Conn) {
			_, _ = io.WriteString(up, message('R', "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"))
			first := readMessage(up)
			nonce := first[strings.LastIndex(first, "r=")+2:]
			_, _ = io.WriteString(up, message('R', "\x00\x00\x00\x0br="+nonce+"x,s=AAAA,i=4096"))
			readMessage(up)
			_, _ = io.WriteString(up, message('R', "\x00\x00\x00\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")+message('R', "\x00\x00\x00\x00")+message('Z', "I"))
		},
	} {
		l, id := scripted(t, say)
		conn := l.open(id, "scram_user", "orders")
		heard, err := io.ReadAll(conn)
		must(t, err)
		if severity, code := lastError(string(heard)); severity != "FATAL" || code != "08001" && code != "28000" && code != "08006" {
			t.Errorf("%s: %s %s, %q", name, severity, code, heard)
		}
		if bytes.Contains(heard, []byte(password)) || strings.Contains(l.said.String(), password) {
			t.Errorf("%s: the password is told", name)
		}
	}
}

// What an agent sends wrongly ends its own session with the SQLSTATE that
// PostgreSQL has for it.
func TestI16_AnAgentThatMisbehaves(t *testing.T) {
	l, id := ordinary(t)
	version := func(v uint32) string { return startupMessage(v, "user", "scram_user", "database", "orders") }
	for name, tc := range map[string]struct{ send, code string }{
		"a short startup":        {"\x00\x00\x00\x07\x00\x03\x00", "08P01"},
		"a huge startup":         {"\x00\x00\x27\x11", "08P01"},
		"an HTTP request":        {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "08P01"},
		"no end":                 {"\x00\x00\x00\x0d\x00\x03\x00\x00user\x00", "08P01"},
		"no user":                {startupMessage(3<<16, "database", "orders"), "28000"},
		"version 2":              {version(2 << 16), "0A000"},
		"replication":            {startupMessage(3<<16, "user", "scram_user", "database", "orders", "replication", "true"), "42501"},
		"role":                   {startupMessage(3<<16, "user", "scram_user", "database", "orders", "role", "postgres"), "42501"},
		"search_path":            {startupMessage(3<<16, "user", "scram_user", "database", "orders", "options", "-c search_path=x"), "42501"},
		"a switch":               {startupMessage(3<<16, "user", "scram_user", "database", "orders", "options", "-fi"), "42501"},
		"SSL twice":              {"\x00\x00\x00\x08\x04\xd2\x16\x30\x00\x00\x00\x08\x04\xd2\x16\x30", "08P01"},
		"an unknown type":        {version(3<<16) + message('!', ""), "08P01"},
		"a password unasked":     {version(3<<16) + message('p', "x\x00"), "08P01"},
		"a negative length":      {version(3<<16) + "Q\xff\xff\xff\xff", "08P01"},
		"a length of nothing":    {version(3<<16) + "Q\x00\x00\x00\x00", "08P01"},
		"a query without an end": {version(3<<16) + message('Q', "SELECT 1"), ""}, // the server's to say
	} {
		conn := l.Serve(l.handler, id, host, 5432)
		must(t, conn.SetDeadline(time.Now().Add(wait)))
		_, err := io.WriteString(conn, tc.send)
		must(t, err)
		must(t, conn.CloseWrite())
		heard, _ := io.ReadAll(conn)
		heard = bytes.TrimPrefix(heard, []byte("N"))
		if strings.HasPrefix(tc.send, version(3<<16)) {
			heard = heard[bytes.LastIndex(heard, []byte(message('Z', "I")))+6:]
		}
		if _, code := lastError(string(heard)); code != tc.code && tc.code != "" {
			t.Errorf("%s: %q, %q, want %s", name, code, heard, tc.code)
		}
	}
	var n int
	must(t, l.connect(id, "scram_user", "orders").QueryRow(t.Context(), "SELECT 1").Scan(&n))
}

// Protocol versions and extensions are agreed on as by PostgreSQL.
func TestNegotiation(t *testing.T) {
	l, id := ordinary(t)
	for name, tc := range map[string]struct {
		version uint32
		more    []string
		minor   int // of NegotiateProtocolVersion; -1: none
		key     int // bytes of a cancel key's secret
	}{
		"3.0":             {3 << 16, nil, -1, 4},
		"3.2":             {3<<16 | 2, nil, -1, 32},
		"3.9999":          {3<<16 | 9999, nil, 2, 32},
		"3.0, extensions": {3 << 16, []string{"_pq_.something", "on"}, 0, 4},
	} {
		conn := l.Serve(l.handler, id, host, 5432)
		must(t, conn.SetDeadline(time.Now().Add(wait)))
		_, err := io.WriteString(conn, startupMessage(tc.version, append([]string{"user", "scram_user", "database", "orders"}, tc.more...)...))
		must(t, err)
		heard := readUntil(t, conn, func(kind byte) bool { return kind == 'Z' })
		minor, key, ok := -1, 0, false
		for rest := heard; len(rest) > 5; {
			n := 1 + int(binary.BigEndian.Uint32([]byte(rest[1:5])))
			switch rest[0] {
			case 'v':
				minor = int(binary.BigEndian.Uint32([]byte(rest[5:9])) & 0xffff)
			case 'K':
				key = n - 5 - 4
			case 'R':
				ok = true
			}
			rest = rest[n:]
		}
		if minor != tc.minor || key != tc.key || !ok {
			t.Errorf("%s: minor %d, key %d, in %q", name, minor, key, heard)
		}
	}
	// Direct TLS, with its protocol and without.
	for _, protocols := range [][]string{{"postgresql"}, nil, {"http/1.1"}} {
		raw := l.Serve(l.handler, id, host, 5432)
		must(t, raw.SetDeadline(time.Now().Add(wait)))
		conn := tls.Client(raw, &tls.Config{RootCAs: l.roots, ServerName: host, NextProtos: protocols})
		err := conn.Handshake()
		if err == nil {
			_, _ = io.WriteString(conn, startupMessage(3<<16, "user", "scram_user", "database", "orders"))
			m := readMessage(conn)
			if m == "" || m[0] != 'R' {
				err = io.EOF
			}
		}
		if ok := len(protocols) == 1 && protocols[0] == alpn; ok != (err == nil) {
			t.Errorf("direct TLS with %q: %v", protocols, err)
		}
	}
}

const alpn = "postgresql"

// Connections in the making and sessions have a bound, which one registration
// cannot use up for another.
func TestI16_AStartupFloodCostsItsOwnRegistration(t *testing.T) {
	l, id := ordinary(t)
	other := l.Approve("b", "ci")
	var open []net.Conn
	l.Eventually(wait, "one too many is refused", func() bool {
		conn := l.Serve(l.handler, id, host, 5432)
		open = append(open, conn)
		must(t, conn.SetDeadline(time.Now().Add(5*time.Millisecond)))
		heard, _ := io.ReadAll(conn)
		_, code := lastError(string(heard))
		return code == "53300"
	})
	if len(open) < 128 {
		t.Errorf("%d connections in the making are too many", len(open))
	}
	var n int
	must(t, l.connect(other, "scram_user", "orders").QueryRow(t.Context(), "SELECT 1").Scan(&n))
	for _, conn := range open {
		_ = conn.Close()
	}
	l.Eventually(wait, "there is room again", func() bool {
		conn := l.Serve(l.handler, id, host, 5432)
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(wait)))
		_, _ = io.WriteString(conn, startupMessage(3<<16, "user", "scram_user", "database", "orders"))
		m := readMessage(conn)
		return m != "" && m[0] == 'R'
	})
}

// An agent that reads nothing holds its own session up, and takes no memory.
func TestI16_AnAgentThatDoesNotRead(t *testing.T) {
	l, id := ordinary(t)
	conn := l.session(id)
	var sent atomic.Int64
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		pipeline := []byte(strings.Repeat(message('P', "\x00SELECT 1\x00\x00\x00")+message('B', "\x00\x00\x00\x00\x00\x00\x00\x00")+message('E', "\x00\x00\x00\x00\x00")+message('S', ""), 1000))
		for {
			n, err := conn.Write(pipeline)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	before := heap()
	last := int64(-1)
	l.Eventually(2*wait, "the agent is held up", func() bool {
		time.Sleep(300 * time.Millisecond)
		now := sent.Load()
		held := now == last && now > 0
		last = now
		return held
	})
	if grown := int64(heap()) - int64(before); grown > 24<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	_ = conn.Close()
	<-stuck
}

// A panic ends at its flow and is logged.
func TestI16_APanicEndsItsFlow(t *testing.T) {
	l := newLab(t, startCluster(t).policy("scram_user", "read_only = true"))
	l.handler.SetReadOnly(func(sql string) error {
		if strings.Contains(sql, "panic") {
			panic("in a test")
		}
		return nil
	})
	l.SetSecret("postgres.scram_user", "password", password)
	id := l.Approve("a", "ci")
	first, second := l.connect(id, "scram_user", "orders"), l.connect(id, "scram_user", "orders")
	if _, err := first.Exec(t.Context(), "SELECT 'panic'"); err == nil {
		t.Error("it went on")
	}
	must(t, second.Ping(t.Context()))
	if !strings.Contains(l.said.String(), "a flow panicked") {
		t.Errorf("nothing is logged: %s", l.said.String())
	}
}

// A gateway that stops ends sessions when they are ready, with the SQLSTATE that
// makes drivers connect again.
func TestDrain_SessionsEndWhenTheyAreReady(t *testing.T) {
	l, id := ordinary(t)
	idle, busy := l.session(id), l.session(id)
	_, err := io.WriteString(busy, message('Q', "SELECT pg_sleep(2)\x00"))
	must(t, err)
	c := startCluster(t)
	l.Eventually(wait, "the statement runs", func() bool {
		return c.admin(t, "orders", "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(2)'") == "1"
	})
	stopped := make(chan error, 1)
	go func() { stopped <- l.Proxy.Shutdown(t.Context()) }()
	for name, conn := range map[string]net.Conn{"idle": idle, "busy": busy} {
		heard, _ := io.ReadAll(conn)
		if severity, code := lastError(string(heard)); severity != "FATAL" || code != "57P01" || (name == "busy") != strings.Contains(string(heard), "SELECT 1\x00") {
			t.Errorf("%s: %s %s, %q", name, severity, code, heard)
		}
	}
	must(t, <-stopped)
}

// So it does when there is no time for that.
func TestDrain_Close(t *testing.T) {
	l, id := ordinary(t)
	conn := l.session(id)
	l.handler.Close()
	heard, _ := io.ReadAll(conn)
	if severity, code := lastError(string(heard)); severity != "FATAL" || code != "57P01" {
		t.Errorf("%s %s, %q", severity, code, heard)
	}
}

package postgres_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/registry"
)

// fails returns with which SQLSTATE and message a session is refused.
func (l *lab) fails(id registry.ID, user, database string) (code, message string) {
	l.t.Helper()
	conn, err := pgx.ConnectConfig(l.t.Context(), l.config(id, user, database))
	if err == nil {
		_ = conn.Close(l.t.Context())
		l.t.Fatalf("%s@%s was let in", user, database)
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		l.t.Fatalf("%s@%s: no answer but %v\nlogged: %s", user, database, err, l.said.String())
	}
	return e.Code, e.Message + " " + e.Detail + " " + e.Hint
}

func TestLogin_InEveryWayThatPostgresHas(t *testing.T) {
	c := startCluster(t)
	for user, tc := range map[string]struct {
		slots map[string]string
		code  string // "": let in
		says  string
	}{
		"scram_user": {map[string]string{"password": password}, "", ""},
		"md5_user":   {map[string]string{"password": password}, "", ""},
		"clear_user": {map[string]string{"password": password}, "", ""},
		"cert_user":  {map[string]string{"client_certificate": c.clientCert, "client_key": c.clientKey}, "", ""},
		// Nothing proves that it asked for a credential at all (I21).
		"trust_user": {map[string]string{"password": password}, "28000", "without asking for its credential"},
	} {
		l := newLab(t, c.policy(user))
		for slot, value := range tc.slots {
			l.SetSecret("postgres."+user, slot, value)
		}
		id := l.Approve("a", "ci")
		if tc.code != "" {
			if code, says := l.fails(id, user, "orders"); code != tc.code || !strings.Contains(says, tc.says) {
				t.Errorf("%s: %s %s", user, code, says)
			}
			continue
		}
		var who string
		var encrypted bool
		if err := l.connect(id, user, "orders").QueryRow(t.Context(), "SELECT current_user, (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())").Scan(&who, &encrypted); err != nil || who != user || !encrypted {
			t.Errorf("%s: %s, %v, %v", user, who, encrypted, err)
		}
	}
}

// Upstream the gateway uses channel binding where it can: a server that sees no
// SCRAM-SHA-256-PLUS would be one with somebody in between.
func TestLogin_BindsTheChannel(t *testing.T) {
	c := startCluster(t)
	out := c.sniff(t, func(address string) {
		l := newLab(t, strings.ReplaceAll(c.policy("scram_user"), c.address, address))
		l.SetSecret("postgres.scram_user", "password", password)
		// The one in between has a certificate that the gateway accepts, and yet not
		// the server's: the binding fails.
		if code, says := l.fails(l.Approve("a", "ci"), "scram_user", "orders"); code[:2] != "28" && code != "08P01" {
			t.Errorf("%s %s", code, says)
		}
	})
	if !strings.Contains(out, "SCRAM-SHA-256-PLUS\x00") || !strings.Contains(out, "p=tls-server-end-point") {
		t.Errorf("the gateway did not bind the channel: %q", out)
	}
}

func TestI21_NoSecretNoSession(t *testing.T) {
	c := startCluster(t)
	l := newLab(t, c.policy("scram_user"))
	id := l.Approve("a", "ci")
	if code, says := l.fails(id, "scram_user", "orders"); code != "28000" || !strings.Contains(says, "has no password set") {
		t.Errorf("%s %s", code, says)
	}
	l.SetSecret("postgres.scram_user", "client_certificate", c.clientCert)
	if code, says := l.fails(id, "scram_user", "orders"); code != "28000" || !strings.Contains(says, "has no client_key set") {
		t.Errorf("%s %s", code, says)
	}
	if rows := l.rows(id); !slices.Equal(rows, []string{"allow connect scram_user@orders: secret_missing", "allow connect scram_user@orders: secret_missing"}) {
		t.Errorf("%q", rows)
	}
	// An assigned profile that is gone.
	l = newLab(t, c.policy("scram_user"))
	l.SetSecret("postgres.scram_user", "password", password)
	id = l.Approve("a", "ci")
	l.Reload(c.endpoint())
	if code, says := l.fails(id, "scram_user", "orders"); code != "28000" || !strings.Contains(says, "no longer exists") {
		t.Errorf("%s %s", code, says)
	}
}

// A wrong password is said as what it is, and to whom it belongs.
func TestLogin_WrongPassword(t *testing.T) {
	const wrong = "not-the-password-at-all"
	for _, user := range []string{"scram_user", "md5_user", "clear_user"} {
		l := newLab(t, startCluster(t).policy(user))
		l.SetSecret("postgres."+user, "password", wrong)
		id := l.Approve("a", "ci")
		code, says := l.fails(id, user, "orders")
		if code != "28P01" || !strings.Contains(says, "password authentication failed") || !strings.Contains(says, "credential of its own") {
			t.Errorf("%s: %s %s", user, code, says)
		}
		if rows := l.rows(id); len(rows) != 1 || rows[0] != "allow connect "+user+"@orders: 28P01: password authentication failed for user \""+user+"\"" {
			t.Errorf("%q", rows)
		}
		if strings.Contains(l.said.String()+l.Log()+says, wrong) {
			t.Errorf("the password is in what is said or logged")
		}
	}
}

func TestLogin_TooManyConnections(t *testing.T) {
	l := newLab(t, startCluster(t).policy("few"))
	l.SetSecret("postgres.few", "password", password)
	id := l.Approve("a", "ci")
	l.connect(id, "few", "orders")
	if code, says := l.fails(id, "few", "orders"); code != "53300" || !strings.Contains(says, "too many connections for role") {
		t.Errorf("%s %s", code, says)
	}
}

// A certificate for another host, from another authority, or none at all gets
// nothing of the credential.
func TestI04_TheCredentialGoesToTheVerifiedHostOnly(t *testing.T) {
	c := startCluster(t)
	stranger, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca")})
	must(t, err)
	strangerFile := filepath.Join(t.TempDir(), "stranger.pem")
	must(t, os.WriteFile(strangerFile, stranger.CertPEM(), 0o600))
	var heard atomic.Int64
	plain := listen(t, func(conn net.Conn) { // refuses TLS, and listens on
		buf := make([]byte, 8)
		_, _ = io.ReadFull(conn, buf)
		_, _ = conn.Write([]byte("N"))
		n, _ := io.Copy(io.Discard, conn)
		heard.Add(n)
	})
	for name, tc := range map[string]struct{ policy, host, says string }{
		"another host":      {strings.ReplaceAll(c.policy("scram_user"), `"`+host+`"`, `"other.example.com"`), "other.example.com", "not valid for this host"},
		"another authority": {strings.ReplaceAll(c.policy("scram_user"), c.caFile, strangerFile), host, "unknown authority"},
		"no TLS":            {strings.ReplaceAll(c.policy("scram_user"), c.address, plain), host, "does not speak TLS"},
	} {
		l := newLab(t, tc.policy)
		l.SetSecret("postgres.scram_user", "password", password)
		id := l.Approve("a", "ci")
		config := l.config(id, "scram_user", "orders")
		config.TLSConfig.ServerName = tc.host
		config.DialFunc = l.dialer(id, tc.host)
		_, err := pgx.ConnectConfig(t.Context(), config)
		var e *pgconn.PgError
		if !errors.As(err, &e) || e.Code != "08001" && e.Code != "28000" || !strings.Contains(e.Message, tc.says) {
			t.Errorf("%s: %v", name, err)
		}
		if rows := l.rows(id); len(rows) != 1 || !strings.HasPrefix(rows[0], "allow connect ") || strings.HasSuffix(rows[0], "connected") {
			t.Errorf("%s: %q", name, rows)
		}
	}
	if n := heard.Load(); n > 0 {
		t.Errorf("without TLS the gateway said %d bytes", n)
	}
	// Nor does the agent's own TLS name make any other host of it.
	l, id := ordinary(t)
	config := l.config(id, "scram_user", "orders")
	config.TLSConfig.ServerName = "elsewhere.example.com"
	if _, err := pgx.ConnectConfig(t.Context(), config); err == nil {
		t.Error("another server name was answered")
	}
}

// Without TLS upstream, which is for loopback, a password in clear is not sent.
func TestI04_NoPasswordInClearWithoutTLS(t *testing.T) {
	c := startCluster(t)
	endpoint := fmt.Sprintf("endpoint \"postgres\" \"orders\" {\n hosts = [%q]\n address = %q\n tls = \"disable\"\n}\n", host, c.address)
	l := newLab(t, endpoint+credential("scram_user")+credential("clear_user")+"profile \"ci\" { credentials = [postgres.scram_user, postgres.clear_user] }")
	l.SetSecret("postgres.scram_user", "password", password)
	l.SetSecret("postgres.clear_user", "password", password)
	id := l.Approve("a", "ci")
	var n int
	must(t, l.connect(id, "scram_user", "orders").QueryRow(t.Context(), "SELECT 1").Scan(&n))
	if code, says := l.fails(id, "clear_user", "orders"); code != "28000" || !strings.Contains(says, "password in clear without TLS") {
		t.Errorf("%s %s", code, says)
	}
}

// Who an agent says it is chooses among its own credentials, and nothing else.
func TestI05_I06_TheRegistrationsOwnCredentialsOnly(t *testing.T) {
	c := startCluster(t)
	l := newLab(t, c.endpoint()+credential("scram_user")+credential("md5_user", `databases = ["other"]`, `mismatch = "map"`)+credential("reader")+`
		profile "one" { credentials = [postgres.scram_user] }
		profile "two" { credentials = [postgres.scram_user, postgres.md5_user] }
		profile "rest" { credentials = [postgres.reader] }
		profile "none" { credentials = [] }`)
	for _, user := range []string{"scram_user", "md5_user", "reader"} {
		l.SetSecret("postgres."+user, "password", password)
	}
	one, two := l.Approve("one", "one"), l.Approve("two", "two")
	l.Approve("rest", "rest")
	for _, tc := range []struct {
		id                   registry.ID
		user, database, want string // want: "user@database" or an SQLSTATE
	}{
		{one, "scram_user", "orders", "scram_user@orders"},
		{one, "scram_user", "other", "scram_user@other"},
		{one, "scram_user", "scram_user", "scram_user@orders"}, // libpq's default
		{one, "scram_user", "postgres", "42501"},
		{one, "postgres", "orders", "28000"},
		{one, "reader", "orders", "28000"}, // another registration's
		{one, "clawpatrol-reader", "orders", "28000"},
		{one, "clawpatrol-scram_user", "orders", "scram_user@orders"},
		{two, "scram_user", "orders", "scram_user@orders"},
		{two, "md5_user", "other", "md5_user@other"},
		{two, "md5_user", "orders", "md5_user@other"},
		{two, "reader", "orders", "md5_user@other"}, // mapped, and not to reader
		{two, "scram_user", "postgres", "42501"},
	} {
		got := ""
		if len(tc.want) == 5 {
			got, _ = l.fails(tc.id, tc.user, tc.database)
		} else {
			must(t, l.connect(tc.id, tc.user, tc.database).QueryRow(t.Context(), "SELECT session_user || '@' || current_database()").Scan(&got))
		}
		if got != tc.want {
			t.Errorf("%s@%s is %s, want %s", tc.user, tc.database, got, tc.want)
		}
	}
	if rows := strings.Join(l.rows(one), "\n"); !strings.Contains(rows, `deny connect postgres@orders: denied: no credential here is for the user "postgres"; there is scram_user`) {
		t.Errorf("%s", rows)
	}
}

// A session ends with what it rests on: its profile, its credential's secret.
func TestI06_ASessionEndsWithItsCredential(t *testing.T) {
	c := startCluster(t)
	l, id := ordinary(t)
	conn := l.connect(id, "scram_user", "orders")
	l.SetSecret("postgres.scram_user", "password", password) // anew: another version
	var e *pgconn.PgError
	if _, err := conn.Exec(t.Context(), "SELECT 1"); !errors.As(err, &e) || e.Code != "57P01" {
		t.Errorf("under a secret that is no longer stored: %v", err)
	}
	open := l.session(id)
	l.Reload(c.endpoint() + credential("scram_user") + "profile \"ci\" { credentials = [] }")
	_, _ = io.Copy(io.Discard, open)
	l.Eventually(wait, "the session ends upstream too", func() bool {
		return c.admin(t, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'scram_user'") == "0"
	})
}

// What an upstream says while it lets the gateway in may hold the password that it
// was sent: the agent reads asterisks.
func TestI01_AnUpstreamThatRepeatsThePassword(t *testing.T) {
	for name, say := range map[string]string{
		"an error":    message('E', "SFATAL\x00VFATAL\x00C28P01\x00Mbad password "+password+"\x00Dit was "+password+"\x00\x00"),
		"a parameter": message('R', "\x00\x00\x00\x00") + message('S', "server_version\x00"+password+"\x00") + message('N', "SNOTICE\x00Mhello "+password+"\x00\x00") + message('Z', "I"),
	} {
		l, id := scripted(t, func(up net.Conn) {
			_, _ = io.WriteString(up, message('R', "\x00\x00\x00\x03")) // the password, please
			if heard := readMessage(up); !strings.Contains(heard, password) {
				t.Errorf("%s: heard %q", name, heard)
			}
			_, _ = io.WriteString(up, say)
			_, _ = io.Copy(io.Discard, up)
		})
		conn := l.open(id, "scram_user", "orders")
		heard := readUntil(t, conn, func(kind byte) bool { return kind == 'Z' || kind == 'E' })
		if strings.Contains(heard, password) || !strings.Contains(heard, strings.Repeat("*", len(password))) {
			t.Errorf("%s: the agent reads %q", name, heard)
		}
		if strings.Contains(l.said.String()+l.Log(), password) {
			t.Errorf("%s: the password is in a log", name)
		}
	}
}

// Nothing of the password, nor of the exchange that proves it, is in what the
// gateway logs, even at its most talkative, nor in what the agent reads.
func TestI01_I02_NothingOfTheExchangeIsToldOrLogged(t *testing.T) {
	l, id := ordinary(t)
	out, err := l.psql(l.listen(id), "scram_user", "orders", "SELECT version(); SELECT * FROM pg_settings; SELECT * FROM pg_stat_activity;")
	must(t, err)
	all := out + l.said.String() + l.Log() + strings.Join(l.rows(id), "\n")
	for _, word := range []string{password, "SCRAM-SHA", "SASL", "c=biws", "r="} {
		if word != "SASL" && word != "r=" && strings.Contains(all, word) || strings.Contains(l.said.String()+l.Log(), word) {
			t.Errorf("%q is told or logged", word)
		}
	}
}

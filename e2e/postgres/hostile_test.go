package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// profiles gives a registration others until the test ends.
func profiles(t *testing.T, j *lab.Joined, names ...string) {
	t.Helper()
	must(t, w.gateway.Operator.SetProfiles(t.Context(), j.Registration, names...))
	t.Cleanup(func() {
		must(t, w.gateway.Operator.SetProfiles(context.WithoutCancel(t.Context()), j.Registration, "none"))
	})
	must(t, lab.Eventually(t.Context(), patience, func() error {
		r := collect(t, asAgent(t.Context(), j.Host, "PGCONNECT_TIMEOUT=5 psql -XwAtc 'SELECT 1'"))
		if r.stdout != "1\n" {
			return errors.New(r.String())
		}
		return nil
	}))
}

// The attack: a registration without the credential asks for its host.
func TestI06_RegistrationWithoutTheCredentialHasNone(t *testing.T) {
	before := accepted(appUser)
	r := collect(t, asAgent(t.Context(), w.other.Host, "psql -Xwc 'SELECT 1'"))
	if r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, "no password supplied") {
		t.Errorf("%v", r)
	}
	if accepted(appUser) != before {
		t.Error("the server has let it in")
	}
}

// The attack: a server that shows a good certificate, of another name.
func TestI04_AnotherNamesCertificateIsRefused(t *testing.T) {
	before := accepted(appUser)
	r := w.run(t, "psql -Xwc 'SELECT 1' -h "+wrongHost)
	if r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, "certificate") {
		t.Errorf("%v", r)
	}
	if accepted(appUser) != before {
		t.Error("the server has let it in")
	}
}

func TestI21_WithoutItsSecretACredentialOpensNothing(t *testing.T) {
	connections := strings.Count(w.server.Log.String(), "connection received")
	r := w.run(t, "PGPASSWORD=anything psql -Xc 'SELECT 1' -h "+unsetHost)
	if r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, "postgres.unset") {
		t.Errorf("%v", r)
	}
	if n := strings.Count(w.server.Log.String(), "connection received") - connections; n != 0 {
		t.Errorf("%d connections", n)
	}
}

// What a DBA would look for is what the driver gets.
func TestPostgres_FaultsHaveTheirSQLSTATE(t *testing.T) {
	state := func(err error) string {
		if e := new(pgconn.PgError); errors.As(err, &e) {
			return e.Severity + " " + e.Code
		}
		return fmt.Sprint(err)
	}
	t.Run("wrong password", func(t *testing.T) {
		r := w.run(t, "psql -Xwc 'SELECT 1' -v VERBOSITY=verbose -h "+brokenHost)
		if r.code != 2 || !strings.Contains(r.stderr, "password authentication failed") {
			t.Errorf("%v", r)
		}
		if strings.Contains(r.stderr, passwords["broken"]) {
			t.Error("the password is in what the agent read")
		}
	})
	t.Run("too many connections", func(t *testing.T) {
		var last error
		for range 3 {
			_, last = connect(t, w.agent.Host, "user="+crowdUser)
		}
		if got := state(last); got != "FATAL 53300" {
			t.Errorf("%s", got)
		}
	})
	t.Run("terminated", func(t *testing.T) {
		c, err := connect(t, w.agent.Host, "")
		must(t, err)
		_, err = c.Exec(t.Context(), "SELECT pg_terminate_backend(pg_backend_pid())").ReadAll()
		if got := state(err); got != "FATAL 57P01" {
			t.Errorf("%s", got)
		}
	})
	t.Run("no such option", func(t *testing.T) {
		r := w.run(t, "PGOPTIONS='-c role=other_team' psql -XwAtc 'SELECT current_user'")
		if r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, `permission denied to set parameter "role" at the start`) { // the server would refuse too
			t.Errorf("%v", r)
		}
		if r = w.run(t, "psql -XwAt 'replication=database' -c 'IDENTIFY_SYSTEM'"); r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, "replication connections are not allowed here") {
			t.Errorf("replication: %v", r)
		}
	})
	t.Run("the server dies in the middle of a COPY", func(t *testing.T) {
		for line, what := range map[string]string{
			`psql -Xwqc "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000000)) TO STDOUT" >/dev/null`: "COPY (%",
			"(echo 'CREATE TEMPORARY TABLE t (v text); COPY t FROM STDIN;'; yes) | psql -Xwq":                      "COPY t FROM STDIN%",
		} {
			ended := make(chan ran, 1)
			go func() { ended <- w.run(t, line) }()
			must(t, lab.Eventually(t.Context(), patience, func() error {
				return sqlIs(t, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '"+what+"'", "1")
			}))
			must(t, w.server.Stop())
			if r := w.run(t, "psql -Xwc 'SELECT 1'"); r.code != 2 || !strings.Contains(r.stderr, ordersHost) {
				t.Errorf("while it is down: %v", r)
			}
			must(t, w.server.Start(t.Context()))
			select {
			case r := <-ended:
				if r.code == 0 || !strings.Contains(r.stderr, "lost") && !strings.Contains(r.stderr, "closed the connection") {
					t.Errorf("%s: %.2000v", line, r)
				}
			case <-time.After(patience):
				t.Errorf("%s does not end", line)
			}
		}
		if out := w.works(t, "psql -XwAtc 'SELECT count(*) FROM orders'"); out != "1000\n" {
			t.Errorf("%q", out)
		}
	})
}

// The attack: keep a session across the block.
func TestI07_BlockEndsSessions(t *testing.T) {
	profiles(t, w.other, "ci")
	t.Cleanup(func() {
		r := lab.Registration{ID: w.other.Registration, UserCode: w.other.UserCode}
		must(t, w.gateway.Operator.Approve(context.WithoutCancel(t.Context()), r, "none"))
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := new(lab.Output)
	// The server goes on for as long as anybody listens.
	cmd := asAgent(ctx, w.other.Host, `PGAPPNAME=to_block psql -Xqw -c "COPY (SELECT repeat('tick', 100), pg_sleep(0.001) FROM generate_series(1, 1000000)) TO STDOUT"`)
	cmd.Stdout = out
	must(t, cmd.Start())
	_, err := out.Wait(ctx, patience, "tick")
	must(t, err)
	const running = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'to_block'"
	must(t, lab.Eventually(t.Context(), patience, func() error { return sqlIs(t, running, "1") }))
	began := time.Now()
	must(t, w.gateway.Operator.Block(t.Context(), w.other.Registration, "test"))
	must(t, lab.Eventually(t.Context(), patience, func() error { return sqlIs(t, running, "0") }))
	t.Logf("the server's session was gone %v after the operator's request began", time.Since(began).Round(time.Millisecond))
	heard := len(out.String())
	if _, err := w.other.Run(t.Context(), "timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/192.0.2.30/5432"); err == nil {
		t.Error("it still connects")
	}
	if n := len(out.String()) - heard; n != 0 {
		t.Errorf("%d bytes came after the end", n)
	}
	cancel()
	_ = cmd.Wait() // how it ends is no matter
}

// The attack: what is no message, or not all of one, as often as it goes. Sessions
// beside it go on.
func TestI16_MalformedMessagesCostTheirOwnFlow(t *testing.T) {
	beside, err := connect(t, w.agent.Host, "")
	must(t, err)
	const login = "\x00\x00\x00\x29\x00\x03\x00\x00user\x00orders_app\x00database\x00orders\x00\x00" // 41 bytes
	for what, sent := range map[string]string{
		"another protocol":         "GET / HTTP/1.1\r\nHost: db.example.com\r\n\r\n",
		"an endless startup":       "\x7f\xff\xff\xff\x00\x03\x00\x00" + strings.Repeat("x", 20000),
		"a negative length":        "\xff\xff\xff\xff\x00\x03\x00\x00",
		"no terminator":            "\x00\x00\x00\x0c\x00\x03\x00\x00user",
		"protocol 2":               "\x00\x00\x00\x08\x00\x02\x00\x00",
		"a negative message":       login + "Q\xff\xff\xff\xff",
		"a message of no length":   login + "Q\x00\x00\x00\x00",
		"an unknown message":       login + "~\x00\x00\x00\x04",
		"a password nobody wanted": login + "p\x00\x00\x00\x05\x00",
		"TLS that is none":         "\x16\x03\x01\x02\x00\x01" + strings.Repeat("\x00", 600),
		"data before TLS":          sslRequest + login,
	} {
		c, err := w.agent.Dial(t.Context(), "tcp", net.JoinHostPort(virtual(t, w.agent.Host), lab.PostgresPort))
		must(t, err)
		_, _ = io.WriteString(c, sent) // it may be cut off before the end
		must(t, c.SetReadDeadline(time.Now().Add(patience)))
		answer, err := io.ReadAll(c)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: it is not closed, after %.200q", what, answer)
		}
		must(t, c.Close())
	}
	// A message that never ends is not kept: 1 GB is the most that one may have.
	var unfinished []net.Conn
	before := memory(t)
	for range 8 {
		c, err := w.agent.Dial(t.Context(), "tcp", net.JoinHostPort(virtual(t, w.agent.Host), lab.PostgresPort))
		must(t, err)
		unfinished = append(unfinished, c)
		must(t, c.SetWriteDeadline(time.Now().Add(patience)))
		_, err = io.WriteString(c, login+"Q\x3f\x00\x00\x00"+strings.Repeat("x", 8<<20))
		must(t, err)
	}
	if r, err := beside.Exec(t.Context(), "SELECT 'still here'").ReadAll(); err != nil || string(r[0].Rows[0][0]) != "still here" {
		t.Errorf("the session beside: %v", err)
	}
	if grown := memory(t) - before; grown > 48<<20 {
		t.Errorf("64 MiB of unfinished messages are %d MiB in the gateway", grown>>20)
	}
	for _, c := range unfinished {
		must(t, c.Close())
	}
	if strings.Contains(w.gateway.Log.String(), "panic") {
		t.Error("the gateway has panicked")
	}
}

package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/clawpatrol/clawpatrol/registry"
)

// denying is a lab with a read_only credential of scram_user under which nothing
// that says "forbidden" may run.
func denying(t testing.TB) (*lab, registry.ID) {
	t.Helper()
	l := newLab(t, startCluster(t).policy("scram_user", "read_only = true"))
	l.handler.SetReadOnly(func(sql string) error {
		if strings.Contains(sql, "forbidden") {
			return errors.New("nothing forbidden")
		}
		return nil
	})
	l.SetSecret("postgres.scram_user", "password", password)
	return l, l.Approve("a", "ci")
}

// transcript says what came back: errors with their SQLSTATE, ReadyForQuery with
// its status, until so many of the latter.
func transcript(t testing.TB, front *pgproto3.Frontend, ready int) string {
	t.Helper()
	var parts []string
	for ready > 0 {
		m, err := front.Receive()
		if err != nil {
			t.Fatalf("after %q: %v", parts, err)
		}
		switch m := m.(type) {
		case *pgproto3.ErrorResponse:
			parts = append(parts, m.Severity+" "+m.Code)
			if m.Code == "42501" && !strings.HasPrefix(m.Message, "denied by the gateway: ") {
				t.Errorf("it is not said who denies: %q", m.Message)
			}
		case *pgproto3.ReadyForQuery:
			parts = append(parts, string(m.TxStatus))
			ready--
		case *pgproto3.DataRow:
			parts = append(parts, "row "+string(m.Values[0]))
		case *pgproto3.CommandComplete:
			parts = append(parts, string(m.CommandTag))
		default:
			parts = append(parts, strings.TrimPrefix(fmt.Sprintf("%T", m), "*pgproto3."))
		}
	}
	return strings.Join(parts, ", ")
}

// A denied statement looks to the agent as one that the server itself refuses when
// it reads it: the same messages in the same order, and the same transaction. The
// server's own refusal here is that of a table which does not exist.
func TestDenied_AsTheServerItselfRefuses(t *testing.T) {
	c := startCluster(t)
	l, id := denying(t)
	gateway := l.connect(id, "scram_user", "orders").PgConn()
	direct, err := pgconn.Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%s user=scram_user dbname=orders sslmode=require password=%s default_transaction_read_only=on", c.port, password))
	must(t, err)
	t.Cleanup(func() { _ = direct.Close(t.Context()) })

	q := func(sql string) pgproto3.FrontendMessage { return &pgproto3.Query{String: sql} }
	parse := func(name, sql string) pgproto3.FrontendMessage { return &pgproto3.Parse{Name: name, Query: sql} }
	bind := func(name string) pgproto3.FrontendMessage { return &pgproto3.Bind{PreparedStatement: name} }
	run, sync, describe := &pgproto3.Execute{}, &pgproto3.Sync{}, &pgproto3.Describe{ObjectType: 'P'}
	const no = "SELECT i FROM forbidden"
	type messages = []pgproto3.FrontendMessage
	for name, tc := range map[string]struct {
		send  messages
		ready int
	}{
		"simple":                             {messages{q(no), q("SELECT 1")}, 2},
		"simple in a transaction":            {messages{q("BEGIN"), q(no), q("SELECT 1"), q("ROLLBACK"), q("SELECT 2")}, 5},
		"simple in a failed transaction":     {messages{q("BEGIN"), q("SELECT 1/0"), q(no), q("ROLLBACK")}, 4},
		"after a savepoint":                  {messages{q("BEGIN"), q("SAVEPOINT s"), q(no), q("ROLLBACK TO s"), q("SELECT 3"), q("COMMIT")}, 6},
		"extended":                           {messages{parse("", no), bind(""), describe, run, sync, q("SELECT 1")}, 2},
		"extended in a transaction":          {messages{q("BEGIN"), parse("", no), bind(""), run, sync, q("COMMIT")}, 3},
		"named":                              {messages{parse("n1", no), sync, parse("n1", "SELECT 5"), bind("n1"), run, &pgproto3.Close{ObjectType: 'S', Name: "n1"}, sync}, 2},
		"a pipeline of one Sync":             {messages{parse("", "SELECT 1"), bind(""), run, parse("", no), bind(""), run, parse("", "SELECT 3"), bind(""), run, sync, q("SELECT 4")}, 2},
		"a pipeline of many":                 {messages{parse("", "SELECT 1"), bind(""), run, sync, parse("", no), bind(""), run, sync, parse("", "SELECT 3"), bind(""), run, sync}, 3},
		"two denied in one":                  {messages{parse("", no), bind(""), run, parse("", no), bind(""), run, sync}, 1},
		"denied after an error":              {messages{parse("", "SELECT 1/0"), bind(""), run, parse("", no), bind(""), run, sync, q("SELECT 1")}, 2},
		"a query among what is skipped":      {messages{parse("", no), q("SELECT 1"), sync, q("SELECT 2")}, 2},
		"the unnamed statement":              {messages{parse("", "SELECT 8"), sync, parse("n2", no), sync, bind(""), run, sync}, 3},
		"the unnamed statement is gone":      {messages{parse("", "SELECT 8"), sync, parse("", no), sync, bind(""), sync}, 3},
		"a pipelined transaction":            {messages{parse("", "BEGIN"), bind(""), run, sync, parse("", no), sync, parse("", "ROLLBACK"), bind(""), run, sync}, 3},
		"an implicit one is rolled back":     {messages{parse("", "SELECT set_config('x.y', 'changed', false)"), bind(""), run, parse("", no), sync, q("SELECT current_setting('x.y', true)")}, 2},
		"several statements in one":          {messages{q("SELECT 1; SELECT i FROM forbidden")}, 1},
		"several with a denied one in front": {messages{q("SELECT i FROM forbidden; SELECT 1")}, 1},
	} {
		must(t, sendAll(direct.Frontend(), tc.send...))
		want := transcript(t, direct.Frontend(), tc.ready)
		must(t, sendAll(gateway.Frontend(), tc.send...))
		got := transcript(t, gateway.Frontend(), tc.ready)
		want = strings.ReplaceAll(want, "42P01", "42501")
		switch name {
		case "several statements in one": // nothing of it goes upstream
			want = strings.Replace(want, "RowDescription, row 1, SELECT 1, ", "", 1)
		case "simple in a failed transaction": // it is denied all the same
			want = strings.Replace(want, "ERROR 25P02", "ERROR 42501", 1)
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
		if !strings.Contains(got, "ERROR 42501") && !strings.Contains(name, "an error") {
			t.Errorf("%s: nothing was denied: %s", name, got)
		}
	}
	if e := new(pgconn.PgError); !errors.As(gateway.Exec(t.Context(), no).Close(), &e) || e.Message != "denied by the gateway: nothing forbidden" || e.Detail != "rule: read_only" {
		t.Errorf("told: %q, %q", e.Message, e.Detail)
	}
	rows := strings.Join(l.rows(id), "\n")
	if !strings.Contains(rows, "deny SELECT") || !strings.Contains(rows, "denied: nothing forbidden") {
		t.Errorf("nothing denied is in the log: %s", rows)
	}
	for _, row := range l.Actions(id) {
		if row.Verdict == "deny" && row.Rule != "read_only" {
			t.Errorf("a denied row without its rule: %+v", row)
		}
	}
}

// A denied statement of any length leaves the session usable, and one that is too
// long to look into is denied.
func TestI19_WhatCannotBeInspectedIsDenied(t *testing.T) {
	l, id := denying(t)
	conn := l.connect(id, "scram_user", "orders")
	ctx := t.Context()
	var e *pgconn.PgError
	for name, tc := range map[string]struct {
		sql  string
		code string
	}{
		"as long as it may be": {"SELECT length('" + strings.Repeat("x", 128<<10-100) + "')", ""},
		"too long":             {"SELECT length('" + strings.Repeat("x", 132<<10) + "')", "42501"},
		"denied at its end":    {"SELECT length('" + strings.Repeat("x", 100<<10) + "') AS forbidden", "42501"},
		"large and allowed":    {"SELECT length('" + strings.Repeat("x", 100<<10) + "')", ""},
	} {
		for _, simple := range []bool{true, false} {
			var err error
			if simple {
				_, err = conn.PgConn().Exec(ctx, tc.sql).ReadAll()
			} else {
				err = conn.PgConn().ExecParams(ctx, tc.sql, nil, nil, nil, nil).Read().Err
			}
			if tc.code == "" && err != nil || tc.code != "" && (!errors.As(err, &e) || e.Code != tc.code) {
				t.Errorf("%s, simple %v: %v, want %s", name, simple, err, tc.code)
			}
		}
	}
	front := conn.PgConn().Frontend()
	must(t, sendAll(front, &pgproto3.FunctionCall{Function: 1598})) // random()
	if got := transcript(t, front, 1); got != "ERROR 42501, I" {
		t.Errorf("a function by number: %s", got)
	}
}

// The session of a read_only credential is so upstream too, and what an agent
// asks for at its start does not change it.
func TestReadOnly_UpstreamToo(t *testing.T) {
	l, id := denying(t)
	conn := l.connect(id, "scram_user", "orders")
	var e *pgconn.PgError
	if _, err := conn.Exec(t.Context(), "CREATE TABLE not_here (i int)"); !errors.As(err, &e) || e.Code != "25006" {
		t.Errorf("a write that nothing recognised: %v", err)
	}
	for _, option := range []string{
		"options=-cdefault_transaction_read_only=off", "options='-c role=postgres'", "options=--transaction-read-only=0",
		"options=-cstandard_conforming_strings=off", "client_encoding=sjis", "options=-cclient_encoding=gbk", "replication=database",
	} {
		if out, err := l.psql(l.listen(id), "scram_user", "orders", "SELECT 1", option); err == nil || !strings.Contains(err.Error(), "the credential is read_only") && !strings.Contains(err.Error(), "replication connections are not allowed here") { // the server refuses some too
			t.Errorf("%s: %q, %v", option, out, err)
		}
	}
	for _, sql := range []string{"SET client_encoding = sjis", "SET standard_conforming_strings = off"} {
		conn := l.connect(id, "scram_user", "orders")
		_, _ = conn.Exec(t.Context(), sql)
		if err := conn.Ping(t.Context()); err == nil {
			t.Errorf("%s: the session goes on", sql)
		}
	}
}

// A statement that cannot be recorded does not run.
func TestI19_NoRowNoStatement(t *testing.T) {
	l, id := ordinary(t)
	conn := l.connect(id, "scram_user", "orders")
	_, err := conn.Exec(t.Context(), "CREATE TEMP TABLE unrecorded (i int)")
	must(t, err)
	must(t, l.DB.Close())
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		var e *pgconn.PgError
		_, err := conn.Exec(t.Context(), "INSERT INTO unrecorded VALUES (1)", mode)
		if !errors.As(err, &e) || e.Code != "58030" || !strings.Contains(e.Message, "could not be recorded") {
			t.Errorf("%v: %v", mode, err)
		}
	}
	if code, says := l.fails(id, "scram_user", "orders"); code != "58030" {
		t.Errorf("%s %s", code, says)
	}
}

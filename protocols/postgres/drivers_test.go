package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

func TestPgx_QueriesPipelinesAndPortals(t *testing.T) {
	l, id := ordinary(t)
	conn := l.connect(id, "scram_user", "orders")
	ctx := t.Context()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		var n int64
		var text string
		var raw []byte
		if err := conn.QueryRow(ctx, "SELECT $1::int8 + 1, $2::text, $3::bytea", mode, int64(41), "text", []byte{0, 1, 255}).Scan(&n, &text, &raw); err != nil || n != 42 || text != "text" || !bytes.Equal(raw, []byte{0, 1, 255}) {
			t.Errorf("%v: %d %q %x %v", mode, n, text, raw, err)
		}
	}
	batch := &pgx.Batch{}
	for i := range 200 {
		batch.Queue("SELECT $1::int", i)
	}
	batch.Queue("SELECT 1/$1::int", 0)
	batch.Queue("SELECT 'skipped'")
	results := conn.SendBatch(ctx, batch)
	for i := range 200 {
		var n int
		if err := results.QueryRow().Scan(&n); err != nil || n != i {
			t.Fatalf("batch: %d is %d, %v", i, n, err)
		}
	}
	var e *pgconn.PgError
	if _, err := results.Exec(); !errors.As(err, &e) || e.Code != "22012" {
		t.Errorf("division by zero in a batch: %v", err)
	}
	_ = results.Close()

	tx, err := conn.Begin(ctx)
	must(t, err)
	_, err = tx.Exec(ctx, "SELECT broken")
	if !errors.As(err, &e) || e.Code != "42703" || conn.PgConn().TxStatus() != 'E' {
		t.Errorf("in a transaction: %v, status %c", err, conn.PgConn().TxStatus())
	}
	must(t, tx.Rollback(ctx))

	// One portal in pieces.
	front := conn.PgConn().Frontend()
	must(t, sendAll(front, &pgproto3.Query{String: "BEGIN"}))
	expect(t, front, "CommandComplete", "ReadyForQuery")
	must(t, sendAll(front,
		&pgproto3.Parse{Name: "s", Query: "SELECT generate_series(1, 3)"},
		&pgproto3.Bind{DestinationPortal: "p", PreparedStatement: "s"},
		&pgproto3.Execute{Portal: "p", MaxRows: 2},
		&pgproto3.Execute{Portal: "p", MaxRows: 2},
		&pgproto3.Close{ObjectType: 'P', Name: "p"},
		&pgproto3.Flush{}))
	expect(t, front, "ParseComplete", "BindComplete", "DataRow", "DataRow", "PortalSuspended", "DataRow", "CommandComplete", "CloseComplete")
	must(t, sendAll(front, &pgproto3.Sync{}))
	expect(t, front, "ReadyForQuery")
	must(t, sendAll(front, &pgproto3.Query{String: "COMMIT"}))
	expect(t, front, "CommandComplete", "ReadyForQuery")

	rows := strings.Join(l.rows(id), "\n")
	for _, want := range []string{": SUSPENDED", ": 22012", ": SELECT 1", "SELECT generate_series(?, ?): SELECT 1"} {
		if !strings.Contains(rows, want) {
			t.Errorf("no row with %q", want)
		}
	}
	for _, not := range []string{"running", "lost", "done"} {
		if strings.Contains(rows, ": "+not) {
			t.Errorf("a row says %q", not)
		}
	}
}

func sendAll(front *pgproto3.Frontend, messages ...pgproto3.FrontendMessage) error {
	for _, m := range messages {
		front.Send(m)
	}
	return front.Flush()
}

// expect reads messages of these types.
func expect(t testing.TB, front *pgproto3.Frontend, types ...string) []pgproto3.BackendMessage {
	t.Helper()
	for i, want := range types {
		m, err := front.Receive()
		if err != nil {
			t.Fatalf("message %d: %v, want a %s", i, err, want)
		}
		if got := strings.TrimPrefix(fmt.Sprintf("%T", m), "*pgproto3."); got != want {
			t.Fatalf("message %d is a %s, want a %s: %+v", i, got, want, m)
		}
	}
	return nil
}

func TestPgx_CopyBothWays(t *testing.T) {
	l, id := ordinary(t)
	conn := l.connect(id, "scram_user", "orders")
	ctx := t.Context()
	_, err := conn.Exec(ctx, "CREATE TEMP TABLE copied (i int, t text)")
	must(t, err)
	const n = 20000
	count, err := conn.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"i", "t"}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		return []any{i, strings.Repeat("t", i%200)}, nil
	}))
	if err != nil || count != n {
		t.Fatalf("copied %d: %v", count, err)
	}
	var out bytes.Buffer
	tag, err := conn.PgConn().CopyTo(ctx, &out, "COPY copied TO STDOUT")
	if err != nil || tag.RowsAffected() != n || bytes.Count(out.Bytes(), []byte("\n")) != n {
		t.Errorf("%v %v, %d lines", tag, err, bytes.Count(out.Bytes(), []byte("\n")))
	}
	// One that fails in the middle leaves the session as it was.
	_, err = conn.Exec(ctx, "CREATE TEMP TABLE one (i int PRIMARY KEY)")
	must(t, err)
	var e *pgconn.PgError
	_, err = conn.PgConn().CopyFrom(ctx, strings.NewReader(strings.Repeat("7\n", 100000)), "COPY one FROM STDIN")
	if !errors.As(err, &e) || e.Code != "23505" {
		t.Errorf("a duplicate key in a COPY: %v", err)
	}
	var alive int
	must(t, conn.QueryRow(ctx, "SELECT 1").Scan(&alive))
	var last string
	for _, row := range l.Actions(id) {
		if row.Result != nil && strings.HasPrefix(row.Result.Status, "COPY") && row.Result.BytesIn > 1<<20 {
			last = row.Result.Status
		}
	}
	if last != "COPY 20000" {
		t.Errorf("no row counts the bytes copied in: %q", l.rows(id))
	}
}

func TestPgx_ListenNotify(t *testing.T) {
	l, id := ordinary(t)
	hears, tells := l.connect(id, "scram_user", "orders"), l.connect(id, "scram_user", "orders")
	_, err := hears.Exec(t.Context(), "LISTEN news")
	must(t, err)
	for i := range 3 {
		_, err = tells.Exec(t.Context(), "SELECT pg_notify('news', $1)", fmt.Sprint(i))
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		n, err := hears.WaitForNotification(ctx)
		cancel()
		if err != nil || n.Payload != fmt.Sprint(i) {
			t.Fatalf("%+v, %v", n, err)
		}
	}
}

// A row of 200 MB passes through without being held.
func TestI16_RowsOfAnySizePassThroughBoundedMemory(t *testing.T) {
	l, id := ordinary(t)
	front := l.connect(id, "scram_user", "orders").PgConn()
	const size = 200 << 20
	conn := front.Conn()
	request, err := (&pgproto3.Query{String: fmt.Sprintf("SELECT repeat('x', %d)", size)}).Encode(nil)
	must(t, err)
	_, err = conn.Write(request)
	must(t, err)
	most, total := heap(), 0
	before := most
	buf := make([]byte, 64<<10)
	for total < size {
		n, err := conn.Read(buf)
		must(t, err)
		if before := total; (before+n)>>24 != before>>24 {
			most = max(most, heap())
		}
		total += n
	}
	if grown := int64(most) - int64(before); grown > 16<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func TestCancel_EndsTheStatementOfTheSameRegistrationOnly(t *testing.T) {
	l, id := ordinary(t)
	other := l.Approve("b", "ci")
	at, foreign := l.listen(id), l.listen(other)
	conn := l.connect(id, "scram_user", "orders")
	key := &pgproto3.CancelRequest{ProcessID: conn.PgConn().PID(), SecretKey: conn.PgConn().SecretKey()}
	result := make(chan error, 1)
	begin := func() {
		go func() {
			_, err := conn.Exec(context.Background(), "SELECT pg_sleep(60)")
			result <- err
		}()
		l.Eventually(wait, "the statement runs", func() bool {
			return startCluster(t).admin(t, "orders", "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'") == "1"
		})
	}
	begin()
	request, err := key.Encode(nil)
	must(t, err)
	ask := func(to string, request []byte) {
		c := dial(t, to)
		_, err := c.Write(request)
		must(t, err)
		_, _ = c.Read(make([]byte, 1)) // until it is closed
	}
	ask(foreign.String(), request)
	wrong := bytes.Clone(request)
	wrong[len(wrong)-1] ^= 1
	ask(at.String(), wrong)
	select {
	case err := <-result:
		t.Fatalf("it was cancelled by whom it does not belong to: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	ask(at.String(), request)
	var e *pgconn.PgError
	if err := <-result; !errors.As(err, &e) || e.Code != "57014" {
		t.Errorf("cancelled: %v", err)
	}
	begin()
	must(t, conn.PgConn().CancelRequest(t.Context())) // over TLS, as the session
	if err := <-result; !errors.As(err, &e) || e.Code != "57014" {
		t.Errorf("cancelled by pgx: %v", err)
	}
	rows := strings.Join(l.rows(id), "\n")
	if strings.Count(rows, "allow cancel: delivered") != 2 || !strings.Contains(rows, "deny cancel") || !strings.Contains(strings.Join(l.rows(other), "\n"), "deny cancel") {
		t.Errorf("rows %s; the other's %q", rows, l.rows(other))
	}
	if strings.Contains(l.said.String()+l.Log(), fmt.Sprintf("%x", key.SecretKey)) {
		t.Error("the key is in a log")
	}
}

// A COPY by the extended protocol: the Sync behind its Execute is part of the data
// to the server, and the answers stay in step.
func TestCopy_ByTheExtendedProtocol(t *testing.T) {
	l, id := ordinary(t)
	conn := l.connect(id, "scram_user", "orders")
	_, err := conn.Exec(t.Context(), "CREATE TEMP TABLE extended (i int PRIMARY KEY)")
	must(t, err)
	front := conn.PgConn().Frontend()
	begin := []pgproto3.FrontendMessage{&pgproto3.Parse{Query: "COPY extended FROM STDIN"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}}
	must(t, sendAll(front, begin...))
	expect(t, front, "ParseComplete", "BindComplete", "CopyInResponse")
	must(t, sendAll(front, &pgproto3.CopyData{Data: []byte("1\n2\n3\n")}, &pgproto3.CopyDone{}, &pgproto3.Sync{}, &pgproto3.Query{String: "SELECT 4"}))
	expect(t, front, "CommandComplete", "ReadyForQuery", "RowDescription", "DataRow", "CommandComplete", "ReadyForQuery")
	must(t, sendAll(front, begin...))
	expect(t, front, "ParseComplete", "BindComplete", "CopyInResponse")
	must(t, sendAll(front, &pgproto3.CopyFail{Message: "enough"}, &pgproto3.Sync{}))
	expect(t, front, "ErrorResponse", "ReadyForQuery")
	var n int
	must(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM extended").Scan(&n))
	rows := strings.Join(l.rows(id), "\n")
	for _, want := range []string{"allow COPY extended FROM STDIN: COPY 3", "allow SELECT ?: SELECT 1", "allow COPY extended FROM STDIN: 57014"} {
		if !strings.Contains(rows, want) {
			t.Errorf("no row %q in\n%s", want, rows)
		}
	}
	if n != 3 || strings.Contains(rows, "running") || strings.Contains(rows, ": done") {
		t.Errorf("%d rows; %s", n, rows)
	}
}

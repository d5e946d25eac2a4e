// Command pgx does what programs do with jackc/pgx, and prints what came of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		fmt.Println("mode", mode)
		if err := run(ctx, mode); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
	}
}

func run(ctx context.Context, mode pgx.QueryExecMode) error {
	cfg, err := pgx.ParseConfig("")
	if err != nil {
		return err
	}
	cfg.DefaultQueryExecMode = mode
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { fmt.Println("notice", n.Code, n.Message) }
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, step := range []func(context.Context, *pgx.Conn) error{rows, types, transaction, batch, copies, notify, largeObject, cancels} {
		if err := step(ctx, c); err != nil {
			return err
		}
		fmt.Printf("status %c\n", c.PgConn().TxStatus())
	}
	return nil
}

func rows(ctx context.Context, c *pgx.Conn) error {
	for i := range 5 { // the statement is prepared once
		var customer string
		if err := c.QueryRow(ctx, "SELECT customer FROM orders WHERE id = $1", i+1).Scan(&customer); err != nil {
			return err
		}
		fmt.Println(customer)
	}
	rows, err := c.Query(ctx, "SELECT id::int8, repeat('x', 1000) FROM generate_series(1, 20000) id")
	if err != nil {
		return err
	}
	var sum, size int64
	for rows.Next() {
		var id int64
		var text string
		if err := rows.Scan(&id, &text); err != nil {
			return err
		}
		sum, size = sum+id, size+int64(len(text))
	}
	fmt.Println("rows", sum, size)
	return rows.Err()
}

func types(ctx context.Context, c *pgx.Conn) error {
	var text string
	var when time.Time
	var bytes []byte
	var list []int32
	err := c.QueryRow(ctx, "SELECT $1::text, $2::timestamptz, $3::bytea, $4::int4[]",
		"naïve\n'quoted'", time.Date(2026, 2, 3, 4, 5, 6, 7000, time.UTC), []byte{0, 1, 254, 255}, []int32{1, -2, 3}).Scan(&text, &when, &bytes, &list)
	fmt.Printf("%q %v %x %v\n", text, when.UTC(), bytes, list)
	return err
}

func transaction(ctx context.Context, c *pgx.Conn) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "SELECT 1/$1::int", 0)
	said(err)
	fmt.Printf("status %c\n", c.PgConn().TxStatus())
	_, err = tx.Exec(ctx, "SELECT 1")
	said(err)
	if err := tx.Rollback(ctx); err != nil {
		return err
	}
	_, err = c.Exec(ctx, "DO $$ BEGIN RAISE NOTICE 'a %', 'notice'; END $$")
	return err
}

func batch(ctx context.Context, c *pgx.Conn) error {
	b := new(pgx.Batch)
	b.Queue("SELECT $1::int", 1)
	b.Queue("SELECT 1/$1::int", 0)
	b.Queue("SELECT $1::int", 3)
	results := c.SendBatch(ctx, b)
	for range 3 {
		var n int
		if err := results.QueryRow().Scan(&n); err != nil {
			said(err)
			continue
		}
		fmt.Println("batch", n)
	}
	said(results.Close())
	// A pipeline with a Sync in the middle: what follows it goes on.
	p := c.PgConn().StartPipeline(ctx)
	p.SendQueryParams("SELECT 'before'", nil, nil, nil, nil)
	p.SendQueryParams("SELECT 1/0", nil, nil, nil, nil)
	p.SendQueryParams("SELECT 'skipped'", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		return err
	}
	p.SendQueryParams("SELECT 'after'", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		return err
	}
	for {
		r, err := p.GetResults()
		switch r := r.(type) {
		case *pgconn.ResultReader:
			read := r.Read()
			fmt.Printf("pipeline %s %s\n", read.Rows, read.CommandTag)
			said(read.Err)
		case *pgconn.PipelineSync:
			fmt.Println("sync")
		case nil:
			if err == nil {
				return p.Close()
			}
			said(err)
		}
	}
}

func copies(ctx context.Context, c *pgx.Conn) error {
	if _, err := c.Exec(ctx, "CREATE TEMPORARY TABLE copied (id int4, name text)"); err != nil {
		return err
	}
	n, err := c.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"id", "name"}, pgx.CopyFromSlice(50000, func(i int) ([]any, error) {
		return []any{int32(i), fmt.Sprint("name ", i)}, nil
	}))
	if err != nil {
		return err
	}
	fmt.Println("copied", n)
	var out strings.Builder
	tag, err := c.PgConn().CopyTo(ctx, &out, "COPY copied TO STDOUT")
	fmt.Println(tag, out.Len())
	if err != nil {
		return err
	}
	_, err = c.PgConn().CopyFrom(ctx, strings.NewReader("1\tone\nx\ttwo\n"), "COPY copied FROM STDIN")
	said(err)
	_, err = c.Exec(ctx, "DROP TABLE copied")
	return err
}

func notify(ctx context.Context, c *pgx.Conn) error {
	if _, err := c.Exec(ctx, "LISTEN news"); err != nil {
		return err
	}
	other, err := pgx.Connect(ctx, "")
	if err != nil {
		return err
	}
	defer other.Close(ctx)
	if _, err := other.Exec(ctx, "SELECT pg_notify('news', $1)", "of another session"); err != nil {
		return err
	}
	n, err := c.WaitForNotification(ctx)
	if err != nil {
		return err
	}
	fmt.Println("notified", n.Channel, n.Payload)
	_, err = c.Exec(ctx, "UNLISTEN *")
	return err
}

func largeObject(ctx context.Context, c *pgx.Conn) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	los := tx.LargeObjects()
	oid, err := los.Create(ctx, 0)
	if err != nil {
		return err
	}
	o, err := los.Open(ctx, oid, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
	if err != nil {
		return err
	}
	if _, err := o.Write([]byte(strings.Repeat("0123456789", 100000))); err != nil {
		return err
	}
	if _, err := o.Seek(-10, 2); err != nil {
		return err
	}
	b := make([]byte, 10)
	_, err = o.Read(b)
	fmt.Printf("object %s\n", b)
	return err
}

// cancels ends statements: by the server's own clock, and by a cancel request.
func cancels(ctx context.Context, c *pgx.Conn) error {
	if _, err := c.Exec(ctx, "SET statement_timeout = '50ms'"); err != nil {
		return err
	}
	_, err := c.Exec(ctx, "SELECT pg_sleep(20)")
	said(err)
	if _, err := c.Exec(ctx, "RESET statement_timeout"); err != nil {
		return err
	}
	asked := make(chan error, 1)
	go func() {
		other, err := pgx.Connect(ctx, "")
		if err != nil {
			asked <- err
			return
		}
		defer other.Close(ctx)
		for n := 0; n == 0 && err == nil; { // until it sleeps
			err = other.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(21)' AND state = 'active' AND pid <> pg_backend_pid()").Scan(&n)
		}
		asked <- errors.Join(err, c.PgConn().CancelRequest(ctx))
	}()
	_, err = c.Exec(ctx, "SELECT pg_sleep(21)")
	said(err)
	return <-asked
}

func said(err error) {
	if e := new(pgconn.PgError); errors.As(err, &e) {
		fmt.Println("error", e.Severity, e.Code, e.Message)
	} else if err != nil {
		fmt.Println("error", err)
	}
}

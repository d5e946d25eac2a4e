// Command pq does what programs do with lib/pq, and prints what came of it.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lib/pq"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	db, err := sql.Open("postgres", "")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(4)
	for _, step := range []func(context.Context, *sql.DB) error{rows, transaction, copies, notify, cancels} {
		if err := step(ctx, db); err != nil {
			return err
		}
	}
	return nil
}

func rows(ctx context.Context, db *sql.DB) error {
	st, err := db.PrepareContext(ctx, "SELECT customer, amount FROM orders WHERE id = $1")
	if err != nil {
		return err
	}
	defer st.Close()
	for i := range 5 {
		var customer string
		var amount float64
		if err := st.QueryRowContext(ctx, i+1).Scan(&customer, &amount); err != nil {
			return err
		}
		fmt.Println(customer, amount)
	}
	var list []string
	var bytes []byte
	err = db.QueryRowContext(ctx, "SELECT $1::text[], $2::bytea", pq.Array([]string{"a", "b'c"}), []byte{0, 255}).Scan(pq.Array(&list), &bytes)
	fmt.Printf("%q %x\n", list, bytes)
	return err
}

func transaction(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO orders (customer) VALUES ($1)", "nobody")
	said(err)
	_, err = tx.ExecContext(ctx, "SELECT 1")
	said(err)
	return tx.Rollback()
}

func copies(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "CREATE TEMPORARY TABLE copied (id int4, name text) ON COMMIT DROP"); err != nil {
		return err
	}
	st, err := tx.PrepareContext(ctx, pq.CopyIn("copied", "id", "name"))
	if err != nil {
		return err
	}
	for i := range 20000 {
		if _, err := st.ExecContext(ctx, i, fmt.Sprint("name ", i)); err != nil {
			return err
		}
	}
	if _, err := st.ExecContext(ctx); err != nil {
		return err
	}
	if err := st.Close(); err != nil {
		return err
	}
	var n, length int
	err = tx.QueryRowContext(ctx, "SELECT count(*), sum(length(name)) FROM copied").Scan(&n, &length)
	fmt.Println("copied", n, length)
	return err
}

func notify(ctx context.Context, db *sql.DB) error {
	l := pq.NewListener("", time.Second, time.Minute, nil)
	defer l.Close()
	if err := l.Listen("news"); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "NOTIFY news, 'payload'"); err != nil {
		return err
	}
	select {
	case n := <-l.Notify:
		fmt.Println("notified", n.Channel, n.Extra)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func cancels(ctx context.Context, db *sql.DB) error {
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := db.ExecContext(short, "SELECT pg_sleep(20)")
	said(err)
	var n int
	err = db.QueryRowContext(ctx, "SELECT 42").Scan(&n)
	fmt.Println("after", n)
	return err
}

func said(err error) {
	if e := new(pq.Error); errors.As(err, &e) {
		fmt.Println("error", e.Severity, e.Code, e.Message)
	} else if err != nil {
		fmt.Println("error", err)
	}
}

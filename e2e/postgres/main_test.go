// Package postgres runs the PostgreSQL programs and drivers that agents use,
// unmodified, on an agent host that has no password, against Debian's PostgreSQL
// server, which lets nobody in without one or a certificate.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The shared world. Tests leave it as they found it.
var w *world

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/postgres:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var p prepared
	var preparing errgroup.Group
	preparing.Go(func() (err error) {
		p, err = prepare(ctx)
		return err
	})
	l, err := lab.New(ctx, lab.Config{Bin: lab.Binary(), Agents: 2})
	notPrepared := preparing.Wait()
	if err != nil {
		return 1, errors.Join(err, notPrepared)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if notPrepared != nil {
		return 1, notPrepared
	}
	if w, err = newWorld(ctx, l, p); err != nil {
		return 1, err
	}
	return lab.RunTests(m, w.circumstances), nil
}

// circumstances is what a failure may be understood by.
func (w *world) circumstances(out io.Writer) {
	fmt.Fprintf(out, "--- the gateway's log:\n%s\n--- PostgreSQL's:\n%s\n", w.gateway.Log.Tail(100), w.server.Log.Tail(100))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

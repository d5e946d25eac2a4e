// Package ssh runs the SSH programs that agents use, unmodified, on an agent host
// that has no key, against Debian's OpenSSH servers, which accept nothing but the
// key of a credential.
package ssh

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The shared world. Tests leave it as they found it.
var w *world

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/ssh:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := prepare(ctx); err != nil {
		return 1, err
	}
	l, err := lab.New(ctx, lab.Config{Bin: lab.Binary(), Agents: 2})
	if err != nil {
		return 1, err
	}
	defer func() {
		if cerr := l.Close(); err == nil {
			err = cerr
		}
	}()
	if w, err = newWorld(ctx, l); err != nil {
		return 1, err
	}
	return lab.RunTests(m, w.circumstances), nil
}

// circumstances is what a failure may be understood by.
func (w *world) circumstances(out io.Writer) {
	fmt.Fprintf(out, "--- the gateway's log:\n%s\n", w.gateway.Log)
	for _, s := range w.servers {
		fmt.Fprintf(out, "--- sshd of %s:\n%s\n", s.name, s.Log)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Package dashboard drives the dashboard as operators do: in Debian's Chromium,
// by the roles and names that a screen reader hears, against the built gateway
// with real agent hosts behind it.
package dashboard

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

var (
	chromium *browser
	w        *world // shared; tests leave it as they found it
)

// pictures also renews the pictures of the documentation; `make pictures` sets it.
var pictures = flag.String("pictures", "", "a `folder` for the documentation's pictures; empty: they stay as they are")

// variants are who goes through the whole of it, and with what. Each has an agent
// host of its own.
var variants = []setting{
	{width: 1440}, {width: 1440, dark: true},
	{width: 768}, {width: 768, dark: true},
	{width: 360}, {width: 360, dark: true},
	{width: 1440, keyboard: true},
	{width: 360, scripts: withoutScripts},
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil { // tests mostly wait, for the browser
		panic(err)
	}
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/dashboard:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "../peers.sh", "chromium", "curl", "sshd=openssh-server", "ssh=openssh-client").CombinedOutput()
	if err != nil {
		return 1, fmt.Errorf("installing the programs: %w: %s", err, out)
	}
	if err := os.MkdirAll(screenshots, 0o755); err != nil {
		return 1, err
	}
	l, err := lab.New(ctx, lab.Config{Bin: lab.Binary(), Agents: len(variants) + 1})
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
	defer w.ln.Close()
	var end func() error
	if chromium, end, err = startBrowser(ctx); err != nil {
		return 1, err
	}
	defer func() {
		if cerr := end(); err == nil {
			err = cerr
		}
	}()
	return lab.RunTests(m, func(out io.Writer) {
		fmt.Fprintf(out, "--- the gateway's log:\n%s\n", w.gateway.Log.Tail(100))
	}), nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

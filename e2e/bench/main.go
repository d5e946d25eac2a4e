// Command bench measures what the gateway costs, as ratios to a limit that is
// measured beside it in the same run: absolute figures depend on the machine,
// ratios travel. docs/performance.md holds a recorded run.
//
// Contenders take turns sample by sample, so that a machine whose speed drifts
// drifts for all of them. A sample during which other processes used more than a
// tenth of a processor is taken again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		err = roles[os.Args[1]](ctx, os.Args[2:])
	} else {
		err = bench(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// roles are what the program does when the benchmark starts it on a lab host.
var roles = map[string]func(context.Context, []string) error{
	"wireguard-peer":   runWireGuardPeer,
	"tls-splice":       runTLSSplice,
	"tls-splice-alone": runTLSSpliceAlone,
	"handler-alone":    runHandlerAlone,
	"postgres-splice":  runPostgresSplice,
}

func bench(ctx context.Context) (err error) {
	bin := flag.String("bin", "bin/clawpatrol", "the built clawpatrol")
	samples := flag.Int("samples", 5, "samples of each contender in a row")
	length := flag.Duration("length", 800*time.Millisecond, "length of a sample")
	only := flag.String("only", "", "run only the rows whose name this regular expression finds")
	client := flag.String("client", "lean", "load generator of the HTTPS rows: lean, net/http or h2load")
	flag.Parse()
	if err := knownClient(*client); err != nil {
		return err
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	l, err := lab.New(ctx, lab.Config{Bin: abs, Agents: 2})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s, err := newStage(ctx, l, *client)
	if err != nil {
		return err
	}
	defer s.close()
	fmt.Printf("%s; agent hosts, gateway host and upstream all on it. %d samples of %v of each contender; client: %s.\n\n", machine(), *samples, *length, *client)
	m := &meter{samples: *samples, length: *length, only: wanted, stage: s}
	// The idle flows first: what a load has left in the pools would hide them.
	for _, measure := range []func(context.Context) error{m.idleRow, m.sshRows, m.tunnelRows, m.httpsRows, m.aloneRows, m.postgresRows} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("\n%d of %d samples were noisy, because other processes used the machine; %d had to be kept.\n", m.again, m.taken, m.kept)
	return nil
}

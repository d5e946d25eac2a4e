package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Eventually calls f until it returns nil, for at most limit, and returns f's
// last error otherwise.
func Eventually(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still failing after %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// Quote returns s as one word of a POSIX shell.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Binary returns the clawpatrol under test: $CLAWPATROL_BIN, which `make test`
// sets, or bin/clawpatrol of this module.
func Binary() string {
	if b := os.Getenv("CLAWPATROL_BIN"); b != "" {
		return b
	}
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "bin", "clawpatrol")
}

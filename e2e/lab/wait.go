package lab

import (
	"context"
	"fmt"
	"net/netip"
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

package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"
)

const (
	sshStreamRow = "SSH stream of 8 GiB"

	streamSize = 8 << 30
	rekeyAfter = 256 * mib // on either half, for each direction
	leastKeys  = 20

	// streamGrowth is what the gateway may take more. The windows hold 8 MiB; most
	// are the tunnel's buffers, of 64 KiB a packet in flight (docs/performance.md).
	streamGrowth = 256 * mib
)

// sshStream sends a stream that goes up a session and comes back down it, while
// both halves change keys, and wants it back as it was. It comes before the loads:
// what they leave in the gateway's pools would hide how it grows.
func (m *meter) sshStream(ctx context.Context, world *sshWorld) error {
	if !m.only.MatchString(sshStreamRow) {
		return nil
	}
	gateway := m.stage.gateway.PID()
	before, err := rss(gateway)
	if err != nil {
		return err
	}
	// Said by both ends at each exchange of keys.
	const newKeys = "SSH2_MSG_NEWKEYS received"
	serverBefore := strings.Count(world.server.Log.String(), newKeys)
	session, err := world.ours.start(ctx, []string{"-v", "-o", fmt.Sprintf("RekeyLimit=%d", rekeyAfter)}, "cat")
	if err != nil {
		return err
	}
	defer session.close()

	most := make(chan int64, 1)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() { most <- mostRSS(watching, gateway, before) }()

	sent, came := sha256.New(), sha256.New()
	wrote := make(chan error, 1)
	start := time.Now()
	go func() { wrote <- sendNoise(session.in, sent, streamSize) }()
	n, err := io.CopyBuffer(struct{ io.Writer }{came}, session.out, make([]byte, 256*kib))
	if err != nil || n != streamSize {
		return session.failed(fmt.Errorf("%d bytes came: %w", n, err))
	}
	took := time.Since(start)
	if err := <-wrote; err != nil {
		return session.failed(err)
	}
	if err := session.cmd.Wait(); err != nil {
		return session.failed(err)
	}
	stop()
	grown := <-most - before
	agent := strings.Count(session.stderr.String(), newKeys) - 1 // the first are no change
	server := strings.Count(world.server.Log.String(), newKeys) - serverBefore - 1
	fmt.Printf("An SSH stream of 8 GiB, up and back on one session: %.0f MB/s each way, %d rekeys with the agent and %d with the server; the gateway grew by %d MiB at most (bound: %d).\n",
		streamSize/took.Seconds()/1e6, agent, server, grown/mib, streamGrowth/mib)
	switch {
	case !same(sent, came):
		return fmt.Errorf("what came back is not what was sent")
	case agent < leastKeys || server < leastKeys:
		return fmt.Errorf("%d and %d rekeys, want %d", agent, server, leastKeys)
	case grown > streamGrowth:
		return fmt.Errorf("the gateway grew by %d MiB", grown/mib)
	}
	return nil
}

func same(a, b hash.Hash) bool { return string(a.Sum(nil)) == string(b.Sum(nil)) }

// sendNoise writes n bytes that do not repeat, also to h, and closes w.
func sendNoise(w io.WriteCloser, h hash.Hash, n int64) error {
	defer w.Close()
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		return err
	}
	noise, buf := cipher.NewCTR(block, make([]byte, aes.BlockSize)), make([]byte, 256*kib)
	for ; n > 0; n -= int64(len(buf)) {
		clear(buf)
		noise.XORKeyStream(buf, buf)
		h.Write(buf)
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// mostRSS returns the most memory that a process had until ctx is done.
func mostRSS(ctx context.Context, pid int, most int64) int64 {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if now, err := rss(pid); err == nil {
			most = max(most, now)
		}
		select {
		case <-ctx.Done():
			return most
		case <-tick.C:
		}
	}
}

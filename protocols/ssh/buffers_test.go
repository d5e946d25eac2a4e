package ssh

import (
	"io"
	"sync"
	"sync/atomic"
	"testing"
)

// However many streams an agent has, and however little it sends on each for a
// large buffer, there are so many of those and no more.
func TestI16_LargeBuffersAreFew(t *testing.T) {
	const streams = maxLarge + 50
	idle := make(chan struct{})
	large, packets := new(atomic.Int64), new(atomic.Int64)
	var began, running sync.WaitGroup
	for range streams {
		began.Add(1)
		step := 0
		src := readerOf(func(p []byte) (int, error) {
			switch step++; step {
			case 1:
				return firstSize, nil // much comes, it seems
			case 2:
				if len(p) == copySize {
					large.Add(1)
				}
				if len(p) == packetSize {
					packets.Add(1)
				}
				began.Done()
				<-idle
			}
			return 0, io.EOF
		})
		running.Go(func() {
			var count atomic.Int64
			if err := relay(io.Discard, src, &count, nil); err != nil {
				t.Error(err)
			}
		})
	}
	began.Wait()
	if large.Load() != maxLarge || packets.Load() != streams-maxLarge {
		t.Errorf("%d streams hold a large buffer and %d one of a packet's size, want %d and %d", large.Load(), packets.Load(), maxLarge, streams-maxLarge)
	}
	close(idle)
	running.Wait()
	if len(largeOut) != 0 {
		t.Errorf("%d large buffers are not given back", len(largeOut))
	}
}

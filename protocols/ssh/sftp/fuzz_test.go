package sftp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/sftp"
)

// collector is one side of a session that has said all it will.
type collector struct {
	io.Reader
	got bytes.Buffer
}

func (c *collector) Write(p []byte) (int, error) { return c.got.Write(p) }

// waiting is an upstream that stays until the agent's part has been read, or the
// session would end with it; but not where it ends within a packet, for the rest
// of which a refusal waits.
type waiting struct {
	collector
	agentDone chan struct{} // closed by done
	done      func()
}

func newWaiting(replies []byte) *waiting {
	w := &waiting{collector: collector{Reader: bytes.NewReader(replies)}, agentDone: make(chan struct{})}
	w.done = sync.OnceFunc(func() { close(w.agentDone) })
	for len(replies) > 0 {
		if len(replies) < 5 || uint64(len(replies)-4) < uint64(binary.BigEndian.Uint32(replies)) {
			w.done()
			break
		}
		replies = replies[4+binary.BigEndian.Uint32(replies):]
	}
	return w
}

func (w *waiting) Read(p []byte) (int, error) {
	n, err := w.collector.Read(p)
	if err == io.EOF {
		<-w.agentDone
	}
	return n, err
}

func (w *waiting) CloseWrite() error { w.done(); return nil }

// FuzzRelay sends whatever from both sides. What reaches the upstream is packets
// of version 3, and none of them names a path that was refused.
func FuzzRelay(f *testing.F) {
	for _, tt := range asking {
		f.Add(slices.Concat(initPacket, tt.packet), versionPacket, false)
		f.Add(slices.Concat(initPacket, tt.packet), slices.Concat(versionPacket, packet(102, uint32(7), "h")), true)
	}
	f.Add(slices.Concat(initPacket, packet(6, uint32(2), "h", uint64(0), strings.Repeat("x", 70_000)), packet(4, uint32(5), "h")), versionPacket, false)
	f.Add(initPacket, packet(2, uint32(3), "copy-data", "1", "check-file", ""), false)
	f.Fuzz(func(t *testing.T, requests, replies []byte, slow bool) {
		agent := &collector{Reader: bytes.NewReader(requests)}
		upstream := newWaiting(replies)
		defer upstream.done()
		if slow {
			agent.Reader, upstream.Reader = iotest.OneByteReader(agent.Reader), iotest.HalfReader(upstream.Reader)
		}
		var wrong atomic.Pointer[sftp.Action]
		err := sftp.Relay(agent, upstream, func(a sftp.Action) error {
			if a.Op == "" || strings.Contains(a.Path+a.Target, "\x00") {
				wrong.Store(&a)
			}
			return errors.New("forbidden")
		})
		if a := wrong.Load(); a != nil {
			t.Errorf("asked about %+v", a)
		}
		if err != nil {
			return // the other direction may still be writing
		}
		for p := range packets(t, upstream.got.Bytes()) {
			switch p[4] {
			case 1, 4, 5, 6, 8, 12, 200:
			default:
				t.Errorf("upstream got %q", p)
			}
		}
		for range packets(t, agent.got.Bytes()) {
		}
	})
}

// packets splits what one side got, which is whole packets alone.
func packets(t *testing.T, b []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			if len(b) < 5 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
				t.Errorf("ends with half a packet: %q", b)
				return
			}
			n := 4 + binary.BigEndian.Uint32(b)
			if !yield(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

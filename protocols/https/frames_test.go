package https

import (
	"bytes"
	"io"
	"iter"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func TestI16_FramesBeyondTheBudgetAreNotTaken(t *testing.T) {
	now := time.Now()
	b := &frameBudget{rate: connFrames}
	for range connFrames * frameBurst {
		if !b.take(1, 0, now) {
			t.Fatal("refused within the budget")
		}
	}
	if b.take(1, 0, now) {
		t.Error("taken beyond the budget")
	}
	if now = now.Add(time.Second); !b.take(connFrames-1, 0, now) || b.take(2, 0, now) {
		t.Error("a second is not worth a second's frames")
	}
	if now = now.Add(time.Hour); !b.take(connFrames*frameBurst, 0, now) || b.take(1, 0, now) {
		t.Error("an hour is worth more than the burst")
	}
}

// An agent that takes answers as fast as they come, and says so twice for each
// 4 KiB.
func TestDownloadsEarnTheirWindowUpdates(t *testing.T) {
	now := time.Now()
	b := &frameBudget{rate: connFrames}
	for got := 0; got < 4<<30; got += 1 << 20 {
		if !b.take(2<<20/(4<<10), 1<<20/bytesPerFrame, now) {
			t.Fatalf("refused after %d MiB", got>>20)
		}
	}
	if !b.take(connFrames*frameBurst, 1e9, now) || b.take(connFrames*frameBurst, 0, now) {
		t.Error("what was earned is kept for later")
	}
}

// script is frames of all sorts, and how many of them count.
func script(t testing.TB) (stream []byte, want int) {
	t.Helper()
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	w := http2.NewFramer(&out, nil)
	w.AllowIllegalWrites = true
	for _, f := range []struct {
		counts bool
		err    error
	}{
		{true, w.WriteSettings()},
		{true, w.WritePing(true, [8]byte{1, 2, 3})},
		{true, w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("abc")})},
		{true, w.WriteContinuation(1, true, []byte{0, 0, 0, 6, 0, 0, 0, 0, 0})},
		{false, w.WriteData(1, false, bytes.Repeat([]byte{6}, 1000))},
		{true, w.WriteData(1, false, nil)},
		{true, w.WriteDataPadded(1, false, nil, make([]byte, 200))},
		{false, w.WriteData(1, true, nil)},
		{true, w.WriteRSTStream(1, http2.ErrCodeCancel)},
		{true, w.WriteWindowUpdate(0, 1)},
		{true, w.WritePriority(1, http2.PriorityParam{})},
		{true, w.WriteGoAway(1, 0, []byte("why"))},
		{true, w.WriteRawFrame(0xfa, 0xff, 1<<31-1, make([]byte, 300))},
	} {
		if f.err != nil {
			t.Fatal(f.err)
		}
		if f.counts {
			want++
		}
	}
	return out.Bytes(), want
}

func TestFramesAreCountedInAnyPieces(t *testing.T) {
	stream, want := script(t)
	for size := 1; size < 40; size++ {
		got := count(chunks(stream, size))
		if got != want {
			t.Errorf("pieces of %d: %d frames, want %d", size, got, want)
		}
	}
}

// count returns how many frames that count are in a stream that comes in parts.
func count(parts iter.Seq[[]byte]) (frames int) {
	var s frameScanner
	s.after(len(http2.ClientPreface))
	for part := range parts {
		for len(part) > 0 {
			piece := s.next(part)
			part = part[piece.length:]
			if piece.begins && s.counts() {
				frames++
			}
		}
	}
	return frames
}

func chunks(b []byte, size int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := min(size, len(b))
			if !yield(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// FuzzFrames compares the scanner with net/http's reader of frames, whatever
// pieces the stream comes in.
func FuzzFrames(f *testing.F) {
	stream, _ := script(f)
	f.Add(stream[len(http2.ClientPreface):], 7)
	f.Add([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0}, 1)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		size = 1 + int(uint(size)%1000)
		want, rest := 0, bytes.NewReader(stream)
		for {
			head, err := http2.ReadFrameHeader(rest)
			if err != nil {
				break
			}
			switch {
			case head.Type != http2.FrameData, head.Flags.Has(http2.FlagDataPadded), head.Length == 0 && !head.Flags.Has(http2.FlagDataEndStream):
				want++
			}
			_, _ = io.CopyN(io.Discard, rest, int64(head.Length))
		}
		got := count(chunks(append([]byte(http2.ClientPreface), stream...), size))
		if got != want {
			t.Errorf("%d frames, want %d", got, want)
		}
	})
}

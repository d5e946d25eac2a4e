package proxy

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// These run on the fake clock of testing/synctest: what would take hours takes
// none, and "is still waiting" is a fact, not a guess.

func TestPeekWaitsForWhoeverSpeaksFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, near := net.Pipe()
		far, upstream := net.Pipe()
		var seen *peeked
		go func() { s := peek(near, far); seen = &s }()
		time.Sleep(3 * time.Hour) // a connection opened ahead of its use
		synctest.Wait()
		if seen != nil {
			t.Fatal("a silent flow was decided about")
		}
		go func() { _, _ = agent.Write(clientHello) }()
		synctest.Wait()
		if seen == nil || seen.sni != "api.test" || !bytes.Equal(seen.fromAgent, clientHello) || seen.fromUpstream != nil || seen.upstreamErr != nil {
			t.Fatalf("peeked %+v", seen)
		}
		// Both connections are as they were.
		go func() { _, _ = agent.Write([]byte("more")) }()
		go func() { _, _ = upstream.Write([]byte("answer")) }()
		time.Sleep(time.Hour)
		for conn, want := range map[net.Conn]string{near: "more", far: "answer"} {
			buf := make([]byte, 10)
			if n, err := conn.Read(buf); string(buf[:n]) != want || err != nil {
				t.Errorf("read %q, %v; want %q", buf[:n], err, want)
			}
		}
	})
}

func TestPeekGivesUpOnASlowHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, near := net.Pipe()
		far, upstream := net.Pipe()
		defer upstream.Close()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for i := range clientHello { // a byte a second: it would take minutes
				if _, err := agent.Write(clientHello[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		start := time.Now()
		seen := peek(near, far)
		if took := time.Since(start); took != helloWait {
			t.Errorf("gave up after %v, want %v", took, helloWait)
		}
		if n := len(seen.fromAgent); seen.sni != "" || n < 9 || n > 11 {
			t.Errorf("peeked %d bytes and the name %q", n, seen.sni)
		}
		near.Close()
		<-stopped
	})
}

func TestPeekWithoutUpstreamDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, near := net.Pipe()
		defer agent.Close()
		start := time.Now()
		if seen := peek(near, nil); seen.sni != "" || len(seen.fromAgent) != 0 {
			t.Errorf("peeked %+v", seen)
		}
		if took := time.Since(start); took != helloWait {
			t.Errorf("gave up after %v, want %v", took, helloWait)
		}
	})
}

func TestPeekIsCutShortByAServerThatSpeaksDuringTheHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, near := net.Pipe()
		far, upstream := net.Pipe()
		var seen *peeked
		go func() { s := peek(near, far); seen = &s }()
		go func() { _, _ = agent.Write(clientHello[:20]) }()
		synctest.Wait()
		go func() { _, _ = upstream.Write([]byte("go away")) }()
		synctest.Wait()
		if seen == nil || seen.sni != "" || string(seen.fromUpstream) != "go away" || !bytes.Equal(seen.fromAgent, clientHello[:20]) {
			t.Fatalf("peeked %+v", seen)
		}
	})
}

// readSize knows how large a buffer the present Read has.
type readSize struct {
	net.Conn
	size atomic.Int64
}

func (c *readSize) Read(b []byte) (int, error) {
	c.size.Store(int64(len(b)))
	return c.Conn.Read(b)
}

func TestQuietStreamHoldsNoBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, near := net.Pipe()
		watched := &readSize{Conn: near}
		s := &streamSource{conn: watched}
		var got bytes.Buffer
		ended := make(chan error, 1)
		go func() {
			for {
				b, err := s.next()
				got.Write(b)
				if err != nil {
					ended <- err
					return
				}
			}
		}()
		said := bytes.Repeat([]byte("0123456789"), 20_000)
		if _, err := agent.Write(said); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if watched.size.Load() != spliceBuffer {
			t.Error("bulk is read in small pieces")
		}
		time.Sleep(2 * bulkIdle)
		synctest.Wait()
		if watched.size.Load() != firstRead {
			t.Error("a quiet flow holds a buffer")
		}
		time.Sleep(time.Hour)
		if _, err := agent.Write([]byte("still")); err != nil {
			t.Fatal(err)
		}
		agent.Close()
		if err := <-ended; err != io.EOF {
			t.Errorf("ended with %v", err)
		}
		if want := append(said, "still"...); !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d bytes came through, or others than the %d sent", got.Len(), len(want))
		}
	})
}

func TestSpliceHasNoIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, near := net.Pipe()
		far, upstream := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _, _ = splice(halves{agent: near, upstream: far, moved: new(atomic.Int64)})
		}()
		buf := make([]byte, 1)
		for range 3 {
			time.Sleep(100 * time.Hour)
			if _, err := agent.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := upstream.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		agent.Close()
		upstream.Close()
		<-done
	})
}

func TestUDPFlowsLiveLongerOnceBothSidesHaveSpoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f udpFlow
		f.touch()
		if left := time.Until(f.deadline()); left != 60*time.Second {
			t.Errorf("%v, want 60s", left)
		}
		f.spoken.Store(true)
		if left := time.Until(f.deadline()); left != 120*time.Second {
			t.Errorf("%v, want 120s", left)
		}
	})
}

func TestUDPQueueIsBounded(t *testing.T) {
	var many, big udpFlow
	for range 1000 {
		many.enqueue([]byte("x"))
		big.enqueue(make([]byte, 10_000))
	}
	if n := len(many.queue); n != maxUDPQueue {
		t.Errorf("%d datagrams queued, want %d", n, maxUDPQueue)
	}
	if big.queuedBytes > maxUDPQueueBytes {
		t.Errorf("%d bytes queued, more than %d", big.queuedBytes, maxUDPQueueBytes)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 3, 1, 2, 3, 4})
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, said []byte) {
		r := bytes.NewReader(said)
		message, err := readMessage(r)
		if err != nil {
			return
		}
		if n := len(message); n > maxQuery || n != int(said[0])<<8|int(said[1]) || !bytes.Equal(message, said[2:2+n]) {
			t.Errorf("read %d bytes of %x", n, said)
		}
	})
}

package sandbox

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// connected returns the two ends of a run's connection.
func connected(t *testing.T) (*net.UnixConn, *net.UnixConn) {
	t.Helper()
	a, f, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	b, err := connOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

func relayLinks(t *testing.T) (run, daemon *relayLink) {
	t.Helper()
	a, b := connected(t)
	run, err := newRelayLink(a, true)
	if err != nil {
		t.Fatal(err)
	}
	if daemon, err = newRelayLink(b, false); err != nil {
		t.Fatal(err)
	}
	return run, daemon
}

func room(n, size int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, size)
	}
	return bufs, make([]int, n)
}

// What is written in any number of batches is read, in order, in any other.
func TestRelayLink_PacketsArriveAsTheyWere(t *testing.T) {
	run, daemon := relayLinks(t)
	var sent [][]byte
	for i := range 300 {
		p := bytes.Repeat([]byte{byte(i)}, 1+(i*97)%1420)
		sent = append(sent, append(make([]byte, 5), p...))
	}
	go func() {
		for batch := range slices.Chunk(sent, conn.IdealBatchSize) {
			if n, err := run.Write(batch, 5); n != len(batch) || err != nil {
				t.Errorf("Write: %d, %v", n, err)
			}
		}
	}()
	bufs, sizes := room(7, 1500)
	for got := 0; got < len(sent); {
		n, err := daemon.Read(bufs, sizes, 16)
		if err != nil || n == 0 {
			t.Fatalf("after %d: %d, %v", got, n, err)
		}
		for i := range n {
			if !bytes.Equal(bufs[i][16:16+sizes[i]], sent[got][5:]) {
				t.Fatalf("packet %d is another", got)
			}
			got++
		}
	}
	run.Close()
	if _, err := daemon.Read(bufs, sizes, 0); !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %v", err)
	}
}

// What does not read loses packets, and keeps nobody waiting.
func TestRelayLink_TheDaemonWaitsForNoRun(t *testing.T) {
	_, daemon := relayLinks(t)
	bufs, _ := room(conn.IdealBatchSize, 1420)
	for range 1000 { // 180 MB
		_, _ = daemon.Write(bufs, 0)
	}
}

// Messages that are no packets end the connection.
func TestRelayLink_RefusesWhatIsNone(t *testing.T) {
	for name, message := range map[string][]byte{
		"no length":            {1},
		"a length and no more": {0, 1},
		"a packet of no bytes": {0, 0, 0, 1, 9},
		"cut":                  {0, 3, 1, 2},
		"a packet too large":   append([]byte{0x10, 0}, make([]byte, 0x1000)...),
		"a message too large":  make([]byte, maxPackets+1),
	} {
		a, b := connected(t)
		daemon, err := newRelayLink(b, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Write(message); err != nil {
			t.Fatal(name, err)
		}
		bufs, sizes := room(4, 1500)
		if n, err := daemon.Read(bufs, sizes, 0); err == nil {
			t.Errorf("%s: %d packets", name, n)
		}
	}
}

// A descriptor that comes with packets, or with a request, is not taken.
func TestRelayLink_TakesNoDescriptors(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	a, b := connected(t)
	daemon, err := newRelayLink(b, false)
	if err != nil {
		t.Fatal(err)
	}
	before := open()
	for _, message := range []string{"\x00\x01x", `{"run":true}`} {
		if _, _, err := a.WriteMsgUnix([]byte(message), unix.UnixRights(int(null.Fd()), int(null.Fd())), nil); err != nil {
			t.Fatal(err)
		}
	}
	bufs, sizes := room(1, 100)
	if n, err := daemon.Read(bufs, sizes, 0); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if m, err := receiveRequest(b); !m.Run || err != nil {
		t.Fatal(m, err)
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors became %d", before, after)
	}
	if _, err := a.Write(bytes.Repeat([]byte(" "), maxRequest+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := receiveRequest(b); err == nil {
		t.Error("a request larger than maxRequest was read")
	}
}

// A run's packets go both ways until either end is gone, and then both are. Who
// lost the connection is told from who took the interface away.
func TestRelay_EndsWithEither(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(inside *fakeLink, daemon *relayLink)
		lost bool
	}{
		"the interface":                  {func(inside *fakeLink, _ *relayLink) { inside.Close() }, false},
		"a packet that nobody can split": {func(inside *fakeLink, _ *relayLink) { inside.out <- nil }, false},
		"the daemon":                     {func(_ *fakeLink, daemon *relayLink) { daemon.Close() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			run, daemon := relayLinks(t)
			inside := newFakeLink()
			lost := make(chan bool, 1)
			go func() { lost <- relay(inside, run, 1420) }()
			inside.out <- packet("10.55.0.2", "192.0.2.1")
			bufs, sizes := room(1, 1500)
			if n, err := daemon.Read(bufs, sizes, 0); n != 1 || err != nil || !bytes.Equal(bufs[0][:sizes[0]], packet("10.55.0.2", "192.0.2.1")) {
				t.Fatalf("out: %d, %v", n, err)
			}
			if _, err := daemon.Write([][]byte{packet("192.0.2.1", "10.55.0.2")}, 0); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); inside.got() != 1; {
				if time.Now().After(deadline) {
					t.Fatal("nothing came in")
				}
				runtime.Gosched()
			}
			c.end(inside, daemon)
			if got := <-lost; got != c.lost {
				t.Errorf("the connection was lost: %t", got)
			}
			<-inside.done
			if _, err := daemon.Read(bufs, sizes, 0); err == nil {
				t.Error("the connection is still there")
			}
		})
	}
}

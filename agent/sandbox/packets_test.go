package sandbox

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"

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

func packetConns(t *testing.T) (run, daemon *packetConn) {
	t.Helper()
	a, b := connected(t)
	run, err := newPacketConn(a, true)
	if err != nil {
		t.Fatal(err)
	}
	if daemon, err = newPacketConn(b, false); err != nil {
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
func TestPacketConn_PacketsArriveAsTheyWere(t *testing.T) {
	run, daemon := packetConns(t)
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
func TestPacketConn_TheDaemonWaitsForNoRun(t *testing.T) {
	_, daemon := packetConns(t)
	bufs, _ := room(conn.IdealBatchSize, 1420)
	for range 1000 { // 180 MB
		_, _ = daemon.Write(bufs, 0)
	}
}

// Messages that are no packets end the connection.
func TestPacketConn_RefusesWhatIsNone(t *testing.T) {
	for name, message := range map[string][]byte{
		"no length":            {1},
		"a length and no more": {0, 1},
		"a packet of no bytes": {0, 0, 0, 1, 9},
		"cut":                  {0, 3, 1, 2},
		"a packet too large":   append([]byte{0x10, 0}, make([]byte, 0x1000)...),
		"a message too large":  make([]byte, maxPackets+1),
	} {
		a, b := connected(t)
		daemon, err := newPacketConn(b, false)
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
func TestPacketConn_TakesNoDescriptors(t *testing.T) {
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
	daemon, err := newPacketConn(b, false)
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

func FuzzCutPacket(f *testing.F) {
	f.Add([]byte{0, 1, 9, 0, 2, 8, 7})
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(message) > maxPackets {
			return
		}
		var again []byte
		for left := message; len(left) > 0; {
			packet, rest, err := cutPacket(left)
			if err != nil {
				return
			}
			if len(packet) == 0 || len(rest) >= len(left) {
				t.Fatalf("%d bytes of %d, %d are left", len(packet), len(left), len(rest))
			}
			var ok bool
			if again, ok = appendPacket(again, packet); !ok {
				t.Fatal("what was cut does not fit")
			}
			left = rest
		}
		if !bytes.Equal(again, message) {
			t.Fatalf("%x became %x", message, again)
		}
	})
}

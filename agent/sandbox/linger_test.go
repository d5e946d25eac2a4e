package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lingering is a TCP connection whose last close waits: for what the other end
// does not read, or until the test is over.
type lingering struct {
	*os.File
	port int
}

func newLingering(t *testing.T) lingering {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(err)
	defer ln.Close()
	near, err := net.Dial("tcp4", ln.Addr().String())
	must(err)
	defer near.Close()
	far, err := ln.Accept()
	must(err)
	t.Cleanup(func() { far.Close() }) // a reset: what is unread is lost
	must(near.(*net.TCPConn).SetLinger(600))
	for err == nil {
		_ = near.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = near.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	f, err := near.(*net.TCPConn).File()
	must(err)
	return lingering{f, near.LocalAddr().(*net.TCPAddr).Port}
}

// closing reports whether the last close has begun: the socket is in the state
// FIN_WAIT1 (include/net/tcp_states.h).
func (l lingering) closing(t *testing.T) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if strings.HasSuffix(f[1], fmt.Sprintf(":%04X", l.port)) && f[3] == "04" {
			return true
		}
	}
	return false
}

// The attack: runs that send a descriptor nobody has asked for, whose close the
// kernel waits for in the read that drops it. Neither the end of the host's
// interface nor that of the daemon waits for them. The socket here takes
// descriptors, as on a kernel that cannot refuse them.
func TestServeHost_EndsWhileARunHoldsItUp(t *testing.T) {
	request, packets := newLingering(t), newLingering(t)
	asked, sent := make(chan struct{}), make(chan struct{})
	h := newSharedHost(t, func(context.Context) error {
		asked <- struct{}{}
		<-sent
		return nil
	})
	say := func(m message) []byte {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	run := say(message{Run: true})
	link := say(message{Link: linkRelay})
	for _, attack := range []struct {
		messages [][]byte // all but the last are as they ought to be
		fd       lingering
	}{
		{[][]byte{run, link}, request},
		{[][]byte{run, link, {0, 1, 0x45}}, packets},
	} {
		c := h.dial()
		last := len(attack.messages) - 1
		for i, b := range attack.messages {
			var oob []byte
			if i == last {
				oob = unix.UnixRights(int(attack.fd.Fd()))
			}
			if _, _, err := c.WriteMsgUnix(b, oob, nil); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				<-asked // nothing more is read for now
			}
		}
		attack.fd.Close() // not the last: one is on its way
		sent <- struct{}{}
		deadline := time.Now().Add(10 * time.Second)
		for !attack.fd.closing(t) {
			if time.Now().After(deadline) {
				t.Fatalf("after %d messages the descriptor is not being closed", last)
			}
			time.Sleep(time.Millisecond)
		}
	}
	h.own.Close()
	bufs, sizes := room(1, 1500)
	if _, err := h.dev.Read(bufs, sizes, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("WireGuard's side: %v", err)
	}
	closed := make(chan struct{})
	go func() {
		h.dev.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("a run holds up the end of the host's interface")
	}
	// That serving ends, newSharedHost sees to.
}

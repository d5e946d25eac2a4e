package sftp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/sftp"
)

// packet builds one by hand: a byte, uint32 and uint64 are themselves, a string
// has its length before it.
func packet(parts ...any) []byte {
	p := make([]byte, 4)
	for _, part := range parts {
		switch v := part.(type) {
		case int:
			p = append(p, byte(v))
		case uint32:
			p = binary.BigEndian.AppendUint32(p, v)
		case uint64:
			p = binary.BigEndian.AppendUint64(p, v)
		case string:
			p = binary.BigEndian.AppendUint32(p, uint32(len(v)))
			p = append(p, v...)
		case []byte:
			p = append(p, v...)
		}
	}
	binary.BigEndian.PutUint32(p, uint32(len(p)-4))
	return p
}

func readPacket(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	p := make([]byte, 4+binary.BigEndian.Uint32(head[:]))
	copy(p, head[:])
	_, err := io.ReadFull(r, p[4:])
	return p, err
}

var (
	initPacket    = packet(1, uint32(3))
	versionPacket = packet(2, uint32(3))
)

// wire is a session whose two ends a test speaks for.
type wire struct {
	t               *testing.T
	agent, upstream *net.TCPConn
	ended           chan error

	mu    sync.Mutex
	asked []sftp.Action // guarded by mu
}

// dialed returns two ends of a connection that can be half closed.
func dialed(t *testing.T) (here, there *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	other, err := ln.Accept()
	must(t, err)
	t.Cleanup(func() { c.Close(); other.Close() })
	deadline := time.Now().Add(30 * time.Second)
	must(t, errors.Join(c.SetDeadline(deadline), other.SetDeadline(deadline)))
	return c.(*net.TCPConn), other.(*net.TCPConn)
}

// newWire begins a session; decide may be nil: everything is allowed.
func newWire(t *testing.T, decide func(sftp.Action) error) *wire {
	w := &wire{t: t, ended: make(chan error, 1)}
	agent, a := dialed(t)
	upstream, u := dialed(t)
	w.agent, w.upstream = agent, upstream
	go func() {
		w.ended <- sftp.Relay(a, u, func(action sftp.Action) error {
			w.mu.Lock()
			w.asked = append(w.asked, action)
			w.mu.Unlock()
			if decide == nil {
				return nil
			}
			return decide(action)
		})
	}()
	return w
}

// begun is newWire after the versions have been exchanged.
func begun(t *testing.T, decide func(sftp.Action) error) *wire {
	t.Helper()
	w := newWire(t, decide)
	w.request(initPacket)
	w.upstreamGets(initPacket)
	w.reply(versionPacket)
	w.agentGets(versionPacket)
	return w
}

func (w *wire) request(p ...[]byte) { w.write(w.agent, p) }
func (w *wire) reply(p ...[]byte)   { w.write(w.upstream, p) }

func (w *wire) write(c net.Conn, p [][]byte) {
	w.t.Helper()
	_, err := c.Write(slices.Concat(p...))
	must(w.t, err)
}

func (w *wire) agentGets(p []byte)    { w.t.Helper(); w.gets("agent", w.agent, p) }
func (w *wire) upstreamGets(p []byte) { w.t.Helper(); w.gets("upstream", w.upstream, p) }

func (w *wire) gets(who string, c net.Conn, want []byte) {
	w.t.Helper()
	got, err := readPacket(c)
	if err != nil {
		w.t.Fatalf("%s: %v, want %q", who, err, want)
	}
	if !bytes.Equal(got, want) {
		w.t.Fatalf("%s got\n %q, want\n %q", who, got, want)
	}
}

// agentIsTold reads a SSH_FXP_STATUS.
func (w *wire) agentIsTold(id, code uint32, text string) {
	w.t.Helper()
	w.agentGets(packet(101, id, code, text, ""))
}

func (w *wire) wasAsked(want ...sftp.Action) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.asked, want) {
		w.t.Fatalf("asked %+v, want %+v", w.asked, want)
	}
	w.asked = nil
}

// endsWith returns how the session ends.
func (w *wire) end() error {
	w.t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(20 * time.Second):
		w.t.Fatal("the session does not end")
		return nil
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

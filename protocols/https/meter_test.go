package https

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
)

// heads is the frames of an HTTP/2 agent that sends one head after the other.
type heads struct {
	bytes.Buffer
	*http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	stream  uint32
}

func newHeads() *heads {
	h := &heads{stream: 1}
	h.Framer = http2.NewFramer(&h.Buffer, nil)
	h.encoder = hpack.NewEncoder(&h.block)
	h.WriteString(http2.ClientPreface)
	return h
}

// head adds a head with n times the newest field of the table, which is first
// put there where it is new, in frames of at most size.
func (h *heads) head(t testing.TB, field hpack.HeaderField, n, size int) {
	t.Helper()
	h.block.Reset()
	for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"}}, field) {
		if err := h.encoder.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	h.block.Write(bytes.Repeat([]byte{0x80 | 62}, n))
	block := h.block.Bytes()
	part := block[:min(size, len(block))]
	block = block[len(part):]
	err := h.WriteHeaders(http2.HeadersFrameParam{
		StreamID: h.stream, BlockFragment: part, EndStream: true, EndHeaders: len(block) == 0,
		PadLength: uint8(n), Priority: http2.PriorityParam{Weight: uint8(size)},
	})
	for err == nil && len(block) > 0 {
		part, block = block[:min(size, len(block))], block[min(size, len(block)):]
		err = h.WriteContinuation(h.stream, len(block) == 0, part)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.stream += 2
}

// prices are what the heads of a stream cost that comes in parts.
func prices(stream []byte, size int) (total int, err error) {
	var s frameScanner
	var m headMeter
	s.after(len(http2.ClientPreface))
	for part := range chunks(stream, size) {
		for len(part) > 0 {
			piece := s.next(part)
			part = part[piece.length:]
			price, err := m.take(&s, piece)
			if err != nil {
				return total, err
			}
			total += price
		}
	}
	return total, nil
}

func TestI16_HeadsArePaidForAsTheyAreDecoded(t *testing.T) {
	h := newHeads()
	ordinary := hpack.HeaderField{Name: "x-a", Value: strings.Repeat("a", 1000)}
	const fixed = len(":method"+"GET"+":path"+"/") + 2*32
	want := 0
	for _, n := range []int{0, 1, 2, 3, 10, 200} {
		for _, size := range []int{7, 100, 4096} {
			h.head(t, ordinary, n, size)
			want += max(0, fixed+(n+1)*int(ordinary.Size())-freeHead)
		}
	}
	for _, size := range []int{1, 2, 9, 10, 64, 1000, 1 << 20} {
		if got, err := prices(h.Bytes(), size); got != want || err != nil {
			t.Errorf("in pieces of %d: %d, %v, want %d", size, got, err, want)
		}
	}
}

// What programs send costs nothing, however often: gRPC with thirty fields of
// metadata, a browser with its cookies.
func TestOrdinaryHeadsCostNothing(t *testing.T) {
	h := newHeads()
	for i := range 1000 {
		h.block.Reset()
		for n := range 30 {
			if err := h.encoder.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-metadata-%d", n), Value: fmt.Sprintf("%090d", i*n)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: h.block.Bytes(), EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
	}
	if price, err := prices(h.Bytes(), 4096); price != 0 || err != nil {
		t.Errorf("%d, %v", price, err)
	}
}

// connect is an HTTP/2 agent's connection, before its server.
func connect(t *testing.T, gateway *ca.CA, all *agentBudget) (agent *tls.Conn, c *frameConn) {
	t.Helper()
	near, far := net.Pipe()
	leaf, err := gateway.Leaf("api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	// Both ends are this test: what the gateway reads is what matters.
	agent = tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	c = newFrameConn(tls.Server(near, &tls.Config{Certificates: []tls.Certificate{*leaf}}), all, t.Context().Done())
	t.Cleanup(func() { near.Close(); far.Close() })
	return agent, c
}

func newCA(t *testing.T) *ca.CA {
	t.Helper()
	gateway, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca")})
	if err != nil {
		t.Fatal(err)
	}
	return gateway
}

// The attack: a byte on the wire for each 4 KB of a head, as in CVE-2016-6581,
// on several connections.
func TestI16_BombsOfARegistrationWaitForEachOther(t *testing.T) {
	gateway := newCA(t)
	synctest.Test(t, func(t *testing.T) {
		const conns, each = 4, 100
		bomb := hpack.HeaderField{Name: "x-a", Value: strings.Repeat("a", 3900)}
		price := 0
		all := newAgentBudget()
		began := time.Now()
		done := make(chan error, 2*conns)
		for range conns {
			h := newHeads()
			for range each {
				h.head(t, bomb, 60, 4096)
			}
			n, err := prices(h.Bytes(), 4096)
			if err != nil {
				t.Fatal(err)
			}
			price += n
			agent, c := connect(t, gateway, all)
			go func() {
				_, err := agent.Write(h.Bytes())
				done <- err
			}()
			go func() {
				_, err := io.CopyN(io.Discard, struct{ io.Reader }{c}, int64(h.Len()))
				done <- err
			}()
		}
		for range 2 * conns {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if took, want := time.Since(began).Seconds(), float64(price-headBurst)/headRate; took < want-0.1 || took > want+1 {
			t.Errorf("%d bytes of heads took %vs, want %vs", price, took, want)
		}
	})
}

func TestI16_HeadsThatWouldWaitTooLongEndTheConnection(t *testing.T) {
	gateway := newCA(t)
	synctest.Test(t, func(t *testing.T) {
		all := newAgentBudget()
		for range int(maxHeadWait/time.Second) + 1 { // other connections, waiting
			all.heads.ReserveN(time.Now(), headBurst)
		}
		h := newHeads()
		h.head(t, hpack.HeaderField{Name: "x-a", Value: "ordinary"}, 60, 4096)
		ordinary := h.Len()
		h.head(t, hpack.HeaderField{Name: "x-a", Value: strings.Repeat("a", 3900)}, 60, 4096)
		agent, c := connect(t, gateway, all)
		go func() { _, _ = agent.Write(h.Bytes()) }()
		began := time.Now()
		if _, err := io.CopyN(io.Discard, struct{ io.Reader }{c}, int64(ordinary)); err != nil || time.Since(began) > 0 {
			t.Errorf("an ordinary head waited: %v, %v", time.Since(began), err)
		}
		// As x/net/http2 reads: what comes with the last byte, it does not see.
		if n, err := io.ReadFull(c, make([]byte, h.Len()-ordinary)); err != errCalm {
			t.Errorf("%d of %d bytes, %v, want %v", n, h.Len()-ordinary, err, errCalm)
		}
	})
}

// A head that is begun has to be ended in time, however its bytes come.
func TestI16_HeadsWithoutEndEndTheConnection(t *testing.T) {
	gateway := newCA(t)
	for name, begin := range map[string]func(h *heads){
		"no CONTINUATION":        func(h *heads) {},
		"empty CONTINUATIONs":    func(h *heads) { _ = h.WriteContinuation(1, false, nil) },
		"a byte of a frame each": func(h *heads) { h.WriteByte('x') },
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHeads()
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, EndStream: true})
			if name == "a byte of a frame each" {
				h.Write([]byte{0, 16, 0, byte(http2.FrameContinuation), 0, 0, 0, 0, 1})
			}
			agent, c := connect(t, gateway, newAgentBudget())
			over := make(chan struct{})
			go func() {
				for {
					if _, err := agent.Write(h.Next(h.Len())); err != nil {
						return
					}
					select {
					case <-over:
						return
					case <-time.After(5 * time.Second):
					}
					begin(h)
				}
			}()
			began := time.Now()
			_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
			if took := time.Since(began); err != errCalm || took != readHeaderTimeout {
				t.Errorf("%s: %v after %v", name, err, took)
			}
			close(over)
			c.NetConn().Close()
		})
	}
}

// After its head a connection may be quiet for as long as its streams last.
func TestNoTimeLimitIsLeftBehindAHead(t *testing.T) {
	gateway := newCA(t)
	synctest.Test(t, func(t *testing.T) {
		h := newHeads()
		h.head(t, hpack.HeaderField{Name: "x-a", Value: "a"}, 10, 5)
		agent, c := connect(t, gateway, newAgentBudget())
		go func() {
			for _, b := range h.Bytes() {
				_, _ = agent.Write([]byte{b})
			}
			time.Sleep(10 * readHeaderTimeout)
			_ = agent.Close()
		}()
		if n, err := io.Copy(io.Discard, struct{ io.Reader }{c}); err != nil || int(n) != h.Len() {
			t.Errorf("%d of %d bytes, %v", n, h.Len(), err)
		}
	})
}

// FuzzHeads compares the meter with net/http's reader of heads, whatever pieces
// they come in.
func FuzzHeads(f *testing.F) {
	h := newHeads()
	h.head(f, hpack.HeaderField{Name: "x-a", Value: strings.Repeat("a", 1000)}, 10, 20)
	h.head(f, hpack.HeaderField{Name: "cookie", Value: "a"}, 200, 4096)
	f.Add(h.Bytes()[len(http2.ClientPreface):], 7)
	f.Add([]byte{0, 0, 3, 1, 0xc, 0, 0, 0, 1, 5, 0x82, 0x84}, 1)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		in := http2.NewFramer(io.Discard, bytes.NewReader(stream))
		in.SetMaxReadFrameSize(maxFrame)
		in.MaxHeaderListSize = maxHeaderBytes
		in.ReadMetaHeaders = hpack.NewDecoder(hpackTable, nil)
		want, whole := 0, 0
		for {
			frame, err := in.ReadFrame()
			if errors.As(err, new(http2.StreamError)) {
				return // some was decoded, and how much it does not say
			}
			if err != nil {
				break
			}
			whole += 9 + int(frame.Header().Length)
			if head, ok := frame.(*http2.MetaHeadersFrame); ok {
				if head.Truncated {
					return
				}
				bytes := 0
				for _, field := range head.Fields {
					bytes += int(field.Size())
				}
				want += max(0, bytes-freeHead)
			}
		}
		got, err := prices(append([]byte(http2.ClientPreface), stream...), 1+int(uint(size)%1000))
		if got < want || err == nil && got != want && whole == len(stream) {
			t.Errorf("%d, %v, want %d", got, err, want)
		}
	})
}

// The attack: SETTINGS that move the windows of all streams, each of which then
// sends a byte.
func TestI16_SettingsCountForMoreThanOneFrame(t *testing.T) {
	gateway := newCA(t)
	synctest.Test(t, func(t *testing.T) {
		const most = 1 + (connFrames*frameBurst-1)/settingsFrames
		for _, n := range []int{most, most + 1} {
			var h heads
			h.Framer = http2.NewFramer(&h.Buffer, nil)
			h.WriteString(http2.ClientPreface)
			for range n {
				_ = h.WriteSettings()
			}
			agent, c := connect(t, gateway, newAgentBudget())
			go func() { _, _ = agent.Write(h.Bytes()) }()
			_, err := io.CopyN(io.Discard, struct{ io.Reader }{c}, int64(h.Len()))
			if want := n > most; (err == errCalm) != want {
				t.Errorf("%d of %d: %v", n, most, err)
			}
		}
	})
}

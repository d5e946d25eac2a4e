package ssh_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/protocols/ssh"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
)

// fuzzLab is a gateway before an upstream that records what no upstream may see.
func fuzzLab(f *testing.F) (*proxytest.Lasting, *lab, *atomic.Pointer[string]) {
	var fault atomic.Pointer[string]
	out := &proxytest.Lasting{TB: f}
	key, private := newKeyPEM(f, "")
	u := newUpstream(out, "deploy", key.PublicKey(), func(u *upstream) {
		u.channel = func(c xssh.NewChannel) {
			said := "a channel of type " + c.ChannelType()
			fault.Store(&said)
			_ = c.Reject(xssh.Prohibited, "")
		}
		u.session = func(u *upstream, c xssh.Channel, requests <-chan *xssh.Request) {
			defer c.Close()
			for r := range requests {
				switch r.Type {
				case "pty-req", "env", "exec", "shell", "subsystem", "window-change", "signal", "break", "eow@openssh.com":
				default:
					said := "a request of type " + r.Type
					fault.Store(&said)
				}
				if r.WantReply {
					_ = r.Reply(true, nil)
				}
				if r.Type == "exec" || r.Type == "shell" || r.Type == "subsystem" {
					go func() { _, _ = io.Copy(c, c); _ = c.CloseWrite() }()
				}
			}
		}
	})
	l := newLab(out, u.policy("ssh_key"))
	l.SetSecret("ssh_key.deploy", "private_key", private)
	l.Approve("a", "ci")
	return out, l, &fault
}

// watched is a handler whose end is told.
type watched struct {
	proxy.Handler
	done chan error
}

func (w *watched) Serve(ctx context.Context, f *proxy.Flow) error {
	err := w.Handler.Serve(ctx, f)
	w.done <- err
	return err
}

// FuzzAgentBytes feeds the handler arbitrary bytes instead of SSH, or after its
// version.
func FuzzAgentBytes(f *testing.F) {
	f.Add([]byte("SSH-2.0-x\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("SSH-2.0-x\r\n\x00\x00\x00\x2c\x06\x14aaaaaaaaaaaaaaaa\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("SSH-2.0-x\r\n\xff\xff\xff\xff\x00"))
	f.Add([]byte{})
	out, l, fault := fuzzLab(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		defer out.Input()()
		agent, gateway := net.Pipe()
		flow := l.Flow(l.id(), host, 22, gateway)
		done := make(chan error, 1)
		go func() { done <- l.handler.Serve(t.Context(), flow) }()
		read, written := make(chan struct{}), make(chan struct{})
		go func() { defer close(read); _, _ = io.Copy(io.Discard, agent) }()
		go func() { defer close(written); _, _ = agent.Write(data); _ = agent.Close() }()
		select {
		case err := <-done:
			if err == nil {
				t.Error("a connection came of it")
			}
		case <-time.After(wait):
			t.Fatal("the flow outlives its connection")
		}
		_ = agent.Close()
		<-read
		<-written
		if said := fault.Load(); said != nil {
			t.Fatalf("the upstream got %s", *said)
		}
	})
}

// FuzzAgentRequests has an agent that is let in do what the input says: open
// channels, ask, send and close, in any order. The gateway survives, ends with
// the connection, and passes on nothing that is not to be passed on.
func FuzzAgentRequests(f *testing.F) {
	op := func(code byte, text string, payload []byte) []byte {
		b := []byte{code, byte(len(text))}
		b = append(b, text...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
		return append(b, payload...)
	}
	command := xssh.Marshal(struct{ S string }{"cat"})
	f.Add(append(append(op(0, "session", nil), op(1, "exec", command)...), op(2, "", []byte("data"))...))
	f.Add(append(append(op(0, "session", nil), op(1, "subsystem", xssh.Marshal(struct{ S string }{"sftp"}))...), op(2, "", []byte("\x00\x00\x00\x05\x01\x00\x00\x00\x03"))...))
	f.Add(append(op(0, "direct-tcpip", xssh.Marshal(struct {
		H string
		P uint32
		O string
		F uint32
	}{"localhost", 22, "x", 1})), op(4, "tcpip-forward", []byte("x"))...))
	f.Add(append(append(op(0, "session", nil), op(1, "pty-req", []byte("\x00\x00\x00\x01x"))...), op(3, "", nil)...))
	f.Add(append(append(op(0, "session", nil), op(1, "env", xssh.Marshal(struct{ N, V string }{"LANG", "C"}))...), op(1, "shell", nil)...))
	out, l, fault := fuzzLab(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		defer out.Input()()
		served := &watched{Handler: l.handler, done: make(chan error, 1)}
		agent := l.Serve(served, l.id(), host, 22) // both sides of SSH speak first: a pipe without a buffer would not do
		must(t, agent.SetDeadline(time.Now().Add(wait)))
		conn, channels, requests, err := xssh.NewClientConn(agent, host+":22", l.config("x"))
		if err != nil {
			t.Fatal(err)
		}
		go xssh.DiscardRequests(requests)
		go func() {
			for c := range channels {
				_ = c.Reject(xssh.Prohibited, "")
			}
		}()
		var channel xssh.Channel
		for steps := 0; len(data) >= 4 && steps < 32; steps++ {
			code, n := data[0], int(data[1])
			data = data[2:]
			n = min(n, len(data))
			text := string(data[:n])
			data = data[n:]
			if len(data) < 2 {
				break
			}
			n = min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			payload := data[2 : 2+n]
			data = data[2+n:]
			switch {
			case code%5 == 0:
				c, asked, err := conn.OpenChannel(text, payload)
				if err == nil {
					channel = c
					go xssh.DiscardRequests(asked)
					go func() { _, _ = io.Copy(io.Discard, c) }()
					go func() { _, _ = io.Copy(io.Discard, c.Stderr()) }()
				}
			case code%5 == 4:
				_, _, _ = conn.SendRequest(text, code&8 != 0, payload)
			case channel == nil:
			case code%5 == 1:
				_, _ = channel.SendRequest(text, code&8 != 0, payload)
			case code%5 == 2:
				_, _ = channel.Write(payload)
			case code%5 == 3 && code&8 != 0:
				_ = channel.CloseWrite()
			default:
				_ = channel.Close()
				channel = nil
			}
		}
		_ = conn.Close()
		_ = agent.Close()
		select {
		case <-served.done:
		case <-time.After(wait):
			t.Fatal("the flow outlives its connection")
		}
		if said := fault.Load(); said != nil {
			t.Fatalf("the upstream got %s", *said)
		}
	})
}

// FuzzOffer feeds what looks at a client's offer arbitrary bytes.
func FuzzOffer(f *testing.F) {
	f.Add([]byte("SSH-2.0-x\r\n\x00\x00\x00\x30\x04\x14aaaaaaaaaaaaaaaa\x00\x00\x00\x01x\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("SSH-2.0-x\n\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		if ssh.OffersFastest(r) && !bytes.Contains(data, []byte("aes128-gcm@openssh.com")) {
			t.Error("it is not there")
		}
		if len(data)-r.Len() > 255+1+35_004 {
			t.Error("too much was read")
		}
	})
}

package ssh_test

import (
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	xssh "golang.org/x/crypto/ssh"
)

// goroutines counts those whose stack has all of the texts in it.
func goroutines(texts ...string) (n int) {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
next:
	for _, stack := range strings.Split(string(buf), "\n\n") {
		for _, text := range texts {
			if !strings.Contains(stack, text) {
				continue next
			}
		}
		n++
	}
	return n
}

// noneLeft waits until no connection of SSH has a goroutine any more.
func noneLeft(l *lab) {
	l.t.Helper()
	l.Eventually(wait, "no goroutine is left", func() bool { return goroutines("ssh.(*mux).loop") == 0 })
}

// ask sends more requests of the connection than its receiver's library keeps for
// whoever takes them, and one that has an answer.
func ask(s *xssh.ServerConn) error {
	for range 17 {
		if _, _, err := s.SendRequest("x@example.com", false, nil); err != nil {
			return err
		}
	}
	_, _, err := s.SendRequest("x@example.com", true, nil)
	return err
}

// I16: what an upstream asks leaves nothing behind, where the agent goes before it
// is let in, nor where the upstream lets in whoever comes and is left at once.
func TestI16_AnUpstreamsRequestsLeaveNothingBehind(t *testing.T) {
	t.Run("the agent has gone", func(t *testing.T) {
		answered := make(chan struct{})
		l, _, _ := pair(t, func(u *upstream) {
			u.connected = func(s *xssh.ServerConn) {
				go func() {
					if ask(s) == nil {
						close(answered)
					}
				}()
			}
		})
		conn := l.Serve(l.handler, l.id(), host, 22)
		_, err := io.WriteString(conn, "SSH-2.0-x\r\n") // and no more: the upstream is reached meanwhile
		must(t, err)
		within(t, answered, "the upstream's requests are answered")
		must(t, conn.Close())
		noneLeft(l)
	})
	t.Run("the upstream accepts none", func(t *testing.T) {
		l, _, _ := pair(t, func(u *upstream) {
			u.config.NoClientAuth = true
			u.connected = func(s *xssh.ServerConn) { _ = ask(s) }
		})
		for range 20 {
			if _, _, err := l.try(l.id(), host, l.config("x")); err == nil {
				t.Error("it was let in")
			}
		}
		noneLeft(l)
	})
}

// deaf is a connection that is not read any more once still is closed.
type deaf struct {
	*net.TCPConn
	still, end chan struct{}
}

func (d *deaf) Read(p []byte) (int, error) {
	select {
	case <-d.still:
		<-d.end
		return 0, io.EOF
	default:
		return d.TCPConn.Read(p)
	}
}

// I16: an agent that reads nothing, while its upstream sends what has to be passed
// on in order, holds up neither the end of its flow nor that of the gateway.
func TestI16_AnAgentThatReadsNothingHoldsUpNoEnd(t *testing.T) {
	for name, end := range map[string]func(*lab){
		"the handler's":    func(l *lab) { l.handler.Close() },
		"its registration": func(l *lab) { must(l.t, l.DB.Block(l.t.Context(), l.id(), "test")) },
	} {
		t.Run(name, func(t *testing.T) {
			d := &deaf{still: make(chan struct{}), end: make(chan struct{})}
			defer close(d.end)
			l, _, _ := pair(t, func(u *upstream) {
				u.session = func(_ *upstream, c xssh.Channel, requests <-chan *xssh.Request) {
					for r := range requests {
						_ = r.Reply(true, nil)
						if r.Type != "exec" {
							continue
						}
						go func() {
							<-d.still
							for {
								if _, err := c.SendRequest("eow@openssh.com", false, make([]byte, 128)); err != nil {
									return
								}
							}
						}()
					}
				}
			})
			served := &watched{Handler: l.handler, done: make(chan error, 1)}
			d.TCPConn = l.Serve(served, l.id(), host, 22)
			must(t, d.SetReadBuffer(4<<10))
			conn, channels, requests, err := xssh.NewClientConn(d, host+":22", l.config("x"))
			must(t, err)
			client := xssh.NewClient(conn, channels, requests)
			session, err := client.NewSession()
			must(t, err)
			must(t, session.Start("anything"))
			close(d.still)
			l.Eventually(wait, "the upstream's requests wait for the agent", func() bool {
				return goroutines("[IO wait", "(*session).followUpstream") > 0 && goroutines("[chan send", "ssh.(*channel).handlePacket") > 0
			})
			end(l)
			ended := make(chan struct{})
			go func() { <-served.done; close(ended) }()
			within(t, ended, "the flow ends")
		})
	}
}

package ssh_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	xssh "golang.org/x/crypto/ssh"
)

// upstream is an SSH server of the library's, which says and does what a test
// wants.
type upstream struct {
	t       testing.TB
	address string
	host    xssh.Signer
	config  *xssh.ServerConfig

	connections atomic.Int64
	attempts    atomic.Int64 // to authenticate, other than by none
	opened      atomic.Int64 // channels

	// session serves one; nil: shell, below.
	session func(u *upstream, channel xssh.Channel, requests <-chan *xssh.Request)
	// channel serves those that are no sessions; nil: refused.
	channel func(xssh.NewChannel)
	// connected is told of each connection; nil: not.
	connected func(*xssh.ServerConn)

	mu    sync.Mutex
	asked []string          // requests of sessions, as "type payload"; guarded by mu
	open  map[net.Conn]bool // guarded by mu
}

// newUpstream starts one that lets user in with key; change may alter it.
func newUpstream(t testing.TB, user string, key xssh.PublicKey, change ...func(*upstream)) *upstream {
	t.Helper()
	u := &upstream{t: t, open: make(map[net.Conn]bool), host: newKey(t), config: &xssh.ServerConfig{MaxAuthTries: 10}}
	if key != nil {
		u.config.PublicKeyCallback = func(m xssh.ConnMetadata, k xssh.PublicKey) (*xssh.Permissions, error) {
			if m.User() == user && string(k.Marshal()) == string(key.Marshal()) {
				return nil, nil
			}
			return nil, errors.New("no")
		}
	}
	for _, f := range change {
		f(u)
	}
	u.config.AuthLogCallback = func(_ xssh.ConnMetadata, method string, _ error) {
		if method != "none" {
			u.attempts.Add(1)
		}
	}
	u.config.AddHostKey(u.host)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	u.address = ln.Addr().String()
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		u.mu.Lock()
		for conn := range u.open {
			_ = conn.Close()
		}
		u.mu.Unlock()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.open[conn] = true
			u.mu.Unlock()
			serving.Go(func() {
				u.serve(conn)
				u.mu.Lock()
				delete(u.open, conn)
				u.mu.Unlock()
			})
		}
	})
	return u
}

// password lets a user in with it.
func password(user, password string) func(*upstream) {
	return func(u *upstream) {
		u.config.PasswordCallback = func(m xssh.ConnMetadata, p []byte) (*xssh.Permissions, error) {
			if m.User() == user && string(p) == password {
				return nil, nil
			}
			return nil, errors.New("no")
		}
	}
}

func (u *upstream) serve(conn net.Conn) {
	defer conn.Close()
	u.connections.Add(1)
	server, channels, requests, err := xssh.NewServerConn(conn, u.config)
	if err != nil {
		return
	}
	if u.connected != nil {
		u.connected(server)
	}
	go xssh.DiscardRequests(requests)
	for channel := range channels {
		u.opened.Add(1)
		switch {
		case channel.ChannelType() == "session":
			c, requests, err := channel.Accept()
			if err != nil {
				return
			}
			serve := u.session
			if serve == nil {
				serve = (*upstream).shell
			}
			go serve(u, c, requests)
		case u.channel != nil:
			go u.channel(channel)
		default:
			_ = channel.Reject(xssh.UnknownChannelType, "SECRET words of the upstream")
		}
	}
}

// shell serves a session: it notes what is asked, and runs the commands below.
func (u *upstream) shell(channel xssh.Channel, requests <-chan *xssh.Request) {
	defer channel.Close()
	for r := range requests {
		u.note(r)
		if r.WantReply {
			_ = r.Reply(true, nil)
		}
		switch r.Type {
		case "exec":
			var command struct{ Text string }
			_ = xssh.Unmarshal(r.Payload, &command)
			go func() {
				for r := range requests {
					u.note(r)
				}
			}()
			u.command(channel, command.Text)
			return
		case "shell":
			go u.command(channel, "cat")
		}
	}
}

// command runs one: echo, cat, fail, exit N, kill, hang.
func (u *upstream) command(channel xssh.Channel, text string) {
	name, rest, _ := strings.Cut(text, " ")
	status := uint32(0)
	switch name {
	case "echo":
		fmt.Fprintln(channel, rest)
	case "fail":
		fmt.Fprintln(channel.Stderr(), rest)
		status = 1
	case "cat":
		_, _ = io.Copy(channel, channel)
	case "exit":
		n, _ := strconv.Atoi(rest)
		status = uint32(n)
	case "kill":
		_, _ = channel.SendRequest("exit-signal", false, xssh.Marshal(struct {
			Name     string
			Core     bool
			Text     string
			Language string
		}{"TERM", false, rest, "en"}))
		return
	case "hang":
		_, _ = io.Copy(io.Discard, channel)
		return
	}
	_ = channel.CloseWrite()
	_, _ = channel.SendRequest("exit-status", false, xssh.Marshal(struct{ N uint32 }{status}))
}

func (u *upstream) note(r *xssh.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = append(u.asked, r.Type+" "+string(r.Payload))
}

// has reports whether a session was asked something that begins and ends so.
func (u *upstream) has(kind, end string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range u.asked {
		if strings.HasPrefix(a, kind+" ") && strings.HasSuffix(a, end) {
			return true
		}
	}
	return false
}

// policy is that of a gateway with the upstream as ssh.build, and a credential of
// a type for deploy, in profile ci; more are further attributes of the endpoint.
func (u *upstream) policy(credential string, more ...string) string {
	return endpoint("build", host, u.address, u.host.PublicKey(), more...) + fmt.Sprintf(`
		credential %q "deploy" {
			endpoint = ssh.build
			user = "deploy"
		}
		profile "ci" { credentials = [%s.deploy] }`, credential, credential)
}

// pair starts an upstream and a gateway with a key for it, and enrols an agent.
func pair(t testing.TB, change func(*upstream), more ...string) (l *lab, u *upstream, connect func() *xssh.Client) {
	t.Helper()
	key, private := newKeyPEM(t, "")
	u = newUpstream(t, "deploy", key.PublicKey(), func(u *upstream) {
		if change != nil {
			change(u)
		}
	})
	l = newLab(t, u.policy("ssh_key", more...))
	l.SetSecret("ssh_key.deploy", "private_key", private)
	id := l.Approve("a", "ci")
	return l, u, func() *xssh.Client { t.Helper(); return l.connect(id, "whoever") }
}

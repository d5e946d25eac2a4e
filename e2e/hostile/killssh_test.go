package hostile

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	dripSSH     = "shell.example.com"
	dripSSHAt   = "192.0.2.32:22"
	dripForward = "drip.internal"

	channelsEach = 4 // of an SSH connection
)

// sshChannels are the ways in which a channel may stay open, in turn.
var sshChannels = []func(*ssh.Client) (io.ReadWriteCloser, error){
	func(c *ssh.Client) (io.ReadWriteCloser, error) {
		return openSession(c, func(s *ssh.Session) error { return s.Start("drip") })
	},
	func(c *ssh.Client) (io.ReadWriteCloser, error) {
		return openSession(c, func(s *ssh.Session) error {
			return errors.Join(s.RequestPty("xterm", 24, 80, nil), s.Shell())
		})
	},
	func(c *ssh.Client) (io.ReadWriteCloser, error) { return c.Dial("tcp", dripForward+":7000") },
	func(c *ssh.Client) (io.ReadWriteCloser, error) {
		return openSession(c, func(s *ssh.Session) error { return s.RequestSubsystem("drip") })
	},
}

// session is the agent host's end of a session.
type session struct {
	*ssh.Session
	io.Reader
	io.Writer
}

func openSession(c *ssh.Client, start func(*ssh.Session) error) (io.ReadWriteCloser, error) {
	s, err := c.NewSession()
	if err != nil {
		return nil, err
	}
	in, err := s.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return session{s, out, in}, start(s)
}

// openSSH makes channels on connections of channelsEach. The name to log in with
// is the tag.
func openSSH(ctx context.Context, agent *lab.Joined, tag string, n int) ([]io.ReadWriteCloser, error) {
	known, err := knownhosts.New(agent.Path("/etc/ssh/ssh_known_hosts"))
	if err != nil {
		return nil, err
	}
	out, err := agent.Run(ctx, "getent", "ahostsv4", dripSSH)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(strings.Fields(out)[0], "22")
	flows := make([]io.ReadWriteCloser, n)
	var c *ssh.Client
	for i := range flows {
		if i%channelsEach == 0 {
			if c, err = dialDripSSH(ctx, agent, address, tag, known); err != nil {
				return nil, fmt.Errorf("connection %d: %w", i/channelsEach, err)
			}
		}
		if flows[i], err = sshChannels[i%channelsEach](c); err != nil {
			return nil, fmt.Errorf("channel %d: %w", i, err)
		}
	}
	return flows, nil
}

// dialDripSSH makes a connection that ends with ctx.
func dialDripSSH(ctx context.Context, agent *lab.Joined, address, name string, known ssh.HostKeyCallback) (*ssh.Client, error) {
	conn, err := agent.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	c, chans, reqs, err := ssh.NewClientConn(conn, dripSSH+":22", &ssh.ClientConfig{User: name, HostKeyCallback: known})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// serveDripSSH serves d under dripSSH: every channel drips, for the tag that was
// logged in with. It returns the policy's lines for it, and the private key that
// is the only one to get in.
func serveDripSSH(t *testing.T, l *lab.Lab, d *dripper) (policy, private string, err error) {
	public, private, err := lab.SSHKey()
	if err != nil {
		return "", "", err
	}
	allowed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		return "", "", err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	host, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return "", "", err
	}
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(allowed.Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	}}
	cfg.AddHostKey(host)
	at := netip.MustParseAddrPort(dripSSHAt)
	if err := l.World.Script(t.Context(), fmt.Sprintf("ip address add %s/32 dev lo", at.Addr())); err != nil {
		return "", "", err
	}
	ln, err := l.World.Listen(dripSSHAt)
	if err != nil {
		return "", "", err
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go d.serveSSH(conn, cfg)
		}
	}()
	l.Names.Set(dripSSH, at.Addr())
	return fmt.Sprintf(`
endpoint "ssh" "drip" {
  hosts     = [%q]
  host_keys = [%q]
  forward   = ["%s:7000"]
}
credential "ssh_key" "drip" {
  endpoint = ssh.drip
  users    = ["block", "revoke", "other"]
}
`, dripSSH, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(host.PublicKey()))), dripForward), private, nil
}

func (d *dripper) serveSSH(conn net.Conn, cfg *ssh.ServerConfig) {
	defer conn.Close()
	c, chans, reqs, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		return // of who has another key, or asked for nothing
	}
	go ssh.DiscardRequests(reqs)
	for asked := range chans {
		ch, requests, err := asked.Accept()
		if err != nil {
			return
		}
		started, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			begun := asked.ChannelType() == "direct-tcpip"
			if begun {
				close(started)
			}
			for r := range requests {
				if r.WantReply {
					_ = r.Reply(true, nil) // into nothing once it is cut
				}
				if !begun && (r.Type == "exec" || r.Type == "shell" || r.Type == "subsystem") {
					begun = true
					close(started)
				}
			}
		}()
		go func() {
			defer ch.Close()
			select {
			case <-started:
				d.drip(c.User(), []byte("x"), ended, func(b []byte) error { _, err := ch.Write(b); return err })
			case <-ended:
			}
		}()
	}
}

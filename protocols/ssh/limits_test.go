package ssh_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// I16: what agents open and leave open is bounded, and costs nobody else.
func TestI16_ConnectionsInTheMakingAreFew(t *testing.T) {
	l, _, _ := pair(t, nil)
	var open []net.Conn
	for range 32 {
		conn := l.Serve(l.handler, l.id(), host, 22)
		_, err := bufio.NewReader(conn).ReadString('\n')
		must(t, err)
		open = append(open, conn)
	}
	conn := l.Serve(l.handler, l.id(), host, 22)
	said, _ := io.ReadAll(conn)
	if string(said) != "clawpatrol: too many connections are being made at once\r\n" {
		t.Errorf("said %q", said)
	}
	other := l.Approve("b", "ci")
	if _, _, err := l.try(other, host, l.config("x")); err != nil {
		t.Errorf("another registration: %v", err)
	}
	for _, c := range open {
		_ = c.Close()
	}
	l.Eventually(wait, "there is room again", func() bool {
		_, _, err := l.try(l.id(), host, l.config("x"))
		return err == nil
	})
}

func TestI16_ManyChannels(t *testing.T) {
	l, _, connect := pair(t, nil)
	client := connect()
	for i := range 128 {
		session, err := client.NewSession()
		if err != nil {
			t.Fatalf("channel %d: %v", i, err)
		}
		_, err = session.StdinPipe() // which keeps it from ending
		must(t, err)
		must(t, session.Start("hang"))
	}
	if _, err := client.NewSession(); err == nil || !strings.Contains(err.Error(), "too many channels on this connection") {
		t.Errorf("one more: %v", err)
	}
	_ = client.Close()
	l.Eventually(wait, "their places are free", func() bool {
		session, err := l.connect(l.id(), "x").NewSession()
		return err == nil && session.Close() == nil
	})
}

func TestI16_TenThousandOpens(t *testing.T) {
	l, _, connect := pair(t, nil)
	client := connect()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	refused := 0
	var mu sync.Mutex
	for range 10_000 {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_, _, err := client.OpenChannel("x11", nil)
			if err != nil {
				mu.Lock()
				refused++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if refused != 10_000 {
		t.Errorf("%d were refused", refused)
	}
	if rows := len(l.Actions(l.id())); rows > 100 {
		t.Errorf("%d rows", rows)
	}
	if out, _, err := output(t, client, "echo here"); out != "here\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// I16: who connects again has no more rows than who stays.
func TestI16_ConnectingAgainGivesNoFreshShare(t *testing.T) {
	l, _, connect := pair(t, nil)
	begin := time.Now()
	for range 20 {
		client := connect()
		for range 10 {
			if ok, _, err := client.SendRequest("tcpip-forward", true, []byte("x")); ok || err != nil {
				t.Fatalf("%v, %v", ok, err)
			}
		}
		_ = client.Close()
		l.Eventually(wait, "it has gone", func() bool { return l.handler.Connected() == 0 })
	}
	refused := 0
	for _, row := range l.Actions(l.id()) {
		if row.Summary == "request tcpip-forward" {
			refused++
		}
	}
	if most := 11 + int(10*time.Since(begin).Seconds()); refused > most || refused < 10 {
		t.Errorf("%d rows, and %d is the share", refused, most)
	}
}

// Nothing is kept of a registration that has gone and whose share is as new.
func TestI16_SharesAreForgotten(t *testing.T) {
	l, _, _ := pair(t, nil)
	for _, name := range []string{"b", "c", "d"} {
		_ = l.connect(l.Approve(name, "ci"), "x").Close()
		l.Eventually(wait, "it has gone", func() bool { return l.handler.Connected() == 0 })
	}
	if n := l.handler.Shares(); n > 1 {
		t.Errorf("%d are kept", n)
	}
}

// One stream that nobody reads holds up no other.
func TestI16_ASlowReaderWaitsAlone(t *testing.T) {
	_, _, connect := pair(t, func(u *upstream) {
		u.session = func(u *upstream, c xssh.Channel, requests <-chan *xssh.Request) {
			for r := range requests {
				_ = r.Reply(true, nil)
				if strings.HasSuffix(string(r.Payload), "flood") {
					go func() {
						buf := make([]byte, 32<<10)
						for {
							if _, err := c.Write(buf); err != nil {
								return
							}
						}
					}()
				} else if r.Type == "exec" {
					go func() {
						_, _ = io.Copy(c, c)
						_ = c.Close()
					}()
				}
			}
		}
	})
	client := connect()
	for range 8 {
		channel, requests, err := client.OpenChannel("session", nil)
		must(t, err)
		go xssh.DiscardRequests(requests)
		_, err = channel.SendRequest("exec", true, xssh.Marshal(struct{ S string }{"flood"}))
		must(t, err)
	}
	session, err := client.NewSession()
	must(t, err)
	session.Stdin = strings.NewReader(strings.Repeat("x", 10<<20))
	session.Stdout = io.Discard
	done := make(chan struct{})
	go func() { defer close(done); _ = session.Run("cat") }()
	within(t, done, "10 MiB come back")
}

// I16: an agent that hangs in its key exchange, or before it, loses its
// connection; so does one whose upstream hangs there, with a reason.
func TestI16_WhoHangsInTheHandshakeIsLeft(t *testing.T) {
	l, _, _ := pair(t, nil)
	l.handler.SetPatience(50*time.Millisecond, wait)
	for _, begin := range []string{"", "SSH-2.0-x", "SSH-2.0-x\r\n", "SSH-2.0-x\r\n\x00\x00\x10\x00\x04"} {
		conn := l.Serve(l.handler, l.id(), host, 22)
		_, err := io.WriteString(conn, begin)
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(wait)))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q it stays", begin)
		}
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	key, private := newKeyPEM(t, "")
	l = newLab(t, endpoint("build", host, ln.Addr().String(), key.PublicKey())+`
		credential "ssh_key" "deploy" {
			endpoint = ssh.build
			user = "deploy"
		}
		profile "ci" { credentials = [ssh_key.deploy] }`)
	l.handler.SetPatience(wait, 50*time.Millisecond)
	l.SetSecret("ssh_key.deploy", "private_key", private)
	_, told, err := l.try(l.Approve("a", "ci"), host, l.config("x"))
	if err == nil || !strings.Contains(told, "it did not answer in time") {
		t.Errorf("%v, told %q", err, told)
	}
}

// A jump that lets in and then says nothing more is left too.
func TestI16_AJumpThatHangsIsLeft(t *testing.T) {
	key, private := newKeyPEM(t, "")
	u := newUpstream(t, "deploy", key.PublicKey())
	for name, hang := range map[string]func(xssh.NewChannel){
		"opens nothing": func(xssh.NewChannel) {},
		"opens and is silent": func(c xssh.NewChannel) {
			_, _, _ = c.Accept() // and does not answer the end of the channel
		},
	} {
		t.Run(name, func(t *testing.T) {
			bastion := newUpstream(t, "deploy", key.PublicKey(), func(u *upstream) { u.channel = hang })
			l := newLab(t, endpoint("build", host, u.address, u.host.PublicKey(), "jump = ssh.bastion")+
				endpoint("bastion", "bastion.example.com", bastion.address, bastion.host.PublicKey())+`
				credential "ssh_key" "build" {
					endpoint = ssh.build
					user = "deploy"
				}
				credential "ssh_key" "bastion" {
					endpoint = ssh.bastion
					user = "deploy"
				}
				profile "both" { credentials = [ssh_key.build, ssh_key.bastion] }`)
			l.handler.SetPatience(wait, 500*time.Millisecond)
			l.SetSecret("ssh_key.build", "private_key", private)
			l.SetSecret("ssh_key.bastion", "private_key", private)
			_, told, err := l.try(l.Approve("both", "both"), host, l.config("x"))
			if err == nil || !strings.Contains(told, "it did not answer in time") {
				t.Errorf("%v, told %q", err, told)
			}
		})
	}
}

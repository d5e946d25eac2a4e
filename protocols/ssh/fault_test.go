package ssh_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/protocols/ssh"
	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
)

// within fails the test unless done is closed in time.
func within(t testing.TB, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(wait):
		t.Fatal("it does not happen: " + what)
	}
}

func TestFault_AnUpstreamThatCannotBeUsedIsAReasonToRead(t *testing.T) {
	key, private := newKeyPEM(t, "")
	listen := func(serve func(net.Conn)) string {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		must(t, err)
		t.Cleanup(func() { _ = ln.Close() })
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { defer conn.Close(); serve(conn) }()
			}
		}()
		return ln.Addr().String()
	}
	for name, tc := range map[string]struct {
		address string
		says    string
	}{
		"down":             {"127.0.0.1:1", "it refused the connection"},
		"another protocol": {listen(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 SECRET\r\n\r\n") }), "it closed the connection before it answered"},
		"closes":           {listen(func(net.Conn) {}), "it closed the connection before it answered"},
		"nonsense": {listen(func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-x\r\n\x00\x00\x00\x0c\x04SECRETxxxxxxxxxxx")
			_, _ = io.Copy(io.Discard, c)
		}), "its answer could not be used"},
		"lines and more lines": {listen(func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, "SECRET words\r\n"); err != nil {
					return
				}
			}
		}), "its answer could not be used"},
		"a length of 4 GiB": {listen(func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-x\r\n\xff\xff\xff\xff\x04")
			_, _ = io.Copy(io.Discard, c)
		}), "its answer could not be used"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, endpoint("build", host, tc.address, key.PublicKey())+`
				credential "ssh_key" "deploy" {
					endpoint = ssh.build
					user = "deploy"
				}
				profile "ci" { credentials = [ssh_key.deploy] }`)
			l.SetSecret("ssh_key.deploy", "private_key", private)
			id := l.Approve("a", "ci")
			_, told, err := l.try(id, host, l.config("x"))
			if err == nil || !strings.Contains(told, "clawpatrol: build.example.com could not be used: ") || !strings.Contains(told, tc.says) || strings.Contains(told, "127.0.0.1") || strings.Contains(told, "SECRET") {
				t.Errorf("%v, told %q", err, told)
			}
			if status := l.status(id, "connect deploy@"+host); status == "connected" || status == "" {
				t.Errorf("it ended as %q", status)
			}
			if !strings.Contains(l.said.String(), "an ssh endpoint could not be used") || strings.Contains(l.said.String(), "SECRET") {
				t.Errorf("logged %q", l.said.String())
			}
		})
	}
}

// An agent that is refused is not asked for a password first.
func TestFault_OpenSSHShowsTheReasonAndAsksNothing(t *testing.T) {
	server := startSSHD(t)
	l := newLab(t, server.policy())
	at := l.bridge(l.Approve("a", "ci"), host)
	cmd := l.program(at, "ssh", "build", "true")
	var errs strings.Builder
	cmd.Stderr = &errs
	err := cmd.Run()
	if cmd.ProcessState.ExitCode() != 255 || !strings.Contains(errs.String(), "clawpatrol: credential ssh_key.deploy has no private_key set: an operator has to store it") {
		t.Errorf("%v: %s", err, errs.String())
	}
}

func TestFault_ALostUpstreamIsSaid(t *testing.T) {
	connected := make(chan *xssh.ServerConn, 1)
	l, _, connect := pair(t, func(u *upstream) {
		u.connected = func(s *xssh.ServerConn) { connected <- s }
	})
	client := connect()
	session, err := client.NewSession()
	must(t, err)
	var errs strings.Builder
	session.Stderr = &errs
	_, err = session.StdinPipe()
	must(t, err)
	must(t, session.Start("hang"))
	_ = (<-connected).Close()
	err = session.Wait()
	if exitCode(err) != -1 || !strings.Contains(errs.String(), "clawpatrol: the connection to build.example.com was lost\r\n") {
		t.Errorf("%v, said %q", err, errs.String())
	}
	if status := l.status(l.id(), "exec hang"); status != "upstream_lost" {
		t.Errorf("it ended as %q", status)
	}
	gone := make(chan struct{})
	go func() { _ = client.Wait(); close(gone) }()
	within(t, gone, "the agent's connection ends")
}

func TestFault_AnUpstreamThatIsSilentIsLost(t *testing.T) {
	var mu sync.Mutex
	var raw []net.Conn
	key, private := newKeyPEM(t, "")
	u := newUpstream(t, "deploy", key.PublicKey())
	// Between them a wire that is cut without a word.
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	cut, address := make(chan struct{}), u.address
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			behind, err := net.Dial("tcp4", address)
			if err != nil {
				return
			}
			mu.Lock()
			raw = append(raw, conn, behind)
			mu.Unlock()
			pass := func(dst, src net.Conn) {
				buf := make([]byte, 4096)
				for {
					n, err := src.Read(buf)
					if err != nil {
						return
					}
					select {
					case <-cut:
						continue
					default:
					}
					_, _ = dst.Write(buf[:n])
				}
			}
			go pass(conn, behind)
			go pass(behind, conn)
		}
	}()
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range raw {
			_ = c.Close()
		}
	}()
	u.address = ln.Addr().String()
	l := newLab(t, u.policy("ssh_key"))
	l.handler.SetKeepAlive(20 * time.Millisecond)
	l.SetSecret("ssh_key.deploy", "private_key", private)
	l.Approve("a", "ci")
	client := l.connect(l.id(), "x")
	if out, _, err := output(t, client, "echo a"); out != "a\n" || err != nil {
		t.Fatalf("%q, %v", out, err)
	}
	close(cut)
	gone := make(chan struct{})
	go func() { _ = client.Wait(); close(gone) }()
	within(t, gone, "the connection ends")
}

// A registration that is blocked loses what runs.
func TestFault_ABlockEndsWhatRuns(t *testing.T) {
	l, u, connect := pair(t, nil)
	client := connect()
	session, err := client.NewSession()
	must(t, err)
	must(t, session.Start("hang"))
	l.Eventually(wait, "it runs", func() bool { return u.has("exec", "hang") })
	must(t, l.DB.Block(t.Context(), l.id(), "test"))
	gone := make(chan struct{})
	go func() { _ = session.Wait(); _ = client.Wait(); close(gone) }()
	within(t, gone, "the session ends")
}

func TestFault_ADrainingGatewayFinishesWhatRuns(t *testing.T) {
	l, u, connect := pair(t, nil)
	client := connect()
	session, err := client.NewSession()
	must(t, err)
	in, err := session.StdinPipe()
	must(t, err)
	out, err := session.StdoutPipe()
	must(t, err)
	must(t, session.Start("cat"))
	l.Eventually(wait, "it runs", func() bool { return u.has("exec", "cat") })
	stopped := make(chan struct{})
	go func() { defer close(stopped); _ = l.Proxy.Shutdown(context.Background()) }()
	l.Eventually(wait, "nothing new begins", func() bool {
		_, err := client.NewSession()
		return err != nil && strings.Contains(err.Error(), "the gateway is stopping")
	})
	_, err = io.WriteString(in, "still here")
	must(t, err)
	must(t, in.Close())
	if got, _ := io.ReadAll(out); string(got) != "still here" {
		t.Errorf("got %q", got)
	}
	must(t, session.Wait())
	within(t, stopped, "the gateway stops")
}

func TestFault_TheHandlersEndIsSaid(t *testing.T) {
	l, u, connect := pair(t, nil)
	session, err := connect().NewSession()
	must(t, err)
	var errs strings.Builder
	session.Stderr = &errs
	_, err = session.StdinPipe()
	must(t, err)
	must(t, session.Start("hang"))
	l.Eventually(wait, "it runs", func() bool { return u.has("exec", "hang") })
	l.handler.Close()
	_ = session.Wait()
	if errs.String() != "clawpatrol: the gateway is stopping\r\n" {
		t.Errorf("said %q", errs.String())
	}
}

// I19: what cannot be recorded is not done.
func TestI19_WhatCannotBeRecordedIsDenied(t *testing.T) {
	t.Run("no store", func(t *testing.T) {
		_, u, connect := pair(t, nil, "record = true")
		_, said, err := output(t, connect(), "echo a")
		if exitCode(err) != 255 || said != "clawpatrol: sessions here are recorded, and this one cannot be\r\n" || u.has("exec", "a") {
			t.Errorf("%v, said %q", err, said)
		}
	})
	t.Run("a full store", func(t *testing.T) {
		key, private := newKeyPEM(t, "")
		u := newUpstream(t, "deploy", key.PublicKey())
		dir := filepath.Join(t.TempDir(), "recordings")
		store, err := recording.Open(dir, recording.Limits{})
		must(t, err)
		defer store.Close()
		l := newLab(t, u.policy("ssh_key", "record = true"), func(c *ssh.Config) { c.Recordings = store })
		l.SetSecret("ssh_key.deploy", "private_key", private)
		id := l.Approve("a", "ci")
		client := l.connect(id, "x")
		if out, _, err := output(t, client, "echo a"); out != "a\n" || err != nil {
			t.Fatalf("%q, %v", out, err)
		}
		must(t, os.RemoveAll(dir))
		must(t, os.WriteFile(dir, nil, 0o600))
		_, said, err := output(t, client, "echo b")
		if exitCode(err) != 255 || !strings.Contains(said, "sessions here are recorded") || u.has("exec", "echo b") {
			t.Errorf("%v, said %q", err, said)
		}
		if status := l.status(id, "exec echo b"); status != "not_recorded" {
			t.Errorf("it ended as %q", status)
		}
	})
	t.Run("no log", func(t *testing.T) {
		l, u, connect := pair(t, nil)
		client := connect()
		must(t, l.DB.Close())
		_, said, err := output(t, client, "echo a")
		if exitCode(err) != 255 && err == nil || u.has("exec", "echo a") {
			t.Errorf("%v, said %q", err, said)
		}
	})
}

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

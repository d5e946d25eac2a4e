package ssh_test

import (
	"context"
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
	l.handler.SetKeepAlive(200 * time.Millisecond)
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
		if exitCode(err) != 255 || u.has("exec", "echo a") {
			t.Errorf("%v, said %q", err, said)
		}
	})
}

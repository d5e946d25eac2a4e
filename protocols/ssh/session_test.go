package ssh_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	xssh "golang.org/x/crypto/ssh"
)

// exitCode is how a command ended, of an error of Run or Wait.
func exitCode(err error) int {
	var exit *xssh.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitStatus()
	}
	return -1
}

func TestSession_OutputErrorsAndStatusComeBack(t *testing.T) {
	l, _, connect := pair(t, nil)
	client := connect()
	for _, tc := range []struct {
		command, out, err string
		code              int
		status            string
	}{
		{"echo hello", "hello\n", "", 0, "exit 0"},
		{"fail aloud", "", "aloud\n", 1, "exit 1"},
		{"exit 255", "", "", 255, "exit 255"},
	} {
		out, errs, err := output(t, client, tc.command)
		if out != tc.out || errs != tc.err || exitCode(err) != tc.code {
			t.Errorf("%q: %q, %q, %v", tc.command, out, errs, err)
		}
		if got := l.status(l.id(), "exec "+tc.command); got != tc.status {
			t.Errorf("%q: the log says %q", tc.command, got)
		}
	}
	_, _, err := output(t, client, "kill by\x1b[2J night")
	var exit *xssh.ExitError
	if !errors.As(err, &exit) || exit.Signal() != "TERM" || exit.Msg() != `by\x1b[2J night` {
		t.Errorf("a signal: %v", err)
	}
}

func TestSession_InputIsCountedAndItsEndPassedOn(t *testing.T) {
	l, _, connect := pair(t, nil)
	session, err := connect().NewSession()
	must(t, err)
	session.Stdin = strings.NewReader(strings.Repeat("0123456789", 10_000))
	out, err := session.Output("cat")
	if err != nil || len(out) != 100_000 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	l.status(l.id(), "exec cat")
	for _, row := range l.Actions(l.id()) {
		if row.Summary == "exec cat" && (row.Result.BytesIn != 100_000 || row.Result.BytesOut != 100_000) {
			t.Errorf("counted %d in and %d out", row.Result.BytesIn, row.Result.BytesOut)
		}
	}
}

func TestSession_RequestsReachTheUpstreamInOrder(t *testing.T) {
	l, u, connect := pair(t, nil)
	session, err := connect().NewSession()
	must(t, err)
	must(t, session.Setenv("LANG", "C.UTF-8"))
	must(t, session.Setenv("LC_ALL", "C"))
	if session.Setenv("LD_PRELOAD", "/tmp/x.so") == nil {
		t.Error("LD_PRELOAD was accepted")
	}
	must(t, session.RequestPty("xterm-256color", 24, 80, xssh.TerminalModes{xssh.ECHO: 0}))
	if ok, err := session.SendRequest("x11-req", true, []byte("whatever")); ok || err != nil {
		t.Errorf("x11: %v, %v", ok, err)
	}
	in, err := session.StdinPipe()
	must(t, err)
	must(t, session.Shell())
	must(t, session.WindowChange(50, 132))
	must(t, session.Signal(xssh.SIGINT))
	l.Eventually(wait, "the requests reach the upstream", func() bool { return u.has("signal", "INT") && u.has("window-change", "") })
	must(t, in.Close())
	u.mu.Lock()
	var kinds []string
	for _, a := range u.asked {
		kind, _, _ := strings.Cut(a, " ")
		kinds = append(kinds, kind)
	}
	u.mu.Unlock()
	if got := strings.Join(kinds, " "); got != "env env pty-req shell window-change signal" {
		t.Errorf("asked %s", got)
	}
	if u.has("env", "/tmp/x.so") || !u.has("env", "C.UTF-8") {
		t.Error("the wrong variables were passed on")
	}
	want := "allow shell (pty xterm-256color; env LANG LC_ALL; refused env LD_PRELOAD, x11-req)"
	if rows := l.summaries(l.id()); rows[len(rows)-1] != want {
		t.Errorf("logged %q", rows)
	}
	if strings.Contains(l.Log()+strings.Join(l.summaries(l.id()), ""), "C.UTF-8") {
		t.Error("a variable's value was logged")
	}
}

func TestSession_WhatCannotBeReadIsRefused(t *testing.T) {
	l, u, connect := pair(t, nil)
	client := connect()
	for name, payload := range map[string][]byte{
		"nothing":       nil,
		"cut short":     {0, 0, 0, 9, 'l', 's'},
		"more behind":   append(xssh.Marshal(struct{ S string }{"echo a"}), "echo b"...),
		"a zero byte":   xssh.Marshal(struct{ S string }{"echo a\x00; echo b"}),
		"far too long":  xssh.Marshal(struct{ S string }{strings.Repeat("x", 200<<10)}),
		"length of 4Gi": {0xff, 0xff, 0xff, 0xff, 'l', 's'},
	} {
		channel, requests, err := client.OpenChannel("session", nil)
		must(t, err)
		if _, err := channel.SendRequest("exec", true, payload); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		said, _ := io.ReadAll(channel.Stderr())
		if string(said) != "clawpatrol: the request is malformed\r\n" {
			t.Errorf("%s: said %q", name, said)
		}
		status := uint32(0)
		for r := range requests {
			if r.Type == "exit-status" {
				status = uint32(r.Payload[3])
			}
		}
		if status != 255 {
			t.Errorf("%s: ended with %d", name, status)
		}
	}
	if u.has("exec", "") {
		t.Errorf("something reached the upstream: %q", u.asked)
	}
	if _, _, err := output(t, client, "echo still here"); err != nil {
		t.Errorf("the connection did not survive: %v", err)
	}
	denied := 0
	for _, row := range l.summaries(l.id()) {
		if row == "deny exec" {
			denied++
		}
	}
	if denied == 0 {
		t.Error("nothing was logged")
	}
}

func TestSession_HasOneCommand(t *testing.T) {
	_, u, connect := pair(t, nil)
	session, err := connect().NewSession()
	must(t, err)
	in, err := session.StdinPipe()
	must(t, err)
	must(t, session.Start("cat"))
	if ok, err := session.SendRequest("exec", true, xssh.Marshal(struct{ S string }{"echo second"})); ok || err != nil {
		t.Errorf("a second command: %v, %v", ok, err)
	}
	must(t, in.Close())
	must(t, session.Wait())
	if u.has("exec", "second") {
		t.Error("a second command reached the upstream")
	}
}

func TestSession_TheLogShowsTheCommandAsItIs(t *testing.T) {
	l, _, connect := pair(t, nil)
	client := connect()
	for command, want := range map[string]string{
		"echo a\nrm -rf /\t\x1b[8m\u202e": `allow exec echo a\nrm -rf /\t\x1b[8m\u202e`,
		"echo \xff":                       `allow exec echo \xff`,
	} {
		if _, _, err := output(t, client, command); err != nil {
			t.Fatal(err)
		}
		if rows := l.summaries(l.id()); rows[len(rows)-1] != want {
			t.Errorf("%q is logged as %q", command, rows[len(rows)-1])
		}
	}
	if _, _, err := output(t, client, "echo "+strings.Repeat("x", 5000)); err != nil {
		t.Fatal(err)
	}
	rows := l.summaries(l.id())
	if row := rows[len(rows)-1]; !strings.HasSuffix(row, "x... (5005 bytes)") {
		t.Errorf("a long command is logged as %q", row)
	}
}

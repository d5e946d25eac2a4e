package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// execute runs one command line as main does.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommand_WrongUsageIsStatusTwo(t *testing.T) {
	for _, args := range [][]string{
		{"no-such-command"}, {"version", "surplus"}, {"version", "--no-such-flag"}, {"gateway", "a", "b"},
		{"gateway", "--set-dashboard-password", "-", "--reset-dashboard-password"}, {"join"}, {"join", "http://gw.example.com"}, {"join", "https://gw.example.com", "--ca-fingerprint", "sha256:zz"},
		{"join", "https://gw.example.com", "--name", " "}, {"doctor", "1.2.3.4"},
	} {
		code, _, stderr := execute(t, args...)
		if code != 2 || !strings.HasPrefix(stderr, "clawpatrol: ") {
			t.Errorf("clawpatrol %s: exit status %d, stderr %q", strings.Join(args, " "), code, stderr)
		}
	}
}

func TestCommand_FailureIsStatusOne(t *testing.T) {
	code, _, stderr := execute(t, "gateway", "/no/such/gateway.hcl")
	if code != 1 || !strings.HasPrefix(stderr, "clawpatrol: ") || !strings.Contains(stderr, "/no/such/gateway.hcl") {
		t.Errorf("exit status %d, stderr %q", code, stderr)
	}
}

func TestCommand_EachHasAnExample(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Runnable() && c.HasParent() && c.Example == "" {
			t.Errorf("%q has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
	if code, stdout, _ := execute(t, "join", "--help"); code != 0 || !strings.Contains(stdout, "--ca-fingerprint") {
		t.Errorf("join --help: exit status %d, stdout %q", code, stdout)
	}
}

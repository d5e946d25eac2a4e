package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

// scripted are the commands whose output a script may want.
var scripted = []string{"join", "invite", "up", "down", "leave", "status", "env", "doctor", "validate", "version"}

func TestJSON_EveryScriptedCommandHasIt(t *testing.T) {
	for _, name := range scripted {
		c, _, err := rootCommand().Find([]string{name})
		if err != nil || c.Name() != name {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if f := c.Flags().Lookup("json"); f == nil || f.DefValue != "false" {
			t.Errorf("%s has no --json", name)
		}
	}
}

// Wrong usage and failures of any command: with --json one object on standard
// error, with the exit status that there is without it, and nothing on standard
// output that is not JSON.
func TestJSON_Errors(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for _, args := range [][]string{
		{"no-such-command"}, {"join"}, {"join", "a", "b"}, {"join", "http://x"}, {"join", "https://x", "--ca-fingerprint", "zz"},
		{"up", "surplus"}, {"down", "--bogus"}, {"leave", "surplus"}, {"status", "surplus"}, {"version", "surplus"}, {"validate", "a", "b"},
		{"doctor", "not a host", "--state", none}, {"env", "--state", none}, {"up", "--state", none}, {"down", "--state", none}, {"validate", "/no/such/file"},
		{"up", "--state", none, "--run-users", "all"}, {"join", "https://x", "--state", none, "--run-users", "all"}, {"leave", "--no-tunnel", "surplus"},
		{"up", "--state"}, {"validate", "--state", none},
	} {
		plain, stdout, stderr := execute(t, args...)
		if plain == 0 || stdout != "" || !strings.HasPrefix(stderr, "clawpatrol: ") || strings.Count(stderr, "\n") > 2 {
			t.Errorf("%q: exit status %d, %q, %q; want a sentence and a hint", args, plain, stdout, stderr)
		}
		// In front, as --state takes what follows it.
		code, stdout, stderr := execute(t, append([]string{args[0], "--json"}, args[1:]...)...)
		if code != plain {
			t.Errorf("%q: exit status %d, without --json %d", args, code, plain)
		}
		if stdout != "" && !json.Valid([]byte(stdout)) {
			t.Errorf("%q: standard output %q", args, stdout)
		}
		var f failure
		dec := json.NewDecoder(strings.NewReader(stderr))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&f); err != nil || f.Error == "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: %v: %q", args, err, stderr)
		}
		if code == 2 && f.Hint == "" {
			t.Errorf("%q: wrong usage without a hint: %q", args, stderr)
		}
	}
}

func TestJSON_NotAfterTheEndOfFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want bool
	}{
		{[]string{"status", "--json"}, true},
		{[]string{"status", "--json=true"}, true},
		{[]string{"status", "--json=false"}, false},
		{[]string{"status", "--jsonx"}, false},
		{[]string{"status", "--", "--json"}, false},
		{nil, false},
	} {
		if got := wantsJSON(c.args); got != c.want {
			t.Errorf("%q: %t", c.args, got)
		}
	}
}

func TestJSON_Version(t *testing.T) {
	code, stdout, stderr := execute(t, "version", "--json")
	var v struct{ Version, Go string }
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != 0 || v.Version != version || v.Go == "" || stderr != "" {
		t.Errorf("%d %q %q %v", code, stdout, stderr, err)
	}
}

// What the kernel says has a way out, too.
func TestHint_SystemReasons(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EROFS, syscall.EACCES} {
		err := fmt.Errorf("writing the state file: %w", &os.PathError{Op: "write", Path: "/x", Err: errno})
		if hint(err) == "" {
			t.Errorf("%v has no hint", err)
		}
		if own := hint(&hinted{err, "its own"}); own != "its own" {
			t.Errorf("%v has the hint %q", err, own)
		}
	}
	if got := hint(errors.New("nothing in particular")); got != "" {
		t.Errorf("a hint out of nowhere: %q", got)
	}
}

func TestSentence_IsOneLine(t *testing.T) {
	if got := sentence(errors.Join(errors.New("one"), errors.New("two\r\nthree\n"))); got != "one; two; three" {
		t.Errorf("%q", got)
	}
}

func TestArguments(t *testing.T) {
	c := &cobra.Command{Use: "thing URL"}
	for _, test := range []struct {
		min, max int
		args     []string
		want     string
	}{
		{0, 0, nil, ""},
		{0, 0, []string{"x"}, `thing takes no argument, and got "x"`},
		{1, 1, nil, "thing wants an argument: clawpatrol thing URL"},
		{1, 1, []string{"x"}, ""},
		{1, 1, []string{"x", "y"}, `thing takes one argument, and got a second: "y"`},
	} {
		err := arguments(test.min, test.max)(c, test.args)
		if (err == nil) != (test.want == "") || (err != nil && err.Error() != test.want) {
			t.Errorf("%d to %d of %q: %v", test.min, test.max, test.args, err)
		}
	}
}

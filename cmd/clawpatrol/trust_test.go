package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// trust --ssh, with what join has left for every program to read, and its undo.
func TestTrust_SSH(t *testing.T) {
	state, home := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	const (
		key   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
		block = "# Begin of the SSH host keys of clawpatrol's gateway. The lines up to the end are replaced.\n" +
			"build.example.com " + key + " clawpatrol\n" +
			"@cert-authority * " + key + " clawpatrol\n" +
			"# End of the SSH host keys of clawpatrol's gateway.\n"
		mine = "mine.example.com " + key + "\n"
	)
	file := filepath.Join(home, ".ssh/known_hosts")
	for path, content := range map[string]string{filepath.Join(state, "public/env.json"): "{}", filepath.Join(state, "public/ssh_known_hosts"): block, file: mine} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args       []string
		said, want string
	}{
		{[]string{"trust", "--ssh", "--state", state}, "SSH host keys in: " + file + ", hosts: 1\n", block + mine},
		{[]string{"trust", "--ssh", "--undo"}, "SSH host keys not in: " + file + "\n", mine},
	} {
		if code, stdout, stderr := execute(t, c.args...); code != 0 || stdout != c.said || stderr != "" {
			t.Errorf("%q: exit status %d, %q, %q", c.args, code, stdout, stderr)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != c.want {
			t.Errorf("%q: %q, %v", c.args, b, err)
		}
	}
	if code, _, stderr := execute(t, "trust", "--ssh", "--state", t.TempDir()); code != 1 || !strings.Contains(stderr, "\nhint: ") {
		t.Errorf("not enrolled: exit status %d, %q", code, stderr)
	}
}

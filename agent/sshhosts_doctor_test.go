package agent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh/knownhosts"
)

// What doctor says of the system's file, and of the user's.
func TestDoctor_SSH(t *testing.T) {
	block := string(testBlock(t))
	other := marshalKey(testSSHKey("other").PublicKey())
	k, _ := checkSSHHosts(testSSHCA, testSSHHosts)
	older := string(sshHosts{authority: k.authority, hosts: k.hosts[:1]}.block())
	for what, c := range map[string]struct {
		system, user string // "": no file
		free         bool   // no process holds the tunnel
		want         string // results, one letter each
		says, hint   string
	}{
		"as it should be":              {system: block + "a ssh-rsa AAAA\n", user: block, want: "oo", says: "of 2 hosts"},
		"no consent":                   {system: block, want: "oo", says: "nothing in it contradicts"},
		"nothing is installed":         {system: "a ssh-rsa AAAA\n", want: "fo", says: "are not in /etc/ssh/ssh_known_hosts", hint: "clawpatrol up"},
		"no file":                      {want: "fo", says: "are not in", hint: "clawpatrol up"},
		"an older block":               {system: older, want: "fo", says: "or not all of them"},
		"without a tunnel":             {want: "fo", free: true, hint: "see tunnel"},
		"the authority is revoked":     {system: block + "@revoked * " + testSSHCA + "\n", want: "fo", says: "ssh_known_hosts:7 revokes", hint: "remove that line"},
		"the user revokes a key":       {system: block, user: "\n@revoked * " + strings.SplitN(testSSHHosts[0], " ", 2)[1] + "\n", want: "of", says: "line 2 revokes"},
		"a real key":                   {system: block, user: "# mine\nbuild.example.com " + other + "\n", want: "ow", says: "line 2 has ssh-ed25519 SHA256:", hint: "trust --ssh"},
		"a real key of another kind":   {system: block, user: "a.example.com,BUILD.example.com ssh-rsa AAAA\n", want: "ow", says: "has ssh-rsa for build.example.com", hint: "-R HOST"},
		"a real key for a pattern":     {system: block, user: "!x.example.com,*.example.com " + other + "\n", want: "ow", says: "for build.example.com"},
		"a pattern that leaves it out": {system: block, user: "!build.example.com,*.example.com " + other + "\n", want: "oo"},
		"a real key with a port":       {system: block, user: "[git.example.com]:2222 " + other + "\n", want: "ow", says: "for [git.example.com]:2222"},
		"a real key, another port":     {system: block, user: "git.example.com,[build.example.com]:2222 " + other + "\n", want: "oo"},
		"a real key, hashed":           {system: block, user: knownhosts.HashHostname("build.example.com") + " " + other + "\n", want: "ow", says: "for build.example.com"},
		"a real key below the block":   {system: block, user: block + "build.example.com " + other + "\n", want: "oo"},
		"a real key above the block":   {system: block, user: "build.example.com " + other + "\n" + block, want: "ow", hint: "trust --ssh"},
		"an older block of the user's": {system: block, user: older, want: "ow", says: "lacks 1 of the gateway's 2 hosts", hint: "trust --ssh as that user again"},
		"lines nobody can read":        {system: block, user: "a\n@revoked\n\x00 \xff \x1b[2J\n|1||\n|1|!|! a b\n@cert-authority * " + other + "\n", want: "oo"},
		"a name that hides another":    {system: block, user: "build.example.com \x1b[2J AAAA\n", want: "ow", says: `has \x1b[2J for`},
	} {
		t.Run(what, func(t *testing.T) {
			root, home := t.TempDir(), t.TempDir()
			t.Setenv("HOME", home)
			t.Setenv("SUDO_UID", "")
			a := New(Config{Root: root, StateDir: t.TempDir()})
			for path, content := range map[string]string{filepath.Join(root, SystemKnownHosts): c.system, filepath.Join(home, userKnownHosts): c.user, a.paths.sshHosts(): block} {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if content == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			d := &doctor{a: a, held: !c.free}
			got := examine(d, func() { d.ssh(t.Context()) })
			results, said, hints := "", "", ""
			for _, g := range got {
				results += string(g.Result[0])
				said, hints = said+g.Detail+"\n", hints+g.Hint+"\n"
				if (g.Hint == "") != (g.Result == OK) || strings.Contains(g.Detail, "\x1b") {
					t.Errorf("%+v", g)
				}
			}
			if results != c.want || !strings.Contains(said, c.says) || !strings.Contains(hints, c.hint) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A file of any size costs a bounded time, and is not called good.
func TestDoctor_SSHHashedNames(t *testing.T) {
	hashed := knownhosts.HashHostname("elsewhere.example.com") + " ssh-rsa AAAA\n"
	left := 10
	entries := readStored([]byte(strings.Repeat(hashed, 20)))
	for _, e := range entries {
		if e.matches("build.example.com", &left) {
			t.Error("it matches another name")
		}
	}
	if left != -10 {
		t.Errorf("%d are left", left)
	}
	if left = 0; entries[0].matches("elsewhere.example.com", &left) {
		t.Error("it is compared with nothing left")
	}
	if left = 1; !entries[0].matches("elsewhere.example.com", &left) {
		t.Error("it does not match its name")
	}
}

func TestMatchPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "", false}, {"a", "a", true}, {"*", "", true}, {"*", "abc", true}, {"?", "", false}, {"?", "a", true}, {"a*", "a", true},
		{"*.example.com", "a.example.com", true}, {"*.example.com", "example.com", false}, {"a*b*c", "aXbYbZc", true}, {"a*b*c", "aXbYbZ", false},
		{"[*]:2222", "[git.example.com]:2222", true}, {"[*]:2222", "[git.example.com]:22", false}, {"**", "a", true}, {"a?c", "abc", true}, {"a?c", "ac", false},
		{strings.Repeat("*a", 50) + "b", strings.Repeat("a", 2000), false},
	} {
		if got := matchPattern(c.pattern, c.s); got != c.want {
			t.Errorf("%q, %q: %v", c.pattern, c.s, got)
		}
	}
}

// What the real ssh says of its configuration.
func TestDoctor_OpenSSH(t *testing.T) {
	ask := func(args ...string) []byte {
		out, err := exec.CommandContext(t.Context(), "ssh", append([]string{"-F", "/dev/null", "-G"}, append(args, "build.example.com")...)...).Output()
		if err != nil {
			t.Fatal("this test needs OpenSSH: ", err)
		}
		return out
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, ""},
		{[]string{"-o", "HostKeyAlgorithms=+ssh-rsa"}, ""},
		{[]string{"-o", "GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts /other"}, ""},
		{[]string{"-o", "GlobalKnownHostsFile=/dev/null"}, "does not read"},
		{[]string{"-o", "HostKeyAlgorithms=rsa-sha2-512,ecdsa-sha2-nistp256"}, "does not accept ed25519"},
	} {
		hint, problem := judgeSSHConfig(ask(c.args...))
		if (problem == "") != (c.want == "") || !strings.Contains(problem, c.want) || (hint == "") != (problem == "") {
			t.Errorf("%q: %q, %q", c.args, hint, problem)
		}
	}
	// The whole check, with this machine's own ssh.
	a := New(Config{StateDir: t.TempDir()})
	k, _ := checkSSHHosts(testSSHCA, testSSHHosts)
	d := &doctor{a: a}
	if got := examine(d, func() { d.openSSH(context.Background(), k) }); len(got) != 1 || got[0].Result != OK {
		t.Errorf("%+v", got)
	}
}

func FuzzReadStored(f *testing.F) {
	f.Add([]byte("@revoked a ssh-rsa AAAA\n|1|AAAA|AAAA ssh-rsa AAAA c\n"), "build.example.com")
	f.Fuzz(func(t *testing.T, content []byte, host string) {
		left := 10
		for _, e := range readStored(content) {
			e.matches(host, &left)
			if strings.ContainsAny(e.fingerprint(), "\x1b\n\r") {
				t.Errorf("%q is not printable", e.fingerprint())
			}
		}
	})
}

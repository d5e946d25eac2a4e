package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/clawpatrol/clawpatrol/agent"
)

func TestEnvironment(t *testing.T) {
	secrets := []string{
		"GITHUB_TOKEN=x", "ANTHROPIC_API_KEY=x", "AWS_ACCESS_KEY_ID=x", "AWS_SESSION_TOKEN=x", "AWS_PROFILE=x", "PGPASSWORD=x", "MYSQL_PWD=x", "DB_PASS=x",
		"CLIENT_SECRET=x", "npm_token=x", "GOOGLE_APPLICATION_CREDENTIALS=/x", "SENTRY_DSN=x", "SSH_PRIVATE_KEY=x", "STRIPE_KEY=x", "VAULT_ADDR=x",
		"URL=postgres://me:word@db/x", "ANY=ghp_0123456789abcdefghij0123", "ANY=-----BEGIN OPENSSH PRIVATE KEY-----", "ANY=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.x", "ANY=AKIAIOSFODNN7EXAMPLE",
		"ANY=sk-proj-0123456789abcdef", "ANY=xoxb-1-2", "ANY=glpat-abc",
	}
	outside := []string{"SSH_AUTH_SOCK=/tmp/x", "DBUS_SESSION_BUS_ADDRESS=unix:path=/x", "XDG_RUNTIME_DIR=/run/user/1", "TMUX=x", "HTTPS_PROXY=x", "no_proxy=x", "VSCODE_IPC_HOOK_CLI=/x", "DISPLAY=:0"}
	harmless := []string{"PATH=/bin", "HOME=/home/x", "PWD=/x", "OLDPWD=/y", "LANG=C", "EDITOR=vi", "KEYBOARD=us", "TERM=xterm", "AWS_REGION=x", "MONKEY=1", "COMPASS=n", "URL=https://example.com/a:b@c", "EMPTY=", "AUTHOR=me", "TOKENIZERS_PARALLELISM=false"}
	exported := []agent.Variable{{Name: "API_TOKEN", Value: "clawpatrol-api"}, {Name: "SSL_CERT_FILE", Value: "/bundle"}}
	caller := slices.Concat(secrets, outside, harmless, []string{"API_TOKEN=real", "SSL_CERT_FILE=/theirs"})

	got := environment(caller, exported, false)
	want := append(slices.Clone(harmless), "API_TOKEN=clawpatrol-api", "SSL_CERT_FILE=/bundle")
	if !slices.Equal(got, want) {
		for _, v := range got {
			if !slices.Contains(want, v) {
				t.Errorf("left: %s", v)
			}
		}
		for _, v := range want {
			if !slices.Contains(got, v) {
				t.Errorf("missing: %s", v)
			}
		}
	}
	got = environment(caller, exported, true)
	for _, s := range secrets {
		if !slices.Contains(got, s) {
			t.Errorf("--keep-env removed %s", s)
		}
	}
	for _, s := range append(outside, "API_TOKEN=real") {
		if slices.Contains(got, s) {
			t.Errorf("--keep-env left %s", s)
		}
	}
}

func TestPlan_CoversTheStateUnderAllItsNames(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	state, alias, inner := filepath.Join(dir, "home/state"), filepath.Join(dir, "alias"), filepath.Join(dir, "inner")
	for _, d := range []string{state + "/public", alias + "/state", inner} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "home"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	mounts := strings.Join([]string{
		"1 0 8:1 / / rw - ext4 /dev/a rw",
		"2 1 8:2 / " + dir + " rw - ext4 /dev/b rw",
		"3 1 8:2 /home " + alias + " rw - ext4 /dev/b rw",
		"4 1 8:2 /home/state/private " + inner + " rw - ext4 /dev/b rw",
		"5 1 8:3 / " + dir + "/not\\040there rw - ext4 /dev/c rw",
	}, "\n")
	p, err := makePlan(surroundings{home: dir + "/home", dir: dir, unixSockets: strings.NewReader(""), mounts: strings.NewReader(mounts)},
		map[string]string{filepath.Join(dir, "link/state"): state + "/public"}, new(lease))
	if err != nil {
		t.Fatal(err)
	}
	var covered []string
	for _, c := range p.Covers {
		covered = append(covered, c.Path)
	}
	// t.TempDir is below /tmp, which is covered; home and working directory are
	// shown again, and so the state in them must be covered.
	for _, want := range []string{"/run", "/tmp", state, alias + "/state", inner} {
		if !slices.Contains(covered, want) && !p.covered(want) {
			t.Errorf("%s is not covered by %v", want, covered)
		}
	}
	if p.covered(dir+"/home") || !slices.Contains(p.Public, state+"/public") {
		t.Errorf("what must be there is not: %+v", p)
	}
}

func TestPlan_CoversSocketsOfOutside(t *testing.T) {
	dir := "/var/tmp/" + fmt.Sprintf("cp-sandbox-%d", os.Getpid()) // not below a cover
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", dir+"/a b.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	list.WriteString("Num       RefCount Protocol Flags    Type St Inode Path\n")
	for _, path := range []string{dir + "/a b.sock", dir + "/a b.sock", dir + "/file", dir + "/gone", "@abstract", "/run/x"} {
		fmt.Fprintf(&list, "0000000000000000: 00000002 00000000 00010000 0001 01 12345 %s\n", path)
	}
	p := &plan{Covers: []cover{{Path: "/run"}}}
	got, err := p.findSockets(strings.NewReader(list.String()), nil)
	if err != nil || !slices.Equal(got, []string{dir + "/a b.sock"}) {
		t.Fatal(got, err)
	}
}

func TestHostsByDNS(t *testing.T) {
	got := hostsByDNS([]byte("passwd: files systemd\n hosts:  files resolve [!UNAVAIL=return] dns myhostname\n# hosts: x\nnetworks: files"))
	if want := "passwd: files systemd\n# hosts: x\nnetworks: files\nhosts: files dns\n"; got != want {
		t.Fatalf("%q", got)
	}
}

func TestResolvConf(t *testing.T) {
	got := resolvConf(addrs("10.55.0.1", "fd55::1"), []byte("nameserver 192.0.2.1\nsearch a b\n#options x\noptions edns0\n"))
	if want := "nameserver 10.55.0.1\nnameserver fd55::1\nsearch a b\noptions edns0\n"; got != want {
		t.Fatalf("%q", got)
	}
}

func TestFollowLinks(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"abs": dir + "/nowhere/file", "rel": "sub/../nowhere/other", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	for from, want := range map[string]string{"abs": dir + "/nowhere/file", "rel": dir + "/nowhere/other", "plain": dir + "/plain"} {
		if got, err := followLinks(filepath.Join(dir, from)); got != want || err != nil {
			t.Errorf("%s: %s, %v", from, got, err)
		}
	}
	if _, err := followLinks(filepath.Join(dir, "loop")); err == nil {
		t.Error("a loop has an end")
	}
}

func FuzzReadMounts(f *testing.F) {
	f.Add("1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 /a\\040b /c rw - ext4 x rw", "/a b")
	f.Add("1 0 8:1 / /\\", "/")
	f.Fuzz(func(t *testing.T, table, path string) {
		m, err := readMounts(strings.NewReader(table))
		if err == nil {
			m.aliases(path)
		}
	})
}

func TestExplain_NamesWhatTheHostForbids(t *testing.T) {
	denied := fmt.Errorf("making the namespaces: %w", syscall.EPERM)
	for _, c := range []struct {
		err  error
		s    usernsSurroundings
		want string
	}{
		{denied, usernsSurroundings{apparmor: "1", program: "/usr/local/bin/clawpatrol"}, "profile clawpatrol /usr/local/bin/clawpatrol flags=(unconfined) {\n  userns,"},
		{&StartError{1, errors.New("separating the mounts: permission denied"), ""}, usernsSurroundings{apparmor: "1"}, "/etc/apparmor.d/clawpatrol"},
		{denied, usernsSurroundings{clone: "0"}, "unprivileged_userns_clone"},
		{fmt.Errorf("x: %w", syscall.ENOSPC), usernsSurroundings{}, "max_user_namespaces"},
		{fmt.Errorf("x: %w", syscall.EINVAL), usernsSurroundings{most: "0"}, "max_user_namespaces"},
		{denied, usernsSurroundings{}, "something on this host"},
		{denied, usernsSurroundings{root: true, apparmor: "1"}, ""},
		{errors.New("something else"), usernsSurroundings{apparmor: "1"}, ""},
		{agent.WithHint(denied, "another"), usernsSurroundings{apparmor: "1"}, "another"},
	} {
		got := explain(c.err, c.s)
		if hint := agent.HintOf(got); !strings.Contains(hint, c.want) || (c.want == "") != (hint == "") {
			t.Errorf("%v with %+v: hint %q, want %q", c.err, c.s, hint, c.want)
		}
		if got.Error() != c.err.Error() {
			t.Errorf("%v became %v", c.err, got)
		}
	}
	if explain(nil, usernsSurroundings{most: "0"}) != nil {
		t.Error("no error became one")
	}
}

// The profile that docs/agent-run.md shows is the one that is meant.
func TestAppArmorProfile_IsInTheDocs(t *testing.T) {
	doc, err := os.ReadFile("../../docs/agent-run.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), agent.AppArmorProfile("/usr/local/bin/clawpatrol")) {
		t.Error("docs/agent-run.md shows another profile")
	}
}

// A working directory below /tmp is shown as it is, but not where it holds the
// join credential.
func TestPlan_NoWorkingDirectoryShowsTheJoinCredential(t *testing.T) {
	base, err := os.MkdirTemp("/tmp", "clawpatrol-plan-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	state := base + "/st"
	for _, dir := range []string{state + "/private", state + "/public"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{state, state + "/private"} {
		p, err := makePlan(surroundings{home: "/root", dir: dir, unixSockets: strings.NewReader(""), mounts: strings.NewReader("")},
			map[string]string{state: state + "/public"}, new(lease))
		if err != nil {
			t.Fatal(err)
		}
		if !p.covered(state + "/private") {
			t.Errorf("in %s the join credential is shown: %+v", dir, p)
		}
	}
}

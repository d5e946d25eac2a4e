package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

const (
	insideEnv = "SANDBOX_TEST_INSIDE"

	testBlock = "# Begin of the SSH host keys of clawpatrol's gateway. The lines up to the end are replaced.\n" +
		"build.example.com ssh-ed25519 AAAA clawpatrol\n" +
		"# End of the SSH host keys of clawpatrol's gateway.\n"
	testOldBlock = "# Begin of the SSH host keys of clawpatrol's gateway. The lines up to the end are replaced.\n" +
		"old.example.com ssh-ed25519 AAAA clawpatrol\n" +
		"# End of the SSH host keys of clawpatrol's gateway.\n"
)

// inside runs f in a user and a mount namespace, where / is root's and this user
// is nobody special: the test binary runs this test again there.
func inside(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		f(t)
		return
	}
	var parts []string
	for _, p := range strings.Split(t.Name(), "/") {
		parts = append(parts, "^"+p+"$")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", strings.Join(parts, "/"), "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 4242, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 4242, HostID: os.Getegid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
}

// The command's ssh finds the gateway's keys in the system's file, whatever was
// there, and everything beside it as outside.
func TestKnowSSHHosts(t *testing.T) {
	const others = "other.example.com ssh-ed25519 AAAA\n"
	for name, c := range map[string]struct{ before, want string }{
		"no file":    {"", testBlock},
		"a file":     {others, testBlock + others},
		"old":        {testOldBlock + others, testBlock + others},
		"up to date": {testBlock + others, testBlock + others},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			inside(t, func(t *testing.T) {
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				for _, dir := range []string{"/etc", "/run"} {
					must(unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"))
				}
				must(os.MkdirAll("/etc/ssh/ssh_config.d", 0o755))
				must(os.Mkdir(ownDir, 0o755))
				for path, content := range map[string]string{"/etc/ssh/ssh_config": "config", "/etc/ssh/ssh_config.d/a.conf": "a", "/etc/ssh/key": "unreadable", "/run/block": testBlock} {
					must(os.WriteFile(path, []byte(content), 0o644))
				}
				must(os.Chmod("/etc/ssh/key", 0))
				must(os.Symlink("ssh_config", "/etc/ssh/link"))
				if c.before != "" {
					must(os.WriteFile(agent.SystemKnownHosts, []byte(c.before), 0o644))
				}
				p := &plan{SSHHosts: "/run/block"}
				must(p.knowSSHHosts())
				for path, want := range map[string]string{agent.SystemKnownHosts: c.want, "/etc/ssh/ssh_config": "config", "/etc/ssh/ssh_config.d/a.conf": "a", "/etc/ssh/link": "config"} {
					if b, err := os.ReadFile(path); err != nil || string(b) != want {
						t.Errorf("%s: %q, %v", path, b, err)
					}
				}
				if st, err := os.Stat("/etc/ssh/key"); err != nil || st.Mode() != 0 || st.Size() != int64(len("unreadable")) {
					t.Errorf("the file that cannot be read: %v, %v", st, err)
				}
				if err := os.WriteFile(agent.SystemKnownHosts, nil, 0o644); c.before != c.want && err == nil {
					t.Error("the command can write to it")
				}
				names, err := filepath.Glob("/etc/ssh/*")
				if err != nil || len(names) != 5 {
					t.Errorf("%q, %v", names, err)
				}
			})
		})
	}
}

// Where there is nothing to show, or nowhere, nothing is changed.
func TestKnowSSHHosts_Nothing(t *testing.T) {
	inside(t, func(t *testing.T) {
		for _, dir := range []string{"/etc", "/run"} {
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile("/run/block", []byte(testBlock), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"", "/run/none", "/run/block"} {
			if err := (&plan{SSHHosts: file}).knowSSHHosts(); err != nil {
				t.Errorf("%q: %v", file, err)
			}
			if _, err := os.Lstat("/etc/ssh"); err == nil {
				t.Errorf("%q: /etc/ssh is there", file)
			}
		}
	})
}

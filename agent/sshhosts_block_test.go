package agent

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// join installs the keys beside what others have there, follows what the gateway
// says and what others change, and down leaves what others wrote.
func TestJoin_SSHHosts(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	file := filepath.Join(root, SystemKnownHosts)
	others := "# ours\nold.example.com ssh-ed25519 AAAA"
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(others), 0o640); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, root)
	r := join(t, g, root)
	block := string(testBlock(t))
	has := func(want string) func() bool {
		return func() bool {
			b, err := os.ReadFile(file)
			return err == nil && string(b) == want
		}
	}
	if !has(block + others)() {
		b, err := os.ReadFile(file)
		t.Fatalf("it is %q, %v", b, err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o640 {
		t.Errorf("its mode: %v, %v", st.Mode(), err)
	}
	r.out.waitFor(t, "SSH host keys installed: /etc/ssh/ssh_known_hosts, hosts: 2")
	if b, _, err := r.readSSHHosts(); err != nil || string(b) != block {
		t.Errorf("what every program may read: %q, %v", b, err)
	}
	vars, err := r.Env()
	if err != nil || !slices.Contains(vars, Variable{"CLAWPATROL_SSH_KNOWN_HOSTS", r.paths.sshHosts()}) {
		t.Errorf("env: %v, %v", vars, err)
	}
	// What others add stays; what they take away comes back.
	others += "\nnew.example.com ssh-ed25519 AAAA\n"
	if err := os.WriteFile(file, []byte(others), 0o640); err != nil {
		t.Fatal(err)
	}
	eventually(t, "block again", has(block+others))
	// Another host, and one that nobody may name.
	g.mu.Lock()
	g.sshHosts = append([]string{"more.example.com " + testSSHCA, "* " + testSSHCA}, testSSHHosts...)
	g.mu.Unlock()
	r.out.waitFor(t, "SSH host keys installed: /etc/ssh/ssh_known_hosts, hosts: 3")
	r.out.waitFor(t, "an SSH host of the gateway's is left out: it does not name one host")
	k, _ := checkSSHHosts(testSSHCA, g.sshHosts)
	if !has(string(k.block()) + others)() {
		b, _ := os.ReadFile(file)
		t.Errorf("it is %q", b)
	}
	if err := r.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !has(others)() {
		b, _ := os.ReadFile(file)
		t.Errorf("after down it is %q", b)
	}
	if err := r.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("# ours\nold.example.com ssh-ed25519 AAAA"), 0o640); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if n := strings.Count(r.out.String(), "is left out"); n != 1 {
		t.Errorf("told %d times that a line is left out", n)
	}
}

// A directory that was not there is not there afterwards, and a file that was
// empty stays.
func TestJoin_SSHHostsOfAHostWithoutSSH(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	for what, empty := range map[string]bool{"nothing": false, "an empty file": true} {
		t.Run(what, func(t *testing.T) {
			root := newRoot(t)
			file := filepath.Join(root, SystemKnownHosts)
			if empty {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, root)
			r := join(t, g, root)
			if _, err := os.Stat(file); err != nil {
				t.Error(err)
			}
			if err := r.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := snapshot(t, root); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			if _, err := os.Stat(filepath.Dir(file)); (err == nil) != empty {
				t.Errorf("/etc/ssh: %v", err)
			}
		})
	}
}

// A file that cannot be changed is told once, and keeps nobody from joining.
func TestJoin_SSHHostsCannotBeInstalled(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	file := filepath.Join(root, SystemKnownHosts)
	if err := os.MkdirAll(file, 0o755); err != nil { // a directory in its place
		t.Fatal(err)
	}
	r := join(t, g, root)
	r.out.waitFor(t, "the gateway's SSH host keys are not installed: ")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r.out.waitFor(t, "SSH host keys installed: ")
	if n := strings.Count(r.out.String(), "are not installed"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// A gateway that has no SSH authority, or none that is one.
func TestJoin_SSHAuthority(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	g.sshCA, g.sshHosts = "", nil
	r := join(t, g, root)
	if _, err := os.Stat(filepath.Join(root, "/etc/ssh")); err == nil {
		t.Error("there is nothing to install, and a file is there")
	}
	if err := r.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.sshCA = testSSHCA + "\n* " + testSSHCA
	a, _ := newAgent(t, g, root)
	if err := a.Join(t.Context(), request(g)); err == nil || !strings.Contains(err.Error(), "SSH authority") {
		t.Errorf("a join with a bad authority: %v", err)
	}
}

// A gateway that has SSH keys no more leaves nothing behind.
func TestSSHHosts_NoMore(t *testing.T) {
	root := t.TempDir()
	a := New(Config{Root: root, StateDir: t.TempDir()})
	j := tempJournal(t)
	for _, block := range [][]byte{nil, testBlock(t), nil} {
		if _, err := a.installSSHHosts(j, block); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(root, SystemKnownHosts))
		if !bytes.Equal(b, block) || (err != nil && len(block) > 0) {
			t.Errorf("%q, %v; want %q", b, err, block)
		}
	}
	if err := a.undo(t.Context(), j, scopeTunnel); err != nil {
		t.Fatal(err)
	}
	if left := snapshotFiles(t, root); left != "" {
		t.Errorf("left: %s", left)
	}
	if _, err := os.Stat(filepath.Join(root, "/etc/ssh")); err == nil {
		t.Error("the directory is left")
	}
}

// The file of a dotfiles manager is where the symbolic link leads.
func TestSSHHosts_FollowsASymbolicLink(t *testing.T) {
	root := t.TempDir()
	target, link := filepath.Join(root, "target"), filepath.Join(root, SystemKnownHosts)
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	a := New(Config{Root: root, StateDir: t.TempDir()})
	j := tempJournal(t)
	block := testBlock(t)
	if changed, err := a.installSSHHosts(j, block); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if changed, err := a.installSSHHosts(j, block); err != nil || changed {
		t.Errorf("a second time: %v, %v", changed, err)
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != string(block)+"mine\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := a.undo(context.Background(), j, scopeTunnel); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "mine\n" {
		t.Errorf("%q, %v", b, err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link: %v, %v", st, err)
	}
}

// The attack: a gateway that has the host say a thousand lines of its own, and
// nobody sees the one that matters.
func TestSSHHosts_FewNotesAtAPoll(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, SystemKnownHosts), 0o755); err != nil { // in the way
		t.Fatal(err)
	}
	out := new(output)
	a := New(Config{Root: root, StateDir: t.TempDir(), Out: out})
	if err := os.MkdirAll(a.paths.public(), 0o755); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i := range 1000 {
		lines = append(lines, fmt.Sprintf("pay %d to the gateway", i))
	}
	for range 2 {
		a.knowSSH(tempJournal(t), &state{Claim: &enrolment.ClaimResponse{}}, lines)
	}
	said := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(said) != maxNamed+1 || !strings.Contains(said[0], "are not installed") || !strings.Contains(said[maxNamed], fmt.Sprintf("and %d more like these", 1001-maxNamed)) {
		t.Errorf("%d lines:\n%.3000s", len(said), out)
	}
}

// The attack: a FIFO in place of the file once it has been looked at.
func TestReadKnownHosts_ExchangedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(file, []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var exchanger sync.WaitGroup
	defer exchanger.Wait()
	defer stop()
	exchanger.Go(func() {
		for ctx.Err() == nil {
			if err := unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, fifo, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 20_000 {
		if _, now, err := readKnownHosts(file); err == nil && string(now.Content) != "mine\n" {
			t.Fatalf("a FIFO was read as %+v", now)
		}
	}
}

package agent

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// trust --ssh changes the caller's file only, and only our lines in it.
func TestTrustSSH(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	r := join(t, g, newRoot(t))
	home := t.TempDir()
	t.Setenv("HOME", home)
	file := filepath.Join(home, userKnownHosts)
	if got, err := r.DistrustSSH(); err != nil || got != file {
		t.Errorf("nothing to undo: %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Dir(file)); err == nil {
		t.Error("undoing made a directory")
	}
	block := string(testBlock(t))
	for range 2 {
		got, hosts, err := r.TrustSSH()
		if err != nil || got != file || hosts != 2 {
			t.Fatalf("%q, %d, %v", got, hosts, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != block {
		t.Errorf("%q, %v", b, err)
	}
	for path, mode := range map[string]fs.FileMode{file: 0o600, filepath.Dir(file): 0o700 | fs.ModeDir} {
		if st, err := os.Stat(path); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
	if err := os.WriteFile(file, []byte("mine\n"+block+"more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.TrustSSH(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != block+"mine\nmore" {
		t.Errorf("%q, %v", b, err)
	}
	if err := r.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.DistrustSSH(); err != nil { // needs no enrolment
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine\nmore" {
		t.Errorf("%q, %v", b, err)
	}
	if _, _, err := r.TrustSSH(); err == nil || HintOf(err) == "" {
		t.Errorf("without an enrolment: %v", err)
	}
}

// As root in somebody else's home nothing is changed: the file would become
// root's.
func TestTrustSSH_NotInTheHomeOfAnother(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	file := filepath.Join(home, userKnownHosts)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, testBlock(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(file, 4242, -1); err != nil {
		t.Fatal(err)
	}
	a := New(Config{StateDir: t.TempDir()})
	if _, err := a.DistrustSSH(); err == nil || !strings.Contains(HintOf(err), "without sudo") {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, testBlock(t)) {
		t.Errorf("%q, %v", b, err)
	}
}

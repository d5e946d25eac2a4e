package policy_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
)

// What anybody else could write is refused, with the command that ends it.
func TestI22_FileThatOthersCanChangeIsRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, dir, path string) // to dir/sub/gateway.hcl, which is fine as it is
		want string                               // in the error; empty: accepted
		hint string
	}{
		{"as it should be", func(*testing.T, string, string) {}, "", ""},
		{"group-writable file", func(t *testing.T, _, path string) { chmod(t, path, 0o660) }, "gateway.hcl has mode 0660", "chmod go-w"},
		{"world-writable file", func(t *testing.T, _, path string) { chmod(t, path, 0o602) }, "gateway.hcl has mode 0602", "chmod go-w"},
		{"readable by all", func(t *testing.T, _, path string) { chmod(t, path, 0o644) }, "", ""},
		{"group-writable directory", func(t *testing.T, _, path string) { chmod(t, filepath.Dir(path), 0o770) }, "sub has mode 0770", "chmod go-w"},
		{"world-writable directory, sticky", func(t *testing.T, _, path string) { chmod(t, filepath.Dir(path), 0o777|os.ModeSticky) }, "sub has mode 0777", "chmod go-w"},
		{"world-writable directory above", func(t *testing.T, dir, _ string) { chmod(t, dir, 0o777) }, "everyone may replace what is in", "chmod o-w"},
		{"sticky directory above", func(t *testing.T, dir, _ string) { chmod(t, dir, 0o777|os.ModeSticky) }, "", ""},
		{"somebody else's file", func(t *testing.T, _, path string) { chown(t, path, 4711) }, "gateway.hcl belongs to uid 4711", "chown root"},
		{"somebody else's directory", func(t *testing.T, _, path string) { chown(t, filepath.Dir(path), 4711) }, "sub belongs to uid 4711", "chown root"},
		{"missing", func(t *testing.T, _, path string) { remove(t, path) }, "no such file", ""},
		{"link to a writable file", func(t *testing.T, dir, path string) {
			target := filepath.Join(dir, "target.hcl")
			write(t, target, "")
			chmod(t, target, 0o666)
			remove(t, path)
			symlink(t, target, path)
		}, "target.hcl has mode 0666", "chmod go-w"},
		{"link in a writable directory", func(t *testing.T, dir, path string) {
			target := filepath.Join(dir, "target.hcl")
			write(t, target, "")
			remove(t, path)
			symlink(t, target, path)
			chmod(t, filepath.Dir(path), 0o777)
		}, "sub has mode 0777", "chmod go-w"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "sub", "gateway.hcl")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, path, "")
			test.do(t, dir, path)
			err := policy.CheckFile(path)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			var hinted interface{ Hint() string }
			if test.hint != "" && (!errors.As(err, &hinted) || !strings.HasPrefix(hinted.Hint(), test.hint)) {
				t.Errorf("no hint %q in %v", test.hint, err)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// chown needs root, as this project's tests do.
func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if err := os.Chown(path, uid, -1); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

package sftp_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	client "github.com/pkg/sftp"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/sftp"
)

// relayVariable makes this test's program a relay on its standard streams, for
// `sftp -D`, in front of the server that it names. denyVariable is a substring of
// the paths that are refused.
const (
	relayVariable = "SFTP_TEST_RELAY"
	denyVariable  = "SFTP_TEST_DENY"
)

func TestMain(m *testing.M) {
	if server := os.Getenv(relayVariable); server != "" {
		if err := relayStdio(server); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// duplex is a pair of pipes.
type duplex struct {
	io.Reader
	io.WriteCloser
}

func (d duplex) CloseWrite() error { return d.Close() }

func relayStdio(server string) error {
	upstream, wait, err := startServer(exec.Command(server))
	if err != nil {
		return err
	}
	err = sftp.Relay(duplex{os.Stdin, os.Stdout}, upstream, func(a sftp.Action) error {
		if deny := os.Getenv(denyVariable); deny != "" && strings.Contains(a.Path+" "+a.Target, deny) {
			return errors.New("denied")
		}
		return nil
	})
	return errors.Join(err, wait())
}

func startServer(cmd *exec.Cmd) (duplex, func() error, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return duplex{}, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return duplex{}, nil, err
	}
	cmd.Stderr = os.Stderr
	return duplex{out, in}, cmd.Wait, cmd.Start()
}

// opensshServer returns OpenSSH's sftp-server: of openssh-sftp-server, without
// which openssh-server cannot be.
func opensshServer(t *testing.T) string {
	t.Helper()
	const path = "/usr/lib/openssh/sftp-server"
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("OpenSSH's server is needed: %v", err)
	}
	return path
}

// connect returns a client of pkg/sftp that speaks through a relay to OpenSSH's
// server.
func connect(t *testing.T, decide func(sftp.Action) error, options ...client.ClientOption) *client.Client {
	t.Helper()
	upstream, wait, err := startServer(exec.Command(opensshServer(t)))
	must(t, err)
	fromClient, toRelay := io.Pipe()
	fromRelay, toClient := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- sftp.Relay(duplex{fromClient, toClient}, upstream, decide) }()
	c, err := client.NewClientPipe(fromRelay, toRelay, options...)
	must(t, err)
	t.Cleanup(func() {
		c.Close()
		if err := errors.Join(<-ended, wait()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func allow(sftp.Action) error { return nil }

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func TestRelay_CarriesPkgSFTP(t *testing.T) {
	dir := t.TempDir()
	c := connect(t, allow, client.UseConcurrentWrites(true))
	want := pattern(5_000_001)
	path := dir + "/a file"

	f, err := c.Create(path)
	must(t, err)
	_, err = f.ReadFrom(bytes.NewReader(want))
	must(t, err)
	must(t, f.Truncate(5_000_000)) // of an open file
	must(t, f.Close())
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want[:5_000_000]) {
		t.Fatal("what was written differs")
	}
	f, err = c.Open(path)
	must(t, err)
	var back bytes.Buffer
	_, err = f.WriteTo(&back)
	must(t, err)
	must(t, f.Close())
	if !bytes.Equal(back.Bytes(), got) {
		t.Fatal("what was read differs")
	}
	must(t, c.Mkdir(dir+"/d"))
	must(t, c.Rename(path, dir+"/d/b"))
	must(t, c.PosixRename(dir+"/d/b", dir+"/d/c"))
	must(t, c.Symlink("c", dir+"/d/l"))
	must(t, c.Link(dir+"/d/c", dir+"/d/h"))
	must(t, c.Chmod(dir+"/d/c", 0o640))
	if target, err := c.ReadLink(dir + "/d/l"); err != nil || target != "c" {
		t.Fatal(target, err)
	}
	if _, err := c.StatVFS(dir); err != nil {
		t.Fatal(err)
	}
	list, err := c.ReadDir(dir + "/d/../d")
	must(t, err)
	if len(list) != 3 {
		t.Fatal(list)
	}
	for _, name := range []string{"c", "l", "h"} {
		must(t, c.Remove(dir+"/d/"+name))
	}
	must(t, c.RemoveDirectory(dir+"/d"))
}

func TestRelay_RefusesPkgSFTPAndGoesOn(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/secret", []byte("s"), 0o600))
	must(t, os.WriteFile(dir+"/open", []byte("o"), 0o600))
	c := connect(t, func(a sftp.Action) error {
		if strings.HasSuffix(a.Path, "/secret") || strings.HasSuffix(a.Target, "/secret") {
			return errors.New("this file is not yours")
		}
		return nil
	})
	for name, try := range map[string]func() error{
		"open":     func() error { _, err := c.Open(dir + "/secret"); return err },
		"beside":   func() error { _, err := c.Open(dir + "/x/../secret"); return err },
		"create":   func() error { _, err := c.Create(dir + "/secret"); return err },
		"remove":   func() error { return c.Remove(dir + "/secret") },
		"rename":   func() error { return c.Rename(dir+"/secret", dir+"/open2") },
		"replace":  func() error { return c.PosixRename(dir+"/open", dir+"/secret") },
		"link":     func() error { return c.Link(dir+"/secret", dir+"/other") },
		"symlink":  func() error { return c.Symlink(dir+"/secret", dir+"/other") },
		"chmod":    func() error { return c.Chmod(dir+"/secret", 0o777) },
		"truncate": func() error { return c.Truncate(dir+"/secret", 0) },
	} {
		if err := try(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(dir + "/secret"); err != nil || string(b) != "s" {
		t.Errorf("%q %v", b, err)
	}
	f, err := c.Open(dir + "/open")
	must(t, err)
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || string(b) != "o" {
		t.Errorf("%q %v", b, err)
	}
}

// Many files at once, each with many requests outstanding.
func TestRelay_CarriesManyFilesAtOnce(t *testing.T) {
	dir := t.TempDir()
	c := connect(t, allow, client.UseConcurrentWrites(true), client.MaxConcurrentRequestsPerFile(128))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			want := pattern(1_000_000 + i)
			path := fmt.Sprintf("%s/%d", dir, i)
			f, err := c.Create(path)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = f.ReadFrom(bytes.NewReader(want))
			if err := errors.Join(err, f.Close()); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s differs: %v", path, err)
			}
		})
	}
	wg.Wait()
}

// OpenSSH's own program, which asks for packets as long as the server takes. What
// it may not look at is not there for it.
func TestRelay_CarriesOpenSSH(t *testing.T) {
	dir := t.TempDir()
	want := pattern(10_000_000)
	must(t, os.WriteFile(dir+"/a", want, 0o600))
	batch := filepath.Join(dir, "batch")
	must(t, os.WriteFile(batch, []byte(fmt.Sprintf(`
put %[1]s/a %[1]s/b
get %[1]s/b %[1]s/c
cp %[1]s/b %[1]s/d
-get %[1]s/forbidden %[1]s/never
mkdir %[1]s/dir
cd %[1]s/dir
put -R %[1]s/a ../e
ls -l ..
df
ln -s ../a link
chmod 640 ../e
rename ../e ../f
rm ../b
`, dir)), 0o600))
	must(t, os.WriteFile(dir+"/forbidden", []byte("f"), 0o600))
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command("sftp", "-b", batch, "-D", self)
	cmd.Env = append(os.Environ(), relayVariable+"="+opensshServer(t), denyVariable+"=forbidden")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("forbidden\" not found")) {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, there := range map[string]bool{"b": false, "c": true, "d": true, "e": false, "f": true, "never": false} {
		got, err := os.ReadFile(dir + "/" + name)
		if there && !bytes.Equal(got, want) || there != (err == nil) {
			t.Errorf("%s: %d bytes, %v\n%s", name, len(got), err, out)
		}
	}
	if target, err := os.Readlink(dir + "/dir/link"); err != nil || target != "../a" {
		t.Errorf("%q %v", target, err)
	}
}

package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/control"
)

type advised struct{ error }

func (advised) Hint() string { return "do this" }

// stateDir is a directory that a gateway could have, with a path longer than a
// socket's address may be (108 bytes, unix(7)).
func stateDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir string, commands map[string]control.Command) *control.Server {
	t.Helper()
	s, err := control.Open(dir, commands)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func echo(_ context.Context, by string, args json.RawMessage) (any, error) {
	return map[string]string{"by": by, "args": string(args)}, nil
}

func TestCall_ReachesItsCommand(t *testing.T) {
	dir := stateDir(t)
	open(t, dir, map[string]control.Command{
		"echo":  echo,
		"fail":  func(context.Context, string, json.RawMessage) (any, error) { return nil, advised{errors.New("no")} },
		"panic": func(context.Context, string, json.RawMessage) (any, error) { panic("secret words") },
	})
	var got map[string]string
	if err := control.Call(t.Context(), dir, "echo", []int{1}, &got); err != nil {
		t.Fatal(err)
	}
	if got["args"] != "[1]" || got["by"] != fmt.Sprintf("uid %d on the control socket", os.Geteuid()) {
		t.Errorf("%v", got)
	}
	err := control.Call(t.Context(), dir, "fail", nil, &got)
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Message != "no" || e.Hint() != "do this" {
		t.Errorf("%v", err)
	}
	if err := control.Call(t.Context(), dir, "nothing", nil, &got); err == nil || !strings.Contains(err.Error(), `"nothing"`) {
		t.Errorf("an unknown command: %v", err)
	}
	if err := control.Call(t.Context(), dir, "panic", nil, &got); err == nil || strings.Contains(err.Error(), "secret words") {
		t.Errorf("a panic: %v", err)
	}
	if err := control.Call(t.Context(), dir, "echo", nil, &got); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestSocket_IsForItsOwnerOnly(t *testing.T) {
	dir := stateDir(t)
	path := filepath.Join(dir, control.Socket)
	// What a gateway that was killed left behind is no obstacle.
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, map[string]control.Command{"echo": echo})
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v %v", fi, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it stays after Close: %v", err)
	}
	err = control.Call(t.Context(), dir, "echo", nil, new(any))
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Hint() == "" || !strings.Contains(e.Message, "none runs") {
		t.Errorf("without a gateway: %v", err)
	}
}

// TestI14_ControlSocketAsksTheKernelWhoItIs: a user whom the file system would
// let in is cut off before anything is read.
func TestI14_ControlSocketAsksTheKernelWhoItIs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root, to be somebody else")
	}
	dir := stateDir(t)
	ran := new(atomic.Bool)
	open(t, dir, map[string]control.Command{"echo": func(context.Context, string, json.RawMessage) (any, error) {
		ran.Store(true)
		return nil, nil
	}})
	// As if the modes had been widened by hand, all the way up.
	for d := dir; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, control.Socket), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	c, err := connectAs(65534)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, "{\"do\":\"echo\"}\n")
	if b, err := io.ReadAll(c); len(b) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("answered %q, %v", b, err)
	}
	if ran.Load() {
		t.Error("a command ran for somebody else")
	}
}

// connectAs connects to the socket in the working directory as another user. To
// Linux a thread has a user, and what the other end learns is who connected.
func connectAs(uid int) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			err = errno
			return
		}
		var fd int
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		f := os.NewFile(uintptr(fd), control.Socket)
		defer f.Close()
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: control.Socket}); err == nil {
			c, err = net.FileConn(f)
		}
	}()
	<-done
	return c, err
}

func dial(t *testing.T, dir string) net.Conn {
	t.Helper()
	t.Chdir(dir)
	c, err := net.Dial("unix", control.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// Requests that are none are cut off, and cost the next one nothing.
func TestServer_BadRequestsEndWithTheirConnection(t *testing.T) {
	dir := stateDir(t)
	open(t, dir, map[string]control.Command{"echo": echo})
	for what, sent := range map[string]string{
		"not JSON": "GET / HTTP/1.1\r\n\r\n", "wrong type": `{"do":1}`, "too long": `{"do":"echo","args":"` + strings.Repeat("A", 17<<10) + `"}`, "binary": "\x00\xff",
	} {
		c := dial(t, dir)
		_, _ = io.WriteString(c, sent+"\n") // it may be cut off before all is written
		if b, err := io.ReadAll(c); len(b) != 0 || (err != nil && !strings.Contains(err.Error(), "reset")) {
			t.Errorf("%s: answered %q, %v", what, b, err)
		}
	}
	var got map[string]string
	if err := control.Call(t.Context(), dir, "echo", nil, &got); err != nil {
		t.Error(err)
	}
}

// One command at a time; one that waits to be sent, or to be read, holds up
// nobody; and Close ends what is under way.
func TestServer_OneAtATimeAndSilenceHoldsUpNobody(t *testing.T) {
	dir := stateDir(t)
	var running, most atomic.Int32
	stuck := make(chan struct{})
	s := open(t, dir, map[string]control.Command{
		"count": func(context.Context, string, json.RawMessage) (any, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			return nil, nil
		},
		"wait": func(ctx context.Context, _ string, _ json.RawMessage) (any, error) {
			close(stuck)
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	for range 8 {
		dial(t, dir) // and says nothing
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := control.Call(t.Context(), dir, "count", nil, new(any)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d at a time", most.Load())
	}
	done := make(chan error, 1)
	go func() { done <- control.Call(context.WithoutCancel(t.Context()), dir, "wait", nil, new(any)) }()
	<-stuck
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("a request that was cut off succeeded")
	}
}

func FuzzServer(f *testing.F) {
	dir := f.TempDir()
	s, err := control.Open(dir, map[string]control.Command{"echo": echo})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	f.Add([]byte(`{"do":"echo","args":{"a":1}}`))
	f.Add([]byte(`{"do":""}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, sent []byte) {
		c, err := net.Dial("unix", filepath.Join(dir, control.Socket))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = c.Write(sent)
		_ = c.(*net.UnixConn).CloseWrite()
		b, _ := io.ReadAll(c)
		if len(b) > 0 && !json.Valid(b) {
			t.Fatalf("answered %q", b)
		}
	})
}

package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// systemd stands for systemctl: `enable --now` starts `up` as the unit would,
// `disable --now` stops it.
type systemd struct {
	a    *Agent
	next func(context.Context, string, ...string) error

	mu    sync.Mutex
	calls []string
	stop  context.CancelFunc
	done  chan error
}

func (s *systemd) run(ctx context.Context, name string, args ...string) error {
	if filepath.Base(name) != "systemctl" {
		return s.next(ctx, name, args...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, strings.Join(args, " "))
	switch args[0] {
	case "enable":
		ctx, stop := context.WithCancel(context.Background())
		s.stop, s.done = stop, make(chan error, 1)
		go func() { s.done <- s.a.Up(ctx) }()
	case "disable":
		if s.stop != nil {
			s.stop()
			return <-s.done
		}
	}
	return nil
}

func TestService(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	g.setApprove(true)
	root := newRoot(t)
	for _, d := range []string{bootedDir, unitDir} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "/usr/bin/systemctl"), nil, 0o755); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Join(root, "/usr/bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "/usr/bin/systemctl"), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	before := snapshot(t, root)
	a, out := newAgent(t, g, root)
	s := &systemd{a: a, next: a.cfg.Run}
	a.cfg.Run = s.run
	req := request(g)
	req.Service = true
	if err := a.Join(t.Context(), req); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(root, unitDir, unitName))
	if err != nil || !strings.Contains(string(b), " up --state \""+a.paths.dir+"\"\n") {
		t.Errorf("the unit: %v\n%s", err, b)
	}
	eventually(t, "tunnel held by the service", func() bool {
		st, err := a.Status(t.Context())
		return err == nil && st.Tunnel.Up
	})
	if err := a.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := strings.Join(s.calls, "; "); got != "daemon-reload; enable --now "+unitName+"; disable --now "+unitName {
		t.Errorf("systemctl was called with %q", got)
	}
}

func TestSystemdQuote(t *testing.T) {
	for in, want := range map[string]string{
		"/usr/bin/clawpatrol": `"/usr/bin/clawpatrol"`,
		`/a b/"c"\d`:          `"/a b/\"c\"\\d"`,
		"/50%/$HOME":          `"/50%%/$$HOME"`,
	} {
		if got := systemdQuote(in); got != want {
			t.Errorf("systemdQuote(%q) = %s; want %s", in, got, want)
		}
	}
}

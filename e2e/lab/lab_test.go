package lab_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The lab itself: hosts reach each other, names resolve, and the world's
// certificates are trusted, before anything of ours is in between.
func TestLab_HostsReachTheWorld(t *testing.T) {
	ctx := t.Context()
	l, err := lab.New(ctx, lab.Config{Agents: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })
	if err := l.ServeHTTPS(ctx, "web.example.org", 0, hello); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"198.51.100.2:", "198.51.101.2:"} {
		out, err := l.Agents[i].Run(context.WithoutCancel(ctx), "curl", "-4sS", "--max-time", "10", "https://web.example.org/")
		if err != nil || !strings.HasPrefix(out, want) {
			t.Errorf("over IPv4 from agent %d: %q, %v; want %s", i, out, err, want)
		}
	}
	if out, err := l.Agents[0].Run(ctx, "curl", "-6sS", "--max-time", "10", "https://web.example.org/"); err != nil || !strings.HasPrefix(out, "[2001:db8:100::2]:") {
		t.Errorf("over IPv6: %q, %v", out, err)
	}
}

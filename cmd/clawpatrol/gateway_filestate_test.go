package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
)

// The dashboard is told what stands between the file and the policy in force,
// and since when; a file that does not compile changes nothing.
func TestI18_TheDashboardIsToldOfTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.hcl")
	const url = `public_url = "https://localhost:8443"`
	gatewayFile(t, file, url)
	g, _ := openFor(t, file)
	loaded := g.policyFile().LoadedAt
	if f := g.policyFile(); f.Differs || f.Problem != nil || loaded.IsZero() || f.Next == nil {
		t.Fatalf("after the start: %+v", f)
	}

	// Written, and not loaded yet.
	written := time.Now().Add(-time.Hour).Truncate(time.Second)
	gatewayFile(t, file, url+"\nenrolment = \"closed\"")
	if err := os.Chtimes(file, written, written); err != nil {
		t.Fatal(err)
	}
	f := g.policyFile()
	if !f.Differs || f.Problem != nil || !f.Since.Equal(written) || f.Next.Gateway.Enrolment != "closed" || g.policy.Load().Gateway.Enrolment != "open" {
		t.Errorf("a file that waits: %+v", f)
	}
	if now := g.policy.Load(); strings.Contains(now.Sources()[0].Text, "closed") {
		t.Error("the policy in force has the text of another")
	}
	g.reload(t.Context())
	if f := g.policyFile(); f.Differs || !f.LoadedAt.After(loaded) || !strings.Contains(g.policy.Load().Sources()[0].Text, "closed") {
		t.Errorf("after the reload: %+v", f)
	}

	// It does not compile: told since the reload that was refused.
	before, now := time.Now(), g.policy.Load()
	gatewayFile(t, file, url+"\nenrolment = \"clost\"")
	if err := os.Chtimes(file, written, written); err != nil {
		t.Fatal(err)
	}
	if f := g.policyFile(); !f.Differs || !f.Since.Equal(written) || f.Problem == nil {
		t.Errorf("a broken file that waits: %+v", f)
	}
	g.reload(t.Context())
	f = g.policyFile()
	var invalid *policy.DiagnosticsError
	if !errors.As(f.Problem, &invalid) || !f.Differs || f.Since.Before(before) || f.Next != nil || g.policy.Load() != now {
		t.Fatalf("a broken file: %+v", f)
	}
	if d := invalid.Diagnostics[0]; d.Subject.Filename != file || d.Subject.Start.Line != 8 || !strings.Contains(d.Detail, `Did you mean closed?`) {
		t.Errorf("%+v", d)
	}

	// Others may write it (I22), or it is gone.
	gatewayFile(t, file, url+"\nenrolment = \"closed\"")
	if f := g.policyFile(); f.Differs {
		t.Errorf("as it was loaded, again: %+v", f)
	}
	gatewayFile(t, file, url+"\nenrolment = \"closed\" # a word about it")
	if f := g.policyFile(); !f.Differs || f.Problem != nil {
		t.Errorf("another text that means the same: %+v", f)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if f := g.policyFile(); f.Problem == nil || !strings.Contains(f.Problem.Error(), "mode 0666") || hint(f.Problem) == "" {
		t.Errorf("a file that others may write: %+v", f)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if f := g.policyFile(); f.Problem == nil || !f.Differs || !f.Since.IsZero() {
		t.Errorf("no file: %+v", f)
	}
}

// What waits for the next start is told of until then, and so is the text of it.
func TestReload_TellsWhatWaitsForTheNextStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.hcl")
	gatewayFile(t, file, `public_url = "https://localhost:8443"`)
	g, _ := openFor(t, file)
	gatewayFile(t, file, `public_url = "https://127.0.0.1:1"`)
	for range 2 {
		g.reload(t.Context())
		if f := g.policyFile(); f.Differs || len(f.AtStart) != 1 || f.AtStart[0] != "gateway" {
			t.Errorf("%+v", f)
		}
	}
	gatewayFile(t, file, `public_url = "https://localhost:8443"`)
	g.reload(t.Context())
	if f := g.policyFile(); f.Differs || len(f.AtStart) != 0 {
		t.Errorf("as at the start again: %+v", f)
	}
}

// A file that the policy names counts too.
func TestGateway_AChangedCAFileIsToldOf(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.hcl")
	gatewayFile(t, file, `public_url = "https://localhost:8443"`)
	g, _ := openFor(t, file)
	own := filepath.Join(dir, "own.pem")
	if err := os.WriteFile(own, g.ca.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	src = append(src, "endpoint \"https\" \"a\" {\n  hosts   = [\"a.example.com\"]\n  ca_file = \"own.pem\"\n}\n"...)
	if err := os.WriteFile(file, src, 0o600); err != nil {
		t.Fatal(err)
	}
	g.reload(t.Context())
	if f := g.policyFile(); f.Differs {
		t.Fatalf("%+v", f)
	}
	if err := os.WriteFile(own, append([]byte("# renewed\n"), g.ca.CertPEM()...), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := g.policyFile(); !f.Differs || f.Problem != nil {
		t.Errorf("renewed: %+v", f)
	}
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	if f := g.policyFile(); f.Problem == nil || !strings.Contains(f.Problem.Error(), "own.pem") {
		t.Errorf("gone: %+v", f)
	}
}

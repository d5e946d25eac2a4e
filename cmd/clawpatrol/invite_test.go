package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// gatewayFile writes a policy with this in its gateway block, and profile ci. Its
// listeners are on an address of their own, so that tests can run side by side.
func gatewayFile(t *testing.T, file, block string) {
	t.Helper()
	h := sha256.Sum256([]byte(file))
	ip := fmt.Sprintf("127.%d.%d.%d", h[0], h[1], h[2]|1)
	src := fmt.Sprintf(`gateway {
  state_dir = "state"
  listen    = "%[1]s:8443"
  dashboard {
    listen = "%[1]s:8080"
  }
  %[2]s
}
wireguard {
  listen   = "%[1]s:51820"
  endpoint = "gw.example.com:51820"
}
profile "ci" {
  credentials = []
}
`, ip, block)
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
}

// logBuffer is a log that several goroutines write.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// openFor opens a gateway until the test ends. Its control socket answers.
func openFor(t *testing.T, file string) (g *gateway, log *logBuffer) {
	t.Helper()
	log = new(logBuffer)
	g, err := openGateway(t.Context(), file, io.Discard, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	})
	return g, log
}

func runningGateway(t *testing.T, block string) (file string, log *logBuffer) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "gateway.hcl")
	gatewayFile(t, file, block)
	_, log = openFor(t, file)
	return file, log
}

func TestInvite_TokenAloneIsOnStandardOutput(t *testing.T) {
	file, log := runningGateway(t, `public_url = "https://localhost:8443"`)
	code, stdout, stderr := execute(t, "invite", "--profiles", "ci", "--ttl", "1h", "--uses", "2", "--source", "198.51.100.0/24", file)
	token, _ := strings.CutSuffix(stdout, "\n")
	i, err := enrolment.ParseInvite(token)
	if code != 0 || err != nil {
		t.Fatalf("exit status %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if !strings.Contains(stderr, "clawpatrol join -") || strings.Contains(stderr, token) {
		t.Errorf("what to do: %s", stderr)
	}
	if i.URL != "https://localhost:8443" || i.Uses != 2 || i.Source.String() != "198.51.100.0/24" || strings.Join(i.Profiles, ",") != "ci" || time.Until(i.Expires) > time.Hour+time.Second {
		t.Errorf("%+v", i)
	}
	if l := log.String(); strings.Contains(l, token[5:]) || !strings.Contains(l, `msg="invite made" invite=`+i.ID()) || !strings.Contains(l, "on the control socket") {
		t.Errorf("log %s", l)
	}

	code, stdout, stderr = execute(t, "invite", "--json", file)
	var made madeInvite
	if err := json.Unmarshal([]byte(stdout), &made); code != 0 || err != nil || !enrolment.IsToken(made.Token) || made.Join == "" || stderr != "" {
		t.Errorf("exit status %d, %v\n%s%s", code, err, stdout, stderr)
	}
	code, stdout, _ = execute(t, "invite", "--list", "--state-dir", filepath.Join(filepath.Dir(file), "state"))
	if code != 0 || strings.Count(stdout, "\n") != 3 || !strings.Contains(stdout, i.ID()+"  good   0/2") || strings.Contains(stdout, "cpi1_") {
		t.Errorf("exit status %d\n%s", code, stdout)
	}
	if code, stdout, stderr = execute(t, "invite", "--void", i.ID(), file); code != 0 || !strings.Contains(stdout, i.ID()) {
		t.Errorf("exit status %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, _ = execute(t, "invite", "--list", "--json", file)
	if code != 0 || !strings.Contains(stdout, `"state": "voided"`) {
		t.Errorf("exit status %d\n%s", code, stdout)
	}
}

func TestInvite_SaysWhatIsWrong(t *testing.T) {
	file, _ := runningGateway(t, `public_url = "https://localhost:8443"`)
	dir := filepath.Dir(file)
	writable := filepath.Join(dir, "writable.hcl")
	if err := errors.Join(os.WriteFile(writable, []byte("gateway {\n  public_url = \"https://x\"\n}\n"), 0o600), os.Chmod(writable, 0o666)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		code int
		says string
		args []string
	}{
		{1, "no profile", []string{"--profiles", "nope", file}},
		{1, "ttl", []string{"--ttl", "200h", file}},
		{1, "uses", []string{"--uses", "0", file}},
		{1, "source", []string{"--source", "x", file}},
		{1, "none runs", []string{"--state-dir", dir}},
		{1, "none runs", []string{"--state-dir", filepath.Join(dir, "nothing")}},
		{1, "--state-dir", []string{filepath.Join(dir, "nothing.hcl")}},
		{1, "no such invite", []string{"--void", "i_x", file}},
		{1, "mode 0666", []string{writable}}, // I22: somebody else's gateway would answer
		{2, "one of them", []string{"--state-dir", dir, file}},
		{2, "list", []string{"--list", "--void", "i_x", file}},
		{2, "list", []string{"--list", "--ttl", "1m", file}},
	} {
		code, stdout, stderr := execute(t, append([]string{"invite"}, f.args...)...)
		if code != f.code || stdout != "" || !strings.Contains(stderr, f.says) {
			t.Errorf("%q: exit status %d\n%s%s", f.args, code, stdout, stderr)
		}
	}
}

func TestInvite_NotWhileEnrolmentIsClosed(t *testing.T) {
	file, _ := runningGateway(t, "public_url = \"https://localhost:8443\"\nenrolment = \"closed\"")
	if code, stdout, stderr := execute(t, "invite", file); code != 1 || stdout != "" || !strings.Contains(stderr, "closed") || !strings.Contains(stderr, "hint:") {
		t.Errorf("exit status %d\n%s%s", code, stdout, stderr)
	}
}

// gateway.enrolment is in force as soon as the file is reloaded; the rest of the
// block waits for a start.
func TestReload_TakesOverEnrolment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.hcl")
	gatewayFile(t, file, `public_url = "https://localhost:8443"`)
	g, log := openFor(t, file)
	gatewayFile(t, file, "public_url = \"https://localhost:8443\"\nenrolment = \"closed\"")
	g.reload(t.Context())
	if got := g.policy.Load().Gateway; got.Enrolment != "closed" || strings.Contains(log.String(), "next start") {
		t.Errorf("%+v\n%s", got, log)
	}
	gatewayFile(t, file, "public_url = \"https://127.0.0.1:1\"\nenrolment = \"invite\"")
	g.reload(t.Context())
	if got := g.policy.Load().Gateway; got.Enrolment != "invite" || got.PublicURL != "https://localhost:8443" || !strings.Contains(log.String(), "next start") {
		t.Errorf("%+v\n%s", got, log)
	}
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// testGateway is a policy file and the state directory it names.
func testGateway(t *testing.T) (file, stateDir string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "gateway.hcl")
	const src = "gateway {\n  state_dir = \"state\"\n  public_url = \"https://localhost:8443\"\n}\n"
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, filepath.Join(dir, "state")
}

// command runs clawpatrol and returns its exit status and all it printed.
func command(t *testing.T, stdin string, args ...string) (code int, output string) {
	t.Helper()
	var out bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &out)
	return code, out.String()
}

const testPassword = "correct horse battery"

// Every type of endpoint that a policy may have is one that the gateway speaks to.
func TestGateway_EveryEndpointTypeIsServed(t *testing.T) {
	p, err := policy.Load("../../gateway.hcl.example", policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	handlers := new(gateway).handlers()
	seen := map[string]bool{}
	for _, e := range p.Endpoints {
		if seen[e.Type] = true; handlers[e.Type] == nil {
			t.Errorf("%s has no handler", e.Ref())
		}
	}
	if len(seen) != len(handlers) {
		t.Errorf("the example has endpoints of %d types, and there are %d handlers", len(seen), len(handlers))
	}
}

// An agent user who can write the policy file has --set-dashboard-password, run
// by root, open a state directory of theirs.
func TestI22_PasswordCommandsCheckThePolicyFile(t *testing.T) {
	for _, args := range [][]string{{"--set-dashboard-password", "-"}, {"--reset-dashboard-password"}} {
		file, state := testGateway(t)
		if err := os.Chmod(file, 0o666); err != nil {
			t.Fatal(err)
		}
		code, out := command(t, testPassword+"\n", append([]string{"gateway"}, append(args, file)...)...)
		if code != 1 || !strings.Contains(out, "has mode 0666") || !strings.Contains(out, "\nhint: chmod go-w ") {
			t.Errorf("%s: exit status %d\n%s", args[0], code, out)
		}
		if _, err := os.Stat(state); err == nil {
			t.Errorf("%s: made a state directory", args[0])
		}
	}
}

func TestGateway_SetDashboardPassword(t *testing.T) {
	file, _ := testGateway(t)
	t.Chdir(filepath.Dir(file)) // a relative file with a relative state_dir
	code, out := command(t, testPassword+"\n", "gateway", "--set-dashboard-password", "-", "gateway.hcl")
	if code != 0 || !strings.Contains(out, "dashboard password set") || strings.Contains(out, testPassword) {
		t.Errorf("exit status %d\n%s", code, out)
	}
	if strings.Contains(out, "guessable") {
		t.Errorf("a good password is called guessable:\n%s", out)
	}
	code, out = command(t, "password1234\n", "gateway", "--set-dashboard-password", "-", "gateway.hcl")
	if code != 0 || !strings.Contains(out, "dashboard password set") || !strings.Contains(out, "warning: the password is guessable") || strings.Contains(out, "password1234") {
		t.Errorf("a guessable password: exit status %d\n%s", code, out)
	}
	code, out = command(t, "short\n", "gateway", "--set-dashboard-password", "-", "gateway.hcl")
	if code != 1 || !strings.Contains(out, "shorter than") {
		t.Errorf("a short password: exit status %d\n%s", code, out)
	}
}

// A flag that does nothing would be taken for one that does.
func TestGateway_KeepApprovalsGoesWithReset(t *testing.T) {
	file, state := testGateway(t)
	code, out := command(t, testPassword+"\n", "gateway", "--keep-approvals", "--set-dashboard-password", "-", file)
	if code != 2 || !strings.Contains(out, "--keep-approvals goes with --reset-dashboard-password") {
		t.Errorf("exit status %d\n%s", code, out)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("it went ahead")
	}
}

// --reset-dashboard-password takes back what an attacker with the password may
// have approved, unless told otherwise.
func TestGateway_ResetWithdrawsApprovals(t *testing.T) {
	for _, keep := range []bool{false, true} {
		file, state := testGateway(t)
		pol, err := policy.Load(file, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		open := func() *registry.DB {
			t.Helper()
			db, err := registry.Open(t.Context(), registry.Config{Dir: state, Subnets: pol.WireGuard.Subnets})
			if err != nil {
				t.Fatal(err)
			}
			return db
		}
		key := secret.New(make([]byte, 32))
		db := open()
		reg, err := db.Enrol(t.Context(), registry.NewRegistration{
			Name: "build-01", PublicKey: [32]byte{1}, MACKey: key, PresharedKey: key, Source: netip.MustParseAddr("192.0.2.1"),
		})
		if err == nil {
			err = errors.Join(
				db.Approve(t.Context(), reg.ID, []string{"ci"}, ""),
				db.SetRootPasswordHash(t.Context(), []byte("a hash"), false),
				db.NewSession(t.Context(), []byte("a hash"), [32]byte{1}, registry.Session{Expires: time.Now().Add(time.Hour)}),
				db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		args, want := []string{"gateway", "--reset-dashboard-password", file}, registry.Pending
		if keep {
			args, want = append(args, "--keep-approvals"), registry.Approved
		}
		code, out := command(t, "", args...)
		match := regexp.MustCompile(`(?m)^set-up code: ([A-Z2-7]{16})$`).FindStringSubmatch(out)
		if code != 0 || match == nil {
			t.Fatalf("exit status %d\n%s", code, out)
		}
		db = open()
		if now, _ := db.Snapshot().ByID(reg.ID); now.State != want {
			t.Errorf("keep %v: the registration is %s", keep, now.State)
		}
		if hash, err := db.RootPasswordHash(t.Context()); err != nil || hash != nil {
			t.Errorf("the password is still set: %v", err)
		}
		if sum, required, err := db.SetupCodeHash(t.Context()); err != nil || !required || sum != sha256.Sum256([]byte(match[1])) {
			t.Errorf("the code is not the one printed: %v", err)
		}
		if db.SessionValid([32]byte{1}) {
			t.Error("the session lives on")
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Behind NAT only public_url tells the gateway's outside address. A name server
// that fails for a moment must not open it to agents.
func TestI09_OwnAddressesOutliveTheirName(t *testing.T) {
	g := &gateway{log: slog.New(slog.DiscardHandler)}
	pol := &policy.Policy{Gateway: policy.Gateway{PublicURL: "https://localhost:8443"}}
	before := g.egressRules(t.Context(), pol).Own
	if len(before) == 0 {
		t.Fatal("localhost does not resolve")
	}
	failing, cancel := context.WithCancel(t.Context())
	cancel()
	pol.Gateway.PublicURL = "https://does-not-resolve.invalid:8443"
	if own := g.egressRules(failing, pol).Own; !slices.Equal(own, before) {
		t.Errorf("while the name does not resolve: %v, before %v", own, before)
	}
}

// A secret follows its credential to whatever hosts the policy now gives it, and
// the operator is told.
func TestGateway_ReloadTellsWhichSecretsMove(t *testing.T) {
	compile := func(src string) *policy.Policy {
		t.Helper()
		pol, diags := policy.Compile("gateway.hcl", []byte("gateway { public_url = \"https://localhost:8443\" }\n"+src), policy.Options{})
		if pol == nil {
			t.Fatal(diags)
		}
		return pol
	}
	const endpoints = `endpoint "https" "a" { hosts = ["a.example.com"] }
endpoint "https" "b" { hosts = ["b.example.com"] }
`
	now := compile(endpoints + `credential "bearer" "stays" { endpoint = https.a }
credential "bearer" "moves" { endpoint = https.a }
credential "bearer" "never_stored" { endpoint = https.a }
credential "bearer" "host_changes" { endpoint = https.b }
`)
	next := compile(strings.Replace(endpoints, "b.example.com", "b.example.net", 1) + `credential "bearer" "stays" { endpoint = https.a }
credential "bearer" "moves" { endpoint = https.b }
credential "bearer" "never_stored" { endpoint = https.b }
credential "bearer" "host_changes" { endpoint = https.b }
credential "bearer" "returns" { endpoint = https.b }
`)
	db, err := registry.Open(t.Context(), registry.Config{Dir: filepath.Join(t.TempDir(), "state"), Subnets: now.WireGuard.Subnets})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, ref := range []string{"bearer.stays", "bearer.moves", "bearer.host_changes", "bearer.returns"} {
		if err := db.SetCredential(t.Context(), ref, map[string]secret.Secret{"secret": secret.New([]byte("tok-4711"))}); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	g := &gateway{db: db, log: slog.New(slog.NewTextHandler(&log, nil))}
	g.tellMoved(t.Context(), now, next)
	for ref, want := range map[string]bool{"stays": false, "moves": true, "never_stored": false, "host_changes": true, "returns": true} {
		if got := strings.Contains(log.String(), "bearer."+ref); got != want {
			t.Errorf("%s is told of: %v, want %v\n%s", ref, got, want, &log)
		}
	}
	if strings.Contains(log.String(), "4711") {
		t.Errorf("the log has the secret:\n%s", &log)
	}
}

func TestI22_TLSFilesAreForTheGateway(t *testing.T) {
	dir := t.TempDir()
	g := policy.Gateway{TLSCertFile: filepath.Join(dir, "cert.pem"), TLSKeyFile: filepath.Join(dir, "key.pem")}
	for _, test := range []struct {
		cert, key os.FileMode
		want      string // empty: accepted
	}{
		{0o644, 0o600, ""},
		{0o644, 0o640, ""},
		{0o666, 0o600, g.TLSCertFile + " has mode 0666"},
		{0o644, 0o620, g.TLSKeyFile + " has mode 0620"},
		{0o644, 0o644, g.TLSKeyFile + " has mode 0644: everyone may read it"},
	} {
		for path, mode := range map[string]os.FileMode{g.TLSCertFile: test.cert, g.TLSKeyFile: test.key} {
			if err := os.WriteFile(path, nil, mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		switch err := checkTLSFiles(g); {
		case test.want == "" && err != nil:
			t.Errorf("%04o, %04o: %v", test.cert, test.key, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || hint(err) == ""):
			t.Errorf("%04o, %04o: %v, hint %q", test.cert, test.key, err, hint(err))
		}
	}
}

// terminal returns both ends of a pseudoterminal.
func terminal(t *testing.T) (operator, program *os.File) {
	t.Helper()
	operator, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = operator.Close() })
	if err := unix.IoctlSetPointerInt(int(operator.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(operator.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return operator, program
}

// At a terminal the password is not shown.
func TestI02_PasswordPromptDoesNotEcho(t *testing.T) {
	operator, program := terminal(t)
	type answer struct {
		password string
		err      error
	}
	got := make(chan answer)
	go func() {
		password, err := readHidden(program, program, "dashboard password: ")
		got <- answer{password, err}
	}()
	var shown []byte
	buf := make([]byte, 256)
	for !strings.Contains(string(shown), "dashboard password: ") {
		n, err := operator.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, buf[:n]...)
	}
	if _, err := operator.WriteString(testPassword + "\n"); err != nil {
		t.Fatal(err)
	}
	if a := <-got; a.err != nil || a.password != testPassword {
		t.Errorf("read %q, %v", a.password, a.err)
	}
	if err := program.Close(); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := operator.Read(buf)
		shown = append(shown, buf[:n]...)
		if err != nil { // EIO: the other end is closed
			break
		}
	}
	if strings.Contains(string(shown), "horse") {
		t.Errorf("the terminal showed %q", shown)
	}
}

func TestI02_MemoryStaysOutOfCoreDumps(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &before); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_CORE, &before); err != nil {
			t.Error(err)
		}
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
	file, state := testGateway(t)
	if err := os.MkdirAll(state, 0o755); err != nil { // which stops the start, but late enough
		t.Fatal(err)
	}
	// The gateway itself: whether it calls what this is about is what matters.
	if _, err := openGateway(t.Context(), file, io.Discard, slog.New(slog.DiscardHandler)); !errors.Is(err, registry.ErrPermissions) {
		t.Fatalf("opening: %v", err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable: %d, %v", dumpable, err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Cur != 0 {
		t.Errorf("limit of core dumps: %+v, %v", limit, err)
	}
}

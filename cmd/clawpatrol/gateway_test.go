package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	code, out = command(t, "short\n", "gateway", "--set-dashboard-password", "-", "gateway.hcl")
	if code != 1 || !strings.Contains(out, "shorter than") {
		t.Errorf("a short password: exit status %d\n%s", code, out)
	}
}

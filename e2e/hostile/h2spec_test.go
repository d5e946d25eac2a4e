package hostile

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// h2specModule is the conformance suite for HTTP/2 servers that is run against
// the gateway, pinned. It is a tool; nothing of it is in go.mod.
const h2specModule = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"

// deviations are the cases of h2spec that the gateway does not pass, with the
// reason why that is right, or net/http's affair and harmless.
var deviations = map[string]string{
	// It sends a head of about 17,900 bytes in one frame and takes 16,384 for the
	// limit, where the server may have announced more. Smaller limits pass it.
	"http2/4.2 Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE": "h2spec does not look at the announced limit",
	// RFC 9113 section 6.5.3 has them processed in order; net/http takes
	// duplicates for an attack and ends the connection. No known peer sends them.
	"http2/6.5.3 Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE": "net/http ends a connection with duplicate settings",
	// RFC 9113 section 8.1.1: "a server MAY send an HTTP response prior to closing
	// or resetting the stream". net/http sends 400, and the request goes nowhere.
	"http2/8.1.2.2 Sends a HEADERS frame that contains the connection-specific header field":                       "a 400 is allowed",
	"http2/8.1.2.2 Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": "a 400 is allowed",
}

func TestHTTP2ConformsByH2spec(t *testing.T) {
	t.Parallel()
	tool := installH2spec(t)
	theTarget.still.Store(&still{header: http.Header{}, body: bytes.Repeat([]byte("x"), 64)})
	report := filepath.Join(t.TempDir(), "report.xml")
	// It says by its exit status that a case failed; which, the report says.
	out, err := ci.Run(t.Context(), tool, "-h", "target.example.com", "-p", "443", "-t", "-k", "-o", "2", "-P", "/still", "-j", report)
	b, rerr := os.ReadFile(report)
	if rerr != nil {
		t.Fatalf("h2spec: %v, %v: %s", err, rerr, tail(out, 2000))
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Package string    `xml:"package,attr"`
				Name    string    `xml:"classname,attr"`
				Error   string    `xml:"error"`
				Failure string    `xml:"failure"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &suites); err != nil {
		t.Fatal(err)
	}
	passed, known := 0, 0
	for _, suite := range suites.Suites {
		for _, c := range suite.Cases {
			name, fault := c.Package+" "+c.Name, c.Error+c.Failure
			switch {
			case c.Skipped != nil:
				t.Errorf("%s: skipped", name)
			case fault == "":
				passed++
			case deviations[name] != "":
				known++
				t.Logf("%s: %s", name, deviations[name])
			default:
				t.Errorf("%s: %s", name, strings.Join(strings.Fields(fault), " "))
			}
		}
	}
	t.Logf("h2spec: %d passed, %d known not to", passed, known)
	if passed < 140 {
		t.Errorf("h2spec ran %d cases that passed, it has 145", passed)
	}
}

// installH2spec builds the tool, from the module cache where that has it, and
// returns its path. Where it cannot the test fails: there is no other referee.
func installH2spec(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "clawpatrol-e2e", strings.ReplaceAll(h2specModule, "/", "_"))
	tool := filepath.Join(dir, "h2spec")
	if _, err := os.Stat(tool); err == nil {
		return onAgentHost(t, tool)
	}
	cmd := exec.CommandContext(t.Context(), "go", "install", h2specModule)
	cmd.Dir = os.TempDir() // outside this module
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("installing h2spec: %v: %s", err, out)
	}
	return onAgentHost(t, tool)
}

// onAgentHost copies a program to where ci's host has it: that host has a /root
// of its own.
func onAgentHost(t *testing.T, tool string) string {
	t.Helper()
	b, err := os.ReadFile(tool)
	if err != nil {
		t.Fatal(err)
	}
	path := "/usr/local/bin/" + filepath.Base(tool)
	if err := ci.WriteFile(path, string(b), 0o755); err != nil {
		t.Fatal(fmt.Errorf("putting %s on the agent host: %w", path, err))
	}
	return path
}

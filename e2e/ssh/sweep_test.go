package ssh

import (
	"html"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// secrets are the texts that nobody may find: the password, and the lines of the
// private key with its secret half.
func (w *world) secrets() []string {
	lines := strings.Split(strings.TrimSpace(w.key), "\n")
	return append([]string{password}, lines[len(lines)-4:len(lines)-1]...)
}

// The last test of the package, by the name of its file: after all the others, no secret is anywhere that
// it does not have to be.
func TestI02_SecretsAreNowhere(t *testing.T) {
	search := "grep -rlaF"
	for _, s := range w.secrets() {
		search += " -e " + lab.Quote(s)
		for what, text := range map[string]string{"the gateway's log": w.gateway.Log.String(), "join's output": w.agent.Output.String() + w.other.Output.String()} {
			if strings.Contains(text, s) {
				t.Errorf("a secret is in %s", what)
			}
		}
		for _, path := range []string{"/api/credentials", "/api/actions?limit=500", "/api/endpoints", "/api/approvals", "/api/recordings", "/api/host-keys", "/credentials"} {
			text, err := w.gateway.Operator.Text(t.Context(), path)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if strings.Contains(html.UnescapeString(text), s) { // pages write + as &#43;
				t.Errorf("a secret is in %s", path)
			}
		}
	}
	for _, place := range []struct {
		host *lab.Host
		dirs string
	}{
		{w.agent.Host, "/var/home /root/.ssh /root/.config /etc /var/lib/clawpatrol-agent /var/log /run"},
		{w.lab.Gateway, "/etc/clawpatrol /var/lib/clawpatrol"},
	} {
		// grep's status says less: 2 also where it found some.
		if out, err := place.host.Run(t.Context(), "sh", "-c", search+" "+place.dirs+" 2>/dev/null || :"); err != nil || out != "" {
			t.Errorf("a secret is on %s: %s%v", place.host.Name, out, err)
		}
	}
	// The search finds what is there.
	if out, err := w.lab.World.Run(t.Context(), "sh", "-c", search+" /root/.ssh || :"); err != nil || !strings.Contains(out, directKey) {
		t.Errorf("the search finds nothing: %q %v", out, err)
	}
	if out, err := w.agent.Run(t.Context(), "find", "/var/home", "/etc/ssh", "-name", "id_*"); err != nil || out != "" {
		t.Errorf("the agent host has keys: %s%v", out, err)
	}
}

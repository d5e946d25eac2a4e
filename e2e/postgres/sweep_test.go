package postgres

import (
	"html"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// secrets are the texts that nobody may find: the passwords, and the lines of the
// private key with its secret half.
func secrets() []string {
	all := strings.Split(strings.TrimSpace(w.key), "\n")[1:3]
	for _, password := range passwords {
		all = append(all, password)
	}
	return all
}

// The last test of the package, by the name of its file: after all the others, no
// secret is anywhere that it does not have to be, nor what SCRAM makes of it.
func TestI02_SecretsAreNowhere(t *testing.T) {
	search := "grep -rlaF"
	for _, s := range secrets() {
		search += " -e " + lab.Quote(s)
		for what, text := range map[string]string{"the gateway's log": w.gateway.Log.String(), "join's output": w.agent.Output.String() + w.other.Output.String()} {
			if strings.Contains(text, s) {
				t.Errorf("a secret is in %s", what)
			}
		}
		for _, path := range []string{"/api/credentials", "/api/actions?limit=500", "/api/endpoints", "/api/approvals", "/credentials", "/actions"} {
			text, err := w.gateway.Operator.Text(t.Context(), path)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if strings.Contains(html.UnescapeString(text), s) { // pages write + as &#43;
				t.Errorf("a secret is in %s", path)
			}
		}
	}
	for _, text := range []string{"SCRAM-SHA-256$", "biws", "c=cD10bHM"} { // a verifier, and what messages of the exchange begin with
		if strings.Contains(w.gateway.Log.String(), text) {
			t.Errorf("%q is in the gateway's log", text)
		}
	}
	for _, place := range []struct {
		host *lab.Host
		dirs string
	}{
		{w.agent.Host, "/var/home /root/.postgresql /root/.config /etc /var/lib/clawpatrol-agent /var/log /run"},
		{w.lab.Gateway, "/etc/clawpatrol /var/lib/clawpatrol"},
	} {
		// grep's status says less: 2 also where it found some.
		if out, err := place.host.Run(t.Context(), "sh", "-c", search+" "+place.dirs+" 2>/dev/null || :"); err != nil || out != "" {
			t.Errorf("a secret is on %s: %s%v", place.host.Name, out, err)
		}
	}
	// The search finds what is there.
	if out, err := w.lab.World.Run(t.Context(), "sh", "-c", search+" "+directPasswords+" || :"); err != nil || !strings.Contains(out, directPasswords) {
		t.Errorf("the search finds nothing: %q %v", out, err)
	}
	if out, err := w.agent.Run(t.Context(), "find", "/var/home", "-name", ".pgpass", "-o", "-path", "*/.postgresql/*"); err != nil || out != "" {
		t.Errorf("the agent host has credentials: %s%v", out, err)
	}
}

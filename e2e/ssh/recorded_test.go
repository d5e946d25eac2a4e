package ssh

import (
	"maps"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// An upstream that prints the password that it was given.
func TestI01_PasswordDoesNotComeBack(t *testing.T) {
	term := newTerminal(t, "ssh "+legacyHost)
	term.wait(`\$ `)
	half := len(password) / 2
	term.press("echo It is " + password[:half] + "''" + password[half:] + ". >/tmp/echoed; cat /tmp/echoed; rm /tmp/echoed; exit\r")
	term.wait("It is [^R]")
	term.end()
	if strings.Contains(term.out.String(), password) {
		t.Errorf("the agent has read the password:\n%s", term.out)
	}
}

// Sessions of legacy are recorded, for operators to read and replay.
func TestSSH_SessionsAreRecorded(t *testing.T) {
	w.works(t, "ssh "+legacyHost+" 'echo said-in-a-command; exit 0' </dev/null")
	newTerminal(t, "ssh -t "+legacyHost+" 'echo said-at-a-terminal'").end()
	w.works(t, "ssh "+buildHost+" 'echo said-to-build' </dev/null") // not recorded
	var list struct {
		Items []struct{ ID, Registration, Endpoint, User, Host, Command, Format string }
	}
	must(t, w.gateway.Operator.Do(t.Context(), "GET", "/api/recordings", nil, &list))
	formats := make(map[string]string) // by command
	for _, r := range list.Items {
		if r.Registration != w.agent.Registration || r.Endpoint != "ssh.legacy" || r.User != lab.SSHAccount || r.Host != legacyHost {
			t.Errorf("%+v", r)
		}
		text, err := w.gateway.Operator.Text(t.Context(), "/api/recordings/"+r.ID)
		must(t, err)
		page, err := w.gateway.Operator.Text(t.Context(), "/recordings/"+r.ID)
		must(t, err)
		if said := strings.TrimPrefix(strings.TrimSuffix(r.Command, "; exit 0"), "echo "); strings.HasPrefix(said, "said-") {
			formats[said] = r.Format
			if strings.Count(text, said) != 2 || !strings.Contains(page, said) { // the command, and what it said
				t.Errorf("%s\n%s", text, page)
			}
		}
	}
	if want := map[string]string{"said-in-a-command": "transcript", "said-at-a-terminal": "asciicast"}; !maps.Equal(formats, want) {
		t.Errorf("recorded %v, want %v", formats, want)
	}
	if out, err := w.lab.Gateway.Run(t.Context(), "find", "/var/lib/clawpatrol/recordings", "-perm", "/077"); err != nil || out != "" {
		t.Errorf("others may read %s%v", out, err)
	}
}

package run

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// Plain ssh works in a run, without a prompt and without a key: the gateway's
// host key is known there, and nowhere outside.
func TestRun_SSHKnowsTheGateway(t *testing.T) {
	public, private, err := lab.SSHKey()
	if err != nil {
		t.Fatal(err)
	}
	sshd, err := theLab.StartSSHD(t.Context(), lab.SSHDConfig{Name: "build.example.com", Offset: 40, Authorized: public})
	if err != nil {
		t.Fatal(err)
	}
	defer sshd.Stop()
	withSSH := strings.Replace(policyText, "[bearer.api_token]", "[bearer.api_token, ssh_key.deploy]", 1) + fmt.Sprintf(`
endpoint "ssh" "build" {
  hosts     = ["build.example.com"]
  host_keys = [%q]
}
credential "ssh_key" "deploy" {
  endpoint = ssh.build
  user     = %q
}
`, sshd.HostKey, lab.SSHAccount)
	replace := func(policy string) {
		t.Helper()
		if reloaded, err := gateway.ReplacePolicy(t.Context(), policy); err != nil || !reloaded {
			t.Fatalf("replacing the policy: %v, %v", reloaded, err)
		}
	}
	replace(withSSH)
	defer replace(policyText)
	if err := gateway.Operator.Do(t.Context(), "PUT", "/api/credentials/ssh_key/deploy", map[string]any{"slots": map[string]string{"private_key": private}}, nil); err != nil {
		t.Fatal(err)
	}
	r := inside(t, "ssh build.example.com 'echo ran as $(whoami)' </dev/null && ls -A ~/.ssh 2>/dev/null; ls /etc/ssh/ssh_config && (echo x >>/etc/ssh/ssh_known_hosts) 2>/dev/null || echo not to be written").ok(t)
	if r.out != "ran as "+lab.SSHAccount+"\n/etc/ssh/ssh_config\nnot to be written\n" {
		t.Errorf("it printed %q, %q", r.out, r.errs)
	}
	if out, err := host.Run(t.Context(), "sh", "-c", "cat /etc/ssh/ssh_known_hosts 2>&1; true"); err != nil || strings.Contains(out, "clawpatrol") {
		t.Errorf("outside: %q, %v", out, err)
	}
	// What reads no authority's line: the exact one comes with a poll.
	known := `while ! grep -q '^build.example.com ssh-ed25519 ' "$CLAWPATROL_SSH_KNOWN_HOSTS"; do sleep 0.1; done; echo known`
	if err := lab.Eventually(t.Context(), 90*time.Second, func() error {
		if r := inside(t, "timeout 60 sh -c "+lab.Quote(known)); r.out != "known\n" {
			return fmt.Errorf("%q, %q", r.out, r.errs)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if r := inside(t, "cat /etc/ssh/ssh_known_hosts").ok(t); !strings.Contains(r.out, "\nbuild.example.com ssh-ed25519 ") || !strings.Contains(r.out, "\n@cert-authority * ssh-ed25519 ") {
		t.Errorf("it has %q", r.out)
	}
}

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// What an operator gets wrong is told in one clear sentence and a hint, with
// exit status 1.
func TestFaults_GatewayStart(t *testing.T) {
	t.Parallel() // it changes nothing in the shared world
	h := theLab.Gateway
	const good = `
gateway {
  state_dir  = "/root/faults/state"
  listen     = ":9443"
  public_url = "https://gw.example.net:9443"
  dashboard { listen = "127.0.0.1:9080" }
}
wireguard { listen = ":51999" }
`
	// A first start makes a state directory that the cases then damage.
	if err := h.Script(t.Context(), "rm -rf /root/faults && mkdir -p /root/faults"); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteFile("/root/faults/good.hcl", good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Script(t.Context(), "printf 'a long enough password\n' | "+theLab.Bin+" gateway --set-dashboard-password - /root/faults/good.hcl && cp -a /root/faults/state /root/faults/pristine"); err != nil {
		t.Fatal(err)
	}
	const restore = "rm -rf /root/faults/state && cp -a /root/faults/pristine /root/faults/state && "
	// The CA is made at the first full start.
	out, err := h.Run(t.Context(), "sh", "-c", "timeout --preserve-status -s TERM 3 "+theLab.Bin+" gateway /root/faults/good.hcl; echo exit $?")
	if err != nil || !strings.Contains(out, "exit 0") || !strings.Contains(out, "clawpatrol join https://gw.example.net:9443 --ca-fingerprint sha256:") {
		t.Fatalf("a good start, ended by SIGTERM: %v\n%s", err, out)
	}
	if err := h.Script(t.Context(), "rm -rf /root/faults/pristine && cp -a /root/faults/state /root/faults/pristine"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, prepare, old, new, want string
	}{
		{"public port taken", "true", ":9443\"\n", ":8443\"\n", "in use"},
		{"dashboard port taken", "true", ":9080", ":8080", "in use"},
		{"WireGuard port taken", "true", ":51999", ":51820", "51820"},
		{"state_dir readable by others", "chmod 755 /root/faults/state", "", "", "state"},
		{"state_dir of another user", "chown 65534 /root/faults/state", "", "", "own"},
		{"database newer than the binary", "sqlite3 /root/faults/state/clawpatrol.db 'PRAGMA user_version=9999'", "", "", "newer"},
		{"damaged CA file", "echo nonsense >/root/faults/state/ca/ca.crt", "", "", "ca.crt"},
		{"missing CA key", "rm /root/faults/state/ca/ca.key", "", "", "ca.key"},
		{"lost master key", "rm /root/faults/state/master.key", "", "", "master.key"},
		{"another master key", "head -c 32 /dev/urandom >/root/faults/state/master.key", "", "", "master"},
		{"damaged database", "head -c 4096 /dev/urandom >/root/faults/state/clawpatrol.db", "", "", "database"},
		{"unknown attribute", "true", "state_dir ", "stat_dir ", "stat_dir"},
		{"policy file writable by all", "true; MODE=666", "", "", "0666"},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy := strings.Replace(good, c.old, c.new, 1)
			if err := h.WriteFile("/root/faults/case.hcl", policy, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := h.Run(t.Context(), "sh", "-c", restore+"MODE=600; "+c.prepare+"; chmod $MODE /root/faults/case.hcl; timeout 10 "+theLab.Bin+" gateway /root/faults/case.hcl 2>&1; echo exit $?")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out, "exit 1\n") || !strings.Contains(out, "clawpatrol: ") || !strings.Contains(out, c.want) {
				t.Errorf("want exit 1 and a message with %q:\n%s", c.want, out)
			}
			if !strings.Contains(out, "\nhint: ") && !strings.Contains(out, "did you mean") && !strings.Contains(out, "Did you mean") {
				t.Errorf("no hint:\n%s", out)
			}
			if strings.Contains(out, "goroutine ") {
				t.Errorf("a stack trace:\n%s", out)
			}
		})
	}
}

func TestFaults_Join(t *testing.T) {
	h := theLab.Agents[1]
	url := "https://" + lab.GatewayHost + ":8443"
	for name, c := range map[string]struct{ args, want string }{
		"gateway unreachable":   {"https://" + lab.GatewayHost + ":9 --ca-fingerprint " + gateway.CAFingerprint, "hint:"},
		"name does not resolve": {"https://no-such-name.example.net:8443 --ca-fingerprint " + gateway.CAFingerprint, "hint:"},
		"wrong fingerprint":     {url + " --ca-fingerprint sha256:" + strings.Repeat("00", 32), "fingerprint"},
		"not a fingerprint":     {url + " --ca-fingerprint sha256:xyz", "fingerprint"},
		"no fingerprint":        {url, "hint:"},
		"not an https URL":      {"http://" + lab.GatewayHost + ":8443 --ca-fingerprint " + gateway.CAFingerprint, "https"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := h.Run(t.Context(), "sh", "-c", fmt.Sprintf("timeout 30 %s join --state /root/faulty %s 2>&1; echo exit $?", theLab.Bin, c.args))
			if err != nil {
				t.Fatal(err)
			}
			if (!strings.Contains(out, "exit 1\n") && !strings.Contains(out, "exit 2\n")) || !strings.Contains(out, "clawpatrol: ") || !strings.Contains(out, c.want) {
				t.Errorf("want a failure with %q:\n%s", c.want, out)
			}
		})
	}
}

package policy_test

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/policy"
)

// Every setting of an endpoint of type "ssh" counts in its fingerprint, and the
// jump's in those of what lies behind it.
func TestFingerprintsOfSSH(t *testing.T) {
	dir := t.TempDir()
	key := func() string {
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(newSSHPublicKey(t))))
	}
	one, two := key(), key()
	write(t, filepath.Join(dir, "one"), "a.example.com "+one+"\n")
	write(t, filepath.Join(dir, "two"), "a.example.com "+two+"\n")
	base := `
gateway { public_url = "https://gw.example.com:8443" }
endpoint "ssh" "a" {
  hosts            = ["a.example.com"]
  host_keys        = ["` + one + `"]
  host_ca          = ["` + one + `"]
  known_hosts_file = "one"
  env              = ["LANG"]
  forward          = ["db.internal:1"]
  jump             = ssh.b
}
endpoint "ssh" "b" {
  hosts     = ["b.example.com"]
  host_keys = "approve"
}
credential "ssh_key" "x" {
  endpoint = ssh.a
  user     = "u"
}
`
	prints := func(src string) string {
		t.Helper()
		p, diags := policy.Compile(filepath.Join(dir, "gateway.hcl"), []byte(src), policy.Options{})
		if diags.HasErrors() {
			t.Fatal(policy.NewDiagnosticsError(diags, []byte(src)))
		}
		return p.Endpoint("ssh.a").Fingerprint + " " + p.Endpoint("ssh.b").Fingerprint + " " + p.Credential("ssh_key.x").Fingerprint
	}
	before := prints(base)
	if prints(base) != before {
		t.Error("the same policy has other fingerprints")
	}
	// Which of a, b and x change.
	for _, change := range []struct{ old, new, changes string }{
		{`host_keys        = ["` + one, `host_keys = ["` + two, "yes no no"},
		{`host_ca          = ["` + one, `host_ca = ["` + two, "yes no no"},
		{`"one"`, `"two"`, "yes no no"},
		{`["LANG"]`, `[]`, "yes no no"},
		{`internal:1`, `internal:2`, "yes no no"},
		{`jump             = ssh.b`, ``, "yes no no"},
		{`jump `, "record = true\njump ", "yes no no"},
		{`b.example.com`, `c.example.com`, "yes yes no"},
		{`"u"`, `"v"`, "no no yes"},
		{`user     = "u"`, `users = ["u"]`, "no no yes"},
	} {
		src := strings.Replace(base, change.old, change.new, 1)
		if src == base {
			t.Fatalf("%q is not in the policy", change.old)
		}
		was, is := strings.Fields(before), strings.Fields(prints(src))
		var got []string
		for i := range was {
			got = append(got, map[bool]string{true: "no", false: "yes"}[was[i] == is[i]])
		}
		if strings.Join(got, " ") != change.changes {
			t.Errorf("%q for %q changes %v, want %s", change.new, change.old, got, change.changes)
		}
	}
	write(t, filepath.Join(dir, "one"), "a.example.com "+two+"\n")
	if prints(base) == before {
		t.Error("other contents of known_hosts_file: the fingerprint stayed")
	}
}

func newSSHPublicKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	key, err := ssh.NewPublicKey(newEd25519(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sshEndpoint returns an endpoint with these settings beside what it needs.
func sshEndpoint(settings string) string {
	return "endpoint \"ssh\" \"a\" {\n hosts = [\"a.example.com\"]\n host_keys = \"approve\"\n" + settings + "\n}\n"
}

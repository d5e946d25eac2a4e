package policy_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
)

// Every setting of an endpoint of type "postgres", and of its credentials, counts
// in the fingerprint.
func TestFingerprintsOfPostgres(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "one.pem"), certificate(t, 1))
	write(t, filepath.Join(dir, "two.pem"), certificate(t, 2))
	const base = `
gateway { public_url = "https://gw.example.com:8443" }
endpoint "postgres" "a" {
  hosts   = ["a.example.com"]
  ca_file = "one.pem"
}
endpoint "postgres" "b" {
  hosts   = ["b.example.com"]
  address = "127.0.0.1:5432"
}
credential "postgres" "x" {
  endpoint  = postgres.a
  user      = "u"
  databases = ["d", "e"]
}
`
	prints := func(src string) string {
		t.Helper()
		p, diags := policy.Compile(filepath.Join(dir, "gateway.hcl"), []byte(src), policy.Options{})
		if diags.HasErrors() {
			t.Fatal(policy.NewDiagnosticsError(diags, []byte(src)))
		}
		return p.Endpoint("postgres.a").Fingerprint + " " + p.Endpoint("postgres.b").Fingerprint + " " + p.Credential("postgres.x").Fingerprint
	}
	before := prints(base)
	if prints(base) != before {
		t.Error("the same policy has other fingerprints")
	}
	// Which of a, b and x change.
	for _, change := range []struct{ old, new, changes string }{
		{`"one.pem"`, `"two.pem"`, "yes no no"},
		{`"one.pem"`, "\"one.pem\"\ntls = \"verify-full\"\noptions = []\nreplication = false\nlog_literals = false", "no no no"},
		{`"one.pem"`, "\"one.pem\"\noptions = [\"search_path\"]", "yes no no"},
		{`"one.pem"`, "\"one.pem\"\nreplication = true", "yes no no"},
		{`"one.pem"`, "\"one.pem\"\nlog_literals = true", "yes no no"},
		{`"127.0.0.1:5432"`, "\"127.0.0.1:5432\"\ntls = \"disable\"", "no yes no"},
		{`"u"`, `"v"`, "no no yes"},
		{`["d", "e"]`, `["e", "d"]`, "no no yes"},
		{`["d", "e"]`, "[\"d\", \"e\"]\nmismatch = \"map\"", "no no yes"},
		{`["d", "e"]`, "[\"d\", \"e\"]\nmismatch = \"refuse\"\nread_only = false", "no no no"},
		{`["d", "e"]`, "[\"d\", \"e\"]\nread_only = true", "no no yes"},
	} {
		src := strings.Replace(base, change.old, change.new, 1)
		was, is := strings.Fields(before), strings.Fields(prints(src))
		var got []string
		for i := range was {
			got = append(got, map[bool]string{true: "no", false: "yes"}[was[i] == is[i]])
		}
		if strings.Join(got, " ") != change.changes {
			t.Errorf("%q for %q changes %v, want %s", change.new, change.old, got, change.changes)
		}
	}
}

// postgresEndpoint returns an endpoint with these settings beside what it needs.
func postgresEndpoint(settings string) string {
	return "endpoint \"postgres\" \"a\" {\n hosts = [\"a.example.com\"]\n" + settings + "\n}\n"
}

// numbered returns n entries of a list of strings.
func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%q,", fmt.Sprintf(format, i))
	}
	return b.String()
}

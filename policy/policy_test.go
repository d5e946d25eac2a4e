package policy_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/secret"
)

// The example is complete, valid, and loads from whatever directory it is
// copied to.
func TestExampleLoads(t *testing.T) {
	src, err := os.ReadFile("../gateway.hcl.example")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "gateway.hcl")
	write(t, path, string(src))
	for _, file := range []string{"../gateway.hcl.example", path} {
		p, err := policy.Load(file, policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Endpoints) == 0 || len(p.Credentials) == 0 || len(p.Profiles) == 0 || len(p.Egress.Allow) == 0 || len(p.DNS.Upstream) == 0 {
			t.Errorf("%s leaves something out:\n%s", file, dump(p))
		}
		if got := p.DefaultProfiles(); !slices.Equal(got, []string{"ci"}) {
			t.Errorf("DefaultProfiles() = %q", got)
		}
	}
}

func TestLookups(t *testing.T) {
	p := compile(t, scopePolicy)
	if e := p.Endpoint("https.wild"); e == nil || e.Name != "wild" {
		t.Errorf("Endpoint: %+v", e)
	}
	if c := p.Credential("header.wide"); c == nil || c.Name != "wide" || len(c.Slots()) != 1 || c.Slots()[0] != (policy.Slot{Name: "secret"}) {
		t.Errorf("Credential: %+v", c)
	}
	if pr := p.Profile("none"); pr == nil || pr.Name != "none" {
		t.Errorf("Profile: %+v", pr)
	}
	if p.Endpoint("https.no") != nil || p.Credential("bearer.wide") != nil || p.Profile("no") != nil {
		t.Error("found what is not there")
	}
	if (&policy.Credential{Type: "unheard-of"}).Slots() != nil {
		t.Error("slots of an unknown type")
	}
}

// A policy that does not compile changes nothing: there is no policy, the old
// one stands untouched, and the error names file, line and fix.
func TestI18_BrokenPolicyChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.hcl")
	good := "gateway { public_url = \"https://gw.example.com:8443\" }\n" + scopePolicy
	write(t, path, good)
	old, err := policy.Load(path, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	before, scope := dump(old), old.Scope([]string{"exact"})

	for _, broken := range []struct{ change, into, line, fix string }{
		{`profile "exact"`, `profil "exact"`, ":18:1:", "Did you mean profile?"},
		{`endpoint = https.exact`, `endpoint = https.exakt`, ":7:14:", "Did you mean https.exact?"},
		{`wildcard = true`, `wildcard = "true"`, ":14:14:", "without quotes"},
		{`header   = "X-Key"`, `headr    = "X-Key"`, ":13:3:", "Did you mean header?"},
	} {
		bad := strings.Replace(good, broken.change, broken.into, 1)
		if bad == good {
			t.Fatalf("%q is not in the policy", broken.change)
		}
		write(t, path, bad)
		p, err := policy.Load(path, policy.Options{})
		var invalid *policy.DiagnosticsError
		if p != nil || !errors.As(err, &invalid) {
			t.Fatalf("%s: loaded: %v", broken.into, err)
		}
		text := err.Error()
		line, _, _ := strings.Cut(broken.into, " ")
		for _, want := range []string{path + broken.line, line, "^", broken.fix} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is not in\n%s", broken.into, want, text)
			}
		}
	}
	if dump(old) != before {
		t.Error("the old policy changed")
	}
	if got := found(scope.Match("api.example.com", 443)); got != "https.exact@api.example.com:443 [bearer.exact]" {
		t.Error(got)
	}
}

func TestLoadRefusesWhatIsNoPolicyFile(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.hcl")
	write(t, large, strings.Repeat("#", policy.MaxFile+1))
	for path, want := range map[string]string{
		filepath.Join(dir, "missing.hcl"): "no such file",
		dir:                               "not a regular file",
		"/dev/zero":                       "not a regular file",
		large:                             "more than 1048576 bytes",
	} {
		p, err := policy.Load(path, policy.Options{})
		if p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for src, want := range map[string]string{
		strings.Repeat("#", policy.MaxFile+1): "File too large",
		"gateway {\xff}":                      "Not a text file",
	} {
		p, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{})
		if p != nil || len(diags) != 1 || diags[0].Summary != want {
			t.Errorf("want %q: %v", want, diags)
		}
	}
}

// Files made to exhaust a parser: each is answered, with an error, and with a
// bounded number of them.
func TestI16_HostileFileIsRefused(t *testing.T) {
	// As much as fits of what recursion could choke on; of what only takes long,
	// enough to notice if the time is not linear.
	fill := func(unit string) string { return strings.Repeat(unit, (policy.MaxFile-200)/len(unit)) }
	some := func(unit string) string { return strings.Repeat(unit, policy.MaxFile/8/len(unit)) }
	for name, src := range map[string]string{
		"brackets":      "a = " + fill("["),
		"comments":      fill("/*"),
		"braces":        fill("a {"),
		"parentheses":   "a = " + fill("("),
		"negations":     "a = " + fill("!"),
		"minuses":       "a = " + fill("-"),
		"conditions":    "a = " + fill("b?c:"),
		"sums":          "a = 1" + fill("+1"),
		"indexes":       "a = b" + some("[c]"),
		"attributes":    "a = b" + some(".c"),
		"splats":        "a = b" + fill(".*"),
		"interpolation": `a = "` + fill("${"),
		"quotes":        "a = " + some(`"`),
		"heredoc":       "a = <<X\n" + some("x\n"),
		"digits":        "a = " + some("9"),
		"exponent":      "a = 1e999999999",
		"labels":        "a " + some(`"b" `) + "{}",
		"blocks":        some("a {}\n"),
		"gateways":      some("gateway {}\n"),
		"settings":      "dns { upstream = [" + some("x,") + "] }",
		"strings":       `dns { upstream = [` + some(`"x",`) + "] }",
		"not text":      some("\xff\xfe"),
		"long name":     "a" + some("b") + " = 1",
		"long label":    `profile "` + some("b") + `" {}`,
		"long host":     `endpoint "https" "a" { hosts = ["` + some("é") + `"] }`,
	} {
		t.Run(name, func(t *testing.T) {
			p, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{})
			if p != nil || !diags.HasErrors() {
				t.Fatal("compiled")
			}
			if text := policy.NewDiagnosticsError(diags, []byte(src)).Error(); len(diags) > 100 || len(text) > 100<<10 {
				t.Errorf("%d diagnostics, %d bytes", len(diags), len(text))
			}
		})
	}
}

// Each limit of docs/configuration.md: as much as it allows compiles, one more
// does not.
func TestLimits(t *testing.T) {
	label := strings.Repeat("a", 63) + "."
	var hosts []string
	for i := range 1025 {
		hosts = append(hosts, fmt.Sprintf(`"h%d.example.com"`, i))
	}
	credential := func(typ, name, settings string) string {
		return "endpoint \"https\" \"a\" { hosts = [\"a.example.com\"] }\n" +
			fmt.Sprintf("credential %q %q {\n endpoint = https.a\n%s\n}\n", typ, name, settings)
	}
	for name, limit := range map[string]struct {
		most   int
		policy func(n int) string
	}{
		"name": {64, func(n int) string { return credential("bearer", strings.Repeat("n", n), "") }},
		"host": {253, func(n int) string {
			return fmt.Sprintf(`endpoint "https" "a" { hosts = ["%s"] }`, (label + label + label + label)[255-n:255])
		}},
		"label": {63, func(n int) string {
			return fmt.Sprintf(`endpoint "https" "a" { hosts = ["%s.example.com"] }`, strings.Repeat("a", n))
		}},
		"hosts": {1024, func(n int) string {
			return fmt.Sprintf(`endpoint "https" "a" { hosts = [%s] }`, strings.Join(hosts[:n], ","))
		}},
		"resolvers": {8, func(n int) string {
			return fmt.Sprintf(`dns { upstream = [%s] }`, strings.Join([]string{`"1.1.1.1"`, `"1.1.1.2"`, `"1.1.1.3"`, `"1.1.1.4"`, `"1.1.1.5"`, `"1.1.1.6"`, `"1.1.1.7"`, `"1.1.1.8"`, `"1.1.1.9"`}[:n], ","))
		}},
		"placeholder": {256, func(n int) string {
			return credential("bearer", "x", fmt.Sprintf("placeholder = %q", strings.Repeat("p", n)))
		}},
		"username": {256, func(n int) string {
			return credential("basic", "x", fmt.Sprintf("username = %q", strings.Repeat("u", n)))
		}},
		"header": {128, func(n int) string {
			return credential("header", "x", fmt.Sprintf("header = %q", strings.Repeat("h", n)))
		}},
		"env": {128, func(n int) string { return credential("bearer", "x", fmt.Sprintf("env = %q", strings.Repeat("E", n))) }},
		"host_keys": {64, func(n int) string {
			var keys []string
			for range n {
				keys = append(keys, fmt.Sprintf("%q", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(newSSHPublicKey(t))))))
			}
			return "endpoint \"ssh\" \"a\" {\n hosts = [\"a.example.com\"]\n host_keys = [" + strings.Join(keys, ",") + "]\n}\n"
		}},
		"ssh env": {64, func(n int) string {
			return sshEndpoint("env = [" + strings.Repeat(`"X",`, n) + "]")
		}},
		"ssh forward": {256, func(n int) string {
			return sshEndpoint("forward = [" + strings.Repeat(`"db:1",`, n) + "]")
		}},
		"ssh users": {64, func(n int) string {
			return sshEndpoint("") + "credential \"ssh_key\" \"x\" {\n endpoint = ssh.a\n users = [" + numbered("u%d", n) + "]\n}\n"
		}},
		"ssh user": {256, func(n int) string {
			return sshEndpoint("") + fmt.Sprintf("credential \"ssh_key\" \"x\" {\n endpoint = ssh.a\n user = %q\n}\n", strings.Repeat("u", n))
		}},
		"postgres options": {64, func(n int) string {
			return postgresEndpoint("options = [" + numbered("o%d", n) + "]")
		}},
		"postgres parameter": {128, func(n int) string {
			return postgresEndpoint(fmt.Sprintf("options = [%q]", strings.Repeat("p", n)))
		}},
		"databases": {64, func(n int) string {
			return postgresEndpoint("") + "credential \"postgres\" \"x\" {\n endpoint = postgres.a\n user = \"u\"\n databases = [" + numbered("d%d", n) + "]\n}\n"
		}},
		"database": {256, func(n int) string {
			return postgresEndpoint("") + fmt.Sprintf("credential \"postgres\" \"x\" {\n endpoint = postgres.a\n user = \"u\"\n databases = [%q]\n}\n", strings.Repeat("d", n))
		}},
		"postgres user": {256, func(n int) string {
			return postgresEndpoint("") + fmt.Sprintf("credential \"postgres\" \"x\" {\n endpoint = postgres.a\n user = %q\n databases = [\"d\"]\n}\n", strings.Repeat("u", n))
		}},
		"jumps": {4, func(n int) string {
			src := sshEndpoint("jump = ssh.j1")
			for i := 1; i <= n; i++ {
				jump := ""
				if i < n {
					jump = fmt.Sprintf("jump = ssh.j%d", i+1)
				}
				src += fmt.Sprintf("endpoint \"ssh\" \"j%d\" {\n hosts = [\"j%d.example.com\"]\n host_keys = \"approve\"\n%s\n}\n", i, i, jump)
			}
			return src
		}},
		"known_hosts_file": {1 << 20, func(n int) string {
			path := filepath.Join(t.TempDir(), "known_hosts")
			line := strings.Repeat("#", 1023) + "\n"
			write(t, path, (strings.Repeat(line, n/len(line)) + "#")[:n])
			return fmt.Sprintf("endpoint \"ssh\" \"a\" {\n hosts = [\"a.example.com\"]\n host_keys = \"approve\"\n known_hosts_file = %q\n}\n", path)
		}},
		"ca_file": {1 << 20, func(n int) string {
			pem := certificate(t, 1)
			path := filepath.Join(t.TempDir(), "ca.pem")
			write(t, path, pem+strings.Repeat("#", n-len(pem)))
			return fmt.Sprintf("endpoint \"https\" \"a\" {\n hosts = [\"a.example.com\"]\n ca_file = %q\n}\n", path)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			compile(t, limit.policy(limit.most))
			src := "gateway { public_url = \"https://gw.example.com:8443\" }\n" + limit.policy(limit.most+1)
			if p, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{}); p != nil || len(diags) != 1 {
				t.Errorf("one more than %d: %v", limit.most, diags)
			}
		})
	}
}

// What an operator pasted in the wrong place is not repeated in the error,
// which ends up in a log.
func TestI02_ErrorDoesNotShowAMisplacedSecret(t *testing.T) {
	src := `gateway { public_url = "https://gw.example.com:8443" }
endpoint "https" "a" { hosts = ["a.example.com"] }
credential "bearer" "a" {
  endpoint = https.a
  secret   = "hunter2hunter2"
}
credential "bearer" "b" {
  endpoint = https.a
  bogus = "hunter2hunter2"
}
`
	_, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{})
	text := policy.NewDiagnosticsError(diags, []byte(src)).Error()
	if len(diags) != 2 || strings.Contains(text, "hunter2") || !strings.Contains(text, "Secrets never stand in this file") {
		t.Error(text)
	}
}

// No attribute of this version is a place for a secret, so none is ever asked
// for.
func TestSecretReferenceIsNotResolved(t *testing.T) {
	src := `gateway { public_url = "https://{{secret:HOST}}" }`
	p, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{Secret: func(string) secret.Secret {
		t.Error("the secret was read")
		return secret.New([]byte("gw.example.com"))
	}})
	if p != nil || len(diags) != 1 || diags[0].Summary != "Secret not allowed here" {
		t.Error(diags)
	}
}

func TestFingerprints(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "one.pem"), certificate(t, 1))
	write(t, filepath.Join(dir, "two.pem"), certificate(t, 2))
	const base = `
gateway { public_url = "https://gw.example.com:8443" }
endpoint "https" "a" {
  hosts   = ["a.example.com"]
  ca_file = "one.pem"
}
endpoint "https" "b" { hosts = ["b.example.com"] }
credential "header" "x" {
  endpoint    = https.a
  header      = "X-Key"
}
credential "basic" "y" {
  endpoint = https.b
  username = "u"
}
`
	load := func(src string) *policy.Policy {
		t.Helper()
		p, diags := policy.Compile(filepath.Join(dir, "gateway.hcl"), []byte(src), policy.Options{})
		if diags.HasErrors() {
			t.Fatal(policy.NewDiagnosticsError(diags, []byte(src)))
		}
		return p
	}
	prints := func(p *policy.Policy) map[string]string {
		m := map[string]string{}
		for _, e := range p.Endpoints {
			m["endpoint "+e.Name] = e.Fingerprint
		}
		for _, c := range p.Credentials {
			m["credential "+c.Name] = c.Fingerprint
		}
		return m
	}
	before := prints(load(base))
	if p := load(base); p.Endpoint("https.a").RootCAs == nil || p.Endpoint("https.b").RootCAs != nil || !slices.Equal(p.Files(), []string{filepath.Join(dir, "one.pem")}) {
		t.Errorf("ca_file: %s", dump(p))
	}
	for _, change := range []struct{ old, new, changes string }{
		{"# nothing", "", ""},
		{`"a.example.com"`, `"a.example.com:443"`, ""},
		{`"X-Key"`, `"x-key"`, ""},
		{`hosts   = ["a.example.com"]`, `hosts = ["a.example.com", "c.example.com"]`, "endpoint a"},
		{`hosts   = ["a.example.com"]`, `hosts = ["a.example.com:8443"]`, "endpoint a"},
		{`endpoint "https" "b" { hosts = ["b.example.com"] }`, "endpoint \"https\" \"b\" {\nhosts = [\"b.example.com\"]\naddress = \"192.0.2.7:443\"\n}", "endpoint b"},
		{`endpoint "https" "b" { hosts = ["b.example.com"] }`, "endpoint \"https\" \"b\" {\nhosts = [\"b.example.com\"]\ncookies = \"pass\"\n}", "endpoint b"},
		{`endpoint "https" "b" { hosts = ["b.example.com"] }`, "endpoint \"https\" \"b\" {\nhosts = [\"b.example.com\"]\ncookies = \"strip\"\n}", ""},
		{`ca_file = "one.pem"`, ``, "endpoint a"},
		{`ca_file = "one.pem"`, `ca_file = "two.pem"`, "endpoint a"},
		{`"X-Key"`, `"X-Other"`, "credential x"},
		{`"X-Key"`, "\"X-Key\"\nwildcard = true", "credential x"},
		{`"X-Key"`, "\"X-Key\"\nenv = \"TOKEN\"", "credential x"},
		{`"X-Key"`, "\"X-Key\"\nplaceholder = \"p\"", "credential x"},
		{`endpoint    = https.a`, `endpoint = https.b`, "credential x"},
		{`username = "u"`, `username = "v"`, "credential y"},
	} {
		after := prints(load(strings.Replace(base, change.old, change.new, 1)))
		var changed []string
		for name := range before {
			if before[name] != after[name] {
				changed = append(changed, name)
			}
		}
		if got := strings.Join(changed, ","); got != change.changes {
			t.Errorf("%q for %q changes %q, want %q", change.new, change.old, got, change.changes)
		}
	}

	// The contents of ca_file count, not only its name.
	write(t, filepath.Join(dir, "one.pem"), certificate(t, 3))
	if after := prints(load(base)); after["endpoint a"] == before["endpoint a"] {
		t.Error("another certificate under the same name: the fingerprint stayed")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate returns a self-signed certificate in PEM.
func certificate(t testing.TB, serial int64) string {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{CommonName: fmt.Sprint("test CA ", serial)},
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

package policy_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/policy"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// TestCompile loads the gateway.hcl of every archive and compares what comes
// out, diagnostics or policy, with the archive's "want".
func TestCompile(t *testing.T) {
	here, err := filepath.Abs("testdata/compile")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(here, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			for _, f := range ar.Files {
				if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "gateway.hcl")
			if strings.Contains(string(ar.Comment), "by its relative name") {
				t.Chdir(dir)
				path = "gateway.hcl"
			}
			got := outcome(t, path)
			got = strings.ReplaceAll(got, dir, "$DIR")
			for i, f := range ar.Files {
				if f.Name != "want" {
					continue
				}
				if *update {
					ar.Files[i].Data = []byte(got)
					if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
						t.Fatal(err)
					}
				} else if got != string(f.Data) {
					t.Errorf("got:\n%s\nwant:\n%s", got, f.Data)
				}
				return
			}
			t.Fatal("the archive has no file want")
		})
	}
}

// outcome returns a policy's dump, or its diagnostics.
func outcome(t *testing.T, path string) string {
	t.Helper()
	p, err := policy.Load(path, policy.Options{})
	if err == nil {
		return dump(p)
	}
	if p != nil {
		t.Error("a policy was returned beside an error")
	}
	var invalid *policy.DiagnosticsError
	if !errors.As(err, &invalid) {
		t.Fatalf("not a DiagnosticsError: %v", err)
	}
	return invalid.Error() + "\n"
}

// dump prints all that a Policy says.
func dump(p *policy.Policy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "gateway %+v\n", p.Gateway)
	fmt.Fprintf(&b, "public host %s\n", p.Gateway.PublicHost())
	fmt.Fprintf(&b, "wireguard %+v\n", p.WireGuard)
	fmt.Fprintf(&b, "dns %v\n", p.DNS.Upstream)
	fmt.Fprintf(&b, "egress %+v\n", p.Egress)
	for _, e := range p.Endpoints {
		fmt.Fprintf(&b, "endpoint %s hosts=%v address=%v roots=%t cookies=%t/%t identity=%t\n", e.Ref(), e.Hosts, e.Address, e.RootCAs != nil, e.PassCookies, e.DropCookies, e.PassIdentity)
	}
	for _, e := range p.Endpoints {
		if x := e.SSH; x != nil {
			fmt.Fprintf(&b, "ssh %s keys=%s cas=%s known=%t approve=%t env=%q forward=%v record=%t", e.Ref(),
				keyPrints(x.HostKeys), keyPrints(x.HostCAs), x.KnownHosts != nil, x.ApproveHostKeys, x.Env, x.Forward, x.Record)
			if x.Jump != nil {
				fmt.Fprintf(&b, " jump=%s", x.Jump.Ref())
			}
			b.WriteByte('\n')
		}
	}
	for _, e := range p.Endpoints {
		if x := e.Postgres; x != nil {
			fmt.Fprintf(&b, "postgres %s notls=%t options=%q replication=%t literals=%t\n", e.Ref(), x.DisableTLS, x.Options, x.Replication, x.LogLiterals)
		}
	}
	for _, c := range p.Credentials {
		fmt.Fprintf(&b, "credential %s endpoint=%s username=%q header=%q parameter=%q cookie=%q env=%q placeholder=%q wildcard=%t slots=%v\n",
			c.Ref(), c.Endpoint.Ref(), c.Username, c.Header, c.Parameter, c.Cookie, c.Env, c.Placeholder, c.Wildcard, c.Slots())
	}
	for _, c := range p.Credentials {
		if c.User != "" || c.Users != nil {
			fmt.Fprintf(&b, "login %s user=%q users=%q\n", c.Ref(), c.User, c.Users)
		}
	}
	for _, c := range p.Credentials {
		if c.Databases != nil {
			fmt.Fprintf(&b, "databases %s %q map=%t readonly=%t\n", c.Ref(), c.Databases, c.MapMismatch, c.ReadOnly)
		}
	}
	for _, pr := range p.Profiles {
		var refs []string
		for _, c := range pr.Credentials {
			refs = append(refs, c.Ref())
		}
		fmt.Fprintf(&b, "profile %s default=%t credentials=%v\n", pr.Name, pr.Default, refs)
	}
	for _, f := range p.Files() {
		fmt.Fprintf(&b, "file %s\n", f)
	}
	return b.String()
}

func keyPrints(keys []ssh.PublicKey) []string {
	var prints []string
	for _, k := range keys {
		prints = append(prints, k.Type()+" "+ssh.FingerprintSHA256(k))
	}
	return prints
}

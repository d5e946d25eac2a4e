package policy_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/clawpatrol/clawpatrol/policy"
)

// FuzzCompile compiles arbitrary text: no panic, a policy or diagnostics but not
// both, every diagnostic with a place inside the file, and the same outcome when
// asked again. Using the policy does not change it.
func FuzzCompile(f *testing.F) {
	files, err := filepath.Glob("testdata/compile/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(ar.Files[0].Data)
	}
	example, err := os.ReadFile("../gateway.hcl.example")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)

	f.Fuzz(func(t *testing.T, src []byte) {
		kept := string(src)
		p, diags := policy.Compile("testdata/gateway.hcl", src, policy.Options{})
		if string(src) != kept {
			t.Fatal("the source was changed")
		}
		if diags.HasErrors() == (p != nil) {
			t.Fatalf("policy %v, diagnostics %v", p, diags)
		}
		if p == nil {
			for _, d := range diags {
				if s := d.Subject; s == nil || s.Start.Byte < 0 || s.Start.Byte > len(src) || s.Start.Line < 1 || s.Start.Column < 1 {
					t.Fatalf("%v has no place", d)
				}
			}
			text := policy.NewDiagnosticsError(diags, src).Error()
			_, again := policy.Compile("testdata/gateway.hcl", src, policy.Options{})
			if policy.NewDiagnosticsError(again, src).Error() != text {
				t.Fatal("the second time it says something else")
			}
			return
		}
		before := dump(p)
		var names []string
		for _, pr := range p.Profiles {
			names = append(names, pr.Name)
		}
		all, none := p.Scope(append(names, "gone")), p.Scope(nil)
		for _, e := range p.Endpoints {
			if e.Fingerprint == "" {
				t.Fatalf("%s has no fingerprint", e.Ref())
			}
			for _, h := range e.Hosts {
				host := h.Name
				if host[0] == '*' {
					host = "a-label-that-nobody-has" + host[1:]
				}
				m, ok := all.Match(host, h.Port)
				if !ok || m.Endpoint != e || (len(m.Credentials) == 0) != (m.MissingProfile != "") {
					t.Fatalf("Match(%q, %d) = %+v, %t", host, h.Port, m, ok)
				}
				if _, ok := none.Match(host, h.Port); ok {
					t.Fatalf("no profile reaches %q", host)
				}
			}
		}
		for _, c := range p.Credentials {
			if c.Fingerprint == "" || c.Placeholder == "" || c.Endpoint == nil || p.Endpoint(c.Endpoint.Ref()) != c.Endpoint || len(c.Slots()) == 0 {
				t.Fatalf("%s: %+v", c.Ref(), c)
			}
		}
		if dump(p) != before {
			t.Fatal("the policy changed in use")
		}
	})
}

package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
)

// compile compiles blocks that need no gateway block of their own.
func compile(t testing.TB, blocks string) *policy.Policy {
	t.Helper()
	src := "gateway { public_url = \"https://gw.example.com:8443\" }\n" + blocks
	p, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{})
	if diags.HasErrors() {
		t.Fatal(policy.NewDiagnosticsError(diags, []byte(src)))
	}
	return p
}

const scopePolicy = `
endpoint "https" "exact" { hosts = ["api.example.com", "api.example.com:8443", "192.0.2.7", "[2001:db8::7]:444"] }
endpoint "https" "wild"  { hosts = ["*.example.com", "plain.example.net"] }
endpoint "https" "other" { hosts = ["other.example.com:9443"] }
credential "bearer" "exact" {
  endpoint = https.exact
  env      = "EXACT"
}
credential "bearer" "narrow" { endpoint = https.wild }
credential "header" "wide" {
  endpoint = https.wild
  header   = "X-Key"
  wildcard = true
  env      = "WIDE"
}
credential "bearer" "other" { endpoint = https.other }
profile "exact"  { credentials = [bearer.exact] }
profile "narrow" { credentials = [bearer.narrow] }
profile "wide"   { credentials = [header.wide, bearer.narrow] }
profile "none"   { credentials = [] }
`

// found renders a match: "https.exact@api.example.com:443 [bearer.exact]".
func found(m policy.Match, ok bool) string {
	if !ok {
		return "-"
	}
	var refs []string
	for _, c := range m.Credentials {
		refs = append(refs, c.Ref())
	}
	s := fmt.Sprintf("%s@%s:%d %v", m.Endpoint.Ref(), m.Host, m.Port, refs)
	if m.MissingProfile != "" {
		s += " missing " + m.MissingProfile
	}
	return s
}

func TestScopeMatch(t *testing.T) {
	p := compile(t, scopePolicy)
	for _, test := range []struct {
		profiles string // space-separated
		host     string
		port     uint16
		want     string
	}{
		{"exact", "api.example.com", 443, "https.exact@api.example.com:443 [bearer.exact]"},
		{"exact", "API.Example.COM.", 443, "https.exact@api.example.com:443 [bearer.exact]"},
		{"exact", "api.example.com", 8443, "https.exact@api.example.com:8443 [bearer.exact]"},
		{"exact", "api.example.com", 80, "-"},
		{"exact", "192.0.2.7", 443, "https.exact@192.0.2.7:443 [bearer.exact]"},
		{"exact", "::ffff:192.0.2.7", 443, "https.exact@192.0.2.7:443 [bearer.exact]"},
		{"exact", "2001:DB8:0:0::7", 444, "https.exact@2001:db8::7:444 [bearer.exact]"},
		{"exact", "[2001:db8::7]", 444, "https.exact@2001:db8::7:444 [bearer.exact]"},
		{"exact", "[192.0.2.7]", 443, "-"},
		{"exact", "2001:db8::7%eth0", 444, "-"},
		{"exact", "192.0.2.7.", 443, "-"},
		{"exact", "", 443, "-"},
		{"exact", "api.example.com..", 443, "-"},
		{"exact", "api.example.com\x00", 443, "-"},
		{"exact", "api.example.com:443", 443, "-"},
		{"exact", "a.example.com", 443, "-"},

		{"wide", "a.example.com", 443, "https.wild@a.example.com:443 [header.wide]"},
		{"wide", "plain.example.net", 443, "https.wild@plain.example.net:443 [bearer.narrow header.wide]"}, // file order
		{"wide", "a.b.example.com", 443, "-"},
		{"wide", "example.com", 443, "-"},
		{"wide", ".example.com", 443, "-"},
		{"wide", "*.example.com", 443, "-"},
		{"wide", "a.example.com", 8443, "-"},
		// The exact host is another endpoint's, whoever asks.
		{"wide", "api.example.com", 443, "-"},
		// other.example.com is exact on another port only.
		{"wide", "other.example.com", 443, "https.wild@other.example.com:443 [header.wide]"},
		{"narrow", "a.example.com", 443, "-"},
		{"narrow", "plain.example.net", 443, "https.wild@plain.example.net:443 [bearer.narrow]"},

		{"exact wide", "api.example.com", 443, "https.exact@api.example.com:443 [bearer.exact]"},
		{"narrow wide narrow", "plain.example.net", 443, "https.wild@plain.example.net:443 [bearer.narrow header.wide]"},

		{"", "api.example.com", 443, "-"},
		{"none", "api.example.com", 443, "-"},

		{"gone", "api.example.com", 443, "https.exact@api.example.com:443 [] missing gone"},
		{"gone", "a.example.com", 443, "https.wild@a.example.com:443 [] missing gone"},
		{"gone", "unknown.example.net", 443, "-"},
		{"exact gone", "api.example.com", 443, "https.exact@api.example.com:443 [bearer.exact]"},
		{"exact gone gone2", "plain.example.net", 443, "https.wild@plain.example.net:443 [] missing gone"},
		{"narrow gone", "a.example.com", 443, "https.wild@a.example.com:443 [] missing gone"},
	} {
		s := p.Scope(strings.Fields(test.profiles))
		if got := found(s.Match(test.host, test.port)); got != test.want {
			t.Errorf("[%s] Match(%q, %d) = %s, want %s", test.profiles, test.host, test.port, got, test.want)
		}
	}
}

func TestScopeHasHostAndPort(t *testing.T) {
	p := compile(t, scopePolicy)
	for _, test := range []struct {
		profiles, host string
		want           bool
	}{
		{"exact", "API.example.com.", true},
		{"exact", "192.0.2.7", true},
		{"exact", "a.example.com", false},
		{"wide", "a.example.com", true},
		{"wide", "api.example.com", false},  // its only wildcard port is another endpoint's
		{"wide", "other.example.com", true}, // through the wildcard's port
		{"narrow", "a.example.com", false},
		{"gone", "other.example.com", true},
		{"gone", "example.com", false},
		{"", "api.example.com", false},
	} {
		if got := p.Scope(strings.Fields(test.profiles)).HasHost(test.host); got != test.want {
			t.Errorf("[%s] HasHost(%q) = %t", test.profiles, test.host, got)
		}
	}
	for _, test := range []struct {
		profiles, endpointType string
		port                   uint16
		want                   bool
	}{
		{"exact", "https", 443, true},
		{"exact", "https", 8443, true},
		{"exact", "https", 9443, false},
		{"exact", "ssh", 443, false},
		{"gone", "https", 9443, true},
		{"none", "https", 443, false},
	} {
		if got := p.Scope(strings.Fields(test.profiles)).HasPort(test.endpointType, test.port); got != test.want {
			t.Errorf("[%s] HasPort(%s, %d) = %t", test.profiles, test.endpointType, test.port, got)
		}
	}
}

// The zero value of everything refuses.
func TestI06_ZeroValuesReachNothing(t *testing.T) {
	var none *policy.Policy
	for name, s := range map[string]*policy.Scope{
		"nil scope":                nil,
		"zero scope":               {},
		"scope of nil policy":      none.Scope([]string{"ci"}),
		"scope of zero policy":     new(policy.Policy).Scope([]string{"ci"}),
		"scope of no profiles":     compile(t, scopePolicy).Scope(nil),
		"scope of an empty string": new(policy.Policy).Scope([]string{""}),
	} {
		if _, ok := s.Match("api.example.com", 443); ok || s.HasHost("api.example.com") || s.HasPort("https", 443) {
			t.Errorf("%s reaches something", name)
		}
	}
	if none.Profile("x") != nil || none.Credential("x") != nil || none.Endpoint("x") != nil || none.DefaultProfiles() != nil || none.Files() != nil {
		t.Error("a nil policy has something")
	}
	if m, ok := compile(t, scopePolicy).Scope([]string{""}).Match("api.example.com", 443); !ok || len(m.Credentials) != 0 || m.MissingProfile == "" {
		t.Errorf("a profile without a name: %+v, %t", m, ok)
	}
}

// A caller that appends to what Match returned must not change what the next one
// gets.
func TestScopeIsImmutable(t *testing.T) {
	p := compile(t, `
endpoint "https" "a" { hosts = ["a.example.com"] }
credential "bearer" "c0" { endpoint = https.a }
credential "bearer" "c1" { endpoint = https.a }
credential "bearer" "c2" { endpoint = https.a }
profile "p" { credentials = [bearer.c0, bearer.c1, bearer.c2] }
`)
	s := p.Scope([]string{"p"})
	one, _ := s.Match("a.example.com", 443)
	two, _ := s.Match("a.example.com", 443)
	first, second := append(one.Credentials, p.Credentials[0]), append(two.Credentials, p.Credentials[1])
	if first[3] != p.Credentials[0] || second[3] != p.Credentials[1] {
		t.Error("two callers share memory")
	}
}

// randomPolicy writes a policy over a small world of names, so that exact hosts
// and wildcards of different endpoints meet often.
func randomPolicy(r *rand.Rand) string {
	var b strings.Builder
	taken := map[string]bool{}
	endpoints := 1 + r.IntN(6)
	for e := range endpoints {
		var hosts []string
		for len(hosts) == 0 {
			for range 1 + r.IntN(4) {
				h := fmt.Sprintf("%q", worldHost(r, true)+[]string{"", ":8443"}[r.IntN(2)])
				if !taken[h] {
					taken[h] = true
					hosts = append(hosts, h)
				}
			}
			if len(taken) > 20 {
				hosts = append(hosts, fmt.Sprintf(`"only%d.example.org"`, e))
			}
		}
		fmt.Fprintf(&b, "endpoint \"https\" \"e%d\" { hosts = [%s] }\n", e, strings.Join(hosts, ", "))
	}
	credentials := r.IntN(10)
	for c := range credentials {
		fmt.Fprintf(&b, "credential \"bearer\" \"c%d\" {\n  endpoint = https.e%d\n  wildcard = %t\n}\n", c, r.IntN(endpoints), r.IntN(2) == 0)
	}
	for p := range 1 + r.IntN(4) {
		var refs []string
		for c := range credentials {
			if r.IntN(3) == 0 {
				refs = append(refs, fmt.Sprintf("bearer.c%d", c))
			}
		}
		r.Shuffle(len(refs), func(i, j int) { refs[i], refs[j] = refs[j], refs[i] })
		fmt.Fprintf(&b, "profile \"p%d\" { credentials = [%s] }\n", p, strings.Join(refs, ", "))
	}
	return b.String()
}

func worldHost(r *rand.Rand, wildcards bool) string {
	parents := []string{"x.example.com", "y.example.com", "a.x.example.com"}
	first := []string{"a", "b", "c"}
	if wildcards {
		first = append(first, "*", "*")
	}
	return first[r.IntN(len(first))] + "." + parents[r.IntN(len(parents))]
}

// expected is what Match must find, written down the slow and obvious way.
func expected(p *policy.Policy, profiles []string, host string, port uint16) string {
	var owner *policy.Endpoint
	wildcard := false
	_, parent, _ := strings.Cut(host, ".")
	for _, pattern := range []string{host, "*." + parent} {
		for _, e := range p.Endpoints {
			if owner == nil && slices.Contains(e.Hosts, policy.Host{Name: pattern, Port: port}) {
				owner, wildcard = e, pattern != host
			}
		}
	}
	if owner == nil {
		return "-"
	}
	m := policy.Match{Endpoint: owner, Host: host, Port: port}
	for _, c := range p.Credentials {
		for _, pr := range p.Profiles {
			if slices.Contains(profiles, pr.Name) && slices.Contains(pr.Credentials, c) && !slices.Contains(m.Credentials, c) &&
				c.Endpoint == owner && (!wildcard || c.Wildcard) {
				m.Credentials = append(m.Credentials, c)
			}
		}
	}
	if len(m.Credentials) == 0 {
		for _, name := range profiles {
			if m.MissingProfile == "" && p.Profile(name) == nil {
				m.MissingProfile = name
			}
		}
		if m.MissingProfile == "" {
			return "-"
		}
	}
	return found(m, true)
}

// Over random policies, profile sets and hosts: a match has exactly the
// credentials of the named profiles, none else, and HasHost and HasPort agree
// with Match.
func TestI06_ScopeHasOnlyTheNamedProfilesCredentials(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for range 300 {
		src := randomPolicy(r)
		p := compile(t, src)
		for range 10 {
			var profiles []string
			for range r.IntN(4) {
				profiles = append(profiles, []string{"p0", "p1", "p2", "p3", "gone"}[r.IntN(5)])
			}
			s := p.Scope(profiles)
			allowed := map[*policy.Credential]bool{}
			for _, name := range profiles {
				if pr := p.Profile(name); pr != nil {
					for _, c := range pr.Credentials {
						allowed[c] = true
					}
				}
			}
			for range 20 {
				host := worldHost(r, false)
				anyPort := false
				for _, port := range []uint16{443, 8443, 80} {
					m, ok := s.Match(host, port)
					if got, want := found(m, ok), expected(p, profiles, host, port); got != want {
						t.Fatalf("%s\nprofiles %q: Match(%q, %d) = %s, want %s", src, profiles, host, port, got, want)
					}
					for _, c := range m.Credentials {
						if !allowed[c] {
							t.Fatalf("%s\nprofiles %q: %s:%d got %s of another profile", src, profiles, host, port, c.Ref())
						}
					}
					if ok && !s.HasPort("https", port) {
						t.Fatalf("%s\nprofiles %q: Match(%q, %d), but not HasPort", src, profiles, host, port)
					}
					anyPort = anyPort || ok
				}
				if s.HasHost(host) != anyPort {
					t.Fatalf("%s\nprofiles %q: HasHost(%q) = %t", src, profiles, host, !anyPort)
				}
			}
		}
	}
}

// FuzzScopeMatch looks for a host that reaches a credential it should not: with
// any spelling, a match is of a canonical host that an entry of hosts covers.
func FuzzScopeMatch(f *testing.F) {
	p := compile(f, scopePolicy)
	for _, h := range []string{"api.example.com", "A.EXAMPLE.com.", "*.example.com", "192.0.2.7", "::ffff:c000:207", "[::1]", "0x7f.1", "a\x00.example.com", "ａ.example.com", ".example.com", "a/b.example.com", "-.example.com"} {
		f.Add(h, uint16(443))
	}
	scopes := []*policy.Scope{p.Scope([]string{"exact", "wide"}), p.Scope([]string{"gone"}), p.Scope(nil)}
	f.Fuzz(func(t *testing.T, host string, port uint16) {
		for _, s := range scopes {
			m, ok := s.Match(host, port)
			if ok && !s.HasHost(host) {
				t.Fatalf("Match(%q), but not HasHost", host)
			}
			if !ok {
				continue
			}
			if again, ok := policy.CanonicalHost(m.Host); !ok || again != m.Host || strings.ContainsAny(m.Host, "*/\\@ %[]\x00\r\n") || strings.ToLower(m.Host) != m.Host {
				t.Fatalf("Match(%q).Host = %q is not canonical", host, m.Host)
			}
			_, parent, _ := strings.Cut(m.Host, ".")
			if !slices.Contains(m.Endpoint.Hosts, policy.Host{Name: m.Host, Port: port}) && !slices.Contains(m.Endpoint.Hosts, policy.Host{Name: "*." + parent, Port: port}) {
				t.Fatalf("Match(%q, %d) = %s", host, port, found(m, ok))
			}
		}
		if _, ok := scopes[2].Match(host, port); ok {
			t.Fatal("no profile reached something")
		}
	})
}

func BenchmarkScopeMatch(b *testing.B) {
	s := compile(b, scopePolicy).Scope([]string{"exact", "wide"})
	for _, host := range []string{"api.example.com", "a.example.com", "unknown.example.net", "192.0.2.7"} {
		b.Run(host, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Match(host, 443)
			}
		})
	}
}

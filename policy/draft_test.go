package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/clawpatrol/clawpatrol/policy"
)

const draftBase = "gateway { public_url = \"https://gw.example.com:8443\" }\n"

// wide are texts of about size bytes, each meant to cost more than it should.
func wide(size int) map[string]string {
	fill := func(before, unit, after string) string {
		return draftBase + before + strings.Repeat(unit, (size-len(draftBase)-len(before)-len(after))/len(unit)) + after
	}
	numbered := func(format string) string {
		var b strings.Builder
		b.WriteString(draftBase)
		for i := 0; b.Len() < size-200; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	long := strings.Repeat("a", 40)
	return map[string]string{
		"deep braces":         fill("", "a {", ""),
		"deep brackets":       fill("a = ", "[", ""),
		"braces side by side": fill("", "a {}\n", ""),
		"attributes":          numbered("a%d = 1\n"),
		"equal attributes":    fill("", "a = 1\n", ""),
		"broken lines":        fill("", "a b c\n", ""),
		"words":               fill("", "a ", ""),
		"equals":              fill("", "=", ""),
		"quotes":              fill("", "\"", ""),
		"dots":                fill("a = ", ".", ""),
		"numbers":             fill("a = ", "1.", ""),
		"commas":              fill("a = [", ",", "]"),
		"empty strings":       fill("a = [", "\"\",", "]"),
		"a reference":         fill("a = a", ".a", ""),
		"a label":             fill("endpoint ", "\"a\" ", "{}"),
		"escapes":             fill("a = \"", "\\u0041", "\""),
		"bad escapes":         fill("a = \"", "\\x", "\""),
		"comments":            fill("", "#\n", ""),
		"closed comments":     fill("", "/**/", ""),
		"carriage returns":    fill("", "\r\n", ""),
		"colons":              fill("a = ", "a:", ""),
		"many endpoints":      numbered("endpoint \"https\" \"" + long + "%d\" { hosts = [] }\n"),
		"unknown endpoints":   numbered("credential \"bearer\" \"a%d\" { endpoint = https." + long + " }\n"),
		"declared and unknown": func() string {
			var b strings.Builder
			b.WriteString(draftBase)
			for i := 0; b.Len() < size/2; i++ {
				fmt.Fprintf(&b, "credential \"bearer\" \"%s%d\" {}\n", long, i)
			}
			b.WriteString("profile \"p\" { credentials = [")
			for i := 0; b.Len() < size-100; i++ {
				fmt.Fprintf(&b, "bearer.%d%s,", i, long)
			}
			return strings.ReplaceAll(b.String(), "bearer.", "bearer.b") + "] }\n"
		}(),
		"one profile": func() string {
			var b strings.Builder
			b.WriteString(draftBase + "endpoint \"https\" \"a\" { hosts = [\"a.example.com\"] }\n")
			n := 0
			for ; b.Len() < size*3/4; n++ {
				fmt.Fprintf(&b, "credential \"bearer\" \"a%d\" { endpoint = https.a }\n", n)
			}
			b.WriteString("profile \"p\" { credentials = [")
			for i := range n {
				fmt.Fprintf(&b, "bearer.a%d,", i)
			}
			return b.String() + "] }\n"
		}(),
		"many hosts": numbered("endpoint \"https\" \"e%[1]d\" { hosts = [\"h%[1]d.example.com\"] }\n"),
		"many jumps": numbered("endpoint \"ssh\" \"e%[1]d\" {\n hosts = [\"h%[1]d.example.com\"]\n host_keys = \"approve\"\n jump = ssh.nobody\n}\n"),
		"keys":       fill("", "# -----BEGIN PRIVATE KEY\n", ""),
		"tokens":     fill("", "# ghp_16C7e42F292c6912E7710c838347Ae178B4a\n", ""),
		"one token":  fill("# ", "aB3", ""),
	}
}

// BenchmarkDraft is what the worst texts cost.
func BenchmarkDraft(b *testing.B) {
	for name, src := range wide(policy.MaxFile) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				policy.CompileDraft(&policy.Policy{}, []byte(src))
				policy.Lines(policy.Mask(src))
			}
		})
	}
}

// The cost of a text grows with its length, and not with its square: what is
// allocated is measured, since time is nobody's to promise.
func TestI16_NoDraftCostsMoreThanItsLength(t *testing.T) {
	const most = 3000 // bytes allocated for each of the text
	texts := wide(64 << 10)
	texts["names that nobody has"] = wide(256 << 10)["declared and unknown"] // a square that begins small
	for name, src := range texts {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		policy.CompileDraft(&policy.Policy{}, []byte(src))
		policy.Lines(policy.Mask(src))
		runtime.ReadMemStats(&after)
		if per := (after.TotalAlloc - before.TotalAlloc) / uint64(len(src)); per > most {
			t.Errorf("%s: %d bytes allocated for each of the text", name, per)
		}
	}
}

// inForce is a policy that reads files.
func inForce(t testing.TB) (p *policy.Policy, dir, src string) {
	t.Helper()
	dir = t.TempDir()
	ar, err := txtar.ParseFile("testdata/compile/ssh.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range ar.Files {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src = string(ar.Files[0].Data) + "endpoint \"https\" \"own\" {\n  hosts   = [\"own.example.com\"]\n  ca_file = \"own.pem\"\n}\n"
	for name, b := range map[string][]byte{"own.pem": []byte(certificate(t, 1)), "gateway.hcl": []byte(src)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err = policy.Load(filepath.Join(dir, "gateway.hcl"), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Files()) < 2 {
		t.Fatalf("it reads %q only", p.Files())
	}
	return p, dir, src
}

// A draft of what is in force is what is in force, though no file is there any
// more: none is read.
func TestDraft_ReadsNoFile(t *testing.T) {
	p, dir, src := inForce(t)
	for _, f := range p.Files() {
		if err := os.RemoveAll(f); err != nil {
			t.Fatal(err)
		}
	}
	draft, diags := policy.CompileDraft(p, []byte(src))
	if draft == nil {
		t.Fatal(diags)
	}
	if c := policy.Compare(p, draft); !c.Empty() || c.AtStart != nil || c.Moved != nil {
		t.Errorf("it would change %+v", c)
	}

	const private = "only the gateway may read this"
	for _, name := range []string{"/etc/passwd", "/dev/zero", "/proc/self/environ", "/nowhere", "other", "../other", "gateway.hcl"} {
		if !filepath.IsAbs(name) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(private), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, block := range []string{
			"endpoint \"https\" \"x\" {\n hosts = [\"x.example.com\"]\n ca_file = %q\n}\n",
			"endpoint \"postgres\" \"x\" {\n hosts = [\"x.example.com\"]\n ca_file = %q\n}\n",
			"endpoint \"ssh\" \"x\" {\n hosts = [\"x.example.com\"]\n known_hosts_file = %q\n}\n",
		} {
			draft, diags := policy.CompileDraft(p, fmt.Appendf(nil, draftBase+block, name))
			if draft != nil || len(diags) != 1 || !strings.Contains(diags[0].Detail, "annot be checked here") || !strings.Contains(diags[0].Detail, "clawpatrol validate") {
				t.Errorf("%s: %v", name, diags)
			}
			if strings.Contains(fmt.Sprint(diags), "such file") || strings.Contains(fmt.Sprint(diags), private) {
				t.Errorf("%s: the answer depends on the file: %v", name, diags)
			}
		}
	}
	if _, diags := policy.CompileDraft(nil, []byte(src)); len(diags) == 0 {
		t.Error("without a policy in force, files are read")
	}
}

func TestCompare(t *testing.T) {
	compile := func(src string) *policy.Policy {
		t.Helper()
		p, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{})
		if p == nil {
			t.Fatal(diags)
		}
		return p
	}
	const base = "gateway {\n  public_url = \"https://gw.example.com:8443\"\n}" + `
endpoint "https" "a" {
  hosts = ["a.example.com"]
}
endpoint "https" "b" {
  hosts = ["b.example.com"]
}
credential "bearer" "a" {
  endpoint = https.a
}
credential "bearer" "b" {
  endpoint = https.b
}
profile "p" {
  credentials = [bearer.a, bearer.b]
}
profile "q" {
  credentials = [bearer.a]
}
`
	for what, c := range map[string]struct {
		edits []string
		want  string
	}{
		"nothing":         {nil, "{{[] [] []} {[] [] []} {[] [] []} [] [] []}"},
		"comment, order":  {[]string{"[bearer.a, bearer.b]", "[bearer.b, bearer.a] # the same"}, "{{[] [] []} {[] [] []} {[] [] []} [] [] []}"},
		"host":            {[]string{"b.example.com", "c.example.com"}, "{{[] [] [https.b]} {[] [] []} {[] [] []} [] [] [bearer.b]}"},
		"added, removed":  {[]string{`"bearer" "b"`, `"bearer" "c"`, ", bearer.b", ", bearer.c"}, "{{[] [] []} {[bearer.c] [bearer.b] []} {[] [] [p]} [] [] []}"},
		"other endpoint":  {[]string{"endpoint = https.b", "endpoint = https.a\n placeholder = \"x\""}, "{{[] [] []} {[] [] [bearer.b]} {[] [] []} [] [] [bearer.b]}"},
		"profile renamed": {[]string{`profile "q"`, `profile "r"`}, "{{[] [] []} {[] [] []} {[r] [q] []} [] [] []}"},
		"default":         {[]string{"[bearer.a]", "[bearer.a]\n default = true"}, "{{[] [] []} {[] [] []} {[] [] [q]} [] [] []}"},
		"settings": {[]string{"gw.example.com:8443\"", "gw.example.com:8444\"\n enrolment = \"closed\"\n", "\nendpoint \"https\" \"a\"", "\ndns { upstream = [\"1.1.1.1\"] }\negress { unknown = \"deny\" }\nwireguard { listen = \":1\" }\nendpoint \"https\" \"a\""},
			"{{[] [] []} {[] [] []} {[] [] []} [gateway.enrolment dns egress] [gateway wireguard] []}"},
	} {
		src := strings.NewReplacer(c.edits...).Replace(base)
		if len(c.edits) > 0 && src == base {
			t.Fatalf("%s: no edit", what)
		}
		if got := fmt.Sprint(policy.Compare(compile(base), compile(src))); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

func TestLines_AreTheText(t *testing.T) {
	p, _, src := inForce(t)
	kinds := map[string]string{}
	for _, line := range policy.Lines(src) {
		for _, s := range line.Spans {
			if kinds[s.Kind] == "" {
				kinds[s.Kind] = s.Text
			}
		}
	}
	for _, k := range []string{"block", "attribute", "string", "reference"} {
		if kinds[k] == "" {
			t.Errorf("nothing is of kind %s: %q", k, kinds)
		}
	}
	want := policy.Line{Number: 2, Spans: []policy.Span{{Text: "  "}, {Kind: "attribute", Text: "a"}, {Text: " = "}, {Kind: "word", Text: "true"}, {Text: " "}, {Kind: "comment", Text: "# why"}}}
	if got := policy.Lines("b {\r\n  a = true # why\r\n}")[1]; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := policy.Lines("a = <<EOF\nx\nEOF\n"); len(got) != 4 || len(got[1].Spans) != 1 || got[1].Spans[0].Text != "x" {
		t.Errorf("what is not plain: %+v", got)
	}
	lines := strings.Split(src, "\n")
	if len(p.Declarations()) < len(p.Endpoints)+len(p.Credentials)+len(p.Profiles) {
		t.Errorf("%d declarations", len(p.Declarations()))
	}
	for _, d := range p.Declarations() {
		name := d.Ref[strings.LastIndexByte(d.Ref, '.')+1:]
		if at := lines[d.Line-1]; !strings.HasPrefix(at, d.Kind) || !strings.Contains(at, `"`+name+`"`) {
			t.Errorf("%+v: at %q", d, at)
		}
	}
}

// FuzzDraft checks any text as a draft: no panic, a policy or diagnostics, no
// file read, and its lines are its text (I16).
func FuzzDraft(f *testing.F) {
	now, _, src := inForce(f)
	f.Add(src)
	files, err := filepath.Glob("testdata/compile/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(ar.Files[0].Data))
	}
	f.Fuzz(func(t *testing.T, src string) {
		p, diags := policy.CompileDraft(now, []byte(src))
		if (p == nil) != diags.HasErrors() {
			t.Fatalf("policy %v, diagnostics %v", p, diags)
		}
		if p != nil {
			if len(p.Files()) != 0 {
				t.Fatalf("files %q were read", p.Files())
			}
			policy.Compare(now, p)
			if c := policy.Compare(p, p); !c.Empty() || c.AtStart != nil || c.Moved != nil {
				t.Fatalf("it differs from itself by %+v", c)
			}
		}
		text := policy.Mask(src)
		var b strings.Builder
		for i, line := range policy.Lines(text) {
			if line.Number != i+1 {
				t.Fatalf("line %d has number %d", i+1, line.Number)
			}
			if i > 0 {
				b.WriteByte('\n')
			}
			for _, s := range line.Spans {
				b.WriteString(s.Text)
			}
		}
		if want := strings.ReplaceAll(text, "\r\n", "\n"); b.String() != want {
			t.Fatalf("the lines are %q, want %q", b.String(), want)
		}
	})
}

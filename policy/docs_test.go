package policy

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// docs/configuration.md describes every block and attribute of the schema, each
// in the section of its block, with its default; and names every word that is
// refused for now.
func TestDocumentationIsComplete(t *testing.T) {
	raw, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	sections := map[string]string{}
	for _, part := range regexp.MustCompile(`(?m)^##+ `).Split(doc, -1)[1:] {
		title, body, _ := strings.Cut(part, "\n")
		sections[title] = body
	}
	rows := func(section string) map[string]bool {
		body, ok := sections[section]
		if !ok {
			t.Errorf("there is no section %q", section)
		}
		found := map[string]bool{}
		for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| .+ \\| .+ \\|$").FindAllStringSubmatch(body, -1) {
			found[m[1]] = true
		}
		return found
	}
	check := func(section string, s schema) {
		have := rows(section)
		for _, a := range s.attributes {
			if !have[a.name] {
				t.Errorf("section %q does not describe %s", section, a.name)
			}
			for _, word := range a.oneOf {
				if !strings.Contains(sections[section], "`\""+word+"\"`") {
					t.Errorf("section %q does not name %s = %q", section, a.name, word)
				}
			}
			delete(have, a.name)
		}
		for name := range have {
			if section != "credential" {
				t.Errorf("section %q describes %s, which does not exist", section, name)
			}
		}
	}
	var walk func(s schema)
	walk = func(s schema) {
		for _, b := range s.blocks {
			if b.name != "endpoint" && b.name != "credential" {
				check(b.name, b.schema)
			}
			walk(b.schema)
		}
	}
	walk(fileSchema)
	for _, et := range endpointTypes {
		check(`endpoint "`+et.name+`"`, et.schema)
	}
	for _, ct := range credentialTypes {
		check("credential", ct.schema)
		if !strings.Contains(sections["credential"], "| `"+ct.name+"` |") {
			t.Errorf("credential type %s is not described", ct.name)
		}
	}
	for _, word := range laterBlocks {
		if !strings.Contains(sections["The language"], "`"+word+"`") {
			t.Errorf("%s is refused, but the documentation does not say so", word)
		}
	}
	for _, r := range refusedHeaders {
		name := strings.ToLower(r.name)
		if strings.HasSuffix(name, "-") {
			name += "*"
		}
		if !strings.Contains(strings.ToLower(sections["credential"]), "`"+name+"`") {
			t.Errorf("header %s is refused, but the documentation does not say so", r.name)
		}
	}
}

// What the documentation shows as a whole file compiles.
func TestDocumentedFileCompiles(t *testing.T) {
	raw, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```hcl\n(.*?)```").FindSubmatch(raw)
	if m == nil {
		t.Fatal("there is no hcl block")
	}
	p, diags := Compile("gateway.hcl", m[1], Options{})
	if diags.HasErrors() {
		t.Fatal(NewDiagnosticsError(diags, m[1]))
	}
	if got, ok := p.Scope([]string{"ci"}).Match("api.github.com", 443); !ok || len(got.Credentials) != 1 {
		t.Errorf("%+v", got)
	}
}

// The example file shows every attribute, be it in a comment.
func TestExampleIsComplete(t *testing.T) {
	raw, err := os.ReadFile("../gateway.hcl.example")
	if err != nil {
		t.Fatal(err)
	}
	var all []attribute
	var collect func(s schema)
	collect = func(s schema) {
		all = append(all, s.attributes...)
		for _, b := range s.blocks {
			collect(b.schema)
		}
	}
	collect(fileSchema)
	for _, et := range endpointTypes {
		collect(et.schema)
	}
	for _, ct := range credentialTypes {
		collect(ct.schema)
	}
	for _, a := range all {
		if !regexp.MustCompile(`(?m)^[ #]*` + a.name + ` *= `).Match(raw) {
			t.Errorf("the example does not show %s", a.name)
		}
	}
}

// The placeholders that the documentation recommends are accepted, and have the
// form that the tools look for.
func TestDocumentedPlaceholders(t *testing.T) {
	raw, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(raw), "### Placeholders that tools accept")
	section, _, _ = strings.Cut(section, "\n## ")
	forms := map[string]string{
		"GH_TOKEN":          `ghp_[A-Za-z0-9]{36}`,
		"GITLAB_TOKEN":      `glpat-[\w-]{20}`,
		"OPENAI_API_KEY":    `sk-[A-Za-z0-9]{20,}`,
		"ANTHROPIC_API_KEY": `sk-ant-api03-[\w-]+`,
		"GOOGLE_API_KEY":    `AIza[\w-]{35}`,
		"SLACK_BOT_TOKEN":   `xoxb-[\w-]+`,
		"STRIPE_API_KEY":    `sk_test_[A-Za-z0-9]{4,}`,
		"NPM_TOKEN":         `npm_[A-Za-z0-9]{36}`,
		"HF_TOKEN":          `hf_[A-Za-z0-9]{34}`,
		"SENDGRID_API_KEY":  `SG\..+`,
		"":                  `[\w-]+\.[\w-]+\.[\w-]+`,
	}
	rows := regexp.MustCompile("(?m)^\\| .+ \\| (?:`([A-Z_]+)`)? ?\\| .+ \\| `([^`]+)`.* \\|$").FindAllStringSubmatch(section, -1)
	if len(rows) != len(forms) {
		t.Errorf("%d rows, not %d", len(rows), len(forms))
	}
	for _, row := range rows {
		name, placeholder := row[1], row[2]
		if form, ok := forms[name]; !ok || !regexp.MustCompile("^"+form+"$").MatchString(placeholder) {
			t.Errorf("%s: %s has not the form %s", name, placeholder, form)
		}
		if err := checkPlaceholder(placeholder); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name != "" {
			if err := checkEnv(name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

package policy_test

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
)

func TestI02_MaskHidesWhatLooksLikeASecret(t *testing.T) {
	const line1, line2 = "MC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAA"
	for what, c := range map[string]struct {
		text    string
		secrets []string
	}{
		"a comment": {"# -----BEGIN PRIVATE KEY-----\n# " + line1 + "\n# " + line2 + "\n# -----END PRIVATE KEY-----\nx = 1\n", []string{line1, line2}},
		"a closed comment": {"/* -----BEGIN OPENSSH PRIVATE KEY-----\n" + line1 + "\n" + line2 + "\n-----END OPENSSH PRIVATE KEY----- */\nx = 1\n",
			[]string{line1, line2}},
		"a comment without a blank": {"//-----BEGIN PRIVATE KEY-----\n//" + line1 + "\n//" + line2 + "\n//-----END PRIVATE KEY-----\n", []string{line1, line2}},
		"one string":                {`a = "-----BEGIN RSA PRIVATE KEY-----\n` + line1 + `\n` + line2 + `\n-----END RSA PRIVATE KEY-----"`, []string{line1, line2}},
		"list items": {"a = [\"-----BEGIN PRIVATE KEY-----\",\n\"" + line1 + "\",\n\"" + line2 + "\",\n\"-----END PRIVATE KEY-----\"]\n",
			[]string{line1, line2}},
		"no last line":    {"# -----BEGIN PRIVATE KEY-----\n# " + line1 + "\n# " + line2 + "\n\nendpoint", []string{line1, line2}},
		"GitHub":          {`a = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"`, []string{"16C7e42F"}},
		"GitHub, comment": {"#ghp_16C7e42F292c6912E7710c838347Ae178B4a", []string{"16C7e42F"}},
		"AWS":             {`a = "AKIAIOSFODNN7EXAMPLE"`, []string{"IOSFODNN"}},
		"AWS secret":      {`a = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY12"`, []string{"wJalr", "K7MDENG"}},
		"JWT":             {`a = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.TJVA95OrM7E2cBab30RMHrHDcEfxjoYZgeFONFh7HgQ"`, []string{"eyJzdWIi", "TJVA95"}},
		"hexadecimal":     {`a = "da39a3ee5e6b4b0d3255bfef95601890afd80709"`, []string{"da39a3"}},
		"base64":          {`a = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ"`, []string{"q83vEj"}},
		"Slack":           {`# https://hooks.slack.com/services/T00000000/B00000000/Xy1Xy2Xy3Xy4Zw5Zw6Zw7Ab8`, []string{"Xy1Xy2"}},
		"assigned":        {`# token=da39a3ee5e6b4b0d3255bfef95601890afd80709`, []string{"da39a3"}},
		"assigned AWS":    {`# AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE`, []string{"IOSFODNN"}},
		"assigned prefix": {`# key=sk-0123abcdwxyz0123abcdwxyz`, []string{"0123abcd"}},
		"OpenAI":          {`a = "sk-proj-4f9AbCdEfGh1Jk2LmN3oPq"`, []string{"4f9AbC"}},
	} {
		got := policy.Mask(c.text)
		for _, s := range c.secrets {
			if strings.Contains(got, s) {
				t.Errorf("%s: shows %q in\n%s", what, s, got)
			}
		}
		if len(got) != len(c.text) || strings.Count(got, "\n") != strings.Count(c.text, "\n") || strings.Count(got, `"`) != strings.Count(c.text, `"`) {
			t.Errorf("%s: moved what stands there:\n%s", what, got)
		}
	}
}

// What belongs in a policy file is shown: the example, and the placeholders that
// the documentation recommends.
func TestMask_LeavesWhatIsNoSecret(t *testing.T) {
	example, err := os.ReadFile("../gateway.hcl.example")
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{string(example),
		`host_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5q0m4a3lWJ8n9q2yqk1pZr7v0m3c8d5e6f7g8h9i0j ci@example.com"]`,
		`hosts = ["orders-db.cluster-c9akciq32rge.eu-central-1.rds.amazonaws.com"]`,
		`ca_file = "/etc/Clients/Acme01/internal-authority-2026/Root-CA-G2.pem"`,
		`credential "bearer" "npm_registry_token_of_production" {`,
		`# the key's fingerprint is SHA256:uNiVztksCsDhcc0u9e8BrrJXVGDezgYIzeZCCE0SRHo`,
		`env = "GITHUB_ENTERPRISE_TOKEN_FOR_CI_2"`,
		`subnets = ["10.55.0.0/16", "fd55:c1a5:1234:5678:9abc:def0:1234:5678/48"]`,
	}
	doc, err := os.Open("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	defer doc.Close()
	for s := bufio.NewScanner(doc); s.Scan(); {
		if m := regexp.MustCompile("`([^`]*[cC]lawpatrol[^` ]*)`").FindAllStringSubmatch(s.Text(), -1); m != nil {
			texts = append(texts, m[len(m)-1][1])
		}
	}
	if len(texts) < 15 {
		t.Fatalf("only %d texts", len(texts))
	}
	for _, text := range texts {
		if got := policy.Mask(text); got != text {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
}

// A private key that was split over the items of a list: none of the mistakes
// beside it is told with a line of it.
func TestI02_DiagnosticsDoNotShowASplitKey(t *testing.T) {
	const key = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW"
	src := "gateway { public_url = \"https://gw.example.com\" }\nendpoint \"ssh\" \"a\" {\n  hosts = [\"a.example.com\"]\n" +
		"  host_keys = [\n    \"-----BEGIN OPENSSH PRIVATE KEY-----\",\n    \"" + key + "\",\n    \"QyNTUxOQ==\",\n    \"-----END OPENSSH PRIVATE KEY-----\",\n  ]\n}\n" +
		"endpoint \"https\" \"b\" {\n  hosts = [\"" + key + "\", \"ghp_16C7e42F292c6912E7710c838347Ae178B4a\"]\n}\n"
	_, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{})
	text := policy.NewDiagnosticsError(diags, []byte(src)).Error()
	for _, s := range []string{key, "QyNTUxOQ", "16C7e42F292c"} {
		if strings.Contains(text, s) {
			t.Errorf("%q is shown:\n%s", s, text)
		}
	}
	if strings.Count(text, "Invalid host_keys") < 2 || !strings.Contains(text, "Invalid hosts") {
		t.Errorf("not all mistakes are told of:\n%s", text)
	}
}

// What a policy keeps of its file, it keeps masked.
func TestSources_AreMasked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.hcl")
	const src = "# ghp_16C7e42F292c6912E7710c838347Ae178B4a\n" + "gateway { public_url = \"https://gw.example.com\" }\n"
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Load(file, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := p.Sources()
	if len(got) != 1 || got[0].Name != file || !got[0].Masked || strings.Contains(got[0].Text, "16C7") || !strings.HasSuffix(got[0].Text, src[43:]) {
		t.Errorf("%+v", got)
	}
	var none *policy.Policy
	if none.Sources() != nil || none.Declarations() != nil {
		t.Error("no policy has a source")
	}
	var invalid *policy.DiagnosticsError
	if err := os.WriteFile(file, []byte(src+"x = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Load(file, policy.Options{}); !errors.As(err, &invalid) || strings.Contains(err.Error(), "16C7") {
		t.Errorf("%v", err)
	}
}

// The path of a webhook's URL may be its only secret, whatever it looks like.
func TestI02_AWebhooksURLIsNotInTheSource(t *testing.T) {
	const src = `gateway {
  public_url = "https://gw.example.com"
  dashboard {
    webhook {
      url    = "https://hooks.example.com/abc/def?g=h\u0069" # https://example.com/why
      secret = "{{secret:HOOK}}"
    }
  }
}
`
	p, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{})
	if p == nil {
		t.Fatal(diags)
	}
	got := p.Sources()[0]
	if want := strings.Replace(src, `abc/def?g=h\u0069`, strings.Repeat("*", 17), 1); got.Text != want || !got.Masked {
		t.Errorf("%s\nwant:\n%s", got.Text, want)
	}
	// A draft that begins with that text does not change it.
	plain := strings.Replace(src, `\u0069`, "i", 1)
	if p, diags = policy.Compile("gateway.hcl", []byte(plain), policy.Options{}); p == nil {
		t.Fatal(diags)
	}
	draft, diags := policy.CompileDraft(p, []byte(p.Sources()[0].Text))
	if draft == nil {
		t.Fatal(diags)
	}
	if c := policy.Compare(p, draft); c.AtStart != nil || !c.Empty() {
		t.Errorf("it would change %+v", c)
	}
	if draft, _ = policy.CompileDraft(p, []byte(strings.Replace(plain, "abc", "abd", 1))); policy.Compare(p, draft).AtStart == nil {
		t.Error("another URL is no change")
	}
}

func FuzzMask(f *testing.F) {
	f.Add("# -----BEGIN PRIVATE KEY-----\n# AAAA\n# -----END PRIVATE KEY-----\n")
	f.Add("a = \"ghp_16C7e42F292c6912E7710c838347Ae178B4a\"")
	f.Add("-----BEGIN PRIVATE KEY-----BEGIN PRIVATE KEY-----END")
	f.Fuzz(func(t *testing.T, text string) {
		got := policy.Mask(text)
		if len(got) != len(text) {
			t.Fatal("the length changed")
		}
		for i := range len(text) {
			if got[i] != text[i] && (got[i] != '*' || text[i] == '\n' || text[i] == '"') {
				t.Fatalf("byte %d became %q", i, got[i])
			}
		}
		if policy.Mask(got) != got {
			t.Fatal("masking twice masks more")
		}
	})
}

// The attack: a draft of one long line keeps a processor for as long as it is
// squared. Linear, this takes well under a second.
func TestI16_MaskingALongLineTakesNoLongerThanManyShortOnes(t *testing.T) {
	for what, unit := range map[string]string{"no key": "-----BEGIN", "keys": "-----BEGIN PRIVATE KEY"} {
		done := make(chan struct{})
		text := "# " + strings.Repeat(unit, 16<<20/len(unit))
		go func() {
			defer close(done)
			policy.Mask(text)
		}()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: not done after 30 s", what)
		}
	}
}

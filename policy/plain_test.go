package policy

import (
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// FuzzPlain checks that what scanPlain lets pass holds nothing of what it is
// there to stop, in the eyes of HCL's own scanner.
func FuzzPlain(f *testing.F) {
	for _, s := range []string{
		"a = \"b\" # c\nd {}\n", `a = "$"`, `a = "$\"" b`, `a = "%%" "`, "a = \"\\\n<<X\n", "/* <<X\n", "# a\r<<X\n", "a = \"\r<<X\n",
		`a = "$${x}"`, `a = "\${x}"`, "a = b-c", "a = 1-1", "a = 1e-5", "\ufeffa = 1", "a = \"b\n\" <<X\nX\n", "a = <<X\nX\n", `a = "$$"<<X`, "//\n", "/**/", "a ... b", "a = [1, 2.5, b.c, a[0]]",
	} {
		f.Add([]byte(s))
	}
	refused := []hclsyntax.TokenType{
		hclsyntax.TokenOHeredoc, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl, hclsyntax.TokenTemplateSeqEnd,
		hclsyntax.TokenOParen, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenPercent,
		hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan,
		hclsyntax.TokenGreaterThanEq, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenBang, hclsyntax.TokenQuestion,
		hclsyntax.TokenFatArrow, hclsyntax.TokenInvalid, hclsyntax.TokenBadUTF8, hclsyntax.TokenQuotedNewline,
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if !utf8.Valid(src) {
			return
		}
		at, why := scanPlain(src)
		if why != "" {
			if at >= len(src) {
				t.Fatalf("offset %d of %d: %s", at, len(src), why)
			}
			return
		}
		tokens, _ := hclsyntax.LexConfig(src, "gateway.hcl", hcl.InitialPos)
		depth := 0
		for _, token := range tokens {
			if slices.Contains(refused, token.Type) {
				t.Fatalf("%s %q passed at %s", token.Type, token.Bytes, token.Range)
			}
			switch token.Type {
			case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack:
				depth++
			case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack:
				depth--
			}
			if depth > maxDepth {
				t.Fatalf("depth %d", depth)
			}
		}
	})
}

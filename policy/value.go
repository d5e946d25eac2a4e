package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// value reads an expression as what the attribute takes.
func (c *compiler) value(expr hclsyntax.Expression, a attribute) (value, bool) {
	switch a.kind {
	case stringKind:
		v, ok := c.stringValue(expr)
		if !ok || a.oneOf == nil {
			return v, ok
		}
		return v, c.oneOf(v, a)
	case boolKind:
		if lit, ok := expr.(*hclsyntax.LiteralValueExpr); ok && lit.Val.Type() == cty.Bool && !lit.Val.IsNull() {
			return value{flag: lit.Val.True(), rng: expr.Range()}, true
		}
		return c.wrongKind(expr, "true or false, without quotes")
	case refKind:
		return c.reference(expr)
	case secretKind:
		return c.secretReference(expr)
	case stringListKind:
		return c.list(expr, "a list of strings, in brackets", c.stringValue)
	case wordOrListKind:
		if _, ok := expr.(*hclsyntax.TupleConsExpr); ok {
			return c.list(expr, "a list of strings, in brackets", c.stringValue)
		}
		if _, ok := expr.(*hclsyntax.TemplateExpr); !ok {
			return c.wrongKind(expr, "a list of strings, in brackets, or "+orList(a.oneOf))
		}
		v, ok := c.stringValue(expr)
		if !ok {
			return v, false
		}
		if !slices.Contains(a.oneOf, v.text) {
			c.errorf(v.rng, "Unknown value", "%s is a list of strings, in brackets, or %s.%s", a.name, orList(a.oneOf), didYouMean(v.text, a.oneOf))
			return value{}, false
		}
		return v, true
	case refListKind:
		return c.list(expr, "a list of references, such as [bearer.github_token]", c.reference)
	default:
		panic(fmt.Sprintf("policy: attribute %q has no kind", a.name))
	}
}

func (c *compiler) list(expr hclsyntax.Expression, want string, read func(hclsyntax.Expression) (value, bool)) (value, bool) {
	tuple, ok := expr.(*hclsyntax.TupleConsExpr)
	if !ok {
		return c.wrongKind(expr, want)
	}
	list := value{rng: expr.Range()}
	for _, e := range tuple.Exprs {
		if v, ok := read(e); ok {
			list.items = append(list.items, v)
		}
	}
	// Where nothing in it could be read, that has been said already.
	return list, len(list.items) > 0 || len(tuple.Exprs) == 0
}

func (c *compiler) stringValue(expr hclsyntax.Expression) (value, bool) {
	t, ok := expr.(*hclsyntax.TemplateExpr)
	if !ok {
		return c.wrongKind(expr, "a string in quotes")
	}
	v, diags := t.Value(nil)
	if diags.HasErrors() || v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
		return c.wrongKind(expr, "a string in quotes")
	}
	text := v.AsString()
	if strings.Contains(text, privateKeyMark) {
		// No attribute takes one, and what is wrong with it would be told in its words.
		c.errorf(expr.Range(), "Private key not allowed here", "This is a private key, which never stands in this file: a credential's is set in the dashboard, or with PUT /api/credentials/{type}/{name}. Where a host's public key belongs, write it as in a .pub file: ssh-ed25519 AAAA….")
		return value{}, false
	}
	if strings.Contains(text, "{{secret:") {
		// A secret's place is a secretKind.
		c.errorf(expr.Range(), "Secret not allowed here", "{{secret:…}} stands only in attributes that hold a secret, and this is not one.")
		return value{}, false
	}
	return value{text: text, rng: expr.Range()}, true
}

// reference reads type.name.
func (c *compiler) reference(expr hclsyntax.Expression) (value, bool) {
	const want = "a reference, type.name without quotes"
	t, ok := expr.(*hclsyntax.ScopeTraversalExpr)
	if !ok || len(t.Traversal) != 2 {
		return c.wrongKind(expr, want)
	}
	root, ok1 := t.Traversal[0].(hcl.TraverseRoot)
	name, ok2 := t.Traversal[1].(hcl.TraverseAttr)
	if !ok1 || !ok2 {
		return c.wrongKind(expr, want)
	}
	return value{text: root.Name + "." + name.Name, rng: expr.Range()}, true
}

func (c *compiler) oneOf(v value, a attribute) bool {
	switch {
	case slices.Contains(a.oneOf, v.text):
		return true
	case slices.Contains(a.later, v.text):
		c.errorf(v.rng, "Value not supported", "This version of clawpatrol does not support %s = %q yet.", a.name, v.text)
	default:
		c.errorf(v.rng, "Unknown value", "%s is %s, not %q.%s", a.name, orList(a.oneOf), clip(v.text), didYouMean(v.text, a.oneOf))
	}
	return false
}

func (c *compiler) wrongKind(expr hclsyntax.Expression, want string) (value, bool) {
	c.errorf(expr.Range(), "Wrong kind of value", "This is %s; what belongs here is %s.", describe(expr), want)
	return value{}, false
}

// describe says what stands there, in an operator's words.
func describe(expr hclsyntax.Expression) string {
	switch e := expr.(type) {
	case *hclsyntax.TemplateExpr:
		return "a string"
	case *hclsyntax.TupleConsExpr:
		return "a list"
	case *hclsyntax.ObjectConsExpr:
		return "an object"
	case *hclsyntax.ScopeTraversalExpr:
		switch len(e.Traversal) {
		case 1:
			return "a word without quotes"
		case 2:
			if _, ok := e.Traversal[1].(hcl.TraverseAttr); ok {
				return "a reference"
			}
		}
	case *hclsyntax.LiteralValueExpr:
		switch {
		case e.Val.IsNull():
			return "null"
		case e.Val.Type() == cty.Number:
			return "a number"
		case e.Val.Type() == cty.Bool:
			return "a bool"
		}
	}
	return "an expression"
}

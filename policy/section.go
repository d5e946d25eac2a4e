package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// section is a block after it was read by its schema: every value has the right
// kind. Whatever was wrong with a value has been reported, and the value left
// out.
type section struct {
	header  hcl.Range // the block's type and labels
	values  map[string]value
	present map[string]bool // what stands there, well-formed or not
	blocks  map[string]section
}

type label struct {
	text string
	rng  hcl.Range
}

// value is one attribute's value, or one element of a list.
type value struct {
	text  string // stringKind; for refKind "type.name"
	flag  bool   // boolKind
	items []value
	rng   hcl.Range
}

// has returns the value of an attribute, if it is set and well-formed.
func (s section) has(name string) (value, bool) {
	v, ok := s.values[name]
	return v, ok
}

// text returns a string attribute, or fallback where it is not set.
func (s section) text(name, fallback string) string {
	if v, ok := s.values[name]; ok {
		return v.text
	}
	return fallback
}

// section reads body by sch. of says what the body belongs to, for messages:
// "The gateway block", `An "https" endpoint`.
func (c *compiler) section(body *hclsyntax.Body, header hcl.Range, of string, sch schema) section {
	s := section{header: header, values: map[string]value{}, present: map[string]bool{}, blocks: map[string]section{}}

	for _, a := range sortedAttributes(body) {
		s.present[a.Name] = true
		spec, ok := sch.attribute(a.Name)
		if !ok {
			c.unknownAttribute(a, of, sch)
			continue
		}
		if v, ok := c.value(a.Expr, spec); ok {
			s.values[a.Name] = v
		}
	}
	for _, a := range sch.attributes {
		if a.required && !s.present[a.name] {
			c.errorf(header, "Missing attribute", "%s needs %q.", of, a.name)
		}
	}

	for _, b := range body.Blocks {
		spec, ok := sch.block(b.Type)
		if !ok {
			c.unknownBlock(b, of, sch)
			continue
		}
		if len(b.Labels) != 0 {
			c.errorf(b.LabelRanges[0], "Unexpected label", "The %s block has no label.", b.Type)
			continue
		}
		if first, ok := s.blocks[b.Type]; ok {
			c.duplicate(b.TypeRange, first.header, "Duplicate block", fmt.Sprintf("There is one %s block at most", b.Type))
			continue
		}
		s.blocks[b.Type] = c.section(b.Body, b.DefRange(), "The "+b.Type+" block", spec.schema)
	}
	return s
}

func sortedAttributes(body *hclsyntax.Body) []*hclsyntax.Attribute {
	list := make([]*hclsyntax.Attribute, 0, len(body.Attributes))
	for _, a := range body.Attributes {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *hclsyntax.Attribute) int {
		return a.NameRange.Start.Byte - b.NameRange.Start.Byte
	})
	return list
}

// secretWords are what an operator who looks for a place to write a secret may
// try.
var secretWords = []string{"secret", "secrets", "token", "password", "value", "key", "api_key", "apikey", "private_key", "passphrase", "certificate", "client_certificate", "client_key", "identity_file", "key_file"}

func (c *compiler) unknownAttribute(a *hclsyntax.Attribute, of string, sch schema) {
	detail := fmt.Sprintf("%s has no attribute %q.", of, clip(a.Name))
	switch {
	case slices.Contains(sch.blockNames(), a.Name):
		detail = fmt.Sprintf("%q is a block: write %s { … } without the equals sign.", a.Name, a.Name)
	case slices.Contains(secretWords, strings.ToLower(a.Name)):
		detail += " Secrets never stand in this file: they are set in the dashboard, or with PUT /api/credentials/{type}/{name}."
	default:
		detail += didYouMean(a.Name, sch.attributeNames())
	}
	c.report(&hcl.Diagnostic{
		Severity: hcl.DiagError,
		Summary:  "Unknown attribute",
		Detail:   detail,
		Subject:  &a.NameRange,
		Extra:    hideRestOfLine{}, // it may well be a secret that was pasted in the wrong place
	})
}

func (c *compiler) unknownBlock(b *hclsyntax.Block, of string, sch schema) {
	if slices.Contains(laterBlocks, b.Type) {
		c.errorf(b.TypeRange, "Block not supported", "This version of clawpatrol does not support %s blocks yet.", b.Type)
		return
	}
	if a, ok := sch.attribute(b.Type); ok {
		c.errorf(b.TypeRange, "Not a block", "%q is an attribute: write %s = ….", a.name, a.name)
		return
	}
	c.errorf(b.TypeRange, "Unknown block", "%s has no %q block.%s", of, clip(b.Type), didYouMean(b.Type, sch.blockNames()))
}

// labels reads the labels of a top-level block. Names are identifiers, so that
// a reference can be written as type.name.
func (c *compiler) labels(b *hclsyntax.Block, names []string) ([]label, bool) {
	if len(b.Labels) != len(names) {
		quoted := make([]string, len(names))
		for i, n := range names {
			quoted[i] = fmt.Sprintf("%q", n)
		}
		c.errorf(b.DefRange(), "Wrong number of labels", "It is written %s %s { … }.", b.Type, strings.Join(quoted, " "))
		return nil, false
	}
	list := make([]label, len(names))
	for i, text := range b.Labels {
		list[i] = label{text: text, rng: b.LabelRanges[i]}
		if !isIdentifier(text) {
			c.errorf(b.LabelRanges[i], "Invalid name",
				"%q is not a name: a letter or underscore, then letters, digits, underscores and dashes, %d characters at most.", clip(text), maxName)
			return nil, false
		}
	}
	return list, true
}

// maxName is the longest name of an endpoint, credential or profile, in bytes.
const maxName = 64

package policy

// This file is the shape of gateway.hcl: which blocks there are, which
// attributes each may have, and what kind of value an attribute takes. What the
// values mean is elsewhere, one file per block.

// kind is what an attribute's value looks like in the file.
type kind int

const (
	stringKind     kind = iota + 1 // "text"
	boolKind                       // true
	stringListKind                 // ["a", "b"]
	wordOrListKind                 // "word", one of oneOf, or ["a", "b"]
	refKind                        // https.github
	refListKind                    // [bearer.a, basic.b]
	secretKind                     // "{{secret:NAME}}", and nothing else
)

// attribute is one setting of a block.
type attribute struct {
	name     string
	kind     kind
	required bool
	oneOf    []string // the words a stringKind or wordOrListKind attribute takes; nil: any text
	later    []string // words of the product that this version does not support
}

// schema is what may stand inside a block.
type schema struct {
	attributes []attribute
	blocks     []blockType
}

// blockType is one kind of block.
type blockType struct {
	name   string
	labels []string // what each label is called; a block without labels stands at most once
	schema          // of endpoint and credential blocks: empty, their type label decides
}

func (s schema) attribute(name string) (attribute, bool) {
	for _, a := range s.attributes {
		if a.name == name {
			return a, true
		}
	}
	return attribute{}, false
}

func (s schema) block(name string) (blockType, bool) {
	for _, b := range s.blocks {
		if b.name == name {
			return b, true
		}
	}
	return blockType{}, false
}

func (s schema) attributeNames() []string {
	var names []string
	for _, a := range s.attributes {
		names = append(names, a.name)
	}
	return names
}

func (s schema) blockNames() []string {
	var names []string
	for _, b := range s.blocks {
		names = append(names, b.name)
	}
	return names
}

// fileSchema is the top level of gateway.hcl.
var fileSchema = schema{blocks: []blockType{
	{name: "gateway", schema: schema{
		attributes: []attribute{
			{name: "mode", kind: stringKind, oneOf: []string{"remote"}, later: []string{"local"}},
			{name: "state_dir", kind: stringKind},
			{name: "listen", kind: stringKind},
			{name: "public_url", kind: stringKind, required: true},
			{name: "enrolment", kind: stringKind, oneOf: []string{"open", "invite", "closed"}},
		},
		blocks: []blockType{
			{name: "dashboard", schema: schema{
				attributes: []attribute{
					{name: "listen", kind: stringKind},
					{name: "url", kind: stringKind},
				},
				blocks: []blockType{
					{name: "webhook", schema: schema{attributes: []attribute{
						{name: "url", kind: stringKind, required: true},
						{name: "secret", kind: secretKind},
					}}},
				},
			}},
			{name: "tls", schema: schema{attributes: []attribute{
				{name: "cert_file", kind: stringKind, required: true},
				{name: "key_file", kind: stringKind, required: true},
			}}},
			{name: "action_log", schema: schema{attributes: []attribute{
				{name: "keep", kind: stringKind},
				{name: "max_size", kind: stringKind},
			}}},
		},
	}},
	{name: "wireguard", schema: schema{attributes: []attribute{
		{name: "listen", kind: stringKind},
		{name: "endpoint", kind: stringKind},
		{name: "subnets", kind: stringListKind},
	}}},
	{name: "dns", schema: schema{attributes: []attribute{
		{name: "upstream", kind: stringListKind},
	}}},
	{name: "egress", schema: schema{attributes: []attribute{
		{name: "unknown", kind: stringKind, oneOf: []string{"forward", "deny"}},
		{name: "allow", kind: stringListKind},
	}}},
	{name: "endpoint", labels: []string{"type", "name"}},
	{name: "credential", labels: []string{"type", "name"}},
	{name: "profile", labels: []string{"name"}, schema: schema{attributes: []attribute{
		{name: "credentials", kind: refListKind, required: true},
		{name: "default", kind: boolKind},
	}}},
}}

// laterBlocks are words of the product that this version does not support. They
// are refused by name: a rule that was accepted and not enforced would be worse
// than none.
var laterBlocks = []string{"tailscale", "rule", "approver"}

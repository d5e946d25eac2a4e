package policy

import (
	"fmt"
	"path/filepath"
	"slices"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// MaxFile is the largest gateway.hcl, in bytes.
const MaxFile = 1 << 20

// Load reads and compiles the policy at path. Where the file is read but does
// not compile, the error is a *DiagnosticsError.
func Load(path string, opts Options) (*Policy, error) {
	src, err := readFile(path, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	p, diags := Compile(path, src, opts)
	if diags.HasErrors() {
		return nil, NewDiagnosticsError(diags, src)
	}
	return p, nil
}

// Compile turns the text of a gateway.hcl into a Policy. filename stands in the
// diagnostics, and relative paths in the file (ca_file, known_hosts_file,
// state_dir, the tls block) begin at its directory; in the Policy they are absolute, whatever
// filename is. ca_file and known_hosts_file are read here. With any error the Policy is nil. At most
// 100 diagnostics are returned, in file order.
//
// No attribute of this version holds a secret, so {{secret:NAME}} is an error
// wherever it stands, and opts.Secret is not called.
func Compile(filename string, src []byte, _ Options) (*Policy, hcl.Diagnostics) {
	return compile(filename, src, nil)
}

// compile is Compile; where draft is given, it stands for all files besides.
func compile(filename string, src []byte, draft *readFiles) (*Policy, hcl.Diagnostics) {
	dir, err := filepath.Abs(filepath.Dir(filename))
	if err != nil { // a relative name, and the working directory is gone
		start := hcl.Range{Filename: filename, Start: hcl.InitialPos, End: hcl.InitialPos}
		return nil, hcl.Diagnostics{{
			Severity: hcl.DiagError,
			Summary:  "No directory",
			Detail:   fmt.Sprintf("Finding the directory of %s failed: %v.", filename, err),
			Subject:  &start,
		}}
	}
	c := &compiler{
		dir:         dir,
		draft:       draft,
		policy:      &Policy{read: readFiles{map[string]rootsFile{}, map[string]knownFile{}}},
		endpoints:   map[string]*Endpoint{},
		credentials: map[string]*Credential{},
		places:      map[string]hcl.Range{},
		hosts:       map[Host]hostPlace{},
	}
	c.file(filename, src)
	if len(c.diags) > 0 {
		slices.SortStableFunc(c.diags, func(a, b *hcl.Diagnostic) int {
			return a.Subject.Start.Byte - b.Subject.Start.Byte
		})
		return nil, c.diags
	}
	c.policy.index = newIndex(c.policy.Endpoints)
	c.policy.sources = []Source{newSource(filename, src, c.hiddenURLs)}
	c.policy.declarations = declarations(c.places)
	return c.policy, nil
}

// compiler is the state of one Compile.
type compiler struct {
	dir    string     // of the file, absolute
	draft  *readFiles // not nil: the text is a draft, and these are all files it may name
	diags  hcl.Diagnostics
	policy *Policy

	compared int // names, for suggestions

	// By reference. A nil value was declared, but not well: references to it are
	// not reported a second time.
	endpoints   map[string]*Endpoint
	credentials map[string]*Credential

	places     map[string]hcl.Range // where a named block was declared: "endpoint https.github"
	hosts      map[Host]hostPlace   // who claimed a host and port, and where
	jumps      []jumpPlace          // of endpoints, until all endpoints have been read
	hiddenURLs []hcl.Range          // URLs whose path may be a token
	outside    []outside            // literal addresses that must not lie in the tunnel's subnets
}

func (c *compiler) file(filename string, src []byte) {
	start := hcl.Range{Filename: filename, Start: hcl.InitialPos, End: hcl.InitialPos}
	if len(src) > MaxFile {
		c.errorf(start, "File too large", "A policy file has at most %d bytes; this one has %d.", MaxFile, len(src))
		return
	}
	if !utf8.Valid(src) {
		c.errorf(start, "Not a text file", "A policy file is text in UTF-8.")
		return
	}
	if !c.plain(filename, src) {
		return
	}
	parsed, diags := hclsyntax.ParseConfig(src, filename, hcl.InitialPos)
	for _, d := range diags {
		if d.Subject == nil {
			d.Subject = &start
		}
		c.report(d)
	}
	if diags.HasErrors() {
		return
	}
	c.root(parsed.Body.(*hclsyntax.Body), start)
}

// root reads the top level. Endpoints come before credentials and credentials
// before profiles, wherever they stand in the file.
func (c *compiler) root(body *hclsyntax.Body, start hcl.Range) {
	for _, a := range sortedAttributes(body) {
		c.unknownAttribute(a, "The top level of the file", fileSchema)
	}

	single := map[string]section{}
	var endpoints, credentials, profiles []*hclsyntax.Block
	for _, b := range body.Blocks {
		spec, ok := fileSchema.block(b.Type)
		if !ok {
			c.unknownBlock(b, "The top level of the file", fileSchema)
			continue
		}
		switch b.Type {
		case "endpoint":
			endpoints = append(endpoints, b)
		case "credential":
			credentials = append(credentials, b)
		case "profile":
			profiles = append(profiles, b)
		default:
			if first, ok := single[b.Type]; ok {
				c.duplicate(b.TypeRange, first.header, "Duplicate block", fmt.Sprintf("There is one %s block at most", b.Type))
				continue
			}
			if len(b.Labels) != 0 {
				c.errorf(b.LabelRanges[0], "Unexpected label", "The %s block has no label.", b.Type)
				continue
			}
			single[b.Type] = c.section(b.Body, b.DefRange(), "The "+b.Type+" block", spec.schema)
		}
	}

	if g, ok := single["gateway"]; ok {
		c.gateway(g)
	} else if !slices.ContainsFunc(body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == "gateway" }) {
		c.errorf(start, "Missing block", "The file needs a gateway block with public_url, the address agent hosts reach this gateway at.")
	}
	c.wireGuard(single["wireguard"])
	c.dns(single["dns"])
	c.egress(single["egress"])
	for _, b := range endpoints {
		c.endpoint(b)
	}
	c.resolveJumps()
	for _, b := range credentials {
		c.credential(b)
	}
	for _, b := range profiles {
		c.profile(b)
	}
	c.checkOutside()
}

// declare records a named block; a second one of the same name is an error.
func (c *compiler) declare(what, ref string, at hcl.Range) bool {
	key := what + " " + ref
	if first, ok := c.places[key]; ok {
		c.duplicate(at, first, "Duplicate name", fmt.Sprintf("There are two %ss %s", what, ref))
		return false
	}
	c.places[key] = at
	return true
}

package policy

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Source is a file of a policy, as it was when it was compiled.
type Source struct {
	Name   string            // as it was given to Compile
	Text   string            // through Mask: what looks like a secret is not kept
	Masked bool              // Mask changed something
	Digest [sha256.Size]byte // SHA-256 of the file
}

// newSource keeps src. urls are where URLs stand whose path may be a token.
func newSource(name string, src []byte, urls []hcl.Range) Source {
	text := string(src)
	masked := Mask(text)
	for _, at := range urls {
		from, to := at.Start.Byte, at.End.Byte-len(`"`)
		masked = masked[:from] + maskURL(text[from:to]) + masked[to:]
	}
	return Source{Name: name, Text: masked, Masked: masked != text, Digest: sha256.Sum256(src)}
}

// Declaration is where a policy names something.
type Declaration struct {
	Kind string // "endpoint", "credential" or "profile"
	Ref  string // "https.github"; of a profile its name
	Line int    // from 1
}

// Sources returns the files that the policy was compiled from; none of a Policy
// that Compile did not make.
func (p *Policy) Sources() []Source {
	if p == nil {
		return nil
	}
	return slices.Clone(p.sources)
}

// Declarations returns what the policy names, in file order.
func (p *Policy) Declarations() []Declaration {
	if p == nil {
		return nil
	}
	return slices.Clone(p.declarations)
}

// declarations reads what declare has noted.
func declarations(places map[string]hcl.Range) []Declaration {
	list := make([]Declaration, 0, len(places))
	for key, at := range places {
		kind, ref, _ := strings.Cut(key, " ")
		list = append(list, Declaration{kind, ref, at.Start.Line})
	}
	slices.SortFunc(list, func(a, b Declaration) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Ref, b.Ref))
	})
	return list
}

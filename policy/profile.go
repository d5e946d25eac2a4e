package policy

import (
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

func (c *compiler) profile(b *hclsyntax.Block) {
	spec, _ := fileSchema.block("profile")
	labels, ok := c.labels(b, spec.labels)
	if !ok {
		return
	}
	name := labels[0].text
	if !c.declare("profile", name, b.DefRange()) {
		return
	}
	s := c.section(b.Body, b.DefRange(), "A profile", spec.schema)
	p := &Profile{Name: name}
	if v, ok := s.has("default"); ok {
		p.Default = v.flag
	}

	type slot struct {
		endpoint    *Endpoint
		placeholder string
	}
	seen := map[string]bool{}
	placeholders := map[slot]*Credential{}
	variables := map[string]*Credential{}
	list, _ := s.has("credentials")
	for _, item := range list.items {
		if seen[item.text] {
			c.errorf(item.rng, "Listed twice", "%s is in this profile already.", clip(item.text))
			continue
		}
		seen[item.text] = true
		cred, declared := c.credentials[item.text]
		if !declared {
			c.errorf(item.rng, "Unknown credential", "There is no credential %s.%s", clip(item.text), suggest(c, item.text, c.credentials))
			continue
		}
		if cred == nil {
			continue
		}
		key := slot{cred.Endpoint, cred.Placeholder}
		if other, ok := placeholders[key]; ok {
			c.errorf(item.rng, "Ambiguous placeholder", "%s and %s belong to the same endpoint and have the same placeholder %q, so a request could not choose between them.",
				other.Ref(), cred.Ref(), cred.Placeholder)
			continue
		}
		placeholders[key] = cred
		if i := slices.IndexFunc(p.Credentials, func(other *Credential) bool {
			return other.Endpoint == cred.Endpoint && (other.answersTo(cred.Placeholder) || cred.answersTo(other.Placeholder))
		}); i >= 0 {
			c.errorf(item.rng, "Ambiguous placeholder", "%s and %s belong to the same endpoint, and the placeholder of the one is a user of the other, so a login could not choose between them.",
				p.Credentials[i].Ref(), cred.Ref())
			continue
		}
		if cred.Env != "" {
			if other, ok := variables[cred.Env]; ok {
				c.errorf(item.rng, "Ambiguous variable", "%s and %s both want the environment variable %s.", other.Ref(), cred.Ref(), cred.Env)
				continue
			}
			variables[cred.Env] = cred
		}
		p.Credentials = append(p.Credentials, cred)
	}
	c.policy.Profiles = append(c.policy.Profiles, p)
}

// sortedKeys returns the references declared so far: a fixed order makes the
// suggestions reproducible.
func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

// Profile returns the profile of that name, or nil.
func (p *Policy) Profile(name string) *Profile {
	if p == nil {
		return nil
	}
	for _, pr := range p.Profiles {
		if pr.Name == name {
			return pr
		}
	}
	return nil
}

// Credential returns the credential with that reference ("bearer.github"), or
// nil.
func (p *Policy) Credential(ref string) *Credential {
	if p == nil {
		return nil
	}
	for _, c := range p.Credentials {
		if c.Ref() == ref {
			return c
		}
	}
	return nil
}

// Endpoint returns the endpoint with that reference ("https.github"), or nil.
func (p *Policy) Endpoint(ref string) *Endpoint {
	if p == nil {
		return nil
	}
	for _, e := range p.Endpoints {
		if e.Ref() == ref {
			return e
		}
	}
	return nil
}

// DefaultProfiles returns the names of the profiles to pre-tick at approval, in
// file order.
func (p *Policy) DefaultProfiles() []string {
	if p == nil {
		return nil
	}
	var names []string
	for _, pr := range p.Profiles {
		if pr.Default {
			names = append(names, pr.Name)
		}
	}
	return names
}

// Files returns the files beside gateway.hcl that were read for this policy.
// CheckFile should pass for each of them too.
func (p *Policy) Files() []string {
	if p == nil {
		return nil
	}
	return slices.Clone(p.files)
}

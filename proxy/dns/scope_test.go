package dns

import "github.com/clawpatrol/clawpatrol/policy"

// exampleScope has api.example.com.
func exampleScope() *policy.Scope {
	e := &policy.Endpoint{Type: "https", Name: "e", Hosts: []policy.Host{{Name: "api.example.com", Port: 443}}}
	c := &policy.Credential{Type: "bearer", Name: "c", Endpoint: e}
	return (&policy.Policy{
		Endpoints: []*policy.Endpoint{e}, Credentials: []*policy.Credential{c},
		Profiles: []*policy.Profile{{Name: "p", Credentials: []*policy.Credential{c}}},
	}).Scope([]string{"p"})
}

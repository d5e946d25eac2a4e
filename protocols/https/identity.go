package https

import (
	"net/http"

	"github.com/clawpatrol/clawpatrol/policy"
)

// identityFields are how the names of fields end that say who is asking, as the
// common APIs name them. docs/http.md lists them.
var identityFields = []string{
	"Authorization", "Api-Key", "Apikey", "Subscription-Key", "Auth-Key",
	"Access-Token", "Auth-Token", "Security-Token", "Private-Token", "Job-Token", "Deploy-Token", "Vault-Token",
}

// saysWho reports whether a field carries an identity by its name.
func saysWho(name string) bool {
	for _, end := range identityFields {
		if at := len(name) - len(end); at >= 0 && sameField(name[at:], end) {
			return true
		}
	}
	return false
}

// identify makes the request out speak for the chosen credential and nobody
// else. What the agent says about itself would reach the endpoint beside the
// gateway's credential, which of the two counts is the endpoint's choice, and so
// an agent could act, or carry data away, under an account of its own.
func (x *exchange) identify(out *http.Request, in injection) {
	endpoint := x.grant.Credential.Endpoint
	for name := range out.Header {
		if name == "Cookie" && endpoint.DropCookies || !endpoint.PassIdentity && saysWho(name) {
			delete(out.Header, name)
		}
	}
	for _, c := range x.offered {
		if s, err := slotOf(c); err == nil && s != in.slot {
			s.put(out, "")
		}
	}
	in.slot.put(out, in.value())
}

// ownedField reports whether a field of a request is the gateway's to set.
func (x *exchange) ownedField(name string) bool {
	if !x.grant.Credential.Endpoint.PassIdentity && saysWho(name) {
		return true
	}
	for _, c := range x.offered {
		if s, err := slotOf(c); err != nil || s.header != "" && sameField(name, s.header) {
			return true
		}
	}
	return false
}

// choose returns how the request picks among several credentials: the one whose
// placeholder stands in its slot. None and more than one are nil.
func (x *exchange) choose(credentials []*policy.Credential) *policy.Credential {
	x.offered = credentials
	var chosen *policy.Credential
	for _, c := range credentials {
		if !presents(x.r, c) {
			continue
		}
		if chosen != nil {
			return nil
		}
		chosen = c
	}
	return chosen
}

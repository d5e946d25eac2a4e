package policy

import (
	"crypto/x509"
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/crypto/ssh"
)

// readFiles are the files beside gateway.hcl that a policy was compiled with, by
// their absolute names, as what they were read for.
type readFiles struct {
	roots map[string]rootsFile
	known map[string]knownFile
}

type rootsFile struct {
	pool   *x509.CertPool
	digest string // hex SHA-256
}

type knownFile struct {
	callback ssh.HostKeyCallback
	digest   string // hex SHA-256
}

// CompileDraft compiles text that stands in no file as Compile would if it stood
// in now's. It reads no file and so reveals none: a ca_file or known_hosts_file
// is what now has read under that name, and one that now has not read is an
// error. Nor does it look up any name. What it returns is to be looked at, not
// put in force: the files may have changed since. A webhook's URL that stands
// there as a Source has it is now's.
func CompileDraft(now *Policy, src []byte) (*Policy, hcl.Diagnostics) {
	name := "gateway.hcl"
	if sources := now.Sources(); len(sources) > 0 {
		name = sources[0].Name
	}
	if now == nil {
		now = &Policy{}
	}
	next, diags := compile(name, src, &now.read)
	if next != nil && next.Gateway.Webhook.URL == maskURL(now.Gateway.Webhook.URL) {
		next.Gateway.Webhook.URL = now.Gateway.Webhook.URL // as Source has it
	}
	return next, diags
}

// unchecked reports a file that a draft names and that only the gateway's own
// reading could tell of.
func (c *compiler) unchecked(v value, attribute, path string) {
	c.invalid(v.rng, attribute, fmt.Errorf("cannot be checked here: %q is not one the policy in force reads as %s. Put the file in place, and check with clawpatrol validate on the gateway's host", clip(path), attribute))
}

package policy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	maxHosts  = 1024    // hosts of one endpoint
	maxCAFile = 1 << 20 // bytes
)

// endpointType is what an endpoint's type label chooses.
type endpointType struct {
	name  string
	port  uint16 // of a host without one
	build func(*compiler, *Endpoint, section)
	schema
}

// commonEndpoint is what every type of endpoint has.
var commonEndpoint = []attribute{
	{name: "hosts", kind: stringListKind, required: true},
	{name: "address", kind: stringKind},
}

var endpointTypes = []endpointType{
	{
		name:  "https",
		port:  443,
		build: (*compiler).https,
		schema: schema{attributes: slices.Concat(commonEndpoint, []attribute{
			{name: "ca_file", kind: stringKind},
			{name: "cookies", kind: stringKind, oneOf: []string{"strip", "pass", "none"}},
			{name: "identity", kind: stringKind, oneOf: []string{"strip", "pass"}},
		})},
	},
	{
		name:  "ssh",
		port:  22,
		build: (*compiler).ssh,
		schema: schema{attributes: slices.Concat(commonEndpoint, []attribute{
			{name: "host_keys", kind: wordOrListKind, oneOf: []string{approveHostKeys}},
			{name: "known_hosts_file", kind: stringKind},
			{name: "host_ca", kind: stringListKind},
			{name: "env", kind: stringListKind},
			{name: "forward", kind: stringListKind},
			{name: "jump", kind: refKind},
			{name: "record", kind: boolKind},
		})},
	},
	{
		name:  "postgres",
		port:  5432,
		build: (*compiler).postgres,
		schema: schema{attributes: slices.Concat(commonEndpoint, []attribute{
			{name: "tls", kind: stringKind, oneOf: []string{verifyFull, disableTLS}},
			{name: "ca_file", kind: stringKind},
			{name: "options", kind: stringListKind},
			{name: "replication", kind: boolKind},
			{name: "log_literals", kind: boolKind},
		})},
	},
}

func endpointTypeNames() []string {
	var names []string
	for _, t := range endpointTypes {
		names = append(names, t.name)
	}
	return names
}

// hostPlace is which endpoint claims a host, and where.
type hostPlace struct {
	ref string
	rng hcl.Range
}

func (c *compiler) endpoint(b *hclsyntax.Block) {
	labels, ok := c.labels(b, []string{"type", "name"})
	if !ok {
		return
	}
	ref := labels[0].text + "." + labels[1].text
	if !c.declare("endpoint", ref, b.DefRange()) {
		return
	}
	c.endpoints[ref] = nil
	i := slices.IndexFunc(endpointTypes, func(t endpointType) bool { return t.name == labels[0].text })
	if i < 0 {
		c.unknownType("endpoint", labels[0], endpointTypeNames())
		return
	}
	t := endpointTypes[i]

	before := len(c.diags)
	s := c.section(b.Body, b.DefRange(), fmt.Sprintf("An endpoint of type %q", t.name), t.schema)
	e := &Endpoint{Type: t.name, Name: labels[1].text}
	fp := newFingerprint("endpoint", e.Type, e.Name)
	c.endpointHosts(e, s, t)
	for _, h := range e.Hosts {
		fp.add("host", h.Name, strconv.Itoa(int(h.Port)))
	}
	if v, ok := s.has("address"); ok {
		ap, err := parseAddrPort(v.text, 0)
		if err != nil {
			c.invalid(v.rng, "address", err)
		} else {
			e.Address = ap
			c.keepOutside(ap.Addr(), v.rng, "address "+v.text)
			fp.add("address", ap.String())
		}
	}
	t.build(c, e, s)
	if e.RootCAs != nil {
		fp.add("ca", e.rootsDigest)
	}
	fp.add("cookies", strconv.FormatBool(e.PassCookies))
	if e.DropCookies {
		fp.add("cookies", "none")
	}
	if e.PassIdentity {
		fp.add("identity", "pass")
	}
	if e.SSH != nil {
		e.SSH.fingerprint(fp)
	}
	if e.Postgres != nil {
		e.Postgres.fingerprint(fp)
	}
	if len(c.diags) > before {
		return
	}
	e.Fingerprint = fp.sum()
	if v, ok := s.has("jump"); ok {
		c.jumps = append(c.jumps, jumpPlace{e, v, fp})
	}
	c.endpoints[ref] = e
	c.policy.Endpoints = append(c.policy.Endpoints, e)
}

func (c *compiler) endpointHosts(e *Endpoint, s section, t endpointType) {
	v, ok := s.has("hosts")
	if !ok {
		return
	}
	if len(v.items) > maxHosts {
		c.errorf(v.rng, "Too many hosts", "An endpoint has at most %d hosts; this one has %d.", maxHosts, len(v.items))
		return
	}
	if len(v.items) == 0 {
		c.errorf(v.rng, "Invalid hosts", "An endpoint has at least one host.")
	}
	for _, item := range v.items {
		h, err := parseHost(item.text, t.port)
		if err != nil {
			c.invalid(item.rng, "hosts", err)
			continue
		}
		if first, ok := c.hosts[h]; ok {
			detail := fmt.Sprintf("%s belongs to %s already", hostText(h), first.ref)
			c.duplicate(item.rng, first.rng, "Host listed twice", detail)
			continue
		}
		c.hosts[h] = hostPlace{e.Ref(), item.rng}
		e.Hosts = append(e.Hosts, h)
		if a, ok := h.addr(); ok {
			c.keepOutside(a, item.rng, "The host "+item.text)
		}
	}
}

// https reads what only this type has.
func (c *compiler) https(e *Endpoint, s section) {
	cookies := s.text("cookies", "strip")
	e.PassCookies, e.DropCookies = cookies == "pass", cookies == "none"
	e.PassIdentity = s.text("identity", "strip") == "pass"
	c.caFile(e, s)
}

// caFile reads ca_file, for the types that have it.
func (c *compiler) caFile(e *Endpoint, s section) {
	v, ok := s.has("ca_file")
	if !ok {
		return
	}
	if v.text == "" {
		c.errorf(v.rng, "Invalid ca_file", "ca_file is empty.")
		return
	}
	path := c.path(v.text)
	if c.draft != nil {
		f, ok := c.draft.roots[path]
		if !ok {
			c.unchecked(v, "ca_file", path)
			return
		}
		e.RootCAs, e.rootsDigest = f.pool, f.digest
		return
	}
	b, err := readFile(path, maxCAFile)
	if err != nil {
		c.invalid(v.rng, "ca_file", fmt.Errorf("it cannot be read: %w", err))
		return
	}
	e.RootCAs, err = parseCertificates(b)
	if err != nil {
		c.invalid(v.rng, "ca_file", fmt.Errorf("%s %w", path, err))
		return
	}
	digest := sha256.Sum256(b)
	e.rootsDigest = hex.EncodeToString(digest[:])
	c.policy.files = append(c.policy.files, path)
	c.policy.read.roots[path] = rootsFile{e.RootCAs, e.rootsDigest}
}

// parseCertificates reads a file of PEM certificates. Anything else in PEM is an
// error: a private key in a ca_file is a mistake to learn of.
func parseCertificates(b []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	n := 0
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %q; only certificates belong there", clip(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a damaged certificate, number %d: %w", n+1, err)
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("holds no certificate in PEM form")
	}
	return pool, nil
}

// unknownType reports a type label that is not one of valid.
func (c *compiler) unknownType(what string, l label, valid []string) {
	c.errorf(l.rng, "Unknown type", "There is no %s of type %q; there is %s.%s", what, clip(l.text), orList(valid), didYouMean(l.text, valid))
}

// Package policy turns gateway.hcl into one immutable Policy, and says what a
// registration's profiles reach under it.
//
// Compile reads the whole file or refuses it: every word it does not know, every
// value that makes no sense and every reference that leads nowhere is an
// hcl.Diagnostic with its place, and then there is no Policy at all. Nothing is
// accepted and ignored. docs/configuration.md describes the file.
//
// A Scope is what a set of profiles reaches together. Match is the one question
// the data path asks of it: which endpoint is at this host and port, and which
// credentials may be used there. It answers from the named profiles alone; what
// another profile holds is as if it did not exist (I06). A name that the policy
// has no profile for grants nothing, and is reported, so that a request fails
// instead of going out without the credential it was meant to have (I21).
//
// Load, Watch and CheckFile are for the file itself: bounded reading, replacement
// by an atomic rename only (I18), and who may write it (I22).
package policy

import (
	"crypto/x509"
	"net/netip"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// Policy is a compiled gateway.hcl. It is immutable: a reload makes a new one.
// The zero Policy has no endpoint, no credential and no profile, and so grants
// nothing.
type Policy struct {
	Gateway   Gateway
	WireGuard WireGuard
	DNS       DNS
	Egress    Egress

	// In file order.
	Endpoints   []*Endpoint
	Credentials []*Credential
	Profiles    []*Profile

	index *index   // of Endpoints; nil in a Policy that Compile did not make
	files []string // read besides the policy file itself

	sources      []Source
	declarations []Declaration
	read         readFiles // what files was read as
}

// Gateway is the gateway block.
type Gateway struct {
	Mode            string // "remote" (the only one so far)
	StateDir        string
	Listen          string // public listener, host:port
	PublicURL       string // https://host:port, no trailing slash
	Enrolment       Enrolment
	DashboardListen string
	DashboardURL    string  // without a slash at its end; empty: it listens on every address, and nothing says where it is reached
	Webhook         Webhook // zero: nothing is announced
	TLSCertFile     string  // tls block; empty: the local CA issues the leaf
	TLSKeyFile      string
	ActionLog       ActionLog
}

// Enrolment says who may open a registration. The zero value is nobody.
type Enrolment string

// The values of gateway.enrolment.
const (
	EnrolmentOpen   Enrolment = "open"   // everyone; without an invite's approval they wait for an operator's
	EnrolmentInvite Enrolment = "invite" // who has an invite
	EnrolmentClosed Enrolment = "closed" // nobody
)

// ActionLog is the action_log block: how much of the log stays. A zero field
// leaves it to the registry.
type ActionLog struct {
	Keep    time.Duration
	MaxSize int64 // bytes
}

// WireGuard is the wireguard block.
type WireGuard struct {
	Listen   string         // UDP host:port
	Endpoint string         // what agent hosts dial, host:port
	Subnets  []netip.Prefix // one IPv4 and one IPv6 prefix, masked, IPv4 first
}

// DNS is the dns block.
type DNS struct {
	Upstream []netip.AddrPort // empty: the gateway host's resolvers
}

// Egress is the egress block.
type Egress struct {
	DenyUnknown bool             // unknown = "deny"
	Allow       []netip.Prefix   // exceptions to the private-range refusal
	AllowExact  []netip.AddrPort // ip:port entries; these also lift the ranges that need an exact one
}

// Endpoint is a destination the policy names.
type Endpoint struct {
	Type         string // "https", "ssh", "postgres"
	Name         string
	Hosts        []Host
	Address      netip.AddrPort // where to dial instead of resolving the host; zero: resolve
	RootCAs      *x509.CertPool // nil: the system's roots
	PassCookies  bool           // cookies = "pass": Set-Cookie reaches agents
	DropCookies  bool           // cookies = "none": nor do cookies of agents reach the endpoint
	PassIdentity bool           // identity = "pass"
	SSH          *SSH           // of type "ssh" only
	Postgres     *Postgres      // of type "postgres" only

	// Fingerprint changes whenever any setting of the endpoint does (the
	// contents of ca_file and known_hosts_file, and the jump's, included). Pools and live flows compare it.
	Fingerprint string

	rootsDigest string // hex SHA-256 of ca_file, for Fingerprint
}

// Ref returns "type.name".
func (e *Endpoint) Ref() string { return e.Type + "." + e.Name }

// Host is one entry of an endpoint's hosts: a canonical host name (lower case,
// IDNA ASCII form, no trailing dot, no port), "*.example.com" for one label, or
// the canonical text of an IP address.
type Host struct {
	Name string
	Port uint16
}

// Credential is what the gateway presents to an endpoint. The secret itself is
// in the registry, under Ref and one of Slots.
type Credential struct {
	Type        string // "bearer", "basic", "header", "query", "cookie", "ssh_key", "ssh_password", "postgres"
	Name        string
	Endpoint    *Endpoint
	Username    string // basic
	User        string // ssh_key, ssh_password, postgres: who to be upstream; empty: one of Users, as the agent asks
	Users       []string
	Databases   []string // postgres: which databases; the first is the default
	MapMismatch bool     // postgres: who asks for another user or database gets this user, and the first database
	ReadOnly    bool     // postgres: no statement that writes
	Header      string   // header: canonical MIME form
	Parameter   string   // query: the parameter's name, decoded
	Cookie      string   // cookie: the cookie's name
	Env         string   // environment variable `clawpatrol env` exports the placeholder under; may be empty
	Placeholder string   // never empty
	Wildcard    bool     // reaches the endpoint's wildcard hosts too

	Fingerprint string // changes whenever any setting of the credential does
}

// Ref returns "type.name".
func (c *Credential) Ref() string { return c.Type + "." + c.Name }

// Slot is one secret value a credential type needs.
type Slot struct {
	Name     string
	Optional bool
}

// Profile is a named set of credentials.
type Profile struct {
	Name        string
	Credentials []*Credential
	Default     bool // pre-ticked at approval; never assigned without one
}

// Options is what Compile needs from outside the file.
type Options struct {
	// Secret resolves {{secret:NAME}}; nil means that every such reference is an
	// error. It returns a zero Secret where there is none of that name.
	Secret func(name string) secret.Secret
}

// Match is what a registration has at one host and port.
type Match struct {
	Endpoint *Endpoint
	Host     string // the concrete host name asked for, canonical; with a wildcard this is not the pattern
	Port     uint16
	// Credentials of the registration's profiles for this endpoint and host, in
	// file order, without duplicates. Never empty unless MissingProfile is set.
	Credentials []*Credential
	// MissingProfile names an assigned profile that the policy no longer has.
	// It is set only for an endpoint that is in the scope for no other reason:
	// whoever serves the match must fail with "profile_missing".
	MissingProfile string
}

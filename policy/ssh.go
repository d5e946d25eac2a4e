package policy

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	maxHostKeys   = 64      // of one endpoint, and as many host CAs
	maxKnownHosts = 1 << 20 // bytes of a known_hosts_file
	maxEnvNames   = 64      // entries of env
	maxForwards   = 256     // entries of forward
	maxJumps      = 4       // endpoints between the gateway and a host
)

// defaultSSHEnv is what agents may set where the policy does not say: what
// Debian's sshd accepts, and nothing that changes what a command does.
var defaultSSHEnv = []string{"LANG", "LC_*"}

// approveHostKeys is the word of host_keys that leaves unknown keys to an operator.
const approveHostKeys = "approve"

// SSH is what only an endpoint of type "ssh" has: how its upstream's host key is
// verified, and what agents may ask of it.
type SSH struct {
	// HostKeys are accepted as they are, whatever host of the endpoint shows them.
	HostKeys []ssh.PublicKey
	// HostCAs sign host certificates (OpenSSH PROTOCOL.certkeys) that are accepted
	// where the host is among their principals.
	HostCAs []ssh.PublicKey
	// KnownHosts verifies by known_hosts_file; nil without one. Its errors are
	// those of golang.org/x/crypto/ssh/knownhosts.
	KnownHosts ssh.HostKeyCallback
	// ApproveHostKeys says that a key which nothing above accepts is an operator's
	// to accept: host_keys = "approve". Otherwise it is refused.
	ApproveHostKeys bool

	Env     []string  // variables that agents may set; "LC_*" for all that begin so
	Forward []Host    // where direct-tcpip may lead; empty: nowhere
	Jump    *Endpoint // the endpoint of type "ssh" through which hosts are reached; may be nil
	Record  bool      // sessions are recorded

	knownHostsDigest string // hex SHA-256 of known_hosts_file, for the Fingerprint
}

// jumpPlace is a jump that waits until every endpoint has been read.
type jumpPlace struct {
	endpoint *Endpoint
	to       value
	print    fingerprint // of endpoint, without its jump
}

// ssh reads what only this type has.
func (c *compiler) ssh(e *Endpoint, s section) {
	x := &SSH{Env: defaultSSHEnv}
	e.SSH = x
	if v, ok := s.has("host_keys"); ok {
		if x.ApproveHostKeys = v.text == approveHostKeys; !x.ApproveHostKeys {
			x.HostKeys = c.publicKeys(v, "host_keys")
		}
	}
	if v, ok := s.has("host_ca"); ok {
		x.HostCAs = c.publicKeys(v, "host_ca")
	}
	if v, ok := s.has("known_hosts_file"); ok {
		c.knownHosts(x, v)
	}
	if !s.present["host_keys"] && !s.present["host_ca"] && !s.present["known_hosts_file"] {
		c.errorf(s.header, "Missing attribute", "An endpoint of type \"ssh\" needs host_keys, known_hosts_file or host_ca, to know its host by; or host_keys = %q, and an operator decides when it is first reached.", approveHostKeys)
	}
	if v, ok := s.has("known_hosts_file"); ok && x.KnownHosts != nil && !s.present["host_keys"] && !s.present["host_ca"] && !knowsAny(x.KnownHosts, e.Hosts) {
		c.errorf(v.rng, "Unknown hosts", "%s has no line for any of these hosts, so every connection would be refused. A line for the first begins with %q.",
			clip(v.text), knownhosts.Normalize(hostText(e.Hosts[0])))
	}
	if v, ok := s.has("env"); ok {
		x.Env = c.envNames(v)
	}
	if v, ok := s.has("forward"); ok {
		x.Forward = c.forwards(v)
	}
	if v, ok := s.has("record"); ok {
		x.Record = v.flag
	}
}

// fingerprint adds every setting but jump, which is added when it is known.
func (x *SSH) fingerprint(fp fingerprint) {
	for _, k := range x.HostKeys {
		fp.add("host key", string(k.Marshal()))
	}
	for _, k := range x.HostCAs {
		fp.add("host ca", string(k.Marshal()))
	}
	if x.KnownHosts != nil {
		fp.add("known hosts", x.knownHostsDigest)
	}
	fp.add("approve", strconv.FormatBool(x.ApproveHostKeys))
	fp.add("env", x.Env...)
	for _, h := range x.Forward {
		fp.add("forward", hostText(h))
	}
	fp.add("record", strconv.FormatBool(x.Record))
}

// publicKeys reads a list of public keys, each as it stands in a .pub file.
func (c *compiler) publicKeys(v value, attribute string) []ssh.PublicKey {
	switch {
	case len(v.items) == 0:
		c.errorf(v.rng, "Invalid "+attribute, "There is at least one key in %s.", attribute)
	case len(v.items) > maxHostKeys:
		c.errorf(v.rng, "Too many keys", "There are at most %d keys in %s; here are %d.", maxHostKeys, attribute, len(v.items))
		return nil
	}
	var keys []ssh.PublicKey
	for _, item := range v.items {
		key, err := parsePublicKey(item.text)
		if err == nil && slices.ContainsFunc(keys, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) }) {
			err = errors.New("this key stands in the list already")
		}
		if err != nil {
			c.invalid(item.rng, attribute, err)
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// knownHosts reads known_hosts_file.
func (c *compiler) knownHosts(x *SSH, v value) {
	const attribute = "known_hosts_file"
	if v.text == "" {
		c.errorf(v.rng, "Invalid "+attribute, "%s is empty.", attribute)
		return
	}
	path := c.path(v.text)
	if c.draft != nil {
		f, ok := c.draft.known[path]
		if !ok {
			c.unchecked(v, attribute, path)
			return
		}
		x.KnownHosts, x.knownHostsDigest = f.callback, f.digest
		return
	}
	b, err := readFile(path, maxKnownHosts)
	if err != nil {
		c.invalid(v.rng, attribute, fmt.Errorf("it cannot be read: %w", err))
		return
	}
	x.KnownHosts, err = knownhosts.New(path)
	if err != nil {
		c.invalid(v.rng, attribute, err)
		return
	}
	// The library reads the file by its name. What counts in the Fingerprint is
	// what it has read.
	if again, err := readFile(path, maxKnownHosts); err != nil || !bytes.Equal(b, again) {
		c.invalid(v.rng, attribute, fmt.Errorf("%s changed while it was read; load it again", path))
		return
	}
	digest := sha256.Sum256(b)
	x.knownHostsDigest = hex.EncodeToString(digest[:])
	c.policy.files = append(c.policy.files, path)
	c.policy.read.known[path] = knownFile{x.KnownHosts, x.knownHostsDigest}
}

// knowsAny reports whether a known_hosts file has a line for any of the hosts,
// whatever it says of it. What a wildcard stands for cannot be looked up, so it
// counts as known.
func knowsAny(known ssh.HostKeyCallback, hosts []Host) bool {
	nobodys, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return true
	}
	for _, h := range hosts {
		if h.isWildcard() {
			return true
		}
		var unknown *knownhosts.KeyError
		err := known(hostText(h), &net.TCPAddr{IP: net.IPv4zero}, nobodys)
		if !errors.As(err, &unknown) || len(unknown.Want) > 0 {
			return true
		}
	}
	return len(hosts) == 0 // whose absence is reported elsewhere
}

// envNames reads which variables agents may set: names, or beginnings of names
// with an asterisk behind them.
func (c *compiler) envNames(v value) []string {
	if len(v.items) > maxEnvNames {
		c.errorf(v.rng, "Too many variables", "There are at most %d entries in env; here are %d.", maxEnvNames, len(v.items))
		return nil
	}
	names := []string{}
	for _, item := range v.items {
		name := strings.TrimSuffix(item.text, "*")
		valid := len(item.text) <= maxEnv && item.text != "" &&
			strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" &&
			(name == "" || !isDigit(name[0]))
		if !valid {
			c.errorf(item.rng, "Invalid env", "%q is not a variable's name, nor the beginning of one with a * behind it.", clip(item.text))
			continue
		}
		names = append(names, item.text)
	}
	return names
}

// forwards reads the hosts and ports that direct-tcpip may lead to.
func (c *compiler) forwards(v value) []Host {
	if len(v.items) > maxForwards {
		c.errorf(v.rng, "Too many targets", "There are at most %d entries in forward; here are %d.", maxForwards, len(v.items))
		return nil
	}
	var hosts []Host
	for _, item := range v.items {
		h, err := parseHostPort(item.text, 0)
		if err != nil {
			c.invalid(item.rng, "forward", err)
			continue
		}
		hosts = append(hosts, h)
	}
	return hosts
}

// resolveJumps finds the endpoints that jumps lead through, and completes the
// fingerprints of those that have one: a change of the jump is a change of what
// lies behind it.
func (c *compiler) resolveJumps() {
	waiting := map[*Endpoint]jumpPlace{}
	for _, j := range c.jumps {
		if to := c.jumpTarget(j); to != nil {
			j.endpoint.SSH.Jump = to
			waiting[j.endpoint] = j
		}
	}
	for _, j := range c.jumps {
		n := 0
		for e := j.endpoint; e.SSH.Jump != nil && n <= maxJumps; e = e.SSH.Jump {
			n++
		}
		if n > maxJumps {
			c.errorf(j.to.rng, "Jump too long", "There are at most %d jumps between the gateway and a host, and none leads in a circle.", maxJumps)
			return
		}
	}
	var complete func(e *Endpoint)
	complete = func(e *Endpoint) {
		j, ok := waiting[e]
		if !ok {
			return
		}
		delete(waiting, e)
		complete(e.SSH.Jump)
		j.print.add("jump", e.SSH.Jump.Ref(), e.SSH.Jump.Fingerprint)
		e.Fingerprint = j.print.sum()
	}
	for _, j := range c.jumps {
		complete(j.endpoint)
	}
}

// jumpTarget returns the endpoint a jump names; nil where it cannot be one,
// which is reported unless the endpoint's own block was.
func (c *compiler) jumpTarget(j jumpPlace) *Endpoint {
	if typ, _, _ := strings.Cut(j.to.text, "."); typ != "ssh" && slices.Contains(endpointTypeNames(), typ) {
		c.errorf(j.to.rng, "Wrong type of endpoint", "A jump leads through an endpoint of type \"ssh\", not %q.", typ)
		return nil
	}
	to, declared := c.endpoints[j.to.text]
	if !declared {
		c.errorf(j.to.rng, "Unknown endpoint", "There is no endpoint %s.%s", clip(j.to.text), suggest(c, j.to.text, c.endpoints))
		return nil
	}
	if to == nil {
		return nil
	}
	if len(to.Hosts) != 1 || to.Hosts[0].isWildcard() {
		c.errorf(j.to.rng, "Invalid jump", "A jump leads through one host; %s has a wildcard, or several.", to.Ref())
		return nil
	}
	return to
}

package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// maxHolds is how often one connection may wait for an operator.
const maxHolds = 2

// HostKeyApprovals is where operators accept host keys that the policy leaves to
// them.
type HostKeyApprovals interface {
	// Accepted returns the accepted keys of a host in wire format.
	Accepted(endpoint, host string, port uint16) [][]byte
	// Hold waits until an operator has accepted the key. Its error says why not, in
	// words fit for the agent.
	Hold(ctx context.Context, r HostKeyRequest) error
}

// HostKeyRequest is a host key that an operator is to decide about.
type HostKeyRequest struct {
	Registration registry.ID
	Endpoint     string
	Host         string
	Port         uint16
	Key          []byte   // wire format
	Known        [][]byte // what was accepted before: not empty where the key has changed
}

// hostKeyCheck verifies the key one host shows. It is used for one connection.
type hostKeyCheck struct {
	endpoint  *policy.Endpoint
	host      string
	port      uint16
	approvals HostKeyApprovals // nil: none

	mu     sync.Mutex
	failed error // of verify; guarded by mu
}

// unknownHostKey is a key that nothing accepts.
type unknownHostKey struct {
	key   xssh.PublicKey
	known []xssh.PublicKey // that would have been
	why   string           // of a certificate; may be empty
}

func (u *unknownHostKey) Error() string { return u.status() }

// status tells both fingerprints, for the log.
func (u *unknownHostKey) status() string {
	word := "host_key_unknown"
	if len(u.known) > 0 {
		word = "host_key_changed"
	}
	return word + ": " + u.fingerprints()
}

func (u *unknownHostKey) fingerprints() string {
	text := "it is " + xssh.FingerprintSHA256(u.key)
	for i, k := range u.known {
		if i == 3 {
			return text + ", ..."
		}
		text += ", not " + xssh.FingerprintSHA256(k)
	}
	return text
}

// address is what known_hosts files are looked up with.
func (h *hostKeyCheck) address() string {
	return net.JoinHostPort(h.host, strconv.Itoa(int(h.port)))
}

// verify is the xssh.HostKeyCallback.
func (h *hostKeyCheck) verify(_ string, _ net.Addr, key xssh.PublicKey) error {
	err := h.judge(key)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.failed = err
	}
	return err
}

// failure is why verify refused a key, or nil. The library may wrap it, or tell
// of the end of the connection instead.
func (h *hostKeyCheck) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

func (h *hostKeyCheck) judge(key xssh.PublicKey) error {
	if err := h.revoked(key); err != nil {
		return err
	}
	x := h.endpoint.SSH
	plain, why := key, ""
	if certificate, ok := key.(*xssh.Certificate); ok {
		err := h.certified(certificate)
		if err == nil {
			return nil
		}
		// As OpenSSH does: a certificate that says nothing is the key in it.
		plain, why = certificate.Key, err.Error()
	}
	if x.KnownHosts != nil && (x.KnownHosts(h.address(), nowhere, key) == nil || x.KnownHosts(h.address(), nowhere, plain) == nil) {
		return nil
	}
	known, _ := h.known()
	for _, k := range known {
		if bytes.Equal(k.Marshal(), plain.Marshal()) {
			return nil
		}
	}
	return &unknownHostKey{key: plain, known: known, why: why}
}

// certified accepts a host certificate of one of the policy's authorities where
// it is for this host, by name or by pattern, and valid now (OpenSSH
// PROTOCOL.certkeys). One for no host in particular is for none.
func (h *hostKeyCheck) certified(certificate *xssh.Certificate) error {
	if certificate.CertType != xssh.HostCert {
		return errors.New("it shows a certificate that is not a host's")
	}
	authority := certificate.SignatureKey.Marshal()
	if !slices.ContainsFunc(h.endpoint.SSH.HostCAs, func(k xssh.PublicKey) bool { return bytes.Equal(k.Marshal(), authority) }) {
		return errors.New("its certificate is signed by an unknown authority")
	}
	for _, principal := range certificate.ValidPrincipals {
		if match, err := path.Match(principal, h.host); err != nil || !match {
			continue
		}
		if new(xssh.CertChecker).CheckCert(principal, certificate) != nil {
			return errors.New("its certificate is not valid now")
		}
		return nil
	}
	return errors.New("its certificate is for another host")
}

// revoked refuses what known_hosts_file marks so: the host's plain key or, of a
// certificate, its authority's. The library looks for certificates as a whole.
func (h *hostKeyCheck) revoked(key xssh.PublicKey) error {
	marked := func(k xssh.PublicKey) bool {
		var revoked *knownhosts.RevokedError
		return errors.As(h.endpoint.SSH.KnownHosts(h.address(), nowhere, k), &revoked)
	}
	if h.endpoint.SSH.KnownHosts == nil {
		return nil
	}
	plain := key
	certificate, ok := key.(*xssh.Certificate)
	if ok {
		plain = certificate.Key
	}
	print := xssh.FingerprintSHA256(plain)
	if marked(plain) {
		return &failure{class: "host_key_revoked", reason: "its host key is revoked", detail: errors.New(print)}
	}
	if ok && marked(certificate.SignatureKey) {
		print += ", signed by " + xssh.FingerprintSHA256(certificate.SignatureKey)
		return &failure{class: "host_key_revoked", reason: "the authority of its host key is revoked", detail: errors.New(print)}
	}
	return nil
}

// nowhere stands for the address that known_hosts files are not looked up with.
var nowhere net.Addr = &net.TCPAddr{IP: net.IPv4zero}

// nobodysKey asks a known_hosts file what it knows.
var nobodysKey = func() xssh.PublicKey {
	key, err := xssh.NewPublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public())
	if err != nil {
		panic(err) // of a constant
	}
	return key
}()

// known returns the plain keys that are accepted, and whether certificates may be.
func (h *hostKeyCheck) known() (keys []xssh.PublicKey, authorities bool) {
	x := h.endpoint.SSH
	keys, authorities = slices.Clone(x.HostKeys), len(x.HostCAs) > 0
	if x.KnownHosts != nil {
		var want *knownhosts.KeyError
		errors.As(x.KnownHosts(h.address(), nowhere, nobodysKey), &want)
		for i := 0; want != nil && i < len(want.Want); i++ {
			key := want.Want[i].Key
			// The library lists authorities among the keys. One is told by a certificate
			// of its that has expired for another reason than that nobody knows it.
			err := x.KnownHosts(h.address(), nowhere, &xssh.Certificate{CertType: xssh.HostCert, Key: nobodysKey, SignatureKey: key})
			if err != nil && !strings.Contains(err.Error(), "no authorities") {
				authorities = true
				continue
			}
			keys = append(keys, key)
		}
	}
	if x.ApproveHostKeys && h.approvals != nil {
		for _, raw := range h.approvals.Accepted(h.endpoint.Ref(), h.host, h.port) {
			if key, err := xssh.ParsePublicKey(raw); err == nil {
				keys = append(keys, key)
			}
		}
	}
	return keys, authorities
}

// algorithms are those of the keys that are known, first; a host that has several
// keys then shows one of these. Any other is there to be told by its fingerprint.
func (h *hostKeyCheck) algorithms() []string {
	var certificates, plain, first []string
	for _, a := range xssh.SupportedAlgorithms().HostKeys {
		if strings.Contains(a, "-cert-") {
			certificates = append(certificates, a)
		} else {
			plain = append(plain, a)
		}
	}
	known, authorities := h.known()
	for _, a := range plain {
		if slices.ContainsFunc(known, func(k xssh.PublicKey) bool {
			return k.Type() == a || k.Type() == xssh.KeyAlgoRSA && strings.HasPrefix(a, "rsa-sha2-")
		}) {
			first = append(first, a)
		}
	}
	plain = slices.DeleteFunc(plain, func(a string) bool { return slices.Contains(first, a) })
	if authorities {
		return slices.Concat(certificates, first, plain)
	}
	return slices.Concat(first, plain, certificates)
}

// hold waits for an operator to accept the key that a hop shows. The error is fit
// for the agent.
func (c *conversation) hold(h hop, u *unknownHostKey) error {
	if !h.endpoint.SSH.ApproveHostKeys || c.handler.approvals == nil {
		reason := "its host key is not one that the policy knows"
		if len(u.known) > 0 {
			reason = "its host key is not the one that the policy knows"
		}
		if u.why != "" {
			reason += " (" + u.why + ")"
		}
		return &failure{class: u.status(), reason: reason + ": " + u.fingerprints(), detail: u}
	}
	r := HostKeyRequest{
		Registration: c.flow.Registration,
		Endpoint:     h.endpoint.Ref(),
		Host:         h.host,
		Port:         h.port,
		Key:          u.key.Marshal(),
	}
	for _, k := range u.known {
		r.Known = append(r.Known, k.Marshal())
	}
	c.notify(fmt.Sprintf("clawpatrol: an operator has to accept the host key of %s first: %s\r\n", target(h.host, h.port), u.fingerprints()))
	if err := c.handler.approvals.Hold(c.ctx, r); err != nil {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		refusal := &proxy.Refusal{Code: "host_key_refused", Reason: "the host key of " + h.host + " was not accepted: " + err.Error()}
		// The connection was allowed before its host showed a key: this is a decision
		// of its own, and found among what was denied.
		c.flow.Refuse(c.ctx, summarize("host key", target(h.host, h.port), ": "+u.fingerprints()), refusal)
		return refusal
	}
	return nil
}

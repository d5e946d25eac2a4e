package ca

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/secret"
)

const (
	sshSeedSize = 32 // bytes

	// A host certificate is made for each connection, so it need not last: long
	// enough for clocks that are wrong, and for what a program keeps of it.
	sshCertAge  = time.Hour          // how long it has been valid already
	sshCertLife = 7 * 24 * time.Hour // how long it still is

	sshCALabel   = "clawpatrol ssh ca v1"
	sshHostLabel = "clawpatrol ssh host key v1 " // and the endpoint's reference
)

// SSH is the gateway's SSH certificate authority and the host keys it shows to
// agents, one for each endpoint. All are ed25519 (I12) and derived from one seed:
// nothing is stored for an endpoint, and its key is the same after every start.
// Safe for concurrent use.
type SSH struct {
	seed      secret.Secret
	authority ssh.Signer

	mu    sync.Mutex
	hosts map[string]ssh.Signer // derived, by endpoint; at most maxSSHHostKeys
}

// maxSSHHostKeys bounds the host keys that are kept: a policy has a few, and
// deriving one again costs some 20 us.
const maxSSHHostKeys = 4096

// NewSSH derives the CA from the registry's seed of 32 bytes.
func NewSSH(seed secret.Secret) (*SSH, error) {
	if len(seed.Reveal()) != sshSeedSize {
		return nil, fmt.Errorf("deriving the SSH CA: a seed has %d bytes", sshSeedSize)
	}
	s := &SSH{seed: seed, hosts: make(map[string]ssh.Signer)}
	var err error
	if s.authority, err = s.derive(sshCALabel); err != nil {
		return nil, fmt.Errorf("deriving the SSH CA: %w", err)
	}
	return s, nil
}

// derive returns the key that label stands for (RFC 5869; RFC 8032, section
// 5.1.5: any 32 bytes are a private key).
func (s *SSH) derive(label string) (ssh.Signer, error) {
	seed, err := hkdf.Key(sha256.New, s.seed.Reveal(), nil, label, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	return ssh.NewSignerFromSigner(ed25519.NewKeyFromSeed(seed))
}

// HostSigners returns the host key of the endpoint with that reference
// ("ssh.build"): plain, and with a certificate (OpenSSH PROTOCOL.certkeys) that
// names exactly host, a DNS name or an IP address without a port. The
// certificate is made by the call and valid for seven days from now.
func (s *SSH) HostSigners(endpointRef, host string) (plain, certificate ssh.Signer, err error) {
	name, err := canonicalHost(host)
	if err != nil {
		return nil, nil, fmt.Errorf("signing a host key: %w", err)
	}
	if plain, err = s.hostKey(endpointRef); err != nil {
		return nil, nil, fmt.Errorf("deriving the host key of %s: %w", endpointRef, err)
	}
	now := time.Now()
	cert := &ssh.Certificate{
		Key:             plain.PublicKey(),
		CertType:        ssh.HostCert,
		KeyId:           name,
		ValidPrincipals: []string{name}, // none would be all of them
		ValidAfter:      uint64(now.Add(-sshCertAge).Unix()),
		ValidBefore:     uint64(now.Add(sshCertLife).Unix()),
	}
	if err = cert.SignCert(rand.Reader, s.authority); err == nil {
		certificate, err = ssh.NewCertSigner(cert, plain)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("signing the host key of %s: %w", endpointRef, err)
	}
	return plain, certificate, nil
}

func (s *SSH) hostKey(endpointRef string) (ssh.Signer, error) {
	if endpointRef == "" {
		return nil, errors.New("no endpoint given")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if key, ok := s.hosts[endpointRef]; ok {
		return key, nil
	}
	key, err := s.derive(sshHostLabel + endpointRef)
	if err != nil {
		return nil, err
	}
	if len(s.hosts) >= maxSSHHostKeys {
		clear(s.hosts)
	}
	s.hosts[endpointRef] = key
	return key, nil
}

// Authority returns the CA's public key: "ssh-ed25519 AAAA…", without a line end.
func (s *SSH) Authority() string { return publicLine(s.authority.PublicKey()) }

// KnownHost returns the line of a known_hosts file, without its line end, for
// programs that know plain host keys only: "host ssh-ed25519 AAAA…", where the
// port is not 22 "[host]:port ssh-ed25519 AAAA…" (sshd(8), SSH_KNOWN_HOSTS FILE
// FORMAT). It is empty for what is no host.
func (s *SSH) KnownHost(endpointRef, host string, port uint16) string {
	name, err := canonicalHost(host)
	if err != nil {
		return ""
	}
	key, err := s.hostKey(endpointRef)
	if err != nil {
		return ""
	}
	if port != 22 {
		name = "[" + name + "]:" + strconv.Itoa(int(port)) // brackets around every host, not only IPv6 addresses
	}
	return name + " " + publicLine(key.PublicKey())
}

func publicLine(key ssh.PublicKey) string {
	return key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal())
}

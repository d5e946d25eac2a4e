package policy

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// minRSABits is the shortest RSA key that is accepted of host_keys, of host_ca and
// as a credential's: OpenSSH generates none shorter by default, and NIST SP
// 800-131A disallows them. What a known_hosts_file names or an operator accepts is
// not measured.
const minRSABits = 2048

// parsePublicKey reads a public key as it stands in a .pub file: its type, the
// key in base64, and perhaps a comment. Errors are sentences for the operator.
func parsePublicKey(s string) (ssh.PublicKey, error) {
	const form = "write it as in a .pub file: ssh-ed25519 AAAA…"
	fields := strings.Fields(s)
	switch {
	case strings.HasPrefix(s, "SHA256:") || strings.HasPrefix(s, "MD5:"):
		return nil, errors.New("this is a key's fingerprint; the key itself belongs here, " + form)
	case len(fields) < 2:
		return nil, errors.New("this is not a public key; " + form)
	case !strings.HasPrefix(fields[1], "AAAA") && len(fields) > 2 && strings.HasPrefix(fields[2], "AAAA"):
		return nil, errors.New("this begins with a host's name, as in a known_hosts file: leave it out, and " + form)
	}
	raw, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return nil, errors.New("the key is not whole: its second word is not base64")
	}
	key, err := ssh.ParsePublicKey(raw)
	if err != nil {
		return nil, errors.New("the key is damaged, or of a type that is not supported")
	}
	if key.Type() != fields[0] {
		return nil, fmt.Errorf("the key is of type %q, but %q stands before it", clip(key.Type()), clip(fields[0]))
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, errors.New("this is a certificate; the key of the CA that signed it belongs in host_ca")
	}
	return key, strongKey(key)
}

// strongKey refuses key types and lengths that are not to be relied on.
func strongKey(key ssh.PublicKey) error {
	switch key.Type() {
	case "ssh-dss":
		return errors.New("this is a DSA key, which is too weak; use ed25519")
	case ssh.KeyAlgoRSA:
		pub, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return errors.New("this RSA key cannot be read")
		}
		if n, ok := pub.CryptoPublicKey().(*rsa.PublicKey); !ok || n.N.BitLen() < minRSABits {
			return fmt.Errorf("this RSA key is too short: it has less than %d bits; use ed25519", minRSABits)
		}
	}
	return nil
}

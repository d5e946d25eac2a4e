package policy

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/secret"
)

// The slots of a credential of type "ssh_key".
const (
	slotPrivateKey  = "private_key"
	slotPassphrase  = "passphrase"
	slotCertificate = "certificate"
)

// checkSSHKey wants a private key with its passphrase, and a certificate for it.
func (c *Credential) checkSSHKey(slots map[string]secret.Secret) error {
	key := slots[slotPrivateKey]
	if len(key.Reveal()) == 0 {
		return &SlotError{slotPrivateKey, "the private key is missing; a passphrase and a certificate are set together with it"}
	}
	signer, err := parsePrivateKey(key.Reveal(), slots[slotPassphrase].Reveal())
	if err != nil {
		return err
	}
	if err := strongKey(signer.PublicKey()); err != nil {
		return &SlotError{slotPrivateKey, err.Error()}
	}
	if certificate := slots[slotCertificate]; len(certificate.Reveal()) > 0 {
		if err := checkCertificate(certificate.Reveal(), signer.PublicKey(), time.Now()); err != nil {
			return &SlotError{slotCertificate, err.Error()}
		}
	}
	return nil
}

// parsePrivateKey reads a private key with the passphrase it needs, and refuses
// one it does not need: that belongs to another key. The library's errors are not
// passed on, because they may quote what they could not read.
func parsePrivateKey(key, passphrase []byte) (ssh.Signer, error) {
	block, rest := pem.Decode(key)
	switch {
	case block == nil && bytes.HasPrefix(bytes.TrimSpace(key), []byte("ssh-")):
		return nil, &SlotError{slotPrivateKey, "this is a public key; the private one belongs here"}
	case block == nil && bytes.HasPrefix(bytes.TrimSpace(key), []byte("PuTTY-User-Key-File")):
		return nil, &SlotError{slotPrivateKey, "this is a key in PuTTY's form; convert it with puttygen KEY -O private-openssh"}
	case block == nil:
		return nil, &SlotError{slotPrivateKey, "this is not a private key in PEM form, or not all of it: it begins with -----BEGIN and ends with a line -----END …-----"}
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, &SlotError{slotPrivateKey, "keys encrypted as PKCS #8 cannot be read; convert it with ssh-keygen -p -f KEY"}
	case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, &SlotError{slotPrivateKey, "what is in this PEM block is not a private key"}
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, &SlotError{slotPrivateKey, "there is more than one key, or something behind it; one private key belongs here"}
	}
	signer, err := ssh.ParsePrivateKey(key)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		if len(passphrase) == 0 {
			return nil, &SlotError{slotPassphrase, "the private key is protected by a passphrase, and there is none"}
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(key, passphrase)
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, &SlotError{slotPassphrase, "this is not the private key's passphrase"}
		}
	} else if err == nil && len(passphrase) > 0 {
		return nil, &SlotError{slotPassphrase, "the private key has no passphrase"}
	}
	if err != nil {
		return nil, &SlotError{slotPrivateKey, "the private key is damaged, or of a kind that is not supported: RSA, ECDSA and ed25519 are"}
	}
	return signer, nil
}

// checkCertificate refuses what is not a certificate that a user presents with
// key (OpenSSH PROTOCOL.certkeys), at a time when it is still good.
func checkCertificate(line []byte, key ssh.PublicKey, now time.Time) error {
	fields := bytes.Fields(line)
	if len(fields) < 2 || !bytes.Contains(fields[0], []byte("-cert-v01@openssh.com")) {
		return errors.New("this is not a certificate as in a file -cert.pub: one line that begins with ssh-…-cert-v01@openssh.com")
	}
	if len(bytes.Split(bytes.TrimSpace(line), []byte("\n"))) > 1 {
		return errors.New("there is more than one line; one certificate belongs here")
	}
	raw, err := base64.StdEncoding.DecodeString(string(fields[1]))
	if err != nil {
		return errors.New("the certificate is not whole: its second word is not base64")
	}
	parsed, err := ssh.ParsePublicKey(raw)
	if err != nil {
		return errors.New("the certificate is damaged")
	}
	cert, ok := parsed.(*ssh.Certificate)
	switch {
	case !ok:
		return errors.New("this is a plain key, not a certificate")
	case cert.CertType != ssh.UserCert:
		return errors.New("this is a host's certificate; a user's belongs here")
	case !bytes.Equal(cert.Key.Marshal(), key.Marshal()):
		return errors.New("the certificate is for another key than the private key")
	case cert.ValidBefore != ssh.CertTimeInfinity && now.Unix() >= 0 && uint64(now.Unix()) >= cert.ValidBefore:
		return errors.New("the certificate has expired")
	}
	return nil
}

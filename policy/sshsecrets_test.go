package policy_test

import (
	"crypto/dsa" //lint:ignore SA1019 one is needed to see it refused
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/secret"
)

// sshKey returns a private key in OpenSSH's form.
func sshKey(t testing.TB, key any, passphrase string) string {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "comment")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "comment", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sshCertificate returns the line of a -cert.pub file for key.
func sshCertificate(t testing.TB, key ed25519.PrivateKey, change func(*ssh.Certificate)) string {
	t.Helper()
	authority, err := ssh.NewSignerFromKey(newEd25519(t))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: pub, CertType: ssh.UserCert, KeyId: "id", ValidBefore: ssh.CertTimeInfinity}
	change(cert)
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(cert))
}

// A private key, passphrase or certificate that cannot work is refused when it
// is set, with the slot that is wrong and nothing of the value.
func TestI02_WrongSSHSecretsAreRefusedWithoutQuotingThem(t *testing.T) {
	c := compile(t, `
endpoint "ssh" "build" {
  hosts     = ["build.example.com"]
  host_keys = "approve"
}
credential "ssh_key" "deploy" {
  endpoint = ssh.build
  user     = "deploy"
}
`).Credential("ssh_key.deploy")

	ed := newEd25519(t)
	plain, locked := sshKey(t, ed, ""), sshKey(t, ed, "opensesame")
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(long)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(long)}))
	good := sshCertificate(t, ed, func(*ssh.Certificate) {})

	for name, test := range map[string]struct {
		key, passphrase, certificate string
		slot, reason                 string // of the refusal; empty: accepted
	}{
		"ed25519":     {key: plain},
		"ecdsa":       {key: sshKey(t, ec, "")},
		"rsa":         {key: sshKey(t, long, "")},
		"pkcs1":       {key: pkcs1},
		"pkcs8":       {key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))},
		"passphrase":  {key: locked, passphrase: "opensesame"},
		"certificate": {key: plain, certificate: good},
		"later":       {key: plain, certificate: sshCertificate(t, ed, func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(time.Hour).Unix()) })},
		"crlf":        {key: strings.ReplaceAll(plain, "\n", "\r\n")},
		"blanks":      {key: "\n  \n" + plain + "\n\n"},

		"nothing":          {passphrase: "opensesame", slot: "private_key", reason: "missing"},
		"no key":           {key: "hunter2-is-no-key", slot: "private_key", reason: "PEM"},
		"half a key":       {key: plain[:len(plain)/2], slot: "private_key", reason: "not all of it"},
		"public key":       {key: "ssh-ed25519 AAAAhunter2", slot: "private_key", reason: "public key"},
		"putty":            {key: "PuTTY-User-Key-File-3: ssh-ed25519\nhunter2", slot: "private_key", reason: "puttygen"},
		"wrong PEM":        {key: certificate(t, 1), slot: "private_key", reason: "not a private key"},
		"encrypted pkcs8":  {key: "-----BEGIN ENCRYPTED PRIVATE KEY-----\naHVudGVyMg==\n-----END ENCRYPTED PRIVATE KEY-----\n", slot: "private_key", reason: "ssh-keygen -p"},
		"damaged":          {key: "-----BEGIN OPENSSH PRIVATE KEY-----\naHVudGVyMg==\n-----END OPENSSH PRIVATE KEY-----\n", slot: "private_key", reason: "damaged"},
		"two keys":         {key: plain + plain, slot: "private_key", reason: "more than one"},
		"no passphrase":    {key: locked, slot: "passphrase", reason: "there is none"},
		"wrong passphrase": {key: locked, passphrase: "hunter2", slot: "passphrase", reason: "not the private key's"},
		"extra passphrase": {key: plain, passphrase: "hunter2", slot: "passphrase", reason: "has no passphrase"},
		"short rsa":        {key: shortRSA(t), slot: "private_key", reason: "too short"},
		"dsa":              {key: dsaKey(t), slot: "private_key", reason: "DSA"},
		"other key's":      {key: sshKey(t, newEd25519(t), ""), certificate: good, slot: "certificate", reason: "another key"},
		"host's":           {key: plain, certificate: sshCertificate(t, ed, func(c *ssh.Certificate) { c.CertType = ssh.HostCert }), slot: "certificate", reason: "host's"},
		"expired":          {key: plain, certificate: sshCertificate(t, ed, func(c *ssh.Certificate) { c.ValidBefore = 1 }), slot: "certificate", reason: "expired"},
		"no certificate":   {key: plain, certificate: "hunter2", slot: "certificate", reason: "-cert.pub"},
		"bad base64":       {key: plain, certificate: "ssh-ed25519-cert-v01@openssh.com hunter2!", slot: "certificate", reason: "base64"},
		"bad certificate":  {key: plain, certificate: "ssh-ed25519-cert-v01@openssh.com aHVudGVyMg==", slot: "certificate", reason: "damaged"},
		"two certificates": {key: plain, certificate: good + good, slot: "certificate", reason: "more than one line"},
	} {
		t.Run(name, func(t *testing.T) {
			slots := map[string]secret.Secret{}
			for slot, value := range map[string]string{"private_key": test.key, "passphrase": test.passphrase, "certificate": test.certificate} {
				if value != "" {
					slots[slot] = secret.New([]byte(value))
				}
			}
			err := c.CheckSecrets(slots)
			if test.slot == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var wrong *policy.SlotError
			if !errors.As(err, &wrong) || wrong.Slot != test.slot || !strings.Contains(wrong.Reason, test.reason) {
				t.Fatalf("%v, want slot %s and %q", err, test.slot, test.reason)
			}
			text := fmt.Sprintf("%v %+v %#v", err, err, err)
			for _, leak := range []string{"hunter2", "aHVudGVyMg", "opensesame"} {
				if strings.Contains(text, leak) {
					t.Errorf("the error quotes the value: %s", text)
				}
			}
		})
	}
	if !c.SetTogether() {
		t.Error("the slots of an ssh_key can be set one by one")
	}
}

// shortRSA returns a key that Go itself would not make any more.
func shortRSA(t testing.TB) string {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return sshKey(t, key, "")
}

// dsaKey returns a key in OpenSSL's form.
func dsaKey(t testing.TB) string {
	t.Helper()
	var key dsa.PrivateKey
	if err := dsa.GenerateParameters(&key.Parameters, rand.Reader, dsa.L1024N160); err != nil {
		t.Fatal(err)
	}
	if err := dsa.GenerateKey(&key, rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		Version       int
		P, Q, G, Y, X *big.Int
	}{0, key.P, key.Q, key.G, key.Y, key.X})
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY", Bytes: der}))
}

// FuzzCheckSecrets checks arbitrary values: no panic, and a refusal names one of
// the slots.
func FuzzCheckSecrets(f *testing.F) {
	ed := newEd25519(f)
	certificate := sshCertificate(f, ed, func(*ssh.Certificate) {})
	f.Add([]byte(sshKey(f, ed, "")), []byte(nil), []byte(certificate))
	f.Add([]byte(sshKey(f, ed, "opensesame")), []byte("opensesame"), []byte(nil))
	f.Add([]byte(dsaKey(f)), []byte("x"), []byte("ssh-ed25519-cert-v01@openssh.com AAAA"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"), []byte("x"), []byte(nil))
	c := &policy.Credential{Type: "ssh_key", Name: "x"}
	f.Fuzz(func(t *testing.T, key, passphrase, certificate []byte) {
		err := c.CheckSecrets(map[string]secret.Secret{
			"private_key": secret.New(key), "passphrase": secret.New(passphrase), "certificate": secret.New(certificate),
		})
		var wrong *policy.SlotError
		if err != nil && (!errors.As(err, &wrong) || wrong.Slot == "" || wrong.Reason == "") {
			t.Fatalf("%v", err)
		}
	})
}

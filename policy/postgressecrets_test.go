package policy_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/secret"
)

// clientCertificate returns a certificate for key, and key, both in PEM.
func clientCertificate(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) (certificatePEM, keyPEM string) {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "orders_ro"},
		NotBefore:    time.Now().Add(-2 * time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return inPEM("CERTIFICATE", der), inPEM("PRIVATE KEY", pkcs8)
}

func inPEM(kind string, b []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
}

// A password, certificate or key that cannot work is refused when it is set,
// with the slot that is wrong and nothing of the value.
func TestI02_WrongPostgresSecretsAreRefusedWithoutQuotingThem(t *testing.T) {
	p := compile(t, postgresEndpoint("")+`
endpoint "postgres" "local" {
  hosts   = ["local.example.com"]
  address = "127.0.0.1:5432"
  tls     = "disable"
}
credential "postgres" "far" {
  endpoint  = postgres.a
  user      = "orders_ro"
  databases = ["orders"]
}
credential "postgres" "near" {
  endpoint  = postgres.local
  user      = "orders_ro"
  databases = ["orders"]
}
`)
	ed := newEd25519(t)
	cert, key := clientCertificate(t, ed, func(*x509.Certificate) {})
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaCert, rsaKey := clientCertificate(t, long, func(*x509.Certificate) {})
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecCert, _ := clientCertificate(t, ec, func(*x509.Certificate) {})
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*x509.Certificate){
		"any":     func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"nothing": func(c *x509.Certificate) { c.ExtKeyUsage = nil },
	} {
		other, _ := clientCertificate(t, ed, change)
		slots := map[string]secret.Secret{"client_certificate": secret.New([]byte(other)), "client_key": secret.New([]byte(key))}
		if err := p.Credential("postgres.far").CheckSecrets(slots); err != nil {
			t.Errorf("a certificate whose extended key usage says %s is refused: %v", name, err)
		}
	}
	expired, _ := clientCertificate(t, ed, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
	server, _ := clientCertificate(t, ed, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	_, otherKey := clientCertificate(t, newEd25519(t), func(*x509.Certificate) {})
	const junk = "aHVudGVyMg==" // hunter2

	for name, test := range map[string]struct {
		password, certificate, key string
		credential                 string // "far" unless given
		slot, reason               string // of the refusal; empty: accepted
	}{
		"password":      {password: "hunter2"},
		"certificate":   {certificate: cert, key: key},
		"both":          {password: "hunter2", certificate: cert, key: key},
		"chain":         {certificate: cert + rsaCert, key: key},
		"rsa":           {certificate: rsaCert, key: rsaKey},
		"pkcs1":         {certificate: rsaCert, key: inPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(long))},
		"sec1":          {certificate: ecCert, key: inPEM("EC PARAMETERS", []byte{6, 0}) + inPEM("EC PRIVATE KEY", sec1)},
		"crlf":          {certificate: strings.ReplaceAll(cert, "\n", "\r\n"), key: strings.ReplaceAll(key, "\n", "\r\n")},
		"text before":   {certificate: "Certificate:\n    Data:\n" + cert + "\n", key: key + "\n"},
		"longest":       {password: strings.Repeat("p", 16<<10)},
		"near password": {password: "hunter2", credential: "near"},

		"nothing":            {slot: "password", reason: "nothing to authenticate with"},
		"too long":           {password: strings.Repeat("p", 16<<10+1), slot: "password", reason: "16 KiB"},
		"NUL":                {password: "hunter2\x00", slot: "password", reason: "NUL"},
		"no key":             {certificate: cert, slot: "client_key", reason: "missing"},
		"no certificate":     {password: "hunter2", key: key, slot: "client_certificate", reason: "missing"},
		"without TLS":        {certificate: cert, key: key, credential: "near", slot: "client_certificate", reason: "disable"},
		"other key":          {certificate: cert, key: otherKey, slot: "client_key", reason: "not the certificate's"},
		"other algorithm":    {certificate: cert, key: rsaKey, slot: "client_key", reason: "not the certificate's"},
		"junk certificate":   {certificate: "hunter2", key: key, slot: "client_certificate", reason: "PEM"},
		"junk key":           {certificate: cert, key: "hunter2", slot: "client_key", reason: "PEM"},
		"half":               {certificate: cert[:len(cert)/2], key: key, slot: "client_certificate", reason: "not all of it"},
		"half a key":         {certificate: cert, key: key[:len(key)/2], slot: "client_key", reason: "not all of it"},
		"damaged":            {certificate: "-----BEGIN CERTIFICATE-----\n" + junk + "\n-----END CERTIFICATE-----\n", key: key, slot: "client_certificate", reason: "damaged"},
		"damaged key":        {certificate: cert, key: "-----BEGIN PRIVATE KEY-----\n" + junk + "\n-----END PRIVATE KEY-----\n", slot: "client_key", reason: "damaged"},
		"swapped":            {certificate: key, key: cert, slot: "client_certificate", reason: "client_key"},
		"certificate as key": {certificate: cert, key: cert, slot: "client_key", reason: "client_certificate"},
		"trailing":           {certificate: cert + "hunter2", key: key, slot: "client_certificate", reason: "behind"},
		"trailing key":       {certificate: cert, key: key + "hunter2", slot: "client_key", reason: "behind"},
		"two keys":           {certificate: cert, key: key + otherKey, slot: "client_key", reason: "more than one"},
		"expired":            {certificate: expired, key: key, slot: "client_certificate", reason: "expired"},
		"server's":           {certificate: server, key: key, slot: "client_certificate", reason: "not for authenticating"},
		"passphrase":         {certificate: cert, key: "-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + junk + "\n-----END ENCRYPTED PRIVATE KEY-----\n", slot: "client_key", reason: "passphrase"},
		"old passphrase":     {certificate: cert, key: "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n" + junk + "\n-----END RSA PRIVATE KEY-----\n", slot: "client_key", reason: "passphrase"},
		"openssh":            {certificate: cert, key: sshKey(t, ed, ""), slot: "client_key", reason: "ssh-keygen"},
	} {
		t.Run(name, func(t *testing.T) {
			c := p.Credential("postgres.far")
			if test.credential != "" {
				c = p.Credential("postgres." + test.credential)
			}
			slots := map[string]secret.Secret{}
			for slot, value := range map[string]string{"password": test.password, "client_certificate": test.certificate, "client_key": test.key} {
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
			for _, leak := range []string{"hunter2", junk[:8], "ppp"} {
				if strings.Contains(text, leak) {
					t.Errorf("the error quotes the value: %s", text)
				}
			}
		})
	}
}

// What a credential needs is stored: every slot that is not optional, and of
// slots that all are, any.
func TestComplete(t *testing.T) {
	for _, test := range []struct {
		typ, set string
		want     bool
	}{
		{"bearer", "", false},
		{"bearer", "secret", true},
		{"ssh_key", "passphrase", false},
		{"ssh_key", "private_key", true},
		{"postgres", "", false},
		{"postgres", "password", true},
		{"postgres", "client_certificate client_key", true},
		{"unheard-of", "secret", false},
	} {
		c := &policy.Credential{Type: test.typ}
		set := strings.Fields(test.set)
		got := c.Complete(func(slot string) bool {
			for _, s := range set {
				if s == slot {
					return true
				}
			}
			return false
		})
		if got != test.want {
			t.Errorf("%s with %q: %t", test.typ, test.set, got)
		}
	}
}

// FuzzCheckPostgresSecrets checks arbitrary values: no panic, and a refusal names
// one of the slots.
func FuzzCheckPostgresSecrets(f *testing.F) {
	cert, key := clientCertificate(f, newEd25519(f), func(*x509.Certificate) {})
	f.Add([]byte("hunter2"), []byte(cert), []byte(key))
	f.Add([]byte(nil), []byte(cert+cert), []byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"+key))
	f.Add([]byte("\x00"), []byte(key), []byte(cert))
	f.Add([]byte(nil), []byte(cert), []byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"))
	c := &policy.Credential{Type: "postgres", Name: "x"}
	f.Fuzz(func(t *testing.T, password, certificate, key []byte) {
		err := c.CheckSecrets(map[string]secret.Secret{
			"password": secret.New(password), "client_certificate": secret.New(certificate), "client_key": secret.New(key),
		})
		var wrong *policy.SlotError
		if err != nil && (!errors.As(err, &wrong) || wrong.Slot == "" || wrong.Reason == "") {
			t.Fatalf("%v", err)
		}
		if err == nil && len(password)+len(certificate) == 0 {
			t.Fatal("nothing to authenticate with is accepted")
		}
	})
}

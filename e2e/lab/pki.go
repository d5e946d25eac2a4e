package lab

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// PKI is the lab's "public" certificate authority: the one the world's servers
// have certificates of, and every agent host trusts.
type PKI struct {
	PEM  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu    sync.Mutex
	store []byte // a host's trust store, as tar; guarded by mu
}

// publicPKI is the one of all labs of this process: what hosts trust is made
// once.
var publicPKI = sync.OnceValues(NewPKI)

// NewPKI makes a new authority.
func NewPKI() (*PKI, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Lab Public CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(48 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &PKI{PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), cert: cert, key: key}, nil
}

// Issue returns a server certificate for the names, which may be IP addresses.
func (p *PKI) Issue(names ...string) (certPEM, keyPEM []byte, err error) {
	t := &x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	return p.issue(t)
}

// IssueClient returns a certificate to authenticate as a PostgreSQL role with,
// which is its common name, and its key.
func (p *PKI) IssueClient(role string) (certPEM, keyPEM []byte, err error) {
	return p.issue(&x509.Certificate{Subject: pkix.Name{CommonName: role}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// issue signs t, once it has what all certificates have, for a new key.
func (p *PKI) issue(t *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, p.cert, key.Public(), p.key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// Certificate is Issue for a server in this process.
func (p *PKI) Certificate(names ...string) (tls.Certificate, error) {
	cert, key, err := p.Issue(names...)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// Trust installs the authority in the hosts' system stores. Of the real ones
// those stores keep a few: a second goes by each time that all of them are put
// in order.
func (p *PKI) Trust(ctx context.Context, hosts ...*Host) error {
	const dir, selection = "/usr/local/share/ca-certificates", "/etc/ca-certificates.conf"
	for _, h := range hosts {
		if err := h.Script(ctx, "mkdir -p "+dir); err != nil {
			return err
		}
		if err := h.WriteFile(dir+"/lab-public-ca.crt", string(p.PEM), 0o644); err != nil {
			return err
		}
		if err := h.Script(ctx, "awk '!/^[^#]/ || ++n <= 10' "+selection+" >/run/selection && cp /run/selection "+selection); err != nil {
			return err
		}
		if err := p.fillStore(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// fillStore makes the first host's store, and copies it to the others.
func (p *PKI) fillStore(ctx context.Context, h *Host) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.store == nil {
		if err := h.Script(ctx, "update-ca-certificates --fresh >/dev/null 2>&1"); err != nil {
			return err
		}
		store, err := h.Run(ctx, "tar", "-C", "/etc/ssl", "-c", "certs")
		p.store = []byte(store)
		return err
	}
	cmd := h.Command(ctx, "sh", "-ec", "rm -rf /etc/ssl/certs; tar -C /etc/ssl -x")
	cmd.Stdin = bytes.NewReader(p.store)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: filling the trust store: %w: %s", h.Name, err, out)
	}
	return nil
}

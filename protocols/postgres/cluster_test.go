package postgres_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
)

// binaries is where Debian keeps PostgreSQL's programs.
const binaries = "/usr/lib/postgresql/15/bin/"

// cluster is a real PostgreSQL on loopback, over TLS, whose users each
// authenticate in another way.
type cluster struct {
	dir     string
	address string // host:port
	port    string
	caFile  string // of its own authority
	caPEM   string

	clientCert, clientKey string // PEM, of cert_user
}

// password is everybody's in the cluster.
const password = "correct-horse-battery-staple"

const hba = `
local all postgres trust
hostssl all scram_user 127.0.0.1/32 scram-sha-256
hostssl all reader 127.0.0.1/32 scram-sha-256
hostssl all few 127.0.0.1/32 scram-sha-256
hostssl replication scram_user 127.0.0.1/32 scram-sha-256
hostssl all md5_user 127.0.0.1/32 md5
hostssl all clear_user 127.0.0.1/32 password
hostssl all cert_user 127.0.0.1/32 cert
hostssl all trust_user 127.0.0.1/32 trust
hostnossl all scram_user 127.0.0.1/32 scram-sha-256
hostnossl all clear_user 127.0.0.1/32 password
`

const setup = `
CREATE ROLE scram_user LOGIN REPLICATION PASSWORD '` + password + `';
CREATE ROLE reader LOGIN PASSWORD '` + password + `';
CREATE ROLE few LOGIN CONNECTION LIMIT 1 PASSWORD '` + password + `';
CREATE ROLE clear_user LOGIN PASSWORD '` + password + `';
CREATE ROLE cert_user LOGIN;
CREATE ROLE trust_user LOGIN;
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN PASSWORD '` + password + `';
CREATE DATABASE orders OWNER scram_user;
CREATE DATABASE other OWNER scram_user;
`

var shared struct {
	once    sync.Once
	cluster *cluster
	err     error
}

// startCluster returns the cluster that the tests of this package share.
func startCluster(t testing.TB) *cluster {
	t.Helper()
	shared.once.Do(func() { shared.cluster, shared.err = newCluster() })
	if shared.err != nil {
		t.Fatalf("starting PostgreSQL: %v", shared.err)
	}
	return shared.cluster
}

func TestMain(m *testing.M) {
	code := m.Run()
	if c := shared.cluster; c != nil {
		if err := c.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func newCluster() (*cluster, error) {
	dir, err := os.MkdirTemp("", "clawpatrol-postgres-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	uid, gid, err := unprivileged()
	if err != nil {
		return c, err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return c, err
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return c, err
	}
	c.address = ln.Addr().String()
	_, c.port, _ = net.SplitHostPort(c.address)
	_ = ln.Close()

	data := filepath.Join(dir, "data")
	if err := c.run(uid, gid, binaries+"initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"); err != nil {
		return c, err
	}
	if err := c.certificates(data); err != nil {
		return c, err
	}
	conf := fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %s\nunix_socket_directories = '%s'\nssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\nssl_ca_file = 'clients.pem'\n"+
		"fsync = off\nmax_connections = 80\nlog_min_messages = warning\nwal_level = logical\nlog_connections = off\n", c.port, dir)
	for name, text := range map[string]string{"postgresql.auto.conf": conf, "pg_hba.conf": hba} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			return c, err
		}
	}
	err = filepath.Walk(data, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
	if err != nil {
		return c, err
	}
	if err := c.run(uid, gid, binaries+"pg_ctl", "-D", data, "-l", filepath.Join(dir, "log"), "-w", "-t", "60", "start"); err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		return c, fmt.Errorf("%w\n%s", err, text)
	}
	_, err = c.sql("postgres", setup)
	return c, err
}

// stop ends the cluster and removes it.
func (c *cluster) stop() error {
	uid, gid, err := unprivileged()
	if err == nil {
		err = c.run(uid, gid, binaries+"pg_ctl", "-D", filepath.Join(c.dir, "data"), "-m", "immediate", "-w", "stop")
	}
	_ = os.RemoveAll(c.dir)
	return err
}

// unprivileged is who runs PostgreSQL, which refuses to run as root.
func unprivileged() (uid, gid int, err error) {
	if os.Geteuid() != 0 {
		return os.Geteuid(), os.Getegid(), nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

func (c *cluster) run(uid, gid int, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = c.dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	log, err := os.CreateTemp("", "clawpatrol-postgres-out-") // a pipe would stay open with the server
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, text)
	}
	return nil
}

// sql runs a script as the superuser, past the gateway.
func (c *cluster) sql(database, script string) (string, error) {
	cmd := exec.Command(binaries+"psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", c.dir, "-p", c.port, "-U", "postgres", "-d", database)
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w\n%s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// admin is sql that must succeed.
func (c *cluster) admin(t testing.TB, database, script string) string {
	t.Helper()
	out, err := c.sql(database, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// certificates writes what the server proves itself with, and what cert_user does.
func (c *cluster) certificates(data string) error {
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(c.dir, "ca")})
	if err != nil {
		return err
	}
	leaf, err := authority.Leaf(host)
	if err != nil {
		return err
	}
	var chain []byte
	for _, der := range leaf.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	key, err := keyPEM(leaf.PrivateKey)
	if err != nil {
		return err
	}
	clients, clientCert, clientKey, err := clientAuthority("cert_user")
	if err != nil {
		return err
	}
	c.caPEM, c.caFile = string(authority.CertPEM()), filepath.Join(c.dir, "ca.pem")
	c.clientCert, c.clientKey = clientCert, clientKey
	for path, text := range map[string]string{
		filepath.Join(data, "server.pem"):  string(chain),
		filepath.Join(data, "server.key"):  key,
		filepath.Join(data, "clients.pem"): clients,
		c.caFile:                           c.caPEM,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func keyPEM(key any) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// clientAuthority makes an authority and a certificate under it for a user.
func clientAuthority(name string) (authority, cert, key string, err error) {
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", "", err
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", "", err
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	rootTemplate := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootDER, err := x509.CreateCertificate(rand.Reader, rootTemplate, rootTemplate, root.Public(), root)
	if err != nil {
		return "", "", "", err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, rootTemplate, own.Public(), root)
	if err != nil {
		return "", "", "", err
	}
	key, err = keyPEM(own)
	encode := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return encode(rootDER), encode(leafDER), key, err
}

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	certFile = "ca.crt"
	keyFile  = "ca.key"

	// caLifetime: agent hosts trust the certificate by hand or by join, so it
	// must outlive the machines it is installed on.
	caLifetime = 10 * 365 * 24 * time.Hour

	// maxPairFile bounds what is read of either file; ours are under 1 KiB.
	maxPairFile = 64 << 10
)

// pair is the CA's certificate and the key that matches it.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// openPair loads the pair in dir, or makes it where dir is absent or empty.
// Gateways starting at once make one pair: the parent directory is locked
// meanwhile.
func openPair(dir string, now func() time.Time) (pair, error) {
	dir = filepath.Clean(dir)
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return pair{}, err
	}
	defer parent.Close()
	if err := syscall.Flock(int(parent.Fd()), syscall.LOCK_EX); err != nil {
		return pair{}, fmt.Errorf("locking %s: %w", parent.Name(), err)
	}
	defer syscall.Flock(int(parent.Fd()), syscall.LOCK_UN)

	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(entries) == 0:
		if err := makePair(dir, parent, now()); err != nil {
			return pair{}, fmt.Errorf("making a new CA: %w", err)
		}
	case err != nil:
		return pair{}, err
	}
	return loadPair(dir, now())
}

// makePair writes a new pair into a directory beside dir, flushes it, and
// renames it into place: after a crash there are both files or neither.
func makePair(dir string, parent *os.File, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := selfSign(key, now)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil { // left by a crash: never trusted by anyone
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(fresh) // no-op once renamed
	if err := writeSynced(filepath.Join(fresh, keyFile), "PRIVATE KEY", keyDER); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(fresh, certFile), "CERTIFICATE", der); err != nil {
		return err
	}
	if err := syncDir(fresh); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // only ever removes an empty one
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return err
	}
	return parent.Sync()
}

// selfSign makes the CA certificate. No name constraints: the endpoints change,
// and several TLS libraries refuse or ignore them.
func selfSign(key *ecdsa.PrivateKey, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Unique, so that stores keyed by name can hold the CAs of two gateways.
		Subject:               pkix.Name{CommonName: "Claw Patrol CA " + hex.EncodeToString(id[:4])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		SubjectKeyId:          id,
		AuthorityKeyId:        id,
	}
	return x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
}

// keyID is method 1 of RFC 7093 section 2: the leftmost 160 bits of the SHA-256
// of the public key.
func keyID(pub *ecdsa.PublicKey) ([]byte, error) {
	point, err := pub.Bytes()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(point)
	return sum[:20], nil
}

func loadPair(dir string, now time.Time) (pair, error) {
	if err := checkMode(dir, 0o077); err != nil {
		return pair{}, err
	}
	certDER, err := readPEM(filepath.Join(dir, certFile), "CERTIFICATE", 0o022)
	if err != nil {
		return pair{}, err
	}
	keyDER, err := readPEM(filepath.Join(dir, keyFile), "PRIVATE KEY", 0o077)
	if err != nil {
		return pair{}, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return pair{}, damaged(certFile, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return pair{}, damaged(keyFile, errors.New("not a PKCS #8 private key"))
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return pair{}, damaged(keyFile, errors.New("not an ECDSA P-256 key"))
	}
	switch {
	case !key.PublicKey.Equal(cert.PublicKey):
		return pair{}, damaged(keyFile, errors.New("the key does not belong to "+certFile))
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return pair{}, damaged(certFile, errors.New("not a CA certificate"))
	case now.After(cert.NotAfter):
		return pair{}, &hinted{
			fmt.Errorf("%s expired on %s", certFile, cert.NotAfter.UTC().Format(time.DateOnly)),
			"check the clock; if it is right, move the directory away, restart to make a new CA, and join every agent host again",
		}
	case now.Before(cert.NotBefore):
		return pair{}, &hinted{
			fmt.Errorf("%s is not valid before %s", certFile, cert.NotBefore.UTC().Format(time.DateTime)),
			"the clock of this machine is behind: set it",
		}
	}
	return pair{cert, key}, nil
}

// readPEM returns the DER of the only PEM block in a file, which must be of
// this kind and grant none of the forbidden permission bits. Errors never quote
// the contents.
func readPEM(path, kind string, forbidden fs.FileMode) ([]byte, error) {
	name := filepath.Base(path)
	if err := checkMode(path, forbidden); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &hinted{
				fmt.Errorf("%s is missing, and a CA is both files or none", name),
				restoreHint,
			}
		}
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPairFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPairFile {
		return nil, damaged(name, errors.New("far too long"))
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, damaged(name, fmt.Errorf("no PEM block %q", kind))
	}
	if extra, _ := pem.Decode(rest); extra != nil {
		return nil, damaged(name, errors.New("more than one PEM block"))
	}
	return block.Bytes, nil
}

const restoreHint = "restore ca.crt and ca.key from a backup; without one, move the directory away, restart to make a new CA, and join every agent host again"

func damaged(name string, err error) error {
	return &hinted{fmt.Errorf("%s is damaged: %w", name, err), restoreHint}
}

// checkMode refuses what another account could read or change (I03).
func checkMode(path string, forbidden fs.FileMode) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return &hinted{
			fmt.Errorf("%s has mode %04o, which lets other accounts in", filepath.Base(path), mode),
			fmt.Sprintf("chmod %04o %s", mode&^forbidden, path),
		}
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		return &hinted{
			fmt.Errorf("%s belongs to uid %d, and this is uid %d", filepath.Base(path), stat.Uid, os.Geteuid()),
			fmt.Sprintf("run the gateway as its owner, or chown -R %d %s", os.Geteuid(), filepath.Dir(path)),
		}
	}
	return nil
}

func writeSynced(path, kind string, der []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

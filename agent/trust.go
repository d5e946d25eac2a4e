package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// trustStore is one distribution's way to add a CA: a file in a directory, and a
// program that rebuilds the store from it.
type trustStore struct {
	dir     string
	refresh string
}

var trustStores = []trustStore{
	{"/usr/local/share/ca-certificates", "update-ca-certificates"},   // Debian, Ubuntu, Alpine
	{"/etc/pki/ca-trust/source/anchors", "update-ca-trust"},          // Fedora, RHEL
	{"/etc/ca-certificates/trust-source/anchors", "update-ca-trust"}, // Arch
	{"/etc/pki/trust/anchors", "update-ca-certificates"},             // SUSE
}

const trustFile = "clawpatrol.crt"

// systemBundles are where distributions keep their roots as one PEM file.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// maxBundle bounds a system bundle. Debian's is 220 KiB.
const maxBundle = 16 << 20 // bytes

// sbin is where a root shell finds the programs that a user's PATH may lack.
var sbin = []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"}

// program returns where one of the host's programs is, or "".
func (a *Agent) program(name string) string {
	if a.cfg.Root == "" {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	for _, dir := range sbin {
		if st, err := os.Stat(a.host(filepath.Join(dir, name))); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

// installTrust makes the host trust the gateway's CA, and writes what `env`
// tells to tools that keep roots of their own. It returns where the system's
// store is, or "" if there is none that we know. Where the certificate is in
// place already, the store is rebuilt only if force says so.
func (a *Agent) installTrust(ctx context.Context, j *journal, caPEM string, force bool) (store string, err error) {
	ca, _, err := parseCA(caPEM)
	if err != nil {
		return "", fmt.Errorf("reading the gateway's CA certificate: %w", err)
	}
	clean := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	for _, s := range trustStores {
		st, err := os.Stat(a.host(s.dir))
		if err != nil || !st.IsDir() || a.program(s.refresh) == "" {
			continue
		}
		// Undone in reverse: first the file, then the program that sees it gone.
		if err := j.record(entry{Step: stepRefresh, Scope: scopeEnrolment, Key: s.refresh}); err != nil {
			return "", err
		}
		path := filepath.Join(a.host(s.dir), trustFile)
		content := append([]byte(fileMark), clean...)
		if old, err := readBounded(path); err == nil && bytes.Equal(old, content) && !force {
			store = filepath.Join(s.dir, trustFile)
			break
		}
		if err := writeHostFile(j, scopeEnrolment, path, content, 0o644); err != nil {
			return "", err
		}
		if err := a.cfg.Run(ctx, a.program(s.refresh)); err != nil {
			return "", fmt.Errorf("adding the gateway's CA to the system's trust store: %w", err)
		}
		j.checkpoint("refreshed trust")
		store = filepath.Join(s.dir, trustFile)
		break
	}
	if err := a.writeBundles(ctx, ca, clean); err != nil {
		return store, err
	}
	return store, nil
}

// writeBundles writes the public files: our CA alone, and the system's roots
// with it.
func (a *Agent) writeBundles(ctx context.Context, ca *x509.Certificate, clean []byte) error {
	if err := replaceFile(a.paths.ca(), clean, 0o644); err != nil {
		return fmt.Errorf("writing the CA certificate: %w", err)
	}
	roots, err := a.systemRoots()
	if err != nil {
		return err
	}
	if err := replaceFile(a.paths.bundle(), mergeBundle(roots, ca, clean), 0o644); err != nil {
		return fmt.Errorf("writing the CA bundle: %w", err)
	}
	if err := a.writeJavaStore(ctx); err != nil {
		// Java is one tool of many: its store is reported, and the rest stands.
		a.say("java trust store not made: %v", err)
	}
	return nil
}

// systemRoots reads the system's bundle. A host without one has no roots to
// lose.
func (a *Agent) systemRoots() ([]byte, error) {
	for _, path := range systemBundles {
		b, err := ReadAtMost(a.host(path), maxBundle)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the system's CA bundle: %w", err)
		}
		return b, nil
	}
	return nil, nil
}

// mergeBundle appends clean, which is ca in PEM, to roots, unless it is there.
func mergeBundle(roots []byte, ca *x509.Certificate, clean []byte) []byte {
	sum := sha256.Sum256(ca.Raw)
	for rest := roots; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if sha256.Sum256(block.Bytes) == sum {
			return roots
		}
	}
	out := bytes.TrimRight(roots, "\n")
	if len(out) > 0 {
		out = append(bytes.Clone(out), '\n')
	}
	return append(out, clean...)
}

// writeJavaStore makes a trust store for JVMs that keep roots of their own.
// Those of the distribution follow the system's store, and need none.
func (a *Agent) writeJavaStore(ctx context.Context) error {
	keytool := a.program("keytool")
	if keytool == "" {
		return nil
	}
	real, err := filepath.EvalSymlinks(a.host(keytool))
	if err != nil {
		return err
	}
	// JAVA_HOME/bin/keytool and JAVA_HOME/lib/security/cacerts, before Java 9 below
	// jre/.
	home := filepath.Dir(filepath.Dir(real))
	roots, err := filepath.EvalSymlinks(filepath.Join(home, "lib/security/cacerts"))
	if err != nil {
		roots, err = filepath.EvalSymlinks(filepath.Join(home, "jre/lib/security/cacerts"))
	}
	if err != nil || strings.HasPrefix(roots, a.host("/etc")+"/") {
		return nil
	}
	b, err := os.ReadFile(roots)
	if err != nil {
		return err
	}
	tmp := temporaryName(a.paths.javaStore())
	defer os.Remove(tmp)
	if err := replaceFile(tmp, b, 0o644); err != nil {
		return err
	}
	// "changeit" is every JVM's own password for its roots: it guards nothing.
	if err := a.cfg.Run(ctx, keytool, "-importcert", "-noprompt", "-alias", "clawpatrol", "-file", a.paths.ca(), "-keystore", tmp, "-storepass", "changeit"); err != nil {
		return err
	}
	return os.Rename(tmp, a.paths.javaStore())
}

// envFile is what `env` and `doctor` read: world-readable, nothing in it is
// secret.
type envFile struct {
	Placeholders map[string]string `json:"placeholders"`
	Gateway      string            `json:"gateway"`   // URL
	Addresses    []string          `json:"addresses"` // of the tunnel's interface
	DNS          []string          `json:"dns"`
}

// writeEnv records the placeholders, without those it would be unwise to export.
func (a *Agent) writeEnv(st *state, placeholders map[string]string) error {
	kept := make(map[string]string, len(placeholders))
	told := maps.Equal(a.envTold, placeholders)
	a.envTold = placeholders
	for _, name := range slices.Sorted(maps.Keys(placeholders)) {
		value := placeholders[name]
		if len(kept) == maxVariables {
			if !told {
				a.say("placeholders not exported: more than %d", maxVariables)
			}
			break
		}
		if err := checkEnv(name, value); err != nil {
			if !told {
				a.say("placeholder not exported: %v", err)
			}
			continue
		}
		kept[name] = value
	}
	b, err := json.Marshal(envFile{kept, st.URL, st.Claim.Addresses, st.Claim.DNS})
	if err != nil {
		return fmt.Errorf("encoding the environment: %w", err)
	}
	if now, err := os.ReadFile(a.paths.env()); err == nil && bytes.Equal(now, append(b, '\n')) {
		return nil
	}
	if err := replaceFile(a.paths.env(), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the environment: %w", err)
	}
	return nil
}

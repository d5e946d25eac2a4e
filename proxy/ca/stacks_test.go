package ca_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// The TLS stacks agents use must accept the chain, and must refuse it for
// another host. `make peers` installs them.
func TestOtherStacksAcceptTheChain(t *testing.T) {
	dir := t.TempDir()
	c := open(t, newDir(t), nil)
	caFile := filepath.Join(dir, "ca.pem")
	must(t, os.WriteFile(caFile, c.CertPEM(), 0o600))

	t.Run("openssl verify", func(t *testing.T) {
		for host, flag := range map[string]string{"api.example.com": "-verify_hostname", "192.0.2.9": "-verify_ip", "2001:db8::9": "-verify_ip"} {
			file := filepath.Join(dir, "leaf.pem")
			must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf(t, c, host).Certificate[0]}), 0o600))
			args := []string{"verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", caFile, flag}
			if out, err := exec.Command("openssl", append(args, host, file)...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", host, err, out)
			}
			wrong := map[string]string{"-verify_hostname": "evil.example.com", "-verify_ip": "192.0.2.10"}[flag]
			if out, err := exec.Command("openssl", append(args, wrong, file)...).CombinedOutput(); err == nil {
				t.Errorf("%s accepted as %s\n%s", host, wrong, out)
			}
		}
	})

	t.Run("NSS", func(t *testing.T) {
		store := "sql:" + t.TempDir()
		file := filepath.Join(dir, "localhost.pem")
		must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf(t, c, "localhost").Certificate[0]}), 0o600))
		for _, args := range [][]string{
			{"-N", "--empty-password"},
			{"-A", "-n", "clawpatrol", "-t", "C,,", "-i", caFile},
			{"-A", "-n", "leaf", "-t", ",,", "-i", file},
			{"-V", "-n", "leaf", "-u", "V", "-e"},
		} {
			if out, err := exec.Command("certutil", append(args, "-d", store)...).CombinedOutput(); err != nil {
				t.Fatalf("certutil %v: %v\n%s", args, err, out)
			}
		}
	})

	address := serveTLS(t, leaf(t, c, "localhost"))
	_, port, _ := net.SplitHostPort(address)
	t.Run("Go", func(t *testing.T) {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(c.CertPEM())
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: "other.example"}); err == nil {
			conn.Close()
			t.Error("accepted for another host")
		}
	})
	for name, command := range map[string][]string{
		"python": {"python3", "-c", `
import socket, ssl, sys
ctx = ssl.create_default_context(cafile=sys.argv[1])
ctx.verify_flags |= ssl.VERIFY_X509_STRICT
ctx.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[2]))), server_hostname="localhost").close()
`, caFile, port},
		"node": {"node", "-e", `
const s = require("tls").connect({port: +process.argv[2], host: "127.0.0.1", servername: "localhost",
  ca: require("fs").readFileSync(process.argv[1])}, () => { s.end(); process.exit(s.authorized ? 0 : 1) });
s.on("error", e => { console.error(e); process.exit(1) });
`, caFile, port},
		"java": javaProbe(t, dir, caFile, port),
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// javaProbe writes a program that trusts the CA through keytool's store.
func javaProbe(t *testing.T, dir, caFile, port string) []string {
	store := filepath.Join(dir, "trust.p12")
	out, err := exec.Command("keytool", "-importcert", "-noprompt", "-trustcacerts", "-alias", "clawpatrol",
		"-file", caFile, "-keystore", store, "-storepass", "changeit").CombinedOutput()
	if err != nil {
		t.Fatalf("keytool: %v\n%s", err, out)
	}
	source := filepath.Join(dir, "Probe.java")
	must(t, os.WriteFile(source, []byte(`
import javax.net.ssl.*;
public class Probe {
  public static void main(String[] a) throws Exception {
    SSLSocket s = (SSLSocket) SSLSocketFactory.getDefault().createSocket("localhost", Integer.parseInt(a[0]));
    SSLParameters p = s.getSSLParameters();
    p.setEndpointIdentificationAlgorithm("HTTPS");
    s.setSSLParameters(p);
    s.startHandshake();
    s.close();
  }
}`), 0o600))
	return []string{"java", "-Djavax.net.ssl.trustStore=" + store, "-Djavax.net.ssl.trustStorePassword=changeit", "-Djava.net.preferIPv4Stack=true", source, port}
}

// serveTLS completes handshakes with cert until the test ends.
func serveTLS(t *testing.T, cert *tls.Certificate) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}, Rand: rand.Reader})
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
				if conn.(*tls.Conn).Handshake() == nil {
					_, _ = conn.Read(make([]byte, 1))
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// listener is a server that counts the HTTP requests it gets.
type listener struct {
	addr     string
	requests atomic.Int32
}

// serveTLS listens on loopback with this chain; nil: without TLS. h may be nil.
func serveTLS(t *testing.T, chain *tls.Certificate, h http.Handler) *listener {
	t.Helper()
	l := &listener{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.addr = ln.Addr().String()
	if chain != nil {
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{*chain}})
	}
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.requests.Add(1)
		if h != nil {
			h.ServeHTTP(w, r)
			return
		}
		fmt.Fprint(w, `{}`)
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return l
}

// sessionWith talks to gw.example.net, which is wherever l listens.
func sessionWith(t *testing.T, l *listener, pin *fingerprint, roots *x509.CertPool) *session {
	t.Helper()
	_, port, err := net.SplitHostPort(l.addr)
	if err != nil {
		t.Fatal(err)
	}
	u, err := parseGatewayURL("https://gw.example.net:" + port)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(u, pin, func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}, time.Now)
	s.id.roots = roots
	s.connect()
	t.Cleanup(s.close)
	return s
}

// Attack: whoever is between this host and the gateway answers in its place,
// with every kind of certificate that they could have.
func TestI11_NothingIsSentToAnUnverifiedGateway(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	good := ca.leaf(t, "gw.example.net")
	selfSigned := testCA{}.sign(t, &x509.Certificate{DNSNames: []string{"gw.example.net"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	caAsLeaf := testCA{}.sign(t, &x509.Certificate{DNSNames: []string{"gw.example.net"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature})
	expired := ca.sign(t, &x509.Certificate{DNSNames: []string{"gw.example.net"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	// An issuer that is not a CA, in whose name someone signs all the same.
	notCA := ca.leaf(t, "someone.example.net")
	underNotCA := notCA.leaf(t, "gw.example.net")
	clientOnly := ca.sign(t, &x509.Certificate{DNSNames: []string{"gw.example.net"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	pool := func(cas ...*testCA) *x509.CertPool {
		p := x509.NewCertPool()
		for _, c := range cas {
			p.AddCert(c.cert)
		}
		return p
	}
	pin := func(c *testCA) *fingerprint { f := c.pin(); return &f }
	chain := func(leaf *testCA, issuers ...*testCA) *tls.Certificate { c := leaf.chain(issuers...); return &c }

	for _, c := range []struct {
		name  string
		chain *tls.Certificate
		pin   *fingerprint
		roots *x509.CertPool
		want  string // in the error; "": it is the gateway
	}{
		{"pinned CA", chain(good, ca), pin(ca), nil, ""},
		{"pinned CA, also in the middle of the chain", chain(good, other, ca), pin(ca), nil, ""},
		{"publicly trusted", chain(good, ca), nil, pool(ca), ""},

		{"wrong fingerprint", chain(good, ca), pin(other), nil, "fingerprint"},
		{"the leaf's own fingerprint", chain(good, ca), pin(good), nil, "not of the CA"},
		{"self-signed leaf, its own fingerprint", chain(selfSigned), pin(selfSigned), nil, "not of the CA"},
		{"a CA as the leaf, its own fingerprint", chain(caAsLeaf), pin(caAsLeaf), nil, "not of the CA"},
		{"a copy of the CA beside a leaf of another", chain(other.leaf(t, "gw.example.net"), ca), pin(ca), nil, "unknown authority"},
		{"right CA, wrong host", chain(ca.leaf(t, "other.example.net"), ca), pin(ca), nil, "not for gw.example.net"},
		{"right CA, expired", chain(expired, ca), pin(ca), nil, "clock"},
		{"right CA, not for servers", chain(clientOnly, ca), pin(ca), nil, "key usage"},
		{"issued by a certificate that is not a CA", chain(underNotCA, notCA, ca), pin(ca), nil, "unknown authority"},
		{"fingerprint of an issuer that is not a CA", chain(underNotCA, notCA), pin(notCA), nil, "not of the CA"},
		{"the CA is not presented", chain(good), pin(ca), nil, "not issued by the CA"},
		{"publicly trusted, but a fingerprint is given", chain(good, ca), pin(other), pool(ca), "fingerprint"},
		{"no fingerprint, not publicly trusted", chain(good, ca), nil, pool(other), "not publicly trusted"},
		{"no fingerprint, self-signed", chain(selfSigned), nil, pool(other), "not publicly trusted"},
		{"no fingerprint, wrong host", chain(ca.leaf(t, "other.example.net"), ca), nil, pool(ca), "not for gw.example.net"},
		{"plaintext", nil, pin(ca), nil, "TLS"},
		{"plaintext, no fingerprint", nil, nil, pool(ca), "TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := serveTLS(t, c.chain, nil)
			s := sessionWith(t, l, c.pin, c.roots)
			_, err := s.info(t.Context(), ipv4)
			if c.want == "" {
				if err != nil {
					t.Errorf("the gateway is not recognised: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error()+" "+HintOf(err), c.want) {
				t.Errorf("error %v (hint %q); want one with %q", err, HintOf(err), c.want)
			}
			if HintOf(err) == "" {
				t.Errorf("%v has no hint", err)
			}
			if n := l.requests.Load(); n != 0 {
				t.Errorf("%d requests were sent", n)
			}
		})
	}
}

// Attack: a redirect takes the join credential elsewhere.
func TestI11_NoRedirectIsFollowed(t *testing.T) {
	ca := newTestCA(t)
	c := ca.leaf(t, "gw.example.net").chain(ca)
	elsewhere := serveTLS(t, nil, nil)
	l := serveTLS(t, &c, http.RedirectHandler("http://"+elsewhere.addr+"/", http.StatusTemporaryRedirect))
	pin := ca.pin()
	if _, err := sessionWith(t, l, &pin, nil).info(t.Context(), ipv4); err == nil || !strings.Contains(err.Error(), "redirect") {
		t.Errorf("error %v; want one about the redirect", err)
	}
	if n := elsewhere.requests.Load(); n != 0 {
		t.Errorf("%d requests followed", n)
	}
}

// Attack: the environment names a proxy.
func TestI11_NoProxyIsUsed(t *testing.T) {
	ca := newTestCA(t)
	c := ca.leaf(t, "gw.example.net").chain(ca)
	proxy := serveTLS(t, nil, nil)
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://"+proxy.addr)
	}
	l := serveTLS(t, &c, nil)
	pin := ca.pin()
	if _, err := sessionWith(t, l, &pin, nil).info(t.Context(), ipv4); err != nil {
		t.Error(err)
	}
	if n := proxy.requests.Load(); n != 0 || l.requests.Load() != 1 {
		t.Errorf("%d requests to the proxy, %d to the gateway", n, l.requests.Load())
	}
}

func TestParseFingerprint(t *testing.T) {
	sum := sha256.Sum256([]byte("x"))
	plain := hex.EncodeToString(sum[:])
	var colons []string
	for i := 0; i < len(plain); i += 2 {
		colons = append(colons, plain[i:i+2])
	}
	for s, ok := range map[string]bool{
		"sha256:" + plain:                     true,
		"sha256:" + strings.ToUpper(plain):    true,
		"sha256:" + strings.Join(colons, ":"): true,
		plain:                                 false,
		"sha1:" + plain:                       false,
		"sha256:" + plain[1:]:                 false,
		"sha256:" + plain + "00":              false,
		"sha256:" + strings.Repeat("zz", 32):  false,
		"sha256:" + strings.Repeat(":", 95):   false,
		"sha256:":                             false,
		"":                                    false,
		" sha256:" + plain:                    false,
		"sha256:" + strings.Join(colons[:31], ":"): false,
	} {
		f, err := parseFingerprint(s)
		if (err == nil) != ok {
			t.Errorf("parseFingerprint(%q): %v", s, err)
		}
		if ok && f != sum {
			t.Errorf("parseFingerprint(%q) = %s", s, f)
		}
	}
}

func FuzzParseFingerprint(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, s string) {
		fp, err := parseFingerprint(s)
		if err != nil {
			return
		}
		if again, err := parseFingerprint(fp.String()); err != nil || again != fp {
			t.Errorf("%q reads as %s, which reads as %s, %v", s, fp, again, err)
		}
	})
}

func TestParseGatewayURL(t *testing.T) {
	for s, want := range map[string]string{
		"https://gw.example.com:8443":        "https://gw.example.com:8443",
		"https://gw.example.com/":            "https://gw.example.com",
		"https://[2001:db8::1]:8443":         "https://[2001:db8::1]:8443",
		"http://gw.example.com:8443":         "",
		"gw.example.com:8443":                "",
		"https://":                           "",
		"https://user@gw.example.com":        "",
		"https://gw.example.com/x":           "",
		"https://gw.example.com?x":           "",
		"https://gw.example.com#x":           "",
		"https://gw.example.com:0":           "",
		"https://gw.example.com:99999":       "",
		"ftp://gw.example.com":               "",
		"https://gw.example.com:8443/../etc": "",
	} {
		u, err := parseGatewayURL(s)
		switch {
		case want == "" && (err == nil || HintOf(err) == ""):
			t.Errorf("parseGatewayURL(%q) = %v, %v; want an error with a hint", s, u, err)
		case want != "" && (err != nil || u.String() != want):
			t.Errorf("parseGatewayURL(%q) = %v, %v; want %s", s, u, err, want)
		}
	}
}

// The gateway's words are printed on a terminal: they must not drive it.
func TestRefusal_IsSafeToPrint(t *testing.T) {
	r := &http.Response{StatusCode: 400, Header: http.Header{}}
	err := refusal(r, []byte(`{"error":{"code":"x","message":"a\u001b[2J\nclawpatrol: approved `+strings.Repeat("y", 1000)+`","hint":"\u202e"}}`))
	for _, s := range []string{err.Error(), HintOf(err)} {
		if strings.ContainsAny(s, "\x1b\n\u202e") || len(s) > 600 {
			t.Errorf("%q", s)
		}
	}
}

// Attack: a gateway (or what took its place) says what net/http quotes in its
// error as it is.
func TestSession_UnreadableAnswerIsSafeToPrint(t *testing.T) {
	ca := newTestCA(t)
	c := ca.leaf(t, "gw.example.net").chain(ca)
	l := serveTLS(t, &c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX\x1b[2J\x1b]0;owned\a\r\n\r\n")
	}))
	pin := ca.pin()
	_, err := sessionWith(t, l, &pin, nil).info(t.Context(), ipv4)
	if err == nil || !strings.Contains(err.Error(), "owned") || strings.ContainsAny(err.Error(), "\x1b\a") {
		t.Errorf("error %q; want it quoted", err)
	}
}

// An answer is bounded, and so is the wait for it.
func TestSession_EndlessAnswer(t *testing.T) {
	ca := newTestCA(t)
	c := ca.leaf(t, "gw.example.net").chain(ca)
	l := serveTLS(t, &c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := io.WriteString(w, strings.Repeat(" ", 4096)); err != nil {
				return
			}
		}
	}))
	pin := ca.pin()
	if _, err := sessionWith(t, l, &pin, nil).info(t.Context(), ipv4); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("error %v", err)
	}
}

package hostile

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The attack: stand where the gateway should be, and see what an agent host
// tells you. It must learn nothing: the check comes before the first request.
func TestI11_AnImpostorLearnsNothing(t *testing.T) {
	ctx := t.Context()
	var requests atomic.Int64
	count := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) })

	impostorPKI, err := lab.NewPKI()
	if err != nil {
		t.Fatal(err)
	}
	forged, err := impostorPKI.Certificate("fake-gw.example.net")
	if err != nil {
		t.Fatal(err)
	}
	public, err := theLab.PKI.Certificate("fake-gw.example.net")
	if err != nil {
		t.Fatal(err)
	}
	serve := func(addr string, cert *tls.Certificate) {
		ln, err := theLab.World.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: count, ErrorLog: log.New(io.Discard, "", 0)}
		if cert != nil {
			srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*cert}}
			go func() { _ = srv.ServeTLS(ln, "", "") }()
		} else {
			go func() { _ = srv.Serve(ln) }()
		}
		t.Cleanup(func() { _ = srv.Close() })
	}
	serve("192.0.2.10:9443", &forged)
	serve("192.0.2.10:9444", &public)
	serve("192.0.2.10:9080", nil)
	theLab.Names.Set("fake-gw.example.net", lab.WorldIPv4)

	h := theLab.Agents[2]
	for name, args := range map[string][]string{
		"a forged certificate":                         {"https://fake-gw.example.net:9443", "--ca-fingerprint", gateway.CAFingerprint},
		"a forged certificate and no fingerprint":      {"https://fake-gw.example.net:9443"},
		"a public certificate where the CA was pinned": {"https://fake-gw.example.net:9444", "--ca-fingerprint", gateway.CAFingerprint},
		"plain HTTP":                               {"http://fake-gw.example.net:9080", "--ca-fingerprint", gateway.CAFingerprint},
		"plain HTTP behind an https URL":           {"https://fake-gw.example.net:9080", "--ca-fingerprint", gateway.CAFingerprint},
		"the right gateway by a wrong fingerprint": {"https://" + lab.GatewayHost + ":8443", "--ca-fingerprint", "sha256:" + strings.Repeat("ab", 32)},
		"the local CA without a fingerprint":       {"https://" + lab.GatewayHost + ":8443"},
	} {
		state := "/root/i11"
		out, err := h.Run(ctx, append([]string{"timeout", "20", theLab.Bin, "join", "--state", state}, args...)...)
		if err == nil || strings.Contains(err.Error(), "exit status 124") {
			t.Errorf("%s: join did not refuse: %v %s", name, err, out)
		}
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("impostors were sent %d requests", n)
	}
	if out, err := h.Run(ctx, "ip", "link", "show", "clawpatrol0"); err == nil {
		t.Errorf("a refused join left a tunnel behind: %s", out)
	}
}

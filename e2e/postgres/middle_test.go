package postgres

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The length and the code of an SSLRequest.
const sslRequest = "\x00\x00\x00\x08\x04\xd2\x16\x2f"

// standBetween serves middleHost: TLS with a certificate that any authority
// could have been talked into, and the server behind it.
func (w *world) standBetween(ctx context.Context) error {
	cert, err := w.lab.PKI.Certificate(middleHost)
	if err != nil {
		return err
	}
	addrs := lab.WorldAddresses(21)
	if err := w.lab.World.Script(ctx, "ip address add "+addrs[0].String()+"/32 dev lo"); err != nil {
		return err
	}
	ln, err := w.lab.World.Listen(net.JoinHostPort(addrs[0].String(), lab.PostgresPort))
	if err != nil {
		return err
	}
	w.lab.Names.Set(middleHost, addrs[0])
	go func() { // ends with this process
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go w.serveBetween(c, cert)
		}
	}()
	return nil
}

func (w *world) serveBetween(c net.Conn, cert tls.Certificate) {
	defer c.Close()
	request := make([]byte, len(sslRequest))
	if _, err := io.ReadFull(c, request); err != nil || string(request) != sslRequest {
		return
	}
	if _, err := io.WriteString(c, "S"); err != nil {
		return
	}
	victim := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"postgresql"}})
	up, err := w.lab.World.Dial(context.Background(), "tcp", w.server.Addr())
	if err != nil {
		return
	}
	defer up.Close()
	if _, err := io.WriteString(up, sslRequest); err != nil {
		return
	}
	if _, err := io.ReadFull(up, make([]byte, 1)); err != nil {
		return
	}
	server := tls.Client(up, &tls.Config{InsecureSkipVerify: true}) // an attacker does not mind
	go func() {
		_, _ = io.Copy(server, victim)
		_ = up.Close()
	}()
	_, _ = io.Copy(victim, server)
}

// The attack: stand before the server with a certificate that verifies, and pass
// the login on. SCRAM with channel binding notices; without, it does not.
func TestI04_ManInTheMiddleWithAGoodCertificateGetsNoSession(t *testing.T) {
	middle := "PGHOST=" + lab.WorldAddresses(21)[0].String() + " "
	if r := w.direct(t, middle+"PGCHANNELBINDING=disable PGSSLMODE=verify-ca psql -XAtc 'SELECT 1'"); r.stdout != "1\n" {
		t.Fatalf("nobody stands there: %v", r)
	}
	if r := w.direct(t, middle+"PGSSLMODE=verify-ca psql -XAtc 'SELECT 1'"); r.code != 2 || !strings.Contains(r.stderr, "channel binding check failed") {
		t.Fatalf("without a gateway: %v", r)
	}
	before := accepted(appUser)
	r := w.run(t, "PGHOST="+middleHost+" psql -XAtc 'SELECT 1'")
	if r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, "channel binding") {
		t.Errorf("%v", r)
	}
	if accepted(appUser) != before {
		t.Error("the server has let it in")
	}
}

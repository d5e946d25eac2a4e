package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// What no endpoint names is spliced: the agent talks to the real server.
func TestElse_UnknownHTTPSIsSpliced(t *testing.T) {
	upstream.Forget()
	for _, family := range []string{"-4", "-6"} {
		out, err := agent.Shell(t.Context(), `curl -sS --max-time 15 `+family+` -H 'Authorization: Bearer my-own' https://web.example.org/`)
		if err != nil {
			t.Fatalf("%s: %v %s", family, err, out)
		}
	}
	issuer, err := agent.Shell(t.Context(), `echo | openssl s_client -connect web.example.org:443 -servername web.example.org 2>/dev/null | openssl x509 -noout -issuer`)
	if err != nil || !strings.Contains(issuer, "Lab Public CA") {
		t.Errorf("issuer %q, %v", issuer, err)
	}
	for _, s := range upstream.Seen() {
		if s.Header.Get("Authorization") != "Bearer my-own" || !fromGateway(s.Remote) {
			t.Errorf("upstream saw %+v", s)
		}
	}
}

func fromGateway(remote string) bool {
	host, _, _ := net.SplitHostPort(remote)
	return host == lab.GatewayIPv4.String() || host == lab.GatewayIPv6.String()
}

// A port nobody listens on is refused, not accepted and then dropped.
func TestElse_ClosedPortsLookClosed(t *testing.T) {
	for _, url := range []string{"http://192.0.2.10:4444/", "http://[2001:db8:c::10]:4444/", "http://api.example.com:4444/"} {
		// Exit status 7 is "failed to connect", 28 would be a time-out, 52 and 56 a
		// connection that was accepted and then dropped.
		out, err := agent.Run(t.Context(), "sh", "-c", "curl -sS --max-time 8 '"+url+"' 2>&1; echo exit $?")
		if err != nil || !strings.Contains(out, "exit 7") {
			t.Errorf("%s: %v %s; want connection refused", url, err, out)
		}
	}
}

func TestElse_UDPGoesThroughBothFamilies(t *testing.T) {
	for _, addr := range []string{"192.0.2.10:7777", "[2001:db8:c::10]:7777"} {
		pc, err := theLab.World.ListenUDP(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		go echo(pc)
		c, err := agent.Dial(t.Context(), "udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		big := strings.Repeat("0123456789", 400) // needs fragments
		for _, payload := range []string{"hello", big} {
			if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, payload); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5000)
			n, err := c.Read(got)
			if err != nil || string(got[:n]) != payload {
				t.Errorf("%s: %d bytes, %v; want %d back", addr, n, err, len(payload))
			}
		}
	}
}

func echo(pc net.PacketConn) {
	buf := make([]byte, 65535)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if _, err := pc.WriteTo(buf[:n], from); err != nil {
			return
		}
	}
}

// QUIC to an endpoint host is refused at once, so that clients fall back.
func TestElse_QUICToEndpointHostsIsRefused(t *testing.T) {
	out, err := agent.Shell(t.Context(), `dig +short api.example.com | head -1`)
	if err != nil || strings.TrimSpace(out) == "" {
		t.Fatalf("resolving: %q %v", out, err)
	}
	c, err := agent.Dial(t.Context(), "udp", net.JoinHostPort(strings.TrimSpace(out), "443"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := lab.Eventually(t.Context(), 5*time.Second, func() error {
		_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := io.WriteString(c, "not really QUIC"); err != nil && strings.Contains(err.Error(), "refused") {
			return nil
		}
		if _, err := c.Read(make([]byte, 100)); err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("got %v, want connection refused", err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestElse_EchoAnswersOnlyWhereSomebodyIs(t *testing.T) {
	t.Parallel() // it changes nothing in the shared world
	for _, target := range []string{"192.0.2.10", "2001:db8:c::10"} {
		if out, err := agent.Run(t.Context(), "ping", "-c1", "-W5", target); err != nil {
			t.Errorf("%s: %v %s", target, err, out)
		}
	}
	for _, target := range []string{"192.0.2.222", "2001:db8:c::222"} {
		if out, err := agent.Run(t.Context(), "ping", "-c1", "-W2", target); err == nil {
			t.Errorf("%s, where nobody is, answered: %s", target, out)
		}
	}
}

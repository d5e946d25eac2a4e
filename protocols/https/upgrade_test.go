package https_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// upgrader switches to a protocol that answers in upper case and half-closes.
func upgrader(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" || r.URL.Path == "/refuse" {
		w.Header().Set("Content-Length", "7")
		w.WriteHeader(403)
		_, _ = io.WriteString(w, "refused")
		return
	}
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	to := r.Header.Get("Upgrade")
	if r.URL.Path == "/other" {
		to = "other"
	}
	fmt.Fprintf(brw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Echo: %s\r\n\r\nhello", to, r.Header.Get("Authorization"))
	_ = brw.Flush()
	text, _ := io.ReadAll(brw) // to the agent's half-close
	_, _ = conn.Write(bytes.ToUpper(text))
}

func TestUpgradeIsRelayedWithHalfClose(t *testing.T) {
	l := newLab(t, upgrader)
	id := l.Approve("a", "ci")
	conn := l.dial(id, host)
	br := bufio.NewReader(conn)
	// Bytes right behind the request belong to the new protocol.
	_, err := io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly ")
	must(t, err)
	resp, err := http.ReadResponse(br, &http.Request{Method: "GET"})
	must(t, err)
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Date") != "" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	if echo := resp.Header.Get("X-Echo"); strings.Contains(echo, token) || !strings.Contains(echo, "clawpatrol-token") {
		t.Errorf("the 101 shows %q", echo)
	}
	hello := make([]byte, 5)
	if _, err := io.ReadFull(br, hello); err != nil || string(hello) != "hello" {
		t.Fatalf("%q %v", hello, err)
	}
	_, err = io.WriteString(conn, "and late")
	must(t, err)
	must(t, conn.CloseWrite())
	rest, err := io.ReadAll(br)
	if err != nil || string(rest) != "EARLY AND LATE" {
		t.Errorf("%q %v", rest, err)
	}
	if s := l.lastStatus(id); s != "101" {
		t.Errorf("logged as %q", s)
	}
	if row := l.Actions(id)[0]; row.Result.BytesIn != 14 || row.Result.BytesOut != 19 {
		t.Errorf("%d bytes in, %d out", row.Result.BytesIn, row.Result.BytesOut)
	}
}

func TestUpgradeThatIsNotOneIsRelayedWhole(t *testing.T) {
	l := newLab(t, upgrader)
	id := l.Approve("a", "ci")
	for raw, want := range map[string]int{
		"GET /refuse HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n":                                   403,
		"GET /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n": 403,
		"GET /ws HTTP/1.1\r\nHost: api.example.com\r\nUpgrade: websocket\r\n\r\n":                                                              403,
		"POST /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx":                403,
		"GET /other HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n":                                    502,
	} {
		conn := l.dial(id, host)
		br := bufio.NewReader(conn)
		for range 2 { // the connection stays usable
			if got := send(t, conn, br, strings.Replace(raw, "\r\n\r\n", "\r\n\r\n", 1)); got != want {
				t.Errorf("%q: %d, want %d", raw, got, want)
			}
		}
	}
}

func TestI07_UpgradedStreamEndsWithItsRegistration(t *testing.T) {
	l := newLab(t, upgrader)
	id := l.Approve("a", "ci")
	conn := l.dial(id, host)
	br := bufio.NewReader(conn)
	_, err := io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	must(t, err)
	_, err = http.ReadResponse(br, &http.Request{Method: "GET"})
	must(t, err)
	must(t, l.DB.Block(t.Context(), id, "test"))
	if _, err := io.Copy(io.Discard, br); errors.Is(err, net.ErrClosed) {
		t.Errorf("the stream goes on: %v", err)
	}
}

package https_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// The attack: a request inside a request, seen by the upstream and not by the
// gateway, so that nobody decides about it.
func TestI04_NoRequestIsSmuggled(t *testing.T) {
	var requests atomic.Int64
	var odd atomic.Value
	odd.Store("")
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		for name := range r.Header {
			switch strings.ReplaceAll(strings.ToLower(name), "_", "-") {
			case "transfer-encoding", "content-length", "connection", "upgrade", "te":
				if strings.Contains(name, "_") {
					odd.Store(name)
				}
			}
		}
	})
	id := l.Approve("a", "ci")
	const inner = "GET /smuggled HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
	for name, head := range map[string]string{
		"both lengths":           "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
		"two lengths":            "Content-Length: 0\r\nContent-Length: 60\r\n\r\n" + inner,
		"length with sign":       "Content-Length: +0\r\n\r\n" + inner,
		"unknown encoding":       "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
		"two encodings":          "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner,
		"blank before colon":     "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + inner,
		"folded":                 "Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n\r\n" + inner,
		"bare line feed":         "Transfer-Encoding: chunked\r\n\r\n1;\n" + inner + "\r\n0\r\n\r\n",
		"chunk size too long":    "Transfer-Encoding: chunked\r\n\r\n00000000000000000000\r\n\r\n" + inner,
		"null in field":          "X: a\x00b\r\nContent-Length: 0\r\n\r\n" + inner,
		"carriage return inside": "X: a\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + inner,
	} {
		conn := l.dial(id, host, "http/1.1")
		if _, err := io.WriteString(conn, "POST /"+strings.ReplaceAll(name, " ", "-")+" HTTP/1.1\r\nHost: "+host+"\r\n"+head); err != nil {
			t.Fatal(err)
		}
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	}
	// Whatever reached the upstream was decided about, one by one.
	allowed := int64(0)
	for _, row := range l.Actions(id) {
		if row.Verdict == "allow" {
			allowed++
		}
	}
	if total := requests.Load(); total > allowed {
		t.Errorf("the upstream saw %d requests, %d were allowed", total, allowed)
	}
	for _, name := range []string{"Transfer_Encoding", "Content_Length", "transfer_encoding", "Te", "Content-Length_"} {
		versions(t, func(t *testing.T, h2 bool) {
			do(t, l.agent(id, h2), "POST", "https://"+host+"/", strings.NewReader("body"), func(r *http.Request) { r.Header[name] = []string{"chunked"} })
			if got := odd.Swap("").(string); got != "" {
				t.Errorf("the upstream got %s", got)
			}
		})
	}
}

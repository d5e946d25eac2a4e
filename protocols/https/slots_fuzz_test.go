package https_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
)

// FuzzSlotsOnTheWire asks with an arbitrary query and Cookie field, as bytes
// inside the agent's TLS. Whatever the gateway lets through has the secret where
// net/http upstream looks for it, once, and the agent's own value nowhere there.
func FuzzSlotsOnTheWire(f *testing.F) {
	for _, s := range [][2]string{
		{"", ""}, {"key=own", "sid=own"}, {"%6bey=own;KEY=own&a=b", `a="; sid=own; b"`}, {"a=1#&key=own", "sid=own\r\nCookie: sid=own2"},
		{"a=1 HTTP/1.1\r\nX: y", "a=1, sid=own"}, {"?key=own", "sid"}, {"a=%00%zz;;&&", "=sid=own"},
	} {
		f.Add(s[0], s[1], false)
		f.Add(s[0], s[1], true)
	}
	var fault atomic.Pointer[string]
	out := &proxytest.Lasting{TB: f}
	l := newSlots(out, func(w http.ResponseWriter, r *http.Request) {
		keys, sids := r.URL.Query()["key"], r.CookiesNamed("sid")
		byKey := len(keys) == 1 && keys[0] == keySecret
		bySid := len(sids) == 1 && sids[0].Value == cookieSecret && strings.HasPrefix(r.Header.Get("Cookie"), "sid=")
		if byKey == bySid { // neither, or the credential of another registration
			said := fmt.Sprintf("%q, Cookie %q", r.RequestURI, r.Header["Cookie"])
			fault.Store(&said)
		}
	}, "")
	byQuery, byCookie := l.Approve("a", "query"), l.Approve("b", "cookie")
	f.Fuzz(func(t *testing.T, query, cookie string, inQuery bool) {
		defer out.Input()()
		id := byCookie
		if inQuery {
			id = byQuery
		}
		conn := l.dial(id, host)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(wait))
		if _, err := fmt.Fprintf(conn, "GET /x?%s HTTP/1.1\r\nHost: %s\r\nCookie: %s\r\nConnection: close\r\n\r\n", query, host, cookie); err != nil {
			return // answered and closed in the middle
		}
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
			_ = resp.Body.Close()
		}
		if said := fault.Load(); said != nil {
			t.Fatalf("the upstream got %s", *said)
		}
	})
}

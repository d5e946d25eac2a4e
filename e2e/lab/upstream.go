package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Upstream is a web server of the world that remembers what it was sent. Paths:
//
//	/            answers "ok" and the protocol
//	/bytes/N     answers N pseudo-random bytes, the same for the same N
//	/hash        answers the SHA-256 of the request body
//	/reflect     puts the request's Authorization and X-Api-Key into response headers
//	/redirect    redirects to a URL that holds them
//	/cookie      sets a cookie
type Upstream struct {
	mu   sync.Mutex
	seen []Seen
}

// Seen is one request as the upstream got it.
type Seen struct {
	Remote string
	Proto  string
	Method string
	Host   string
	URI    string
	Header http.Header
}

// Seen returns the requests so far.
func (u *Upstream) Seen() []Seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Seen(nil), u.seen...)
}

// Forget empties what Seen returns.
func (u *Upstream) Forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = nil
}

func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.seen = append(u.seen, Seen{r.RemoteAddr, r.Proto, r.Method, r.Host, r.RequestURI, r.Header.Clone()})
	u.mu.Unlock()
	got := r.Header.Get("Authorization") + r.Header.Get("X-Api-Key")
	switch {
	case strings.HasPrefix(r.URL.Path, "/bytes/"):
		n, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/bytes/"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.CopyN(w, &Pattern{}, n) // the asker may be gone
	case r.URL.Path == "/hash":
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d %s\n", n, hex.EncodeToString(h.Sum(nil)))
	case r.URL.Path == "/reflect":
		w.Header().Set("X-Reflected", got)
		w.Header().Set("Www-Authenticate", `Bearer realm="`+got+`"`)
		fmt.Fprintln(w, "reflected")
	case r.URL.Path == "/redirect":
		http.Redirect(w, r, "/?leak="+got, http.StatusFound)
	case r.URL.Path == "/cookie":
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "of-the-credential"})
		fmt.Fprintln(w, "ok")
	default:
		fmt.Fprintln(w, "ok", r.Proto)
	}
}

// Pattern is an endless, cheap, position-dependent byte stream.
type Pattern struct{ at uint32 }

func (p *Pattern) Read(b []byte) (n int, _ error) {
	all := pattern()
	for n < len(b) {
		k := copy(b[n:], all[int(p.at)%len(all):])
		p.at += uint32(k)
		n += k
	}
	return n, nil
}

// pattern is what a Pattern repeats.
var pattern = sync.OnceValue(func() []byte {
	all := make([]byte, 1<<24)
	for at := range all {
		all[at] = byte(at ^ at>>8 ^ at>>16)
	}
	return all
})

// PatternHash returns the SHA-256 of the first n bytes of a Pattern, in hex.
func PatternHash(n int64) string {
	h := sha256.New()
	_, _ = io.CopyN(h, &Pattern{}, n) // neither end can fail
	return hex.EncodeToString(h.Sum(nil))
}

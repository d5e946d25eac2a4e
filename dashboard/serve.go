package dashboard

import (
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
)

// contentPolicy lets a page load this origin's own files and nothing else: no
// inline script or style, no frames, no other origin.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP puts what every request meets in one place and in this order:
// headers, Host, cross-site check, then the router's gate.
func (d *dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer d.recoverPanic(w, r)
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	// Not no-referrer: browsers would then send "Origin: null" with our own forms.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)

	if !d.hosts.own(r, d.Policy()) {
		// RFC 9110 section 15.5.20. A page of another site whose name was rebound
		// to this address would otherwise be same-origin with us (I14).
		d.fail(w, r, &failure{http.StatusMisdirectedRequest, "wrong_host", "this Host is not the dashboard's own", "use the address that dashboard.listen names"})
		return
	}
	if err := d.csrf.Check(r); err != nil || fetchedElsewhere(r) {
		d.fail(w, r, &failure{http.StatusForbidden, "cross_site", "the request came from another site", ""})
		return
	}
	d.router.ServeHTTP(w, r)
}

// fetchedElsewhere reports whether a browser says that a page of another origin
// made it send r, other than by a link that was followed. Such a page gets to see
// no answer, but one on another port of this host has the session's cookie sent
// along, and could use up the streams and downloads that there are (Fetch Metadata
// Request Headers, sections 2.1 to 2.3).
func fetchedElsewhere(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		dest := r.Header.Get("Sec-Fetch-Dest")
		return isAPI(r.URL.Path) || r.Header.Get("Sec-Fetch-Mode") != "navigate" || dest != "" && dest != "document"
	}
	return false
}

// recoverPanic ends a panic at its request (I16). The panic's value is not
// logged: it could quote the request.
func (d *dashboard) recoverPanic(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v)
	}
	d.Log.Error("dashboard: panic", "path", r.URL.EscapedPath(), "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
	d.fail(w, r, internal)
}

// isAPI says which of the two forms of answer a path gets.
func isAPI(path string) bool {
	return path == "/api" || strings.HasPrefix(path, "/api/") || path == "/metrics"
}

// source is the address of the other end of the TCP connection; forwarding
// headers are never read.
func source(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func seeOther(w http.ResponseWriter, r *http.Request, to string) {
	http.Redirect(w, r, to, http.StatusSeeOther)
}

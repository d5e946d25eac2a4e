package dashboard

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Limits of a form that is kept for who sent it without a session.
const (
	maxKeptBody   = 256 << 10 // bytes
	maxKept       = 4         // at a time: anyone can send one
	maxKeptFields = 200
	maxNext       = 1024 // bytes of a path to go on to
)

// keptFields are the names of form fields that are given back to a browser which
// has no session. What is not here is not given back: a secret, a password or a
// code would stand in a page that nobody is logged in for.
var keptFields = []string{
	"addresses", "anyway", "blocks", "confirm", "credential", "decision", "endpoint", "for", "from", "had", "host", "name",
	"pin", "pin4", "pin6", "pin_udp4", "pin_udp6", "port", "profile", "reason", "registration", "rule",
	"seen", "seen4", "seen6", "seen_udp4", "seen_udp6", "since", "source", "text", "ttl", "until", "username", "uses", "verdict", "which",
}

// keptLabels are those of fields that are to be typed again and whose names do not
// say what they are.
var keptLabels = map[string]string{"old": "present password", "password": "new password", "repeat": "the same again"}

// keptBody is a form on the page that says its session has ended.
type keptBody struct {
	Kept   bool
	Action string // where it was sent to, and can be again
	Fields []keptField
	Again  []lostField // to be typed again
}

// keptField is one of Fields: what is sent, and how it looks.
type keptField struct{ Name, Value, NameShown, ValueShown string }

// lostField is a field whose value is not given back.
type lostField struct {
	Name, Label string
	Lines       bool // it had several
}

// showEnded answers a form that came without a session: nothing was done, and
// what was typed is not lost. The form comes back, to be sent again after logging
// in from another tab.
//
// Only a request that proves to come from a page of this origin gets it back. One
// from elsewhere is refused long before; should a browser not say where it comes
// from, another site would choose what an operator is asked to send.
func (d *dashboard) showEnded(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/logout" {
		seeOther(w, r, "/login") // as it was meant
		return
	}
	p := page{Title: "Not logged in", Error: "your session has ended, and nothing was done", Body: d.keep(r)}
	d.render(w, http.StatusUnauthorized, "ended", p)
}

// keep reads r's form. The zero keptBody: it cannot be kept.
func (d *dashboard) keep(r *http.Request) keptBody {
	action := ownPage(r.URL.RequestURI())
	if action == "" || !sameOrigin(r) {
		return keptBody{}
	}
	select {
	case d.kept <- struct{}{}:
		defer func() { <-d.kept }()
	default:
		return keptBody{}
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxKeptBody)
	if r.ParseForm() != nil {
		return keptBody{}
	}
	body := keptBody{Kept: true, Action: action}
	n := 0
	names := make([]string, 0, len(r.PostForm))
	for name, values := range r.PostForm {
		names = append(names, name)
		n += len(values)
	}
	if n == 0 || n > maxKeptFields {
		return keptBody{}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range r.PostForm[name] {
			if value == "" || slices.Contains(keptFields, name) {
				body.Fields = append(body.Fields, keptField{name, value, shown(name), shown(value)})
				continue
			}
			label := keptLabels[name]
			if label == "" {
				label = strings.ReplaceAll(strings.TrimPrefix(name, "slot."), "_", " ")
			}
			body.Again = append(body.Again, lostField{name, shown(cut(label, 60)), strings.Contains(value, "\n")})
		}
	}
	return body
}

// sameOrigin reports whether a browser says that r comes from a page of this
// origin. That it does not come from another is checked for every request.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Host != "" && origin.Host == r.Host
}

// ownPage returns target, a path with perhaps a query, if that is a page of this
// origin that can be gone on to; else it is empty. What a browser would take for
// another origin's is none: "//host", "/\host", or such with tabs in it.
func ownPage(target string) string {
	if target == "" || target[0] != '/' || len(target) > maxNext {
		return ""
	}
	u, err := url.ParseRequestURI(target)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return ""
	}
	p := u.EscapedPath()
	if strings.ContainsRune(u.Path+u.RawQuery, '\\') || hasControl(u.Path+u.RawQuery) || path.Clean(u.Path) != u.Path || isAPI(u.Path) || strings.HasPrefix(u.Path, "/static/") ||
		u.Path == "/login" || u.Path == "/setup" || u.Path == "/logout" {
		return ""
	}
	if u.RawQuery == "" {
		return p
	}
	return p + "?" + u.RawQuery
}

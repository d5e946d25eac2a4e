package dashboard

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/clawpatrol/clawpatrol/registry"
)

//go:embed pages/*.html pages/parts/*.html
var pageFiles embed.FS

// pageSet is every page's template, parsed once, by file name without ".html".
type pageSet map[string]*template.Template

// page is what the layout needs; Body is the page's own.
type page struct {
	Title   string
	Section string // of the navigation; empty: not signed in, no navigation
	Done    string // what has just been done
	Error   string
	Hint    string
	Body    any
	Live    bool   // the page hears of changes and renews its parts; see live
	Refresh string // URL that the page goes on to by itself; empty: it stays
	Seconds int    // after which it does

	// Filled in by render.
	Waiting int // registrations that wait for approval
	Blocked int // registrations
	Held    int // approvals that wait
}

func parsePages() (pageSet, error) {
	names, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		return nil, fmt.Errorf("listing pages: %w", err)
	}
	set := make(pageSet)
	for _, file := range names {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "layout" {
			continue
		}
		t, err := template.New("layout").Funcs(template.FuncMap{
			"utc": utc, "at": at, "rfc3339": rfc3339, "size": size, "bytes": bytesText, "plural": plural, "plural64": func(n int64, unit string) string { return plural(int(n), unit) }, "seconds": seconds,
		}).ParseFS(pageFiles, "pages/layout.html", "pages/parts/*.html", file)
		if err != nil {
			return nil, fmt.Errorf("parsing %s: %w", file, err)
		}
		set[name] = t
	}
	return set, nil
}

// render executes a page into a buffer, so that a failure is still a clean 500.
func (d *dashboard) render(w http.ResponseWriter, status int, name string, p page) {
	var b bytes.Buffer
	if p.Section != "" {
		p.Waiting, p.Blocked, p.Held = d.count(registry.Pending), d.count(registry.Blocked), d.Registry.PendingApprovals()
	}
	if err := d.pages[name].ExecuteTemplate(&b, "layout", p); err != nil {
		d.Log.Error("dashboard: page failed", "page", name, "err", err)
		http.Error(w, internal.message, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if status >= http.StatusBadRequest {
		w.Header().Set("HX-Push-Url", "false") // what a form is sent to is often no page to come back to
	}
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// doneMessages are what ?done= may name: a link cannot make a page say anything
// else.
type doneMessages map[string]string

// of returns the message that r's URL asks for; empty: none.
func (m doneMessages) of(r *http.Request) string { return m[r.URL.Query().Get("done")] }

// showFailure fills p's message from err and returns the status to send.
func (d *dashboard) showFailure(p *page, err error) int {
	if err == nil {
		return http.StatusOK
	}
	f := d.failureOf(err)
	p.Error, p.Hint = f.message, f.hint
	return f.status
}

// parseForm reads a posted form; the body is bounded already.
func parseForm(r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return badRequest("the form could not be read")
	}
	return nil
}

package dashboard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What the harness is to find, it finds: on a page that has it all.
func TestHarness_FindsWhatIsWrong(t *testing.T) {
	const bad = `<!doctype html><html><head><title>bad</title></head><body>
<h1>Bad</h1><h3>Too deep</h3>
<p style="width: 3000px">wide</p>
<p style="color: #bbb; background: #fff">pale</p>
<div style="width: 50px; overflow: hidden; white-space: nowrap">this text does not fit into it</div>
<input type="text"><img src="http://127.0.0.2:9/elsewhere.png">
<script>window.ran = 1; console.error("an error"); Promise.resolve().then(() => { throw new Error("thrown") }); setTimeout(() => alert("a dialog"), 1)</script>
</body></html>`
	csp := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if csp != "" {
			w.Header().Set("Content-Security-Policy", csp)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, bad)
	}))
	defer srv.Close()
	p := chromium.open(t, srv.URL, setting{})
	hears := func(part string) {
		t.Helper()
		p.eventually(func() error {
			for _, w := range p.unexpected() {
				if strings.Contains(w, part) {
					return nil
				}
			}
			return fmt.Errorf("nothing was heard of %s: %q", part, p.unexpected())
		})
	}
	p.visit("/")
	for _, part := range []string{"dialog: alert: a dialog", "console.error", "exception: ", "request elsewhere: "} {
		hears(part)
	}
	found, err := p.misfits()
	if text := strings.Join(found, "\n"); err != nil || !strings.Contains(text, "the page is 3") || !strings.Contains(text, `"wide" stands`) || !strings.Contains(text, "is cut off") {
		t.Errorf("misfits: %v %v", found, err)
	}
	if found, err := p.disorder(); err != nil || len(found) != 2 {
		t.Errorf("disorder: %v %v", found, err)
	}
	found, err = p.violations(false)
	if text := strings.Join(found, "\n"); err != nil || !strings.Contains(text, "color-contrast") || !strings.Contains(text, "label") || !strings.Contains(text, "image-alt") {
		t.Errorf("axe-core: %v %v", found, err)
	}
	if found, err := p.planted(); err != nil || len(found) == 0 {
		t.Errorf("planted: %v %v", found, err)
	}
	csp = "default-src 'none'"
	p.visit("/again")
	hears("CSP: script-src-elem")
	hears("CSP: img-src")
	p.expect("")
}

// A page that changes under the hand is still the one that was aimed at, and what
// is covered cannot be clicked.
func TestHarness_DoesNotClickWhatIsCovered(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, `<!doctype html><html lang="en"><body><button>Below</button>
<div style="position: fixed; inset: 0; background: #eee"></div><button style="position: fixed; top: 200px">Above</button></body></html>`)
	}))
	defer srv.Close()
	p := chromium.open(t, srv.URL, setting{})
	p.visit("/")
	for name, free := range map[string]bool{"Below": false, "Above": true} {
		n, err := p.one("button", name)
		must(t, err)
		if _, _, err := p.aim(n); (err == nil) != free {
			t.Errorf("%s: %v", name, err)
		}
	}
}

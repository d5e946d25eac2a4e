package dashboard

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// axe is axe-core 4.12.1 as published (Deque Systems, MPL-2.0: testdata/axe.LICENSE):
// for tests only, and no part of the gateway.
//
//go:embed testdata/axe.min.js
var axe string

const axeSHA256 = "66a8aaa95a8b044a7fd74a5435873bf04ff65a1ca75567c921b7509742085a14"

func TestAxe_IsTheRelease(t *testing.T) {
	if sum := sha256.Sum256([]byte(axe)); hex.EncodeToString(sum[:]) != axeSHA256 {
		t.Errorf("testdata/axe.min.js has the hash %x", sum)
	}
}

// axeRun returns what is serious. In the dark only colours are looked at again.
const axeRun = `axe.run(document, %s).then(r => r.violations
	.filter(v => v.impact === "serious" || v.impact === "critical")
	.map(v => v.impact + ": " + v.id + ": " + v.help + ": " + v.nodes.slice(0, 4).map(n => n.target.join(" ") + " (" + (n.any[0] || n.all[0] || n.none[0] || {message: ""}).message + ")").join("; ")))`

// violations are what axe-core finds on the page that is serious or critical.
func (p *tab) violations(colours bool) (found []string, err error) {
	if _, err := p.evaluate(axe + "; 0"); err != nil {
		return nil, err
	}
	options := `{resultTypes: ["violations"]}`
	if colours {
		options = `{resultTypes: ["violations"], runOnly: ["color-contrast"]}`
	}
	b, err := p.evaluate(fmt.Sprintf(axeRun, options))
	if err != nil {
		return nil, err
	}
	return found, json.Unmarshal(b, &found)
}

// overflows returns what does not fit: the document itself, what stands outside of
// it, and text that is cut off by its own element.
const overflows = `(() => {
	const found = [], name = e => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "") + " " + JSON.stringify((e.textContent || e.value || "").trim().replace(/\s+/g, " ").slice(0, 60));
	const width = document.documentElement.clientWidth;
	if (document.documentElement.scrollWidth > window.innerWidth) found.push("the page is " + document.documentElement.scrollWidth + " wide");
	const scrolls = e => { for (; e && e !== document.body; e = e.parentElement) if (["auto", "scroll"].includes(getComputedStyle(e).overflowX)) return true; return false; };
	const hidden = e => { for (; e && e !== document.body; e = e.parentElement) { const s = getComputedStyle(e); if (s.visibility === "hidden" || s.clipPath !== "none" || s.position === "absolute" && e.offsetWidth <= 1) return true; } return false; };
	for (const e of document.body.querySelectorAll("*")) {
		if (e.closest("svg") && e.tagName !== "svg" || e.matches(".skip")) continue;
		const r = e.getBoundingClientRect(), s = getComputedStyle(e);
		if (r.width === 0 || r.height === 0 || hidden(e)) continue;
		if ((r.right > width + 1 || r.left < -1) && !scrolls(e)) found.push(name(e) + " stands from " + Math.round(r.left) + " to " + Math.round(r.right) + " of " + width);
		if (["hidden", "clip"].includes(s.overflowX) && e.scrollWidth > e.clientWidth + 1 && !e.matches("input, svg")) found.push(name(e) + " is cut off: " + e.scrollWidth + " in " + e.clientWidth);
	}
	return found.slice(0, 6);
})()`

// misfits is overflows, of the page that is open.
func (p *tab) misfits() (found []string, err error) {
	b, err := p.evaluate(overflows)
	if err != nil {
		return nil, err
	}
	return found, json.Unmarshal(b, &found)
}

// headings returns what is wrong with the order of the headings: one h1, first,
// and no level left out.
const headingOrder = `(() => {
	const levels = [...document.querySelectorAll("h1,h2,h3,h4,h5,h6")].map(h => +h.tagName[1]);
	const found = [];
	if (levels.filter(l => l === 1).length !== 1) found.push("h1: " + levels.filter(l => l === 1).length);
	levels.forEach((l, i) => { if (l > (levels[i-1] || 0) + 1) found.push("h" + l + " after h" + (levels[i-1] || 0)); });
	if (document.documentElement.lang !== "en") found.push("no language");
	return found;
})()`

func (p *tab) disorder() (found []string, err error) {
	b, err := p.evaluate(headingOrder)
	if err != nil {
		return nil, err
	}
	return found, json.Unmarshal(b, &found)
}

// sizes are looked at on every page.
var sizes = []setting{
	{width: 1440}, {width: 1440, dark: true},
	{width: 768}, {width: 768, dark: true},
	{width: 360}, {width: 360, dark: true},
}

// inspect looks at the page that is open at every size, light and dark: everything
// fits, axe-core finds nothing serious; and takes its pictures.
func (p *tab) inspect(name string) {
	p.t.Helper()
	if found, err := p.disorder(); err != nil || len(found) > 0 {
		p.t.Errorf("%s: %v (%v)", name, found, err)
	}
	for _, s := range sizes {
		p.look(s)
		if found, err := p.misfits(); err != nil || len(found) > 0 {
			p.t.Errorf("%s at %v: %s (%v)", name, s, strings.Join(found, "\n\t"), err)
		}
		if s.width == 768 {
			continue
		}
		if s.width == 1440 {
			if found, err := p.violations(s.dark); err != nil || len(found) > 0 {
				p.t.Errorf("%s, %v: axe-core: %s (%v)", name, s, strings.Join(found, "\n\t"), err)
			}
		}
		if _, err := p.picture(fileName(name, s), maxHeight); err != nil {
			p.t.Error(err)
		}
	}
}

func fileName(page string, s setting) string {
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	return fmt.Sprintf("%s-%d-%s", page, s.width, scheme)
}

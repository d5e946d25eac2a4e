package dashboard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/inspector"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience bounds every wait for something to appear.
const patience = 15 * time.Second

// browser is one Chromium; every test has tabs of its own in it.
type browser struct{ ctx context.Context }

// startBrowser starts Debian's Chromium. Root's wants --no-sandbox, and so does
// any in a container; what it opens is this dashboard alone.
func startBrowser(ctx context.Context) (*browser, func() error, error) {
	ctx, done := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("force-color-profile", "srgb"))...)
	ctx, cancel := chromedp.NewContext(ctx)
	end := func() error {
		defer done()
		defer cancel()
		ctx, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		return chromedp.Cancel(ctx)
	}
	if err := chromedp.Do(ctx); err != nil {
		return nil, nil, fmt.Errorf("starting Chromium: %w", err)
	}
	return &browser{ctx}, end, nil
}

// setting is what a tab looks like, and who looks at it.
type setting struct {
	width    int64 // 0: 1440
	height   int64 // 0: that of such a device
	dark     bool
	keyboard bool // no mouse: Tab, Enter, Space, arrows and text
	scripts  scripts
}

type scripts int

const (
	withScripts scripts = iota
	withoutScripts
)

// Viewports. A phone's is small, and touched.
var heights = map[int64]int64{360: 740, 768: 1024, 1440: 900}

func (s setting) String() string {
	name := fmt.Sprint(s.size())
	if s.dark {
		name += " dark"
	}
	if s.keyboard {
		name += " keyboard"
	}
	if s.scripts == withoutScripts {
		name += " without scripts"
	}
	return name
}

func (s setting) size() int64 {
	if s.width == 0 {
		return 1440
	}
	return s.width
}

// tab is a page that an operator looks at. What goes wrong in it (an error in the
// console, a violation of the CSP, an exception, a dialog, a request elsewhere)
// fails the test when the tab closes.
type tab struct {
	scope
	t    *testing.T
	ctx  context.Context
	base string // "http://host:port"
	setting

	mu        sync.Mutex
	wrong     []string
	expected  []*regexp.Regexp
	documents int  // that were asked for
	listening bool // the document that is open hears of what changes
	crashed   bool
}

// open opens a tab with cookies of its own.
func (b *browser) open(t *testing.T, base string, s setting) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	return newTab(t, ctx, cancel, base, s)
}

// another opens a tab beside p, with the same cookies.
func (p *tab) another() *tab {
	p.t.Helper()
	ctx, cancel := chromedp.NewContext(p.ctx)
	return newTab(p.t, ctx, cancel, p.base, p.setting)
}

func newTab(t *testing.T, ctx context.Context, cancel context.CancelFunc, base string, s setting) *tab {
	t.Helper()
	p := &tab{t: t, ctx: ctx, base: base, setting: s}
	p.scope = scope{p: p}
	t.Cleanup(func() {
		if t.Failed() {
			p.keepEvidence()
		}
		cancel()
		for _, w := range p.unexpected() {
			t.Errorf("in the browser: %s", w)
		}
	})
	must(t, chromedp.Listen(ctx, p.hear))
	for _, enable := range []cdp.Command[cdp.Empty, cdp.Empty]{audits.Enable, runtime.Enable, log.Enable} {
		must(t, do(p, enable, cdp.Empty{}))
	}
	must(t, do(p, page.Enable, page.EnableParams{}))
	must(t, do(p, network.Enable, network.EnableParams{}))
	// Each tab is as one that somebody has in front of him.
	must(t, do(p, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true}))
	p.look(s)
	if s.scripts == withoutScripts {
		must(t, do(p, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	}
	return p
}

// do is call for what answers nothing.
func do[P any](p *tab, cmd cdp.Command[P, cdp.Empty], params P) error {
	_, err := call(p, cmd, params)
	return err
}

// call runs one command of the protocol, for a bounded time.
func call[P, R any](p *tab, cmd cdp.Command[P, R], params P) (R, error) {
	return callWithin(p, patience, cmd, params)
}

func callWithin[P, R any](p *tab, limit time.Duration, cmd cdp.Command[P, R], params P) (R, error) {
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	r, err := chromedp.Call(ctx, cmd, params)
	if err != nil {
		err = fmt.Errorf("%s: %w", cmd.Method, err)
	}
	return r, err
}

// look changes size and colours.
func (p *tab) look(s setting) {
	p.t.Helper()
	p.width, p.dark = s.size(), s.dark
	height := s.height
	if height == 0 {
		height = heights[s.size()]
	}
	must(p.t, do(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: s.size(), Height: height, DeviceScaleFactor: 1, Mobile: s.size() == 360,
	}))
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	must(p.t, do(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}}))
}

// hear keeps what goes wrong.
func (p *tab) hear(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tell := func(format string, args ...any) { p.wrong = append(p.wrong, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == "error" || e.Entry.Source == "security" || e.Entry.Source == "violation" {
			tell("log: %s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "assert" || e.Type == "warning" {
			text := ""
			for _, a := range e.Args {
				text += " " + string(a.Value) + a.Description
			}
			tell("console.%s:%s", e.Type, text)
		}
	case *runtime.EventExceptionThrown:
		tell("exception: %s %s", e.ExceptionDetails.Text, describe(e.ExceptionDetails.Exception))
	case *inspector.EventTargetCrashed:
		p.crashed = true
	case *audits.EventIssueAdded:
		if d := e.Issue.Details.ContentSecurityPolicyIssueDetails; d != nil {
			tell("CSP: %s %s", d.ViolatedDirective, d.BlockedURL)
		}
	case *page.EventJavascriptDialogOpening:
		tell("dialog: %s: %s", e.Type, e.Message)
		// Nobody answers in time for hear, which must not wait.
		go func() { _ = do(p, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true}) }()
	case *network.EventResponseReceived:
		if e.Response.URL == p.base+"/api/live" && e.Response.Status == 200 {
			p.listening = true
		}
	case *network.EventRequestWillBeSent:
		switch u := e.Request.URL; {
		case u == p.base || strings.HasPrefix(u, p.base+"/"):
			if e.Type == network.ResourceTypeDocument {
				p.documents++
				p.listening = false
			}
		case u != "about:blank" && !strings.HasPrefix(u, "data:"):
			tell("request elsewhere: %s", u)
		}
	}
}

// listens waits until the page that is open hears of what changes, as whoever
// reads it has: what happens between the page and that, it is told of later.
func (p *tab) listens() {
	p.t.Helper()
	if p.scripts == withoutScripts {
		return
	}
	p.eventually(func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.listening {
			return errors.New("the page does not listen")
		}
		return nil
	})
}

func (p *tab) hasCrashed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crashed
}

// loaded counts the documents that the tab has asked for.
func (p *tab) loaded() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.documents
}

func describe(o *runtime.RemoteObject) string {
	if o == nil {
		return ""
	}
	return o.Description
}

// expect lets what matches pass: the browser's own complaint about an answer that
// the test provokes.
func (p *tab) expect(pattern string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = append(p.expected, regexp.MustCompile(pattern))
}

func (p *tab) unexpected() (wrong []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
next:
	for _, w := range p.wrong {
		for _, e := range p.expected {
			if e.MatchString(w) {
				continue next
			}
		}
		wrong = append(wrong, w)
	}
	return wrong
}

// visit goes to a path of the dashboard.
func (p *tab) visit(path string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 2*patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(p.base+path)); err != nil {
		p.t.Fatalf("opening %s: %v", path, err)
	}
}

// reload is F5.
func (p *tab) reload() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 2*patience)
	defer cancel()
	must(p.t, chromedp.Do(ctx, chromedp.Reload()))
}

// waitAt waits until the path of the page, with its query, matches.
func (p *tab) waitAt(pattern string) {
	p.t.Helper()
	re := regexp.MustCompile("^(?:" + pattern + ")$")
	p.eventually(func() error {
		h, err := call(p, page.GetNavigationHistory, cdp.Empty{})
		if err != nil {
			return err
		}
		if at := strings.TrimPrefix(h.Entries[h.CurrentIndex].URL, p.base); !re.MatchString(at) {
			return fmt.Errorf("at %s, want %s", at, pattern)
		}
		return nil
	})
}

// eventually fails the test unless f succeeds in time.
func (p *tab) eventually(f func() error) {
	p.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
		if p.hasCrashed() {
			p.t.Fatalf("the tab has crashed: %v", err)
		}
	}
	p.t.Fatalf("still after %v: %v", patience, err)
}

// evaluate runs an expression in the page, as the DevTools' console does, which no
// CSP stops, and returns its value as JSON.
func (p *tab) evaluate(expression string) ([]byte, error) {
	yes := true
	r, err := call(p, runtime.Evaluate, runtime.EvaluateParams{Expression: expression, AwaitPromise: &yes, ReturnByValue: &yes})
	if err != nil {
		return nil, err
	}
	if r.ExceptionDetails != nil {
		return nil, fmt.Errorf("evaluating: %s %s", r.ExceptionDetails.Text, describe(r.ExceptionDetails.Exception))
	}
	return r.Result.Value, nil
}

// screenshots is where pictures go; it is named in .gitignore.
const screenshots = "screenshots"

// maxHeight bounds a picture, in pixels.
const maxHeight = 2000

// picture takes one of the page from its top, to at most height, below screenshots
// unless its name is a path from the root.
func (p *tab) picture(name string, height float64) (file string, err error) {
	m, err := call(p, page.GetLayoutMetrics, cdp.Empty{})
	if err != nil {
		return "", err
	}
	yes := true
	r, err := call(p, page.CaptureScreenshot, page.CaptureScreenshotParams{
		CaptureBeyondViewport: &yes,
		Clip:                  &page.Viewport{Width: float64(p.width), Height: min(m.CSSContentSize.Height, height), Scale: 1},
	})
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(screenshots, name)
	}
	return name + ".png", os.WriteFile(name+".png", r.Data, 0o644)
}

// keepEvidence says what a failed test's tab shows.
func (p *tab) keepEvidence() {
	name := "failed-" + strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' {
			return '-'
		}
		return r
	}, p.t.Name()+"-"+p.setting.String())
	if file, err := p.picture(name, maxHeight); err == nil {
		p.t.Logf("what it showed: %s", file)
	}
	if text, err := p.text(); err == nil {
		p.t.Logf("its text:\n%s", text)
	}
}

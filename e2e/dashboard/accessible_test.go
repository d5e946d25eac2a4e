package dashboard

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"strings"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
)

// scope is a part of a page, found as somebody finds it who hears the page: by
// the roles and names of the accessibility tree, never by classes or ids. It runs
// no script in the page.
type scope struct {
	p    *tab
	path []thing // from the page down
}

// thing is an element by role and name; the name is a regular expression for all
// of it.
type thing struct{ role, name string }

func (th thing) String() string { return th.role + " " + th.name }

// in is the part of s inside an element.
func (s scope) in(role, name string) scope {
	return scope{s.p, append(s.path[:len(s.path):len(s.path)], thing{role, name})}
}

// node is an element that was found.
type node struct {
	ax         accessibility.NodeID
	id         cdp.BackendNodeID
	name       string
	text       string // what is read of all that is in it
	value      string
	properties map[string]string
}

var errNone = errors.New("there is none")

// all returns the things in s, as they are now.
func (s scope) all(role, name string) ([]node, error) {
	tree, err := s.p.tree()
	if err != nil {
		return nil, err
	}
	return tree.find(append(s.path[:len(s.path):len(s.path)], thing{role, name}))
}

func tooMany(found []node) error {
	if len(found) == 0 {
		return errNone
	}
	var names []string
	for _, n := range found {
		names = append(names, n.name)
	}
	return fmt.Errorf("there are %d: %q", len(found), names)
}

// tree is the accessibility tree at one instant.
type tree struct {
	root accessibility.NodeID
	byID map[accessibility.NodeID]*accessibility.Node
}

// tree takes one. It is the whole tree each time: Chromium's queryAXTree crashes
// the tab where the document goes away meanwhile, and does not answer where
// scripts are disabled.
func (p *tab) tree() (*tree, error) {
	r, err := callWithin(p, patience/5, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	if err != nil {
		return nil, err
	}
	if len(r.Nodes) == 0 {
		return nil, errNone
	}
	t := &tree{r.Nodes[0].NodeID, make(map[accessibility.NodeID]*accessibility.Node, len(r.Nodes))}
	for _, n := range r.Nodes {
		t.byID[n.NodeID] = n
	}
	return t, nil
}

// find follows a path, of which all but the last is to be there once.
func (t *tree) find(path []thing) (found []node, err error) {
	root := t.root
	for i, th := range path {
		re, err := regexp.Compile("^(?:" + th.name + ")$")
		if err != nil {
			return nil, err
		}
		found = nil
		for n := range t.below(root) {
			if !n.Ignored && plain(n.Role) == th.role && re.MatchString(plain(n.Name)) {
				found = append(found, newNode(t, n))
			}
		}
		if i == len(path)-1 {
			break
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("%s: %w", th, tooMany(found))
		}
		root = found[0].ax
	}
	return found, nil
}

// below walks what is below a node, in the page's order.
func (t *tree) below(root accessibility.NodeID) iter.Seq[*accessibility.Node] {
	return func(yield func(*accessibility.Node) bool) {
		var walk func(id accessibility.NodeID) bool
		walk = func(id accessibility.NodeID) bool {
			n := t.byID[id]
			if n == nil {
				return true
			}
			for _, c := range n.ChildIDs {
				if child := t.byID[c]; child != nil && (!yield(child) || !walk(c)) {
					return false
				}
			}
			return true
		}
		walk(root)
	}
}

func newNode(t *tree, n *accessibility.Node) node {
	f := node{ax: n.NodeID, id: n.BackendDOMNodeID, name: plain(n.Name), value: plain(n.Value), properties: map[string]string{}}
	for _, p := range n.Properties {
		f.properties[string(p.Name)] = plain(p.Value)
	}
	for part := range t.below(n.NodeID) {
		if plain(part.Role) == "StaticText" {
			f.text += plain(part.Name) + " "
		}
	}
	return f
}

// plain is a value of the tree as text, white space as it is read.
func plain(v *accessibility.Value) string {
	if v == nil {
		return ""
	}
	var s string
	if json.Unmarshal(v.Value, &s) != nil {
		s = string(v.Value)
	}
	return strings.Join(strings.Fields(s), " ")
}

// one returns the one such thing there is now.
func (s scope) one(role, name string) (node, error) {
	found, err := s.all(role, name)
	if err == nil && len(found) != 1 {
		err = tooMany(found)
	}
	if err != nil {
		return node{}, fmt.Errorf("%s: %w", thing{role, name}, err)
	}
	return found[0], nil
}

// has says whether there is such a thing now.
func (s scope) has(role, name string) bool {
	found, err := s.all(role, name)
	return err == nil && len(found) > 0
}

// sees waits for such a thing, and returns the first.
func (s scope) sees(role, name string) (n node) {
	s.p.t.Helper()
	s.p.eventually(func() error {
		found, err := s.all(role, name)
		if err == nil && len(found) == 0 {
			err = fmt.Errorf("%s: %w", thing{role, name}, errNone)
		}
		if err == nil {
			n = found[0]
		}
		return err
	})
	return n
}

// tells waits for a thing of a role, whatever its name, that reads like pattern.
func (s scope) tells(role, pattern string) {
	s.p.t.Helper()
	re := regexp.MustCompile(pattern)
	s.p.eventually(func() error {
		found, err := s.all(role, ".*")
		if err != nil {
			return err
		}
		var texts []string
		for _, n := range found {
			if re.MatchString(n.text) {
				return nil
			}
			texts = append(texts, n.text)
		}
		return fmt.Errorf("no %s that says %q: %q", role, pattern, texts)
	})
}

// misses waits until there is no such thing.
func (s scope) misses(role, name string) {
	s.p.t.Helper()
	s.p.eventually(func() error {
		found, err := s.all(role, name)
		if errors.Is(err, errNone) {
			return nil
		}
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("%s is still there: %w", thing{role, name}, tooMany(found))
		}
		return err
	})
}

// text returns what is read of the page, a line an element of text.
func (p *tab) text() (string, error) {
	t, err := p.tree()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for n := range t.below(t.root) {
		if plain(n.Role) == "StaticText" {
			b.WriteString(plain(n.Name) + "\n")
		}
	}
	return b.String(), nil
}

// says waits until the page's text has a part that matches.
func (p *tab) says(pattern string) {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	p.eventually(func() error {
		text, err := p.text()
		if err == nil && !re.MatchString(text) {
			err = fmt.Errorf("nothing says %q", pattern)
		}
		return err
	})
}

// click uses a button, a link, or a box to tick: with the mouse, at its middle,
// which nothing may cover, or with the keyboard.
func (s scope) click(role, name string) {
	s.p.t.Helper()
	if s.p.keyboard {
		s.focus(role, name)
		key := enter
		if role == "checkbox" || role == "radio" {
			key = space
		}
		must(s.p.t, s.p.press(key))
		return
	}
	s.p.eventually(func() error {
		n, err := s.one(role, name)
		if err != nil {
			return err
		}
		x, y, err := s.p.aim(n)
		if err != nil {
			return fmt.Errorf("%s: %w", thing{role, name}, err)
		}
		for _, e := range []input.DispatchMouseEventParams{
			{Type: input.DispatchMouseEventTypeMouseMoved, X: x, Y: y},
			{Type: input.DispatchMouseEventTypeMousePressed, X: x, Y: y, Button: "left", Buttons: 1, ClickCount: 1},
			{Type: input.DispatchMouseEventTypeMouseReleased, X: x, Y: y, Button: "left", ClickCount: 1},
		} {
			if err := do(s.p, input.DispatchMouseEvent, e); err != nil {
				s.p.t.Fatal(err) // half a click is none to try again
			}
		}
		return nil
	})
}

// aim scrolls to an element and returns its middle, where it must be on top.
func (p *tab) aim(n node) (x, y float64, err error) {
	if err := do(p, dom.ScrollIntoViewIfNeeded, dom.ScrollIntoViewIfNeededParams{BackendNodeID: n.id}); err != nil {
		return 0, 0, err
	}
	q, err := call(p, dom.GetContentQuads, dom.GetContentQuadsParams{BackendNodeID: n.id})
	if err != nil {
		return 0, 0, err
	}
	if len(q.Quads) == 0 {
		return 0, 0, errors.New("it has no place on the page")
	}
	for i := 0; i < 8; i += 2 {
		x += q.Quads[0][i] / 4
		y += q.Quads[0][i+1] / 4
	}
	m, err := call(p, page.GetLayoutMetrics, cdp.Empty{})
	if err != nil {
		return 0, 0, err
	}
	view := m.CSSVisualViewport // the quads are in it; locations are in the document
	hit, err := call(p, dom.GetNodeForLocation, dom.GetNodeForLocationParams{X: int64(x + view.PageX), Y: int64(y + view.PageY)})
	if err != nil {
		return 0, 0, err
	}
	deep := int64(-1)
	d, err := call(p, dom.DescribeNode, dom.DescribeNodeParams{BackendNodeID: n.id, Depth: &deep})
	if err != nil {
		return 0, 0, err
	}
	if !holds(d.Node, hit.BackendNodeID) {
		return 0, 0, errors.New("something covers it")
	}
	return x, y, nil
}

func holds(n *cdp.Node, id cdp.BackendNodeID) bool {
	if n.BackendNodeID == id {
		return true
	}
	for _, c := range n.Children {
		if holds(c, id) {
			return true
		}
	}
	return false
}

// focus brings the keyboard to an element: by Tab where there is no mouse.
func (s scope) focus(role, name string) {
	s.p.t.Helper()
	if !s.p.keyboard {
		s.p.eventually(func() error {
			n, err := s.one(role, name)
			if err == nil {
				err = do(s.p, dom.Focus, dom.FocusParams{BackendNodeID: n.id})
			}
			return err
		})
		return
	}
	s.sees(role, name)
	for range maxTabs {
		n, err := s.one(role, name)
		if err == nil && n.properties["focused"] == "true" {
			return
		}
		must(s.p.t, s.p.press(tabKey))
	}
	s.p.t.Fatalf("%d times Tab do not come to %s", maxTabs, thing{role, name})
}

// maxTabs is more than any page has to stop at.
const maxTabs = 250

type key struct {
	name, text string
	code       int64
}

var (
	enter   = key{"Enter", "\r", 13}
	tabKey  = key{"Tab", "", 9}
	space   = key{" ", " ", 32}
	down    = key{"ArrowDown", "", 40}
	homeKey = key{"Home", "", 36}
)

// press presses a key and lets it go.
func (p *tab) press(k key) error {
	if err := do(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{
		Type: input.DispatchKeyEventTypeKeyDown, Key: k.name, Code: k.name, Text: k.text, WindowsVirtualKeyCode: k.code, NativeVirtualKeyCode: k.code,
	}); err != nil {
		return err
	}
	return do(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{
		Type: input.DispatchKeyEventTypeKeyUp, Key: k.name, Code: k.name, WindowsVirtualKeyCode: k.code, NativeVirtualKeyCode: k.code,
	})
}

// fill replaces what a field holds; again, where the page was not ready for it.
func (s scope) fill(name, text string) {
	s.p.t.Helper()
	s.p.eventually(func() error {
		s.focus("textbox", name)
		for _, typ := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeRawKeyDown, input.DispatchKeyEventTypeKeyUp} {
			if err := do(s.p, input.DispatchKeyEvent, input.DispatchKeyEventParams{
				Type: typ, Key: "a", Code: "KeyA", WindowsVirtualKeyCode: 65, Modifiers: 2, Commands: []string{"selectAll"},
			}); err != nil {
				return err
			}
		}
		if err := s.p.write(text); err != nil {
			return err
		}
		n, err := s.one("textbox", name)
		if err == nil && n.value == "" && text != "" {
			err = fmt.Errorf("textbox %s is empty still", name)
		}
		return err
	})
}

// write types text where the keyboard is.
func (p *tab) write(text string) error {
	return do(p, input.InsertText, input.InsertTextParams{Text: text})
}

// tick ticks a box or takes a choice, unless it is.
func (s scope) tick(role, name string) {
	s.p.t.Helper()
	s.sees(role, name)
	s.p.eventually(func() error {
		n, err := s.one(role, name)
		if err != nil || n.properties["checked"] == "true" {
			return err
		}
		s.click(role, name) // which a part of the page that renews itself may swallow
		if n, err = s.one(role, name); err == nil && n.properties["checked"] != "true" {
			err = fmt.Errorf("%s is not ticked", thing{role, name})
		}
		return err
	})
}

// choose takes an option of a list, as the arrow keys do.
func (s scope) choose(name, option string) {
	s.p.t.Helper()
	s.focus("combobox", name)
	re := regexp.MustCompile("^(?:" + option + ")$")
	must(s.p.t, s.p.press(homeKey))
	for range 100 {
		n, err := s.one("combobox", name)
		must(s.p.t, err)
		if re.MatchString(n.value) {
			return
		}
		must(s.p.t, s.p.press(down))
		time.Sleep(time.Millisecond)
	}
	s.p.t.Fatalf("%s has no option %s", name, option)
}

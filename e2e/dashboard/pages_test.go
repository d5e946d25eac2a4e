package dashboard

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every page, as links lead to it, fits at every size, light and dark, and is
// accessible.
func TestDashboard_EveryPageFitsAndIsAccessible(t *testing.T) {
	t.Parallel()
	s := newDay(t)
	p := s.open(t, setting{})
	var kinds []string
	for _, path := range s.everyPage(false) {
		u, err := url.Parse(path)
		must(t, err)
		kinds = append(kinds, kindOf(u))
		p.visit(path)
		p.inspect(pictureName(u))
		if d, ok := documented[pictureName(u)]; ok && *pictures != "" {
			p.document(pictureName(u), d)
		}
	}
	for _, want := range []string{"/", "/registrations", "/registrations/*", "/approvals", "/credentials", "/credentials/*/*", "/actions", "/recordings", "/policy", "/system", "/account"} {
		if !slices.Contains(kinds, want) {
			t.Errorf("no link leads to a page like %s: %q", want, kinds)
		}
	}
}

// documented are the pages with a picture in the documentation, which
// `make pictures` renews.
var documented = map[string]setting{
	"overview":      {width: 1440, height: 1330},
	"registrations": {width: 1440, height: 900},
	"approvals":     {width: 360, height: 1330},
	"actions":       {width: 1440, height: 760, dark: true},
}

// maxPicture is in bytes.
const maxPicture = 150 << 10

// document takes the picture of a page for the documentation.
func (p *tab) document(name string, s setting) {
	p.t.Helper()
	p.look(s)
	file, err := p.picture(filepath.Join(*pictures, name), float64(s.height))
	must(p.t, err)
	must(p.t, shrink(file))
	if info, err := os.Stat(file); err != nil || info.Size() > maxPicture {
		p.t.Errorf("%s: %v, %v", file, info.Size(), err)
	}
}

// shrink writes a picture again with the 256 colours that it has most of.
func shrink(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		return err
	}
	count := make(map[color.Color]int)
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			count[img.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] })
	few := image.NewPaletted(img.Bounds(), colours[:min(len(colours), 256)])
	draw.Draw(few, few.Bounds(), img, image.Point{}, draw.Src)
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

func pictureName(u *url.URL) string {
	name := strings.Trim(strings.ReplaceAll(strings.ReplaceAll(kindOf(u), "/*", "-one"), "/", "-"), "-")
	if name == "" {
		name = "overview"
	}
	return name
}

// The pages before the gate, and those that say that something is wrong.
func TestDashboard_LogInAndErrorPagesFitAndAreAccessible(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	p := chromium.open(t, s.base, setting{})
	p.visit("/login")
	p.inspect("login")
	p.expect(`status of (401|404|400)`)
	p.look(setting{})
	p.fill("Root password", "not the password")
	p.click("button", "Log in")
	p.tells("alert", "password")
	p.inspect("login-refused")
	p.enter(s.cookie)
	p.visit("/no-such-page")
	p.inspect("error")
}

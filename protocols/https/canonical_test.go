package https

import (
	"bufio"
	"bytes"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
)

// ask parses a request with this target as the server does; nil where it refuses.
func ask(t testing.TB, target string) *http.Request {
	t.Helper()
	method := "GET"
	if target == "*" {
		method = "OPTIONS"
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: a.example\r\n\r\n")))
	if err != nil {
		return nil
	}
	return r
}

func TestCanonical_WhatNoHonestProgramSendsIsRefused(t *testing.T) {
	for reason, paths := range map[string][]string{
		reasonDots: {
			"/.", "/..", "/a/.", "/a/..", "/../a", "/a/../b", "/./../a", "/a/./..", "//../a", "/a//..", "/./.",
			"/%2e", "/a/%2e/b", "/a%2f./b", "/a/.%2fb", "/%2E%2e/a", "/.%2e/", "/a/%2e./b", "/a/..;/b", "/a/..;x=1/b", "/a/.;/b", "/a/%2e%2e;/b", "/a/..%3b/b", "/a/.%3Bx",
			"/a%2f..", "/a/..%2fb", "/a%2F%2e%2E%2Fb", "/..%5cb", "/a%5c..%5Cb", "/a%5c.",
			"/%252e%252e/a", "/a/..%252fb", "/a%255c..%255cb", "/%25252e%25252e/",
		},
		"a backslash":          {`/a\b`, `/\`, `/a/..\b`},
		"encodes nothing":      {"/%", "/a%2", "/%zz", "/%u002e%u002e/", "/a%%2e"},
		"an encoded control":   {"/%00", "/a%0d%0ab", "/%09", "/%1f", "/%7F", "/a.php%00.png"},
		"overlong":             {"/%c0%af", "/a/..%C0%AF..", "/%c0%ae%c0%ae/", "/%c1%9c", "/%e0%80%af", "/%e0%9f%bf", "/%f0%80%80%af", "/%f8%80%80%80%af", "/%fc%80%80%80%80%af", "/%c0.", "/%C0", "/%25c0%25af"},
		"a fragment":           {"/#", "/a#b", "/?a#b", "/a?#", "https://a.example/#x"},
		"not UTF-8":            {"/Gr\xfc\xdfe", "/\xc0\xaf", "/?q=\xff", "/\xed\xa0\x80"},
		"outside of ASCII":     {"/a\u0085", "/a\u00a0b", "/\u2028", "/a\u202eb", "/\u200b", "/?\u3000", "/\ufeff"},
		"a blank or a control": {"/a b", "/\x01", "/a\x7f", "/?a b", "/a\tb", " /"},
		"begin with a slash":   {"", "a", "?a", "*?", "**", "https:/a", "a:b"},
	} {
		for _, target := range paths {
			r := ask(t, target)
			if r == nil { // net/http refuses it first; HTTP/2 would not, always
				r = ask(t, "/")
				r.RequestURI = target
			}
			if got, why := readTarget(r); !strings.Contains(why, reason) || got != "" {
				t.Errorf("%q: %q, refused because %q, want %q", target, got, why, reason)
			}
		}
	}
	r := ask(t, "*")
	r.Method = "GET"
	if _, why := readTarget(r); why == "" {
		t.Error("GET * is relayed")
	}
}

func TestCanonical_WhatProgramsSendIsRelayedAsItIs(t *testing.T) {
	for _, target := range []string{
		"/", "/a/b/", "/flat/./InRelease", "/././a/./", "/.//a", "//a//b", "/a//", "//", "///x", "//host.example/x", "/a%2Fb", "/a%2fb%5Cc", "/@scope%2fname", "/%40scope%2fname", "/group%2Fproject/x%2F.gitignore",
		"/a;b=c;d", "/a;/b", "/;", "/%61", "/%7Euser", "/~user", "/%E2%82%AC", "/%fc", "/Gr%FC%DFe", "/%e0%b8%81", "/%f0%9f%98%80", "/100%25", "/%2525", "/%2541", "/a%20b",
		"/.git", "/..a", "/a..", "/a../b", "/...", "/a/.../b", "/.a/..b", "/a.b.", "/a.;b", "/%2ea", "/.well-known/x", "/%2e%2e%2e",
		"/x:y@z", "/a,b&c=d+e", "/!$'()*", "/a=b", "/a|b^c[d]{e}`\"<f>", "//a|b", "//Grüße", `//"`, "/Grüße/日本語", "/👍", "/?", "/x?", "/?a=1&a=2&&", "/??", "/?q=/../x", `/?q=a\b`, "/?q=100%", "/?q=%00", "/?q=%0a", "/?q=%zz", "/?q=ü", `/?{"x":[1|2]}`,
		"/" + strings.Repeat("%2F", 10_000), "/" + strings.Repeat("x/", 10_000),
	} {
		r := ask(t, target)
		if r == nil {
			t.Errorf("%q: net/http refuses it", target)
			continue
		}
		want, _, _ := strings.Cut(target, "?")
		if got, why := readTarget(r); got != want || why != "" {
			t.Errorf("%q: %q, refused because %q", target, got, why)
		}
	}
	for target, want := range map[string]string{ // absolute form becomes origin form, its path as it is
		"https://a.example": "/", "https://a.example/": "/", "https://a.example?x": "/", "https://a.example?/x": "/", "https://a.example/a|b?c": "/a|b",
		"HTTPS://u@a.example:1//x": "//x", "https://a.example/http://b/": "/http://b/",
	} {
		if got, why := readTarget(ask(t, target)); got != want || why != "" {
			t.Errorf("%q: %q, refused because %q, want %q", target, got, why, want)
		}
	}
}

func TestCanonical_OnlyPathsWithOneReadingAreForRules(t *testing.T) {
	for target, want := range map[string]string{
		"/": "/", "/a/b": "/a/b", "/a/": "/a/", "/a%20b": "/a b", "/a b": "/a b", "/%E2%82%AC": "/€", "/%e2%82%ac": "/€", "/100%25": "/100%", "/%40me": "/@me", "/@me": "/@me",
		"/~x.y-z_": "/~x.y-z_", "/a%7Cb": "/a|b", "/a|b": "/a|b", "/...": "/...", "*": "*",
	} {
		if got, why := reading(target); got != want || why != "" {
			t.Errorf("%q: %q, %q; want %q", target, got, why, want)
		}
	}
	for _, target := range []string{
		"//a", "/a//", "/a//b", "/a%2Fb", "/a%5cb", "/a;b", "/a%3bb", "/a%3Fb", "/a%23b", "/%61dmin", "/%7Euser", "/a%2Eb", "/Grüße", "/%fc", "/%2541", "/a%252Fb",
		"/a/./b", "/a/../b", "/%c0%af", `/a\b`, "/%00", "/%",
	} {
		if got, why := reading(target); got != "" || why == "" {
			t.Errorf("%q reads %q", target, got)
		}
	}
}

func TestI04_CanonicalHostIsOneInFewSpellings(t *testing.T) {
	name := policy.Match{Host: "xn--bcher-kva.example", Port: 443}
	v4 := policy.Match{Host: "192.0.2.1", Port: 443}
	v6 := policy.Match{Host: "2001:db8::1", Port: 443}
	for claim, m := range map[string]policy.Match{
		"xn--bcher-kva.example": name, "XN--Bcher-KVA.Example": name, "xn--bcher-kva.example.": name, "xn--bcher-kva.example:": name, "xn--bcher-kva.example:443": name, "xn--bcher-kva.example.:0443": name,
		"192.0.2.1": v4, "[2001:db8::1]": v6, "[2001:0DB8:0:0::1]:443": v6,
	} {
		if !names(claim, m) {
			t.Errorf("%q does not name %s", claim, m.Host)
		}
	}
	for claim, m := range map[string]policy.Match{
		"bücher.example": name, "BÜCHER.example": name, "b%C3%BCcher.example": name, "xn--bcher-\u212ava.example": name, "xn--bcher-kva.example..": name, "xn--bcher-kva。example": name, ".xn--bcher-kva.example": name,
		"xn--bcher-kva.example:443:": name, "xn--bcher-kva.example:4_43": name, "xn--bcher-kva.example:\uff14\uff14\uff13": name, "xn--bcher-kva.example:0x1bb": name, "xn--bcher-kva.example: 443": name, "xn--bcher-kva.example:443 ": name, "xn--bcher-kva.example:65979": name,
		" xn--bcher-kva.example": name, "me@xn--bcher-kva.example": name, "xn--bcher-kva.example/": name, "xn--bcher-kva.example\\": name, "xn--bcher-kva.example#": name, "xn--bcher-kva.example?": name, "xn--bcher-kva.example,": name, "xn--bcher-kva.example\x00": name, "[xn--bcher-kva.example]": name,
		"[192.0.2.1]": v4, "[::ffff:192.0.2.1]": v4, "3221225985": v4, "0xc0.0.2.1": v4, "192.0.513": v4, "192.000.002.001": v4,
		"2001:db8::1": v6, "[2001:db8::1": v6, "2001:db8::1]": v6, "[2001:db8::1%25eth0]": v6, "[2001:db8::1].": v6, "[[2001:db8::1]]": v6, "[2001:db8::1]443": v6, "[v1.2001]": v6,
	} {
		if names(claim, m) {
			t.Errorf("%q names %s", claim, m.Host)
		}
	}
}

// realHeads is what programs sent: one file per request, byte for byte.
func realHeads(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/heads/*.http")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d heads, %v", len(files), err)
	}
	heads := make(map[string][]byte)
	for _, file := range files {
		head, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		heads[filepath.Base(file)] = head
	}
	return heads
}

// The referee: apt, curl, wget, git, npm, pip, node, and Python's urllib, requests and
// httpx, with targets as sloppy as they let through.
func TestCanonical_RequestsOfRealProgramsPass(t *testing.T) {
	for name, head := range realHeads(t) {
		if why := checkHead(head); why != "" {
			t.Errorf("%s: head refused because %s", name, why)
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, why := readTarget(r)
		if why != "" || !strings.Contains(r.RequestURI, got) {
			t.Errorf("%s: %q is %q, refused because %q", name, r.RequestURI, got, why)
		}
	}
}

// FuzzCanonicalPath: a path that is let through goes where it says, also for a
// server that decodes it three times, takes a backslash for a slash, and drops
// parameters before it resolves dot segments.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/a/%2e%2e;x/b", `/..\`, "/%252e%252e%252f", "/a%2f..%5cb", "/%c0%ae./", "/...//;/."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r := ask(t, target)
		if r == nil {
			return
		}
		got, why := readTarget(r)
		if why != "" {
			if got != "" {
				t.Fatalf("%q: %q though %s", target, got, why)
			}
			return
		}
		if !strings.Contains(target, got) && got != "/" {
			t.Fatalf("%q became %q", target, got)
		}
		seen := got
		for level := range 1 + maxDecodings {
			if level == 0 { // a plain "." that goes nowhere may stand there
				for strings.Contains(seen, "/./") {
					seen = strings.ReplaceAll(seen, "/./", "/")
				}
			}
			segments := strings.Split(strings.ReplaceAll(seen, `\`, "/"), "/")
			var plain []string
			for _, s := range segments {
				s, _, _ = strings.Cut(s, ";")
				if s != "" {
					plain = append(plain, s)
				}
			}
			if flat := "/" + strings.Join(plain, "/"); got != "*" && path.Clean(flat) != flat {
				t.Fatalf("%q goes to %q", target, path.Clean(flat))
			}
			seen = decodeQuery(seen, false)
		}
		if text, why := reading(got); why == "" && got != "*" {
			if text != decodeQuery(got, false) || path.Clean(text) != text && path.Clean(text)+"/" != text {
				t.Fatalf("%q reads %q", got, text)
			}
		}
	})
}

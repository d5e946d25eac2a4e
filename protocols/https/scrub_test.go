package https

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/secret"
)

const placeholder = "clawpatrol-x"

func scrubberOf(t testing.TB, c *policy.Credential, value string) *scrubber {
	t.Helper()
	in, err := prepare(c, secret.New([]byte(value)))
	if err != nil {
		t.Fatal(err)
	}
	return newScrubber(in, placeholder)
}

// encodings are the ways a secret may come back, each with its own way to read
// it again. Reading is done by other code than the scrubber's.
var encodings = []struct {
	name   string
	encode func(before, s, after string) string
	decode func(string) string
}{
	{"raw", func(b, s, a string) string { return b + s + a }, func(s string) string { return s }},
	{"percent", func(b, s, a string) string { return b + url.QueryEscape(s) + a }, func(s string) string { u, _ := url.QueryUnescape(s); return u }},
	{"path", func(b, s, a string) string { return b + url.PathEscape(s) + a }, func(s string) string { u, _ := url.PathUnescape(s); return u }},
	{"percent all", func(b, s, a string) string { return b + percentAll(s) + a }, func(s string) string { u, _ := url.PathUnescape(s); return u }},
	{"percent all, lower case", func(b, s, a string) string { return b + strings.ToLower(percentAll(s)) + a }, func(s string) string { u, _ := url.PathUnescape(s); return u }},
	{"percent twice", func(b, s, a string) string { return b + url.PathEscape(url.PathEscape(s)) + a }, func(s string) string {
		u, _ := url.PathUnescape(s)
		u, _ = url.PathUnescape(u)
		return u
	}},
	{"base64", func(b, s, a string) string { return base64.StdEncoding.EncodeToString([]byte(b + s + a)) }, decodeWith(base64.StdEncoding)},
	{"base64 raw", func(b, s, a string) string { return base64.RawStdEncoding.EncodeToString([]byte(b + s + a)) }, decodeWith(base64.RawStdEncoding)},
	{"base64url", func(b, s, a string) string { return base64.URLEncoding.EncodeToString([]byte(b + s + a)) }, decodeWith(base64.URLEncoding)},
	{"base64 in a query", func(b, s, a string) string {
		return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(b + s + a)))
	}, func(s string) string { u, _ := url.QueryUnescape(s); return decodeWith(base64.StdEncoding)(u) }},
	{"hex", func(b, s, a string) string { return b + hex.EncodeToString([]byte(s)) + a }, nil},
	{"HEX", func(b, s, a string) string { return b + strings.ToUpper(hex.EncodeToString([]byte(s))) + a }, nil},
	{"json", func(b, s, a string) string { j, _ := json.Marshal(s); return b + string(j[1:len(j)-1]) + a }, nil},
	{"json, all", func(b, s, a string) string { return b + unicodeAll(s) + a }, nil},
	{"go quoted", func(b, s, a string) string { q := fmt.Sprintf("%q", s); return b + q[1:len(q)-1] + a }, nil},
}

func percentAll(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

func unicodeAll(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, `\u%04x`, s[i])
	}
	return b.String()
}

func decodeWith(e *base64.Encoding) func(string) string {
	return func(s string) string {
		// Around a mask the rest may be cut anywhere: try every start and length.
		var out bytes.Buffer
		for _, part := range strings.Split(s, placeholder) {
			for start := range min(4, len(part)) {
				for cut := range 4 {
					p := strings.TrimRight(part[start:max(start, len(part)-cut)], "=")
					d, _ := e.WithPadding(base64.NoPadding).DecodeString(p)
					out.Write(d)
					out.WriteByte(0)
				}
			}
		}
		return out.String()
	}
}

func TestI01_SecretIsMaskedInEveryEncoding(t *testing.T) {
	bearer := &policy.Credential{Type: "bearer", Name: "x"}
	for _, value := range []string{
		"ghp_S3cr3tT0ken", "a+b/c=d==", "pass word%20!", `quo"te\back`, "p%25q%2541", "%%%%", "sécret-ü", "12345678", "~!@#$^&*()", "AAAAAAAA",
	} {
		sc := scrubberOf(t, bearer, value)
		for _, enc := range encodings {
			for _, around := range [][2]string{{"", ""}, {"Bearer ", ""}, {"x", "y"}, {"user:", "\x00\x01"}, {"https://h/?t=", "&z=1"}, {"ab", "abc"}} {
				text := enc.encode(around[0], value, around[1])
				masked, found := sc.mask(text)
				if !found {
					t.Errorf("%s: %q in %q is not found", enc.name, value, text)
					continue
				}
				if again, found := sc.mask(strings.ReplaceAll(masked, placeholder, "")); found && value != "AAAAAAAA" {
					t.Logf("%s: %q -> %q", enc.name, masked, again)
				}
				if enc.decode != nil && strings.Contains(enc.decode(masked), value) {
					t.Errorf("%s: %q is still in %q", enc.name, value, masked)
				}
			}
		}
		for _, clean := range []string{"", "text/html; charset=utf-8", "Fri, 20 Nov 2026 09:00:00 GMT", "%", "%2", "%25", `\`, `\u00`, `\x`, "max-age=0", placeholder} {
			if masked, found := sc.mask(clean); found {
				t.Errorf("%q: found in %q: %q", value, clean, masked)
			}
		}
	}
}

func TestI01_BasicBlobIsMaskedWhole(t *testing.T) {
	c := &policy.Credential{Type: "basic", Name: "x", Username: "ci"}
	sc := scrubberOf(t, c, "s3cret-password")
	blob := base64.StdEncoding.EncodeToString([]byte("ci:s3cret-password"))
	for _, text := range []string{"Basic " + blob, "basic " + url.QueryEscape(blob), strings.TrimRight("Basic "+blob, "="), "https://ci:s3cret-password@h/"} {
		masked, found := sc.mask(text)
		if !found || strings.Contains(masked, blob[4:10]) || strings.Contains(masked, "s3cret") {
			t.Errorf("%q -> %q", text, masked)
		}
	}
	if masked, _ := sc.mask("Basic " + blob); masked != "Basic "+placeholder {
		t.Errorf("%q", masked)
	}
}

func TestI01_FieldNamesThatHoldTheSecret(t *testing.T) {
	sc := scrubberOf(t, &policy.Credential{Type: "header", Name: "x", Header: "X-Key"}, "AbC123xyz")
	for name, want := range map[string]bool{"X-Abc123xyz": true, "Abc123xyz-More": true, "X-Abc123": false, "Content-Type": false} {
		if sc.holds(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	var none *scrubber
	if none.holds("x") {
		t.Error("nothing holds nothing")
	}
	if s, found := none.mask("x"); found || s != "x" {
		t.Error("nothing masks nothing")
	}
}

// FuzzMask: whatever stands around it and however it is encoded, the secret is
// not readable after masking, and masking ends.
func FuzzMask(f *testing.F) {
	for i := range encodings {
		f.Add("ghp_S3cr3t", "a", "b", i)
		f.Add("p%25 \\\"", "%", "\\", i)
	}
	f.Fuzz(func(t *testing.T, value, before, after string, which int) {
		if len(value) < 4 || len(value) > 200 || len(before)+len(after) > 2000 {
			return
		}
		c := &policy.Credential{Type: "bearer", Name: "x"}
		if _, err := prepare(c, secret.New([]byte(value))); err != nil {
			return // no header can carry it
		}
		sc := scrubberOf(t, c, value)
		value = strings.TrimRight(value, "\r\n")
		enc := encodings[uint(which)%uint(len(encodings))]
		text := enc.encode(before, value, after)
		masked, _ := sc.mask(text)
		if strings.Contains(placeholder, value) || len(value) < 4 {
			return
		}
		if enc.decode == nil || strings.Contains(enc.name, "percent") && strings.Contains(value, "%") ||
			strings.HasPrefix(enc.name, "p") && (strings.ContainsAny(before, `%\`) || strings.ContainsAny(after, `%\`)) {
			return
		}
		for part := range strings.SplitSeq(masked, placeholder) {
			if strings.Contains(enc.decode(part), value) {
				t.Fatalf("%s: %q is still in %q (was %q)", enc.name, value, masked, text)
			}
		}
	})
}

func BenchmarkMaskNothingFound(b *testing.B) {
	sc := scrubberOf(b, &policy.Credential{Type: "bearer", Name: "x"}, "ghp_S3cr3tT0kenThatIsAsLongAsTheyAre")
	values := []string{"application/json; charset=utf-8", "Fri, 20 Nov 2026 09:00:00 GMT", "1234", `W/"0123456789abcdef0123456789abcdef"`,
		"public, max-age=60, s-maxage=60", "Accept, Authorization, Cookie, Accept-Encoding", "max-age=31536000; includeSubdomains; preload", "nginx"}
	for b.Loop() {
		for _, v := range values {
			if _, found := sc.mask(v); found {
				b.Fatal(v)
			}
		}
	}
}

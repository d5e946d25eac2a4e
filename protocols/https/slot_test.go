package https

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/secret"
)

func TestPutParameter(t *testing.T) {
	for _, tc := range []struct{ raw, want, without string }{
		{"", "key=S", ""},
		{"a=1", "a=1&key=S", "a=1"},
		{"a=1&", "a=1&key=S", "a=1&"},
		{"&", "&key=S", "&"},
		{"key=x", "key=S", ""},
		{"key", "key=S", ""},
		{"key=", "key=S", ""},
		{"key==&a", "key=S&a", "a"},
		{"key=x&a=%20+%zz&b", "key=S&a=%20+%zz&b", "a=%20+%zz&b"},
		{"a=1&key=x&b=2&key=y&c", "a=1&key=S&b=2&c", "a=1&b=2&c"},
		{"a=1&&key=x&&b", "a=1&&key=S&&b", "a=1&&&b"},
		{"%6bey=x&k%65y=y&a", "key=S&a", "a"},
		{"KEY=x&a", "key=S&a", "a"},
		{"+key=x&%20key=y&a", "key=S&a", "a"},
		{"a&key[]=x&key%5B0%5D=y&key%00z=1", "a&key=S", "a"},
		{"a=1;key=x;b=2", "a=1&key=S&b=2", "a=1;b=2"},
		{"a=1;key=x&b=2", "a=1&key=S&b=2", "a=1&b=2"},
		{"a=1;b=2", "a=1;b=2&key=S", "a=1;b=2"},
		{";key=x;", "&key=S&", ";"},
		{"keys=1&akey=2&key2=3&%256bey=4&[key]=5&a=key", "keys=1&akey=2&key2=3&%256bey=4&[key]=5&a=key&key=S", "keys=1&akey=2&key2=3&%256bey=4&[key]=5&a=key"},
		{"\xff=\xfe&%ff=1&key=\xff", "\xff=\xfe&%ff=1&key=S", "\xff=\xfe&%ff=1"},
	} {
		if got := putParameter(tc.raw, "key", "key=S"); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.raw, got, tc.want)
		}
		if got := putParameter(tc.raw, "key", ""); got != tc.without {
			t.Errorf("%q: without: %q, want %q", tc.raw, got, tc.without)
		}
	}
	for _, tc := range []struct{ name, raw, want string }{
		{"api key", "api+key=1&api%20key=2&api_key=3", "api%20key=S"},
		{"api_key", "api.key=1&api+key=2&api-key=3", "api_key=S&api-key=3"},
		{"auth[key]", "auth%5Bkey%5D=1&auth[key]=2&auth[x]=3&auth=4", "auth%5Bkey%5D=S&auth[x]=3&auth=4"},
		{"ключ", "%d0%ba%d0%bb%d1%8e%d1%87=1&a", "%D0%BA%D0%BB%D1%8E%D1%87=S&a"},
	} {
		if got := putParameter(tc.raw, tc.name, encodeQuery(tc.name)+"=S"); got != tc.want {
			t.Errorf("%s: %q: %q, want %q", tc.name, tc.raw, got, tc.want)
		}
	}
}

func TestPutCookie(t *testing.T) {
	for _, tc := range []struct {
		lines         []string
		want, without string
	}{
		{nil, "sid=S", ""},
		{[]string{""}, "sid=S", ""},
		{[]string{"sid=x"}, "sid=S", ""},
		{[]string{"sid"}, "sid=S", ""},
		{[]string{`sid="x"`, "sid=y; SID=z"}, "sid=S", ""},
		{[]string{"a=1; sid=x; b=2"}, "sid=S; a=1; b=2", "a=1; b=2"},
		{[]string{"a=1;b=2", `c="3"; a=1`}, `sid=S; a=1; b=2; c="3"; a=1`, `a=1; b=2; c="3"; a=1`},
		{[]string{"a=1;;  ; \tsid = x ;b=2;"}, "sid=S; a=1; b=2", "a=1; b=2"},
		{[]string{`a="x; sid=evil; y"`}, `sid=S; a="x; y"`, `a="x; y"`},
		{[]string{"sid[a]=1; =sid=2; b=sid=3"}, "sid=S; b=sid=3", "b=sid=3"},
		{[]string{"a=1, sid=x; b=2"}, "sid=S; b=2", "b=2"},
		{[]string{"a=1 sid=x; b=2, c=3"}, "sid=S; b=2, c=3", "b=2, c=3"},
		{[]string{`a="" sid =x`, "b=the sid"}, "sid=S; b=the sid", "b=the sid"},
		{[]string{"sids=1; asid=2; a=sid; lone"}, "sid=S; sids=1; asid=2; a=sid; lone", "sids=1; asid=2; a=sid; lone"},
	} {
		if got := putCookie(tc.lines, "sid", "sid=S"); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.lines, got, tc.want)
		}
		if got := putCookie(tc.lines, "sid", ""); got != tc.without {
			t.Errorf("%q: without: %q, want %q", tc.lines, got, tc.without)
		}
	}
}

func TestPlaceholderInQueryAndCookie(t *testing.T) {
	const odd = `x+y%20/="z"`
	query := &policy.Credential{Type: "query", Name: "q", Parameter: "key", Placeholder: odd}
	for raw, want := range map[string]bool{
		"key=" + url.QueryEscape(odd): true, "key=" + odd: true, "a=1;k%65y=" + url.PathEscape(odd): true, "key=no&key=" + odd: true,
		"": false, "key": false, "key=": false, "keys=" + odd: false, odd: false, "key=" + odd + "1": false,
	} {
		if got := presents(&http.Request{URL: &url.URL{RawQuery: raw}}, query); got != want {
			t.Errorf("query %q: %v", raw, got)
		}
	}
	cookie := &policy.Credential{Type: "cookie", Name: "c", Cookie: "sid", Placeholder: "x+y/=z"}
	for line, want := range map[string]bool{
		"sid=x+y/=z": true, `a=1; sid="x+y/=z"`: true, "sid=" + url.QueryEscape("x+y/=z"): true, "sid=no; sid=x+y/=z": true,
		"": false, "sid": false, "sid=": false, "sids=x+y/=z": false, "a=x+y/=z": false, `sid="`: false,
	} {
		if got := presents(&http.Request{URL: &url.URL{}, Header: http.Header{"Cookie": {line}}}, cookie); got != want {
			t.Errorf("cookie %q: %v", line, got)
		}
	}
}

func TestSaysWho(t *testing.T) {
	for _, name := range []string{"Authorization", "X-Authorization", "X-Api-Key", "X_api_key", "Api-Key", "Apikey", "X-Goog-Api-Key", "Xi-Api-Key",
		"Ocp-Apim-Subscription-Key", "X-Auth-Token", "X-Amz-Security-Token", "Private-Token", "X-Shopify-Access-Token"} {
		if !saysWho(name) {
			t.Errorf("%s: not seen", name)
		}
	}
	for _, name := range []string{"", "Key", "Accept", "X-Csrf-Token", "X-Request-Id", "Idempotency-Key", "Sec-Websocket-Key", "Authorization-Hint", "Cookie", "Continuation-Token"} {
		if saysWho(name) {
			t.Errorf("%s: taken for an identity", name)
		}
	}
}

// FuzzQuerySlot: whatever the query, net/url finds the secret in the parameter
// and nothing else, no other part changes or moves, and rewriting again changes
// nothing.
func FuzzQuerySlot(f *testing.F) {
	for _, raw := range []string{"", "a=1&key=x", "%6bey=1;KEY=2&b", "key[]=1&&;;", "a+b=%zz%", "key\x00=1&=&", "+key=%20key", "a=1;key=2;b=3"} {
		f.Add(raw, "key", "s3cret&;=+% #")
		f.Add(raw, "a b", "\"<é>")
	}
	f.Fuzz(func(t *testing.T, raw, name, value string) {
		c := &policy.Credential{Type: "query", Name: "x", Parameter: name}
		if strings.TrimSpace(name) != name || len(raw) > 4096 {
			return
		}
		in, err := prepare(c, secret.New([]byte(value)))
		if err != nil {
			return
		}
		out := &http.Request{URL: &url.URL{RawQuery: raw}}
		in.slot.put(out, in.value())
		got := out.URL.RawQuery

		values, _ := url.ParseQuery(got) // what has a ";" is an error there, and left out
		if v := values[name]; len(v) != 1 || v[0] != in.bare() {
			t.Fatalf("%q -> %q: the parameter is %q", raw, got, v)
		}
		for key := range values {
			if key != name && strings.EqualFold(key, name) && sameName(key, name) {
				t.Fatalf("%q -> %q: %q is left", raw, got, key)
			}
		}
		split := func(q string) (parts []string) {
			for _, part := range strings.FieldsFunc(q, func(r rune) bool { return r == '&' || r == ';' }) {
				key, _, _ := strings.Cut(part, "=")
				if decoded, err := url.QueryUnescape(key); err == nil && decoded == name || owns(part, name) {
					continue
				}
				parts = append(parts, part)
			}
			return parts
		}
		if before, after := split(raw), split(got); !slices.Equal(before, after) {
			t.Fatalf("%q -> %q: the rest was %q and is %q", raw, got, before, after)
		}
		if strings.Count(got, in.value()) < 1 || strings.HasPrefix(got, raw) && len(got) > len(raw)+1+len(in.value()) {
			t.Fatalf("%q -> %q", raw, got)
		}
		in.slot.put(out, in.value())
		if out.URL.RawQuery != got {
			t.Fatalf("%q -> %q -> %q", raw, got, out.URL.RawQuery)
		}
		in.slot.put(out, "")
		if values, _ := url.ParseQuery(out.URL.RawQuery); values.Has(name) {
			t.Fatalf("%q: still there after it was taken out: %q", raw, out.URL.RawQuery)
		}
	})
}

// FuzzCookieSlot is the same for cookies, as net/http reads them.
func FuzzCookieSlot(f *testing.F) {
	for _, lines := range []string{"", "a=1; sid=x", "sid=1\nSID=2;b", `a="x; sid=1"; b`, "a=1, sid=2;;=", "sid\n\nsid", " sid = 1 ;\tb=2"} {
		f.Add(lines, "sid", "s3cret=/+")
	}
	f.Fuzz(func(t *testing.T, text, name, value string) {
		c := &policy.Credential{Type: "cookie", Name: "x", Cookie: name}
		if hasControl(strings.NewReplacer("\n", "", "\t", "").Replace(text)) {
			return // not a header
		}
		if len(text) > 4096 || strings.ContainsAny(value, "\"\\") || strings.ContainsFunc(value, func(r rune) bool { return r >= 0x7f }) {
			return // an operator may store it; net/http does not read it
		}
		in, err := prepare(c, secret.New([]byte(value)))
		if err != nil {
			return
		}
		lines := strings.Split(text, "\n")
		before := &http.Request{Header: http.Header{"Cookie": slices.Clone(lines)}}
		out := &http.Request{Header: http.Header{"Cookie": lines}}
		in.slot.put(out, in.value())
		if len(out.Header["Cookie"]) != 1 {
			t.Fatalf("%q -> %q", text, out.Header["Cookie"])
		}
		if got := out.CookiesNamed(name); len(got) != 1 || got[0].Value != in.bare() {
			t.Fatalf("%q -> %q: the cookie is %v", text, out.Header["Cookie"], got)
		}
		others := func(r *http.Request) (list []string) {
			for _, line := range r.Header["Cookie"] {
				for pair := range strings.SplitSeq(line, ";") {
					pair = strings.Trim(pair, " \t")
					if pair == "" || isCookie(pair, name) || hidesCookie(pair, name) {
						continue
					}
					if key, _, _ := strings.Cut(pair, "="); key == name {
						t.Fatalf("%q is not taken for the cookie", pair)
					}
					list = append(list, pair)
				}
			}
			return list
		}
		if a, b := others(before), others(out); !slices.Equal(a, b) {
			t.Fatalf("%q -> %q: the rest was %q and is %q", text, out.Header["Cookie"], a, b)
		}
		got := out.Header.Get("Cookie")
		in.slot.put(out, in.value())
		if out.Header.Get("Cookie") != got {
			t.Fatalf("%q -> %q -> %q", text, got, out.Header.Get("Cookie"))
		}
		in.slot.put(out, "")
		if len(out.CookiesNamed(name)) != 0 {
			t.Fatalf("%q: still there after it was taken out: %q", text, out.Header["Cookie"])
		}
	})
}

package https_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

const (
	keySecret    = "AIza/S3cr3t+&=; #%é" // every character that a query gives a meaning to
	cookieSecret = "s3ss10n.S3cr3t+/=~"
)

// newSlots is a lab with a credential in the query and one in a cookie, each in a
// profile of its own, and all types together in another.
func newSlots(t testing.TB, serve http.HandlerFunc, settings string) *lab {
	t.Helper()
	l := newWorld(t)
	s := l.serve(serve, host)
	endpoint := strings.TrimSuffix(l.endpoint("api", s, host), "}\n") + settings + "}\n"
	l.start(endpoint + `
		credential "query" "key" {
			endpoint  = https.api
			parameter = "key"
		}
		credential "cookie" "sid" {
			endpoint = https.api
			cookie   = "sid"
		}
		credential "query" "key2" {
			endpoint  = https.api
			parameter = "key"
		}
		credential "bearer" "token" { endpoint = https.api }
		credential "header" "apikey" {
			endpoint = https.api
			header   = "X-Custom"
		}
		profile "query" { credentials = [query.key] }
		profile "cookie" { credentials = [cookie.sid] }
		profile "bearer" { credentials = [bearer.token] }
		profile "all" { credentials = [query.key, cookie.sid, query.key2, bearer.token, header.apikey] }`)
	l.SetSecret("query.key", "secret", keySecret)
	l.SetSecret("query.key2", "secret", "second")
	l.SetSecret("cookie.sid", "secret", cookieSecret)
	l.SetSecret("bearer.token", "secret", token)
	l.SetSecret("header.apikey", "secret", "custom")
	return l
}

func rawQuery(t testing.TB, uri string) string {
	t.Helper()
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return u.RawQuery
}

func TestQueryCredential(t *testing.T) {
	l := newSlots(t, echo, "")
	id := l.Approve("a", "query")
	const encoded = "key=AIza%2FS3cr3t%2B%26%3D%3B%20%23%25%C3%A9"
	versions(t, func(t *testing.T, h2 bool) {
		agent := l.agent(id, h2)
		for path, want := range map[string]string{
			"/x":                                 "/x?" + encoded,
			"/x?":                                "/x?" + encoded,
			"/x?a=%20+%2f&b;c=1":                 "/x?a=%20+%2f&b;c=1&" + encoded,
			"/x?key=clawpatrol-key":              "/x?" + encoded,
			"/x?a&key=mine&b=%26&k%65y=2&KEY=3":  "/x?a&" + encoded + "&b=%26",
			"/a%2Fb?key[]=1&b=2;key=3;c=4&key=5": "/a%2Fb?" + encoded + "&b=2;c=4",
		} {
			resp, body := do(t, agent, "GET", "https://"+host+path, nil, set("X-Custom", "not a slot of this registration"))
			got := parseEcho(t, body)
			if resp.StatusCode != 200 || got.URI != want {
				t.Errorf("%s: %d, upstream saw %s, want %s", path, resp.StatusCode, got.URI, want)
			}
			if values, err := url.ParseQuery(strings.ReplaceAll(rawQuery(t, got.URI), ";", "&")); err != nil || len(values["key"]) != 1 || values["key"][0] != keySecret {
				t.Errorf("%s: the parameter is %q, %v", path, values["key"], err)
			}
			if got.Header.Get("X-Custom") == "" {
				t.Error("the slot of a credential that the registration does not have is emptied")
			}
		}
		resp, body := do(t, agent, "GET", "https://"+host+"/x?key=clawpatrol-key", nil, func(r *http.Request) { r.Host = "evil.example.com" })
		if resp.StatusCode != 421 {
			t.Errorf("another host: %d %s", resp.StatusCode, body)
		}
	})
	for _, row := range l.Actions(id) {
		if strings.ContainsAny(row.Summary, "?=") || strings.Contains(row.Summary+row.Reason, "S3cr3t") {
			t.Errorf("the action log has %q, %q", row.Summary, row.Reason)
		}
	}
	if strings.Contains(l.said.String(), "S3cr3t") {
		t.Error("the log has the secret")
	}
}

// A target in which not every server sees the query's end, or any query.
func TestI21_QueryCredentialNeedsAQuery(t *testing.T) {
	reached := make(chan string, 1)
	l := newSlots(t, func(w http.ResponseWriter, r *http.Request) { reached <- r.RequestURI }, "")
	id := l.Approve("a", "query")
	for _, line := range []string{"OPTIONS *", "GET /x#y", "GET /x?a=1#b&key=2"} {
		conn := l.dial(id, host)
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", line, host)
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || !strings.Contains(string(answer), `"code":"bad_target"`) {
			t.Errorf("%s: %v %s", line, err, answer)
		}
		select {
		case uri := <-reached:
			t.Errorf("%s: the upstream got %s", line, uri)
		default:
		}
	}
}

func TestCookieCredential(t *testing.T) {
	l := newSlots(t, echo, "")
	id := l.Approve("a", "cookie")
	const want = "sid=" + cookieSecret
	versions(t, func(t *testing.T, h2 bool) {
		agent := l.agent(id, h2)
		for _, tc := range []struct {
			lines []string
			want  string
		}{
			{nil, want},
			{[]string{"sid=clawpatrol-sid"}, want},
			{[]string{"a=1; sid=x; b=2"}, want + "; a=1; b=2"},
			{[]string{`sid="x"`, `a="1"`, "sid=y; sid=z", "a=2"}, want + `; a="1"; a=2`},
			{[]string{"SID=x; sids=1; a=sid"}, want + "; sids=1; a=sid"},
		} {
			resp, body := do(t, agent, "GET", "https://"+host+"/?sid=1", nil, func(r *http.Request) { r.Header["Cookie"] = tc.lines })
			got := parseEcho(t, body)
			// Over HTTP/2 the upstream got one field per cookie, which its server
			// joined again.
			if resp.StatusCode != 200 || len(got.Header["Cookie"]) != 1 || got.Header["Cookie"][0] != tc.want || got.URI != "/?sid=1" {
				t.Errorf("%q: %d, upstream saw %q %s", tc.lines, resp.StatusCode, got.Header["Cookie"], got.URI)
			}
			if wantProto := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[h2]; got.Proto != wantProto {
				t.Errorf("upstream spoke %s", got.Proto)
			}
		}
	})
}

func TestPlaceholderChoosesAmongTypes(t *testing.T) {
	l := newSlots(t, echo, "")
	id := l.Approve("a", "all")
	own := []func(*http.Request){func(r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			r.Header.Set("Authorization", "Bearer my-own")
		}
		if r.Header.Get("X-Custom") == "" {
			r.Header.Set("X-Custom", "my-own")
		}
		if r.Header.Get("Cookie") == "" {
			r.Header.Set("Cookie", "sid=my-own; a=1")
		}
		if !strings.Contains(r.URL.RawQuery, "key=") {
			r.URL.RawQuery += "&key=my-own"
		}
	}}
	type seen struct{ Query, Cookie, Authorization, Custom string }
	versions(t, func(t *testing.T, h2 bool) {
		agent := l.agent(id, h2)
		for _, tc := range []struct {
			query string
			edit  func(*http.Request)
			want  seen
		}{
			{"a=1&key=clawpatrol-key", nil, seen{Query: "a=1&key=" + strings.ReplaceAll(url.QueryEscape(keySecret), "+", "%20"), Cookie: "a=1"}},
			{"key=clawpatrol-key2&a=1", nil, seen{Query: "key=second&a=1", Cookie: "a=1"}},
			{"a=1", set("Cookie", "b=2; sid=clawpatrol-sid"), seen{Query: "a=1", Cookie: "sid=" + cookieSecret + "; b=2"}},
			{"a=1", set("Authorization", "Bearer clawpatrol-token"), seen{Query: "a=1", Cookie: "a=1", Authorization: "Bearer " + token}},
			{"a=1", set("X-Custom", "clawpatrol-apikey"), seen{Query: "a=1", Cookie: "a=1", Custom: "custom"}},
			{"a=1", nil, seen{}},
			{"a=clawpatrol-key", nil, seen{}},
			{"key=clawpatrol-sid", nil, seen{}},
			{"a=1", set("Cookie", "a=clawpatrol-sid; sid=clawpatrol-key"), seen{}},
			{"key=clawpatrol-key&key=clawpatrol-key2", nil, seen{}},
			{"key=clawpatrol-key", set("Authorization", "Bearer clawpatrol-token"), seen{}},
			{"key=clawpatrol-key", set("Cookie", "sid=clawpatrol-sid"), seen{}},
		} {
			edits := own
			if tc.edit != nil {
				edits = append([]func(*http.Request){tc.edit}, own...)
			}
			resp, body := do(t, agent, "GET", "https://"+host+"/?"+tc.query, nil, edits...)
			if tc.want == (seen{}) {
				if resp.StatusCode != 403 || !strings.Contains(body, "placeholder_required") || !strings.Contains(body, "clawpatrol-sid") {
					t.Errorf("%s: %d %s", tc.query, resp.StatusCode, body)
				}
				continue
			}
			e := parseEcho(t, body)
			got := seen{rawQuery(t, e.URI), strings.Join(e.Header["Cookie"], "|"), strings.Join(e.Header["Authorization"], "|"), strings.Join(e.Header["X-Custom"], "|")}
			if resp.StatusCode != 200 || got != tc.want {
				t.Errorf("%s: %d, upstream saw %+v, want %+v", tc.query, resp.StatusCode, got, tc.want)
			}
		}
	})
}

// Attack: an agent sends an identity of its own beside the gateway's credential,
// to act under its own account at a host it was given for another purpose.
func TestAgentsOwnIdentityDoesNotGoAlong(t *testing.T) {
	fields := []string{"Authorization", "X-Api-Key", "X_api_key", "X-Goog-Api-Key", "Private-Token", "X-Amz-Security-Token", "Proxy-Authorization", "Cookie", "X-Csrf-Token"}
	for _, tc := range []struct {
		settings, profile string
		reaches           []string
	}{
		{"", "bearer", []string{"Cookie", "X-Csrf-Token"}},
		{"", "query", []string{"Cookie", "X-Csrf-Token"}},
		{"", "cookie", []string{"Cookie", "X-Csrf-Token"}},
		{"cookies = \"pass\"\n", "bearer", []string{"Cookie", "X-Csrf-Token"}},
		{"cookies = \"none\"\n", "bearer", []string{"X-Csrf-Token"}},
		{"cookies = \"none\"\n", "cookie", []string{"X-Csrf-Token"}},
		{"identity = \"pass\"\n", "bearer", []string{"X-Api-Key", "X_api_key", "X-Goog-Api-Key", "Private-Token", "X-Amz-Security-Token", "Cookie", "X-Csrf-Token"}},
		{"identity = \"pass\"\n", "query", []string{"Authorization", "X-Api-Key", "X_api_key", "X-Goog-Api-Key", "Private-Token", "X-Amz-Security-Token", "Cookie", "X-Csrf-Token"}},
	} {
		t.Run(tc.profile+" "+tc.settings, func(t *testing.T) {
			l := newSlots(t, echo, tc.settings)
			id := l.Approve("a", tc.profile)
			versions(t, func(t *testing.T, h2 bool) {
				resp, body := do(t, l.agent(id, h2), "POST", "https://"+host+"/", io.NopCloser(strings.NewReader("x")), func(r *http.Request) {
					for _, name := range fields {
						r.Header[name] = []string{"own=1"}
					}
					r.Trailer = http.Header{"X-Api-Key": {"own=1"}, "X-Other": {"1"}}
				})
				got := parseEcho(t, body)
				var reached []string
				for _, name := range fields {
					for seen, values := range got.Header {
						if strings.EqualFold(seen, name) && strings.Contains(strings.Join(values, ""), "own=1") {
							reached = append(reached, name)
						}
					}
				}
				if resp.StatusCode != 200 || !slices.Equal(reached, tc.reaches) {
					t.Errorf("%d: reached %q, want %q", resp.StatusCode, reached, tc.reaches)
				}
				if passed := got.Trailer.Get("X-Api-Key") != ""; passed != strings.Contains(tc.settings, "identity") || got.Trailer.Get("X-Other") != "1" {
					t.Errorf("trailer %v", got.Trailer)
				}
			})
		})
	}
}

// Attack: an upstream that redirects to what it was asked for shows the query, or
// quotes the cookie, encoded in whatever way.
func TestI01_EchoedQueryAndCookieAreMasked(t *testing.T) {
	all := func(s string) map[string]string {
		once := url.QueryEscape(s)
		return map[string]string{
			"Raw": s, "Query": once, "Path": url.PathEscape(s), "Twice": url.QueryEscape(once), "Lower": strings.ToLower(once),
			"Base64": base64.StdEncoding.EncodeToString([]byte("k=" + s)), "Url64": base64.RawURLEncoding.EncodeToString([]byte("sid:" + s)), "Hex": hex.EncodeToString([]byte(s)),
			"Thrice": url.QueryEscape(url.QueryEscape(once)),
		}
	}
	readable := func(s, secret string) bool {
		for range 4 {
			if strings.Contains(strings.ToLower(s), strings.ToLower(secret)) || strings.Contains(s, hex.EncodeToString([]byte(secret))) {
				return true
			}
			next, err := url.QueryUnescape(s)
			if err != nil {
				return false
			}
			s = next
		}
		return false
	}
	l := newSlots(t, func(w http.ResponseWriter, r *http.Request) {
		secret := r.URL.Query().Get("key")
		if c, err := r.Cookie("sid"); err == nil && c.Value != "x" {
			secret = c.Value
		}
		if r.URL.Path == "/end" {
			fmt.Fprint(w, "arrived with ", len(secret))
			return
		}
		for name, value := range all(secret) {
			w.Header().Set("X-"+name, value)
			w.Header().Set("Trailer", "X-End")
		}
		w.Header().Set("Link", "<"+r.RequestURI+">; rel=next")
		w.Header().Set("X-Cookie", r.Header.Get("Cookie"))
		w.Header().Set("Set-Cookie", "sid="+secret)
		w.Header().Set("Location", "https://"+host+"/end?"+r.URL.RawQuery)
		w.WriteHeader(http.StatusFound)
		w.Header().Set("X-End", url.QueryEscape(secret))
	}, "")
	for profile, secret := range map[string]string{"query": keySecret, "cookie": cookieSecret} {
		id := l.Approve(profile, profile)
		versions(t, func(t *testing.T, h2 bool) {
			agent := l.agent(id, h2)
			resp, _ := do(t, agent, "GET", "https://"+host+"/start?a=1&key=x", nil, set("Cookie", "sid=x"))
			if resp.StatusCode != 302 || len(resp.Header["X-Raw"]) != 1 || len(resp.Header["Set-Cookie"]) != 0 {
				t.Fatalf("%s: %d %v", profile, resp.StatusCode, resp.Header)
			}
			for _, header := range []http.Header{resp.Header, resp.Trailer} {
				for name, values := range header {
					for _, value := range values {
						if readable(value, secret) || strings.Contains(value, base64.RawStdEncoding.EncodeToString([]byte(secret))[4:12]) {
							t.Errorf("%s: %s: %s", profile, name, value)
						}
					}
				}
			}
			for _, name := range []string{"X-Base64", "X-Url64", "X-Hex", "X-Thrice", "X-Query"} {
				if !strings.Contains(resp.Header.Get(name), "clawpatrol-") {
					t.Errorf("%s: %s is not masked: %s", profile, name, resp.Header.Get(name))
				}
			}
			// The redirect still works: the placeholder is replaced again.
			_, body := do(t, agent, "GET", resp.Header.Get("Location"), nil)
			if body != fmt.Sprint("arrived with ", len(secret)) {
				t.Errorf("%s: following %s: %s", profile, resp.Header.Get("Location"), body)
			}
		})
	}
}

func TestI21_NoQueryOrCookieSecretNoRequest(t *testing.T) {
	for _, tc := range []struct{ profile, ref, value, code string }{
		{"query", "query.key", "", "secret_missing"},
		{"query", "query.key", "\r\n", "secret_missing"},
		{"query", "query.key", "a\nb", "injection_failed"},
		{"query", "query.key", " ab", "injection_failed"},
		{"cookie", "cookie.sid", "", "secret_missing"},
		{"cookie", "cookie.sid", "a; admin=1", "injection_failed"},
		{"cookie", "cookie.sid", "a\tb", "injection_failed"},
		{"cookie", "cookie.sid", "ab ", "injection_failed"},
	} {
		reached := make(chan struct{}, 4)
		l := newWorld(t)
		s := l.serve(func(http.ResponseWriter, *http.Request) { reached <- struct{}{} }, host)
		l.start(l.endpoint("api", s, host) + `
			credential "query" "key" {
				endpoint  = https.api
				parameter = "key"
			}
			credential "cookie" "sid" {
				endpoint = https.api
				cookie   = "sid"
			}
			profile "query" { credentials = [query.key] }
			profile "cookie" { credentials = [cookie.sid] }`)
		if tc.value != "" {
			l.SetSecret(tc.ref, "secret", tc.value)
		}
		id := l.Approve("a", tc.profile)
		versions(t, func(t *testing.T, h2 bool) {
			resp, body := do(t, l.agent(id, h2), "GET", "https://"+host+"/?key=own", nil, set("Cookie", "sid=own"))
			if resp.StatusCode != 502 || !strings.Contains(body, `"code":"`+tc.code+`"`) || strings.Contains(body, "admin") || strings.Contains(body, "ab ") {
				t.Errorf("%s %q: %d %s", tc.ref, tc.value, resp.StatusCode, body)
			}
		})
		if len(reached) != 0 {
			t.Errorf("%s %q: the upstream was reached", tc.ref, tc.value)
		}
	}
}

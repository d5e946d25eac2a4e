package https_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// echo answers with what it was sent, as JSON.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"method": r.Method, "uri": r.RequestURI, "host": r.Host, "proto": r.Proto, "header": r.Header, "body": string(body), "trailer": r.Trailer,
	})
}

// echoed is what echo saw. The answer's body is not masked yet, so tests can
// read there what was injected.
type echoed struct {
	Method, URI, Host, Proto, Body string
	Header, Trailer                http.Header
}

func parseEcho(t testing.TB, body string) echoed {
	t.Helper()
	var e echoed
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	return e
}

func TestBearerReplacesWhateverTheAgentSent(t *testing.T) {
	l := newLab(t, echo)
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		for name, edit := range map[string]func(*http.Request){
			"nothing":     func(*http.Request) {},
			"placeholder": set("Authorization", "Bearer clawpatrol-token"),
			"another":     set("Authorization", "Basic eDp5"),
			"several":     func(r *http.Request) { r.Header["Authorization"] = []string{"Bearer a", "Bearer b", ""} },
			"hop-by-hop": func(r *http.Request) {
				r.Header["Connection"] = []string{"Authorization, X-A"}
				r.Header.Set("X-A", "1")
			},
		} {
			if h2 && name == "hop-by-hop" {
				continue // net/http's agent refuses to send it
			}
			t.Run(name, func(t *testing.T) {
				resp, body := do(t, l.agent(id, h2), "GET", "https://"+host+"/x?q=1", nil, edit)
				got := parseEcho(t, body)
				if resp.StatusCode != 200 || fmt.Sprint(got.Header["Authorization"]) != "[Bearer "+token+"]" {
					t.Errorf("status %d, upstream saw %q", resp.StatusCode, got.Header["Authorization"])
				}
				if got.Header.Get("X-A") != "" {
					t.Error("a field listed in Connection went upstream")
				}
				if got.Host != host || got.URI != "/x?q=1" {
					t.Errorf("upstream saw %q %q", got.Host, got.URI)
				}
			})
		}
	})
}

func TestBasicAndHeaderCredentials(t *testing.T) {
	l := newWorld(t)
	s := l.serve(echo, host)
	l.start(l.endpoint("api", s, host) + `
		credential "basic" "pw" {
			endpoint = https.api
			username = "ci"
		}
		credential "header" "key" {
			endpoint = https.api
			header = "X-Api-Key"
		}
		profile "pw" { credentials = [basic.pw] }
		profile "key" { credentials = [header.key] }`)
	l.SetSecret("basic.pw", "secret", "p:w\n") // the line break a paste leaves
	l.SetSecret("header.key", "secret", "k3y-value")

	versions(t, func(t *testing.T, h2 bool) {
		_, body := do(t, l.agent(l.Approve("pw", "pw"), h2), "GET", "https://"+host+"/", nil, set("Authorization", "Bearer mine"))
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte("ci:p:w"))
		if got := parseEcho(t, body).Header["Authorization"]; len(got) != 1 || got[0] != want {
			t.Errorf("basic: %q, want %q", got, want)
		}
		_, body = do(t, l.agent(l.Approve("key", "key"), h2), "GET", "https://"+host+"/", nil, func(r *http.Request) {
			r.Header["X-Api-Key"] = []string{"a", "b"}
			r.Header["X_api_key"] = []string{"c"}
			r.Header["X-Api_Key"] = []string{"d"}
			r.Header.Set("Authorization", "Bearer mine")
		})
		got := parseEcho(t, body).Header
		if len(got["X-Api-Key"]) != 1 || got["X-Api-Key"][0] != "k3y-value" {
			t.Errorf("header: %q", got["X-Api-Key"])
		}
		for name := range got {
			if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), "X-Api-Key") && name != "X-Api-Key" {
				t.Errorf("the spelling %q went upstream", name)
			}
		}
		if got.Get("Authorization") != "" {
			t.Error("the agent's own Authorization went upstream beside the credential")
		}
	})
}

func TestPlaceholderChoosesAmongSeveral(t *testing.T) {
	l := newWorld(t)
	s := l.serve(echo, host)
	l.start(l.endpoint("api", s, host) + `
		credential "bearer" "a" { endpoint = https.api }
		credential "bearer" "b" { endpoint = https.api }
		credential "basic" "c" {
			endpoint = https.api
			username = "u"
		}
		credential "header" "d" {
			endpoint = https.api
			header = "X-Key"
		}
		profile "ci" { credentials = [bearer.a, bearer.b, basic.c, header.d] }`)
	for _, ref := range []string{"bearer.a", "bearer.b", "basic.c", "header.d"} {
		l.SetSecret(ref, "secret", "secret-of-"+ref)
	}
	id := l.Approve("a", "ci")
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	versions(t, func(t *testing.T, h2 bool) {
		agent := l.agent(id, h2)
		for _, tc := range []struct{ field, value, wantField, want string }{
			{"Authorization", "Bearer clawpatrol-a", "Authorization", "Bearer secret-of-bearer.a"},
			{"Authorization", "token clawpatrol-b", "Authorization", "Bearer secret-of-bearer.b"},
			{"Authorization", "clawpatrol-b", "Authorization", "Bearer secret-of-bearer.b"},
			{"Authorization", basic("anyone:clawpatrol-c"), "Authorization", basic("u:secret-of-basic.c")},
			{"X-Key", "clawpatrol-d", "X-Key", "secret-of-header.d"},
			{"Authorization", "Bearer clawpatrol-c", "", ""},
			{"Authorization", "Bearer clawpatrol-aa", "", ""},
			{"Authorization", "", "", ""},
			{"X-Key", "clawpatrol-a", "", ""},
		} {
			resp, body := do(t, agent, "GET", "https://"+host+"/", nil, set(tc.field, tc.value))
			if tc.want == "" {
				if resp.StatusCode != 403 || !strings.Contains(body, "placeholder_required") || !strings.Contains(body, "clawpatrol-b") {
					t.Errorf("%s: %q: %d %s", tc.field, tc.value, resp.StatusCode, body)
				}
				continue
			}
			if got := parseEcho(t, body).Header[tc.wantField]; len(got) != 1 || got[0] != tc.want {
				t.Errorf("%s: %q: upstream saw %q, want %q", tc.field, tc.value, got, tc.want)
			}
		}
		resp, _ := do(t, agent, "GET", "https://"+host+"/", nil, set("Authorization", "Bearer clawpatrol-a"), set("X-Key", "clawpatrol-d"))
		if resp.StatusCode != 403 {
			t.Errorf("two placeholders: %d", resp.StatusCode)
		}
	})
}

func TestI21_NothingGoesUpstreamWithoutItsCredential(t *testing.T) {
	for name, tc := range map[string]struct{ value, code string }{
		"nothing stored": {"", "secret_missing"},
		"empty":          {"\n", "secret_missing"},
		"line break":     {"a\r\nX-Evil: 1", "injection_failed"},
		"NUL":            {"a\x00b", "injection_failed"},
		"blank at end":   {"abc ", "injection_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			reached := false
			l := newWorld(t)
			s := l.serve(func(http.ResponseWriter, *http.Request) { reached = true }, host)
			l.start(l.endpoint("api", s, host) + `
				credential "bearer" "token" { endpoint = https.api }
				profile "ci" { credentials = [bearer.token] }`)
			if tc.value != "" {
				l.SetSecret("bearer.token", "secret", tc.value)
			}
			id := l.Approve("a", "ci")
			versions(t, func(t *testing.T, h2 bool) {
				resp, body := do(t, l.agent(id, h2), "POST", "https://"+host+"/x", strings.NewReader("data"), set("Authorization", "Bearer own"))
				if resp.StatusCode != 502 || resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(body, `"code":"`+tc.code+`"`) {
					t.Errorf("%d %s %s", resp.StatusCode, resp.Header.Get("Content-Type"), body)
				}
				if resp.Header.Get("X-Clawpatrol-Verdict") != "deny" {
					t.Error("no verdict")
				}
				if strings.Contains(body, "X-Evil") || strings.Contains(body, "abc ") {
					t.Error("the problem shows the secret")
				}
				if status := l.lastStatus(id); !strings.HasPrefix(status, "502") {
					t.Errorf("logged as %q", status)
				}
			})
			if reached {
				t.Error("the upstream was reached")
			}
		})
	}
}

func TestRefusalsOfTheGate(t *testing.T) {
	l := newLab(t, echo)
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		agent := l.agent(id, h2)
		if resp, _ := do(t, agent, "GET", "https://"+host+"/", nil); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	})
	rows := l.Actions(id)
	if len(rows) != 2 || rows[0].Summary != "GET /" || rows[0].Verdict != "allow" || rows[0].Credential != "bearer.token" {
		t.Errorf("%d rows, the first %+v", len(rows), rows[0])
	}
}

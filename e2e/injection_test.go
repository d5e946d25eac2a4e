package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// Credentials in the query and in a cookie, alone and several of different types
// on one endpoint, with curl over HTTP/1.1 and HTTP/2: the upstream gets the
// secret once, in its place, and everything else as curl wrote it.
func TestInjection_QueryAndCookie(t *testing.T) {
	t.Parallel()
	const (
		mapsKey = "AIzaREAL/key+of=maps&0123456789abcd"
		session = "REALsession.of/tracker+xyz=="
		bearer  = "ghp_REALtokenOfTheMixedEndpoint01234"
	)
	ctx := t.Context()
	l, err := lab.New(ctx, lab.Config{Bin: lab.Binary()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	up := new(lab.Upstream)
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/again" { // to what was asked for, as it was understood
			w.Header().Set("X-Cookie", r.Header.Get("Cookie"))
			w.Header().Set("Location", "/end?"+r.URL.RawQuery+"&from="+url.QueryEscape(r.URL.String()))
			w.WriteHeader(http.StatusFound)
			return
		}
		up.ServeHTTP(w, r)
	})
	for i, name := range []string{"maps.example.com", "tracker.example.com", "mixed.example.com"} {
		if err := l.ServeHTTPS(ctx, name, i, echo); err != nil {
			t.Fatal(err)
		}
	}
	g, err := l.StartGateway(ctx, `
endpoint "https" "maps" {
  hosts   = ["maps.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "tracker" {
  hosts   = ["tracker.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "mixed" {
  hosts   = ["mixed.example.com"]
  ca_file = "lab-ca.pem"
}
credential "query" "maps" {
  endpoint    = https.maps
  parameter   = "key"
  env         = "MAPS_API_KEY"
  placeholder = "AIzaClawpatrol0000000000000000000000000"
}
credential "cookie" "tracker" {
  endpoint = https.tracker
  cookie   = "session"
}
credential "query" "mixed" {
  endpoint    = https.mixed
  parameter   = "key"
  env         = "MIXED_KEY"
  placeholder = "sk-it's\"odd\"&$HOME;+%41"
}
credential "cookie" "mixed_session" {
  endpoint = https.mixed
  cookie   = "session"
}
credential "bearer" "mixed_token" {
  endpoint = https.mixed
}
profile "ci" {
  credentials = [query.maps, cookie.tracker, query.mixed, cookie.mixed_session, bearer.mixed_token]
}
`, map[string]string{"lab-ca.pem": string(l.PKI.PEM)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{{"query", "maps", mapsKey}, {"cookie", "tracker", session}, {"query", "mixed", mapsKey}, {"cookie", "mixed_session", session}, {"bearer", "mixed_token", bearer}} {
		if err := g.Operator.SetCredential(ctx, c[0], c[1], c[2]); err != nil {
			t.Fatal(err)
		}
	}
	a, err := l.Join(ctx, l.Agents[0], g, "ci")
	if err != nil {
		t.Fatal(err)
	}

	key := "key=" + url.QueryEscape(mapsKey) // no blanks in it
	var said strings.Builder
	for _, version := range []string{"--http1.1", "--http2"} {
		for _, tc := range []struct{ args, uri, cookie, authorization string }{
			{`"https://maps.example.com/v1?a=%20+&key=$MAPS_API_KEY&b=1;c"`, "/v1?a=%20+&" + key + "&b=1;c", "", ""},
			{`'https://maps.example.com/v1?k%65y=own&a&key=own'`, "/v1?" + key + "&a", "", ""},
			{`-H 'Authorization: Bearer own' -H 'X-Api-Key: own' https://maps.example.com/v1`, "/v1?" + key, "", ""},
			{`-L https://maps.example.com/again?x=1`, "/end?x=1&" + key + "&from=" + url.QueryEscape("/again?x=1&key=AIzaClawpatrol0000000000000000000000000"), "", ""},
			{`-b 'a=1; session="own"; b=2' https://tracker.example.com/`, "/", "session=" + session + "; a=1; b=2", ""},
			{`-L https://tracker.example.com/again`, "/end?&from=%2Fagain", "session=" + session, ""},
			{`-G --data-urlencode "key=$MIXED_KEY" https://mixed.example.com/q`, "/q?" + key, "", ""},
			{`-b 'a=1; session=clawpatrol-mixed_session' -H 'Authorization: Bearer own' 'https://mixed.example.com/c?key=own&a'`, "/c?a", "session=" + session + "; a=1", ""},
			{`-b 'session=own' -H 'Authorization: Bearer clawpatrol-mixed_token' 'https://mixed.example.com/b?key=own'`, "/b", "", "Bearer " + bearer},
		} {
			up.Forget()
			out, err := a.Shell(ctx, `curl -sSi --max-time 15 `+version+` `+tc.args)
			said.WriteString(out)
			seen := up.Seen()
			if err != nil || len(seen) != 1 {
				t.Errorf("%s %s: %v, upstream saw %+v\n%s", version, tc.args, err, seen, out)
				continue
			}
			s := seen[0]
			if s.URI != tc.uri || s.Header.Get("Cookie") != tc.cookie || s.Header.Get("Authorization") != tc.authorization || s.Header.Get("X-Api-Key") != "" {
				t.Errorf("%s %s: upstream saw %s, Cookie %q, Authorization %q", version, tc.args, s.URI, s.Header["Cookie"], s.Header["Authorization"])
			}
			if want := map[string]string{"--http1.1": "HTTP/1.1", "--http2": "HTTP/2.0"}[version]; s.Proto != want {
				t.Errorf("%s: upstream spoke %s", version, s.Proto)
			}
		}
		up.Forget()
		for args, status := range map[string]string{
			`https://mixed.example.com/`:                                "403",
			`'https://mixed.example.com/?key=clawpatrol-mixed_session'`: "403",
			`-b session=clawpatrol-mixed_session -H 'Authorization: Bearer clawpatrol-mixed_token' https://mixed.example.com/`: "403",
			`-H 'Host: maps.example.com' https://mixed.example.com/`:                                                           "421",
		} {
			out, err := a.Shell(ctx, `curl -sS --max-time 15 -w ' %{http_code}' `+version+` `+args)
			said.WriteString(out)
			if err != nil || !strings.HasSuffix(out, " "+status) || len(up.Seen()) != 0 {
				t.Errorf("%s %s: %v, want %s, upstream saw %+v\n%s", version, args, err, status, up.Seen(), out)
			}
		}
	}

	// No secret in what the agent saw, the logs, the action log, the database.
	actions, err := g.Operator.Actions(ctx)
	if err != nil || len(actions) == 0 {
		t.Fatalf("%d actions, %v", len(actions), err)
	}
	for _, action := range actions {
		if strings.ContainsAny(action.Summary, "?=;") {
			t.Errorf("the action log has %q", action.Summary)
		}
	}
	if out, err := l.Gateway.Run(ctx, "sh", "-c", "grep -rlaF -e cookie.tracker /var/lib/clawpatrol"); err != nil {
		t.Errorf("the registry is not where this test looks: %s %v", out, err)
	}
	for _, secret := range []string{mapsKey, url.QueryEscape(mapsKey), session, url.QueryEscape(session), bearer} {
		if strings.Contains(said.String(), secret) || strings.Contains(a.Output.String(), secret) || strings.Contains(g.Log.String(), secret) {
			t.Errorf("%q is in what the agent saw or in a log", secret)
		}
		if out, err := l.Gateway.Run(ctx, "sh", "-c", "grep -rlaF -e '"+secret+"' /var/lib/clawpatrol /etc/clawpatrol || :"); err != nil || out != "" {
			t.Errorf("%q is at rest: %s %v", secret, out, err)
		}
	}
}

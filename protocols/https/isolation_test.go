package https_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols/https"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/registry"
)

// whoami answers with the upstream connection the request came on, and notes
// which credentials each connection carried.
type whoami struct {
	mu   sync.Mutex
	seen map[string]map[string]bool // remote address -> Authorization
}

func (s *whoami) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = make(map[string]map[string]bool)
	}
	if s.seen[r.RemoteAddr] == nil {
		s.seen[r.RemoteAddr] = make(map[string]bool)
	}
	s.seen[r.RemoteAddr][r.Header.Get("Authorization")+r.Header.Get("X-Registration")] = true
	_, _ = io.WriteString(w, r.RemoteAddr)
}

func TestI04_UpstreamConnectionsAreNeverShared(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		var up whoami
		l := newWorld(t)
		s := l.serve(up.ServeHTTP, host)
		policy := func(more string) string {
			return l.endpoint("api", s, host) + `
				credential "bearer" "a" { endpoint = https.api }
				credential "bearer" "b" { endpoint = https.api }
				profile "a" { credentials = [bearer.a] }
				profile "ab" { credentials = [bearer.a, bearer.b] }` + more
		}
		l.start(policy(""))
		l.SetSecret("bearer.a", "secret", "secret-a-1")
		l.SetSecret("bearer.b", "secret", "secret-b-1")
		one, two, both := l.Approve("one", "a"), l.Approve("two", "a"), l.Approve("both", "ab")

		get := func(id registry.ID, placeholder string) string {
			// Always a new flow: what is reused is the gateway's connection.
			_, addr := do(t, l.agent(id, h2), "GET", "https://"+host+"/", nil, set("Authorization", "Bearer "+placeholder), set("X-Registration", " of "+string(id)))
			return addr
		}
		first := get(one, "clawpatrol-a")
		if again := get(one, "clawpatrol-a"); again != first {
			t.Errorf("the upstream connection is not reused: %s, then %s", first, again)
		}
		get(two, "clawpatrol-a")
		get(both, "clawpatrol-a")
		get(both, "clawpatrol-b")
		l.SetSecret("bearer.a", "secret", "secret-a-2")
		if get(one, "clawpatrol-a") == first {
			t.Error("a new version of the secret went out on the old one's connection")
		}
		get(two, "clawpatrol-a")
		l.SetSecret("bearer.a", "secret", "secret-a-1") // the same value again is another version
		if get(one, "clawpatrol-a") == first {
			t.Error("a connection of an earlier version is used again")
		}
		up.mu.Lock()
		defer up.mu.Unlock()
		for addr, who := range up.seen {
			if len(who) != 1 {
				t.Errorf("connection %s carried %v", addr, who)
			}
		}
		if len(up.seen) != 7 {
			t.Errorf("%d connections, want 7: %v", len(up.seen), up.seen)
		}
	})
}

func TestI06_OnlyTheCredentialsOfTheRegistrationsOwnProfiles(t *testing.T) {
	l := newWorld(t)
	s := l.serve(echo, host)
	l.start(l.endpoint("api", s, host) + `
		credential "bearer" "a" { endpoint = https.api }
		credential "bearer" "b" { endpoint = https.api }
		profile "a" { credentials = [bearer.a] }
		profile "b" { credentials = [bearer.b] }`)
	l.SetSecret("bearer.a", "secret", "secret-of-a")
	l.SetSecret("bearer.b", "secret", "secret-of-b")
	a, b := l.Approve("a", "a"), l.Approve("b", "b")
	versions(t, func(t *testing.T, h2 bool) {
		// Each asks by the other's placeholder, and for the other by every header.
		for id, want := range map[registry.ID]string{a: "secret-of-a", b: "secret-of-b"} {
			_, body := do(t, l.agent(id, h2), "GET", "https://"+host+"/", nil, func(r *http.Request) {
				r.Header["Authorization"] = []string{"Bearer clawpatrol-a", "Bearer clawpatrol-b"}
				r.Header.Set("X-Clawpatrol-Registration", string(a))
				r.Header.Set("X-Clawpatrol-Profile", "a")
			})
			got := parseEcho(t, body)
			if auth := got.Header["Authorization"]; len(auth) != 1 || auth[0] != "Bearer "+want {
				t.Errorf("%s: %q, want %s", id, auth, want)
			}
			for name := range got.Header {
				if strings.HasPrefix(name, "X-Clawpatrol") {
					t.Errorf("%s went upstream", name)
				}
			}
		}
	})
}

func TestI06_ProfileChangeTakesEffectOnALiveConnection(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		l := newWorld(t)
		s := l.serve(echo, host)
		l.start(l.endpoint("api", s, host) + `
			credential "bearer" "a" { endpoint = https.api }
			credential "bearer" "b" { endpoint = https.api }
			profile "a" { credentials = [bearer.a] }
			profile "b" { credentials = [bearer.b] }`)
		l.SetSecret("bearer.a", "secret", "secret-of-a")
		l.SetSecret("bearer.b", "secret", "secret-of-b")
		id := l.Approve("x", "a")
		agent := l.agent(id, h2)
		do(t, agent, "GET", "https://"+host+"/", nil)
		must(t, l.DB.SetProfiles(t.Context(), id, []string{"b"}))
		for range 3 {
			resp, err := agent.Get("https://" + host + "/")
			if err != nil {
				continue // the flow was closed under the request: allowed
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if strings.Contains(string(body), "secret-of-a") {
				t.Error("the old profile's credential is still used")
			}
		}
	})
}

// A ticket of one registration is worth nothing in another's flow, nor for
// another host: the handshake is a full one there.
func TestI05_SessionTicketsDoNotMoveBetweenRegistrations(t *testing.T) {
	l := newWorld(t)
	s := l.serve(echo, host)
	l.start(l.endpoint("api", s, host, "other.example.com") + `
		credential "bearer" "token" { endpoint = https.api }
		profile "ci" { credentials = [bearer.token] }`)
	one, two := l.Approve("one", "ci"), l.Approve("two", "ci")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := tls.NewLRUClientSessionCache(4)
		resumed := func(id registry.ID, flowHost, name string) bool {
			conn := tls.Client(l.Serve(l.handler, id, flowHost, 443), &tls.Config{
				RootCAs: l.roots, ServerName: name, MaxVersion: version, ClientSessionCache: cache, NextProtos: []string{"http/1.1"},
			})
			defer conn.Close()
			_, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n")
			must(t, err)
			_, _ = io.Copy(io.Discard, conn) // TLS 1.3's tickets come after the handshake
			return conn.ConnectionState().DidResume
		}
		if resumed(one, host, host) {
			t.Fatal("resumed nothing")
		}
		if !resumed(one, host, host) {
			t.Errorf("TLS %x: no session is resumed at all", version)
		}
		if resumed(two, host, host) {
			t.Errorf("TLS %x: another registration resumed the session", version)
		}
	}
}

// panicky is a logger that faults in the middle of a request, with the secret
// in its hand.
type panicky struct{ slog.Handler }

func (p panicky) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "upstream failed" {
		panic("the token is " + token)
	}
	return p.Handler.Handle(ctx, r)
}

func TestI16_PanicStopsAtTheRequest(t *testing.T) {
	l := newLab(t, echo)
	gateway, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca2")})
	must(t, err)
	broken := true
	handler, err := https.New(https.Config{
		CA:  gateway,
		Log: slog.New(panicky{slog.NewTextHandler(&l.said, nil)}),
		Dial: func(ctx context.Context, e *policy.Endpoint, host string, port uint16) (net.Conn, error) {
			if broken {
				return nil, fmt.Errorf("no")
			}
			return l.Dialer.DialEndpoint(ctx, e.Address, host, port)
		},
	})
	must(t, err)
	t.Cleanup(handler.Close)
	l.handler = handler
	l.roots.AppendCertsFromPEM(gateway.CertPEM())
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		broken = true
		if resp, err := l.agent(id, h2).Get("https://" + host + "/"); err == nil {
			t.Errorf("status %d", resp.StatusCode)
		}
		if s := l.lastStatus(id); s != "internal_error" {
			t.Errorf("logged as %q", s)
		}
		broken = false
		do(t, l.agent(id, h2), "GET", "https://"+host+"/", nil)
	})
	if log := l.said.String(); !strings.Contains(log, "panic in an https request") || !strings.Contains(log, "request.go") || strings.Contains(log, token) {
		t.Errorf("log: %s", log)
	}
}

// rude answers every request with bytes that hold the secret where HTTP has no
// place for it, and with more than was asked for.
func rude(t *testing.T, l *lab) string {
	leaf, err := l.world.Leaf(host)
	must(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*leaf}})
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				buf := make([]byte, 64<<10)
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				auth := token
				if !strings.Contains(string(buf[:n]), token) {
					auth = "the request came without its credential"
				}
				switch i % 6 {
				case 0:
					fmt.Fprintf(conn, "%s\r\n\r\n", auth)
				case 1:
					fmt.Fprintf(conn, "HTTP/1.1 200 %s\r\nContent-Length: 2\r\n%s: 1\r\n\r\nokHTTP/1.1 200 %s\r\n\r\n", auth, auth, auth)
				case 2:
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n", auth)
				case 3:
					fmt.Fprintf(conn, "HTTP/1.1 %s OK\r\n\r\n", auth)
				case 4:
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n", auth)
				case 5:
					fmt.Fprintf(conn, "HTTP/1.1 099 OK\r\nX: %s\r\n\r\n", auth)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func TestI02_NoSecretInLogsErrorsAndActions(t *testing.T) {
	var standard logBuffer
	log.SetOutput(&standard)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	l := newWorld(t)
	l.start(l.endpointAt("api", rude(t, l), host) + `
		credential "bearer" "token" { endpoint = https.api }
		profile "ci" { credentials = [bearer.token] }`)
	l.SetSecret("bearer.token", "secret", token)
	id := l.Approve("a", "ci")
	var got strings.Builder
	versions(t, func(t *testing.T, h2 bool) {
		for range 12 {
			resp, err := l.agent(id, h2).Get("https://" + host + "/?t=" + "x")
			if err != nil {
				fmt.Fprintln(&got, err)
				continue
			}
			_, _ = fmt.Fprintln(&got, resp.Status, resp.Header)
			_, _ = io.Copy(&got, resp.Body)
			resp.Body.Close()
		}
	})
	for _, row := range l.Actions(id) {
		fmt.Fprintf(&got, "%+v %+v\n", row.Action, row.Result)
	}
	for what, text := range map[string]string{"the agent or the action log": got.String(), "the handler's log": l.said.String(), "the gateway's log": l.Log(), "the standard log": standard.String()} {
		for _, form := range []string{token, strings.ToLower(token), base64.StdEncoding.EncodeToString([]byte(token))} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
				t.Errorf("%s shows the secret: %s", what, text)
			}
		}
	}
	log.Print("and the rest of the standard log is kept")
	if !strings.Contains(standard.String(), "the rest of") {
		t.Error("the standard log is silenced altogether")
	}
	if !strings.Contains(l.said.String(), "upstream failed") {
		t.Error("nothing was logged, so nothing was proven")
	}
}

func TestI01_HeadersAndTrailersThatEchoTheSecretAreMasked(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		w.Header().Set("Trailer", "X-Trailer-Echo")
		w.Header().Set("X-Echo", auth)
		w.Header()["X-Many"] = []string{"a", auth, base64.StdEncoding.EncodeToString([]byte(auth)), "b"}
		w.Header().Set("X-"+strings.TrimPrefix(auth, "Bearer "), "name")
		w.Header().Set("Location", "https://api.example.com/?access_token="+strings.ReplaceAll(strings.TrimPrefix(auth, "Bearer "), "/", "%2f"))
		w.Header().Set("Set-Cookie", "session="+auth)
		w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=%q", auth))
		w.Header().Set("Alt-Svc", `h3=":443"`)
		w.Header().Set("X-Clawpatrol-Verdict", "allow")
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.WriteHeader(302)
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Trailer-Echo", auth)
		w.Header().Set(http.TrailerPrefix+"X-Late-Echo", auth)
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		resp, _ := do(t, l.agent(id, h2), "GET", "https://"+host+"/", nil)
		all := fmt.Sprint(resp.Header, resp.Trailer)
		for _, form := range []string{"S3cr3t", base64.StdEncoding.EncodeToString([]byte("Bearer " + token))[12:24], "s3cr3t"} {
			if strings.Contains(all, form) {
				t.Errorf("%q in %s", form, all)
			}
		}
		if resp.Header.Get("X-Echo") != "Bearer clawpatrol-token" || resp.Header.Get("Location") != "https://api.example.com/?access_token=clawpatrol-token" {
			t.Errorf("%q %q", resp.Header.Get("X-Echo"), resp.Header.Get("Location"))
		}
		if many := resp.Header["X-Many"]; len(many) != 4 || many[0] != "a" || many[3] != "b" {
			t.Errorf("%q", many)
		}
		if resp.Trailer.Get("X-Trailer-Echo") != "Bearer clawpatrol-token" || resp.Trailer.Get("X-Late-Echo") != "Bearer clawpatrol-token" {
			t.Errorf("trailers %v", resp.Trailer)
		}
		for _, name := range []string{"Set-Cookie", "Alt-Svc", "X-Clawpatrol-Verdict", "Proxy-Authenticate"} {
			if _, ok := resp.Header[name]; ok {
				t.Errorf("%s was passed on", name)
			}
		}
	})
	if !strings.Contains(l.said.String(), "sent the credential back") {
		t.Error("the operator does not hear of it")
	}
}

func TestCookiesPassWhereTheEndpointSaysSo(t *testing.T) {
	l := newWorld(t)
	s := l.serve(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Set-Cookie", "a=b") }, host)
	pass := strings.Replace(l.endpoint("api", s, host), "}\n", "cookies = \"pass\"\n}\n", 1)
	l.start(pass + `credential "bearer" "token" { endpoint = https.api }
		profile "ci" { credentials = [bearer.token] }`)
	l.SetSecret("bearer.token", "secret", token)
	resp, _ := do(t, l.agent(l.Approve("a", "ci"), true), "GET", "https://"+host+"/", nil)
	if resp.Header.Get("Set-Cookie") != "a=b" {
		t.Errorf("%v", resp.Header)
	}
}

func TestAgentOfHTTP1ReachesAnUpstreamOfHTTP2Only(t *testing.T) {
	l := newWorld(t)
	leaf, err := l.world.Leaf(host)
	must(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		only := []string{"h2"}
		if !slices.Contains(hello.SupportedProtos, "h2") {
			only = []string{"none"} // crypto/tls would let http/1.1 pass beside h2
		}
		return &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: only}, nil
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	l.start(l.endpoint("api", s, host) + `credential "bearer" "token" { endpoint = https.api }
		profile "ci" { credentials = [bearer.token] }`)
	l.SetSecret("bearer.token", "secret", token)
	agent := l.agent(l.Approve("a", "ci"), false)
	for range 2 {
		resp, body := do(t, agent, "POST", "https://"+host+"/", strings.NewReader("whole"))
		if resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		if got := parseEcho(t, body); got.Proto != "HTTP/2.0" || got.Body != "whole" {
			t.Errorf("%s %q", got.Proto, got.Body)
		}
	}
}

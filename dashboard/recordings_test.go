package dashboard_test

import (
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/registry"
)

// recorded has a registration and a place for recordings.
func newRecorded(t testing.TB) (*gateway, *registry.Registration, *recording.Store) {
	t.Helper()
	g, reg := newSSHGateway(t)
	store, err := recording.Open(filepath.Join(t.TempDir(), "recordings"), recording.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	g.cfg.Recordings = store
	g.restart()
	return g, reg, store
}

// record makes a recording of what a session wrote.
func record(t testing.TB, store *recording.Store, m recording.Meta, output ...string) *recording.Session {
	t.Helper()
	s, err := store.Start(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range output {
		if err := s.Stdout([]byte(o)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func session(reg *registry.Registration, command string, pty bool) recording.Meta {
	m := recording.Meta{Registration: string(reg.ID), Endpoint: "ssh.build", Credential: "ssh_key.deploy", Host: "build.example.com", User: "deploy", Command: command}
	if pty {
		m.PTY, m.Term, m.Columns, m.Rows = true, "xterm", 40, 5
	}
	return m
}

type recordingsAnswer struct {
	Items []struct {
		ID, Registration, Endpoint, Host, User, Command, Format string
		Name                                                    string `json:"registration_name"`
		Live                                                    bool
		Size                                                    int64
	}
	Next string
}

func TestRecordings_OfATerminalAreReplayed(t *testing.T) {
	g, reg, store := newRecorded(t)
	s := record(t, store, session(reg, "", true), "first line\r\n", "\x1b[2J\x1b[H<b>second</b> screen\x1b]0;a title\x07\u202e")
	var list recordingsAnswer
	read(t, g.api("GET", "/api/recordings", ""), http.StatusOK, &list)
	if len(list.Items) != 1 || list.Items[0].ID != s.ID() || list.Items[0].Name != "build-01" || list.Items[0].Format != "asciicast" || !list.Items[0].Live || list.Next != "" {
		t.Fatalf("%+v", list)
	}
	at := "/recordings/" + s.ID()
	if page := g.page(at + "?at=end&play=1"); !strings.Contains(page, `<meta http-equiv="refresh"`) {
		t.Error("a session that goes on is not followed")
	}
	if err := s.Finish("exit status 3"); err != nil {
		t.Fatal(err)
	}

	page := g.page(at + "?at=end")
	for _, want := range []string{"&lt;b&gt;second&lt;/b&gt; screen\n", "deploy@build.example.com", "exit status 3", `href="/api/recordings/` + s.ID() + `"`, "End", "Play"} {
		if !strings.Contains(page, want) {
			t.Errorf("the end does not show %q", want)
		}
	}
	for _, never := range []string{"first line", "\x1b", "\u202e", "a title", "http-equiv"} {
		if strings.Contains(page, never) {
			t.Errorf("the end shows %q", never)
		}
	}
	if page := g.page(at); strings.Contains(page, "second") || !strings.Contains(page, "Next change") {
		t.Error("the beginning is not the beginning")
	}
	if page := g.page(at + "?play=1"); !strings.Contains(page, `<meta http-equiv="refresh" content="1;url=/recordings/`+s.ID()) {
		t.Error("it does not play")
	}
	if page := g.page(at + "?at=end&play=1"); strings.Contains(page, "http-equiv") {
		t.Error("it plays on after the end")
	}
	for _, odd := range []string{"?at=x", "?at=-1", "?at=NaN", "?at=Inf", "?at=1e999", "?at=99999999999999999999"} {
		g.page(at + odd)
	}

	raw := g.api("GET", "/api/recordings/"+s.ID(), "")
	body := status(t, raw, http.StatusOK)
	if !strings.HasPrefix(body, `{"version":2,"width":40,"height":5`) || raw.Header.Get("Content-Type") != "application/x-asciicast" || !strings.HasPrefix(raw.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("%s: %.80s", raw.Header, body)
	}
	part := g.send(request{method: "GET", path: "/api/recordings/" + s.ID(), secret: password, header: http.Header{"Range": {"bytes=1-9"}}})
	if got := status(t, part, http.StatusPartialContent); got != `"version"` {
		t.Errorf("a part is %q", got)
	}
}

func TestRecordings_OfACommandAreTranscripts(t *testing.T) {
	g, reg, store := newRecorded(t)
	s := record(t, store, session(reg, "make <all>", false), "building\n\x1b[31mred\x1b[m\n", "a\xff\xfeb")
	if err := s.Stderr([]byte("warning: it\n")); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish("exit status 0"); err != nil {
		t.Fatal(err)
	}
	page := g.page("/recordings/" + s.ID())
	for _, want := range []string{"make &lt;all&gt;", "building\n", `\u{001b}[31mred`, "warning: it", "stderr", "exit status 0", "that are not text"} {
		if !strings.Contains(page, want) {
			t.Errorf("the transcript does not show %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, "\x1b") {
		t.Error("an escape sequence is in the page")
	}
	if page := g.page("/recordings/" + s.ID() + "?from=1000"); !strings.Contains(page, "Nothing more is recorded") {
		t.Error("after the end there is something")
	}
	raw := g.api("GET", "/api/recordings/"+s.ID(), "")
	if body := status(t, raw, http.StatusOK); !strings.HasPrefix(body, `{"transcript":1`) || raw.Header.Get("Content-Type") != "application/jsonl" {
		t.Errorf("%.80s", body)
	}

	// A long one comes in pages that lose nothing.
	long := record(t, store, session(reg, "long", false))
	for i := range 40 {
		if err := long.Stdout([]byte(fmt.Sprintf("[%02d]", i) + strings.Repeat("x", 20<<10) + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := long.Finish("exit status 0"); err != nil {
		t.Fatal(err)
	}
	at, all, pages := "/recordings/"+long.ID(), "", 0
	for at != "" {
		page := g.page(at)
		all, pages, at = all+page, pages+1, ""
		if _, rest, ok := strings.Cut(page, `<a rel="next" href="`); ok {
			at, _, _ = strings.Cut(rest, `"`)
			at = html.UnescapeString(at)
		}
	}
	for i := range 40 {
		if n := strings.Count(all, fmt.Sprintf("[%02d]", i)); n != 1 {
			t.Errorf("piece %d is shown %d times", i, n)
		}
	}
	if pages < 2 || !strings.Contains(all, "exit status 0") {
		t.Errorf("%d pages", pages)
	}
}

func TestRecordings_AreListedInPages(t *testing.T) {
	g, reg, store := newRecorded(t)
	other := g.enrol("build-02", "198.51.100.2")
	const n = 130
	for i := range n {
		of := reg
		if i%2 == 1 {
			of = other
		}
		if err := record(t, store, session(of, fmt.Sprint("command ", i), false)).Finish(""); err != nil {
			t.Fatal(err)
		}
	}
	for registration, want := range map[string]int{"": n, string(other.ID): n / 2, "r_nobody": 0} {
		seen, cursor := 0, ""
		for {
			var list recordingsAnswer
			read(t, g.api("GET", "/api/recordings?"+url.Values{"registration": {registration}, "cursor": {cursor}}.Encode(), ""), http.StatusOK, &list)
			seen += len(list.Items)
			if cursor = list.Next; cursor == "" {
				break
			}
		}
		if seen != want {
			t.Errorf("of %q there are %d, want %d", registration, seen, want)
		}
	}
	page := g.page("/recordings")
	if !strings.Contains(page, "command 129") || strings.Contains(page, "command 1<") || !strings.Contains(page, "Older") {
		t.Error("the first page has not the newest")
	}
	if page := g.page("/recordings?registration=" + string(other.ID)); strings.Contains(page, "command 128") || !strings.Contains(page, "command 129") {
		t.Error("other registrations' are listed")
	}
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	checkMarkup(t, "/recordings", doc)
}

// What is no recording is not found, however it is asked for; nothing else of the
// file system is.
func TestRecordings_OnlyRecordingsAreRead(t *testing.T) {
	g, _, _ := newRecorded(t)
	for _, id := range []string{"x", "..%2fmaster.key", "..%2f..%2fclawpatrol.db", "20261120t155203.000000042_r_a_2f4kx7qy", "%00"} {
		for _, p := range []string{"/recordings/", "/api/recordings/"} {
			if r := g.send(request{method: "GET", path: p + id, secret: password}); r.StatusCode != http.StatusNotFound {
				t.Errorf("%s%s: status %d", p, id, r.StatusCode)
			}
		}
	}
	g.cfg.Recordings = nil // as of a gateway that keeps none
	g.restart()
	status(t, g.api("GET", "/api/recordings/x", ""), http.StatusNotFound)
	if body := status(t, g.api("GET", "/api/recordings", ""), http.StatusOK); body != "{\"items\":[]}\n" {
		t.Error(body)
	}
	g.page("/recordings")
}

// A recording that is costly to show is shown as far as it goes, and the page says
// so.
func TestI16_CostlyRecordingsAreCut(t *testing.T) {
	g, reg, store := newRecorded(t)
	m := session(reg, "", true)
	m.Columns, m.Rows = 1<<31, 1<<31
	s := record(t, store, m, "begun\r\n")
	scroll := []byte(strings.Repeat("\x1b[9999T", 32<<10/7))
	for range 200 {
		if err := s.Stdout(scroll); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Finish(""); err != nil {
		t.Fatal(err)
	}
	if page := g.page("/recordings/" + s.ID() + "?at=end&play=1"); !strings.Contains(page, "takes too long") || strings.Contains(page, "http-equiv") {
		t.Error("the page does not say that it was cut")
	}
}

// Whatever is in a file, a page of it is made: no panic, and nothing on it that
// does not print.
func FuzzReplay(f *testing.F) {
	f.Add([]byte("{\"version\":2}\n[0.5,\"o\",\"\\u001b[2Jx\"]\n[1,\"r\",\"80x24\"]\n[1.5,\"m\",\"exit\"]\n"), 2.0, uint32(10), uint32(4))
	f.Add([]byte("{\"transcript\":1}\n{\"t\":0.1,\"stream\":\"stdout\",\"text\":\"a\\u001bb\\n\"}\n{\"t\":1,\"base64\":\"AAAA\"}\n{\"t\":2,\"mark\":\"x\"}\n"), 0.0, uint32(0), uint32(0))
	f.Add([]byte("\n[1e400,\"o\",\"\"]\n[null,null,null]\n[[],{},1]\n{"), -1.0, uint32(1), uint32(1))
	f.Fuzz(func(t *testing.T, file []byte, at float64, columns, rows uint32) {
		if text := dashboard.Replayed(file, columns, rows, at); strings.ContainsAny(text, "\x1b\x07\x00\u202e\u009b") {
			t.Fatalf("%q", text)
		}
	})
}

package recording_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/secret"
)

func open(t *testing.T, limits recording.Limits) (*recording.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "recordings")
	return reopen(t, dir, limits), dir
}

func reopen(t *testing.T, dir string, limits recording.Limits) *recording.Store {
	t.Helper()
	s, err := recording.Open(dir, limits)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func start(t *testing.T, s *recording.Store, m recording.Meta) *recording.Session {
	t.Helper()
	if m.Registration == "" {
		m.Registration = "r_one"
	}
	session, err := s.Start(m)
	must(t, err)
	return session
}

// read returns the head and the lines after it.
func read(t *testing.T, s *recording.Store, id string) (head map[string]any, lines []string) {
	t.Helper()
	_, r, err := s.Read(id)
	must(t, err)
	defer r.Close()
	text, err := io.ReadAll(r)
	must(t, err)
	all := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	must(t, json.Unmarshal([]byte(all[0]), &head))
	return head, all[1:]
}

// events returns an asciicast's, without their times.
func events(t *testing.T, lines []string) (all [][2]string) {
	t.Helper()
	last := -1.0
	for _, line := range lines {
		var e [3]any
		must(t, json.Unmarshal([]byte(line), &e))
		if at := e[0].(float64); at < last {
			t.Errorf("%v comes after %v", at, last)
		} else {
			last = at
		}
		all = append(all, [2]string{e[1].(string), e[2].(string)})
	}
	return all
}

func TestStore_TerminalBecomesAsciicast(t *testing.T) {
	s, dir := open(t, recording.Limits{})
	session := start(t, s, recording.Meta{
		Endpoint: "ssh.build", Credential: "ssh_key.deploy", Host: "build.example.com", User: "deploy",
		PTY: true, Term: "xterm", Columns: 80, Rows: 24,
	})
	must(t, session.Stdout([]byte("caf\xc3")))
	must(t, session.Stdout([]byte("\xa9 \x1b[1m<b>\xff")))
	must(t, session.Stdin([]byte("a password\r"))) // not recorded
	must(t, session.Resize(100, 40))
	must(t, session.Finish("exit status 0"))

	head, lines := read(t, s, session.ID())
	for key, want := range map[string]any{"version": 2.0, "width": 80.0, "height": 24.0, "title": "deploy@build.example.com", "env": map[string]any{"TERM": "xterm"}} {
		if !reflect.DeepEqual(head[key], want) {
			t.Errorf("%s is %v, want %v", key, head[key], want)
		}
	}
	want := [][2]string{{"o", "caf"}, {"o", "é \x1b[1m<b>\uFFFD"}, {"r", "100x40"}, {"m", "exit status 0"}}
	if got := events(t, lines); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	day := head["clawpatrol"].(map[string]any)["id"].(string)[:8]
	path := fmt.Sprintf("%s/%s-%s-%s/%s.cast", dir, day[:4], day[4:6], day[6:], session.ID())
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
}

func TestStore_InputIsRecordedWhenAskedFor(t *testing.T) {
	s, _ := open(t, recording.Limits{})
	session := start(t, s, recording.Meta{PTY: true, Input: true})
	must(t, session.Stdin([]byte("ls\r")))
	must(t, session.Finish("closed"))
	_, lines := read(t, s, session.ID())
	if got := events(t, lines); !slices.Contains(got, [2]string{"i", "ls\r"}) {
		t.Errorf("got %q", got)
	}
}

func TestStore_CommandBecomesTranscript(t *testing.T) {
	s, _ := open(t, recording.Limits{})
	session := start(t, s, recording.Meta{Command: "make test", User: "deploy", Host: "build"})
	binary := make([]byte, 100_000)
	for i := range binary {
		binary[i] = byte(i * 7)
	}
	must(t, session.Stdout([]byte("ok\n")))
	must(t, session.Stderr([]byte("warning\n")))
	must(t, session.Stdout(binary))
	must(t, session.Finish("exit status 2"))
	head, lines := read(t, s, session.ID())
	if head["transcript"] != 1.0 || head["command"] != "make test" || head["version"] != nil {
		t.Errorf("%v", head)
	}
	got := map[string][]byte{}
	for _, line := range lines {
		var e struct{ Stream, Text, Base64, Mark string }
		must(t, json.Unmarshal([]byte(line), &e))
		b, err := base64.StdEncoding.DecodeString(e.Base64)
		must(t, err)
		got[e.Stream] = append(got[e.Stream], e.Text+string(b)+e.Mark...)
	}
	want := map[string][]byte{"stdout": append([]byte("ok\n"), binary...), "stderr": []byte("warning\n"), "": []byte("exit status 2")}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%d of stdout, %q, %q", len(got["stdout"]), got["stderr"], got[""])
	}
}

func TestI01_SecretsAreNotRecorded(t *testing.T) {
	const password = "correct-horse"
	s, dir := open(t, recording.Limits{})
	for _, pty := range []bool{true, false} {
		session := start(t, s, recording.Meta{
			PTY: pty, Input: true, Mask: []secret.Secret{secret.New([]byte(password)), {}, secret.New(nil)},
			Command: "login -p " + password, Host: password, Term: password,
		})
		must(t, session.Stdout([]byte("the password is correct-")))
		must(t, session.Stdout([]byte("horse, not correct-")))
		must(t, session.Stderr([]byte(password+password)))
		for i := range password {
			must(t, session.Stdin([]byte{password[i]}))
		}
		must(t, session.Finish("closed"))
		_, r, err := s.Read(session.ID())
		must(t, err)
		text, err := io.ReadAll(r)
		must(t, errors.Join(err, r.Close()))
		if strings.Contains(string(text), password) || strings.Count(string(text), "[masked]") < 6 || !strings.Contains(string(text), "not ") || !strings.Contains(string(text), `correct-"`) {
			t.Errorf("%s", text)
		}
	}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), password) {
			t.Errorf("the password is in %s", path)
		}
		return err
	}))
}

func TestStore_LongSessionIsCutAndSaysSo(t *testing.T) {
	const limit = 100_000
	s, _ := open(t, recording.Limits{File: limit})
	session := start(t, s, recording.Meta{PTY: true})
	for range 100 {
		must(t, session.Stdout([]byte(strings.Repeat("\x01", 10_000)))) // six bytes of JSON each
	}
	must(t, session.Finish(strings.Repeat("\x01", 5000)))
	list, err := s.List("", "", 10)
	must(t, err)
	if len(list) != 1 || list[0].Size > limit || list[0].Live {
		t.Errorf("%+v", list)
	}
	_, lines := read(t, s, session.ID())
	if got := events(t, lines); got[len(got)-2] != [2]string{"m", "truncated: the recording reached its limit"} {
		t.Errorf("ends with %q", got[len(got)-2:])
	}
}

func TestI19_WhatCannotBeWrittenIsAnError(t *testing.T) {
	s, dir := open(t, recording.Limits{})
	must(t, os.RemoveAll(dir))
	if _, err := s.Start(recording.Meta{Registration: "r_one"}); err == nil {
		t.Error("begun without a directory")
	}
}

func TestStore_ListsTheNewestFirst(t *testing.T) {
	s, dir := open(t, recording.Limits{})
	var ids []string
	for i := range 6 {
		session := start(t, s, recording.Meta{Registration: fmt.Sprintf("r_%d", i%2), Command: fmt.Sprint(i), User: "u", Host: "h", Endpoint: "ssh.e", Credential: "c"})
		must(t, session.Finish("closed"))
		ids = slices.Insert(ids, 0, session.ID())
	}
	live := start(t, s, recording.Meta{PTY: true, Columns: 3, Rows: 4})
	for name, s := range map[string]*recording.Store{"as it was made": s, "opened again": reopen(t, dir, recording.Limits{})} {
		t.Run(name, func(t *testing.T) {
			list, err := s.List("", "", 3)
			must(t, err)
			if list[0].ID != live.ID() || !list[0].PTY || list[0].Columns != 3 || list[0].Rows != 4 {
				t.Errorf("%+v", list[0])
			}
			list, err = s.List("", list[2].ID, 3)
			must(t, err)
			if got := idsOf(list); !slices.Equal(got, ids[2:5]) {
				t.Errorf("the next page is %q", got)
			}
			if e := list[0]; e.Command != "3" || e.User != "u" || e.Host != "h" || e.Endpoint != "ssh.e" || e.Credential != "c" || e.Registration != "r_1" || e.Size == 0 || e.Started.IsZero() {
				t.Errorf("%+v", e)
			}
			list, err = s.List("r_0", "", 10)
			must(t, err)
			if got := idsOf(list); !slices.Equal(got, []string{ids[1], ids[3], ids[5]}) {
				t.Errorf("of one registration: %q", got)
			}
		})
	}
	must(t, live.Finish("closed"))
}

// What a crash left behind is listed as far as it was written.
func TestI17_HalfWrittenRecordingsAreKept(t *testing.T) {
	s, dir := open(t, recording.Limits{})
	session := start(t, s, recording.Meta{PTY: true, User: "u"})
	must(t, session.Stdout([]byte("x")))
	// The gateway is killed here. Another recording has not got as far as its head.
	id := session.ID()[:len(session.ID())-8] + "aaaaaaaa"
	day := id[:4] + "-" + id[4:6] + "-" + id[6:8]
	must(t, os.WriteFile(filepath.Join(dir, day, id+".jsonl"), []byte(`{"trans`), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, day, "notes.txt"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "lost+found"), 0o700))
	again := reopen(t, dir, recording.Limits{})
	list, err := again.List("", "", 10)
	must(t, err)
	if len(list) != 2 || list[0].Live || list[1].Live {
		t.Errorf("%+v", list)
	}
	if _, lines := read(t, again, session.ID()); len(lines) != 1 {
		t.Errorf("%q", lines)
	}
	must(t, session.Finish("closed"))
}

func TestStore_ReadsNothingElse(t *testing.T) {
	s, dir := open(t, recording.Limits{})
	session := start(t, s, recording.Meta{})
	must(t, session.Finish("closed"))
	must(t, os.WriteFile(filepath.Join(dir, "..", "outside.cast"), []byte("{}\n"), 0o600))
	for _, id := range []string{"", "..", "../outside", session.ID() + "x", session.ID() + ".cast", strings.ToUpper(session.ID()), "20261301t000000.000000000_r_aaaaaaaa", session.ID() + "/../../outside", strings.Replace(session.ID(), ".", ",", 1)} {
		if _, _, err := s.Read(id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, registration := range []string{"", "../x", "a/b", "a.b", strings.Repeat("a", 65)} {
		if _, err := s.Start(recording.Meta{Registration: registration}); err == nil {
			t.Errorf("%q was begun", registration)
		}
	}
}

func TestOpen_RefusesDirectoryOpenToOthers(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o750))
	if _, err := recording.Open(dir, recording.Limits{}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Error(err)
	}
}

func TestSession_ManyWritersKeepLinesWhole(t *testing.T) {
	s, _ := open(t, recording.Limits{})
	session := start(t, s, recording.Meta{PTY: true})
	var wg sync.WaitGroup
	for _, write := range []func() error{
		func() error { return session.Stdout([]byte("out")) },
		func() error { return session.Stderr([]byte("err")) },
		func() error { return session.Resize(1, 2) },
	} {
		wg.Go(func() {
			for range 500 {
				if err := write(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, session.Finish("closed"))
	_, lines := read(t, s, session.ID())
	if got := events(t, lines); len(got) != 1501 {
		t.Errorf("%d events", len(got))
	}
}

// FuzzMask cuts a text with a secret in it anywhere: no piece of it shows the
// secret, and nothing else is lost.
func FuzzMask(f *testing.F) {
	f.Add("abab", "xababab", uint8(3))
	f.Add("secret", "a secsecret and a secre", uint8(1))
	f.Add("é\xff", "é\xffé", uint8(2))
	dir := f.TempDir()
	must2(f, os.Chmod(dir, 0o700))
	s, err := recording.Open(dir, recording.Limits{Files: 2})
	must2(f, err)
	f.Fuzz(func(t *testing.T, hidden, text string, step uint8) {
		if hidden == "" || strings.Contains("[masked]", hidden) || len(text) > 5000 {
			t.Skip("would be found in what is written in its place, or is none")
		}
		session := start(t, s, recording.Meta{Mask: []secret.Secret{secret.New([]byte(hidden))}})
		for piece := range slices.Chunk([]byte(text), int(step)+1) {
			must(t, session.Stdout(piece))
		}
		must(t, session.Finish("closed"))
		_, r, err := s.Read(session.ID())
		must(t, err)
		defer r.Close()
		var got []byte
		for lines := bufio.NewScanner(r); lines.Scan(); {
			var e struct{ Text, Base64 string }
			must(t, json.Unmarshal(lines.Bytes(), &e))
			b, err := base64.StdEncoding.DecodeString(e.Base64)
			must(t, err)
			got = append(append(got, e.Text...), b...)
		}
		if want := strings.ReplaceAll(text, hidden, "[masked]"); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func idsOf(list []recording.Entry) (ids []string) {
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	return ids
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must2(f *testing.F, err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

package ssh_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/protocols/ssh"
	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/secret"
)

// I01: an upstream that knows the password says it wherever it can say something.
func TestI01_ThePasswordDoesNotComeBack(t *testing.T) {
	for name, change := range map[string]func(*upstream){
		"in": func(u *upstream) {},
		"not in": func(u *upstream) {
			u.config.PasswordCallback = func(_ xssh.ConnMetadata, p []byte) (*xssh.Permissions, error) {
				return nil, &xssh.BannerError{Err: errors.New("no"), Message: "no " + string(p)}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := recording.Open(filepath.Join(t.TempDir(), "recordings"), recording.Limits{})
			must(t, err)
			defer store.Close()
			u := newUpstream(t, "", nil, password("deploy", passwordText), func(u *upstream) {
				u.config.BannerCallback = func(xssh.ConnMetadata) string { return "your password is " + passwordText + "\x1b[2J\n" }
				u.config.KeyboardInteractiveCallback = func(_ xssh.ConnMetadata, client xssh.KeyboardInteractiveChallenge) (*xssh.Permissions, error) {
					_, err := client(passwordText, passwordText, []string{passwordText}, []bool{false})
					return nil, errors.Join(err, errors.New("no"))
				}
				u.channel = func(c xssh.NewChannel) { _ = c.Reject(xssh.Prohibited, passwordText) }
				u.session = func(_ *upstream, c xssh.Channel, requests <-chan *xssh.Request) {
					defer c.Close()
					for r := range requests {
						_ = r.Reply(true, nil)
						if r.Type == "exec" {
							break
						}
					}
					for _, w := range []io.Writer{c, c.Stderr()} {
						fmt.Fprintf(w, "it is %s and %s%s.", passwordText, passwordText, passwordText)
						fmt.Fprint(w, strings.Repeat("x", 40_000)+passwordText+strings.Repeat("y", 40_000))
						fmt.Fprint(w, passwordText[:7])
						fmt.Fprint(w, passwordText[7:])
					}
					_, _ = c.SendRequest("exit-signal", false, xssh.Marshal(struct {
						Name     string
						Core     bool
						Text     string
						Language string
					}{"KILL", false, passwordText, passwordText}))
				}
				change(u)
			})
			l := newLab(t, u.policy("ssh_password", `forward = ["db.internal:5432"]`, "record = true"), func(c *ssh.Config) { c.Recordings = store })
			l.SetSecret("ssh_password.deploy", "password", passwordText)
			id := l.Approve("a", "ci")
			client, told, err := l.try(id, host, l.config("x"))
			saw := told + fmt.Sprint(err)
			if strings.Contains(told, "\x1b") || !strings.Contains(told, "your password is ****") {
				t.Errorf("told %q", told)
			}
			if err == nil {
				_, err = client.Dial("tcp", "db.internal:5432")
				saw += fmt.Sprint(err)
				out, errs, err := output(t, client, "exec it")
				saw += out + errs + fmt.Sprint(err)
				if len(out) < 80_000 || len(errs) < 80_000 {
					t.Errorf("%d and %d bytes", len(out), len(errs))
				}
			}
			for _, row := range l.Actions(id) {
				saw += fmt.Sprintf("%+v %+v", row.Action, row.Result)
			}
			saw += l.said.String() + l.Log()
			entries, err := store.List("", "", 10)
			must(t, err)
			for _, e := range entries {
				text := recordedText(t, store, e.ID)
				if masked := strings.Count(text, "[masked]"); masked != 10 {
					t.Errorf("%d times in the recording", masked)
				}
				saw += text
			}
			if name == "in" && len(entries) != 1 {
				t.Errorf("%d recordings", len(entries))
			}
			if i := strings.Index(saw, passwordText); i >= 0 {
				t.Errorf("the password comes back: %q", saw[max(0, i-80):i])
			}
		})
	}
}

// I01: what comes in pieces passes to the agent as it comes, and yet no part of it
// is in the recording, which can wait for the rest.
func TestI01_APasswordInPiecesIsNotInTheRecording(t *testing.T) {
	store, err := recording.Open(filepath.Join(t.TempDir(), "recordings"), recording.Limits{})
	must(t, err)
	defer store.Close()
	u := newUpstream(t, "", nil, password("deploy", passwordText))
	l := newLab(t, u.policy("ssh_password", "record = true"), func(c *ssh.Config) { c.Recordings = store })
	l.SetSecret("ssh_password.deploy", "password", passwordText)
	client := l.connect(l.Approve("a", "ci"), "x")
	for cut := range len(passwordText) {
		session, err := client.NewSession()
		must(t, err)
		in, err := session.StdinPipe()
		must(t, err)
		out, err := session.StdoutPipe()
		must(t, err)
		must(t, session.Start("cat"))
		for _, piece := range []string{"it is " + passwordText[:cut], passwordText[cut:] + "."} {
			_, err := io.WriteString(in, piece)
			must(t, err)
			_, err = io.ReadFull(out, make([]byte, len(piece))) // back before the next one goes
			must(t, err)
		}
		must(t, in.Close())
		must(t, session.Wait())
	}
	entries, err := store.List("", "", len(passwordText)+1)
	must(t, err)
	if len(entries) != len(passwordText) {
		t.Errorf("%d recordings", len(entries))
	}
	for _, e := range entries {
		if got := recordedText(t, store, e.ID); got != "it is [masked]." {
			t.Errorf("recorded %q", got)
		}
	}
}

// recordedText is what a transcript has of what the host wrote.
func recordedText(t *testing.T, store *recording.Store, id string) (text string) {
	t.Helper()
	_, r, err := store.Read(id)
	must(t, err)
	defer r.Close()
	for lines := json.NewDecoder(r); ; {
		var e struct{ Text, Base64 string }
		if err := lines.Decode(&e); err == io.EOF {
			return text
		} else if err != nil {
			t.Fatal(err)
		}
		b, err := base64.StdEncoding.DecodeString(e.Base64)
		must(t, err)
		text += e.Text + string(b)
	}
}

// An agent that prints guesses learns of one that is right as a whole, and of no
// other: nothing is held back that might become the password.
func TestScrub_HoldsNothingBack(t *testing.T) {
	l, _ := withPassword(t, func(*upstream) {})
	client, _, err := l.try(l.id(), host, l.config("x"))
	must(t, err)
	session, err := client.NewSession()
	must(t, err)
	in, err := session.StdinPipe()
	must(t, err)
	out, err := session.StdoutPipe()
	must(t, err)
	must(t, session.Start("cat"))
	got := make([]byte, len(passwordText))
	for i := range len(passwordText) { // each byte comes back before the next one goes
		_, err := in.Write([]byte{passwordText[i]})
		must(t, err)
		_, err = io.ReadFull(out, got[i:i+1])
		must(t, err)
	}
	if want := passwordText[:len(passwordText)-1] + "*"; string(got) != want {
		t.Errorf("got %q", got)
	}
	must(t, in.Close())
	must(t, session.Wait())
}

func TestScrub_EveryPlaceInAStream(t *testing.T) {
	const word = "abcabcabcabd"
	for cut := range len(word) * 3 {
		text := "abc" + word + "abcab" + word + word + "c"
		cut = min(cut, len(text))
		first, second := []byte(text[:cut]), []byte(text[cut:])
		s := ssh.NewScrubbed(secret.New([]byte(word)))
		s(first)
		s(second)
		got := string(first) + string(second)
		if strings.Contains(got, word) {
			t.Errorf("cut at %d: %s", cut, got)
		}
		if want := strings.ReplaceAll(text, word, strings.Repeat("*", len(word))); cut == 0 && got != want {
			t.Errorf("got %s", got)
		}
	}
}

func FuzzScrub(f *testing.F) {
	f.Add([]byte("the password is abcabcabcabd."), uint8(3))
	f.Add([]byte("abcabcabcabcabd"), uint8(1))
	f.Fuzz(func(t *testing.T, text []byte, step uint8) {
		const word = "abcabcabcabd"
		p := append([]byte(nil), text...)
		s := ssh.NewScrubbed(secret.New([]byte(word)))
		for rest := p; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			s(rest[:n])
			rest = rest[n:]
		}
		if strings.Contains(string(p), word) {
			t.Fatalf("it passed: %q", p)
		}
		if !strings.Contains(string(text), word) && string(p) != string(text) {
			t.Fatalf("%q became %q", text, p)
		}
	})
}

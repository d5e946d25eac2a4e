package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/agent"
)

func TestNameGateway_TokenOrURL(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("  cpi1_file \nand another line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const url = "https://gw.example.com:8443"
	for _, c := range []struct {
		what, arg, invite, stdin string
		url, token               string
	}{
		{"a URL", url, "", "cpi1_ignored\n", url, ""},
		{"a token", "cpi1_argument", "", "", "", "cpi1_argument"},
		{"another version's", "cpi2_argument", "", "", "", "cpi2_argument"},
		{"standard input", "-", "", "cpi1_input\n", "", "cpi1_input"},
		{"standard input without its end", "-", "", "cpi1_input", "", "cpi1_input"},
		{"from Windows", "-", "", "\tcpi1_input\r\n", "", "cpi1_input"},
		{"a file", "@" + file, "", "", "", "cpi1_file"},
		{"both", url, "cpi1_flag", "", url, "cpi1_flag"},
		{"a URL and a file", url, "@" + file, "", url, "cpi1_file"},
		{"a URL and standard input", url, "-", "cpi1_input\n", url, "cpi1_input"},
	} {
		req := agent.JoinRequest{Invite: c.invite}
		var prompt bytes.Buffer
		if err := nameGateway(&req, c.arg, strings.NewReader(c.stdin), &prompt); err != nil {
			t.Errorf("%s: %v", c.what, err)
		} else if req.URL != c.url || req.Invite != c.token || prompt.Len() != 0 {
			t.Errorf("%s: URL %q, token %q, asked %q", c.what, req.URL, req.Invite, &prompt)
		}
	}
	for what, c := range map[string][3]string{
		"nothing on standard input": {"-", "", "\n"}, "no such file": {"@" + file + "x", "", ""}, "a directory": {"@" + filepath.Dir(file), "", ""},
	} {
		req := agent.JoinRequest{Invite: c[1]}
		err := nameGateway(&req, c[0], strings.NewReader(c[2]), new(bytes.Buffer))
		if err == nil || strings.Contains(err.Error(), "cpi1_") || (what != "a directory" && hint(err) == "") {
			t.Errorf("%s: %v (%s)", what, err, hint(err))
		}
	}
	for _, arg := range []string{"-", "@" + file, "cpi1_x"} {
		if code, stdout, stderr := execute(t, "join", arg, "--invite", "cpi1_y"); code != 2 || stdout != "" || !strings.Contains(stderr, "given twice\nhint: ") {
			t.Errorf("%s and --invite: exit status %d, %q, %q", arg, code, stdout, stderr)
		}
	}
}

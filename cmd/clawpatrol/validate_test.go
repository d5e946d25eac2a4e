package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.hcl", "gateway { public_url = \"https://gw.example.com\" }\n")
	bad := file("bad.hcl", "gateway { public_url = \"https://gw.example.com\" }\nprofil \"x\" {}\n")
	missing := filepath.Join(dir, "missing.hcl")

	for _, test := range []struct {
		name   string
		args   []string
		code   int
		stdout string // a part of it; empty: nothing is printed there
		stderr []string
	}{
		{"valid", []string{good}, 0, good + " is valid: endpoints 0, credentials 0, profiles 0\n", nil},
		{"valid, JSON", []string{"--json", good}, 0, `"valid": true`, nil},
		{"invalid", []string{bad}, 1, "", []string{
			bad + ":2:1: Unknown block\n  2 | profil \"x\" {}\n    | ^^^^^^\n", "Did you mean profile?\n",
			"\nclawpatrol: validating " + bad + ": 1 error\n",
		}},
		{"invalid, JSON", []string{bad, "--json"}, 1, `"line": 2`, []string{`{"error":"validating ` + bad + `: 1 error","hint":""}`}},
		{"missing", []string{missing}, 1, "", []string{"clawpatrol: validating " + missing + ": ", "no such file"}},
		{"missing, JSON", []string{"--json", missing}, 1, `"valid": false`, []string{"no such file"}},
		{"two files", []string{good, bad}, 2, "", []string{"clawpatrol: "}},
		{"help", []string{"--help"}, 0, "clawpatrol validate --json gateway.hcl | jq .diagnostics", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(context.Background(), append([]string{"validate"}, test.args...), strings.NewReader(""), &stdout, &stderr)
			if code != test.code {
				t.Errorf("exit status %d, want %d", code, test.code)
			}
			if !strings.Contains(stdout.String(), test.stdout) || test.stdout == "" && stdout.Len() > 0 {
				t.Errorf("standard output:\n%s", &stdout)
			}
			for _, want := range test.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q is not in standard error:\n%s", want, &stderr)
				}
			}
			if len(test.stderr) == 0 && stderr.Len() > 0 {
				t.Errorf("standard error:\n%s", &stderr)
			}
		})
	}

	var stdout, stderr bytes.Buffer
	run(context.Background(), []string{"validate", "--json", bad}, strings.NewReader(""), &stdout, &stderr)
	var got validation
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := diagnosticJSON{Severity: "error", Summary: "Unknown block", Detail: `The top level of the file has no "profil" block. Did you mean profile?`, File: bad, Line: 2, Column: 1}
	if got.Valid || len(got.Diagnostics) != 1 || got.Diagnostics[0] != want {
		t.Errorf("got %+v", got)
	}
}

// Package tools proves that the programs agents use every day work on an agent
// host with nothing but
//
//	eval "$(clawpatrol env)"
//
// before them: unmodified, verifying TLS, with a placeholder for the secret, and
// against services that answer 401 to all but the real one. The programs run as
// a user who is not root, in an environment with nothing else in it.
//
// The table of docs/tools.md is this test's. After a change of the tools:
//
//	go test ./e2e/tools -run Tools -args -update
package tools

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write docs/tools.md")

// toolTimeout bounds one tool. The slowest, Java compiling its source on a busy
// machine, takes about 10 s.
const toolTimeout = 2 * time.Minute

// tool is a program that agents use, with what they do with it.
type tool struct {
	name string
	does string // for the table
	note string // for the table: what is special about it; "" nothing
	line string // for sh -e, in the agent user's home
	want string // all that line prints on stdout, but for blanks around it
	host string // whose service must have got the real secret
	ca   string // how it comes to trust the gateway's CA, for the table
	root bool   // run by root
}

// Ways to trust the gateway's CA.
const (
	byEnv      = "`env`" // and needs nothing else: it is tried without the system's store too
	byStore    = "the system's store"
	byDatabase = "the user's database"
	byPolicy   = "a policy"
	byNothing  = "verifies nothing"
)

func tools() []tool {
	return slices.Concat(webTools(), pythonTools(), nodeTools(), modelTools(), grpcTools(), forgeTools(), packageTools(), browserTools())
}

func TestTools(t *testing.T) {
	table := tools()
	results := make(map[string]string)
	w := newWorld(t)
	for _, tool := range table {
		ok := t.Run(subtest(tool.name), func(t *testing.T) { w.try(t, tool, w.home) })
		results[tool.name] = map[bool]string{true: "pass", false: "FAIL"}[ok]
	}
	t.Run("without_the_system's_store", func(t *testing.T) {
		home := w.forgetCA(t)
		for _, tool := range table {
			if tool.ca != byEnv {
				continue
			}
			if !t.Run(subtest(tool.name), func(t *testing.T) { w.try(t, tool, home) }) {
				results[tool.name] = "FAIL"
			}
		}
	})
	t.Run("no_secret_is_left_anywhere", w.search)

	text := document(table, results)
	if strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		t.Log("only some tools ran: docs/tools.md is not compared")
		return
	}
	doc := filepath.Join("..", "..", "docs", "tools.md")
	have, err := os.ReadFile(doc)
	must(t, err)
	want, err := written(string(have), text)
	must(t, err)
	if *update {
		must(t, os.WriteFile(doc, []byte(want), 0o644))
		return
	}
	if string(have) != want {
		t.Errorf("%s is stale: go test ./e2e/tools -run Tools -args -update", doc)
	}
}

func subtest(name string) string { return strings.ReplaceAll(name, " ", "_") }

// try runs one tool, with this home directory unless it is root's.
func (w *world) try(t *testing.T, tool tool, home string) {
	ctx, cancel := context.WithTimeout(t.Context(), toolTimeout)
	defer cancel()
	before := w.services[tool.host].authenticated.Load()
	run := w.asAgent
	if tool.root {
		run, home = w.asRoot, "/root"
	}
	out, stderr, err := run(ctx, home, tool.line)
	if err != nil || strings.TrimSpace(out) != tool.want {
		t.Errorf("%v\n got %q\nwant %q\nstderr: %s", err, out, tool.want, stderr)
	}
	if w.services[tool.host].authenticated.Load() == before {
		t.Errorf("%s has not seen the real secret", tool.host)
	}
	if refused := w.refused.Swap(0); refused != 0 {
		t.Errorf("%d requests reached a service without the real secret", refused)
	}
	for _, s := range w.services {
		if strings.Contains(out+stderr, s.secret) {
			t.Errorf("the agent saw the secret of %s", s.host)
		}
	}
}

// marker is what the table begins after.
const marker = "\n## The tools\n"

// written is page with text in place of its table.
func written(page, text string) (string, error) {
	prose, _, found := strings.Cut(page, marker)
	if !found {
		return "", errors.New("no heading " + strings.TrimSpace(marker))
	}
	return prose + marker + "\n" + text, nil
}

// document is the table.
func document(table []tool, results map[string]string) string {
	var b strings.Builder
	b.WriteString("| tool | what it did | trusts the CA by | result | to know |\n| --- | --- | --- | --- | --- |\n")
	for _, tool := range table {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", tool.name, tool.does, tool.ca, results[tool.name], tool.note)
	}
	return b.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

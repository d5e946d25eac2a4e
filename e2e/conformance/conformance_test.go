// Package conformance holds the gateway against a table of what HTTP clients
// and servers rely on: one row per behaviour, in each pairing of HTTP versions
// towards the agent and the upstream. Rows run on the gateway's real data path
// inside the test; real programs follow in the lab.
//
// The table is docs/http.md. After a change of the rows:
//
//	go test ./e2e/conformance -run Conformance -args -update
package conformance

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/http.md")

// row is one behaviour.
type row struct {
	group, name string
	run         func(p *pair)
	na          func(agentH2, upstreamH2 bool) string // why it cannot be; "" and nil: it can
}

// Why a row is not there in a pairing.
const (
	noUpgrade   = "HTTP/2 has no Upgrade, and extended CONNECT (RFC 8441) is not offered"
	noUpgradeUp = "the upstream speaks HTTP/2 only, where Upgrade does not exist"
	onlyHTTP1   = "a matter of HTTP/1.x"
	onlyHTTP2   = "a matter of HTTP/2"
	grpcIsH2    = "gRPC is defined over HTTP/2 only"
)

func agent1Only(agentH2, _ bool) string { return when(agentH2, onlyHTTP1) }
func agent2Only(agentH2, _ bool) string { return when(!agentH2, onlyHTTP2) }

func upstream1Only(_, upstreamH2 bool) string { return when(upstreamH2, onlyHTTP1) }
func upstream2Only(_, upstreamH2 bool) string { return when(!upstreamH2, onlyHTTP2) }

func when(b bool, reason string) string {
	if b {
		return reason
	}
	return ""
}

func rows() []row {
	return slices.Concat(grpcRows(), streamRows(), webSocketRows(), headRows(), fieldRows(), targetRows(), connectionRows(), faultRows())
}

var pairings = []struct {
	name                string
	agentH2, upstreamH2 bool
}{
	{"h1-h1", false, false}, {"h1-h2", false, true}, {"h2-h1", true, false}, {"h2-h2", true, true},
}

func TestConformance(t *testing.T) {
	table := rows()
	results := make(map[string][]string) // by row: one cell per pairing
	t.Run("rows", func(t *testing.T) {
		w := newWorld(t)
		for i, r := range table {
			t.Run(strings.ReplaceAll(r.group+"/"+r.name, " ", "_"), func(t *testing.T) {
				for j, pairing := range pairings {
					if r.na != nil {
						if reason := r.na(pairing.agentH2, pairing.upstreamH2); reason != "" {
							results[r.name] = append(results[r.name], "n/a: "+reason)
							continue
						}
					}
					ok := t.Run(pairing.name, func(t *testing.T) {
						p := &pair{T: t, world: w, agentH2: pairing.agentH2, upstreamH2: pairing.upstreamH2}
						p.id = w.Approve(fmt.Sprintf("row%d-%d", i, j), "ci")
						r.run(p)
					})
					results[r.name] = append(results[r.name], map[bool]string{true: "pass", false: "FAIL"}[ok])
				}
			})
		}
	})
	clients := make(map[string]string)
	t.Run("programs", func(t *testing.T) { runPrograms(t, clients) })

	text := document(table, results, clients)
	t.Log("\n" + text)
	if strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		t.Log("only some rows ran: docs/http.md is not compared")
		return
	}
	doc := filepath.Join("..", "..", "docs", "http.md")
	have, err := os.ReadFile(doc)
	must(t, err)
	want, err := written(string(have), text)
	must(t, err)
	if *update {
		must(t, os.WriteFile(doc, []byte(want), 0o644))
		return
	}
	if string(have) != want {
		t.Errorf("%s is stale: go test ./e2e/conformance -run Conformance -args -update", doc)
	}
}

// marker is the heading of docs/http.md with which the tables begin.
const marker = "\n### gRPC\n"

// written is page with text in place of its tables.
func written(page, text string) (string, error) {
	prose, _, found := strings.Cut(page, marker)
	if !found {
		return "", fmt.Errorf("no heading %q", strings.TrimSpace(marker))
	}
	return prose + "\n" + text, nil
}

// document is the tables, the rest of the page from marker on.
func document(table []row, results map[string][]string, clients map[string]string) string {
	var b strings.Builder
	var reasons []string
	group := ""
	for _, r := range table {
		if r.group != group {
			group = r.group
			fmt.Fprintf(&b, "### %s\n\n| behaviour | agent h1, upstream h1 | agent h1, upstream h2 | agent h2, upstream h1 | agent h2, upstream h2 |\n| --- | --- | --- | --- | --- |\n", group)
		}
		fmt.Fprintf(&b, "| %s |", r.name)
		for _, cell := range results[r.name] {
			if reason, ok := strings.CutPrefix(cell, "n/a: "); ok {
				n := slices.Index(reasons, reason)
				if n < 0 {
					n = len(reasons)
					reasons = append(reasons, reason)
				}
				cell = fmt.Sprintf("n/a (%d)", n+1)
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		b.WriteString("\n")
		if next := slices.IndexFunc(table, func(o row) bool { return o.name == r.name }); next == len(table)-1 || table[next+1].group != group {
			b.WriteString("\n")
		}
	}
	b.WriteString("Not applicable:\n\n")
	for i, reason := range reasons {
		fmt.Fprintf(&b, "%d. %s\n", i+1, reason)
	}
	b.WriteString("\n### Real programs, on an agent host behind a real tunnel\n\n| program | result |\n| --- | --- |\n")
	for _, c := range programs() {
		fmt.Fprintf(&b, "| %s | %s |\n", c.name, clients[c.name])
	}
	return b.String()
}

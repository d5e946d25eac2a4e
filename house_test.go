// The test of the house: which room may import which. See docs/architecture.md.
package clawpatrol_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/clawpatrol/clawpatrol"

// mayImport lists, for each room, the rooms of ours that it may import. A room
// that is not listed fails the test: a new room states its place here first.
var mayImport = map[string][]string{
	// Leaves.
	"secret":    {},
	"enrolment": {"secret"},
	"proxy/ca":  {"secret"},
	"listener":  {},
	"datagrams": {},

	"policy":                       {"secret"},
	"registry":                     {"secret"},
	"proxy/wireguard":              {"datagrams", "secret"},
	"proxy/egress":                 {},
	"proxy/dns":                    {"policy", "registry"},
	"proxy":                        {"policy", "registry", "secret", "proxy/dns", "proxy/egress", "proxy/wireguard"},
	"protocols":                    {"policy", "proxy/ca", "proxy/egress"},
	"protocols/ssh":                {"policy", "registry", "secret", "protocols", "protocols/ssh/sftp", "protocols/ssh/recording", "proxy", "proxy/ca", "proxy/egress"},
	"protocols/ssh/sftp":           {},
	"protocols/ssh/recording":      {"secret"},
	"protocols/postgres":           {"policy", "registry", "secret", "protocols", "protocols/postgres/statement", "proxy", "proxy/ca", "proxy/egress"},
	"protocols/postgres/statement": {},
	"protocols/https":              {"policy", "registry", "secret", "protocols", "proxy", "proxy/ca", "proxy/egress"},
	"enrolment/public":             {"enrolment", "enrolment/invites", "listener", "policy", "registry", "secret"},

	// Who makes invites, and the two ways to ask for them.
	"enrolment/invites": {"enrolment", "policy", "registry", "secret"},
	"control":           {},

	// An approval is a row: a bug in a page cannot touch a live connection.
	// Recordings are files.
	"dashboard":          {"dashboard/openapi", "dashboard/terminal", "dashboard/webhook", "enrolment/invites", "listener", "policy", "protocols/ssh/recording", "registry", "secret"},
	"dashboard/openapi":  {},
	"dashboard/terminal": {},
	"dashboard/webhook":  {"registry", "secret"},

	// What runs on an agent host knows the protocol and nothing of the gateway.
	"agent":         {"datagrams", "enrolment", "secret"},
	"agent/sandbox": {"agent"},
}

// anything is for what assembles or tests the whole.
var anything = []string{"cmd/", "e2e", "proxy/proxytest"}

func TestHouse_ImportsGoOneWay(t *testing.T) {
	seen := 0
	for _, pkg := range listPackages(t) {
		room := strings.TrimPrefix(strings.TrimPrefix(pkg.ImportPath, module), "/")
		if room == "" || slices.ContainsFunc(anything, func(p string) bool { return strings.HasPrefix(room, p) }) {
			continue
		}
		allowed, known := mayImport[room]
		if !known {
			t.Errorf("room %q has no place in mayImport", room)
			continue
		}
		seen++
		for _, imp := range pkg.Imports {
			target, ours := strings.CutPrefix(imp, module+"/")
			if ours && !slices.Contains(allowed, target) {
				t.Errorf("%s imports %s: it may import only %v of ours", room, target, allowed)
			}
		}
	}
	if seen < len(mayImport) {
		t.Errorf("%d of the %d rooms in mayImport exist", seen, len(mayImport))
	}
}

type listedPackage struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []listedPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listedPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("reading go list: %v", err)
		}
		p.ImportPath = path.Clean(p.ImportPath)
		pkgs = append(pkgs, p)
	}
}

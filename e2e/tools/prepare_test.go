package tools

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// python is Debian's: that of its packages.
const python = "/usr/bin/python3"

var (
	pythonModules  = []string{"requests", "httpx", "h2", "websockets", "httplib2", "grpc", "ensurepip"}
	pythonPackages = []string{"python3-requests", "python3-httpx", "python3-h2", "python3-websockets", "python3-httplib2", "python3-grpcio", "python3-venv"}

	// nodePackages are exact, so that the cache knows when it is stale.
	nodePackages = []string{"ws@8.23.0", "openai@6.49.0", "@anthropic-ai/sdk@1.11.0", "@grpc/grpc-js@1.14.7"}
)

// grpcurl is built from its source: Debian has no package of it.
const grpcurl = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"

// cache keeps what came from npm's registry, and grpcurl. The agent's user reads it, so it is
// no directory of root's own.
const cache = "/var/cache/clawpatrol-e2e"

// prepared is what the tools need and Debian's packages do not have.
type prepared struct {
	node   string // a directory with a node_modules of nodePackages
	tools  string // a directory of Go programs: testdata/fetch and grpcurl
	goRoot string // of the Go toolchain
}

// prepare installs all of it, on this machine and not in the lab: the lab's
// world has no registries. What cannot be had is a failure.
func prepare(ctx context.Context, t *testing.T) prepared {
	t.Helper()
	if exec.CommandContext(ctx, python, "-c", "import "+strings.Join(pythonModules, ", ")).Run() != nil {
		output(t, exec.CommandContext(ctx, "sh", append([]string{"../peers.sh"}, pythonPackages...)...))
	}
	p := prepared{node: cached("node", nodePackages...), tools: cached("go", grpcurl)}
	must(t, os.MkdirAll(cache, 0o755))
	if _, err := os.Stat(p.node); err != nil {
		half, err := os.MkdirTemp(cache, "half-")
		must(t, err)
		must(t, os.Chmod(half, 0o755))
		output(t, exec.CommandContext(ctx, "npm", append([]string{"install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefix", half}, nodePackages...)...))
		must(t, os.Rename(half, p.node))
	}
	if _, err := os.Stat(filepath.Join(p.tools, "grpcurl")); err != nil {
		install := exec.CommandContext(ctx, "go", "install", grpcurl)
		install.Env = append(os.Environ(), "GOBIN="+p.tools)
		output(t, install)
	}
	output(t, exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(p.tools, "fetch"), "./testdata/fetch"))
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	must(t, err)
	p.goRoot = strings.TrimSpace(string(root))
	return p
}

// cached names the directory that holds exactly these.
func cached(kind string, contents ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(contents, " ")))
	return filepath.Join(cache, kind+"-"+hex.EncodeToString(sum[:6]))
}

func output(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out))
	}
}

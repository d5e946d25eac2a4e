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

// cache keeps what came from npm's registry. The agent's user reads it, so it is
// no directory of root's own.
const cache = "/var/cache/clawpatrol-e2e"

// prepared is what the tools need and Debian's packages do not have.
type prepared struct {
	node  string // a directory with a node_modules of nodePackages
	fetch string // testdata/fetch, built
}

// prepare installs all of it, on this machine and not in the lab: the lab's
// world has no registries. What cannot be had is a failure.
func prepare(ctx context.Context, t *testing.T) prepared {
	t.Helper()
	if exec.CommandContext(ctx, python, "-c", "import "+strings.Join(pythonModules, ", ")).Run() != nil {
		output(t, exec.CommandContext(ctx, "sh", append([]string{"../peers.sh"}, pythonPackages...)...))
	}
	sum := sha256.Sum256([]byte(strings.Join(nodePackages, " ")))
	p := prepared{
		node:  filepath.Join(cache, "node-"+hex.EncodeToString(sum[:6])),
		fetch: filepath.Join(t.TempDir(), "fetch"),
	}
	if _, err := os.Stat(p.node); err != nil {
		must(t, os.MkdirAll(cache, 0o755))
		half, err := os.MkdirTemp(cache, "half-")
		must(t, err)
		must(t, os.Chmod(half, 0o755))
		npm := exec.CommandContext(ctx, "npm", append([]string{"install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefix", half}, nodePackages...)...)
		output(t, npm)
		must(t, os.Rename(half, p.node))
	}
	output(t, exec.CommandContext(ctx, "go", "build", "-o", p.fetch, "./testdata/fetch"))
	return p
}

func output(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out))
	}
}

package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// python is Debian's: that of its packages.
const python = "/usr/bin/python3"

// nodePackages are exact, so that the cache knows when it is stale.
var nodePackages = []string{"pg@8.23.1", "pg-query-stream@4.17.0"}

// cache keeps what came from the network. The agent's user reads it, so it is no
// directory of root's own.
const cache = "/var/cache/clawpatrol-e2e"

// prepared is what the tests need besides Debian's programs.
type prepared struct {
	programs string // PostgreSQL's own
	node     string // a directory with a node_modules of nodePackages
	drivers  string // a directory with the programs of testdata/drivers
	regress  string // PostgreSQL's own regression tests: sql/ and data/
}

// prepare installs all of it, on this machine and not in the lab: the lab's world
// has no registries. What cannot be had is a failure.
func prepare(ctx context.Context) (p prepared, err error) {
	packages := []string{"pg_createcluster=postgresql", "node=nodejs", "npm", "script=bsdutils", "bzip2"}
	for module, name := range map[string]string{"psycopg2": "python3-psycopg2", "psycopg": "python3-psycopg"} {
		if exec.CommandContext(ctx, python, "-c", "import "+module).Run() != nil {
			packages = append(packages, name)
		}
	}
	if err := command(ctx, "sh", append([]string{"../peers.sh"}, packages...)...); err != nil {
		return p, err
	}
	if p.programs, err = lab.PostgresPrograms(); err != nil {
		return p, err
	}
	p.node, err = cached("node", nodePackages, func(dir string) error {
		return command(ctx, "npm", append([]string{"install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefix", dir}, nodePackages...)...)
	})
	if err != nil {
		return p, err
	}
	if p.regress, err = regressionTests(ctx); err != nil {
		return p, err
	}
	p.drivers = filepath.Join(cache, "postgres-drivers")
	build := exec.CommandContext(ctx, "go", "build", "-o", p.drivers+"/", "./...") // a module of its own
	build.Dir = filepath.Join("testdata", "drivers")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	return p, output(build)
}

// regressionTests are PostgreSQL's own, of its Debian source package: of the
// version that is installed, where there still is one. They come from where this
// machine's packages come from; APT's own lists stay as they are.
func regressionTests(ctx context.Context) (string, error) {
	const find = `dpkg-query -W -f '${source:Package} ${source:Version}' "$(dpkg-query -S /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1 | cut -d: -f1)"`
	out, err := exec.CommandContext(ctx, "sh", "-c", find).Output()
	if err != nil {
		return "", fmt.Errorf("finding PostgreSQL's source package: %w", err)
	}
	source, version, _ := strings.Cut(string(out), " ")
	return cached("regress", []string{source, version}, func(dir string) error {
		return command(ctx, "sh", "-ec", `
			cd "$1"
			mkdir -p lists/partial archives/partial
			apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | sort -u >sources.list
			apt="apt-get -qq -o Dir::Etc::sourcelist=$1/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$1/lists -o Dir::Cache=$1 -o APT::Sandbox::User=root"
			$apt update || : # not all that have packages have sources
			$apt source --download-only "$2=$3" || $apt source --download-only "$2"
			tar -xf ./*.orig.tar.* --wildcards --strip-components=4 '*/src/test/regress/sql/*' '*/src/test/regress/data/*'
			rm -rf lists archives ./*cache.bin ./*.tar.* ./*.dsc sources.list`, "sh", dir, source, version)
	})
}

// cached returns the directory that holds exactly these, which fill makes where
// it is not there yet.
func cached(kind string, contents []string, fill func(dir string) error) (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(contents, " ")))
	dir := filepath.Join(cache, kind+"-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	half, err := os.MkdirTemp(cache, "half-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(half) // where filling it fails
	if err := os.Chmod(half, 0o755); err != nil {
		return "", err
	}
	if err := fill(half); err != nil {
		return "", err
	}
	return dir, os.Rename(half, dir)
}

func command(ctx context.Context, name string, args ...string) error {
	return output(exec.CommandContext(ctx, name, args...))
}

func output(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

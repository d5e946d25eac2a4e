// Package e2e runs the built binary with real programs in the lab: what an agent
// host is for, and what an operator relies on.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	apiToken    = "ghp_REALsecretOfApiExampleCom0123456789"
	gitPassword = "REALpasswordOfGitExampleCom-24680"

	policyText = `
endpoint "https" "api" {
  hosts   = ["api.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "git" {
  hosts   = ["git.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "tenants" {
  hosts   = ["*.tenants.example.com"]
  ca_file = "lab-ca.pem"
}
credential "bearer" "api_token" {
  endpoint = https.api
  env      = "API_TOKEN"
}
credential "basic" "git" {
  endpoint = https.git
  username = "ci"
}
credential "bearer" "tenants" {
  endpoint = https.tenants
  wildcard = true
}
profile "ci" {
  credentials = [bearer.api_token, basic.git, bearer.tenants]
  default     = true
}
`
)

// The shared world, of the tests that run one after the other. They leave it as
// they found it. What takes long runs beside others, in a world of its own:
// ownWorld.
var (
	shared   *world
	theLab   *lab.Lab
	gateway  *lab.Gateway
	agent    *lab.Joined
	upstream *lab.Upstream
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(worldsAtOnce)); err != nil {
		panic(err)
	}
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	if shared, err = newWorld(ctx); err != nil {
		return 1, err
	}
	theLab, gateway, upstream = shared.lab, shared.gateway, shared.upstream
	defer func() {
		err = errors.Join(err, shared.lab.Close(), closeWorlds())
	}()
	repos, err := serveGit(ctx)
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(repos)
	if agent, err = theLab.Join(ctx, theLab.Agents[0], gateway, "ci"); err != nil {
		return 1, err
	}
	return lab.RunTests(m, func(w io.Writer) {
		fmt.Fprintf(w, "--- the gateway's log:\n%s--- join:\n%s", gateway.Log.Tail(40), agent.Output.Tail(20))
	}), nil
}

// serveGit serves a repository over git's own smart HTTP backend, to whoever
// presents the real password.
func serveGit(ctx context.Context) (dir string, err error) {
	dir, err = os.MkdirTemp("", "clawpatrol-git-")
	if err != nil {
		return "", err
	}
	if err := theLab.World.Script(ctx, "git init -q --bare "+dir+"/project.git && git -C "+dir+"/project.git config http.receivepack true"); err != nil {
		return dir, err
	}
	path, err := theLab.World.Run(ctx, "git", "--exec-path")
	if err != nil {
		return dir, err
	}
	backend := &cgi.Handler{
		Path: strings.TrimSpace(path) + "/git-http-backend",
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"},
	}
	return dir, theLab.ServeHTTPS(ctx, "git.example.com", 5, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "ci" || password != gitPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
}

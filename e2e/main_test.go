// Package e2e runs the built binary with real programs in the lab: what an agent
// host is for, and what an operator relies on.
package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
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

// The shared lab; tests leave it as they found it.
var (
	theLab   *lab.Lab
	gateway  *lab.Gateway
	agent    *lab.Joined
	upstream = new(lab.Upstream)
)

func TestMain(m *testing.M) {
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
	theLab, err = lab.New(ctx, lab.Config{Bin: lab.Binary(), Agents: 3})
	if err != nil {
		return 1, err
	}
	defer func() {
		if cerr := theLab.Close(); err == nil {
			err = cerr
		}
	}()
	for i, name := range []string{"api.example.com", "web.example.org", "one.tenants.example.com"} {
		if err := theLab.ServeHTTPS(ctx, name, i, upstream); err != nil {
			return 1, err
		}
	}
	repos, err := serveGit(ctx)
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(repos)
	gateway, err = theLab.StartGateway(ctx, policyText, map[string]string{"lab-ca.pem": string(theLab.PKI.PEM)})
	if err != nil {
		return 1, err
	}
	for _, c := range [][3]string{{"bearer", "api_token", apiToken}, {"basic", "git", gitPassword}, {"bearer", "tenants", apiToken}} {
		if err := gateway.Operator.SetCredential(ctx, c[0], c[1], c[2]); err != nil {
			return 1, err
		}
	}
	if agent, err = theLab.Join(ctx, theLab.Agents[0], gateway, "ci"); err != nil {
		return 1, err
	}
	code = m.Run()
	if code != 0 {
		log := gateway.Log.String()
		fmt.Fprintf(os.Stderr, "--- the gateway's log:\n%s\n--- join:\n%s\n", log[max(0, len(log)-12000):], agent.Output)
	}
	return code, nil
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

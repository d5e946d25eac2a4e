package tools

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gitBackend serves two empty repositories by git's own smart HTTP backend.
func gitBackend(t *testing.T) http.Handler {
	dir := t.TempDir()
	for _, repository := range []string{"project.git", "octo/project.git"} {
		path := filepath.Join(dir, repository)
		output(t, exec.CommandContext(t.Context(), "git", "init", "-q", "--bare", "--initial-branch=main", path))
		output(t, exec.CommandContext(t.Context(), "git", "-C", path, "config", "http.receivepack", "true"))
	}
	path, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	must(t, err)
	return &cgi.Handler{
		Path: strings.TrimSpace(string(path)) + "/git-http-backend",
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"},
	}
}

// serveGitHub is the part of GitHub's API that the tools below use.
func serveGitHub(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Oauth-Scopes", "repo, read:org, gist")
	switch r.Method + " " + r.URL.Path {
	case "GET /":
		fmt.Fprint(w, `{"current_user_url":"https://api.github.com/user"}`)
	case "GET /user":
		fmt.Fprint(w, `{"login":"octo"}`)
	case "POST /graphql":
		fmt.Fprint(w, `{"data":{"viewer":{"login":"octo"},"repository":{"issues":{"totalCount":2}}}}`)
	default:
		http.NotFound(w, r)
	}
}

func forgeTools() []tool {
	const commit = `
git config --global user.email agent@example.com
git config --global user.name agent
git config --global init.defaultBranch main
`
	return []tool{
		{
			name: "git", host: gitHost, ca: byEnv,
			does: "clone, commit, push, clone again over HTTPS; the placeholder as the password in the URL",
			line: commit + `
git clone -q "https://ci:$GIT_TOKEN@git.example.com/project.git" 2>/dev/null
cd project
head -c 3000000 /dev/urandom >blob; git add blob; git commit -qm 'from the agent'
git push -q origin HEAD
cd ..; git clone -q "https://ci:$GIT_TOKEN@git.example.com/project.git" again
git -C again log -1 --format=%s; cmp project/blob again/blob && echo same`,
			want: "from the agent\nsame",
		},
		{
			name: "gh", host: githubAPIHost, ca: byEnv,
			does: "`gh auth status`, REST and GraphQL calls, with `GH_TOKEN` from `env`",
			line: `
gh auth status 2>&1 | grep -o 'Logged in to github.com as octo (GH_TOKEN)'
gh api user --jq .login
gh api graphql -f query='query { repository(owner: "octo", name: "project") { issues { totalCount } } }' --jq .data.repository.issues.totalCount`,
			want: "Logged in to github.com as octo (GH_TOKEN)\nocto\n2",
		},
		{
			name: "git by gh", host: githubHost, ca: byEnv,
			does: "push to and clone from `github.com`, gh as git's credential helper",
			line: commit + `
git config --global credential.https://github.com.helper '!gh auth git-credential'
git init -q tool; cd tool
git commit -q --allow-empty -m 'by gh'
git push -q --force https://github.com/octo/project.git HEAD
git clone -q https://github.com/octo/project.git ../cloned
git -C ../cloned log --format=%s`,
			want: "by gh",
			note: "`github.com` is an endpoint of its own, with a `basic` credential for `x-access-token`",
		},
	}
}

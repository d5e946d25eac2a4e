package tools

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/clawpatrol/clawpatrol/e2e/grpcecho"
)

// Hosts of the services. Those that a tool has built in are the real names.
const (
	apiHost       = "api.example.com"
	grpcHost      = "grpc.example.com"
	openAIHost    = "api.openai.com"
	anthropicHost = "api.anthropic.com"
	gitHost       = "git.example.com"
	githubAPIHost = "api.github.com"
	githubHost    = "github.com"
	pypiHost      = "pypi.example.com"
	npmHost       = "npm.example.com"
	debHost       = "deb.example.com"
	modulesHost   = "modules.example.com"
	registryHost  = "registry.example.com"
)

// services are all of them. The placeholders are those that
// docs/configuration.md gives.
func services(t *testing.T) []*service {
	ci := fmt.Sprintf("username = %q\n", basicUser)
	git := gitBackend(t)
	return []*service{
		{host: apiHost, credential: "bearer", env: "API_TOKEN", secret: "tok_REALsecretOfTheApi0123456789", handler: new(api)},
		{host: grpcHost, credential: "bearer", env: "GRPC_TOKEN", secret: "tok_REALsecretOfTheGrpcService01234", handler: grpcecho.NewServer()},
		{host: openAIHost, credential: "bearer", env: "OPENAI_API_KEY", placeholder: "sk-clawpatrol000000000000000000000000000000000000",
			secret: "sk-proj-REALkeyOfOpenAI0123456789abcdefghijkl", handler: http.HandlerFunc(serveOpenAI)},
		{host: anthropicHost, credential: "x-api-key", env: "ANTHROPIC_API_KEY", placeholder: "sk-ant-api03-clawpatrol",
			secret: "sk-ant-api03-REALkeyOfAnthropic0123456789", handler: http.HandlerFunc(serveAnthropic)},
		{host: gitHost, credential: "basic", attributes: ci, env: "GIT_TOKEN", secret: "REALpasswordOfGit-13579", handler: git},
		{host: githubAPIHost, credential: "bearer", env: "GH_TOKEN", placeholder: "ghp_clawpatrol00000000000000000000000000",
			secret: "ghp_REALtokenOfGitHub01234567890123456789", handler: http.HandlerFunc(serveGitHub)},
		{host: githubHost, credential: "basic", attributes: "username = \"x-access-token\"\n", secret: "github_pat_11REAL_tokenOfGitHub0123456789", handler: git},
		{host: pypiHost, credential: "basic", attributes: ci, env: "PYPI_PASSWORD", secret: "REALpasswordOfPypi-24680", handler: pythonIndex(t)},
		{host: npmHost, credential: "bearer", env: "NPM_TOKEN", placeholder: "npm_clawpatrol00000000000000000000000000",
			secret: "npm_REALtokenOfTheRegistry012345678901234", handler: npmRegistry(t)},
		{host: debHost, credential: "basic", attributes: ci, env: "DEB_PASSWORD", secret: "REALpasswordOfDebian-11223", handler: debianRepository(t)},
		{host: modulesHost, credential: "basic", attributes: ci, env: "MODULES_PASSWORD", secret: "REALpasswordOfModules-33445", handler: moduleProxy(t)},
		{host: registryHost, credential: "basic", attributes: ci, env: "REGISTRY_PASSWORD", secret: "REALpasswordOfImages-55667", handler: imageRegistry(t)},
	}
}

// files serves a tree from memory: what package managers download.
type files map[string][]byte // by path

func (f files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, ok := f[r.URL.EscapedPath()]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(content) // the asker may be gone
}

// api is a web API with a page for the browser.
type api struct {
	mu   sync.Mutex
	done chan struct{} // closed when the page on its way has reported
}

// page reports what it could do in its text, and is loaded when it has: the
// image is held back until then.
const page = `<!doctype html><title>page</title><p id="out"></p><img src="/held" alt="">
<script>
const out = document.getElementById("out"), report = () => fetch("/report", { method: "POST" });
(async () => {
  out.textContent += "fetch: " + await (await fetch("/auth")).text();
  const ws = new WebSocket("wss://` + apiHost + `/ws");
  ws.onopen = () => ws.send("hello");
  ws.onerror = report;
  ws.onmessage = m => { out.textContent += ", websocket: " + m.data; report(); };
})().catch(report);
</script>`

// pagePatience bounds how long a page that never reports is waited for.
const pagePatience = 30 * time.Second

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/auth":
		fmt.Fprint(w, "authenticated")
	case "/count":
		n, _ := io.Copy(io.Discard, r.Body) // n tells
		fmt.Fprint(w, n)
	case "/download":
		w.Header().Set("Content-Disposition", `attachment; filename="report.csv"`)
		fmt.Fprint(w, "a,b\n1,2\n")
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush() // the asker may be gone
		}
	case "/ws":
		echoWebSocket(w, r)
	case "/page":
		a.mu.Lock()
		a.done = make(chan struct{})
		a.mu.Unlock()
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, page)
	case "/report":
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.done != nil {
			close(a.done)
			a.done = nil
		}
	case "/held":
		a.mu.Lock()
		done := a.done
		a.mu.Unlock()
		select {
		case <-done:
		case <-r.Context().Done():
		case <-time.After(pagePatience):
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, r)
	}
}

func echoWebSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	for {
		kind, text, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, text) != nil {
			return
		}
	}
}

package tools

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// service is a web service of the world, and the credential for it.
type service struct {
	host        string
	credential  string // type: bearer, basic or header
	attributes  string // of the credential, in the policy
	placeholder string // in the form that its tools expect; "": the default
	env         string
	secret      string
	handler     http.Handler

	authenticated atomic.Int64 // requests that had the secret
}

// basicUser is the user name of every basic credential but GitHub's.
const basicUser = "ci"

// has tells whether the request presents the real secret, in its one place.
func (s *service) has(r *http.Request) bool {
	switch s.credential {
	case "bearer":
		return r.Header.Get("Authorization") == "Bearer "+s.secret
	case "basic":
		_, password, _ := r.BasicAuth()
		return password == s.secret
	default:
		return r.Header.Get(s.credential) == s.secret
	}
}

// world is a lab with all services and a joined agent host.
type world struct {
	lab      *lab.Lab
	gateway  *lab.Gateway
	agent    *lab.Joined
	services map[string]*service // by host
	refused  atomic.Int64        // requests without the secret
}

// agentUser runs the tools. /home is not the host's own in the lab.
const (
	agentUser = "agent"
	agentHome = "/var/home/agent"
)

func newWorld(t *testing.T) *world {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	prepared := prepare(ctx, t)
	w := &world{services: make(map[string]*service)}
	var err error
	w.lab, err = lab.New(ctx, lab.Config{Bin: lab.Binary()})
	must(t, err)
	t.Cleanup(func() {
		if err := w.lab.Close(); err != nil {
			t.Error(err)
		}
	})

	var policy, credentials strings.Builder
	for i, s := range services(t) {
		w.services[s.host] = s
		must(t, w.lab.ServeHTTPS(ctx, s.host, i, w.authenticated(s)))
		name := strings.ReplaceAll(s.host, ".", "_")
		typ, attributes := s.credential, s.attributes
		if typ != "bearer" && typ != "basic" {
			typ, attributes = "header", fmt.Sprintf("header = %q\n", s.credential)
		}
		if s.env != "" {
			attributes += fmt.Sprintf("env = %q\n", s.env)
		}
		if s.placeholder != "" {
			attributes += fmt.Sprintf("placeholder = %q\n", s.placeholder)
		}
		fmt.Fprintf(&policy, "endpoint \"https\" %q {\nhosts = [%q]\nca_file = \"lab-ca.pem\"\n}\n", name, s.host)
		fmt.Fprintf(&policy, "credential %q %q {\nendpoint = https.%s\n%s}\n", typ, name, name, attributes)
		fmt.Fprintf(&credentials, "%s.%s, ", typ, name)
	}
	fmt.Fprintf(&policy, "profile \"ci\" { credentials = [%s] }\n", strings.TrimSuffix(credentials.String(), ", "))
	w.gateway, err = w.lab.StartGateway(ctx, policy.String(), map[string]string{"lab-ca.pem": string(w.lab.PKI.PEM)})
	must(t, err)
	for _, s := range w.services {
		typ := s.credential
		if typ != "bearer" && typ != "basic" {
			typ = "header"
		}
		must(t, w.gateway.Operator.SetCredential(ctx, typ, strings.ReplaceAll(s.host, ".", "_"), s.secret))
	}
	w.agent, err = w.lab.Join(ctx, w.lab.Agents[0], w.gateway, "ci")
	must(t, err)
	must(t, w.agent.Script(ctx, fmt.Sprintf(`
		mkdir -p /var/home
		useradd --create-home --home-dir %[1]s --shell /bin/sh %[2]s
		ln -s %[3]s/node_modules %[1]s/node_modules
		ln -sf %[4]s/fetch %[4]s/grpcurl %[5]s/bin/go /usr/local/bin/`,
		agentHome, agentUser, lab.Quote(prepared.node), lab.Quote(prepared.tools), lab.Quote(prepared.goRoot))))
	return w
}

// authenticated serves those who present the secret.
func (w *world) authenticated(s *service) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !s.has(r) {
			w.refused.Add(1)
			rw.Header().Set("WWW-Authenticate", `Basic realm="`+s.host+`"`)
			http.Error(rw, "401 "+r.URL.Path, http.StatusUnauthorized)
			return
		}
		s.authenticated.Add(1)
		s.handler.ServeHTTP(rw, r)
	})
}

// asAgent runs lines as the agent's user would after logging in.
func (w *world) asAgent(ctx context.Context, line string) (stdout, stderr string, err error) {
	return w.run(ctx, agentHome, line, "setpriv", "--reuid="+agentUser, "--regid="+agentUser, "--init-groups")
}

// asRoot is asAgent for what only root may do.
func (w *world) asRoot(ctx context.Context, line string) (stdout, stderr string, err error) {
	return w.run(ctx, "/root", line)
}

func (w *world) run(ctx context.Context, home, line string, as ...string) (string, string, error) {
	args := append([]string{"env", "-i", "--chdir=" + home, "HOME=" + home, "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, as...)
	cmd := w.agent.Command(ctx, append(args, "sh", "-ec", `eval "$(clawpatrol env)"`+"\n"+line)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return stdout.String(), stderr.String(), err
}

// search looks for the secrets wherever the agent's user or an operator's backup
// could find them.
func (w *world) search(t *testing.T) {
	anySecret := "! grep -rlasF"
	for _, s := range w.services {
		for what, text := range map[string]string{"the gateway's log": w.gateway.Log.String(), "join's output": w.agent.Output.String()} {
			if strings.Contains(text, s.secret) {
				t.Errorf("the secret of %s is in %s", s.host, what)
			}
		}
		anySecret += " -e " + lab.Quote(s.secret)
	}
	for _, place := range []struct {
		host *lab.Host
		dirs string
	}{
		{w.agent.Host, agentHome + " /etc/apt /var/lib/apt /var/lib/clawpatrol-agent /var/log /run"},
		{w.lab.Gateway, "/etc/clawpatrol /var/lib/clawpatrol"},
	} {
		if out, err := place.host.Run(t.Context(), "sh", "-c", anySecret+" "+place.dirs); err != nil {
			t.Errorf("a secret is at rest on %s: %s%v", place.host.Name, out, err)
		}
	}
}

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
	prepared prepared
	home     string // of agentUser
}

// agentUser runs the tools. /home is not the host's own in the lab, and so the
// user's is below homes.
const (
	agentUser = "agent"
	homes     = "/var/home"
)

func newWorld(t *testing.T) *world {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	w := &world{services: make(map[string]*service), prepared: prepare(ctx, t)}
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
		useradd --no-create-home --shell /bin/sh %s
		ln -sf %[2]s/fetch %[2]s/grpcurl %[3]s/bin/go /usr/local/bin/`, agentUser, lab.Quote(w.prepared.tools), lab.Quote(w.prepared.goRoot))))
	w.home = w.newHome(ctx, t, "agent")
	return w
}

// newHome makes a home directory for agentUser, with nothing in it but the
// packages for Node.
func (w *world) newHome(ctx context.Context, t *testing.T, name string) string {
	t.Helper()
	home := homes + "/" + name
	must(t, w.agent.Script(ctx, fmt.Sprintf(`
		mkdir -p %[1]s
		ln -s %[2]s/node_modules %[1]s/
		chown %[3]s %[1]s`, home, lab.Quote(w.prepared.node), agentUser)))
	return home
}

// forgetCA takes the gateway's CA out of the agent host's store, as on a
// distribution whose store join does not know, and returns an empty home.
func (w *world) forgetCA(t *testing.T) (home string) {
	must(t, w.agent.Script(t.Context(), `
		rm /usr/local/share/ca-certificates/clawpatrol.crt
		update-ca-certificates --fresh --hooksdir /nonexistent >/dev/null 2>&1
		! env -i curl -sS https://api.example.com/ 2>/dev/null`))
	return w.newHome(t.Context(), t, "alone")
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
func (w *world) asAgent(ctx context.Context, home, line string) (stdout, stderr string, err error) {
	return w.run(ctx, home, line, "setpriv", "--reuid="+agentUser, "--regid="+agentUser, "--init-groups")
}

// asRoot is asAgent for what only root may do.
func (w *world) asRoot(ctx context.Context, home, line string) (stdout, stderr string, err error) {
	return w.run(ctx, home, line)
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
	anySecret := "grep -rlasF"
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
		{w.agent.Host, homes + " /etc/apt /var/lib/apt /var/lib/clawpatrol-agent /var/log /run"},
		{w.lab.Gateway, "/etc/clawpatrol /var/lib/clawpatrol"},
	} {
		if out, err := place.host.Run(t.Context(), "sh", "-c", anySecret+" "+place.dirs+" || :"); err != nil || out != "" { // grep's status says less: 2 also where it found some
			t.Errorf("a secret is at rest on %s: %s%v", place.host.Name, out, err)
		}
	}
}

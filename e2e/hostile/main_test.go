// Package hostile tries to break the invariants of the design from outside, as
// the attacker: root on an agent host, with real programs, against the built
// gateway. There is a file for each invariant, named after it.
package hostile

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// Two agents that must not get at each other's credentials: ci has the token of
// api.example.com, ops the key of ops.example.com.
const (
	apiToken = "ghp_REALsecretOfApiExampleCom0123456789"
	opsKey   = "opskey-REALsecretOfOpsExampleCom-987654"

	policyText = `
endpoint "https" "api" {
  hosts   = ["api.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "ops" {
  hosts   = ["ops.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "unset" {
  hosts   = ["unset.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "impostor" {
  hosts   = ["impostor.example.com"]
  ca_file = "lab-ca.pem"
}
credential "bearer" "api_token" {
  endpoint = https.api
  env      = "API_TOKEN"
}
credential "header" "ops_key" {
  endpoint = https.ops
  header   = "X-Api-Key"
}
credential "bearer" "never_stored" { endpoint = https.unset }
credential "bearer" "impostor" { endpoint = https.impostor }
profile "ci" { credentials = [bearer.api_token, bearer.never_stored, bearer.impostor, bearer.target, bearer.wild, bearer.shared_ci] }
profile "ops" { credentials = [header.ops_key, bearer.shared_ops] }
` + targetPolicy
)

// The shared lab. Tests leave it as they found it; what would not, makes a lab
// of its own. What mostly waits, and measures nothing, is parallel: it runs once
// the others are through.
var (
	theLab   *lab.Lab
	gateway  *lab.Gateway
	ci, ops  *lab.Joined
	upstream = new(lab.Upstream)
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/hostile:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
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
	for i, name := range []string{"api.example.com", "ops.example.com", "unset.example.com", "web.example.org"} {
		if err := theLab.ServeHTTPS(ctx, name, i, upstream); err != nil {
			return 1, err
		}
	}
	// Somebody else's certificate, at the impostor's address.
	cert, err := theLab.PKI.Certificate("somebody-else.example.com")
	if err != nil {
		return 1, err
	}
	if err := theLab.ServeHTTPSWith(ctx, "impostor.example.com", 9, upstream, cert); err != nil {
		return 1, err
	}
	if err := serveTargets(ctx); err != nil {
		return 1, err
	}
	gateway, err = theLab.StartGateway(ctx, policyText, map[string]string{"lab-ca.pem": string(theLab.PKI.PEM)})
	if err != nil {
		return 1, err
	}
	op := gateway.Operator
	for _, c := range [][3]string{
		{"bearer", "api_token", apiToken}, {"header", "ops_key", opsKey}, {"bearer", "impostor", apiToken},
		{"bearer", "target", targetToken}, {"bearer", "wild", targetToken}, {"bearer", "shared_ci", targetToken}, {"bearer", "shared_ops", opsToken},
	} {
		if err := op.SetCredential(ctx, c[0], c[1], c[2]); err != nil {
			return 1, err
		}
	}
	var joins errgroup.Group
	joins.Go(func() (err error) { ci, err = theLab.Join(ctx, theLab.Agents[0], gateway, "ci"); return err })
	joins.Go(func() (err error) { ops, err = theLab.Join(ctx, theLab.Agents[1], gateway, "ops"); return err })
	if err := joins.Wait(); err != nil {
		return 1, err
	}
	code = lab.RunTests(m, func(w io.Writer) {
		fmt.Fprintf(w, "--- the gateway's log:\n%s--- join of ci:\n%s", gateway.Log.Tail(40), ci.Output.Tail(20))
	})
	// Whatever the tests did, no secret is anywhere it must not be (I02, I03).
	for _, place := range places() {
		for _, s := range []string{apiToken, opsKey, targetToken, opsToken, gateway.Operator.Password} {
			if strings.Contains(place.content, s) {
				fmt.Fprintf(os.Stderr, "a secret is in plain text in %s\n", place.name)
				code = 1
			}
		}
	}
	return code, nil
}

type place struct{ name, content string }

// places returns all that the gateway and the joins have written.
func places() []place {
	all := []place{
		{"the gateway's log", gateway.Log.String()},
		{"the output of join (ci)", ci.Output.String()},
		{"the output of join (ops)", ops.Output.String()},
	}
	for _, f := range []string{"clawpatrol.db", "clawpatrol.db-wal"} {
		b, err := gateway.StateFile(f)
		if err != nil && !os.IsNotExist(err) {
			panic(err)
		}
		all = append(all, place{f, string(b)})
	}
	return all
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// curl runs curl on the agent host with what `clawpatrol env` exports and
// returns its output: the body, then a line "status S http V".
func curl(t *testing.T, agent *lab.Joined, args ...string) (body, status string) {
	t.Helper()
	body, status, err := tryCurl(t.Context(), agent, args...)
	if err != nil {
		t.Fatal(err)
	}
	return body, status
}

func tryCurl(ctx context.Context, agent *lab.Joined, args ...string) (body, status string, err error) {
	line := "curl -sS --max-time 15 -w '\\n%{http_code}'"
	for _, a := range args {
		line += " " + lab.Quote(a)
	}
	out, err := agent.Shell(ctx, line)
	if err != nil {
		return "", "", err
	}
	i := strings.LastIndexByte(out, '\n')
	return out[:i], out[i+1:], nil
}

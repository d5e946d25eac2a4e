// Command demo shows Claw Patrol at work on one machine: it builds a lab, joins
// an agent host, approves it, and lets real programs there use credentials that
// the agent never holds. What the agent saw is printed beside what the upstream
// saw.
//
// With DEMO_ONCE=1 it runs once and exits 0 only if every step worked;
// otherwise it keeps the lab up, for you to look around, until Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

func main() {
	bin := flag.String("bin", "bin/clawpatrol", "the built clawpatrol")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *bin, os.Getenv("DEMO_ONCE") == "1")
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// leg is one protocol's part of the demo. It is added before the gateway starts
// and run once the agent host is approved.
type leg struct {
	title      string
	policy     string            // appended to gateway.hcl
	files      map[string]string // beside gateway.hcl
	profile    []string          // credential references for the profile "demo"
	credential func(ctx context.Context, op *lab.Operator) error
	show       func(ctx context.Context, agent *lab.Joined) error
}

func run(ctx context.Context, bin string, once bool) (err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 24*time.Hour)
	defer cancel()

	heading("Building a lab: an agent host, a gateway and the world, in network namespaces")
	l, err := lab.New(ctx, lab.Config{Bin: bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()

	web, err := httpsLeg(ctx, l)
	if err != nil {
		return err
	}
	shell, err := sshLeg(ctx, l)
	if err != nil {
		return err
	}
	database, err := postgresLeg(ctx, l)
	if err != nil {
		return err
	}
	legs := []leg{web, shell, database}

	// The dashboard is reached through a port of this machine's loopback. The
	// gateway uses the same number, so that the Host header matches.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()

	heading("Starting the gateway")
	g, err := l.StartGatewayAt(ctx, ln.Addr().String(), hcl(legs), files(legs))
	if err != nil {
		return err
	}
	go g.ForwardDashboard(ln)
	fmt.Printf("  local CA   %s\n  dashboard  http://%s   password: %s\n", g.CAFingerprint, ln.Addr(), g.Operator.Password)

	heading("On the agent host: clawpatrol join")
	agent, err := l.StartJoin(ctx, l.Agents[0], g)
	if err != nil {
		return err
	}
	indent(agent.Output.String())

	heading("In the dashboard: store the secrets, compare the code, approve")
	for _, leg := range legs {
		if err := leg.credential(ctx, g.Operator); err != nil {
			return err
		}
	}
	r, err := g.Operator.Registration(ctx, agent.Registration)
	if err != nil {
		return err
	}
	fmt.Printf("  %s asks from %s with code %s\n", r.Name, r.Pin["ipv4"]+" and "+r.Pin["ipv6"], r.UserCode)
	agent.Output.Mark()
	if err := agent.Approve(ctx, g, "demo"); err != nil {
		return err
	}
	fmt.Println("  approved with the profile \"demo\"")

	for _, leg := range legs {
		heading(leg.title)
		if err := leg.show(ctx, agent); err != nil {
			return err
		}
	}

	heading("The action log")
	actions, err := g.Operator.Actions(ctx)
	if err != nil {
		return err
	}
	for _, a := range actions {
		if a.Endpoint != "" {
			fmt.Printf("  %-6s %-14s %-20s %s -> %s\n", a.Verdict, a.Endpoint, a.Credential, a.Summary, a.Status)
		}
	}

	if once {
		fmt.Println("\nEvery step worked.")
		return nil
	}
	fmt.Printf("\nThe lab stays up: the dashboard is at http://%s (password: %s). Ctrl-C cleans up.\n", ln.Addr(), g.Operator.Password)
	<-ctx.Done()
	return nil
}

func hcl(legs []leg) string {
	var b strings.Builder
	var refs []string
	for _, l := range legs {
		b.WriteString(l.policy)
		refs = append(refs, l.profile...)
	}
	fmt.Fprintf(&b, "profile \"demo\" {\n  credentials = [%s]\n}\n", strings.Join(refs, ", "))
	return b.String()
}

func files(legs []leg) map[string]string {
	all := map[string]string{}
	for _, l := range legs {
		for name, content := range l.files {
			all[name] = content
		}
	}
	return all
}

func heading(s string) { fmt.Printf("\n== %s\n", s) }

func indent(s string) {
	for line := range strings.Lines(strings.TrimRight(s, "\n")) {
		fmt.Print("  ", line)
	}
	fmt.Println()
}

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

func doctorCommand() *cobra.Command {
	var (
		state, probe string
		asJSON       bool
	)
	c := &cobra.Command{
		Use:   "doctor [HOST...]",
		Short: "Find out why something does not work on this host",
		Long: `Check this host's clock, tunnel, routes, IPv6, resolver and trust stores, and run
the tools it has (curl, OpenSSL, Go, Python, Node, git, Java) against a server
with a certificate of the gateway's CA: the gateway, or the first HOST. Each HOST
must be an endpoint host of this registration.

One line per check, exit status 1 if any fails. It changes nothing. Any user may
run it; root is told more.`,
		Example: `  sudo clawpatrol doctor
  clawpatrol doctor api.github.com`,
		RunE: func(c *cobra.Command, args []string) error {
			if probe != "" {
				if len(args) != 1 {
					return fmt.Errorf("--probe takes one host")
				}
				return agent.ProbeTrust(c.Context(), probe, args[0])
			}
			return doctor(c, agent.New(agent.Config{StateDir: state}), args, asJSON)
		},
	}
	jsonFlag(c, &asJSON)
	// What doctor runs to try Go's own verification.
	c.Flags().StringVar(&probe, "probe", "", "only connect to this address, as a Go program does")
	_ = c.Flags().MarkHidden("probe") // it exists
	stateFlag(c, &state)
	return c
}

func doctor(c *cobra.Command, a *agent.Agent, hosts []string, asJSON bool) error {
	checks := []agent.Check{}
	var failed []string
	out := c.OutOrStdout()
	err := a.Doctor(c.Context(), hosts, func(k agent.Check) {
		checks = append(checks, k)
		if k.Result == agent.Fail {
			failed = append(failed, k.Name)
		}
		if !asJSON {
			printCheck(out, k)
		}
	})
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(out, struct {
			OK     bool          `json:"ok"`
			Checks []agent.Check `json:"checks"`
		}{len(failed) == 0, checks}); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return &hinted{fmt.Errorf("%d of %d checks failed: %s", len(failed), len(checks), strings.Join(failed, ", ")), "the first that failed may be why the others did"}
	}
	return nil
}

func printCheck(w io.Writer, k agent.Check) {
	line := fmt.Sprintf("%-5s %s: %s", k.Result, k.Name, k.Detail)
	if k.Hint != "" {
		line += " (hint: " + k.Hint + ")"
	}
	fmt.Fprintln(w, line)
}

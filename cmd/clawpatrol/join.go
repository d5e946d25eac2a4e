package main

import (
	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

func joinCommand() *cobra.Command {
	var (
		req    agent.JoinRequest
		state  string
		asJSON bool
		forRun bool
	)
	c := &cobra.Command{
		Use:   "join URL [--ca-fingerprint sha256:HEX]",
		Short: "Send this host's traffic through a gateway",
		Long: `Enrol this host with the gateway at URL, bring the tunnel up, wait until an
operator approves, install the gateway's CA, and hold the tunnel until stopped.

The gateway has to prove its identity before anything is sent to it: with the
CA's fingerprint, which it prints as it starts, or with a publicly trusted
certificate. Run again on an enrolled host, join resumes. It needs root.

What it changes on this host, leave undoes.`,
		Example: `  sudo clawpatrol join https://gw.example.com:8443 --ca-fingerprint sha256:3b1f…
  eval "$(clawpatrol env)"`,
		Args: arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := holding(c.Context())
			defer stop()
			req.URL = args[0]
			if forRun {
				return joinForRun(ctx, c, state, asJSON, req)
			}
			return agent.New(agent.Config{StateDir: state, Out: c.OutOrStdout(), JSON: asJSON}).Join(ctx, req)
		},
	}
	f := c.Flags()
	f.StringVar(&req.CAFingerprint, "ca-fingerprint", "", "sha256:HEX of the gateway's CA certificate; without it the certificate must be publicly trusted")
	f.StringVar(&req.Name, "name", "", "the name an operator sees (default: this host's)")
	f.BoolVar(&req.Service, "service", false, "once approved, leave the tunnel to systemd")
	f.BoolVar(&forRun, "no-tunnel", false, "enrol for clawpatrol run only: without root, below $XDG_STATE_HOME")
	jsonFlag(c, &asJSON)
	stateFlag(c, &state)
	return c
}

// stateFlag is every agent host command's.
func stateFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "state", agent.DefaultStateDir, "where this host keeps its registration")
}

package main

import (
	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

func leaveCommand() *cobra.Command {
	var (
		state  string
		asJSON bool
		forRun bool
	)
	c := &cobra.Command{
		Use:   "leave",
		Short: "Undo everything that join changed on this host",
		Long: `Take the tunnel down, take the gateway's CA out of the trust store, and forget
the enrolment. The gateway keeps its row until an operator revokes it. It needs
root, but for what this user has enrolled with join --no-tunnel.`,
		Example: `  sudo clawpatrol leave
  clawpatrol leave --no-tunnel`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if forRun {
				return leaveForRun(c.Context(), c, state, asJSON)
			}
			return agent.New(agent.Config{StateDir: state, Out: c.OutOrStdout(), JSON: asJSON}).Leave(c.Context())
		},
	}
	c.Flags().BoolVar(&forRun, "no-tunnel", false, "forget what join --no-tunnel has enrolled")
	jsonFlag(c, &asJSON)
	stateFlag(c, &state)
	return c
}

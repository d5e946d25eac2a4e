package main

import (
	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

func leaveCommand() *cobra.Command {
	var state string
	c := &cobra.Command{
		Use:   "leave",
		Short: "Undo everything that join changed on this host",
		Long: `Take the tunnel down, take the gateway's CA out of the trust store, and forget
the enrolment. The gateway keeps its row until an operator revokes it. It needs
root.`,
		Example: `  sudo clawpatrol leave`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return agent.New(agent.Config{StateDir: state, Out: c.OutOrStdout()}).Leave(c.Context())
		},
	}
	stateFlag(c, &state)
	return c
}

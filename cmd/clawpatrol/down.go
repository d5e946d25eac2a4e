package main

import (
	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

func downCommand() *cobra.Command {
	var (
		state  string
		asJSON bool
	)
	c := &cobra.Command{
		Use:   "down",
		Short: "Take the tunnel down and keep the enrolment",
		Long: `Take this host's tunnel down, in whichever process holds it, and give the host
its own routes and resolver back. Enrolment and CA stay; up brings the tunnel
back. It needs root.`,
		Example: `  sudo clawpatrol down`,
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return agent.New(agent.Config{StateDir: state, Out: c.OutOrStdout(), JSON: asJSON}).Down(c.Context())
		},
	}
	jsonFlag(c, &asJSON)
	stateFlag(c, &state)
	return c
}

package main

import (
	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

func repinCommand() *cobra.Command {
	var (
		state  string
		asJSON bool
	)
	c := &cobra.Command{
		Use:   "repin",
		Short: "Ask an operator to pin this host where it is now",
		Long: `Show the gateway where this host is now, after it has moved to another network
for good. The gateway blocks the registration, and an operator can approve it
again with the new addresses. Where nothing has changed, nothing happens. It
needs root.`,
		Example: `  sudo clawpatrol repin`,
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return agent.New(agent.Config{StateDir: state, Out: c.OutOrStdout(), JSON: asJSON}).Repin(c.Context())
		},
	}
	jsonFlag(c, &asJSON)
	stateFlag(c, &state)
	return c
}

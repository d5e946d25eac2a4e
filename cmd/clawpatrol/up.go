package main

import (
	"github.com/spf13/cobra"
)

func upCommand() *cobra.Command {
	var (
		state  string
		users  string
		asJSON bool
	)
	c := &cobra.Command{
		Use:   "up",
		Short: "Bring an enrolled host's tunnel up and hold it",
		Long: `Bring the tunnel of this enrolled host up and hold it until stopped. While the
gateway does not answer, nothing leaves this host but to its own networks. What
a killed process left behind is repaired. It needs root.`,
		Example: `  sudo clawpatrol up`,
		Args: func(c *cobra.Command, args []string) error {
			if err := arguments(0, 0)(c, args); err != nil {
				return err
			}
			return checkRunUsers(users, state, false)
		},
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := holding(c.Context())
			defer stop()
			a := hostAgent(c, state, asJSON)
			if users != "" {
				if err := a.AllowRuns(users); err != nil {
					return err
				}
			}
			return a.Up(ctx)
		},
	}
	runUsersFlag(c, &users)
	jsonFlag(c, &asJSON)
	stateFlag(c, &state)
	return c
}

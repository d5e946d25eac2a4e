package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

func trustCommand() *cobra.Command {
	var (
		state string
		undo  bool
	)
	c := &cobra.Command{
		Use:   "trust",
		Short: "Make this user's browsers trust the gateway's CA",
		Long: `Add the gateway's CA to the certificate database of the user who runs it, which
Chromium and browsers made from it read. All other tools follow the system's
store and what env prints. It needs certutil, and not root.`,
		Example: `  clawpatrol trust
  clawpatrol trust --undo     # leave does not know of it`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			a := agent.New(agent.Config{StateDir: state})
			change, said := a.TrustBrowsers, "CA trusted by browsers: "
			if undo {
				change, said = a.DistrustBrowsers, "CA not trusted by browsers: "
			}
			db, err := change(c.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), said+db)
			return err
		},
	}
	c.Flags().BoolVar(&undo, "undo", false, "take it out again")
	stateFlag(c, &state)
	return c
}

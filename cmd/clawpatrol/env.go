package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

func envCommand() *cobra.Command {
	var (
		state  string
		asJSON bool
	)
	c := &cobra.Command{
		Use:   "env",
		Short: "Print the exports that agents' tools read",
		Long: `Print export lines for a POSIX shell: where tools that keep roots of their own
find the gateway's CA, and the placeholders to use where a tool wants a token.
None of it is secret, and any user of the host may run it.`,
		Example: `  eval "$(clawpatrol env)"`,
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			vars, err := agent.New(agent.Config{StateDir: state}).Env()
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if asJSON {
				m := make(map[string]string, len(vars))
				for _, v := range vars {
					m[v.Name] = v.Value
				}
				return printJSON(out, m)
			}
			for _, v := range vars {
				if _, err := fmt.Fprintln(out, v.Export()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	stateFlag(c, &state)
	return c
}

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  clawpatrol version --json",
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Version string `json:"version"`
					Go      string `json:"go"`
				}{version, runtime.Version()})
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "clawpatrol %s (%s)\n", version, runtime.Version())
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/policy"
)

func validateCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "validate [flags] [gateway.hcl]",
		Short: "Check a policy file",
		Long: `Check a policy file (default: /etc/clawpatrol/gateway.hcl) without putting it in force.

Every mistake is printed with its file, line and column. The exit status is 0 if
the file compiles, else 1. Files that it names with ca_file are read too, relative
to its directory. Who may write the file is for the gateway to check, where it runs.`,
		Example: `  clawpatrol validate gateway.hcl
  clawpatrol validate --json gateway.hcl | jq .diagnostics`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			file := policyFile(args)
			p, err := policy.Load(file, policy.Options{})
			if asJSON {
				if err := printValidation(c.OutOrStdout(), file, err); err != nil {
					return fmt.Errorf("printing the result: %w", err)
				}
			}
			var invalid *policy.DiagnosticsError
			switch {
			case errors.As(err, &invalid):
				if !asJSON {
					fmt.Fprintf(c.ErrOrStderr(), "%v\n\n", invalid)
				}
				return fmt.Errorf("validating %s: %s", file, invalid.Summary())
			case err != nil:
				return fmt.Errorf("validating %s: %w", file, err)
			case asJSON:
				return nil
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is valid: endpoints %d, credentials %d, profiles %d\n",
				file, len(p.Endpoints), len(p.Credentials), len(p.Profiles))
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// policyFile is the one that a command is given, or the gateway's own.
func policyFile(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	return "/etc/clawpatrol/gateway.hcl"
}

// validation is what --json prints.
type validation struct {
	Valid       bool             `json:"valid"`
	Diagnostics []diagnosticJSON `json:"diagnostics"`
}

type diagnosticJSON struct {
	Severity string `json:"severity"` // "error" or "warning"
	Summary  string `json:"summary"`
	Detail   string `json:"detail"`
	File     string `json:"file"`
	Line     int    `json:"line"` // from 1; 0: the file as a whole
	Column   int    `json:"column"`
}

// printValidation writes what loading file came to.
func printValidation(w io.Writer, file string, err error) error {
	v := validation{Valid: err == nil, Diagnostics: []diagnosticJSON{}}
	var invalid *policy.DiagnosticsError
	if errors.As(err, &invalid) {
		for _, d := range invalid.Diagnostics {
			j := diagnosticJSON{Severity: "error", Summary: d.Summary, Detail: d.Detail, File: file}
			if d.Severity == hcl.DiagWarning {
				j.Severity = "warning"
			}
			if d.Subject != nil {
				j.File, j.Line, j.Column = d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column
			}
			v.Diagnostics = append(v.Diagnostics, j)
		}
	} else if err != nil {
		v.Diagnostics = append(v.Diagnostics, diagnosticJSON{Severity: "error", Summary: "Cannot read the file", Detail: err.Error(), File: file})
	}
	return printJSON(w, v)
}

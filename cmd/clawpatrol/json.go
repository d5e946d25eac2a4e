package main

import (
	"encoding/json"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// jsonFlag is that of every command that prints data, or has a result that a
// script wants. What each prints is in docs/agent-hosts.md (of invite: in
// docs/enrolment.md), and an addition is the only change that is made to it.
func jsonFlag(c *cobra.Command, on *bool) {
	c.Flags().BoolVar(on, "json", false, "print JSON, errors included")
}

// printJSON prints the one object that a command has to tell.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // it is for programs
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// failure is an error for a script: one object on one line of standard error.
// Standard output has results only.
type failure struct {
	Error string `json:"error"`
	Hint  string `json:"hint"` // "" where there is none
}

func printFailure(w io.Writer, f failure) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(f) // nobody is left to tell
}

// wantsJSON reports whether a command line asks for JSON, also where it could not
// be read as a whole.
func wantsJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.ContainsFunc(args, func(a string) bool {
		v, ok := strings.CutPrefix(a, "--json")
		return ok && (v == "" || v == "=true" || v == "=1" || v == "=t")
	})
}

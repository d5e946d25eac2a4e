package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

func statusCommand() *cobra.Command {
	var (
		state  string
		asJSON bool
	)
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show this host's enrolment and tunnel",
		Long:    `Show whether this host is enrolled and where, what the gateway says about it, and whether the tunnel is up. It needs root.`,
		Example: `  sudo clawpatrol status --json`,
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := agent.New(agent.Config{StateDir: state}).Status(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			printStatus(c.OutOrStdout(), s, time.Now())
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	stateFlag(c, &state)
	return c
}

func printStatus(w io.Writer, s *agent.Status, now time.Time) {
	line := func(name, value string) {
		if value != "" { // most of it is in the gateway's words
			fmt.Fprintf(w, "%-14s %s\n", name+":", agent.Printable(value))
		}
	}
	if !s.Enrolled {
		line("enrolled", "no")
		return
	}
	line("enrolled", "yes")
	line("gateway", s.Gateway)
	line("name", s.Name)
	line("registration", s.Registration)
	line("user code", s.UserCode)
	line("state", cmp.Or(s.State, "unknown"))
	line("because", s.Reason)
	line("gateway says", s.GatewayError)
	line("profiles", strings.Join(s.Profiles, ", "))
	line("run users", s.RunUsers)
	line("pin", strings.TrimSpace(s.Pin.IPv4+" "+s.Pin.IPv6))
	t := s.Tunnel
	switch {
	case t.Up:
		line("tunnel", fmt.Sprintf("up on %s, process %d", t.Interface, t.PID))
	case t.PID != 0 && (s.State == "blocked" || s.State == "revoked"):
		line("tunnel", fmt.Sprintf("refused by the gateway, process %d; nothing leaves this host", t.PID))
	case t.PID != 0:
		line("tunnel", fmt.Sprintf("waiting for the gateway, process %d; nothing leaves this host", t.PID))
	case t.Blocked:
		line("tunnel", "down after a crash; nothing leaves this host (clawpatrol up, or down)")
	default:
		line("tunnel", "down")
	}
	for _, b := range t.Bypasses {
		line("warning", b.String())
	}
	line("addresses", strings.Join(t.Addresses, " "))
	line("endpoint", t.Endpoint)
	if t.LastHandshake != nil {
		line("handshake", now.Sub(*t.LastHandshake).Round(time.Second).String()+" ago")
	}
}

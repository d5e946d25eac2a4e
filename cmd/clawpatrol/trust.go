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
		ssh   bool
	)
	c := &cobra.Command{
		Use:   "trust",
		Short: "Make this user's browsers, or SSH libraries, trust the gateway",
		Long: `Add the gateway's CA to the certificate database of the user who runs it, which
Chromium and browsers made from it read. All other tools follow the system's
store and what env prints. It needs certutil, and not root.

With --ssh, put the gateway's SSH host keys at the top of the user's
~/.ssh/known_hosts instead, for libraries that read no other file (paramiko,
libssh2, JSch), and leave its other lines as they are. OpenSSH needs none of it.
Run it again when the gateway has got another SSH endpoint.`,
		Example: `  clawpatrol trust
  clawpatrol trust --ssh
  clawpatrol trust --undo     # leave does not know of it`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			a := agent.New(agent.Config{StateDir: state})
			if ssh {
				return trustSSH(c, a, undo)
			}
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
	c.Flags().BoolVar(&ssh, "ssh", false, "SSH host keys, in ~/.ssh/known_hosts")
	c.Flags().BoolVar(&undo, "undo", false, "take it out again")
	stateFlag(c, &state)
	return c
}

func trustSSH(c *cobra.Command, a *agent.Agent, undo bool) error {
	if undo {
		file, err := a.DistrustSSH()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), "SSH host keys not in: "+file)
		return err
	}
	file, hosts, err := a.TrustSSH()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "SSH host keys in: %s, hosts: %d\n", file, hosts)
	return err
}

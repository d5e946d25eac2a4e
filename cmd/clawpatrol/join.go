package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
	"github.com/clawpatrol/clawpatrol/agent/sandbox"
)

func joinCommand() *cobra.Command {
	var (
		req    agent.JoinRequest
		state  string
		asJSON bool
		forRun bool
	)
	c := &cobra.Command{
		Use:   "join {-|@FILE|TOKEN|URL} [--ca-fingerprint sha256:HEX]",
		Short: "Send this host's traffic through a gateway",
		Long: `Enrol this host with a gateway, bring the tunnel up, wait until an operator
approves, install the gateway's CA, and hold the tunnel until stopped.

A token of clawpatrol invite has all that is needed, and perhaps the approval. "-"
asks for it, or reads it from standard input; @FILE reads it from a file. As an
argument it can be seen in the list of processes until it is used.

Without a token, the gateway is named by its URL. It has to prove its identity
before anything is sent to it: with the CA's fingerprint, which it prints as it
starts, or with a publicly trusted certificate.

Run again on an enrolled host, join resumes. It needs root.

What it changes on this host, leave undoes.`,
		Example: `  sudo clawpatrol join -
  sudo clawpatrol join @token
  sudo clawpatrol join https://gw.example.com:8443 --ca-fingerprint sha256:3b1f…
  eval "$(clawpatrol env)"`,
		Args: func(c *cobra.Command, args []string) error {
			if err := arguments(1, 1)(c, args); err != nil {
				return err
			}
			if req.Invite != "" && isToken(args[0]) {
				return &hinted{errors.New("the token is given twice"), "--invite goes with a URL"}
			}
			return checkRunUsers(req.RunUsers, state, forRun)
		},
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := holding(c.Context())
			defer stop()
			if err := nameGateway(&req, args[0], c.InOrStdin(), c.ErrOrStderr()); err != nil {
				return err
			}
			if forRun {
				return joinForRun(ctx, c, state, asJSON, req)
			}
			return hostAgent(c, state, asJSON).Join(ctx, req)
		},
	}
	f := c.Flags()
	f.StringVar(&req.CAFingerprint, "ca-fingerprint", "", "sha256:HEX of the gateway's CA certificate; without it the certificate must be publicly trusted")
	f.StringVar(&req.Invite, "invite", "", "an invite's token to a URL: TOKEN, @FILE, or \"-\" for standard input")
	f.StringVar(&req.Name, "name", "", "the name an operator sees (default: this host's)")
	f.BoolVar(&req.Service, "service", false, "once approved, leave the tunnel to systemd")
	f.BoolVar(&forRun, "no-tunnel", false, "enrol for clawpatrol run only: without root, below $XDG_STATE_HOME")
	runUsersFlag(c, &req.RunUsers)
	jsonFlag(c, &asJSON)
	stateFlag(c, &state)
	return c
}

// isToken reports whether join's argument is a token, or says where one is. No
// URL that a gateway can have begins as tokens of this and of other versions do.
func isToken(arg string) bool {
	return arg == "-" || strings.HasPrefix(arg, "@") || strings.HasPrefix(arg, "cpi")
}

// nameGateway completes req from join's argument, and replaces where a token is
// with the token.
func nameGateway(req *agent.JoinRequest, arg string, stdin io.Reader, stderr io.Writer) error {
	if isToken(arg) {
		req.Invite = arg
	} else {
		req.URL = arg
	}
	if req.Invite == "" {
		return nil
	}
	token, err := readToken(req.Invite, stdin, stderr)
	if err != nil {
		return fmt.Errorf("reading the invite: %w", err)
	}
	req.Invite = token
	return nil
}

// readToken returns the token that arg is, or says where it is: its first line.
func readToken(arg string, stdin io.Reader, stderr io.Writer) (string, error) {
	token := arg
	switch file, named := strings.CutPrefix(arg, "@"); {
	case arg == "-":
		line, err := readHidden(stdin, stderr, "token: ")
		if err != nil {
			return "", err
		}
		token = line
	case named:
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if token, err = readHidden(f, stderr, ""); err != nil {
			return "", err
		}
	}
	if token = strings.TrimSpace(token); token == "" {
		return "", &hinted{errors.New("there is none"), "it is the line that clawpatrol invite printed"}
	}
	return token, nil
}

// hostAgent is the agent of a host that holds its tunnel itself.
func hostAgent(c *cobra.Command, state string, asJSON bool) *agent.Agent {
	return agent.New(agent.Config{StateDir: state, Out: c.OutOrStdout(), JSON: asJSON, Runs: sandbox.ServeHost})
}

// runUsersFlag is that of the commands that hold a tunnel.
func runUsersFlag(c *cobra.Command, users *string) {
	c.Flags().StringVar(users, "run-users", "", "who may clawpatrol run on this host's enrolment: a group, \"all\" or \"none\" (default: as it was, at first none)")
}

// checkRunUsers refuses users where run does not look for the enrolment.
func checkRunUsers(users, state string, forRun bool) error {
	if users != "" && state != agent.DefaultStateDir && !forRun {
		return &hinted{errors.New("--run-users goes with the default state directory only"), "clawpatrol run finds the host's enrolment in " + agent.DefaultStateDir}
	}
	return nil
}

// stateFlag is every agent host command's.
func stateFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "state", agent.DefaultStateDir, "where this host keeps its registration")
}

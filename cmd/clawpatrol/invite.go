package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/control"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
)

// What the gateway does for who asks on the control socket.
const (
	doInvite = "invite"
	doList   = "invites"
	doVoid   = "void-invite"
)

// joinWithToken is what an agent host's operator types: the token is pasted, so
// that it is in no list of processes and in no shell's history.
const joinWithToken = "sudo clawpatrol join -"

func inviteCommand() *cobra.Command {
	var (
		req      invites.Request
		stateDir string
		list     bool
		void     string
		asJSON   bool
	)
	c := &cobra.Command{
		Use:   "invite [flags] [gateway.hcl]",
		Short: "Make a token that an agent host joins with",
		Long: `Make a token that has all that an agent host needs to join: where the gateway is,
how to know that it is the one meant, and the permission to enrol. With --profiles
it is also the approval, given in advance.

It runs on the gateway's host, as root or as the user that the gateway runs as,
while the gateway runs. The gateway is found by the state_dir in gateway.hcl
(default: /etc/clawpatrol/gateway.hcl), or by --state-dir.

The token is a secret until it is used or expires. It is printed once, on standard
output; what to do with it goes to standard error.`,
		Example: `  sudo clawpatrol invite --profiles ci
  sudo clawpatrol invite --profiles ci --uses 20 --ttl 8h --source 198.51.100.0/24 > token
  sudo clawpatrol invite --list
  sudo clawpatrol invite --void i_k3v…`,
		Args: func(c *cobra.Command, args []string) error {
			if err := arguments(0, 1)(c, args); err != nil {
				return err
			}
			if stateDir != "" && len(args) > 0 {
				return errors.New("--state-dir and a gateway.hcl say the same: give one of them")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := gatewayStateDir(stateDir, args)
			if err != nil {
				return err
			}
			ctx, out := c.Context(), c.OutOrStdout()
			switch {
			case list:
				return listInvites(ctx, dir, out, asJSON)
			case c.Flags().Changed("void"):
				return voidInvite(ctx, dir, void, out, asJSON)
			}
			return makeInvite(ctx, dir, req, out, c.ErrOrStderr(), asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&req.TTL, "ttl", "", "how long it is good: from 1s to 168h (default 15m)")
	f.StringSliceVar(&req.Profiles, "profiles", nil, "approve in advance, with these profiles")
	f.IntVar(&req.Uses, "uses", 1, "how many agent hosts can join with it")
	f.StringVar(&req.Source, "source", "", "take it only from this address or CIDR range, as the gateway sees it")
	f.StringVar(&stateDir, "state-dir", "", "the gateway's state_dir, instead of a gateway.hcl that names it")
	f.BoolVar(&list, "list", false, "list the invites, without their tokens")
	f.StringVar(&void, "void", "", "void the invite with this id; registrations it made stay")
	jsonFlag(c, &asJSON)
	c.MarkFlagsMutuallyExclusive("list", "void")
	for _, making := range []string{"ttl", "profiles", "uses", "source"} {
		c.MarkFlagsMutuallyExclusive("list", making)
		c.MarkFlagsMutuallyExclusive("void", making)
	}
	return c
}

// gatewayStateDir is where the gateway on this host keeps its state.
func gatewayStateDir(flag string, args []string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	// Held to what a start holds it to (I22): whoever could change the file would
	// have a gateway of theirs answer, and its token handed out.
	pol, err := loadPolicy(policyFile(args))
	if err != nil {
		if hint(err) == "" || errors.Is(err, fs.ErrNotExist) {
			err = &hinted{err, "name the gateway's own gateway.hcl, or its state directory with --state-dir"}
		}
		return "", fmt.Errorf("finding the gateway's state_dir: %w", err)
	}
	return pol.Gateway.StateDir, nil
}

// madeInvite is what --json prints.
type madeInvite struct {
	invites.Issued
	Join string `json:"join"` // the command that takes the token on standard input
}

func makeInvite(ctx context.Context, dir string, req invites.Request, stdout, stderr io.Writer, asJSON bool) error {
	if req.Uses < 1 {
		return &hinted{errors.New("making an invite: --uses is less than 1"), "leave it out for one use"}
	}
	var made invites.Issued
	if err := control.Call(ctx, dir, doInvite, req, &made); err != nil {
		return err
	}
	if asJSON {
		return printJSON(stdout, madeInvite{made, joinWithToken})
	}
	if _, err := fmt.Fprintln(stdout, made.Token); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "on the agent host, before %s, and then paste the token: %s\n", made.ExpiresAt.Format(time.RFC3339), joinWithToken)
	return nil
}

func listInvites(ctx context.Context, dir string, stdout io.Writer, asJSON bool) error {
	var all []invites.Invite
	if err := control.Call(ctx, dir, doList, nil, &all); err != nil {
		return err
	}
	if asJSON {
		return printJSON(stdout, all)
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATE\tUSED\tEXPIRES\tSOURCE\tPROFILES\tMADE BY")
	for _, i := range all {
		fmt.Fprintf(w, "%s\t%s\t%d/%d\t%s\t%s\t%s\t%s\n", i.ID, i.State, i.Used, i.Uses, i.ExpiresAt.Format(time.RFC3339),
			orDash(i.Source), orDash(strings.Join(i.Profiles, ",")), i.MadeBy)
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// voided is what --void --json prints, and what the gateway is asked.
type voided struct {
	ID string `json:"id"`
}

func voidInvite(ctx context.Context, dir, id string, stdout io.Writer, asJSON bool) error {
	var done voided
	if err := control.Call(ctx, dir, doVoid, voided{id}, &done); err != nil {
		return err
	}
	if asJSON {
		return printJSON(stdout, done)
	}
	_, err := fmt.Fprintf(stdout, "voided %s; registrations it made stay as they are\n", done.ID)
	return err
}

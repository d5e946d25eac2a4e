package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
	"github.com/clawpatrol/clawpatrol/agent/sandbox"
)

func runCommand() *cobra.Command {
	var (
		state   string
		keepEnv bool
	)
	c := &cobra.Command{
		Use:   "run [--] CMD…",
		Short: "Run a command whose only way out is the tunnel",
		Long: `Run CMD in namespaces of its own, without root: the only way out is the tunnel of
this user's enrolment (clawpatrol join URL --no-tunnel), for DNS, TCP, UDP and
ping alike. A dozen run at once. Where the host as a whole has joined and this
user has not, it is the tunnel of the host's, if root has opened that to its users
(clawpatrol join --run-users).

CMD finds what clawpatrol env exports, and none of the variables that look like
secrets. Its input, output, terminal and signals are the caller's, and its exit
status is this command's: 128+n for a signal, 127 for no such command.`,
		Example: `  clawpatrol run -- claude
  clawpatrol run curl -H "Authorization: Bearer $GH_TOKEN" https://api.github.com/user`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := runConfig(state)
			if err != nil {
				return err
			}
			cfg.KeepEnv, cfg.Command = keepEnv, args
			return sandbox.Run(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // CMD's flags are CMD's
	f.BoolVar(&keepEnv, "keep-env", false, "leave variables that look like secrets in CMD's environment")
	f.StringVar(&state, "state", "", "where the enrolment is (default: $XDG_STATE_HOME/clawpatrol)")
	return c
}

// joinForRun is join --no-tunnel.
func joinForRun(ctx context.Context, c *cobra.Command, state string, asJSON bool, req agent.JoinRequest) error {
	a, err := userAgent(c, state, asJSON)
	if err != nil {
		return err
	}
	return a.JoinForRun(ctx, req)
}

// leaveForRun is leave --no-tunnel.
func leaveForRun(ctx context.Context, c *cobra.Command, state string, asJSON bool) error {
	a, err := userAgent(c, state, asJSON)
	if err != nil {
		return err
	}
	if err := sandbox.EndDaemon(ctx, a); err != nil {
		return err
	}
	return a.LeaveForRun(ctx)
}

// userAgent is the agent of this user's enrolment, or of the one that --state
// names.
func userAgent(c *cobra.Command, state string, asJSON bool) (*agent.Agent, error) {
	if !c.Flags().Changed("state") {
		var err error
		if state, err = agent.UserStateDir(); err != nil {
			return nil, err
		}
	}
	return agent.NewForRun(agent.Config{StateDir: state, Out: c.OutOrStdout(), JSON: asJSON}), nil
}

// runConfig finds the enrolment: the one named, this user's, or the host's.
func runConfig(state string) (sandbox.Config, error) {
	if state == "" {
		own, ownErr := agent.UserStateDir() // a service's user may have no home
		host := agent.New(agent.Config{})
		_, hostErr := host.Env()
		switch {
		case hostErr == nil && (ownErr != nil || !enrolledForRun(own)):
			return sandbox.Config{Agent: host, State: agent.DefaultStateDir, Host: true}, nil
		case ownErr != nil:
			return sandbox.Config{}, ownErr
		}
		state = own
	}
	state, err := filepath.Abs(state)
	if err != nil {
		return sandbox.Config{}, err
	}
	return sandbox.Config{Agent: agent.NewForRun(agent.Config{StateDir: state}), State: state}, nil
}

// enrolledForRun reports whether there is an enrolment, finished or not.
func enrolledForRun(state string) bool {
	_, err := os.Stat(agent.NewForRun(agent.Config{StateDir: state}).PrivateDir())
	return !errors.Is(err, os.ErrNotExist)
}

// runStatus is the exit status of a command that run has run to its end.
func runStatus(err error) (code int, ok bool) {
	var exit *sandbox.Exit
	if errors.As(err, &exit) {
		return exit.Code, true
	}
	return 0, false
}

// failureStatus is 1, or what env(1) would say of a command that could not be
// started.
func failureStatus(err error) int {
	var start *sandbox.StartError
	if errors.As(err, &start) {
		return start.Code
	}
	return 1
}

// runParts are the processes that run starts of itself. Nobody types them.
func runParts() []*cobra.Command {
	var (
		state string
		idle  time.Duration
	)
	daemon := &cobra.Command{
		Use:     sandbox.DaemonCommand,
		Short:   "Hold the tunnel for run",
		Hidden:  true,
		Example: `  clawpatrol run-daemon --state ~/.local/state/clawpatrol --idle 1h`,
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return sandbox.ServeStarted(c.Context(), sandbox.DaemonConfig{
				Agent: agent.NewForRun(agent.Config{StateDir: state, Out: c.OutOrStdout()}),
				Idle:  idle,
			})
		},
	}
	daemon.Flags().StringVar(&state, "state", "", "where the enrolment is")
	daemon.Flags().DurationVar(&idle, "idle", sandbox.DefaultIdle, "how long to stay without runs")
	keeper := &cobra.Command{
		Use:     sandbox.KeeperCommand,
		Short:   "Keep a run's namespaces",
		Hidden:  true,
		Example: `  clawpatrol run -- CMD     # starts it`,
		RunE:    func(_ *cobra.Command, args []string) error { return &sandbox.Exit{Code: sandbox.Keep(args)} },
	}
	command := &cobra.Command{
		Use:     sandbox.CommandCommand,
		Short:   "Become a run's command",
		Hidden:  true,
		Example: `  clawpatrol run -- CMD     # starts it, in its namespaces`,
		Run:     func(_ *cobra.Command, args []string) { sandbox.BecomeCommand(args) },
	}
	return []*cobra.Command{daemon, keeper, command}
}

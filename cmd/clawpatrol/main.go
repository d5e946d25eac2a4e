// Command clawpatrol is the gateway, and what joins an agent host to one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/agent"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns the exit status: 0 done, 1 failed,
// 2 wrong usage.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)

	// Cobra reports a wrong flag or argument the same way as a failed command;
	// they differ in that the latter got to run.
	ran := false
	for _, c := range root.Commands() {
		if inner := c.RunE; inner != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				ran = true
				return inner(c, args)
			}
		}
	}

	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if code, ok := runStatus(err); ok {
		return code
	}
	text, advice := sentence(err), hint(err)
	switch {
	case advice != "":
	case !ran:
		advice = usageHint(root, args)
	case ctx.Err() != nil:
		advice = "it was interrupted: run it again"
	}
	if wantsJSON(args) {
		printFailure(stderr, failure{text, advice})
	} else {
		fmt.Fprintf(stderr, "clawpatrol: %s\n", text)
		if advice != "" {
			fmt.Fprintf(stderr, "hint: %s\n", advice)
		}
	}
	if !ran || errors.Is(err, agent.ErrUsage) {
		return 2
	}
	return failureStatus(err)
}

// arguments accepts from least to most of them, of which there is one at most.
func arguments(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch n := len(args); {
		case n < least:
			return fmt.Errorf("%s wants an argument: clawpatrol %s", c.Name(), c.Use)
		case n > most && most == 0:
			return fmt.Errorf("%s takes no argument, and got %q", c.Name(), args[0])
		case n > most:
			return fmt.Errorf("%s takes one argument, and got a second: %q", c.Name(), args[most])
		}
		return nil
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "clawpatrol",
		Short:         "Claw Patrol gives agents access without giving them the secrets",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs, // an unknown command is an error, not a call for help
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.AddCommand(
		gatewayCommand(),
		inviteCommand(),
		validateCommand(),
		joinCommand(),
		upCommand(),
		downCommand(),
		statusCommand(),
		repinCommand(),
		leaveCommand(),
		envCommand(),
		trustCommand(),
		doctorCommand(),
		runCommand(),
		versionCommand(),
	)
	root.AddCommand(runParts()...)
	return root
}

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/registry"
)

func gatewayCommand() *cobra.Command {
	var (
		setPassword   string
		resetPassword bool
		keepApprovals bool
		jsonLog       bool
		debug         bool
	)
	c := &cobra.Command{
		Use:   "gateway [flags] [gateway.hcl]",
		Short: "Run the gateway",
		Long: `Run the gateway with the policy in gateway.hcl (default: /etc/clawpatrol/gateway.hcl).

SIGHUP, or replacing the file by an atomic rename, reloads the policy. SIGTERM
stops accepting, lets running actions end, and exits.`,
		Example: `  clawpatrol gateway /etc/clawpatrol/gateway.hcl
  pwgen 24 1 | clawpatrol gateway --set-dashboard-password - gateway.hcl`,
		Args: func(c *cobra.Command, args []string) error {
			if keepApprovals && !resetPassword {
				return errors.New("--keep-approvals goes with --reset-dashboard-password")
			}
			return arguments(0, 1)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			file := policyFile(args)
			log := newLogger(c.ErrOrStderr(), jsonLog, debug)
			switch {
			case c.Flags().Changed("set-dashboard-password"):
				return setDashboardPassword(c.Context(), file, setPassword, c.InOrStdin(), c.OutOrStdout(), log)
			case resetPassword:
				return resetDashboardPassword(c.Context(), file, keepApprovals, c.OutOrStdout(), log)
			}
			g, err := openGateway(c.Context(), file, c.OutOrStdout(), log)
			if err != nil {
				return err
			}
			return g.Serve(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&setPassword, "set-dashboard-password", "", "set the dashboard's root password and exit; \"-\" reads it from standard input")
	f.BoolVar(&resetPassword, "reset-dashboard-password", false, "remove the root password, end all sessions, put registrations back to pending, forget accepted host keys, print a one-time set-up code")
	f.BoolVar(&keepApprovals, "keep-approvals", false, "with --reset-dashboard-password: leave registrations and accepted host keys as they are")
	f.BoolVar(&jsonLog, "json", false, "log in JSON")
	f.BoolVar(&debug, "debug", false, "log more")
	c.MarkFlagsMutuallyExclusive("set-dashboard-password", "reset-dashboard-password")
	return c
}

func newLogger(w io.Writer, asJSON, debug bool) *slog.Logger {
	opts := &slog.HandlerOptions{Level: slog.LevelInfo}
	if debug {
		opts.Level = slog.LevelDebug
	}
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// openRegistry opens the state that the policy file names, and nothing else. The
// file is held to what a start holds it to (I22): whoever could change it would
// have the password set in a registry of their choice.
func openRegistry(ctx context.Context, file string, log *slog.Logger) (*registry.DB, error) {
	pol, err := loadPolicy(file)
	if err != nil {
		return nil, err
	}
	db, err := registry.Open(ctx, registry.Config{Dir: pol.Gateway.StateDir, Subnets: pol.WireGuard.Subnets, Log: log})
	if err != nil {
		return nil, fmt.Errorf("opening the registry: %w", err)
	}
	return db, nil
}

func setDashboardPassword(ctx context.Context, file, password string, stdin io.Reader, stdout io.Writer, log *slog.Logger) (err error) {
	if password == "-" {
		if password, err = readHidden(stdin, stdout, "dashboard password: "); err != nil {
			return fmt.Errorf("reading the password from standard input: %w", err)
		}
	}
	if err := dashboard.CheckPassword(password); err != nil {
		return fmt.Errorf("setting the dashboard password: %w", err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), dashboard.BcryptCost)
	if err != nil {
		return fmt.Errorf("hashing the dashboard password: %w", err)
	}
	db, err := openRegistry(ctx, file, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.SetRootPasswordHash(ctx, hash, false); err != nil {
		return fmt.Errorf("storing the dashboard password: %w", err)
	}
	fmt.Fprintln(stdout, "dashboard password set; all sessions ended")
	if said := dashboard.GuessablePassword(password); said != "" {
		fmt.Fprintf(stdout, "warning: %s\n", said)
	}
	return nil
}

// readHidden reads one line. A terminal is asked for it, and does not show it.
func readHidden(stdin io.Reader, out io.Writer, prompt string) (string, error) {
	if f, ok := stdin.(*os.File); ok {
		if shown, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil { // a terminal
			hidden := *shown
			hidden.Lflag &^= unix.ECHO
			hidden.Lflag |= unix.ECHONL | unix.ICANON
			if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETSF, &hidden); err != nil {
				return "", err
			}
			defer func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETSF, shown) }()
			fmt.Fprint(out, prompt)
		}
	}
	line, err := bufio.NewReader(io.LimitReader(stdin, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func resetDashboardPassword(ctx context.Context, file string, keepApprovals bool, stdout io.Writer, log *slog.Logger) (err error) {
	db, err := openRegistry(ctx, file, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// Approvals first: cut short, a reset must not leave in force what it was to
	// withdraw, behind a code that was never printed.
	if !keepApprovals {
		if err := db.UnapproveAll(ctx); err != nil {
			return fmt.Errorf("putting registrations back to pending: %w", err)
		}
	}
	raw := make([]byte, 10)
	rand.Read(raw)
	code := base32.StdEncoding.EncodeToString(raw)
	if err := db.ResetRootPassword(ctx, sha256.Sum256([]byte(code))); err != nil {
		return fmt.Errorf("removing the dashboard password: %w", err)
	}
	fmt.Fprintf(stdout, "dashboard password removed; all sessions ended\nset-up code: %s\n", code)
	if !keepApprovals {
		fmt.Fprintln(stdout, "every registration is pending again; accepted SSH host keys are forgotten")
	}
	return nil
}

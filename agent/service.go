package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	unitName = "clawpatrol-agent.service"
	unitDir  = "/etc/systemd/system"
	// bootedDir exists where systemd runs the host (sd_booted(3)).
	bootedDir = "/run/systemd/system"
)

// checkSystemd refuses --service on a host that systemd does not run.
func (a *Agent) checkSystemd() error {
	if st, err := os.Stat(a.host(bootedDir)); err != nil || !st.IsDir() || a.program("systemctl") == "" {
		return WithHint(errors.New("joining as a service: systemd does not run this host"), "join without --service, and have `clawpatrol up` started by what does")
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	// Systemd would run it as root from now on.
	if err := checkWay(exe); err != nil {
		return WithHint(fmt.Errorf("joining as a service: %w", err), "install the program first: install -m 755 "+exe+" /usr/local/bin/clawpatrol")
	}
	return nil
}

// installService writes the unit.
func (a *Agent) installService(ctx context.Context, j *journal) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	// Undone in reverse: the unit is stopped before its file goes.
	path := a.host(filepath.Join(unitDir, unitName))
	if err := writeHostFile(j, scopeEnrolment, path, []byte(fileMark+unit(exe, a.paths.dir)), 0o644); err != nil {
		return err
	}
	if err := j.record(entry{Step: stepService, Scope: scopeEnrolment, Key: unitName}); err != nil {
		return err
	}
	if err := a.cfg.Run(ctx, a.program("systemctl"), "daemon-reload"); err != nil {
		return fmt.Errorf("installing the service: %w", err)
	}
	return nil
}

// unit is the service's definition. Down ends it with success, so that it stays
// down; anything else starts it again, and the routes stay closed meanwhile.
func unit(exe, dir string) string {
	return `[Unit]
Description=Claw Patrol tunnel
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=` + systemdQuote(exe) + ` up --state ` + systemdQuote(dir) + `
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
`
}

// systemdQuote quotes one argument of ExecStart (systemd.service(5), Command
// lines).
func systemdQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`, "\n", `\n`).Replace(s) + `"`
}

// startService hands the tunnel to systemd. The caller has released the lock,
// and the routes are closed.
func (a *Agent) startService(ctx context.Context) error {
	if err := a.cfg.Run(ctx, a.program("systemctl"), "enable", "--now", unitName); err != nil {
		err = WithHint(fmt.Errorf("starting the service: %w", err), "journalctl -u "+unitName)
		return errors.Join(err, a.Down(ctx))
	}
	a.tell(Event{Event: EventService, Service: unitName}, "service: %s", unitName)
	a.tell(Event{Event: EventReady}, "ready")
	return nil
}

// removeService undoes stepService.
func (a *Agent) removeService(ctx context.Context, name string) error {
	systemctl := a.program("systemctl")
	if systemctl == "" {
		return nil
	}
	if _, err := os.Stat(a.host(filepath.Join(unitDir, name))); err != nil {
		return nil // never written, or gone
	}
	if err := a.cfg.Run(ctx, systemctl, "disable", "--now", name); err != nil {
		return err
	}
	return nil
}

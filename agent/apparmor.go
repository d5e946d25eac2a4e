package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// AppArmorFile is where the profile belongs that `clawpatrol run` needs where
// Ubuntu from 23.10 keeps users from making user namespaces.
const AppArmorFile = "/etc/apparmor.d/clawpatrol"

const (
	// restrictUserns is the kernel's switch for that, "1" where it is on.
	restrictUserns = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"

	// loadedProfiles lists the profiles in force, one a line: name (mode).
	loadedProfiles = "/sys/kernel/security/apparmor/profiles"

	profileName = "clawpatrol"
)

// plainPath has no character that means something in a profile (apparmor.d(5)).
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9_./+-]*$`)

// AppArmorProfile returns the profile for a program at path.
func AppArmorProfile(path string) string {
	return fmt.Sprintf(`abi <abi/4.0>,
include <tunables/global>

profile %s %s flags=(unconfined) {
  userns,
  include if exists <local/clawpatrol>
}
`, profileName, path)
}

// restrictsUserns reports whether this host lets only programs with an AppArmor
// profile make user namespaces.
func (a *Agent) restrictsUserns() bool {
	b, err := os.ReadFile(a.host(restrictUserns))
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// installProfile installs the profile where this host's users need it to run
// anything. One that somebody else has put there stays. The tunnel does not
// depend on it: what fails is told.
func (a *Agent) installProfile(ctx context.Context, j *journal) {
	if !a.restrictsUserns() {
		return
	}
	if err := a.putProfile(ctx, j); err != nil {
		a.tell(Event{Event: EventNote, Hint: HintOf(err)}, "clawpatrol run will not work for this host's users: %v", err)
	}
}

func (a *Agent) putProfile(ctx context.Context, j *journal) error {
	path := a.host(AppArmorFile)
	if now, err := readBefore(path); err == nil && now.Kind != "absent" && !now.ours() {
		return nil // the administrator's, or a package's
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	// The profile lets whatever is at this path make namespaces.
	if err := checkWay(exe); err != nil {
		return WithHint(fmt.Errorf("installing the AppArmor profile: %w", err), "install the program first: install -m 755 "+exe+" /usr/local/bin/clawpatrol")
	}
	if !plainPath.MatchString(exe) {
		return WithHint(fmt.Errorf("installing the AppArmor profile: the path %q has characters that mean something there", exe), "install the program as /usr/local/bin/clawpatrol")
	}
	if st, err := os.Stat(filepath.Dir(path)); err != nil || !st.IsDir() {
		return WithHint(errors.New("installing the AppArmor profile: there is no "+filepath.Dir(AppArmorFile)), "install the package apparmor, then start clawpatrol up anew")
	}
	if err := writeHostFile(j, scopeEnrolment, path, []byte(fileMark+AppArmorProfile(exe)), 0o644); err != nil {
		return fmt.Errorf("installing the AppArmor profile: %w", err)
	}
	parser := a.program("apparmor_parser")
	if parser == "" {
		return WithHint(errors.New("loading the AppArmor profile: there is no apparmor_parser"), "install the package apparmor, then: apparmor_parser -r "+AppArmorFile)
	}
	// Undone in reverse: the parser needs the file to unload what is in it.
	if err := j.record(entry{Step: stepAppArmor, Scope: scopeEnrolment, Key: path}); err != nil {
		return err
	}
	if err := a.cfg.Run(ctx, parser, "-r", path); err != nil {
		return fmt.Errorf("loading the AppArmor profile: %w", err)
	}
	a.cfg.checkpoint("loaded " + path)
	return nil
}

// unloadProfile undoes stepAppArmor. A profile that is not loaded is no error.
func (a *Agent) unloadProfile(ctx context.Context, path string) error {
	parser := a.program("apparmor_parser")
	if now, err := readBefore(path); err != nil || !now.ours() || parser == "" {
		return err // somebody else's by now, or gone with its package
	}
	err := a.cfg.Run(ctx, parser, "-R", path)
	if err == nil {
		return nil
	}
	loaded, readErr := os.ReadFile(a.host(loadedProfiles))
	if errors.Is(readErr, fs.ErrNotExist) || (readErr == nil && !bytes.Contains(append([]byte("\n"), loaded...), []byte("\n"+profileName+" ("))) {
		return nil
	}
	return fmt.Errorf("unloading the AppArmor profile: %w", err)
}

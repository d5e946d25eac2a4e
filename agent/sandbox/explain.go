package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/clawpatrol/clawpatrol/agent"
)

// usernsSurroundings are why a host may refuse user namespaces.
type usernsSurroundings struct {
	root     bool
	apparmor string // kernel.apparmor_restrict_unprivileged_userns
	clone    string // kernel.unprivileged_userns_clone, Debian's
	most     string // user.max_user_namespaces
	program  string // the path of this program
}

func surroundingsOfUserns() usernsSurroundings {
	read := func(name string) string {
		b, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	program, err := os.Executable()
	if err != nil {
		program = "/usr/local/bin/clawpatrol"
	}
	return usernsSurroundings{
		root:     os.Geteuid() == 0,
		apparmor: read("kernel/apparmor_restrict_unprivileged_userns"),
		clone:    read("kernel/unprivileged_userns_clone"),
		most:     read("user/max_user_namespaces"),
		program:  program,
	}
}

// explain adds what to do where the host does not let its users make
// namespaces, unless err has a hint already.
func explain(err error, s usernsSurroundings) error {
	if err == nil || agent.HintOf(err) != "" {
		return err
	}
	denied := errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || strings.Contains(err.Error(), "permitted") || strings.Contains(err.Error(), "denied")
	switch {
	case s.most == "0":
		return agent.WithHint(err, "this host allows no user namespaces: as root, sysctl user.max_user_namespaces=15000")
	case errors.Is(err, syscall.ENOSPC):
		return agent.WithHint(err, "this host allows no more user namespaces: as root, raise sysctl user.max_user_namespaces")
	case !denied || s.root:
		return err
	case s.clone == "0":
		return agent.WithHint(err, "this host lets only root make user namespaces: as root, sysctl kernel.unprivileged_userns_clone=1")
	case s.apparmor == "1":
		return agent.WithHint(err, fmt.Sprintf("AppArmor keeps users of this host from making user namespaces. As root, write the following to %s, then run apparmor_parser -r %[1]s (clawpatrol join does both)\n%s", agent.AppArmorFile, agent.AppArmorProfile(s.program)))
	}
	return agent.WithHint(err, "something on this host (a container's seccomp or AppArmor profile, SELinux) keeps users from making namespaces")
}

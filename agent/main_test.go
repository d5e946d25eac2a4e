package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The tests change routes, rules and interfaces. They run in network and mount
// namespaces of their own, which the test binary makes by running itself again;
// without root, in a user namespace. Nothing outside is touched.
const insideEnv = "AGENT_TEST_INSIDE"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(hostProcessEnv) != "":
		os.Exit(hostProcess())
	case os.Getenv(insideEnv) == "":
		os.Exit(runInside())
	}
	if err := prepareInside(); err != nil {
		fmt.Fprintln(os.Stderr, "preparing the namespaces:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is for the death of this thread
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "making namespaces for the tests (they need root, or user namespaces):", err)
		return 1
	}
	return 0
}

func prepareInside() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// inNamespace calls f on a thread that is in ns. Sockets opened there stay
// there.
func inNamespace(ns netns.NsHandle, f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := netns.Set(ns); err != nil {
			errc <- err
			return
		}
		errc <- f()
	}()
	return <-errc
}

// A host process is a join in a process of its own, so that it can be killed. It
// is configured by its environment.
const (
	hostProcessEnv = "AGENT_TEST_HOST" // the command: join, up, leave
	hostStateEnv   = "AGENT_TEST_STATE"
	hostRootEnv    = "AGENT_TEST_ROOT"
	hostURLEnv     = "AGENT_TEST_URL"
	hostPinEnv     = "AGENT_TEST_PIN"
	hostGatewayEnv = "AGENT_TEST_GATEWAY" // its address
	hostKillEnv    = "AGENT_TEST_KILL_AT" // the checkpoint at which it kills itself, from 1
)

func hostProcess() int {
	killAt, _ := strconv.Atoi(os.Getenv(hostKillEnv))
	seen := 0
	a := New(Config{
		StateDir: os.Getenv(hostStateEnv),
		Root:     os.Getenv(hostRootEnv),
		Out:      os.Stdout,
		Run:      fakeRefresh(os.Getenv(hostRootEnv)),
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr(os.Getenv(hostGatewayEnv))}, nil
		},
		Runs: serveNobody,
		checkpoint: func(name string) {
			seen++
			fmt.Println("checkpoint", seen, name)
			if seen == killAt {
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
				select {} // the signal is on its way
			}
		},
	})
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	var err error
	switch os.Getenv(hostProcessEnv) {
	case "join":
		err = a.Join(ctx, JoinRequest{URL: os.Getenv(hostURLEnv), CAFingerprint: os.Getenv(hostPinEnv), Name: "killed", RunUsers: everyUser})
	case "up":
		err = a.Up(ctx)
	case "leave":
		err = a.Leave(ctx)
	}
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

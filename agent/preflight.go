package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// preflight checks that this process can change what it must, before it changes
// anything.
func preflight() error {
	if os.Geteuid() != 0 {
		return withHint(errors.New("it needs root: it makes a network interface and routes"), "run it with sudo")
	}
	if !hasCapability(unix.CAP_NET_ADMIN) {
		return withHint(errors.New("it needs CAP_NET_ADMIN, which this root does not have"), "in a container: --cap-add=NET_ADMIN --device=/dev/net/tun")
	}
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err != nil {
		return withHint(fmt.Errorf("opening the TUN device: %w", err), "load it with: modprobe tun; in a container: --device=/dev/net/tun")
	}
	return f.Close()
}

// hasCapability reports whether this process has one of the first 32
// capabilities (capabilities(7)) in effect.
func hasCapability(number int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	return unix.Capget(&hdr, &caps[0]) == nil && caps[0].Effective&(1<<number) != 0
}

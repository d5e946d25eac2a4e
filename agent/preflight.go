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
		return WithHint(errors.New("it needs root: it makes a network interface and routes"), "run it with sudo")
	}
	if !hasCapability(unix.CAP_NET_ADMIN) {
		return WithHint(errors.New("it needs CAP_NET_ADMIN, which this root does not have"), "in a container: --cap-add=NET_ADMIN --device=/dev/net/tun")
	}
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err != nil {
		return WithHint(fmt.Errorf("opening the TUN device: %w", err), "load it with: modprobe tun; in a container: --device=/dev/net/tun")
	}
	return f.Close()
}

// minRoom is what a state directory takes: twice a bundle of roots, as a file is
// replaced by a whole new one, and some kilobytes.
const minRoom = 1 << 20 // bytes

// checkRoom refuses a disk that is full, before the gateway has a registration
// that nothing can come of.
func checkRoom(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("asking for the room in %s: %w", dir, err)
	}
	// Some file systems do not tell, and say that they have nothing at all.
	if left := st.Bavail * uint64(st.Bsize); st.Blocks > 0 && left < minRoom {
		return WithHint(fmt.Errorf("the file system of %s has %d KiB left, and the state takes up to %d", dir, left>>10, minRoom>>10), "make room there, or choose another directory with --state")
	}
	return nil
}

// hasCapability reports whether this process has one of the first 32
// capabilities (capabilities(7)) in effect.
func hasCapability(number int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	return unix.Capget(&hdr, &caps[0]) == nil && caps[0].Effective&(1<<number) != 0
}

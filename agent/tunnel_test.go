package agent

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// Attack: the process that holds the tunnel was killed, and its TUN stays so
// that nothing leaks. An ordinary user of the host attaches to it, reads what
// the host sends, and answers it.
func TestTunnel_LeftBehindCannotBeTakenByAnotherUser(t *testing.T) {
	dev, err := tun.CreateTUN("agenttun0", defaultMTU)
	if err != nil {
		t.Fatal(err)
	}
	if err := persist(dev.File()); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeLink("agenttun0"); err != nil {
			t.Error(err)
		}
	})
	if err := attach("agenttun0", nil); err != nil {
		t.Errorf("its owner cannot take it back: %v", err)
	}
	err = attach("agenttun0", dropToNobody)
	if errors.Is(err, unix.EINVAL) {
		t.Fatal("this user namespace has no second user: run the tests as root")
	}
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("another user attaches: %v; want %v", err, unix.EPERM)
	}
}

// attach opens a TUN that exists, as what become makes of the calling thread.
func attach(name string, become func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		errc <- func() error {
			f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			if become != nil {
				if err := become(); err != nil {
					return err
				}
			}
			req, err := unix.NewIfreq(name)
			if err != nil {
				return err
			}
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			return unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, req)
		}()
	}()
	return <-errc
}

// dropToNobody gives the thread the user 65534 and no capability. The raw call:
// the wrapped one is for all threads.
func dropToNobody() error {
	const nobody = 65534
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
		return errno
	}
	return nil
}

// Attack: the gateway gives the tunnel an address of the LAN's. Its neighbour
// would be unreachable, and any program of this host could pass for it.
func TestTunnel_AddressesOfTheLANAreRefused(t *testing.T) {
	newWorld(t)
	for addr, ok := range map[string]bool{
		"10.55.0.17/28": true, "fd55:c1a5:0:1::1/64": true,
		routerIPv4 + "/32": false, hostIPv4 + "/32": false, routerIPv6 + "/128": false, "198.51.100.200/28": false, "198.0.0.1/8": false, "2001:db8::1/16": false,
	} {
		err := clash([]netip.Prefix{netip.MustParsePrefix(addr)})
		if (err == nil) != ok || (err != nil && (!strings.Contains(err.Error(), "eth0") || HintOf(err) == "")) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

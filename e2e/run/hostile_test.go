package run

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// outside starts a command on the host that lasts as long as the test, and waits
// until it has printed pattern.
func outside(t *testing.T, cmd *exec.Cmd, pattern string) *lab.Output {
	t.Helper()
	out := new(lab.Output)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // reports the kill
	})
	if _, err := out.Wait(t.Context(), 20*time.Second, pattern); err != nil {
		t.Fatal(err)
	}
	return out
}

// The attacker is the command, with the user's own files and programs. Its aims
// are the join credential, and a way out that is not the tunnel.
func TestRun_HostileCommandReachesNothingOutside(t *testing.T) {
	ctx := t.Context()
	inside(t, "true").ok(t) // the daemon is there

	// What an agent host has: sockets of services, a shell of the same user with a
	// secret in its environment, a bind mount that shows the home directory again.
	services := []string{
		"/run/dbus/system_bus_socket", "/run/user/" + userID + "/bus", "/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock",
		"/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/tmp/cp-run-test-tmux", "/var/lib/odd/service.sock", userHome + "/.gnupg/S.gpg-agent",
	}
	if err := host.Script(ctx, "mkdir -p /run/dbus /run/podman /run/containerd /run/nscd /run/systemd/resolve /var/lib/odd "+userHome+"/.gnupg /var/alias && mount --bind "+userHome+" /var/alias; echo from-the-environment >/dev/shm/cp-run-test"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := host.Script(ctx, "umount /var/alias; rm -f /tmp/cp-run-test-tmux /dev/shm/cp-run-test"); err != nil {
			t.Error(err)
		}
	}()
	outside(t, host.Command(ctx, append([]string{probePath, "listen", "@abstract-service"}, services...)...), "listening")
	outside(t, host.Command(ctx, probePath, "serve", "tcp", "127.0.0.1:7100"), "listening")
	shell := as(ctx, host, userID, userHome, "env", "SECRET_OF_OUTSIDE=from-the-environment", "sh", "-c", "echo $$; exec sleep 600")
	shellOut := outside(t, shell, `\d+\n`)
	pid := strings.TrimSpace(shellOut.String())

	// Another run of the same user, which serves on its own address.
	neighbour := outside(t, as(ctx, host, userID, userHome, "clawpatrol", "run", "sh", "-c", "ip -o -4 addr show clawpatrol0; ip -o -6 addr show clawpatrol0; exec probe serve tcp :7200"), "listening")
	m, err := neighbour.Wait(ctx, time.Second, `inet (\S+)/32[\s\S]*inet6 (\S+)/128`)
	if err != nil {
		t.Fatal(err)
	}
	other4, other6 := m[1], m[2]

	// The controls: outside, all of that works. A test that cannot fail is none.
	for _, s := range services {
		if r := dev(t, "probe connect unix "+s); !strings.Contains(r.out, "hello from outside") {
			t.Fatalf("control: %s: %+v", s, r)
		}
	}
	for _, line := range []string{"probe connect unix @abstract-service", "cat /dev/shm/cp-run-test", "probe connect tcp 127.0.0.1:7100", "grep -q join_credential " + stateDir + "/private/state.json",
		"grep -q join_credential /var/alias/.local/state/clawpatrol/private/state.json", "test -S " + stateDir + "/private/run.sock", "grep -qz SECRET_OF_OUTSIDE /proc/" + pid + "/environ", "kill -0 " + pid} {
		dev(t, line).ok(t)
	}

	attack := func(name, line string) {
		t.Run(name, func(t *testing.T) {
			r := inside(t, began+line)
			if !strings.HasPrefix(r.out, "the-run-began\n") {
				t.Fatalf("it did not run: %+v", r)
			}
			if r.code == 0 {
				t.Errorf("it worked: %s\n%s%s", line, r.out, r.errs)
			}
			for _, s := range []string{"hello from outside", "join_credential\"", "from-the-environment"} {
				if strings.Contains(r.out+r.errs, s) {
					t.Errorf("%q was reached: %s\n%s%s", s, line, r.out, r.errs)
				}
			}
		})
	}

	attack("read the credential", "cat "+stateDir+"/private/state.json")
	attack("read it through a bind mount", "cat /var/alias/.local/state/clawpatrol/private/state.json")
	attack("find it anywhere", "grep -rlsa 'join_credential\"' "+userHome+" /var/alias /run /tmp /dev/shm")
	attack("read it through process 1", "cat /proc/1/root"+stateDir+"/private/state.json")
	attack("read it through process 1's working directory", "cat /proc/1/cwd/.local/state/clawpatrol/private/state.json")
	attack("rename what covers it", "mv "+stateDir+" "+userHome+"/moved")
	attack("remove what covers it", "rmdir "+stateDir+" || rm -rf "+stateDir+"/public/ca.pem && test ! -e "+stateDir+"/public/ca.pem")
	attack("change what env names", "echo x >>"+stateDir+"/public/bundle.pem")

	attack("the daemon's socket", "probe connect unixpacket "+stateDir+"/private/run.sock")
	for _, s := range services {
		attack("socket "+s, "probe connect unix "+s)
	}
	attack("abstract socket", "probe connect unix @abstract-service")
	attack("socket in a directory of the attacker's making", "mkdir -p ~/x && ln -sfn /var/lib/odd ~/x/odd && probe connect unix ~/x/odd/service.sock")
	attack("socket through the bind mount", "probe connect unix /var/alias/.gnupg/S.gpg-agent")

	attack("the host's loopback", "probe connect tcp 127.0.0.1:7100")
	attack("the host's interface", "ip link show eth0")
	attack("another run, IPv4", "probe connect tcp "+other4+":7200")
	attack("another run, IPv6", "probe connect tcp ["+other6+"]:7200")
	attack("another interface", "ip link add dummy0 type dummy")
	attack("another address", "ip addr add 10.55.0.1/32 dev clawpatrol0")
	attack("another route", "ip route replace default dev lo")
	attack("kernel settings of the network", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	attack("an interface in a namespace of its own leads nowhere", "unshare -Urn sh -c 'ip link add eth0 type veth peer name eth1 && ip link set eth1 netns 1'")

	attack("raw socket", "probe socket 2 3 1")
	attack("raw socket, as root of a namespace", "unshare -Ur probe socket 2 3 1")
	attack("packet socket", "probe socket 17 3 768")
	attack("vsock", "probe socket 40 1 0")
	attack("bluetooth", "probe socket 31 3 1")
	attack("io_uring", "probe uring")

	attack("see a process outside", "test -e /proc/"+pid+"/status && grep -q sleep /proc/"+pid+"/comm")
	attack("its environment, wherever", "grep -lsz SECRET_OF_OUTSIDE=from /proc/[0-9]*/environ")
	attack("kill it", "kill -0 "+pid+" && grep -q sleep /proc/"+pid+"/comm")
	attack("trace process 1", "probe ptrace 1")
	attack("process 1's memory", "cat /proc/1/mem")
	attack("process 1's environment", "cat /proc/1/environ")
	attack("process 1's descriptors", "ls /proc/1/fd/")
	attack("another proc", "unshare -Urm mount -t proc proc /mnt && ls /mnt/"+pid+"/cwd")

	attack("umount", "umount /run")
	attack("umount the cover", "umount "+stateDir)
	attack("umount, as root of a namespace", "unshare -Urm umount "+stateDir)
	attack("umount lazily, as root of a namespace", "unshare -Urm umount -l "+stateDir)
	attack("umount everything, as root of a namespace", "unshare -Urm sh -c 'umount -R /; umount -R -l /run; cat "+stateDir+"/private/state.json'")
	attack("remount", "unshare -Urm mount -o remount,bind,rw "+stateDir)
	attack("bind the file system again", "unshare -Urm sh -c 'mount --bind / /mnt && cat /mnt"+stateDir+"/private/state.json'")
	attack("bind it recursively", "unshare -Urm sh -c 'mount --rbind / /mnt && umount -l /mnt"+stateDir+"; cat /mnt"+stateDir+"/private/state.json'")
	attack("overlay it", "unshare -Urm sh -c 'mkdir -p /tmp/u /tmp/w /tmp/m && mount -t overlay overlay -o lowerdir="+userHome+",upperdir=/tmp/u,workdir=/tmp/w /tmp/m && cat /tmp/m/.local/state/clawpatrol/private/state.json'")
	attack("mount", "mount -t tmpfs tmpfs /mnt")
	attack("control groups", "grep -E ' /sys(/[^ ]*)? rw' /proc/self/mountinfo")
	attack("shared memory of outside", "cat /dev/shm/cp-run-test")
	for _, ns := range []string{"mnt", "net", "user", "pid", "ipc"} {
		attack("setns "+ns, "probe setns /proc/1/ns/"+ns)
	}
	attack("nsenter", "nsenter -t 1 -m -n -U cat "+stateDir+"/private/state.json")
	attack("chroot tricks", "unshare -Urm sh -c 'mkdir -p /tmp/c && mount --rbind / /tmp/c && chroot /tmp/c/.. cat "+stateDir+"/private/state.json'")
	attack("have a capability", "grep -E '^Cap(Inh|Prm|Eff|Amb):.*[1-9a-f]' /proc/self/status")
	attack("become root", "su -c true </dev/null")
	attack("privileges of a program's file", "cp /usr/bin/ping ~/ping && setcap cap_net_raw+ep ~/ping")
	attack("a run in a run", "clawpatrol run true")
	attack("type into the terminal outside", "script -qec 'probe typing' /dev/null </dev/null")
	attack("another terminal of the user's", "ls /dev/pts/ | grep -q '^[0-9]'")

	t.Run("descriptors of the shell outside", func(t *testing.T) {
		line := "exec 7</; %s sh -c 'cat /dev/fd/7/%s/private/state.json'"
		if r := dev(t, fmt.Sprintf(line, "", stateDir)); !strings.Contains(r.out, "join_credential") {
			t.Fatalf("control: %+v", r)
		}
		if r := dev(t, fmt.Sprintf(line, "clawpatrol run", stateDir)); r.code == 0 || r.out != "" {
			t.Fatalf("it worked: %+v", r)
		}
		if r := dev(t, "clawpatrol run cat </"); r.code != 1 || !strings.Contains(r.errs, "standard input is a directory") {
			t.Fatalf("a directory as standard input: %+v", r)
		}
	})

	t.Run("a forged source is dropped", func(t *testing.T) {
		r := inside(t, fmt.Sprintf("probe forge %s 2001:db8:c::10 forged-datagram; probe forge :: 2001:db8:c::10 honest-datagram", other6))
		if err := lab.Eventually(ctx, 10*time.Second, func() error {
			if !seenDatagram("honest-datagram") {
				return fmt.Errorf("the honest one did not arrive either: %+v", r)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if seenDatagram("forged-datagram") {
			t.Fatal("it arrived")
		}
	})

	t.Run("nothing of it changed anything", func(t *testing.T) {
		dev(t, "grep -q join_credential "+stateDir+"/private/state.json && kill -0 "+pid).ok(t)
		inside(t, "probe echo tcp 192.0.2.10:7007 still-works").ok(t)
	})
}

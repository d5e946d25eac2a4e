package run

import (
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// everything is a line that uses each protocol once.
const everything = `set -e
	probe echo tcp 192.0.2.10:7007 tcp4 && probe echo tcp [2001:db8:c::10]:7007 tcp6
	probe echo udp 192.0.2.10:7007 udp4 && probe echo udp [2001:db8:c::10]:7007 udp6
	ping -4 -c1 -W5 192.0.2.10 && ping -6 -c1 -W5 2001:db8:c::10
	dig +short api.example.com
	curl -sS https://api.example.com/bytes/3000000 | sha256sum
	curl -sS -H "Authorization: Bearer $API_TOKEN" https://api.example.com/
	echo all of it`

// withoutTUN is inside on a host whose /dev/net/tun is of no use.
func withoutTUN(t *testing.T, line string) result {
	t.Helper()
	run := "mount --bind /dev/null /dev/net/tun && exec setpriv --reuid " + userID + " --regid " + userID + " --clear-groups env -i -C " + userHome +
		" HOME=" + userHome + " PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin clawpatrol run sh -c " + lab.Quote(line)
	return finish(t, host.Command(t.Context(), "unshare", "-m", "sh", "-c", run))
}

// Without a usable /dev/net/tun a veth pair and a packet socket do.
func TestRun_WithoutTUN(t *testing.T) {
	r := withoutTUN(t, "ip -d link show clawpatrol0; "+everything).ok(t)
	if !strings.Contains(r.out, "veth") || !strings.Contains(r.out, "all of it") || !strings.Contains(r.out, lab.PatternHash(3000000)) {
		t.Fatalf("%+v", r)
	}
	// What could be sent on it by other means is still this run's only: the filter
	// refuses packet sockets, also where there is the privilege for one.
	r = withoutTUN(t, began+"probe socket 2 2 0 && probe socket 17 3 768")
	if r.code == 0 || !strings.HasPrefix(r.out, "the-run-began\n") || !strings.Contains(r.errs, "address family not supported") {
		t.Fatalf("a packet socket on the veth pair: %+v", r)
	}
}

// Root may run it too. Its command has no capability, and devices and the
// kernel's settings are covered: an owner needs no capability to change those.
func TestRun_AsRoot(t *testing.T) {
	const home = "/root/cp-run"
	if err := host.Script(t.Context(), "mkdir -p "+home); err != nil {
		t.Fatal(err)
	}
	if err := enrol(t.Context(), host, "0", home); err != nil {
		t.Fatal(err)
	}
	root := func(line string) result {
		return finish(t, as(t.Context(), host, "0", home, "clawpatrol", "run", "sh", "-c", line))
	}
	if r := root(everything).ok(t); !strings.Contains(r.out, "all of it") {
		t.Fatalf("%+v", r)
	}
	if r := root("id -u; grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status").ok(t); !strings.HasPrefix(r.out, "0\n") || strings.Count(r.out, "0000000000000000") != 4 {
		t.Fatalf("%+v", r)
	}
	inside(t, "true").ok(t) // an ordinary user's daemon is there as well
	for name, line := range map[string]string{
		"the credential":           "cat " + home + "/.local/state/clawpatrol/private/state.json",
		"another user's":           "cat " + stateDir + "/private/state.json",
		"core pattern":             "echo '|/bin/sh' >/proc/sys/kernel/core_pattern",
		"sysrq":                    "echo h >/proc/sysrq-trigger",
		"uevent helper":            "test -e /sys/kernel/uevent_helper && echo /bin/sh >/sys/kernel/uevent_helper",
		"a cgroup":                 "echo $$ >/sys/fs/cgroup/unified/cgroup.procs",
		"the disk":                 "head -c1 /dev/vda",
		"a new device":             "mknod /tmp/disk b 254 0 && head -c1 /tmp/disk",
		"kernel memory":            "head -c1 /dev/mem || head -c1 /proc/kcore",
		"the kernel's log":         "test -e /dev/kmsg",
		"remount /proc/sys":        "mount -o remount,rw /proc/sys",
		"umount":                   "umount " + home + "/.local/state/clawpatrol",
		"umount in a namespace":    "unshare -Urm umount /sys",
		"the network's settings":   "echo 1 >/proc/sys/net/ipv4/ip_forward",
		"another address":          "ip addr add 10.55.0.1/32 dev clawpatrol0",
		"a raw socket":             "probe socket 2 3 1",
		"process 1":                "cat /proc/1/environ",
		"capabilities by a file":   "cp /usr/bin/ping /root/p && setcap cap_net_raw+ep /root/p",
		"the host's own enrolment": "ls /var/lib/clawpatrol-agent/private",
	} {
		t.Run(name, func(t *testing.T) {
			if r := root(began + line); r.code == 0 || !strings.HasPrefix(r.out, "the-run-began\n") {
				t.Errorf("it worked, or did not run: %s\n%s%s", line, r.out, r.errs)
			}
		})
	}
	t.Run("terminal", func(t *testing.T) {
		r := finish(t, as(t.Context(), host, "0", home, "script", "-qec", "clawpatrol run sh -c 'test -t 0 && tty'", "/dev/null")).ok(t)
		if !strings.Contains(r.out, "/dev/console") {
			t.Errorf("%+v", r)
		}
	})
}

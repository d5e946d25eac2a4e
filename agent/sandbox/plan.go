package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clawpatrol/clawpatrol/agent"
)

// plan is what the keeper does to its new namespaces. All paths are absolute and
// have no symbolic links.
type plan struct {
	Lease *lease `json:"lease"`

	Covers  []cover  `json:"covers"`
	Keeps   []string `json:"keeps"`   // directories that are shown again where a cover hides them
	Public  []string `json:"public"`  // the same, read-only
	Sockets []string `json:"sockets"` // UNIX sockets that lead to programs outside
	Console string   `json:"console"` // the terminal, or ""
	Root    bool     `json:"root"`    // root's command: devices and kernel settings are covered too

	Resolv   string `json:"resolv"`   // contents of resolv.conf; "": left alone
	Nsswitch string `json:"nsswitch"` // of nsswitch.conf; "": the same
	ResolvAt string `json:"resolv_at"`

	SSHHosts string `json:"ssh_hosts"` // file of the gateway's SSH host keys, which may be missing; "": none

	Dir string `json:"dir"` // where the command starts
}

// cover is a directory over which an empty one is mounted.
type cover struct {
	Path     string `json:"path"`
	Writable bool   `json:"writable,omitempty"` // by all, with the sticky bit: a /tmp
}

const (
	maxSockets = 512     // UNIX sockets outside that are covered one by one
	maxFile    = 1 << 20 // bytes of a file that is read whole
)

// runKeeps are the parts of /run that hold programs and disks rather than
// sockets.
var runKeeps = []string{"/run/current-system", "/run/booted-system", "/run/opengl-driver", "/run/opengl-driver-32", "/run/media", "/run/mount"}

// surroundings are what a plan depends on.
type surroundings struct {
	root        bool   // the effective user is root
	home        string // $HOME
	runtimeDir  string // $XDG_RUNTIME_DIR
	dir         string // the working directory
	unixSockets io.Reader
	mounts      io.Reader // /proc/self/mountinfo
}

// makePlan decides what the command must not reach. state are the state
// directories of enrolments, public the part of each that env names.
func makePlan(s surroundings, states map[string]string, l *lease) (*plan, error) {
	p := &plan{Lease: l, Root: s.root, Dir: s.dir}
	// The shared memory and message queues of outside are files of the user's too.
	p.Covers = append(p.Covers, cover{Path: "/run"}, cover{Path: "/tmp", Writable: true}, cover{Path: "/dev/shm", Writable: true})
	p.cover("/dev/mqueue")
	p.cover(s.runtimeDir)
	if real, err := filepath.EvalSymlinks("/var/run"); err == nil {
		p.cover(real)
	}
	p.Keeps = append(p.Keeps, runKeeps...)
	for _, keep := range []string{s.home, s.dir} {
		if real, err := filepath.EvalSymlinks(keep); err == nil && below(real, "/tmp") {
			p.Keeps = append(p.Keeps, real)
		}
	}
	mounts, err := readMounts(s.mounts)
	if err != nil {
		return nil, err
	}
	for _, state := range slices.Sorted(maps.Keys(states)) { // what is above comes first
		real, err := filepath.EvalSymlinks(state)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("finding the state directory: %w", err)
		}
		for _, path := range append([]string{real}, mounts.aliases(real)...) {
			// A working directory in there is no reason to show it.
			p.Keeps = slices.DeleteFunc(p.Keeps, func(k string) bool { return k == path || below(k, path) })
			p.cover(path)
		}
		// What env names must be there under the name that it has.
		if shown, err := filepath.EvalSymlinks(states[state]); err == nil {
			p.Public = append(p.Public, shown)
		}
	}
	if p.Sockets, err = p.findSockets(s.unixSockets, mounts); err != nil {
		return nil, err
	}
	if err := p.resolver(l); err != nil {
		return nil, err
	}
	return p, nil
}

// cover adds a directory, unless it is covered with another already.
func (p *plan) cover(path string) {
	if !filepath.IsAbs(path) {
		return
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil || real == "/" || p.covered(real) {
		return // what is not there leads nowhere
	}
	p.Covers = append(p.Covers, cover{Path: real})
}

// covered reports whether path is hidden by a cover and not shown again.
func (p *plan) covered(path string) bool {
	deepest, shown := "", false
	look := func(dir string, shows bool) {
		if (path == dir || below(path, dir)) && len(dir) >= len(deepest) {
			deepest, shown = dir, shows
		}
	}
	for _, c := range p.Covers {
		look(c.Path, false)
	}
	for _, k := range p.Keeps {
		look(k, true)
	}
	return deepest != "" && !shown
}

// below reports whether path is inside dir.
func below(path, dir string) bool {
	return dir == "/" && path != "/" || strings.HasPrefix(path, dir+"/")
}

// findSockets lists the UNIX sockets that have a name in the file system and are
// not under a cover (proc_net(5), unix). They lead to programs outside whatever
// the network namespace.
func (p *plan) findSockets(r io.Reader, mounts mountTable) ([]string, error) {
	var out []string
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		i := strings.Index(sc.Text(), " /")
		if i < 0 {
			continue
		}
		path := sc.Text()[i+1:]
		if st, err := os.Lstat(path); err != nil || st.Mode()&fs.ModeSocket == 0 {
			continue
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue
		}
		for _, path := range append([]string{real}, mounts.aliases(real)...) {
			if p.covered(path) || slices.Contains(out, path) {
				continue
			}
			if len(out) == maxSockets {
				return nil, fmt.Errorf("covering the UNIX sockets of outside: there are more than %d", maxSockets)
			}
			out = append(out, path)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("listing the UNIX sockets of outside: %w", err)
	}
	return out, nil
}

// resolver makes the command ask the gateway's resolver, and nobody else for
// hosts.
func (p *plan) resolver(l *lease) error {
	before, err := readWhole("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading resolv.conf: %w", err)
	}
	p.Resolv = resolvConf(l.DNS, before)
	if p.ResolvAt, err = followLinks("/etc/resolv.conf"); err != nil {
		return fmt.Errorf("finding resolv.conf: %w", err)
	}
	if _, err := os.Lstat(p.ResolvAt); err != nil && !p.covered(p.ResolvAt) {
		return agent.WithHint(fmt.Errorf("replacing resolv.conf: %w", err), "as root: touch /etc/resolv.conf; a file can only be mounted over one that is there")
	}
	nss, err := readWhole("/etc/nsswitch.conf")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // then libc asks files and DNS (nsswitch.conf(5))
	case err != nil:
		return fmt.Errorf("reading nsswitch.conf: %w", err)
	}
	p.Nsswitch = hostsByDNS(nss)
	return nil
}

// resolvConf keeps the search list and the options of the one before.
func resolvConf(dns []netip.Addr, before []byte) string {
	var b strings.Builder
	for _, d := range dns {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	for line := range bytes.Lines(before) {
		if f := strings.Fields(string(line)); len(f) > 1 && (f[0] == "search" || f[0] == "domain" || f[0] == "options") {
			b.WriteString(strings.Join(f, " ") + "\n")
		}
	}
	return b.String()
}

// hostsByDNS is an nsswitch.conf in which hosts are looked up in files and DNS.
func hostsByDNS(nss []byte) string {
	var b strings.Builder
	for line := range bytes.Lines(nss) {
		if name, _, ok := strings.Cut(strings.TrimSpace(string(line)), ":"); ok && name == "hosts" {
			continue
		}
		b.WriteString(strings.TrimRight(string(line), "\n") + "\n")
	}
	b.WriteString("hosts: files dns\n")
	return b.String()
}

// followLinks resolves symbolic links as EvalSymlinks does, but takes one that
// leads to what is not there.
func followLinks(path string) (string, error) {
	for range 40 { // path_resolution(7)
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, filepath.Base(path))
		target, err := os.Readlink(path)
		if err != nil {
			return path, nil // not a link, or not there
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		path = filepath.Clean(target)
	}
	return "", errors.New("too many symbolic links")
}

func readWhole(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, err
}

package agent

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// Bounds of what the gateway may say of SSH hosts.
const (
	maxSSHLine = 512 // bytes: a name of 253, a port, and an ed25519 key of 80
	sshPort    = 22
)

// sshHosts are the host keys with which the gateway presents itself as the hosts
// of its SSH endpoints, and the authority that certifies them. Nothing of it is
// secret. The zero value knows none.
type sshHosts struct {
	authority string // "ssh-ed25519 AAAA…"; "": none
	hosts     []sshHost
}

// sshHost is one of them.
type sshHost struct {
	name string // a host's, in lower case, or an address
	port uint16
	key  string // "ssh-ed25519 AAAA…"
}

// String is the host as known_hosts files have it (sshd(8), SSH_KNOWN_HOSTS FILE
// FORMAT).
func (h sshHost) String() string {
	if h.port == sshPort {
		return h.name
	}
	return "[" + h.name + "]:" + strconv.Itoa(int(h.port))
}

// checkSSHHosts takes what the gateway says into a form that is safe to write
// into files that programs act on: what it cannot read is left out, and said in
// one error for each.
func checkSSHHosts(authority string, lines []string) (sshHosts, []error) {
	var (
		k    sshHosts
		errs []error
		keys = make(map[string]string) // by host
	)
	if authority != "" {
		key, err := parseSSHAuthority(authority)
		if err != nil {
			errs = append(errs, err)
		}
		k.authority = key
	}
	if len(lines) > enrolment.MaxSSHHosts {
		errs = append(errs, fmt.Errorf("the gateway names %d SSH hosts: all but the first %d are left out", len(lines), enrolment.MaxSSHHosts))
		lines = lines[:enrolment.MaxSSHHosts]
	}
	for _, line := range lines {
		h, err := parseSSHHost(line)
		if err != nil {
			errs = append(errs, fmt.Errorf("an SSH host of the gateway's is left out: %w: %q", err, oneLine(line)))
			continue
		}
		switch key, there := keys[h.String()]; {
		case !there:
			keys[h.String()] = h.key
			k.hosts = append(k.hosts, h)
		case key != h.key:
			errs = append(errs, fmt.Errorf("the gateway names two keys of the SSH host %s: the second is left out", h))
		}
	}
	slices.SortFunc(k.hosts, func(a, b sshHost) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.port, b.port))
	})
	return k, errs
}

// parseSSHAuthority reads the public key of the gateway's SSH CA: one ed25519 key
// and nothing else (I12).
func parseSSHAuthority(s string) (string, error) {
	key, err := parseED25519(s)
	if err != nil {
		return "", fmt.Errorf("reading the key of the gateway's SSH authority: %w", err)
	}
	return key, nil
}

// checkSSHCA refuses a claim whose SSH authority is not one. A gateway that has
// none names none.
func checkSSHCA(authority string) error {
	if authority == "" {
		return nil
	}
	_, err := parseSSHAuthority(authority)
	return err
}

func parseED25519(s string) (string, error) {
	const form = "it is not one ed25519 key"
	kind, text, _ := strings.Cut(s, " ")
	if kind != ssh.KeyAlgoED25519 || len(s) > maxSSHLine {
		return "", errors.New(form)
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which the decoder skips
		return "", errors.New(form)
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil || key.Type() != ssh.KeyAlgoED25519 || !bytes.Equal(key.Marshal(), blob) {
		return "", errors.New(form)
	}
	return s, nil
}

// parseSSHHost reads one line of a known_hosts file that names exactly one host,
// without a pattern, and its ed25519 key.
func parseSSHHost(line string) (sshHost, error) {
	if len(line) > maxSSHLine {
		return sshHost{}, fmt.Errorf("it is longer than %d bytes", maxSSHLine)
	}
	if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
		return sshHost{}, errors.New("it is not printable ASCII")
	}
	marker, hosts, key, _, _, err := ssh.ParseKnownHosts([]byte(line))
	switch {
	case err != nil:
		return sshHost{}, errors.New("it is not a line of a known_hosts file")
	case marker != "":
		return sshHost{}, errors.New("it has a marker")
	case len(hosts) != 1:
		return sshHost{}, errors.New("it does not name one host")
	case key.Type() != ssh.KeyAlgoED25519:
		return sshHost{}, errors.New("its key is not an ed25519 key")
	}
	h := sshHost{name: strings.ToLower(hosts[0]), port: sshPort, key: marshalKey(key)}
	if strings.HasPrefix(h.name, "[") {
		name, port, err := net.SplitHostPort(h.name)
		n, numeric := strconv.ParseUint(port, 10, 16)
		if err != nil || numeric != nil || n == 0 {
			return sshHost{}, errors.New("it does not name one host")
		}
		h.name, h.port = name, uint16(n)
	}
	if !plainHost(h.name) {
		return sshHost{}, errors.New("it does not name one host")
	}
	addr, _ := netip.ParseAddr(h.name)
	if h.name == "localhost" || strings.HasSuffix(h.name, ".localhost") || addr.IsLoopback() { // RFC 6761, section 6.3
		return sshHost{}, errors.New("it names this host itself")
	}
	return h, nil
}

// marshalKey is a key as known_hosts files have it.
func marshalKey(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// What surrounds our lines in a file that has lines of others, and ends each of
// them as its comment.
const (
	blockBegin = "# Begin of the SSH host keys of clawpatrol's gateway. The lines up to the end are replaced."
	blockEnd   = "# End of the SSH host keys of clawpatrol's gateway."
	blockTag   = " clawpatrol"
)

// block is what goes into a known_hosts file, or nothing where nothing is known.
//
// OpenSSH takes the pattern * for all ports, and Go's knownhosts for port 22
// only. Exact lines come first: a library that knows no authority may read no
// further than to one.
func (k sshHosts) block() []byte {
	if k.authority == "" && len(k.hosts) == 0 {
		return nil
	}
	var b bytes.Buffer
	b.WriteString(blockBegin + "\n")
	for _, h := range k.hosts {
		fmt.Fprintf(&b, "%s %s%s\n", h, h.key, blockTag)
	}
	if k.authority != "" {
		fmt.Fprintf(&b, "@cert-authority * %s%s\n", k.authority, blockTag)
		for _, port := range k.ports() {
			fmt.Fprintf(&b, "@cert-authority [*]:%d %s%s\n", port, k.authority, blockTag)
		}
	}
	b.WriteString(blockEnd + "\n")
	return b.Bytes()
}

// ports are those of the hosts, but 22.
func (k sshHosts) ports() []uint16 {
	var ports []uint16
	for _, h := range k.hosts {
		if h.port != sshPort {
			ports = append(ports, h.port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// parseBlock reads what block wrote.
func parseBlock(b []byte) (sshHosts, error) {
	var k sshHosts
	errDamaged := errors.New("it is damaged")
	text, ours := strings.CutPrefix(string(b), blockBegin+"\n")
	text, whole := strings.CutSuffix(text, blockEnd+"\n")
	if !ours || !whole {
		return sshHosts{}, errDamaged
	}
	for line := range strings.Lines(text) {
		line, tagged := strings.CutSuffix(line, blockTag+"\n")
		if !tagged {
			return sshHosts{}, errDamaged
		}
		if rest, ok := strings.CutPrefix(line, "@cert-authority "); ok {
			_, key, _ := strings.Cut(rest, " ")
			var err error
			if k.authority, err = parseSSHAuthority(key); err != nil {
				return sshHosts{}, errDamaged
			}
			continue
		}
		h, err := parseSSHHost(line)
		if err != nil || len(k.hosts) == enrolment.MaxSSHHosts {
			return sshHosts{}, errDamaged
		}
		k.hosts = append(k.hosts, h)
	}
	return k, nil
}

// WithSSHHosts puts a block of ours at the top of what a known_hosts file holds,
// in place of any that is there, and leaves every other line as it is. At the
// top, because of several lines for a host many libraries take the first.
func WithSSHHosts(content, block []byte) []byte {
	return append(bytes.Clone(block), withoutBlock(content)...)
}

// withoutBlock takes our blocks out. Of one whose end somebody has removed, the
// lines that have our tag go.
func withoutBlock(content []byte) []byte {
	lines := slices.Collect(bytes.Lines(content))
	is := func(line []byte, mark string) bool { return string(bytes.TrimRight(line, "\r\n")) == mark }
	var out []byte
	for len(lines) > 0 {
		line := lines[0]
		lines = lines[1:]
		if is(line, blockEnd) {
			continue
		}
		if !is(line, blockBegin) {
			out = append(out, line...)
			continue
		}
		end := slices.IndexFunc(lines, func(l []byte) bool { return is(l, blockEnd) || is(l, blockBegin) })
		if end >= 0 && is(lines[end], blockEnd) {
			lines = lines[end+1:]
			continue
		}
		for len(lines) > 0 && bytes.HasSuffix(bytes.TrimRight(lines[0], "\r\n"), []byte(blockTag)) {
			lines = lines[1:]
		}
	}
	return out
}

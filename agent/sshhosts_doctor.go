package agent

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// maxHashed bounds how often a name is compared with a hashed one, at about a
	// microsecond each.
	maxHashed = 1 << 20

	maxSSHConfig = 64 << 10 // bytes of what ssh -G says

	maxNamed = 5 // of many alike: stored keys in one check, notes of one poll

	hintTrustSSH = "run clawpatrol trust --ssh as that user"
)

// ssh checks what SSH programs find of the gateway's host keys, and what they
// would take for a contradiction.
func (d *doctor) ssh(ctx context.Context) {
	const name = "ssh"
	block, k, err := d.a.readSSHHosts()
	if err != nil {
		d.failed(name, err, hintUp)
		return
	}
	if len(block) == 0 {
		d.ok(name, "the gateway has told no SSH host keys")
		return
	}
	_, system, err := readKnownHosts(d.a.host(SystemKnownHosts))
	switch {
	case errors.Is(err, os.ErrPermission):
		d.fail(name, "as root: chmod 644 "+SystemKnownHosts, "other users than root cannot read %s", SystemKnownHosts)
	case err != nil:
		d.failed(name, err, "")
	case !bytes.Contains(system.Content, block) && !d.held:
		d.fail(name, "see tunnel: they come with it", "the gateway's host keys are not in %s", SystemKnownHosts)
	case !bytes.Contains(system.Content, block):
		d.fail(name, "stop and start clawpatrol up, which installs them, or says why it cannot", "the gateway's host keys are not in %s, or not all of them", SystemKnownHosts)
	case system.Mode&0o044 != 0o044:
		d.warn(name, "as root: chmod 644 "+SystemKnownHosts, "other users than root cannot read %s", SystemKnownHosts)
	default:
		if revoked := k.revoked(readStored(system.Content)); revoked != nil {
			d.fail(name, "remove that line: OpenSSH refuses the gateway because of it", "%s:%d revokes a key of the gateway's", SystemKnownHosts, revoked.line)
			break
		}
		d.ok(name, "the host keys of %d hosts are in %s", len(k.hosts), SystemKnownHosts)
	}
	d.openSSH(ctx, k)
	for _, home := range homes() {
		d.stored(ctx, filepath.Join(home, userKnownHosts), k)
	}
}

// homes are those of the caller, and of whoever called sudo.
func homes() []string {
	var out []string
	if home, err := os.UserHomeDir(); err == nil {
		out = append(out, home)
	}
	if os.Geteuid() == 0 {
		if u, err := user.LookupId(os.Getenv("SUDO_UID")); err == nil && !slices.Contains(out, u.HomeDir) {
			out = append(out, u.HomeDir)
		}
	}
	return out
}

// openSSH asks ssh what its configuration makes of it.
func (d *doctor) openSSH(ctx context.Context, k sshHosts) {
	const name = "openssh"
	program := d.a.program("ssh")
	if program == "" || len(k.hosts) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-G", "-p", fmt.Sprint(k.hosts[0].port), k.hosts[0].name)
	cmd.WaitDelay = time.Second
	out := &boundedOutput{left: maxSSHConfig}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		d.warn(name, "see what ssh -G "+k.hosts[0].name+" says", "%s cannot read its configuration: %s", program, lastLine(out.Bytes()))
		return
	}
	hint, problem := judgeSSHConfig(out.Bytes())
	if problem != "" {
		d.warn(name, hint, "%s %s", program, problem)
		return
	}
	d.ok(name, "%s reads %s and accepts ed25519 host keys", program, SystemKnownHosts)
}

// judgeSSHConfig reads the output of ssh -G.
func judgeSSHConfig(out []byte) (hint, problem string) {
	values := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 {
			values[f[0]] = f[1:]
		}
	}
	algorithms := strings.Split(strings.Join(values["hostkeyalgorithms"], ","), ",")
	switch {
	case !slices.Contains(values["globalknownhostsfile"], SystemKnownHosts):
		return "take GlobalKnownHostsFile out of ssh's configuration, or name " + SystemKnownHosts + " in it too", "does not read " + SystemKnownHosts
	case !slices.Contains(algorithms, ssh.KeyAlgoED25519) && !slices.Contains(algorithms, ssh.CertAlgoED25519v01):
		return "take HostKeyAlgorithms out of ssh's configuration, or add ssh-ed25519; a policy of the system's, as FIPS, may forbid it", "does not accept ed25519 host keys, and the gateway has no other"
	}
	return "", ""
}

// stored checks a user's own file. Libraries that read no other take a key of
// the real host's, stored before the host was the gateway's, for the only right
// one.
func (d *doctor) stored(ctx context.Context, file string, k sshHosts) {
	name := "ssh " + file
	_, now, err := readKnownHosts(file)
	if err != nil {
		d.failed(name, err, "")
		return
	}
	entries := readStored(now.Content)
	if revoked := k.revoked(entries); revoked != nil {
		d.fail(name, "remove that line: OpenSSH refuses the gateway because of it", "line %d revokes a key of the gateway's", revoked.line)
		return
	}
	var wrong []string
	missing, left := 0, maxHashed
	for _, h := range k.hosts {
		first := slices.IndexFunc(entries, func(e storedKey) bool { return e.marker == "" && e.matches(h.String(), &left) })
		if ctx.Err() != nil {
			return
		}
		switch {
		case first < 0:
			missing++
		case entries[first].key() != h.key:
			wrong = append(wrong, fmt.Sprintf("line %d has %s for %s", entries[first].line, entries[first].fingerprint(), h))
		}
	}
	trusts := bytes.Contains(now.Content, []byte(blockBegin))
	switch {
	case len(wrong) > 0:
		more := ""
		if len(wrong) > maxNamed {
			more = fmt.Sprintf(", and %d more", len(wrong)-maxNamed)
			wrong = wrong[:maxNamed]
		}
		d.warn(name, hintTrustSSH+", which puts the gateway's keys before them; or remove each: ssh-keygen -f "+shellQuote(file)+" -R HOST",
			"OpenSSH follows the gateway's authority, but other libraries (paramiko, libssh2, JSch) refuse the gateway because of other keys here: %s%s", strings.Join(wrong, ", "), more)
	case left <= 0:
		d.warn(name, hintTrustSSH, "not looked through: it has too many hashed names")
	case trusts && missing > 0:
		d.warn(name, hintTrustSSH+" again", "it lacks %d of the gateway's %d hosts, which are newer", missing, len(k.hosts))
	case trusts:
		d.ok(name, "it has the gateway's host keys, for libraries that read no other file")
	default:
		d.ok(name, "nothing in it contradicts the gateway's host keys; libraries that read no other file find them there after clawpatrol trust --ssh")
	}
}

// revoked returns the line that revokes a key of the gateway's, or nil.
func (k sshHosts) revoked(entries []storedKey) *storedKey {
	for i, e := range entries {
		if e.marker == "@revoked" && (e.key() == k.authority || slices.ContainsFunc(k.hosts, func(h sshHost) bool { return h.key == e.key() })) {
			return &entries[i]
		}
	}
	return nil
}

// hashMark begins a hashed name.
const hashMark = "|1|"

// storedKey is a line of a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE
// FORMAT).
type storedKey struct {
	line   int    // from 1
	marker string // with its @; "": none
	names  string // patterns in lower case with commas between them, or a hash
	kind   string
	blob   string // base64
}

// readStored reads what can be read as a line.
func readStored(content []byte) []storedKey {
	var out []storedKey
	n := 0
	for line := range bytes.Lines(content) {
		n++
		f := strings.Fields(string(line))
		e := storedKey{line: n}
		if len(f) > 0 && strings.HasPrefix(f[0], "@") {
			e.marker, f = f[0], f[1:]
		}
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			continue
		}
		e.names, e.kind, e.blob = f[0], f[1], f[2]
		if !strings.HasPrefix(e.names, hashMark) {
			e.names = strings.ToLower(e.names)
		}
		out = append(out, e)
	}
	return out
}

func (e storedKey) key() string { return e.kind + " " + e.blob }

// fingerprint is as ssh-keygen -l has it.
func (e storedKey) fingerprint() string {
	if blob, err := base64.StdEncoding.DecodeString(e.blob); err == nil {
		if key, err := ssh.ParsePublicKey(blob); err == nil {
			return oneLine(e.kind) + " " + ssh.FingerprintSHA256(key)
		}
	}
	return oneLine(e.kind)
}

// matches reports whether the line is for host, which is as sshHost.String has
// it. A hashed name costs one of left, and matches nothing once none is left.
func (e storedKey) matches(host string, left *int) bool {
	if rest, hashed := strings.CutPrefix(e.names, hashMark); hashed {
		if *left--; *left < 0 {
			return false
		}
		// HMAC-SHA1 of the name, its key before it.
		salt, sum, _ := strings.Cut(rest, "|")
		key, err := base64.StdEncoding.DecodeString(salt)
		want, err2 := base64.StdEncoding.DecodeString(sum)
		if err != nil || err2 != nil {
			return false
		}
		mac := hmac.New(sha1.New, key)
		mac.Write([]byte(host))
		return hmac.Equal(mac.Sum(nil), want)
	}
	matched := false
	for pattern := range strings.SplitSeq(e.names, ",") {
		pattern, negated := strings.CutPrefix(pattern, "!")
		if matchPattern(pattern, host) {
			if negated {
				return false
			}
			matched = true
		}
	}
	return matched
}

// matchPattern is ssh's: * for any letters, ? for one (ssh_config(5), PATTERNS).
// It takes time that grows with the product of the lengths at most.
func matchPattern(pattern, s string) bool {
	star, from := -1, 0 // the last *, and where in s what it stands for ends
	p := 0
	for i := 0; i < len(s); {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// userKnownHosts is below a home directory.
const userKnownHosts = ".ssh/known_hosts"

// TrustSSH puts the gateway's SSH host keys into the known_hosts file of the
// calling user, for libraries that read no other: paramiko, libssh2, JSch. It
// returns the file, and how many hosts it has of the gateway's now. Hosts that
// the gateway gets later are not in it.
func (a *Agent) TrustSSH() (file string, hosts int, err error) {
	if _, err := a.readEnv(); err != nil {
		return "", 0, err
	}
	block, k, err := a.readSSHHosts()
	if err != nil {
		return "", 0, err
	}
	if len(block) == 0 {
		return "", 0, WithHint(errors.New("the gateway has told no SSH host keys"), "none of this registration's endpoints may be of type ssh; or start clawpatrol up once more")
	}
	file, err = changeUserKnownHosts(block)
	return file, len(k.hosts), err
}

// DistrustSSH takes them out again. It needs no enrolment: what leave cannot know
// of is undone afterwards.
func (a *Agent) DistrustSSH() (file string, err error) { return changeUserKnownHosts(nil) }

// changeUserKnownHosts replaces our block in the calling user's file. nil: there
// is to be none.
func changeUserKnownHosts(block []byte) (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", WithHint(err, "set HOME")
	}
	named := filepath.Join(home, userKnownHosts)
	file, now, err := readKnownHosts(named)
	if err != nil {
		return "", fmt.Errorf("reading the known hosts: %w", err)
	}
	content := WithSSHHosts(now.Content, block)
	if bytes.Equal(content, now.Content) {
		return file, nil
	}
	for _, path := range []string{home, filepath.Dir(named), file} {
		if err := checkOwn(path); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(filepath.Dir(named), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("making the directory of the known hosts: %w", err)
	}
	if now.Kind == "absent" {
		now.Mode = 0o600
	}
	return file, exchangeFile(file, content, now)
}

// checkOwn refuses what belongs to someone else: as root, this would take a
// user's own file away from them.
func checkOwn(path string) error {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if int(st.Uid) != os.Geteuid() {
		return WithHint(fmt.Errorf("%s belongs to user %d", path, st.Uid), "run it as that user, without sudo")
	}
	return nil
}

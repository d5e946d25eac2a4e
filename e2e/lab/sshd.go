package lab

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHAccount is who may log in to the world's SSH servers. Its home is
// SSHAccountHome.
const (
	SSHAccount     = "deploy"
	SSHAccountHome = "/var/home/" + SSHAccount
)

// SSHD is Debian's OpenSSH server, in the world. Everything that it runs ends
// with it.
type SSHD struct {
	Log     *Output // says who was accepted by what
	HostKey string  // of the present key, as in a .pub file

	host   *Host
	dir    string
	addrs  []string
	config string
	stop   func() error // nil: it does not run
}

// SSHDConfig describes one.
type SSHDConfig struct {
	Name       string // which then resolves to it
	Offset     int    // of its addresses, as for ServeHTTPS
	Authorized string // the only key that SSHAccount has here, as in a .pub file
	Password   string // of SSHAccount; "": none is taken
	More       string // lines of sshd_config
}

// StartSSHD starts one on port 22, with a host key of its own.
func (l *Lab) StartSSHD(ctx context.Context, cfg SSHDConfig) (*SSHD, error) {
	s, err := l.startSSHD(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("starting sshd for %s: %w", cfg.Name, err)
	}
	return s, nil
}

func (l *Lab) startSSHD(ctx context.Context, cfg SSHDConfig) (*SSHD, error) {
	v4, v6, err := l.worldAddresses(ctx, cfg.Offset)
	if err != nil {
		return nil, err
	}
	s := &SSHD{Log: new(Output), host: l.World, dir: "/etc/sshd-" + cfg.Name, addrs: []string{v4, v6}}
	// The host's own /etc/passwd: nothing of this machine's changes. "*" is a
	// password that nothing matches, of an account that is not locked.
	if err := l.World.Script(ctx, fmt.Sprintf(`
		mkdir -p /run/sshd %[1]s /var/home
		id %[2]s >/dev/null 2>&1 || useradd --home-dir %[3]s --create-home --shell /bin/bash --password '*' %[2]s`,
		s.dir, SSHAccount, SSHAccountHome)); err != nil {
		return nil, err
	}
	passwords := "no"
	if cfg.Password != "" {
		passwords = "yes"
		if err := l.World.Script(ctx, "echo "+Quote(SSHAccount+":"+cfg.Password)+" | chpasswd"); err != nil {
			return nil, err
		}
	}
	if err := l.World.WriteFile(s.dir+"/authorized_keys", cfg.Authorized+"\n", 0o644); err != nil {
		return nil, err
	}
	s.config = fmt.Sprintf(`
HostKey %[1]s/host_key
PidFile none
AllowUsers %[2]s
AuthorizedKeysFile %[1]s/authorized_keys
PasswordAuthentication %[3]s
KbdInteractiveAuthentication no
UsePAM no
PrintMotd no
LogLevel VERBOSE
MaxStartups 100
MaxSessions 100
Subsystem sftp /usr/lib/openssh/sftp-server
AcceptEnv LANG LC_*
%[4]s
`, s.dir, SSHAccount, passwords, cfg.More)
	for _, a := range s.addrs {
		s.config = "ListenAddress " + a + "\n" + s.config
	}
	if err := s.NewHostKey(); err != nil {
		return nil, err
	}
	l.onClose(s.Stop)
	l.Names.Set(cfg.Name, mustAddr(v4), mustAddr(v6))
	return s, s.Start(ctx)
}

// NewHostKey gives it another host key, from its next start on.
func (s *SSHD) NewHostKey() error {
	public, private, err := SSHKey()
	if err != nil {
		return err
	}
	s.HostKey = public
	return s.host.WriteFile(s.dir+"/host_key", private, 0o600)
}

// Start starts it again.
func (s *SSHD) Start(ctx context.Context) error {
	if err := s.host.WriteFile(s.dir+"/sshd_config", s.config, 0o644); err != nil {
		return err
	}
	// Sessions are in process groups of their own; a PID namespace ends them all.
	cmd := s.host.Command(context.WithoutCancel(ctx), "unshare", "--pid", "--fork", "--kill-child", "/usr/sbin/sshd", "-D", "-e", "-f", s.dir+"/sshd_config")
	cmd.Stdout, cmd.Stderr = s.Log, s.Log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.stop = func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // reports the kill
		return nil
	}
	err := Eventually(ctx, 10*time.Second, func() error {
		c, err := s.host.Dial(ctx, "tcp", net.JoinHostPort(s.addrs[0], "22"))
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, s.Log)
	}
	return nil
}

// Stop ends it with everything it runs.
func (s *SSHD) Stop() error {
	if s.stop == nil {
		return nil
	}
	err := s.stop()
	s.stop = nil
	return err
}

// SSHKey makes an ed25519 key: a line of an authorized_keys file, and a private
// key as ssh-keygen writes it.
func SSHKey() (public, private string, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", "", err
	}
	block, err := ssh.MarshalPrivateKey(key, "lab")
	if err != nil {
		return "", "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPub))), string(pem.EncodeToMemory(block)), nil
}

// ReadFile reads a file of the host.
func (h *Host) ReadFile(path string) (string, error) {
	b, err := os.ReadFile(h.Path(path))
	return string(b), err
}

// WorldAddresses are the IPv4 and the IPv6 address of a server of the world that
// has this offset.
func WorldAddresses(offset int) []netip.Addr {
	return []netip.Addr{mustAddr(fmt.Sprintf("192.0.2.%d", 10+offset)), mustAddr(fmt.Sprintf("2001:db8:c::%d", 10+offset))}
}

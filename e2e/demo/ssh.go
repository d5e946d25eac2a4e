package main

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	buildHost = "build.example.com"

	// Who runs ssh on the agent host: a user of the lab's own, for root's home is
	// that of this machine.
	sshUser = "agent"
	sshHome = "/var/home/" + sshUser
)

// sshLeg has Debian's OpenSSH server as the upstream: it lets in nobody but who
// has the credential's key, and logs which one it was.
func sshLeg(ctx context.Context, l *lab.Lab) (leg, error) {
	public, private, err := lab.SSHKey()
	if err != nil {
		return leg{}, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		return leg{}, err
	}
	fingerprint := ssh.FingerprintSHA256(key)
	server, err := l.StartSSHD(ctx, lab.SSHDConfig{Name: buildHost, Offset: 1, Authorized: public})
	if err != nil {
		return leg{}, err
	}
	return leg{
		title: "SSH: ssh and sftp on the agent host",
		policy: `
endpoint "ssh" "build" {
  hosts     = ["` + buildHost + `"]
  host_keys = ["` + server.HostKey + `"]
}
credential "ssh_key" "deploy" {
  endpoint = ssh.build
  user     = "` + lab.SSHAccount + `"
}
`,
		profile: []string{"ssh_key.deploy"},
		credential: func(ctx context.Context, op *lab.Operator) error {
			return op.Do(ctx, "PUT", "/api/credentials/ssh_key/deploy", map[string]any{"slots": map[string]string{"private_key": private}}, nil)
		},
		show: func(ctx context.Context, agent *lab.Joined) error {
			if err := agent.Script(ctx, "mkdir -p /var/home; useradd --create-home --home-dir "+sshHome+" --shell /bin/sh "+sshUser); err != nil {
				return err
			}
			server.Log.Mark()
			for _, step := range []struct{ line, want string }{
				{"ls -A ~/.ssh 2>/dev/null | wc -l", "0\n"},
				{"ssh " + buildHost + " 'echo hello from $(id -un)'", "hello from " + lab.SSHAccount + "\n"},
				{"echo 'ls -1 /etc/debian_version' | sftp -qb - " + buildHost + " | tail -n 1", "/etc/debian_version\n"},
			} {
				out, err := agent.Run(ctx, "setpriv", "--reuid="+sshUser, "--regid="+sshUser, "--init-groups",
					"env", "-i", "HOME="+sshHome, "PATH=/usr/bin:/bin", "sh", "-c", step.line)
				if err != nil {
					return err
				}
				fmt.Printf("  agent$ %s\n         %s", step.line, out)
				if out != step.want {
					return fmt.Errorf("%s printed %q", step.line, out)
				}
			}
			fmt.Println("  and this is what the upstream saw:")
			seen := 0
			for line := range strings.Lines(server.Log.String()) {
				if strings.HasPrefix(line, "Accepted publickey for ") {
					indent(strings.TrimSpace(line))
					if strings.Contains(line, fingerprint) {
						seen++
					}
				}
			}
			fmt.Printf("  the credential's key is %s\n", fingerprint)
			if seen == 0 {
				return fmt.Errorf("the upstream has not seen the credential's key:\n%s", server.Log)
			}
			return nil
		},
	}, nil
}

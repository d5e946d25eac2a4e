package ssh_test

import (
	"strings"
	"testing"

	xssh "golang.org/x/crypto/ssh"
)

// I06: where a jump has several credentials the agent's login chooses, though the
// endpoint behind it has one.
func TestJump_TheAgentsLoginChoosesItsCredential(t *testing.T) {
	key, private := newKeyPEM(t, "")
	u := newUpstream(t, "deploy", key.PublicKey())
	bastion := newUpstream(t, "bob", key.PublicKey(), func(u *upstream) { u.channel = dialOnward })
	l := newLab(t, endpoint("build", host, u.address, u.host.PublicKey(), "jump = ssh.bastion")+
		endpoint("bastion", "bastion.example.com", bastion.address, bastion.host.PublicKey())+`
		credential "ssh_key" "build" {
			endpoint = ssh.build
			user = "deploy"
		}
		credential "ssh_key" "alice" {
			endpoint = ssh.bastion
			user = "alice"
		}
		credential "ssh_key" "bob" {
			endpoint = ssh.bastion
			user = "bob"
		}
		profile "all" { credentials = [ssh_key.build, ssh_key.alice, ssh_key.bob] }`)
	for _, ref := range []string{"ssh_key.build", "ssh_key.alice", "ssh_key.bob"} {
		l.SetSecret(ref, "private_key", private)
	}
	id := l.Approve("a", "all")
	if out, _, err := output(t, l.connect(id, "bob"), "echo through"); out != "through\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	for _, row := range l.Actions(id) {
		if strings.HasSuffix(row.Summary, " as a jump") && row.Credential != "ssh_key.bob" {
			t.Errorf("the jump was used with %s", row.Credential)
		}
	}
}

// A jump that fills its errors' window would hold up what leads through it.
func TestJump_ItsErrorsAreReadAndDropped(t *testing.T) {
	key, private := newKeyPEM(t, "")
	u := newUpstream(t, "deploy", key.PublicKey())
	bastion := newUpstream(t, "deploy", key.PublicKey(), func(u *upstream) {
		u.channel = func(opened xssh.NewChannel) { dialOnward(noisy{opened}) }
	})
	l := newLab(t, endpoint("build", host, u.address, u.host.PublicKey(), "jump = ssh.bastion")+
		endpoint("bastion", "bastion.example.com", bastion.address, bastion.host.PublicKey())+`
		credential "ssh_key" "build" {
			endpoint = ssh.build
			user = "deploy"
		}
		credential "ssh_key" "bastion" {
			endpoint = ssh.bastion
			user = "deploy"
		}
		profile "both" { credentials = [ssh_key.build, ssh_key.bastion] }`)
	l.handler.SetPatience(wait, wait/2)
	l.SetSecret("ssh_key.build", "private_key", private)
	l.SetSecret("ssh_key.bastion", "private_key", private)
	l.Approve("a", "both")
	if out, _, err := output(t, l.connect(l.id(), "x"), "echo through"); out != "through\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// noisy is a channel that says more than a window has room for before anything
// else.
type noisy struct{ xssh.NewChannel }

func (n noisy) Accept() (xssh.Channel, <-chan *xssh.Request, error) {
	channel, requests, err := n.NewChannel.Accept()
	if err == nil {
		_, err = channel.Stderr().Write(make([]byte, 3<<20))
	}
	return channel, requests, err
}

package ssh_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/secret"
)

// I05: whatever the agent says of itself, its channel says who it is.
func TestI05_NoUserNameNorKeyChangesTheRegistration(t *testing.T) {
	key, private := newKeyPEM(t, "")
	var users []string
	u := newUpstream(t, "", nil, func(u *upstream) {
		u.config.PublicKeyCallback = func(m xssh.ConnMetadata, k xssh.PublicKey) (*xssh.Permissions, error) {
			users = append(users, m.User())
			return nil, nil
		}
	})
	l := newLab(t, endpoint("build", host, u.address, u.host.PublicKey())+`
		credential "ssh_key" "mine" {
			endpoint = ssh.build
			user = "mine"
		}
		credential "ssh_key" "other" {
			endpoint = ssh.build
			user = "other"
		}
		profile "mine" { credentials = [ssh_key.mine] }
		profile "other" { credentials = [ssh_key.other] }`)
	l.SetSecret("ssh_key.mine", "private_key", private)
	l.SetSecret("ssh_key.other", "private_key", private)
	mine, other := l.Approve("mine", "mine"), l.Approve("other", "other")
	for _, login := range []string{"other", "clawpatrol-other", string(other)} {
		config := l.config(login)
		config.Auth = []xssh.AuthMethod{xssh.PublicKeys(key)}
		if _, _, err := l.try(mine, host, config); err != nil {
			t.Errorf("%s: %v", login, err)
		}
	}
	for _, user := range users {
		if user != "mine" {
			t.Errorf("upstream as %s", user)
		}
	}
	if rows := l.Actions(other); len(rows) > 0 {
		t.Errorf("the other registration has %v", rows)
	}
}

// I06: a credential of another registration's profile is never used, for the
// endpoint nor for the jump before it.
func TestI06_OnlyCredentialsOfTheOwnProfiles(t *testing.T) {
	key, private := newKeyPEM(t, "")
	u := newUpstream(t, "deploy", key.PublicKey())
	bastion := newUpstream(t, "deploy", key.PublicKey(), func(u *upstream) { u.channel = dialOnward })
	policy := func(both string) string {
		return endpoint("build", host, u.address, u.host.PublicKey(), "jump = ssh.bastion") +
			endpoint("bastion", "bastion.example.com", bastion.address, bastion.host.PublicKey()) + `
		credential "ssh_key" "build" {
			endpoint = ssh.build
			user = "deploy"
		}
		credential "ssh_key" "bastion" {
			endpoint = ssh.bastion
			user = "deploy"
		}
		profile "both" { credentials = [` + both + `] }
		profile "half" { credentials = [ssh_key.build] }`
	}
	l := newLab(t, policy("ssh_key.build, ssh_key.bastion"))
	l.SetSecret("ssh_key.build", "private_key", private)
	l.SetSecret("ssh_key.bastion", "private_key", private)
	both, half := l.Approve("both", "both"), l.Approve("half", "half")
	if _, told, err := l.try(half, host, l.config("x")); err == nil || !strings.Contains(told, "this registration has no credential for this destination") {
		t.Errorf("%v, told %q", err, told)
	}
	if bastion.connections.Load()+u.connections.Load() > 0 {
		t.Error("somebody was connected to")
	}
	client, told, err := l.try(both, host, l.config("x"))
	if err != nil {
		t.Fatalf("%v, told %q\n%s", err, told, l.said.String())
	}
	if out, _, err := output(t, client, "echo through"); out != "through\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	want := []string{"allow connect bastion.example.com as a jump", "allow connect deploy@build.example.com", "allow exec echo through"}
	if got := l.summaries(both); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("logged %q", got)
	}
	// The jump's credential is taken away: the flow is no longer covered.
	l.Reload(policy("ssh_key.build"))
	ended := make(chan struct{})
	go func() { _ = client.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(wait):
		t.Error("the connection outlives its jump's credential")
	}
}

// I12: the keys that agents see are ed25519.
func TestI12_HostKeysAreEd25519(t *testing.T) {
	_, _, connect := pair(t, nil)
	client := connect()
	if algorithms := client.Conn.(xssh.AlgorithmsConnMetadata).Algorithms(); algorithms.HostKey != xssh.CertAlgoED25519v01 {
		t.Errorf("host key by %s", algorithms.HostKey)
	}
	l, _, _ := pair(t, nil)
	for _, algorithm := range xssh.SupportedAlgorithms().HostKeys {
		config := l.config("x")
		config.HostKeyCallback = xssh.FixedHostKey(l.keys.host.PublicKey())
		config.HostKeyAlgorithms = []string{algorithm}
		_, _, err := l.try(l.id(), host, config)
		if algorithm == xssh.KeyAlgoED25519 && err != nil {
			t.Errorf("plain: %v", err)
		}
		if !strings.Contains(algorithm, "ed25519") && !noCommon(err) {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
	own, err := ca.NewSSH(secret.New(make([]byte, 32)))
	must(t, err)
	plain, certificate, err := own.HostSigners("ssh.build", host)
	must(t, err)
	if plain.PublicKey().Type() != xssh.KeyAlgoED25519 || certificate.PublicKey().Type() != xssh.CertAlgoED25519v01 {
		t.Errorf("minted %s and %s", plain.PublicKey().Type(), certificate.PublicKey().Type())
	}
}

func noCommon(err error) bool {
	var none *xssh.AlgorithmNegotiationError
	return errors.As(err, &none)
}

// I21: what should have carried the credential does not go ahead without it.
func TestI21_NothingGoesUpstreamWithoutTheCredential(t *testing.T) {
	t.Run("none is stored", func(t *testing.T) {
		u := newUpstream(t, "deploy", newKey(t).PublicKey())
		l := newLab(t, u.policy("ssh_key"))
		_, told, err := l.try(l.Approve("a", "ci"), host, l.config("x"))
		if err == nil || !strings.Contains(told, "credential ssh_key.deploy has no private_key set: an operator has to store it") {
			t.Errorf("%v, told %q", err, told)
		}
		if u.connections.Load() > 0 {
			t.Error("the upstream was connected to")
		}
	})
	t.Run("the upstream does not ask", func(t *testing.T) {
		l, u, _ := pair(t, func(u *upstream) { u.config.NoClientAuth = true })
		_, told, err := l.try(l.id(), host, l.config("x"))
		if err == nil || !strings.Contains(told, "without asking for the credential") {
			t.Errorf("%v, told %q", err, told)
		}
		if u.opened.Load() > 0 {
			t.Error("a channel was opened")
		}
	})
	t.Run("the secret has changed", func(t *testing.T) {
		l, u, connect := pair(t, nil)
		client := connect()
		l.SetSecret("ssh_key.deploy", "private_key", "another")
		_, said, err := output(t, client, "echo late")
		if exitCode(err) != 255 || !strings.Contains(said, "the credential of this connection has changed: connect again") {
			t.Errorf("%v, said %q", err, said)
		}
		if u.has("exec", "late") {
			t.Error("the command reached the upstream")
		}
	})
}

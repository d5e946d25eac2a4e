package ssh

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

func echo(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // either end may go
		}()
	}
}

// The first thing that anybody does: no key, no question, no option.
func TestSSH_PlainSSHWorks(t *testing.T) {
	before := w.servers[buildHost].accepted()
	for _, target := range []string{"deploy@" + buildHost, buildHost} { // whatever name the agent has
		r := w.run(t, "ssh "+target+" 'id -un; echo problem >&2' </dev/null")
		if r != (ran{"deploy\n", "problem\n", 0}) {
			t.Errorf("%s: %v", target, r)
		}
	}
	signer, err := ssh.ParsePrivateKey([]byte(w.key))
	must(t, err)
	log := w.servers[buildHost].Log.String()
	if n := w.servers[buildHost].accepted() - before; n != 2 {
		t.Errorf("build let the account in %d times", n)
	}
	if !strings.Contains(log, "from "+lab.GatewayIPv4.String()) && !strings.Contains(log, "from "+lab.GatewayIPv6.String()) || !strings.Contains(log, ssh.FingerprintSHA256(signer.PublicKey())) {
		t.Errorf("build saw another key or another host:\n%s", log)
	}
	if out := w.works(t, "find ~/.ssh -type f ! -size 0 2>/dev/null; true"); out != "" {
		t.Errorf("the agent's user has got %q", out)
	}
}

// Another port than 22 has lines of its own in known_hosts files.
func TestSSH_OtherPort(t *testing.T) {
	if out := w.works(t, "ssh -p 2222 "+portHost+" id -un </dev/null"); out != "deploy\n" {
		t.Errorf("%q", out)
	}
	if out := w.works(t, "clawpatrol trust --ssh >/dev/null; curl -sS sftp://deploy@"+portHost+":2222/etc/debian_version; clawpatrol trust --ssh --undo >/dev/null"); len(out) < 3 {
		t.Errorf("%q", out)
	}
}

func TestSSH_CopiesFiles(t *testing.T) {
	dir := scratch(t)
	w.works(t, "head -c 8000000 /dev/urandom >"+dir+"/a; mkdir "+dir+"/tree; for i in 1 2 3; do echo $i >"+dir+"/tree/$i; done; chmod 750 "+dir+"/tree/2")
	for name, line := range map[string]string{
		"scp":       "scp -q a " + buildHost + ":DIR/b; scp -q " + buildHost + ":DIR/b c",
		"old scp":   "scp -qO a " + buildHost + ":DIR/b; scp -qO " + buildHost + ":DIR/b c",
		"scp trees": "scp -qpr tree " + buildHost + ":DIR/there; scp -qpr " + buildHost + ":DIR/there back; diff -r tree back; test $(stat -c %a back/2) = 750; cp a c",
		"sftp":      `printf 'put a DIR/b\nget DIR/b c\nls -l DIR\nrename DIR/b DIR/d\nmkdir DIR/new\nrmdir DIR/new\n' >batch; sftp -qb batch ` + buildHost + ` >/dev/null; test -e DIR/d`,
		"rsync": "rsync -a a tree " + buildHost + ":DIR/there/; rsync -a " + buildHost + ":DIR/there/ back; diff -r tree back/tree; cp back/a c; " +
			"test \"$(rsync -ai a " + buildHost + ":DIR/there/)\" = ''",
		"curl sftp": "clawpatrol trust --ssh >/dev/null; curl -sS -T a sftp://deploy@" + buildHost + "DIR/b; curl -sS -o c sftp://deploy@" + buildHost + "DIR/b; clawpatrol trust --ssh --undo >/dev/null",
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			there := scratch(t)
			w.works(t, "set -e; cd "+dir+"; rm -rf b c back; "+strings.ReplaceAll(line, "DIR", there)+"; cmp a c")
		})
	}
}

// A large repository: pushed, and cloned again. It is random data, which nothing
// makes smaller; that it has come whole git itself knows, by its hashes.
func TestSSH_GitPushesAndClones(t *testing.T) {
	dir, there := scratch(t), scratch(t)
	out := w.works(t, fmt.Sprintf(`set -e
		export GIT_CONFIG_COUNT=6 GIT_CONFIG_KEY_0=core.compression GIT_CONFIG_VALUE_0=0 GIT_CONFIG_KEY_1=core.bigFileThreshold GIT_CONFIG_VALUE_1=1m
		export GIT_CONFIG_KEY_2=user.name GIT_CONFIG_VALUE_2=agent GIT_CONFIG_KEY_3=user.email GIT_CONFIG_VALUE_3=agent@example.com GIT_CONFIG_KEY_4=init.defaultBranch GIT_CONFIG_VALUE_4=main GIT_CONFIG_KEY_5=core.fsync GIT_CONFIG_VALUE_5=none
		ssh %[1]s 'git init -q --bare --initial-branch=main %[3]s/project.git; cd %[3]s/project.git; git config core.compression 0; git config core.bigFileThreshold 1m; git config receive.unpackLimit 1; git config core.fsync none'
		git init -q %[2]s/here; cd %[2]s/here
		for i in 1 2 3 4; do head -c 50000000 /dev/urandom >$i; done
		git add .; git commit -qm 'from the agent'
		git push -q ssh://git@%[1]s%[3]s/project.git HEAD:main
		git clone -q --bare deploy@%[1]s:%[3]s/project.git %[2]s/again
		git rev-parse HEAD; git -C %[2]s/again rev-parse main; du -sm %[2]s/again | cut -f1`, buildHost, dir, there))
	got := strings.Fields(out)
	if len(got) != 3 || got[0] != got[1] {
		t.Fatalf("%q", out)
	}
	if size, err := strconv.Atoi(got[2]); err != nil || size < 190 {
		t.Errorf("%q: %v", out, err)
	}
}

func TestSSH_ControlMasterSharesOneConnection(t *testing.T) {
	before := w.servers[buildHost].accepted()
	out := w.works(t, `set -e
		mkdir -p ~/master; trap 'rm -rf ~/master' EXIT
		share="-o ControlMaster=auto -o ControlPath=~/master/%C -o ControlPersist=30"
		ssh $share `+buildHost+` true
		for i in 1 2 3 4 5 6 7 8; do ssh $share `+buildHost+` "sleep 0.2; echo $i" & done | sort | tr -d '\n'
		wait
		ssh $share -O check `+buildHost+` 2>&1 | grep -o running
		ssh $share -O exit `+buildHost+` 2>/dev/null`)
	if out != "12345678running\n" {
		t.Errorf("%q", out)
	}
	if n := w.servers[buildHost].accepted() - before; n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestSSH_ProxyJumpThrough(t *testing.T) {
	dir := scratch(t)
	must(t, os.WriteFile(dir+"/known_hosts", []byte(farHost+" "+w.servers[farHost].HostKey+"\n"), 0o644))
	key := agentHome + "/far"
	must(t, w.agent.WriteFile(key, w.fars, 0o600))
	must(t, w.agent.Script(t.Context(), "chown "+agentUser+" "+key))
	t.Cleanup(func() { must(t, os.Remove(w.agent.Path(key))) })
	if out := w.works(t, "ssh -J deploy@"+buildHost+" -i "+key+" -o UserKnownHostsFile="+dir+"/known_hosts deploy@"+farHost+" 'echo $SSH_CONNECTION' </dev/null"); !strings.HasPrefix(out, "192.0.2.") && !strings.HasPrefix(out, "2001:db8:c:") {
		t.Errorf("far was reached from %s", out)
	}
}

// The gateway's own jump.
func TestSSH_JumpEndpointIsReachedThroughAnother(t *testing.T) {
	before := w.servers[buildHost].accepted()
	if out := w.works(t, "ssh "+innerHost+" 'echo $SSH_CONNECTION' </dev/null"); !strings.HasPrefix(out, "192.0.2.") && !strings.HasPrefix(out, "2001:db8:c:") {
		t.Errorf("inner was reached from %s", out)
	}
	if w.servers[buildHost].accepted() == before {
		t.Error("build has not seen it")
	}
}

func TestSSH_ForwardsOnlyWhereAllowed(t *testing.T) {
	if out := w.works(t, "echo hello | ssh -W "+echoTarget+" "+buildHost); out != "hello\n" {
		t.Errorf("%q", out)
	}
	r := w.run(t, "echo hello | ssh -W "+privateTarget+" "+buildHost)
	if r.code == 0 || r.stdout != "" || !strings.Contains(r.stderr, "administratively prohibited") {
		t.Errorf("not allowed: %v", r)
	}
	local := `set -e
		mkdir -p ~/master; trap 'ssh -S ~/master/s -O exit ` + buildHost + ` 2>/dev/null; rm -rf ~/master' EXIT
		ssh -fNM -S ~/master/s -o ExitOnForwardFailure=yes -L 127.0.0.1:9000:%s ` + buildHost + ` 2>/dev/null
		exec 3<>/dev/tcp/127.0.0.1/9000; echo hello >&3; head -n1 <&3`
	if out := w.works(t, "bash -c "+lab.Quote(fmt.Sprintf(local, echoTarget))); out != "hello\n" {
		t.Errorf("%q", out)
	}
	if r := w.run(t, "bash -c "+lab.Quote(fmt.Sprintf(local, privateTarget))); r.stdout != "" {
		t.Errorf("%s, not allowed: %v", privateTarget, r)
	}
	const prohibited = "administratively prohibited: clawpatrol: "
	for _, c := range []struct{ line, says string }{
		{"ssh -o ExitOnForwardFailure=yes -R 9001:127.0.0.1:22 " + buildHost + " echo began", "remote port forwarding failed"},
		{"ssh -o ExitOnForwardFailure=yes -R /tmp/agent.sock:127.0.0.1:22 " + buildHost + " echo began", "remote port forwarding failed"},
		{"ssh -W 127.0.0.1:7000 " + buildHost, prohibited},   // an address of what is allowed by name
		{"ssh -W echo.internal:22 " + buildHost, prohibited}, // a port beside
		{"ssh -W 127.0.0.1:8080 " + buildHost, prohibited},   // the gateway's own
	} {
		if r := w.run(t, c.line+" </dev/null"); r.code == 0 || r.stdout != "" || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%s: %v", c.line, r)
		}
	}
	// Sockets, and network interfaces, which ssh asks for as root alone.
	client := dial(t, buildHost)
	for _, kind := range []string{"direct-streamlocal@openssh.com", "tun@openssh.com"} {
		_, _, err := client.OpenChannel(kind, nil)
		if e := new(ssh.OpenChannelError); !errors.As(err, &e) || !strings.Contains(e.Message, "are not passed on") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	// An agent to forward is not refused aloud: OpenSSH goes on without.
	if out := w.works(t, "eval $(ssh-agent) >/dev/null; trap 'ssh-agent -k >/dev/null' EXIT; ssh -A "+buildHost+` 'echo "<$SSH_AUTH_SOCK>"' </dev/null`); out != "<>\n" {
		t.Errorf("the upstream has got an agent: %q", out)
	}
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

package ssh

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// approval is what the API says of one.
type approval struct {
	ID       string         `json:"id"`
	Endpoint string         `json:"endpoint"`
	Kind     string         `json:"kind"`
	Summary  string         `json:"summary"`
	State    string         `json:"state"`
	Detail   map[string]any `json:"detail"`
}

// held waits for the one approval that is pending.
func held(t *testing.T) (a approval) {
	t.Helper()
	must(t, lab.Eventually(t.Context(), 20*time.Second, func() (err error) {
		a, err = pending(t)
		return err
	}))
	return a
}

// heldSoon is held for who does not know whether there will be one.
func heldSoon(t *testing.T) <-chan approval {
	c := make(chan approval, 1)
	go func() {
		_ = lab.Eventually(t.Context(), 20*time.Second, func() error {
			a, err := pending(t)
			if err == nil {
				c <- a
			}
			return err
		})
	}()
	return c
}

func pending(t *testing.T) (approval, error) {
	var list struct{ Items []approval }
	if err := w.gateway.Operator.Do(t.Context(), "GET", "/api/approvals?state=pending", nil, &list); err != nil {
		return approval{}, err
	}
	if len(list.Items) != 1 {
		return approval{}, fmt.Errorf("%d approvals are pending", len(list.Items))
	}
	return list.Items[0], nil
}

func decide(t *testing.T, a approval, decision, reason string) {
	t.Helper()
	must(t, w.gateway.Operator.Do(t.Context(), "POST", "/api/approvals/"+url.PathEscape(a.ID), map[string]string{"decision": decision, "reason": reason}, nil))
}

func fingerprint(t *testing.T, authorized string) string {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(authorized))
	must(t, err)
	return ssh.FingerprintSHA256(key)
}

// begin runs a line beside the test.
func begin(t *testing.T, line string) (ended chan ran) {
	t.Helper()
	ended = make(chan ran, 1)
	cmd := asAgent(t.Context(), w.agent.Host, line)
	out, errs := new(lab.Output), new(lab.Output)
	cmd.Stdout, cmd.Stderr = out, errs
	must(t, cmd.Start())
	go func() {
		_ = cmd.Wait() // its status is what counts
		ended <- ran{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
	}()
	return ended
}

func ends(t *testing.T, ended chan ran) ran {
	t.Helper()
	select {
	case r := <-ended:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
		return ran{}
	}
}

// An unknown host key, and one that has changed, hold the connection until an
// operator has seen it; no credential is used before.
func TestI04_HostKeyIsAnOperatorsToAccept(t *testing.T) {
	fresh := w.servers[freshHost]
	line := "ssh deploy@" + freshHost + " id -un </dev/null"
	before := fresh.accepted()
	_ = w.gateway.Operator.Do(t.Context(), "DELETE", "/api/host-keys/ssh.fresh/"+freshHost+"/22", nil, nil) // 404 where none was accepted

	ended := begin(t, line)
	a := held(t)
	first := fingerprint(t, fresh.HostKey)
	if text := fmt.Sprint(a); a.Kind != "host_key" || !strings.Contains(text, first) || !strings.Contains(text, freshHost) {
		t.Errorf("held: %+v, want %s", a, first)
	}
	if n := fresh.accepted() - before; n != 0 {
		t.Errorf("the credential was used %d times before", n)
	}
	decide(t, a, "allow", "")
	if r := ends(t, ended); r.stdout != "deploy\n" || r.code != 0 || !strings.Contains(r.stderr, "clawpatrol: an operator has to accept the host key") || !strings.Contains(r.stderr, first) {
		t.Errorf("accepted: %v", r)
	}
	if out := w.works(t, line); out != "deploy\n" { // not asked again
		t.Errorf("%q", out)
	}

	must(t, fresh.Stop())
	must(t, fresh.NewHostKey())
	must(t, fresh.Start(t.Context()))
	second := fingerprint(t, fresh.HostKey)
	before = fresh.accepted()
	ended = begin(t, line)
	a = held(t)
	if text := fmt.Sprint(a); !strings.Contains(text, first) || !strings.Contains(text, second) {
		t.Errorf("changed: %+v, want %s and %s", a, first, second)
	}
	decide(t, a, "deny", "nobody told us")
	if r := ends(t, ended); r.code != 255 || !strings.Contains(r.stderr, "clawpatrol: ") || !strings.Contains(r.stderr, "nobody told us") {
		t.Errorf("refused: %v", r)
	}
	if n := fresh.accepted() - before; n != 0 {
		t.Errorf("the credential was used %d times", n)
	}
	ended = begin(t, line)
	decide(t, held(t), "allow", "")
	if r := ends(t, ended); r.stdout != "deploy\n" {
		t.Errorf("accepted: %v", r)
	}
	// The agent's side has not changed meanwhile: it knows the gateway's key alone.
}

func TestI04_AnotherHostKeyIsRefused(t *testing.T) {
	build := w.servers[buildHost]
	build.Log.Mark()
	before := build.accepted()
	r := w.run(t, "ssh "+wrongHost+" id -un </dev/null")
	if r.code != 255 || r.stdout != "" || !strings.Contains(r.stderr, "its host key is not the one that the policy knows") {
		t.Errorf("%v", r)
	}
	if build.accepted() != before {
		t.Error("build has let it in")
	}
	_, err := build.Log.Wait(t.Context(), 10*time.Second, `Connection (closed|reset)`)
	must(t, err)
	if strings.Contains(build.Log.String(), "Failed publickey") {
		t.Error("the credential's key was offered to a host that is not known")
	}
}

// users lists the names that an agent may have upstream.
func TestSSH_UserIsOnTheList(t *testing.T) {
	if r := w.run(t, "ssh mallory@"+freshHost+" id -un </dev/null"); r.code != 255 || !strings.Contains(r.stderr, "no credential here is for the user mallory") {
		t.Errorf("%v", r)
	}
}

// The attack: a registration without the credential asks for its host.
func TestI06_RegistrationWithoutTheCredentialHasNone(t *testing.T) {
	before := w.servers[buildHost].accepted()
	r := collect(t, asAgent(t.Context(), w.other.Host, "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null deploy@"+buildHost+" id </dev/null"))
	if r.code != 255 || r.stdout != "" || !strings.Contains(r.stderr, "Permission denied (publickey)") {
		t.Errorf("%v", r)
	}
	if w.servers[buildHost].accepted() != before {
		t.Error("build has let it in")
	}
}

// The attack: keep sessions running across the block.
func TestI07_BlockEndsSessions(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, w.gateway.Operator.SetProfiles(ctx, w.other.Registration, "ci"))
	t.Cleanup(func() {
		r := lab.Registration{ID: w.other.Registration, UserCode: w.other.UserCode}
		must(t, w.gateway.Operator.Approve(context.WithoutCancel(t.Context()), r, "none"))
	})
	must(t, lab.Eventually(ctx, 20*time.Second, func() error {
		r := collect(t, asAgent(ctx, w.other.Host, "ssh "+buildHost+" id -un </dev/null"))
		if r.stdout != "deploy\n" {
			return errors.New(r.String())
		}
		return nil
	}))
	out := new(lab.Output)
	beat := scratch(t) + "/beat"
	cmd := asAgent(ctx, w.other.Host, "ssh "+buildHost+" 'while echo tick; do date >"+beat+"; sleep 0.05; done' </dev/null")
	cmd.Stdout = out
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ends is no matter
	}()
	_, err := out.Wait(ctx, 20*time.Second, "tick")
	must(t, err)
	began := time.Now()
	must(t, w.gateway.Operator.Block(ctx, w.other.Registration, "test"))
	// The command ends by itself when sshd has nobody to write to.
	must(t, lab.Eventually(ctx, 20*time.Second, func() error {
		info, err := os.Stat(beat)
		if err == nil && time.Since(info.ModTime()) < time.Second {
			err = errors.New("the command still runs")
		}
		return err
	}))
	info, err := os.Stat(beat)
	must(t, err)
	t.Logf("the command last did something %v after the operator's request began", info.ModTime().Sub(began).Round(time.Millisecond))
	before := len(out.String())
	_, dialErr := w.other.Run(ctx, "timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/"+lab.WorldAddresses(20)[0].String()+"/22")
	if dialErr == nil {
		t.Error("it still connects")
	}
	if n := len(out.String()) - before; n != 0 {
		t.Errorf("%d bytes came after the end", n)
	}
	cancel()
	<-ended
}

func TestSSH_ActionsAreLogged(t *testing.T) {
	file := scratch(t) + "/logged-file"
	w.works(t, "ssh "+buildHost+" 'echo logged-command' </dev/null; echo put /etc/hostname "+file+" | sftp -qb - "+buildHost+" >/dev/null; ssh -W "+privateTarget+" "+buildHost+" </dev/null 2>/dev/null || :")
	must(t, lab.Eventually(t.Context(), 10*time.Second, func() error {
		rows, err := w.gateway.Operator.Actions(t.Context())
		if err != nil {
			return err
		}
		var missing []string
		for _, want := range []struct{ verdict, part string }{
			{"allow", "logged-command"}, {"allow", "sftp write " + file}, {"deny", "private.internal"},
		} {
			found := false
			for _, row := range rows {
				found = found || row.Protocol == "ssh" && row.Verdict == want.verdict && strings.Contains(row.Summary, want.part) &&
					row.Registration == w.agent.Registration && row.Endpoint == "ssh.build"
			}
			if !found {
				missing = append(missing, want.part)
			}
		}
		if missing != nil {
			return fmt.Errorf("no row of %q in %+v", missing, rows)
		}
		return nil
	}))
}

package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// addressOf is where a host is for an agent host.
func addressOf(t *testing.T, h *lab.Host, name string) string {
	t.Helper()
	r := collect(t, asAgent(t.Context(), h, "getent ahostsv4 "+name))
	if r.code != 0 {
		t.Fatalf("resolving %s: %v", name, r)
	}
	return net.JoinHostPort(strings.Fields(r.stdout)[0], "22")
}

// otherJoins gives the other agent host the same credentials, for one test.
func otherJoins(t *testing.T) {
	t.Helper()
	set := func(ctx context.Context, profile string) {
		must(t, w.gateway.Operator.SetProfiles(ctx, w.other.Registration, profile))
	}
	set(t.Context(), "ci")
	t.Cleanup(func() { set(context.WithoutCancel(t.Context()), "none") })
	must(t, lab.Eventually(t.Context(), 20*time.Second, func() error { return otherWorks(t) }))
}

func otherWorks(t *testing.T) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if r := collect(t, asAgent(ctx, w.other.Host, "ssh "+buildHost+" id -un </dev/null")); r.stdout != "deploy\n" {
		return errors.New(r.String())
	}
	return nil
}

// The attack: the address at which another registration finds the host.
func TestI06_AddressOfAnotherRegistrationIsNone(t *testing.T) {
	before := w.servers[buildHost].accepted()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	address := addressOf(t, w.agent.Host, buildHost)
	greeting := func(j *lab.Joined) string {
		conn, err := j.Dial(ctx, "tcp", address)
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(3*time.Second)))
		b := make([]byte, 64)
		n, _ := conn.Read(b) // nothing is as good as a refusal
		return string(b[:n])
	}
	const ours = "SSH-2.0-OpenSSH_clawpatrol" // as the gateway calls itself
	if got := greeting(w.agent); !strings.HasPrefix(got, ours) {
		t.Fatalf("its own registration is not served: %q", got)
	}
	// Where the other has had a credential for the host, this may be its own
	// address for it: then the host itself answers, as for who has none.
	if got := greeting(w.other); strings.HasPrefix(got, ours) {
		t.Errorf("it is served: %q", got)
	}
	if w.servers[buildHost].accepted() != before {
		t.Error("build has let it in")
	}
}

// The attack: connections that never get past their first line, more than the
// gateway holds. Others go on.
func TestI16_UnfinishedHandshakesDelayNobodyElse(t *testing.T) {
	otherJoins(t)
	address := addressOf(t, w.agent.Host, buildHost)
	var all []net.Conn
	for range 300 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		conn, err := w.agent.Dial(ctx, "tcp", address)
		cancel()
		if err != nil {
			continue // refused is as good
		}
		defer conn.Close()
		all = append(all, conn)
		_, _ = io.WriteString(conn, "SSH-2.0-slow\r\n") // may have been reset
	}
	if len(all) < 32 {
		t.Fatalf("only %d connections", len(all))
	}
	must(t, otherWorks(t))
	for _, conn := range all {
		conn.Close()
	}
	must(t, lab.Eventually(t.Context(), 20*time.Second, func() error {
		if r := w.run(t, "ssh "+buildHost+" id -un </dev/null"); r.stdout != "deploy\n" {
			return errors.New(r.String())
		}
		return nil
	}))
}

// rss is the gateway's memory in bytes.
func rss(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", w.gateway.PID()))
	must(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	must(t, err)
	return pages * int64(os.Getpagesize())
}

// The attack: channels without end, none of which is ever read or closed.
func TestI16_ChannelsAreBounded(t *testing.T) {
	otherJoins(t)
	const (
		tries   = 10_000
		allowed = 128
		window  = 2 << 20 // of a channel: what has come and is not taken
		garbage = 2       // Go's collector runs when as much again has been allocated
		rest    = 128 << 20
	)
	before := rss(t)
	c := dial(t, buildHost)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var mu sync.Mutex
	opened, refused := 0, 0
	var workers sync.WaitGroup
	next := make(chan struct{})
	for range 64 {
		workers.Go(func() {
			for range next {
				ch, requests, err := c.OpenChannel("session", nil)
				mu.Lock()
				if err != nil {
					refused++
				} else {
					opened++
					go ssh.DiscardRequests(requests)
					_, _ = ch.SendRequest("exec", false, ssh.Marshal(struct{ Command string }{"cat /dev/zero"}))
				}
				mu.Unlock()
			}
		})
	}
	beside := make(chan error, 1)
	go func() { beside <- otherWorks(t) }()
	// The gateway may make them wait, or end the connection: either bounds them.
	for n := 0; n < tries && ctx.Err() == nil; n++ {
		select {
		case next <- struct{}{}:
		case <-ctx.Done():
		}
	}
	if err := <-beside; err != nil {
		t.Errorf("the other registration: %v", err)
	}
	grown := rss(t) - before
	c.Close()
	close(next)
	workers.Wait()
	t.Logf("%d opened, %d refused; the gateway grew by %d MiB", opened, refused, grown>>20)
	if opened > allowed || opened == 0 {
		t.Errorf("%d channels were opened", opened)
	}
	if most := int64(opened)*window*garbage + rest; grown > most {
		t.Errorf("the gateway grew by %d MiB, more than %d", grown>>20, most>>20)
	}
	must(t, lab.Eventually(t.Context(), 20*time.Second, func() error {
		if r := w.run(t, "ssh "+buildHost+" id -un </dev/null"); r.stdout != "deploy\n" {
			return errors.New(r.String())
		}
		return nil
	}))
}

// Without its secret a credential is no way in: nothing goes upstream.
func TestI21_WithoutTheSecretNothingGoesUpstream(t *testing.T) {
	s := w.servers[buildHost]
	before := strings.Count(s.Log.String(), "Connection from")
	r := w.run(t, "ssh "+unsetHost+" id </dev/null")
	if r.code != 255 || r.stdout != "" || !strings.Contains(r.stderr, "ssh_key.unset has no private_key set") {
		t.Errorf("%v", r)
	}
	if n := strings.Count(s.Log.String(), "Connection from") - before; n != 0 {
		t.Errorf("build saw %d connections", n)
	}
}

// What is no private key is refused when it is set, in words that do not repeat it.
func TestSSH_MalformedKeyIsRefusedWhenItIsSet(t *testing.T) {
	broken := strings.Replace(w.key, "b3BlbnNzaC", "b3BlbnNzaX", 1)
	err := w.gateway.Operator.Do(t.Context(), "PUT", "/api/credentials/ssh_key/deploy", map[string]any{"slots": map[string]string{"private_key": broken}}, nil)
	if err == nil || !strings.Contains(err.Error(), ": 4") {
		t.Errorf("it was taken: %v", err)
	}
	for _, line := range strings.Split(broken, "\n") {
		if err != nil && len(line) > 20 && strings.Contains(err.Error(), line) {
			t.Errorf("the answer repeats it: %v", err)
		}
	}
	if out := w.works(t, "ssh "+buildHost+" id -un </dev/null"); out != "deploy\n" { // with the key it had
		t.Errorf("%q", out)
	}
}

// The fault: the gateway is killed. What an operator accepted stays accepted.
func TestI17_AcceptedHostKeySurvivesAKill(t *testing.T) {
	line := "ssh deploy@" + freshHost + " id -un </dev/null"
	ended := begin(t, line)
	select {
	case r := <-ended: // accepted before
		if r.stdout != "deploy\n" {
			t.Fatal(r)
		}
	case a := <-heldSoon(t):
		decide(t, a, "allow", "")
		ends(t, ended)
	}
	must(t, w.gateway.Kill())
	must(t, w.gateway.Start(t.Context()))
	must(t, lab.Eventually(t.Context(), 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if r := collect(t, asAgent(ctx, w.agent.Host, line)); r.stdout != "deploy\n" || r.stderr != "" {
			return errors.New(r.String())
		}
		return nil
	}))
	if out := w.works(t, "ssh "+buildHost+" id -un </dev/null"); out != "deploy\n" { // the gateway's own keys stay too
		t.Errorf("%q", out)
	}
}

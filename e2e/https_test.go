package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

func TestMainJob_CurlGetsTheCredentialItNeverHeld(t *testing.T) {
	for _, family := range []string{"-4", "-6"} {
		for version, proto := range map[string]string{"--http1.1": "HTTP/1.1", "--http2": "HTTP/2"} {
			upstream.Forget()
			out, err := agent.Shell(t.Context(), `curl -sS --max-time 15 -w '%{http_version} %{remote_ip}' `+family+` `+version+` -H "Authorization: Bearer $API_TOKEN" https://api.example.com/v1/x?y=1`)
			if err != nil {
				t.Fatal(err)
			}
			seen := upstream.Seen()
			if len(seen) != 1 || seen[0].Header.Get("Authorization") != "Bearer "+apiToken || seen[0].URI != "/v1/x?y=1" {
				t.Errorf("%s %s: upstream saw %+v", family, version, seen)
			}
			if !strings.Contains(out, strings.TrimPrefix(proto, "HTTP/")) || strings.Contains(out, apiToken) {
				t.Errorf("%s %s: the agent saw %q", family, version, out)
			}
			if len(seen) == 1 && !strings.HasPrefix(seen[0].Remote, lab.GatewayIPv4.String()) && !strings.HasPrefix(seen[0].Remote, "["+lab.GatewayIPv6.String()) {
				t.Errorf("%s %s: the upstream was reached from %s, not the gateway", family, version, seen[0].Remote)
			}
		}
	}
	out, err := agent.Shell(t.Context(), `env`)
	if err != nil || strings.Contains(out, apiToken) || !strings.Contains(out, "API_TOKEN=clawpatrol-api_token") {
		t.Errorf("the agent's environment: %v\n%s", err, out)
	}
}

func TestMainJob_WildcardHosts(t *testing.T) {
	upstream.Forget()
	if _, err := agent.Shell(t.Context(), `curl -sS --max-time 15 https://one.tenants.example.com/`); err != nil {
		t.Fatal(err)
	}
	if seen := upstream.Seen(); len(seen) != 1 || seen[0].Header.Get("Authorization") != "Bearer "+apiToken {
		t.Errorf("upstream saw %+v", seen)
	}
}

func TestMainJob_ReflectedSecretIsMaskedInHeaders(t *testing.T) {
	for _, version := range []string{"--http1.1", "--http2"} {
		for _, path := range []string{"/reflect", "/redirect", "/cookie"} {
			out, err := agent.Shell(t.Context(), `curl -sSi --max-time 15 `+version+` https://api.example.com`+path)
			if err != nil {
				t.Fatal(err)
			}
			head, _, _ := strings.Cut(out, "\r\n\r\n")
			if strings.Contains(head, apiToken) || strings.Contains(head, "of-the-credential") {
				t.Errorf("%s %s: the agent saw\n%s", version, path, head)
			}
		}
	}
}

func TestMainJob_GitCloneAndPush(t *testing.T) {
	out, err := agent.Shell(t.Context(), `set -e
		cd "$(mktemp -d)"
		export GIT_TERMINAL_PROMPT=0 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
		git clone -q https://git.example.com/project.git one 2>&1
		cd one; git checkout -q -b main; head -c 3000000 /dev/urandom >blob; git add blob; git commit -qm first
		git push -q origin main 2>&1
		cd ..; git clone -q -b main https://git.example.com/project.git two
		cmp one/blob two/blob && echo same`)
	if err != nil || !strings.Contains(out, "same") {
		t.Fatalf("git: %v\n%s", err, out)
	}
}

// A gibibyte each way, and half of one by the other version of HTTP, while the
// gateway's memory stays where it was.
func TestMainJob_GibibyteEachWayInBoundedMemory(t *testing.T) {
	w := ownWorld(t)
	agent := w.joinSecond(t)
	const size = 1 << 30
	// Bytes of growth, less than the smallest body. Most of it is wireguard-go's:
	// each packet in flight lies in a buffer of 64 KiB, and a batch holds 128.
	const ceiling = 448 << 20
	before := rss(t, w.gateway)
	peak := watchRSS(t, w.gateway)
	for _, c := range []struct {
		version string
		size    int64
		send    func(t *testing.T, agent *lab.Joined, curl string, size int64)
	}{{"--http1.1", size, upload}, {"--http2", size / 2, upload}, {"--http1.1", size / 2, download}, {"--http2", size, download}} {
		c.send(t, agent, "curl -sS --max-time 120 "+c.version, c.size)
	}
	if grown := peak() - before; grown > ceiling {
		t.Errorf("the gateway grew by %d MiB", grown>>20)
	}
}

func upload(t *testing.T, agent *lab.Joined, curl string, size int64) {
	t.Helper()
	f, err := os.Create(agent.Path("/root/body"))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	_, err = io.CopyN(f, &lab.Pattern{}, size)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%d %s", size, lab.PatternHash(size))
	out, err := agent.Shell(t.Context(), curl+" -T /root/body https://api.example.com/hash")
	if err != nil || strings.TrimSpace(out) != want {
		t.Errorf("%s: upload: %v, %q; want %q", curl, err, out, want)
	}
}

func download(t *testing.T, agent *lab.Joined, curl string, size int64) {
	t.Helper()
	out, err := agent.Shell(t.Context(), curl+" https://api.example.com/bytes/"+strconv.FormatInt(size, 10)+" | sha256sum")
	if err != nil || !strings.HasPrefix(out, lab.PatternHash(size)) {
		t.Errorf("%s: download: %v, %q", curl, err, out)
	}
}

var vmRSS = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

func rss(t *testing.T, gateway *lab.Gateway) int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(gateway.PID()), "status"))
	if err != nil {
		t.Fatal(err)
	}
	m := vmRSS.FindSubmatch(b)
	if m == nil {
		t.Fatalf("no VmRSS in %s", b)
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// watchRSS samples the gateway's memory until the returned function is called,
// which returns the highest sample.
func watchRSS(t *testing.T, gateway *lab.Gateway) (peak func() int64) {
	ctx, cancel := context.WithCancel(t.Context())
	high := make(chan int64, 1)
	go func() {
		var top int64
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				high <- top
				return
			case <-tick.C:
				top = max(top, rss(t, gateway))
			}
		}
	}()
	return func() int64 {
		cancel()
		return <-high
	}
}

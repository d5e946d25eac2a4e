package ssh_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	xssh "golang.org/x/crypto/ssh"
)

// direct is what opens a direct-tcpip channel.
type direct struct {
	Host string
	Port uint32
	From string
	By   uint32
}

// dialOnward serves direct-tcpip channels of an upstream, as a jump does.
func dialOnward(opened xssh.NewChannel) {
	var to direct
	if opened.ChannelType() != "direct-tcpip" || xssh.Unmarshal(opened.ExtraData(), &to) != nil {
		_ = opened.Reject(xssh.UnknownChannelType, "SECRET words of the upstream")
		return
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		_ = opened.Reject(xssh.ConnectionFailed, "SECRET words of the upstream")
		return
	}
	channel, requests, err := opened.Accept()
	if err != nil {
		_ = conn.Close()
		return
	}
	go xssh.DiscardRequests(requests)
	go func() { _, _ = io.Copy(channel, conn); _ = channel.CloseWrite() }()
	_, _ = io.Copy(conn, channel)
	_ = conn.(*net.TCPConn).CloseWrite()
}

// listenEcho is a service behind an upstream.
func listenEcho(t testing.TB) *net.TCPAddr {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr)
}

func TestForward_OnlyWhereThePolicySays(t *testing.T) {
	echo := listenEcho(t)
	var mu sync.Mutex
	var reached []string
	l, _, connect := pair(t, func(u *upstream) {
		u.channel = func(c xssh.NewChannel) {
			var to direct
			must(t, xssh.Unmarshal(c.ExtraData(), &to))
			mu.Lock()
			defer mu.Unlock()
			reached = append(reached, net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
			if to.From != "127.0.0.1" || to.By != 0 {
				t.Errorf("the upstream learns of %s:%d", to.From, to.By)
			}
			go dialOnward(c)
		}
	}, fmt.Sprintf(`forward = ["127.0.0.1:%d", "127.0.0.1:1"]`, echo.Port))
	client := connect()
	conn, err := client.Dial("tcp", echo.String())
	must(t, err)
	_, err = io.WriteString(conn, "there and back")
	must(t, err)
	must(t, conn.(interface{ CloseWrite() error }).CloseWrite())
	if got, err := io.ReadAll(conn); string(got) != "there and back" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_ = conn.Close()
	if status := l.status(l.id(), "forward "+echo.String()); status != "closed" {
		t.Errorf("it ended as %q", status)
	}
	for target, says := range map[string]string{
		"localhost:" + strconv.Itoa(echo.Port): "the policy does not allow forwarding to this target",
		"127.0.0.1:22":                         "the policy does not allow forwarding to this target",
		"127.0.0.2:" + strconv.Itoa(echo.Port): "the policy does not allow forwarding to this target",
		"127.0.0.1:1":                          "the upstream could not connect there",
	} {
		_, err := client.Dial("tcp", target)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", target, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{echo.String(), "127.0.0.1:1"}; !slices.Equal(reached, want) {
		t.Errorf("the upstream was asked for %q", reached)
	}
	if rows := l.summaries(l.id()); !slices.Contains(rows, "deny forward 127.0.0.1:22") {
		t.Errorf("logged %q", rows)
	}
}

// Programs read a name up to its first zero byte.
func TestForward_AZeroByteIsMalformed(t *testing.T) {
	l, u, connect := pair(t, func(u *upstream) { u.channel = func(c xssh.NewChannel) { _ = c.Reject(xssh.ConnectionFailed, "") } },
		`forward = ["db.internal:5432"]`)
	client := connect()
	for _, name := range []string{"db.internal\x00", "db.internal\x00.", "evil.example.com\x00.db.internal", "\x00db.internal"} {
		_, _, err := client.OpenChannel("direct-tcpip", xssh.Marshal(direct{name, 5432, "127.0.0.1", 0}))
		if err == nil || !strings.Contains(err.Error(), "the request is malformed") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if n := u.opened.Load(); n > 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
	if rows := l.summaries(l.id()); !slices.Contains(rows, "deny forward") {
		t.Errorf("logged %q", rows)
	}
	if _, _, err := client.OpenChannel("direct-tcpip", xssh.Marshal(direct{"DB.internal.", 5432, "127.0.0.1", 0})); err == nil || u.opened.Load() != 1 {
		t.Errorf("the name that is listed: %v", err)
	}
}

func TestForward_NothingElseIsPassedOn(t *testing.T) {
	connected := make(chan *xssh.ServerConn, 1)
	l, u, connect := pair(t, func(u *upstream) {
		u.channel = func(c xssh.NewChannel) { t.Errorf("the upstream was asked for %s", c.ChannelType()) }
		u.connected = func(s *xssh.ServerConn) { connected <- s }
	})
	client := connect()
	for _, kind := range []string{"forwarded-tcpip", "direct-streamlocal@openssh.com", "tun@openssh.com", "x11", "auth-agent@openssh.com", "session-bind@openssh.com", "\x1b]0;x"} {
		_, _, err := client.OpenChannel(kind, []byte("whatever"))
		var refused *xssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != xssh.UnknownChannelType {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "session-bind@openssh.com", "whatever"} {
		if ok, _, err := client.SendRequest(kind, true, []byte("whatever")); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	if ok, _, err := client.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
	server := <-connected
	for _, kind := range []string{"forwarded-tcpip", "x11", "auth-agent@openssh.com"} {
		if _, _, err := server.OpenChannel(kind, nil); err == nil {
			t.Errorf("the upstream opened %s", kind)
		}
	}
	if ok, _, err := server.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
	if rows := l.summaries(l.id()); !slices.Contains(rows, "deny request tcpip-forward") || !slices.Contains(rows, "deny open direct-streamlocal@openssh.com") {
		t.Errorf("logged %q", rows)
	}
	if n := u.opened.Load(); n > 0 {
		t.Errorf("%d channels upstream", n)
	}
}

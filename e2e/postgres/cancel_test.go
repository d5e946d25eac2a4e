package postgres

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// connect is a session of this process' own, from an agent host.
func connect(t *testing.T, h *lab.Host, more string) (*pgconn.PgConn, error) {
	t.Helper()
	cfg, err := pgconn.ParseConfig("host=" + ordersHost + " user=" + appUser + " dbname=orders sslmode=disable connect_timeout=20 " + more)
	must(t, err)
	cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{virtual(t, h)}, nil }
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) { return h.Dial(ctx, network, addr) }
	c, err := pgconn.ConnectConfig(t.Context(), cfg)
	if err == nil {
		t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) }) // it may have ended
	}
	return c, err
}

// virtual is ordersHost's address on an agent host.
func virtual(t *testing.T, h *lab.Host) string {
	t.Helper()
	out, err := h.Run(t.Context(), "getent", "ahostsv4", ordersHost)
	must(t, err)
	return strings.Fields(out)[0]
}

// sendCancel sends a CancelRequest.
func sendCancel(t *testing.T, h *lab.Host, pid uint32, key []byte) {
	t.Helper()
	c, err := h.Dial(t.Context(), "tcp", net.JoinHostPort(virtual(t, h), lab.PostgresPort))
	must(t, err)
	defer c.Close()
	request, err := (&pgproto3.CancelRequest{ProcessID: pid, SecretKey: key}).Encode(nil)
	must(t, err)
	_, err = c.Write(request)
	must(t, err)
	_, _ = c.Read(make([]byte, 1)) // it is closed when it has been looked at
}

// The attack: another registration has learned a session's cancel key.
func TestI06_CancelIsOfTheSameRegistration(t *testing.T) {
	profiles(t, w.other, "ci")
	c, err := connect(t, w.agent.Host, "application_name=to_cancel")
	must(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := c.Exec(t.Context(), "SELECT pg_sleep(60)").ReadAll()
		ended <- err
	}()
	const running = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'to_cancel' AND state = 'active'"
	must(t, lab.Eventually(t.Context(), patience, func() error { return sqlIs(t, running, "1") }))
	upstream, err := w.server.SQL(t.Context(), "orders", "SELECT pid FROM pg_stat_activity WHERE application_name = 'to_cancel'")
	must(t, err)
	if strings.TrimSpace(upstream) == fmt.Sprint(c.PID()) {
		t.Error("the agent knows the upstream's process id")
	}
	sendCancel(t, w.other.Host, c.PID(), c.SecretKey())
	wrong := append([]byte(nil), c.SecretKey()...)
	wrong[0] ^= 1
	sendCancel(t, w.agent.Host, c.PID(), wrong)
	must(t, sqlIs(t, running, "1"))
	sendCancel(t, w.agent.Host, c.PID(), c.SecretKey())
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "57014") {
		t.Errorf("%v", err)
	}
	must(t, sqlIs(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'to_cancel' AND state = 'idle'", "1"))
}

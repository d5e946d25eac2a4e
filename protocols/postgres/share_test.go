package postgres_test

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/protocols/postgres"
	"github.com/clawpatrol/clawpatrol/proxy"
)

// However many sessions a registration has, only a few of its statements stand
// before the parser.
func TestI16_ManyStatementsToLookIntoDelayTheirOwnRegistration(t *testing.T) {
	l := newLab(t, startCluster(t).policy("scram_user", "read_only = true"))
	l.SetSecret("postgres.scram_user", "password", password)
	entered, release := make(chan struct{}, 16), make(chan struct{})
	l.handler.SetReadOnly(func(sql string) error {
		if strings.Contains(sql, "slow") {
			entered <- struct{}{}
			<-release
		}
		return nil
	})
	finish := sync.OnceFunc(func() { close(release) })
	t.Cleanup(finish)
	ended := make(chan struct{}, 16)
	many, other := l.Approve("a", "ci"), l.Approve("b", "ci")
	for range 4 {
		conn := l.Serve(telling{l.handler, ended}, many, host, 5432)
		must(t, conn.SetDeadline(time.Now().Add(wait)))
		_, err := io.WriteString(conn, startupMessage(3<<16, "user", "scram_user", "database", "orders"))
		must(t, err)
		readUntil(t, conn, func(kind byte) bool { return kind == 'Z' })
		_, err = io.WriteString(conn, message('Q', "SELECT 1 AS slow\x00"))
		must(t, err)
	}
	for range 2 {
		await(t, entered, "statements before the parser")
	}
	conn := l.connect(other, "scram_user", "orders")
	for range 3 {
		must(t, conn.Ping(t.Context()))
	}
	if n := len(entered); n > 0 {
		t.Errorf("%d more are before the parser", n)
	}
	l.handler.Close()
	for range 2 { // those that wait do not wait any longer
		await(t, ended, "ended sessions")
	}
	finish()
	for range 2 {
		await(t, ended, "ended sessions")
	}
	if n := len(entered); n > 0 {
		t.Errorf("%d of ended sessions are before the parser", n)
	}
}

// telling says when a flow has ended.
type telling struct {
	*postgres.Handler
	ended chan<- struct{}
}

func (h telling) Serve(ctx context.Context, f *proxy.Flow) error {
	defer func() { h.ended <- struct{}{} }()
	return h.Handler.Serve(ctx, f)
}

// await takes one of many, within wait.
func await(t *testing.T, from <-chan struct{}, many string) {
	t.Helper()
	select {
	case <-from:
	case <-time.After(wait):
		t.Fatalf("there are too few %s", many)
	}
}

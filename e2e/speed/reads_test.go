package speed

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"modernc.org/sqlite"

	"github.com/clawpatrol/clawpatrol/registry"
)

func TestMain(m *testing.M) {
	sqlite.RegisterConnectionHook(compiled.watch) // before any connection: the driver offers no later place
	os.Exit(m.Run())
}

// No request reads the database, neither on a connection that is up nor on a new
// one: who asks, what they may use and the secret are in memory. Requests are
// written to it, in batches.
func TestSpeed_NoDatabaseReadPerRequest(t *testing.T) {
	w := newWorld(t, nil)
	clients := []*http.Client{w.client(t, false), w.client(t, true)}
	some := func() {
		for _, c := range clients {
			for range 20 {
				exchange(t, c, "GET", 0)
				exchange(t, c, "POST", kib)
			}
		}
		for range 5 {
			c := w.connect(t, nil, "http/1.1")
			request(t, c, bufio.NewReader(c), "GET", 0, kib)
		}
		must(t, w.DB.Sync(t.Context()))
	}
	some() // connections, pools, and what is asked once

	probe := openProbe(t)
	probe.expireStatements(t)
	some()
	if got := compiled.now(); got["insert actions"] == 0 {
		t.Errorf("the rows of the requests were not seen: %v", got)
	} else if reads := readsOf(got); len(reads) > 0 {
		t.Errorf("requests read the database: %v", reads)
	}

	// The same count sees what is read on a new connection, on one that is open,
	// and by a statement that was prepared long before.
	for what, read := range map[string]func() error{
		"the log's reader": func() error {
			_, err := w.DB.Actions(t.Context(), registry.ActionFilter{Registration: w.agent, Limit: 1})
			return err
		},
		"a prepared statement": probe.count,
	} {
		must(t, read())
		probe.expireStatements(t)
		must(t, read())
		if reads := readsOf(compiled.now()); len(reads) == 0 {
			t.Errorf("%s reads unseen", what)
		}
	}
}

func (w *world) client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	alpn := map[bool]string{false: "http/1.1", true: "h2"}[http2]
	transport := &http.Transport{
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return w.connect(t, nil, alpn), nil },
		Protocols:      new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func exchange(t *testing.T, c *http.Client, method string, up int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("https://%s/%d", host, kib), strings.NewReader(strings.Repeat("x", up)))
	must(t, err)
	resp, err := c.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != kib || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s with %d bytes: %v", resp.Status, n, err)
	}
}

// compiled is what SQLite compiled on any connection of this process.
var compiled = &compilations{seen: make(map[string]int)}

// compilations counts what statements do, as SQLite's authorizer is told when it
// compiles them. A statement that was compiled before is compiled again once the
// schema has changed: see probe.
type compilations struct {
	mu   sync.Mutex
	seen map[string]int // guarded by mu
	dsn  string         // of the latest connection; guarded by mu
}

// watch is the driver's connection hook.
func (c *compilations) watch(conn sqlite.ExecQuerierContext, dsn string) error {
	c.mu.Lock()
	c.dsn = dsn
	c.mu.Unlock()
	return conn.(sqlite.AuthorizerRegisterer).RegisterAuthorizer(c.note)
}

// note counts. Every table that is read is told, with its columns or without any
// (SELECT count(*)). SELECT itself is not counted: it is also what INSERT takes
// its rows from. What triggers do serves a write.
func (c *compilations) note(action sqlite.AuthorizerActionCode, what, _, _, trigger string) sqlite.AuthorizerReturnCode {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case trigger != "":
	case action == sqlite.AuthPragma:
		c.seen["pragma "+what]++
	case action == sqlite.AuthRead:
		c.seen["read "+what]++
	case action == sqlite.AuthInsert:
		c.seen["insert "+what]++
	}
	return sqlite.AuthorizerOK
}

func (c *compilations) now() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.seen)
}

// readsOf returns the reads among what was compiled.
func readsOf(seen map[string]int) (reads []string) {
	for what, n := range seen {
		if !strings.HasPrefix(what, "insert ") {
			reads = append(reads, fmt.Sprintf("%s, %d times", what, n))
		}
	}
	slices.Sort(reads)
	return reads
}

// probe is another user of the registry's database.
type probe struct {
	db       *sql.DB
	prepared *sql.Stmt
	changes  int
}

func openProbe(t *testing.T) *probe {
	t.Helper()
	compiled.mu.Lock()
	dsn := strings.Replace(compiled.dsn, "query_only", "cache_size", 1) // the latest may have been a reader's
	compiled.mu.Unlock()
	p := new(probe)
	var err error
	p.db, err = sql.Open("sqlite", dsn)
	must(t, err)
	p.db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = p.db.Close() })
	p.prepared, err = p.db.PrepareContext(t.Context(), "SELECT count(*) FROM actions")
	must(t, err)
	return p
}

func (p *probe) count() error {
	var n int
	return p.prepared.QueryRow().Scan(&n)
}

// expireStatements changes the schema, so that every connection compiles its
// statements anew before it uses them, and forgets what was compiled so far.
func (p *probe) expireStatements(t *testing.T) {
	t.Helper()
	p.changes++
	_, err := p.db.ExecContext(t.Context(), fmt.Sprintf("CREATE TABLE probe%d (x)", p.changes))
	must(t, err)
	compiled.mu.Lock()
	defer compiled.mu.Unlock()
	clear(compiled.seen)
}

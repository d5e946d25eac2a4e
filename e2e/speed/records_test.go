package speed

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
)

// A head and a small body that the gateway sends on are one TLS record, so one
// write, and one read at the other end, each way.
func TestSpeed_OneRecordForHeadAndSmallBody(t *testing.T) {
	var upstream, agent recordCount
	w := newWorld(t, upstream.watch)
	c := w.connect(t, agent.watch, "http/1.1")
	br := bufio.NewReader(c)
	// Both sides' handshakes and session tickets are records too: they come with
	// the first exchange.
	request(t, c, br, "GET", 0, kib)

	for _, e := range []struct {
		method   string
		up, down int
	}{
		{"GET", 0, 0}, {"GET", 0, 2}, {"GET", 0, kib}, {"GET", 0, 2 * kib}, {"POST", 2, 2}, {"POST", kib, 2}, {"POST", kib, kib},
	} {
		t.Run(fmt.Sprintf("%s, %d bytes up, %d down", e.method, e.up, e.down), func(t *testing.T) {
			upstream.forget()
			agent.forget()
			request(t, c, br, e.method, e.up, e.down)
			if got := upstream.records(); len(got) != 1 {
				t.Errorf("the upstream got the request in %d records, of %v bytes", len(got), got)
			}
			if got := agent.records(); len(got) != 1 {
				t.Errorf("the agent got the response in %d records, of %v bytes", len(got), got)
			}
		})
	}
}

// The counter counts: a connection that is written to twice has two records.
func TestSpeed_RecordsAreCounted(t *testing.T) {
	var upstream, agent recordCount
	w := newWorld(t, upstream.watch)
	c := w.connect(t, agent.watch, "http/1.1")
	br := bufio.NewReader(c)
	request(t, c, br, "GET", 0, kib)
	upstream.forget()
	agent.forget()
	request(t, c, br, "GET", 0, 64*kib)
	if got := agent.records(); len(got) < 4 { // a record holds 16 KiB, RFC 8446 section 5.1
		t.Errorf("64 KiB in %d records", len(got))
	}
	request(t, c, br, "GET", 0, 2)
	if got := upstream.records(); len(got) != 2 {
		t.Errorf("two requests in %d records", len(got))
	}
}

// recordCount looks at the TLS records that one side receives.
type recordCount struct {
	mu    sync.Mutex
	sizes []int // of application data, with what TLS adds
}

func (r *recordCount) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizes = nil
}

func (r *recordCount) records() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sizes)
}

func (r *recordCount) watch(c net.Conn) net.Conn { return &watchedConn{Conn: c, count: r} }

// watchedConn parses what is read from it: RFC 8446 section 5.1.
type watchedConn struct {
	net.Conn
	count *recordCount
	head  []byte // of the record that begins; owned by the reader
	body  int    // what is left of the record
}

const (
	recordHead      = 5
	applicationData = 23
)

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for b := p[:n]; len(b) > 0; {
		if c.body > 0 {
			k := min(c.body, len(b))
			c.body, b = c.body-k, b[k:]
			continue
		}
		c.head, b = append(c.head, b[0]), b[1:]
		if len(c.head) < recordHead {
			continue
		}
		c.body = int(c.head[3])<<8 | int(c.head[4])
		if c.head[0] == applicationData {
			c.count.mu.Lock()
			c.count.sizes = append(c.count.sizes, c.body)
			c.count.mu.Unlock()
		}
		c.head = c.head[:0]
	}
	return n, err
}

package hostile

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// The attack: a body that breaks its framing, and a request behind it. Nobody
// knows where that would begin: the answer is 400, and the connection's end (RFC
// 9112 section 6.3).
func TestI04_NothingFollowsABodyOfDoubtfulLength(t *testing.T) {
	for _, host := range []string{"raw.example.com", "raw2.example.com"} {
		t.Run(host, func(t *testing.T) { notSmuggled(t, host, malformed) })
	}
}

const chunked = usual + "Transfer-Encoding: chunked\r\n\r\n"

var malformed = []ambiguous{
	{"both framings", usual + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk, 1},
	{"both framings, the other way", usual + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + chunk, 1},
	{"chunk longer than it says", chunked + "2\r\nabcd\r\n0\r\n\r\n" + smuggled, 1},
	{"chunk longer than it says, a request behind", chunked + "2\r\nabcd" + smuggled, 1},
	{"chunk longer than it says, a request behind on its line", chunked + "2\r\nab\rx" + smuggled, 1},
	{"chunk length that is none, a request behind", chunked + "xyz\r\n" + smuggled, 1},
	{"chunk length with a sign", chunked + "-1\r\n" + smuggled, 1},
	{"chunk length with 0x", chunked + "0x5\r\nabcde\r\n" + chunk, 1},
	{"chunk length that wraps", chunked + "10000000000000000\r\n" + chunk, 1},
	{"chunk ended by LF", chunked + "1\r\nx\n" + chunk, 1},
	{"chunk extension with CR", chunked + "1;a\rb\r\nx\r\n0\r\n\r\n", 1},
	{"chunk extension ended by LF", chunked + "1;a\nx\r\n0\r\n\r\n", 1},
}

// The attack: extensions that a server would collect. The agent is at fault, not
// the upstream.
func TestI16_ChunkExtensionsAreBounded(t *testing.T) {
	if status := floodChunks(t, "1;"+strings.Repeat("e", 3000)+"\r\nx\r\n"); status != 400 {
		t.Errorf("status %d", status)
	}
	needAnswer(t, "target1.example.com")
}

// The attack: HTTP/2 frames as long as they may be, on connections that stay: a
// server keeps room for the longest it has seen.
func TestI16_LongFramesAreRefused(t *testing.T) {
	const conns, long = 60, 1 << 20
	needRoom(t, conns)
	ends := map[http2.ErrCode]int{}
	c := unharmed(t, func(ctx context.Context) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range conns {
			wg.Go(func() {
				conn, err := reach(ctx, ci, "target.example.com")
				if err != nil {
					t.Error(err)
					return
				}
				c, err := frames(ctx, conn, "target.example.com", true)
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.WriteRawFrame(0xfa, 0, 0, make([]byte, long)) // fails where it is not wanted
				select {
				case <-c.over:
				case <-time.After(slowTime):
				}
				c.close(true)
				mu.Lock()
				defer mu.Unlock()
				if _, away, gone := c.result(); gone {
					ends[away]++
				}
			})
		}
		wg.Wait()
	})
	t.Logf("%d frames of %d KiB, GOAWAY %v; %v", conns, long>>10, ends, c)
	if ends[http2.ErrCodeFrameSize] < conns*9/10 { // a reset may overtake a GOAWAY
		t.Errorf("GOAWAY %v", ends)
	}
	needAnswer(t, "target.example.com")
}

// The attack: requests that are taken back at once, to an upstream that does not
// complete a handshake. What they have set going upstream must end with them, or
// count against a limit: the gateway's sockets are everybody's.
func TestI16_RequestsTakenBackLeaveNoDialsBehind(t *testing.T) {
	const conns, limit = 4, 1280
	theMute.most.Store(0)
	var sent atomic.Int64
	c := unharmed(t, func(ctx context.Context) {
		until := time.Now().Add(4 * time.Second)
		var wg sync.WaitGroup
		for range conns {
			wg.Go(func() {
				for time.Now().Before(until) && theMute.most.Load() <= limit {
					if err := takeBack(ctx, until, &sent); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
	t.Logf("%d requests taken back: at most %d connections to the upstream at once; %v", sent.Load(), theMute.most.Load(), c)
	if most := theMute.most.Load(); most == 0 || most > limit {
		t.Errorf("%d connections to the upstream at once", most)
	}
	needAnswer(t, "target.example.com")
}

// takeBack makes requests on one connection, by the hundred, until it ends or time
// is up. The error is that of connecting.
func takeBack(ctx context.Context, until time.Time, sent *atomic.Int64) error {
	conn, err := reach(ctx, ci, "mute.example.com")
	if err != nil {
		return err
	}
	c, err := frames(ctx, conn, "mute.example.com", true)
	if err != nil {
		return err
	}
	defer c.close(true)
	for err == nil && time.Now().Before(until) {
		first := c.next
		for err == nil && c.next < first+2*100 {
			_, err = c.open(true, c.request("GET", "/"))
			sent.Add(1)
		}
		time.Sleep(20 * time.Millisecond) // the requests' length
		for id := first; err == nil && id < c.next; id += 2 {
			err = c.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	}
	return nil
}

// The attack: make the gateway forget what it keeps for others. What is kept for
// each host is bounded, and an agent with a wildcard chooses hosts.
func TestI16_HostsOfOneRegistrationDoNotDisplaceAnothers(t *testing.T) {
	const n = 4200 // more than the 4096 pools that are kept
	cache := tls.NewLRUClientSessionCache(4)
	config := careless("ops.example.com")
	config.ClientSessionCache = cache
	// ops' request tells by which connection it came to its upstream, and whether
	// its TLS session was resumed.
	ask := func() (remote string, resumed bool) {
		t.Helper()
		conn, err := reach(t.Context(), ops, "ops.example.com")
		if err != nil {
			t.Fatal(err)
		}
		secure := tls.Client(conn, config)
		defer secure.Close()
		_ = secure.SetDeadline(time.Now().Add(20 * time.Second))
		upstream.Forget()
		if _, err := io.WriteString(secure, "GET /kept HTTP/1.1\r\nHost: ops.example.com\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(secure)
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
			t.Fatalf("%v: %.100q", err, answer)
		}
		for _, s := range upstream.Seen() {
			if s.URI == "/kept" {
				remote = s.Remote
			}
		}
		return remote, secure.ConnectionState().DidResume
	}
	ask()
	before, resumed := ask()
	if !resumed {
		t.Error("the session was not resumed before the attack")
	}
	done := names(t.Context(), t, n, "pool", func(ctx context.Context, conn net.Conn, name string) error {
		secure, err := handshake(ctx, conn, name, "http/1.1")
		if err != nil {
			return err
		}
		_ = secure.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(secure, "GET / HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n"); err != nil {
			return err
		}
		answer := make([]byte, len("HTTP/1.1 502"))
		if _, err := io.ReadFull(secure, answer); err != nil || string(answer) != "HTTP/1.1 502" { // there is no such name
			return fmt.Errorf("%v: %q", err, answer)
		}
		return nil
	})
	if done < n {
		t.Errorf("%d requests of %d", done, n)
	}
	after, resumed := ask()
	if after != before {
		t.Errorf("another registration's upstream connection was given up: %s, then %s", before, after)
	}
	if !resumed {
		t.Error("another registration's TLS sessions were forgotten")
	}
}

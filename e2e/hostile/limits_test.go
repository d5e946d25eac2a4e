package hostile

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The limits of docs/http.md that an agent meets in one message or connection.
func TestI16_HeadsAreBounded(t *testing.T) {
	const host, limit = "target.example.com", 256 << 10
	for size, fits := range map[int]bool{limit - 8<<10: true, limit + 32<<10: false, 4 * limit: false} {
		conn, err := reachTLS(t.Context(), ci, host, "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		go fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nX-Long: %s\r\n\r\n", host, strings.Repeat("x", size))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		switch {
		case fits && (err != nil || resp.StatusCode != http.StatusOK):
			t.Errorf("HTTP/1.1, %d bytes: %v, %v", size, resp, err)
		case !fits && err == nil && (resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge || !resp.Close):
			t.Errorf("HTTP/1.1, %d bytes: %s, closed %v", size, resp.Status, resp.Close)
		}
		_ = conn.Close()

		under, err := reach(t.Context(), ci, host)
		if err != nil {
			t.Fatal(err)
		}
		c, err := frames(t.Context(), under, host, true)
		if err != nil {
			t.Fatal(err)
		}
		var long []field
		for i := range size / 4096 { // a field's size is 32 bytes more: RFC 9113 section 6.5.2
			long = append(long, f(fmt.Sprintf("x-%04d", i), strings.Repeat("x", 4096-32-len("x-0000"))))
		}
		id, err := c.open(true, c.request("GET", "/", long...))
		a, aerr := c.answered(t.Context(), id)
		switch {
		case fits && (err != nil || a.status != "200"):
			t.Errorf("HTTP/2, %d bytes: %+v, %v, %v", size, a, err, aerr)
		case !fits && a.status != "431" && !a.reset && !a.ended:
			t.Errorf("HTTP/2, %d bytes: %+v, %v, %v", size, a, err, aerr)
		case !fits && a.status == "200":
			t.Errorf("HTTP/2, %d bytes: was answered", size)
		}
		c.close(true)
	}
}

func TestI16_StreamsOfAConnectionAreBounded(t *testing.T) {
	const host, limit, tries = "target.example.com", 250, 300
	conn, err := reach(t.Context(), ci, host)
	if err != nil {
		t.Fatal(err)
	}
	c, err := frames(t.Context(), conn, host, true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close(true)
	for range tries {
		if _, err := c.open(true, c.request("GET", "/hold")); err != nil {
			t.Fatal(err)
		}
	}
	if err := lab.Eventually(t.Context(), 20*time.Second, func() error {
		if n := c.done.Load(); n < tries-limit {
			return fmt.Errorf("%d streams were refused", n)
		}
		if n := theTarget.running.Load(); n < limit {
			return fmt.Errorf("%d requests are running", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	answers, _, _ := c.result()
	for id, a := range answers {
		// RFC 9113 section 5.1.2 leaves the choice.
		if !a.reset || a.code != http2.ErrCodeRefusedStream && a.code != http2.ErrCodeProtocol {
			t.Errorf("stream %d: %+v", id, a)
		}
	}
	if n := theTarget.running.Load(); len(answers) != tries-limit || n > limit {
		t.Errorf("%d streams refused, %d requests running", len(answers), n)
	}
}

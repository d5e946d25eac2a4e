package hostile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The attack: a body of chunks that are mostly framing: extensions, leading
// zeros, blanks, around one byte each.
func TestI16_ChunkFramingIsBounded(t *testing.T) {
	for _, chunk := range []string{
		"1;a=b\r\nx\r\n",
		strings.Repeat("0", 15) + "1\r\nx\r\n",
		"1 \t\r\nx\r\n",
	} {
		if status := floodChunks(t, chunk); status != http.StatusOK {
			t.Errorf("chunks %.20q: status %d", chunk, status)
		}
	}
	needAnswer(t, "target1.example.com")
}

// floodChunks sends a body of them and returns the answer's status.
func floodChunks(t *testing.T, chunk string) (status int) {
	t.Helper()
	var sent int
	c := unharmed(t, func(ctx context.Context) {
		conn, err := reachTLS(ctx, ci, "target1.example.com", "http/1.1")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		until := time.Now().Add(slowTime)
		_ = conn.SetDeadline(until.Add(15 * time.Second))
		_, err = io.WriteString(conn, "POST /swallow HTTP/1.1\r\nHost: target1.example.com\r\nTransfer-Encoding: chunked\r\n\r\n")
		many := strings.Repeat(chunk, max(1, 8000/len(chunk)))
		for err == nil && time.Now().Before(until) {
			_, err = io.WriteString(conn, many)
			sent += len(many)
		}
		_, _ = io.WriteString(conn, "0\r\n\r\n") // fails where the rest is not wanted
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("no answer: %v", err)
			return
		}
		_ = resp.Body.Close()
		status = resp.StatusCode
	})
	t.Logf("chunks %.20q: %d KiB sent, status %d; %v", chunk, sent>>10, status, c)
	return status
}

// bomb is n zeros, compressed.
func bomb(t *testing.T, n int64) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<20)
	for range n >> 20 {
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Nothing in the gateway inflates a body: a bomb passes in either direction byte
// by byte, whatever its fields say, and whether or not the agent asks for it.
func TestI16_CompressedBodiesAreNotInflated(t *testing.T) {
	const inflated = 256 << 20
	b := bomb(t, inflated)
	for _, host := range []string{"target.example.com", "target1.example.com"} {
		for _, coding := range []string{"gzip", "identity"} {
			theTarget.still.Store(&still{header: http.Header{"Content-Encoding": {coding}, "Content-Type": {"application/json"}}, body: b})
			c := unharmed(t, func(ctx context.Context) {
				for _, alpn := range []string{"http/1.1", "h2"} {
					if err := exchangeBomb(ctx, host, alpn, coding, b); err != nil {
						t.Errorf("%s over %s, %s: %v", host, alpn, coding, err)
					}
				}
			})
			t.Logf("%s, %s: %d KiB that inflate to %d MiB; %v", host, coding, len(b)>>10, inflated>>20, c)
			if c.peak-c.memory > 100 {
				t.Errorf("%s, %s: memory %d -> %d MiB", host, coding, c.memory, c.peak)
			}
		}
	}
}

// exchangeBomb sends b and gets it back, whole and as it was.
func exchangeBomb(ctx context.Context, host, alpn, coding string, b []byte) error {
	conn, err := reachTLS(ctx, ci, host, alpn)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	transport := over(conn)
	for _, path := range []string{"/digest", "/still"} {
		req, err := http.NewRequestWithContext(ctx, "POST", "https://"+host+path, bytes.NewReader(b))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Encoding", coding)
		req.Header.Set("Accept-Encoding", "gzip") // or Go's transport would add it and inflate
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		if path == "/digest" {
			if want := fmt.Sprintf("%x %s\n", sha256.Sum256(b), coding); string(got) != want {
				return fmt.Errorf("the upstream got %q, want %q", got, want)
			}
			continue
		}
		if !bytes.Equal(got, b) || resp.Header.Get("Content-Encoding") != coding {
			return fmt.Errorf("%d bytes came back of %d, as %q", len(got), len(b), resp.Header.Get("Content-Encoding"))
		}
	}
	return nil
}

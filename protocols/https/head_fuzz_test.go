package https

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"testing/iotest"
	"time"
)

// FuzzHead gives arbitrary bytes to the reader of heads, all at once and byte by
// byte: both ways it finds the same heads, and each is exactly what net/http
// reads as one.
func FuzzHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\nHost: a\nContent-Length: 0\n\n\r\nGET / HTTP/1.0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n \r\n\r\n", "\r\n\r\n", "\n\n", "G\r\n\r\n", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		whole := headsOf(t, bytes.NewReader(data))
		pieces := headsOf(t, iotest.OneByteReader(bytes.NewReader(data)))
		if len(whole) != len(pieces) {
			t.Fatalf("%q at once, %q in pieces", whole, pieces)
		}
		for i, head := range whole {
			if head != pieces[i] {
				t.Fatalf("%q at once, %q in pieces", head, pieces[i])
			}
			if checkHead([]byte(head)) != "" {
				continue
			}
			rest := bufio.NewReader(bytes.NewReader([]byte(head)))
			if _, err := http.ReadRequest(rest); err == nil && rest.Buffered() > 0 {
				t.Fatalf("net/http leaves %d bytes of %q", rest.Buffered(), head)
			}
		}
	})
}

func headsOf(t *testing.T, from io.Reader) (heads []string) {
	a := &agentConn{ctx: context.Background(), clock: time.AfterFunc(time.Hour, func() {})}
	defer a.clock.Stop()
	a.br = bufio.NewReaderSize(from, readBuffer)
	for {
		head, err := a.readHead()
		if err != nil {
			return heads
		}
		if headEnd(head, 0) != len(head) {
			t.Fatalf("%q ends elsewhere", head)
		}
		heads = append(heads, string(head))
		_, _ = a.br.Discard(len(head))
		a.clock.Reset(time.Hour)
	}
}

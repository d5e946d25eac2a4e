package hostile

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// theReferee is raw.example.com: an HTTP/1.1 server that looks at every byte of
// what the gateway sends it and notes what any server at all could read
// differently from another.
var theReferee referee

type referee struct {
	mu     sync.Mutex
	heads  []string // in order of arrival
	faults []string
}

// take returns what was noted since the last call.
func (s *referee) take() (heads, faults []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	heads, faults = s.heads, s.faults
	s.heads, s.faults = nil, nil
	return heads, faults
}

func (s *referee) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

func (s *referee) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for br := bufio.NewReader(c); s.one(br, c); {
			}
		}()
	}
}

// one reads a request and answers it. False ends the connection.
func (s *referee) one(br *bufio.Reader, w io.Writer) bool {
	head, err := readHead(br)
	if err != nil {
		if len(head) > 0 {
			s.fault("cut off in a head: %q", head)
		}
		return false
	}
	s.mu.Lock()
	s.heads = append(s.heads, string(head))
	s.mu.Unlock()
	length, chunked := s.judge(head)
	if chunked {
		err = s.chunks(br)
	} else {
		_, err = io.CopyN(io.Discard, br, length)
	}
	if err != nil {
		return false // cut off: the gateway does that to a body whose agent is at fault
	}
	_, err = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
	return err == nil
}

// readHead returns a head with its empty line.
func readHead(br *bufio.Reader) ([]byte, error) {
	var head []byte
	for {
		line, err := br.ReadSlice('\n')
		head = append(head, line...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			return head, err
		}
		if bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			return head, nil
		}
	}
}

// judge returns the framing of a request and notes what is not beyond doubt.
func (s *referee) judge(head []byte) (length int64, chunked bool) {
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	if f := strings.Split(lines[0], " "); len(f) != 3 || f[2] != "HTTP/1.1" || f[0] == "" || f[1] == "" {
		s.fault("request line %q", lines[0])
	}
	count := map[string]int{}
	for i, line := range lines {
		if strings.ContainsAny(line, "\r\n\x00") {
			s.fault("control characters in %q", line)
		}
		if i == 0 {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			s.fault("field line %q", line)
		}
		value = strings.TrimSpace(value)
		name = strings.ReplaceAll(strings.ToLower(name), "_", "-") // as CGI reads it
		count[name]++
		switch name {
		case "content-length":
			n, err := strconv.ParseUint(value, 10, 62)
			if err != nil {
				s.fault("Content-Length %q", value)
			}
			length = int64(n)
		case "transfer-encoding":
			if chunked = value == "chunked"; !chunked {
				s.fault("Transfer-Encoding %q", value)
			}
		case "connection", "upgrade", "keep-alive", "http2-settings", "proxy-connection", "x-injected":
			s.fault("the field %q", line)
		}
	}
	for _, name := range []string{"host", "content-length", "transfer-encoding", "authorization"} {
		if count[name] > 1 {
			s.fault("%d fields %s", count[name], name)
		}
	}
	if count["content-length"] > 0 && count["transfer-encoding"] > 0 {
		s.fault("both Content-Length and Transfer-Encoding")
	}
	return length, chunked
}

// chunks reads a chunked body and its trailer.
func (s *referee) chunks(br *bufio.Reader) error {
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseUint(strings.TrimSuffix(line, "\r\n"), 16, 32)
		if err != nil {
			s.fault("chunk %q", line)
			return err
		}
		if size == 0 {
			break
		}
		data := make([]byte, size+2)
		if _, err := io.ReadFull(br, data); err != nil {
			return err
		}
		if !bytes.HasSuffix(data, []byte("\r\n")) {
			s.fault("a chunk of another length than it says")
		}
	}
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return err
		}
		if line == "\r\n" {
			return nil
		}
		name, _, _ := strings.Cut(line, ":")
		switch strings.ReplaceAll(strings.ToLower(name), "_", "-") {
		case "content-length", "transfer-encoding", "host", "authorization", "connection", "upgrade", "x-injected":
			s.fault("the trailer field %q", line)
		}
	}
}

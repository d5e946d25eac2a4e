package https

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
)

// readBuffer is what an agent's connection reads into: a head longer than this
// moves into a buffer of its own until it has been dealt with.
const readBuffer = 4 << 10

// unreadable is why a request of an HTTP/1.1 agent is answered without looking
// further, and the connection closed.
type unreadable struct {
	status int
	reason string
}

func (u *unreadable) Error() string { return u.reason }

func badRequest(reason string) error { return &unreadable{http.StatusBadRequest, reason} }

// readHead waits for the next request and returns its head: from the request
// line to the empty line, as the agent wrote it. It stays in the connection's
// buffer, unread, and is valid until something reads. An *unreadable is to be
// answered; after any other error there is nobody to answer to.
func (a *agentConn) readHead() ([]byte, error) {
	if a.br.Size() > readBuffer && a.br.Buffered() <= readBuffer {
		a.resize(readBuffer)
	}
	if a.lastMethod == http.MethodPost { // net/http's tolerance for a line break after a body that is none of it
		for range 4 {
			if b, err := a.br.Peek(1); err != nil || b[0] != '\r' && b[0] != '\n' {
				break
			}
			_, _ = a.br.Discard(1)
		}
	}
	seen, idle := 0, !a.first
	for {
		head, err := a.br.Peek(max(a.br.Buffered(), 1))
		if err != nil {
			return nil, err
		}
		end := headEnd(head, seen)
		if end > maxHeaderBytes || end == 0 && len(head) > maxHeaderBytes {
			return nil, &unreadable{http.StatusRequestHeaderFieldsTooLarge, "the head of the request is too long"}
		}
		if end > 0 {
			if !a.clock.Stop() {
				return nil, os.ErrDeadlineExceeded
			}
			return head[:end], nil
		}
		if idle { // part of a head is here: the rest may take this long
			if !a.clock.Reset(readHeaderTimeout) {
				return nil, os.ErrDeadlineExceeded
			}
			idle = false
		}
		seen = len(head)
		if seen == a.br.Size() {
			a.resize(2 * seen)
			continue
		}
		if _, err := a.br.Peek(seen + 1); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// headEnd returns where the head at the start of b ends: behind the first line
// that is empty and not the first. It is 0 where b does not hold the end. The
// first seen bytes have been looked at before.
func headEnd(b []byte, seen int) int {
	for from := max(seen-3, 0); ; {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0
		}
		from += i + 1
		switch rest := b[from:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return from + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return from + 2
		}
	}
}

// resize exchanges the read buffer and keeps what it holds.
func (a *agentConn) resize(size int) {
	held, _ := a.br.Peek(a.br.Buffered())
	a.br = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(held)), a), size)
	_, _ = a.br.Peek(len(held))
}

// parse reads the request whose head readHead has returned, and its Host fields:
// ReadRequest drops one, and that beside an absolute URL unseen. It is refused
// where recipients could differ about it: see checkHead.
func (a *agentConn) parse(head []byte) (r *http.Request, hosts []string, err error) {
	if reason := checkHead(head); reason != "" {
		return nil, nil, badRequest(reason)
	}
	hosts = fieldValues(head, "Host")
	buffered := a.br.Buffered()
	if r, err = http.ReadRequest(a.br); err != nil || buffered-a.br.Buffered() != len(head) {
		return nil, nil, badRequest("the request is malformed")
	}
	if len(hosts) > 0 && r.URL.Host == "" && hosts[0] != r.Host {
		return nil, nil, badRequest("the request's Host is malformed")
	}
	dropAdded(r.Header, head)
	if expect := r.Header["Expect"]; len(expect) > 0 && expect[0] != "" && !hasToken(expect[:1], "100-continue") { // RFC 9110 section 10.1.1
		return nil, nil, &unreadable{http.StatusExpectationFailed, "the request's expectation is not known"}
	}
	return r, hosts, nil
}

// fieldValues returns the values of the fields of that name in a head.
func fieldValues(head []byte, name string) (values []string) {
	_, head, _ = bytes.Cut(head, []byte("\n")) // the first line
	for len(head) > 0 {
		var line []byte
		line, head, _ = bytes.Cut(head, []byte("\n"))
		if len(line) <= len(name) || line[len(name)] != ':' || !sameField(string(line[:len(name)]), name) {
			continue
		}
		values = append(values, string(bytes.TrimSpace(line[len(name)+1:])))
	}
	return values
}

// dropAdded takes the Cache-Control out of header that net/http puts beside
// "Pragma: no-cache" where head, what it has read, has none.
func dropAdded(header http.Header, head []byte) {
	if len(header["Pragma"]) > 0 && len(header["Cache-Control"]) == 1 && len(fieldValues(head, "Cache-Control")) == 0 {
		delete(header, "Cache-Control")
	}
}

package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	// maxStray is how many datagrams that answer something else are passed
	// over: more is somebody guessing ids (RFC 5452, section 9.2).
	maxStray = 16
	// minBuffer is room for every answer that was not asked to be larger: what
	// some resolvers send unasked included.
	minBuffer = 4096
)

var errStray = errors.New("dns: too many answers to other questions")

// dialFunc connects to a resolver over "udp" or "tcp".
type dialFunc func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)

// exchange sends msg and returns the answer that matches; both are wire format.
// Each exchange has its own socket and so its own random port (RFC 5452,
// section 9.2). size is the largest datagram that msg asks for; more than that
// is not an answer to it. It ends with ctx.
func exchange(ctx context.Context, dial dialFunc, network string, server netip.AddrPort, msg []byte, size int) ([]byte, error) {
	conn, err := dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if network == "tcp" {
		return exchangeStream(conn, msg)
	}
	if _, err := conn.Write(msg); err != nil {
		return nil, err
	}
	buf := make([]byte, max(size, minBuffer)+1) // one more, to tell what was cut off
	for range maxStray {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if n < len(buf) && answers(buf[:n], msg) {
			return buf[:n], nil
		}
	}
	return nil, errStray
}

// exchangeStream is one exchange over TCP: RFC 1035, section 4.2.2; length and
// message in one write, RFC 7766, section 8.
func exchangeStream(conn net.Conn, msg []byte) ([]byte, error) {
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	if _, err := conn.Write(append(out, msg...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, fmt.Errorf("reading the length of the answer: %w", err)
	}
	reply := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if !answers(reply, msg) {
		return nil, errors.New("dns: the answer is to another question")
	}
	return reply, nil
}

// answers reports whether reply is a response to query: same id, opcode and
// question (RFC 5452, section 9.1). Only an error may leave the question out.
func answers(reply, query []byte) bool {
	if len(reply) < headerSize || len(query) < headerSize || reply[0] != query[0] || reply[1] != query[1] {
		return false
	}
	flags := binary.BigEndian.Uint16(reply[2:])
	if flags&bitQR == 0 || (flags^binary.BigEndian.Uint16(query[2:]))&maskOpcode != 0 {
		return false
	}
	if flags&maskOpcode != 0 {
		return true // an opcode whose first section is not a question
	}
	end, err := skipName(query, headerSize)
	if err != nil || end+4 > len(query) {
		return false
	}
	if binary.BigEndian.Uint16(reply[4:]) == 0 {
		return flags&maskRcode != 0
	}
	end += 4
	return binary.BigEndian.Uint16(reply[4:]) == 1 && len(reply) >= end &&
		bytes.Equal(reply[end-4:end], query[end-4:end]) &&
		equalFold(reply[headerSize:end-4], query[headerSize:end-4])
}

// equalFold compares names in wire format (RFC 4343: ASCII letters only).
func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

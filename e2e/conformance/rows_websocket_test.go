package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
)

func webSocketNA(agentH2, upstreamH2 bool) string {
	switch {
	case agentH2:
		return noUpgrade
	case upstreamH2:
		return noUpgradeUp
	}
	return ""
}

func webSocketRows() []row {
	const group = "WebSocket"
	ws := func(name string, run func(p *pair)) row {
		return row{group: group, name: name, na: webSocketNA, run: run}
	}
	return []row{
		ws("subprotocol, messages, close with code and reason", func(p *pair) {
			closed := make(chan error, 1)
			p.webSocket(&websocket.AcceptOptions{Subprotocols: []string{"v2.example"}}, func(ctx context.Context, c *websocket.Conn) {
				kind, text, err := c.Read(ctx)
				if err != nil {
					p.Errorf("upstream: %v", err)
					return
				}
				_ = c.Write(ctx, kind, bytes.ToUpper(text))
				_, _, err = c.Read(ctx)
				closed <- err
			})
			c := p.dialWebSocket(&websocket.DialOptions{Subprotocols: []string{"v1.example", "v2.example"}})
			equal(p, "subprotocol", c.Subprotocol(), "v2.example")
			must(p, c.Write(p.Context(), websocket.MessageText, []byte("hello")))
			_, text, err := c.Read(p.Context())
			must(p, err)
			equal(p, "echo", string(text), "HELLO")
			must(p, c.Close(4321, "enough"))
			var end websocket.CloseError
			if err := within(p, "the close upstream", closed); websocket.CloseStatus(err) != 4321 || !strings.Contains(err.Error(), "enough") {
				p.Errorf("upstream: %v (%v)", err, end)
			}
		}),
		ws("close by the upstream with its code", func(p *pair) {
			p.webSocket(nil, func(ctx context.Context, c *websocket.Conn) { _ = c.Close(4999, "over") })
			_, _, err := p.dialWebSocket(nil).Read(p.Context())
			equal(p, "code", websocket.CloseStatus(err), 4999)
		}),
		ws("permessage-deflate is negotiated through", func(p *pair) {
			negotiated := make(chan string, 1)
			p.webSocket(&websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1}, func(ctx context.Context, c *websocket.Conn) {
				for {
					kind, text, err := c.Read(ctx)
					if err != nil || c.Write(ctx, kind, text) != nil {
						return
					}
				}
			})
			c, resp, err := websocket.Dial(p.Context(), p.url("/"), &websocket.DialOptions{HTTPClient: p.client(), CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1})
			must(p, err)
			defer func() { _ = c.CloseNow() }()
			negotiated <- resp.Header.Get("Sec-WebSocket-Extensions")
			if ext := <-negotiated; !strings.HasPrefix(ext, "permessage-deflate") {
				p.Errorf("extensions %q", ext)
			}
			c.SetReadLimit(-1)
			for i := range 3 {
				text := strings.Repeat(fmt.Sprint("compressible ", i, " "), 10_000)
				must(p, c.Write(p.Context(), websocket.MessageText, []byte(text)))
				_, got, err := c.Read(p.Context())
				must(p, err)
				equal(p, "echo", string(got) == text, true)
			}
		}),
		ws("64 MiB message each way", func(p *pair) {
			const size = 64 << 20
			p.webSocket(nil, func(ctx context.Context, c *websocket.Conn) {
				_, r, err := c.Reader(ctx)
				if err != nil {
					p.Errorf("upstream: %v", err)
					return
				}
				n, err := io.Copy(&counter{}, r)
				if err != nil || n != size {
					p.Errorf("upstream: %d bytes, %v", n, err)
				}
				w, err := c.Writer(ctx, websocket.MessageBinary)
				if err == nil {
					_, _ = io.CopyN(w, &counter{}, size)
					_ = w.Close()
				}
				_, _, _ = c.Read(ctx)
			})
			c := p.dialWebSocket(nil)
			w, err := c.Writer(p.Context(), websocket.MessageBinary)
			must(p, err)
			_, err = io.CopyN(w, &counter{}, size)
			must(p, err)
			must(p, w.Close())
			_, r, err := c.Reader(p.Context())
			must(p, err)
			n, err := io.Copy(&counter{}, r)
			must(p, err)
			equal(p, "bytes", n, size)
			must(p, c.Close(websocket.StatusNormalClosure, ""))
		}),
		ws("ping and pong both ways", func(p *pair) {
			pinged := make(chan error, 1)
			p.webSocket(nil, func(ctx context.Context, c *websocket.Conn) {
				ctx = c.CloseRead(ctx)
				pinged <- c.Ping(ctx)
				<-ctx.Done()
			})
			c := p.dialWebSocket(nil)
			c.CloseRead(p.Context())
			must(p, c.Ping(p.Context()))
			must(p, within(p, "the upstream's pong", pinged))
		}),
		ws("refused handshake is relayed whole", func(p *pair) {
			answer := message{status: 426, body: "not here", fields: []field{{"content-length", "8"}, {"sec-websocket-version", "13"}}}
			seen, got := p.exchange(ask("GET", "/", field{"connection", "Upgrade"}, field{"upgrade", "websocket"}, field{"sec-websocket-version", "99"}, field{"sec-websocket-key", "a2V5"}), answer)
			equal(p, "Upgrade", seen.get("upgrade"), "websocket")
			equal(p, "Connection", strings.ToLower(seen.get("connection")), "upgrade")
			equal(p, "status", got.status, 426)
			equal(p, "body", got.body, "not here")
			equal(p, "version", got.get("sec-websocket-version"), "13")
		}),
		{group: group, name: "extended CONNECT is not offered", na: agent2Only, run: func(p *pair) {
			p.script(func(w wire, _ int64, _ message, _ bool) bool { return write(w, reply("ok")) == nil })
			agent := p.dial()
			must(p, write(agent, ask("GET", "/")))
			_, err := read(agent)
			must(p, err)
			equal(p, "SETTINGS_ENABLE_CONNECT_PROTOCOL", agent.(*wire2).settings[http2.SettingEnableConnectProtocol], 0)
		}},
	}
}

// webSocket answers with a WebSocket that f speaks.
func (p *pair) webSocket(options *websocket.AcceptOptions, f func(context.Context, *websocket.Conn)) {
	p.serve(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, options)
		if err != nil {
			p.Errorf("upstream: %v", err)
			return
		}
		defer func() { _ = c.CloseNow() }()
		c.SetReadLimit(-1)
		f(r.Context(), c)
	})
}

func (p *pair) dialWebSocket(options *websocket.DialOptions) *websocket.Conn {
	p.Helper()
	if options == nil {
		options = new(websocket.DialOptions)
	}
	options.HTTPClient = p.client()
	c, _, err := websocket.Dial(p.Context(), p.url("/"), options)
	must(p, err)
	p.T.Cleanup(func() { _ = c.CloseNow() })
	c.SetReadLimit(-1)
	return c
}

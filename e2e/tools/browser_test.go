package tools

func browserTools() []tool {
	// Root's Chromium wants --no-sandbox, and so does any in a container.
	const see = `chromium --headless --no-sandbox --disable-gpu --dump-dom https://api.example.com/page | grep -o '<p id="out">[^<]*'`
	const seen = `<p id="out">fetch: authenticated, websocket: hello`
	return []tool{
		{
			name: "Chromium", host: apiHost, ca: byDatabase,
			does: "a page with a fetch and a WebSocket, headless",
			line: `
clawpatrol trust >&2
` + see,
			want: seen,
			note: "[`clawpatrol trust`](agent-hosts.md#browsers), once",
		},
		{
			name: "Chromium by policy", host: apiHost, ca: byPolicy, root: true,
			does: "the same page",
			line: `
mkdir -p /etc/chromium/policies/managed
echo "{\"CACertificates\": [\"$(grep -v -- ----- /var/lib/clawpatrol-agent/public/ca.pem | tr -d '\n')\"]}" >/etc/chromium/policies/managed/clawpatrol.json
` + see,
			want: seen,
			note: "[a file](agent-hosts.md#browsers) for all users of the host",
		},
	}
}

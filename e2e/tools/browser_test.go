package tools

func browserTools() []tool {
	return []tool{
		{
			name: "Chromium", host: apiHost,
			does: "a page with a fetch and a WebSocket, headless",
			line: `
mkdir -p ~/.pki/nssdb
certutil -d sql:$HOME/.pki/nssdb -N --empty-password
certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n clawpatrol -i /var/lib/clawpatrol-agent/public/ca.pem
chromium --headless --no-sandbox --disable-gpu --dump-dom https://api.example.com/page | grep -o '<p id="out">[^<]*'`,
			want: `<p id="out">fetch: authenticated, websocket: hello`,
			note: "reads a database per user",
		},
	}
}

package tools

// script is a program for an interpreter.
func script(interpreter, text string) string {
	return interpreter + " - <<'END'\n" + text + "\nEND"
}

func pythonTools() []tool {
	return []tool{
		{
			name: "Python urllib", host: apiHost, ca: byEnv,
			does: "GET with a bearer token",
			line: script(python, `
import os, urllib.request
request = urllib.request.Request("https://api.example.com/auth", headers={"Authorization": "Bearer " + os.environ["API_TOKEN"]})
print(urllib.request.urlopen(request).read().decode())`),
			want: "authenticated",
		},
		{
			name: "Python requests", host: apiHost, ca: byEnv,
			does: "a streamed upload, server-sent events",
			line: script(python, `
import os, requests
session = requests.Session()
session.headers["Authorization"] = "Bearer " + os.environ["API_TOKEN"]
print(session.post("https://api.example.com/count", data=(b"x" * 1000 for _ in range(100))).text)
with session.get("https://api.example.com/events", stream=True) as response:
    print(*[line.decode() for line in response.iter_lines() if line])`),
			want: "100000\ndata: 0 data: 1 data: 2",
		},
		{
			name: "Python httpx", host: apiHost, ca: byEnv,
			does: "GET over HTTP/1.1, asynchronously over HTTP/2",
			line: script(python, `
import asyncio, os, httpx
headers = {"Authorization": "Bearer " + os.environ["API_TOKEN"]}
response = httpx.get("https://api.example.com/auth", headers=headers)
print(response.http_version, response.text)
async def main():
    async with httpx.AsyncClient(http2=True, headers=headers) as client:
        response = await client.get("https://api.example.com/auth")
        print(response.http_version, response.text)
asyncio.run(main())`),
			want: "HTTP/1.1 authenticated\nHTTP/2 authenticated",
		},
		{
			name: "Python websockets", host: apiHost, ca: byEnv,
			does: "messages both ways, compressed, the closing handshake",
			line: script(python, `
import asyncio, os, websockets
async def main():
    headers = {"Authorization": "Bearer " + os.environ["API_TOKEN"]}
    async with websockets.connect("wss://api.example.com/ws", extra_headers=headers) as ws:
        await ws.send("hello" * 1000)
        print(await ws.recv() == "hello" * 1000)
    print(ws.close_code)
asyncio.run(main())`),
			want: "True\n1000",
		},
		{
			name: "Python httplib2", host: apiHost, ca: byEnv,
			does: "GET with a bearer token",
			line: script(python, `
import os, httplib2
_, body = httplib2.Http().request("https://api.example.com/auth", headers={"Authorization": "Bearer " + os.environ["API_TOKEN"]})
print(body.decode())`),
			want: "authenticated",
		},
	}
}

func nodeTools() []tool {
	const node = "node --input-type=module"
	return []tool{
		{
			name: "Node fetch", host: apiHost, ca: byEnv,
			does: "a streamed upload, server-sent events",
			line: script(node, "const headers = { Authorization: `Bearer ${process.env.API_TOKEN}` };"+`
const body = new ReadableStream({ start(c) { for (let i = 0; i < 100; i++) c.enqueue(new Uint8Array(1000)); c.close(); } });
console.log(await (await fetch("https://api.example.com/count", { method: "POST", body, duplex: "half", headers })).text());
let text = "";
for await (const part of (await fetch("https://api.example.com/events", { headers })).body) text += Buffer.from(part).toString();
console.log(text.trim().split("\n\n").join(" "));`),
			want: "100000\ndata: 0 data: 1 data: 2",
		},
		{
			name: "Node ws", host: apiHost, ca: byEnv,
			does: "messages both ways, the closing handshake",
			line: script(node, `
import WebSocket from "ws";
const ws = new WebSocket("wss://api.example.com/ws", { headers: { Authorization: "Bearer " + process.env.API_TOKEN } });
ws.on("open", () => ws.send("hello"));
ws.on("message", (text) => { console.log(String(text)); ws.close(1000); });
ws.on("close", (code) => console.log(code));`),
			want: "hello\n1000",
		},
	}
}

package tools

// script is a program for an interpreter.
func script(interpreter, text string) string {
	return interpreter + " - <<'END'\n" + text + "\nEND"
}

func webTools() []tool {
	return []tool{
		{
			name: "curl", host: apiHost,
			does: "GET with a bearer token over HTTP/1.1 and HTTP/2, an upload",
			line: `
curl -sSf --http1.1 -w ' %{http_version}\n' -H "Authorization: Bearer $API_TOKEN" https://api.example.com/auth
curl -sSf --oauth2-bearer "$API_TOKEN" -w ' %{http_version}\n' https://api.example.com/auth
head -c 3000000 /dev/zero | curl -sSf -T - -H "Authorization: Bearer $API_TOKEN" https://api.example.com/count`,
			want: "authenticated 1.1\nauthenticated 2\n3000000",
		},
		{
			name: "wget", host: apiHost,
			does: "a download with a bearer token, under the name the server gives",
			line: `
wget -q --content-disposition --header "Authorization: Bearer $API_TOKEN" https://api.example.com/download
cat report.csv`,
			want: "a,b\n1,2",
		},
		{
			name: "openssl s_client", host: apiHost,
			does: "a request by hand, the chain and the name verified",
			line: `
printf 'GET /auth HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n' "$API_TOKEN" |
	openssl s_client -quiet -verify_return_error -verify_hostname api.example.com -servername api.example.com -connect api.example.com:443 | tail -n 1`,
			want: "authenticated",
		},
		{
			name: "h2load", host: apiHost,
			does: "200 requests over 4 HTTP/2 connections",
			note: "verifies no certificate, with or without Claw Patrol",
			line: `h2load -n 200 -c 4 -m 10 -H "Authorization: Bearer $API_TOKEN" https://api.example.com/auth | grep -o '200 succeeded, 0 failed'`,
			want: "200 succeeded, 0 failed",
		},
		{
			name: "Go net/http", host: apiHost,
			does: "GET with a bearer token",
			line: `fetch https://api.example.com/auth`,
			want: "HTTP/2.0 authenticated",
		},
		{
			name: "Java HttpClient", host: apiHost,
			does: "GET with a bearer token",
			line: `
cat >Fetch.java <<'END'
import java.net.URI;
import java.net.http.*;

class Fetch {
	public static void main(String[] args) throws Exception {
		var request = HttpRequest.newBuilder(URI.create("https://api.example.com/auth"))
			.header("Authorization", "Bearer " + System.getenv("API_TOKEN")).build();
		var response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
		System.out.println(response.version() + " " + response.body());
	}
}
END
java Fetch.java`,
			want: "HTTP_2 authenticated",
			note: "the distribution's JVM; for others see [the agent host](agent-host.md#what-tools-need)",
		},
	}
}

func pythonTools() []tool {
	return []tool{
		{
			name: "Python urllib", host: apiHost,
			does: "GET with a bearer token",
			line: script(python, `
import os, urllib.request
request = urllib.request.Request("https://api.example.com/auth", headers={"Authorization": "Bearer " + os.environ["API_TOKEN"]})
print(urllib.request.urlopen(request).read().decode())`),
			want: "authenticated",
		},
		{
			name: "Python requests", host: apiHost,
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
			name: "Python httpx", host: apiHost,
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
			name: "Python websockets", host: apiHost,
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
			name: "Python httplib2", host: apiHost,
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
			name: "Node fetch", host: apiHost,
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
			name: "Node ws", host: apiHost,
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

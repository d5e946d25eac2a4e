package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/clawpatrol/clawpatrol/e2e/grpcecho"
	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const labPolicy = `
endpoint "https" "api" {
  hosts   = ["api.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "grpc" {
  hosts   = ["grpc.example.com"]
  ca_file = "lab-ca.pem"
}
credential "bearer" "api" { endpoint = https.api }
credential "bearer" "grpc" { endpoint = https.grpc }
profile "ci" { credentials = [bearer.api, bearer.grpc] }
`

// program is a real one, with a line that an agent runs, and what it prints.
type program struct {
	name string
	line string // for sh; "" for gRPC, whose client runs in the test
	want string
}

// script is a program for an interpreter.
func script(interpreter, text string) string {
	return interpreter + " - <<'END'\n" + text + "\nEND"
}

// python is Debian's, whose packages the test installs.
const python = "/usr/bin/python3"

func programs() []program {
	curl := "curl -sS --max-time 20 "
	return []program{
		{"curl, HTTP/1.1 and HTTP/2", curl + `-w ' %{http_version} ' --http1.1 https://api.example.com/auth; ` + curl + `-w ' %{http_version}' --http2 https://api.example.com/auth`, "true 1.1 true 2"},
		{"curl, raw request targets", curl + `--path-as-is 'https://api.example.com/target/a/b//c;d%2Fe?'`, "/target/a/b//c;d%2Fe?"},
		{"curl, upload with Expect: 100-continue", `head -c 5000000 /dev/zero | ` + curl + `--http1.1 -H 'Expect: 100-continue' -T - https://api.example.com/count`, "5000000 100-continue"},
		{"curl, upload refused by a final status", `head -c 50000000 /dev/zero >/tmp/zeros; ` + curl + `-o /dev/null -w '%{http_code} %{size_upload}' --http1.1 -H 'Expect: 100-continue' -T /tmp/zeros https://api.example.com/refuse`, "413 0"},
		{"curl, HTTP/2 upload and download", `head -c 5000000 /dev/zero | ` + curl + `--http2 -T - https://api.example.com/echo | wc -c`, "5000000"},
		{"curl, HEAD, ranges, trailers", curl + `-I https://api.example.com/head | grep -ci 'content-length: 12345'; ` + curl + `-r 2-4 https://api.example.com/range; ` + curl + `-i --http1.1 https://api.example.com/trailer | grep -i x-sum: | tr -d '\r'`, "1\nghiX-Sum: 7"},
		{"python requests: streamed upload, server-sent events", script(python, `
import requests
def parts():
    for i in range(100): yield b"x" * 1000
s = requests.Session()
print(s.post("https://api.example.com/count", data=parts()).text.split()[0])
with s.get("https://api.example.com/events", stream=True) as r:
    print(*[l.decode() for l in r.iter_lines() if l])`), "100000\ndata: 0 data: 1 data: 2"},
		{"python httpx over HTTP/2", script(python, `
import httpx, os, ssl
c = httpx.Client(http2=True, verify=ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"]))
r = c.get("https://api.example.com/auth")
print(r.http_version, r.text)
print(c.post("https://api.example.com/echo", content=(b"y" * 1000 for _ in range(100))).content == b"y" * 100000)`), "HTTP/2 true\nTrue"},
		{"python websockets: subprotocol, compression, close code", script(python, `
import asyncio, websockets
async def main():
    async with websockets.connect("wss://api.example.com/ws", subprotocols=["v1", "v2"], max_size=None) as ws:
        print(ws.subprotocol)
        await ws.send("hello" * 100000)
        print(await ws.recv() == "hello" * 100000)
        await (await ws.ping())
        await ws.close(4000, "done")
    print(ws.close_code)
asyncio.run(main())`), "v2\nTrue\n4000"},
		{"node fetch: streamed upload, server-sent events", script("node --input-type=module", `
const body = new ReadableStream({ start(c) { for (let i = 0; i < 100; i++) c.enqueue(new Uint8Array(1000)); c.close(); } });
const up = await fetch("https://api.example.com/count", { method: "POST", body, duplex: "half" });
console.log((await up.text()).split(" ")[0]);
let text = "";
for await (const part of (await fetch("https://api.example.com/events")).body) text += Buffer.from(part).toString();
console.log(text.trim().split("\n\n").join(" "));`), "100000\ndata: 0 data: 1 data: 2"},
		{name: "gRPC for Go: unary and bidirectional calls", want: "hello hello"},
	}
}

// runPrograms runs all in one lab.
func runPrograms(t *testing.T, results map[string]string) {
	if exec.Command(python, "-c", "import requests, httpx, h2, websockets").Run() != nil {
		out, err := exec.Command("sh", "../peers.sh", "python3-requests", "python3-httpx", "python3-h2", "python3-websockets").CombinedOutput()
		if err != nil {
			t.Fatalf("installing Python's HTTP clients: %v\n%s", err, out)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l, err := lab.New(ctx, lab.Config{Bin: lab.Binary()})
	must(t, err)
	defer func() { must(t, l.Close()) }()
	must(t, l.ServeHTTPS(ctx, "api.example.com", 0, http.HandlerFunc(serveAPI)))
	must(t, l.ServeHTTPS(ctx, "grpc.example.com", 1, grpcecho.NewServer()))
	gateway, err := l.StartGateway(ctx, labPolicy, map[string]string{"lab-ca.pem": string(l.PKI.PEM)})
	must(t, err)
	for _, name := range []string{"api", "grpc"} {
		must(t, gateway.Operator.SetCredential(ctx, "bearer", name, token))
	}
	agent, err := l.Join(ctx, l.Agents[0], gateway, "ci")
	must(t, err)
	for _, prog := range programs() {
		ok := t.Run(strings.ReplaceAll(prog.name, " ", "_"), func(t *testing.T) {
			var out string
			var err error
			if prog.line == "" {
				out, err = callGRPC(ctx, agent)
			} else {
				out, err = agent.Shell(ctx, prog.line)
			}
			if err != nil || strings.TrimSpace(out) != prog.want {
				t.Errorf("%v\n got %q\nwant %q", err, out, prog.want)
			}
			if strings.Contains(out, token) {
				t.Error("the agent saw the secret")
			}
		})
		results[prog.name] = map[bool]string{true: "pass", false: "FAIL"}[ok]
	}
}

// serveAPI is what the programs talk to.
func serveAPI(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	switch r.URL.Path {
	case "/auth":
		fmt.Fprint(w, r.Header.Get("Authorization") == "Bearer "+token)
	case "/count":
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, " ", r.Header.Get("Expect"))
	case "/refuse":
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	case "/echo":
		_ = control.EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	case "/head":
		w.Header().Set("Content-Length", "12345")
	case "/range":
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("efghijk"))
	case "/trailer":
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintln(w, "body")
		w.Header().Set("X-Sum", "7")
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = control.Flush()
		}
	case "/ws":
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"v2"}, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		c.SetReadLimit(-1)
		for {
			kind, text, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, text) != nil {
				return
			}
		}
	default:
		fmt.Fprint(w, r.RequestURI)
	}
}

// callGRPC is a gRPC client in the agent host's network.
func callGRPC(ctx context.Context, agent *lab.Joined) (string, error) {
	address, err := agent.Shell(ctx, `getent ahostsv4 grpc.example.com | { read -r a _; echo "$a"; }`)
	if err != nil {
		return "", err
	}
	bundle, err := agent.Shell(ctx, `cat "$SSL_CERT_FILE"`)
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(bundle))
	conn, err := grpc.NewClient("passthrough:///grpc.example.com:443",
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return agent.Dial(ctx, "tcp", net.JoinHostPort(strings.TrimSpace(address), "443"))
		}))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	client := pb.NewTestServiceClient(conn)
	hello := &pb.Payload{Body: []byte("hello")}
	one, err := client.UnaryCall(ctx, &pb.SimpleRequest{Payload: hello})
	if err != nil {
		return "", err
	}
	both, err := client.FullDuplexCall(ctx)
	if err != nil {
		return "", err
	}
	if err := both.Send(&pb.StreamingOutputCallRequest{Payload: hello}); err != nil {
		return "", err
	}
	two, err := both.Recv()
	if err != nil {
		return "", err
	}
	if err := both.CloseSend(); err != nil {
		return "", err
	}
	if _, err := both.Recv(); err != io.EOF {
		return "", fmt.Errorf("after the last message: %w", err)
	}
	return string(one.Payload.Body) + " " + string(two.Payload.Body), nil
}

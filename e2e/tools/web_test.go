package tools

func webTools() []tool {
	return []tool{
		{
			name: "curl", host: apiHost, ca: byEnv,
			does: "GET with a bearer token over HTTP/1.1 and HTTP/2, an upload",
			line: `
curl -sSf --http1.1 -w ' %{http_version}\n' -H "Authorization: Bearer $API_TOKEN" https://api.example.com/auth
curl -sSf --oauth2-bearer "$API_TOKEN" -w ' %{http_version}\n' https://api.example.com/auth
head -c 3000000 /dev/zero | curl -sSf -T - -H "Authorization: Bearer $API_TOKEN" https://api.example.com/count`,
			want: "authenticated 1.1\nauthenticated 2\n3000000",
		},
		{
			name: "wget", host: apiHost, ca: byStore,
			does: "a download with a bearer token, under the name the server gives",
			line: `
wget -q --content-disposition --header "Authorization: Bearer $API_TOKEN" https://api.example.com/download
cat report.csv`,
			want: "a,b\n1,2",
		},
		{
			name: "openssl s_client", host: apiHost, ca: byEnv,
			does: "a request by hand, the chain and the name verified",
			line: `
printf 'GET /auth HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n' "$API_TOKEN" |
	openssl s_client -quiet -verify_return_error -verify_hostname api.example.com -servername api.example.com -connect api.example.com:443 | tail -n 1`,
			want: "authenticated",
		},
		{
			name: "h2load", host: apiHost, ca: byNothing,
			does: "200 requests over 4 HTTP/2 connections",
			line: `h2load -n 200 -c 4 -m 10 -H "Authorization: Bearer $API_TOKEN" https://api.example.com/auth | grep -o '200 succeeded, 0 failed'`,
			want: "200 succeeded, 0 failed",
		},
		{
			name: "Go net/http", host: apiHost, ca: byEnv,
			does: "GET with a bearer token",
			line: `fetch https://api.example.com/auth`,
			want: "HTTP/2.0 authenticated",
		},
		{
			name: "Java HttpClient", host: apiHost, ca: byStore,
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
			note: "of the distribution; for other JVMs see [the agent host](agent-hosts.md#what-tools-need)",
		},
	}
}

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	apiHost   = "api.example.com"
	apiSecret = "s3cret-token-the-agent-never-holds"
)

// httpsLeg has nginx as the upstream: it answers only who presents the real
// token, and logs what it was sent.
func httpsLeg(ctx context.Context, l *lab.Lab) (leg, error) {
	nginx, err := l.StartNginx(ctx, apiHost, `
	log_format seen '$server_protocol $request_method $request_uri Authorization: $http_authorization';
	server {
		listen 192.0.2.10:443 ssl http2; listen [2001:db8:c::10]:443 ssl http2;
		server_name `+apiHost+`;
		ssl_certificate CERT; ssl_certificate_key KEY;
		access_log LOG seen;
		default_type text/plain;
		if ($http_authorization != "Bearer `+apiSecret+`") { return 401 "who are you?\n"; }
		location / { return 200 "hello, authenticated caller\n"; }
	}`)
	if err != nil {
		return leg{}, err
	}
	return leg{
		title: "HTTPS: curl on the agent host",
		policy: `
endpoint "https" "api" {
  hosts   = ["` + apiHost + `"]
  ca_file = "lab-ca.pem"
}
credential "bearer" "api_token" {
  endpoint = https.api
  env      = "API_TOKEN"
}
`,
		files:   map[string]string{"lab-ca.pem": string(l.PKI.PEM)},
		profile: []string{"bearer.api_token"},
		credential: func(ctx context.Context, op *lab.Operator) error {
			return op.SetCredential(ctx, "bearer", "api_token", apiSecret)
		},
		show: func(ctx context.Context, agent *lab.Joined) error {
			for _, args := range []string{"-4 --http1.1", "-6 --http1.1", "-4 --http2", "-6 --http2"} {
				line := `curl -sS --max-time 20 ` + args + ` -H "Authorization: Bearer $API_TOKEN" https://` + apiHost + `/whoami`
				out, err := agent.Shell(ctx, `printf '%s\n' "$API_TOKEN"; `+line)
				if err != nil {
					return err
				}
				placeholder, answer, _ := strings.Cut(out, "\n")
				fmt.Printf("  agent$ curl %s -H \"Authorization: Bearer %s\" https://%s/whoami\n         %s", args, placeholder, apiHost, answer)
				if answer != "hello, authenticated caller\n" {
					return fmt.Errorf("curl %s was answered %q", args, answer)
				}
				if strings.Contains(out, apiSecret) {
					return fmt.Errorf("the agent saw the secret")
				}
			}
			log, err := nginx.Log()
			if err != nil {
				return err
			}
			fmt.Println("  and this is what the upstream saw:")
			indent(strings.TrimSpace(log))
			if n := strings.Count(log, "Bearer "+apiSecret); n != 4 {
				return fmt.Errorf("the upstream saw the real token %d times, not 4", n)
			}
			return nil
		},
	}, nil
}

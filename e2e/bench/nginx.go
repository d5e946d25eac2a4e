package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// upstreamConf is the server that all contenders' requests end at. "mirror" makes
// nginx read a request's body before it answers.
const upstreamConf = `
worker_processes 1;
events { worker_connections 8192; }
http {
	access_log off;
	client_body_buffer_size 2m; client_max_body_size 2m; output_buffers 2 256k; open_file_cache max=10;
	server {
		listen UPSTREAM ssl http2 backlog=4096;
		listen DIRECT ssl http2 backlog=4096;
		CERTIFICATE
		location = /1024 { return 200 "KIB"; }
		location = /1048576 { root DIR; }
		location = /upload { mirror /read; root DIR; error_page 405 =200 @stored; }
		location = /read { internal; return 200; }
		location @stored { return 200 "stored"; }
	}
}`

const stored = len("stored")

// proxyConf is what somebody would put into the gateway's place: it terminates
// TLS, sets the credential, verifies the upstream and keeps connections to it.
// Its cipher towards the upstream is the one that the Go programs settle on.
const proxyConf = `
worker_processes 2;
events { worker_connections 8192; }
http {
	access_log DIR/access.log combined buffer=64k flush=1s;
	client_max_body_size 2m;
	upstream api { server UPSTREAM; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 1h; }
	server {
		listen 443 ssl http2 backlog=4096;
		CERTIFICATE
		location / {
			proxy_pass https://api;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host HOST;
			proxy_set_header Authorization "Bearer TOKEN";
			proxy_ssl_verify on; proxy_ssl_trusted_certificate DIR/roots.pem;
			proxy_ssl_server_name on; proxy_ssl_name HOST;
			proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
			proxy_request_buffering off;
			proxy_buffers 16 32k; proxy_busy_buffers_size 256k; proxy_max_temp_file_size 0;
		}
	}
}`

// startNginx starts one on a host and waits until it listens on addr there.
func (s *stage) startNginx(ctx context.Context, h *lab.Host, conf, addr string) (*exec.Cmd, error) {
	dir, err := s.tempDir()
	if err != nil {
		return nil, err
	}
	cert, key, err := s.lab.PKI.Issue(apiHost)
	if err != nil {
		return nil, err
	}
	conf = strings.NewReplacer(
		"CERTIFICATE", fmt.Sprintf("ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem; ssl_protocols TLSv1.2 TLSv1.3; "+
			"keepalive_requests 1000000000; keepalive_timeout 1h;", dir),
		"KIB", strings.Repeat("x", kib), "UPSTREAM", lab.WorldIPv4.String()+":443", "DIRECT", directIPv4+":443", "HOST", apiHost, "TOKEN", token, "DIR", dir).Replace(conf)
	conf = fmt.Sprintf("daemon off; user root; error_log %[1]s/error.log; pid %[1]s/pid;\n", dir) + strings.Replace(conf, "http {",
		fmt.Sprintf("http { client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;", dir), 1)
	for file, content := range map[string][]byte{"cert.pem": cert, "key.pem": key, "nginx.conf": []byte(conf), "roots.pem": s.lab.PKI.PEM,
		fmt.Sprint(mib): make([]byte, mib), "upload": nil} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			return nil, err
		}
	}
	// In a PID namespace of its own: its workers end with it, however it ends.
	cmd := h.Command(ctx, "unshare", "--pid", "--fork", "--kill-child", "nginx", "-p", dir, "-c", dir+"/nginx.conf")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.onClose(func() { end(cmd) })
	s.started = append(s.started, tree(cmd.Process.Pid))
	return cmd, lab.Eventually(ctx, 10*time.Second, func() error {
		c, err := h.Dial(ctx, "tcp", net.JoinHostPort(addr, "443"))
		if err != nil {
			return err
		}
		return c.Close()
	})
}

package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ServeHTTPS serves handler in the world under name, on port 443 of both
// WorldIPv4 and WorldIPv6 plus offset (so that several names have addresses of
// their own), with HTTP/2 and HTTP/1.1, and makes the name resolve.
func (l *Lab) ServeHTTPS(ctx context.Context, name string, offset int, handler http.Handler) error {
	cert, err := l.PKI.Certificate(name)
	if err != nil {
		return fmt.Errorf("serving %s: %w", name, err)
	}
	return l.ServeHTTPSWith(ctx, name, offset, handler, cert)
}

// ServeHTTPSWith is ServeHTTPS with a certificate of the caller's choice.
func (l *Lab) ServeHTTPSWith(ctx context.Context, name string, offset int, handler http.Handler, cert tls.Certificate) error {
	v4, v6, err := l.worldAddresses(ctx, offset)
	if err != nil {
		return fmt.Errorf("serving %s: %w", name, err)
	}
	srv := &http.Server{
		Handler:   handler,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
		ErrorLog:  log.New(io.Discard, "", 0), // clients that go early are no news
	}
	for _, a := range []string{v4, v6} {
		ln, err := l.World.Listen(net.JoinHostPort(a, "443"))
		if err != nil {
			return fmt.Errorf("serving %s: %w", name, err)
		}
		go func() { _ = srv.ServeTLS(ln, "", "") }() // ends at Close
	}
	l.onClose(srv.Close)
	l.Names.Set(name, mustAddr(v4), mustAddr(v6))
	return nil
}

// worldAddresses adds a pair of addresses to the world.
func (l *Lab) worldAddresses(ctx context.Context, offset int) (v4, v6 string, err error) {
	v4, v6 = fmt.Sprintf("192.0.2.%d", 10+offset), fmt.Sprintf("2001:db8:c::%d", 10+offset)
	if offset == 0 {
		return v4, v6, nil
	}
	return v4, v6, l.World.Script(ctx, fmt.Sprintf("ip address add %s/32 dev lo; ip address add %s/128 dev lo nodad", v4, v6))
}

// Nginx runs Debian's nginx in the world with the given server blocks, in which
// CERT, KEY and LOG stand for its files. Stop it with the lab.
type Nginx struct {
	dir string
}

// Log returns what nginx's access log holds.
func (n *Nginx) Log() (string, error) {
	b, err := os.ReadFile(filepath.Join(n.dir, "access.log"))
	return string(b), err
}

// StartNginx starts it. servers is the inside of the http block.
func (l *Lab) StartNginx(ctx context.Context, name, servers string) (*Nginx, error) {
	dir, err := os.MkdirTemp("", "clawpatrol-nginx-")
	if err != nil {
		return nil, err
	}
	l.onClose(func() error { return os.RemoveAll(dir) })
	cert, key, err := l.PKI.Issue(name)
	if err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`
daemon off; master_process off; error_log %[1]s/error.log; pid %[1]s/pid;
events { worker_connections 1024; }
http {
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	%[2]s
}
`, dir, strings.NewReplacer("CERT", dir+"/cert.pem", "KEY", dir+"/key.pem", "LOG", dir+"/access.log").Replace(servers))
	for file, content := range map[string][]byte{"cert.pem": cert, "key.pem": key, "nginx.conf": []byte(conf), "access.log": nil} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			return nil, err
		}
	}
	cmd := l.World.Command(context.WithoutCancel(ctx), "nginx", "-p", dir, "-c", dir+"/nginx.conf")
	cmd.Stdout, cmd.Stderr = l.log, l.log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting nginx: %w", err)
	}
	l.onClose(func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // reports the kill
		return nil
	})
	l.Names.Set(name, WorldIPv4, WorldIPv6)
	return &Nginx{dir: dir}, Eventually(ctx, 10*time.Second, func() error {
		c, err := l.World.Dial(ctx, "tcp", net.JoinHostPort(WorldIPv4.String(), "443"))
		if err != nil {
			return err
		}
		return c.Close()
	})
}

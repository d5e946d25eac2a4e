package framing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// nginx is a real nginx in front of a recorder, as an oracle of what requests
// some bytes are.
type nginx struct {
	address string
	conns   atomic.Int64 // to the recorder

	mu  sync.Mutex
	got map[string]map[int]message // by the client's port, then by the request's number; guarded by mu
}

// nginxConfig hands every request on, whatever its path; errors end connections
// as they do by default. It says which connection a request came on, and as which.
const nginxConfig = `
daemon off;
master_process off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr crit;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  client_header_buffer_size 16k;
  large_client_header_buffers 8 512k;
  client_max_body_size 0;
  client_body_buffer_size 1m;
  keepalive_requests 1000000;
  upstream recorder { server %[2]s; keepalive 4; }
  server {
    listen %[3]s;
    merge_slashes off;
    location / {
      proxy_pass http://recorder;
      proxy_http_version 1.1;
      proxy_ignore_client_abort on;
      proxy_next_upstream off;
      proxy_set_header Connection "";
      proxy_set_header Host recorder;
      proxy_set_header X-Oracle-Host $host;
      proxy_set_header X-Oracle-Port $remote_port;
      proxy_set_header X-Oracle-Number $connection_requests;
    }
  }
}
`

func newNginx(t testing.TB) *nginx {
	t.Helper()
	n := &nginx{got: make(map[string]map[int]message)}
	recorder := &http.Server{
		Handler:        http.HandlerFunc(n.record),
		ErrorLog:       log.New(io.Discard, "", 0),
		MaxHeaderBytes: 8 << 20,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				n.conns.Add(1)
			case http.StateClosed:
				n.conns.Add(-1)
			}
		},
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = recorder.Serve(ln) // ends at Close
	}()
	t.Cleanup(func() { _ = recorder.Close(); <-served })

	// An address of its own, so that no other process has the port.
	pid := os.Getpid()
	n.address = fmt.Sprintf("127.%d.%d.%d:8080", 64+pid>>16&63, pid>>8&255, pid&255)
	dir, err := os.MkdirTemp("", "clawpatrol-framing-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(path, fmt.Appendf(nil, nginxConfig, dir, ln.Addr(), n.address), 0o600))
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx"
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "-c", path, "-p", dir, "-g", "user root;")
	if os.Geteuid() != 0 {
		cmd.Args = cmd.Args[:len(cmd.Args)-2]
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// It ends with this process, however that ends. The signal comes when the
	// thread ends that started it, so that one stays.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error), make(chan struct{})
	go func() {
		defer close(exited)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed at the end
		}
	}()
	must(t, <-started)
	t.Cleanup(func() { cancel(); <-exited })
	for end := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", n.address)
		if err == nil {
			_ = conn.Close()
			return n
		}
		select {
		case <-exited:
			t.Fatalf("nginx ended: %s", said.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("nginx does not listen: %v", err)
		}
	}
}

// record writes down a request of nginx.
func (n *nginx) record(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	number, nerr := strconv.Atoi(r.Header.Get("X-Oracle-Number"))
	if err != nil || nerr != nil {
		return
	}
	m := message{method: r.Method, target: r.RequestURI, body: string(body), whole: true}
	m.fields = append(m.fields, field{"Host", r.Header.Get("X-Oracle-Host")}, field{"Connection", markField}) // nginx's $http_connection is the first of several
	for _, v := range r.Header[markField] {
		m.fields = append(m.fields, field{markField, v})
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if of := n.got[r.Header.Get("X-Oracle-Port")]; of != nil {
		of[number] = m
	}
}

// read returns the requests of an HTTP/1.1 stream by their number, beginning
// with 0. Those that nginx refuses are missing.
func (n *nginx) read(raw []byte) (map[int]message, error) {
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(wait))
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	got := make(map[int]message)
	n.mu.Lock()
	n.got[port] = got
	n.mu.Unlock()
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = conn.Write(raw) // nginx may have had enough
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(io.Discard, conn)
	<-written
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return nil, fmt.Errorf("nginx does not end: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.got, port)
	requests := make(map[int]message, len(got))
	for number, m := range got {
		requests[number-1] = m
	}
	return requests, nil
}

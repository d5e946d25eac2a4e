package https_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
)

// A gateway that stops lets the running request end, and tells the agent not to
// send another on the connection.
func TestRunningRequestEndsWhileTheGatewayDrains(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		running, release := make(chan struct{}), make(chan struct{})
		l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
			close(running)
			<-release
			_, _ = io.WriteString(w, "whole")
		})
		id := l.Approve("a", "ci")
		answered := make(chan error, 1)
		var resp *http.Response
		var body []byte
		agent := l.agent(id, h2)
		go func() {
			var err error
			if resp, err = agent.Get("https://" + host + "/"); err == nil {
				body, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			answered <- err
		}()
		<-running
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		stopped := make(chan error, 1)
		go func() { stopped <- l.Proxy.Shutdown(ctx) }()
		l.Eventually(wait, "new flows are refused", func() bool {
			conn, err := l.Dial(id, l.Virtual(id, host, 443))
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
		close(release)
		must(t, <-answered)
		if string(body) != "whole" || !h2 && !resp.Close {
			t.Errorf("%q, connection to be closed: %v", body, resp.Close)
		}
		if err := <-stopped; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

func TestCloseEndsEveryFlow(t *testing.T) {
	l := newLab(t, upgrader)
	id := l.Approve("a", "ci")
	idle, upgraded := l.dial(id, host), l.dial(id, host)
	br := bufio.NewReader(upgraded)
	_, err := io.WriteString(upgraded, "GET /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	must(t, err)
	_, err = http.ReadResponse(br, &http.Request{Method: "GET"})
	must(t, err)
	l.handler.Close()
	l.handler.Close() // again is harmless
	for name, r := range map[string]io.Reader{"idle": idle, "upgraded": br} {
		if _, err := io.Copy(io.Discard, r); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the %s connection goes on", name)
		}
	}
}

package https_test

import (
	"context"
	"io"
	"net/http"
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

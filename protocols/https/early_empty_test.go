package https_test

import (
	"net/http"
	"testing"
	"time"
)

// An empty chunked answer may end just when its head has waited long enough: what
// flushes the head then must not meet what adds the trailer. The race detector
// says so.
func TestAnEmptyAnswerEndsWhenItsHeadIsFlushed(t *testing.T) {
	n := 0
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		_ = http.NewResponseController(w).Flush() // chunked, and nothing yet
		for until := time.Now().Add(time.Millisecond - 200*time.Microsecond + time.Duration(n%40)*10*time.Microsecond); time.Now().Before(until); {
		}
	})
	agent := l.agent(l.Approve("a", "ci"), false)
	for range 500 {
		do(t, agent, "GET", "https://"+host+"/", nil)
	}
}

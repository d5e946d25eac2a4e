package public

import (
	"net/http"
	"time"
)

const MaxConnsPerSource = maxConnsPerSource

// SetUptime makes h have been up for d, whatever the wall clock did meanwhile.
func SetUptime(h http.Handler, d time.Duration) {
	h.(*handler).proof.uptime = func() time.Duration { return d }
}

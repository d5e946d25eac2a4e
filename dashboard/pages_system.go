package dashboard

import (
	"net/http"
	"time"
)

func (d *dashboard) handleSystem() {
	d.router.handle("GET /system", d.systemPage)
	d.router.handle("GET /system/ca.pem", d.caPEM)

	d.router.handle("GET /api/system", d.systemAPI)
	d.router.handle("GET /metrics", d.metricsHandler().ServeHTTP)
}

type systemBody struct {
	systemView
	Up       string // how long the gateway has run, roughly
	DiskLow  bool
	States   []stateCount
	CAExpiry string // roughly in how long
}

type stateCount struct {
	State string
	Count int
}

// diskLow is below which share of the disk, in percent, the page warns: a full
// one denies every action.
const diskLow = 10

// systemPage says how the gateway itself is.
func (d *dashboard) systemPage(w http.ResponseWriter, _ *http.Request) {
	v, now := d.system(), d.Now()
	body := systemBody{systemView: v, Up: lasted(now.Sub(v.Started)), DiskLow: v.Store.DiskTotal > 0 && v.Store.DiskFree < v.Store.DiskTotal/100*diskLow}
	for _, state := range []string{"approved", "pending", "blocked", "revoked"} {
		body.States = append(body.States, stateCount{state, v.Registrations[state]})
	}
	if left := v.CA.Expires.Sub(now); left > 0 {
		body.CAExpiry = lasted(left)
	}
	d.render(w, http.StatusOK, "system", page{Title: "System", Section: "system", Body: body})
}

// lasted shows how long something took or takes, roughly.
func lasted(t time.Duration) string {
	switch {
	case t < 2*time.Minute:
		return plural(int(t/time.Second), "second")
	case t < 2*time.Hour:
		return plural(int(t/time.Minute), "minute")
	case t < 48*time.Hour:
		return plural(int(t/time.Hour), "hour")
	default:
		return plural(int(t/(24*time.Hour)), "day")
	}
}

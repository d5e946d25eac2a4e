package dashboard

import (
	"net/http"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// MaxFlows is how many running flows of a registration are shown, the newest.
const MaxFlows = 100

// Flow is one running flow of a registration, as the data path tells it.
type Flow struct {
	Protocol    string // "tcp", "udp", "dns", or the endpoint's type
	Destination string // host:port: the name that the agent used where it is known, else the address
	Endpoint    string // ref; empty: carried unchanged
	Since       time.Time
	Bytes       int64 // both ways; of an endpoint's flow, those of its finished actions
}

// flowView is what the API shows of a flow.
type flowView struct {
	Protocol    string    `json:"protocol"`
	Destination string    `json:"destination"`
	Endpoint    string    `json:"endpoint"`
	Since       time.Time `json:"since"`
	Bytes       int64     `json:"bytes"`
}

// noFlows is the answer where a gateway was assembled without Config.Flows.
var noFlows = &failure{http.StatusNotFound, "not_found", "this gateway does not tell which flows are running", ""}

// flows returns a registration's running flows, newest first; false where nobody
// tells them.
func (d *dashboard) flows(id registry.ID) ([]flowView, bool) {
	if d.Flows == nil {
		return nil, false
	}
	running := d.Flows(id)
	views := []flowView{}
	for _, f := range running[:min(len(running), MaxFlows)] {
		views = append(views, flowView{f.Protocol, f.Destination, f.Endpoint, f.Since.UTC(), f.Bytes})
	}
	return views, true
}

func (d *dashboard) listFlows(w http.ResponseWriter, r *http.Request) {
	reg, err := d.registration(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	views, told := d.flows(reg.ID)
	if !told {
		d.fail(w, r, noFlows)
		return
	}
	writeList(w, views, "")
}

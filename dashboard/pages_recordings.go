package dashboard

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"

	"github.com/clawpatrol/clawpatrol/registry"
)

func (d *dashboard) handleRecordings() {
	d.router.handle("GET /recordings", d.recordingsPage)
	d.router.handle("GET /recordings/{id}", d.recordingPage)
	d.router.handle("GET /api/recordings", d.listRecordings)
	d.router.handle("GET /api/recordings/{id}", d.recordingAPI)
}

// recordingRow is a recording on a page: all text made safe to look at.
type recordingRow struct {
	recordingView
	Name, Login, What string
}

func newRecordingRow(v recordingView) recordingRow {
	row := recordingRow{recordingView: v, Name: shown(v.RegistrationName), Login: shown(v.User + "@" + v.Host), What: shown(v.Command)}
	if row.Name == "" {
		row.Name = shown(v.Registration)
	}
	if v.Command == "" {
		row.What = "shell"
	}
	row.Endpoint, row.Credential = shown(v.Endpoint), shown(v.Credential)
	return row
}

type recordingsBody struct {
	Rows          []recordingRow
	Registrations []choice
	Older         string // URL; empty: none
}

func (d *dashboard) recordingsPage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	views, next, err := d.recordings(q.Get("registration"), q.Get("cursor"))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	body := recordingsBody{Registrations: []choice{{"", "all", q.Get("registration") == ""}}}
	for _, reg := range d.Registry.Snapshot().All() {
		body.Registrations = append(body.Registrations, choice{string(reg.ID), shown(reg.Name), q.Get("registration") == string(reg.ID)})
	}
	for _, v := range views {
		body.Rows = append(body.Rows, newRecordingRow(v))
	}
	if next != "" {
		body.Older = "/recordings?" + url.Values{"registration": {q.Get("registration")}, "cursor": {next}}.Encode()
	}
	d.render(w, http.StatusOK, "recordings", page{Title: "Recordings", Section: "recordings", Body: body})
}

type recordingBody struct {
	recordingRow
	Frame  *frame // of an asciicast
	Links  []replayLink
	Chunks []chunk // of a transcript
	More   string  // URL of its next page; empty: none
}

// replayLink leads to another instant.
type replayLink struct{ Label, URL string }

// recordingPage shows a transcript, or a terminal's screen at the instant ?at=,
// in seconds. With ?play=1 the page follows the recording by itself.
func (d *dashboard) recordingPage(w http.ResponseWriter, r *http.Request) {
	e, content, err := d.openRecording(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	defer content.Close()
	names := make(map[string]string)
	if reg, ok := d.Registry.Snapshot().ByID(registry.ID(e.Registration)); ok {
		names[e.Registration] = reg.Name
	}
	body := recordingBody{recordingRow: newRecordingRow(newRecordingView(e, names))}
	p := page{Title: "Recording of " + body.Login, Section: "recordings"}
	path := "/recordings/" + url.PathEscape(e.ID)
	if e.PTY {
		at := instant(r.URL.Query().Get("at"))
		f, err := replay(content, e.Columns, e.Rows, at)
		if err != nil {
			d.fail(w, r, err)
			return
		}
		f.At = min(f.At, max(f.End, 0))
		body.Frame, body.Links = &f, replayLinks(path, f)
		f.Mark = shown(f.Mark)
		switch play := r.URL.Query().Get("play") != "" && !f.Cut; {
		case play && f.Next != 0: // what nothing happens in is left out
			p.Refresh, p.Seconds = replayURL(path, max(f.At+1, f.Next), true), 1
		case play && e.Live:
			p.Refresh, p.Seconds = replayURL(path, f.At+1, true), 1
		}
	} else {
		from, _ := strconv.Atoi(r.URL.Query().Get("from"))
		chunks, next, err := transcript(content, max(from, 0))
		if err != nil {
			d.fail(w, r, err)
			return
		}
		body.Chunks = chunks
		if next != 0 {
			body.More = fmt.Sprintf("%s?from=%d", path, next)
		}
	}
	p.Body = body
	d.render(w, http.StatusOK, "recording", p)
}

// instant reads ?at=: seconds, or the end.
func instant(s string) float64 {
	if s == "" {
		return 0
	}
	at, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(at) {
		return math.MaxFloat64
	}
	return max(at, 0)
}

func replayURL(path string, at float64, play bool) string {
	u := path + "?at=" + strconv.FormatFloat(at, 'f', 3, 64)
	if play {
		u += "&play=1"
	}
	return u
}

func replayLinks(path string, f frame) []replayLink {
	links := []replayLink{{"Play", replayURL(path, f.At, true)}, {"Pause", replayURL(path, f.At, false)}, {"Beginning", path}}
	for _, step := range []struct {
		label string
		by    float64
	}{{"60 s back", -60}, {"10 s back", -10}, {"1 s back", -1}} {
		links = append(links, replayLink{step.label, replayURL(path, max(0, f.At+step.by), false)})
	}
	if f.Next != 0 {
		// Rounded up, so that it has happened.
		links = append(links, replayLink{"Next change", replayURL(path, math.Ceil(f.Next*1000)/1000, false)})
	}
	for _, step := range []struct {
		label string
		by    float64
	}{{"10 s on", 10}, {"60 s on", 60}} {
		links = append(links, replayLink{step.label, replayURL(path, min(f.At+step.by, f.End+1), false)})
	}
	return append(links, replayLink{"End", path + "?at=end"})
}

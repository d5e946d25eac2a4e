package dashboard

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
)

// Limits of showing recordings.
const (
	recordingsPerPage = 100
	downloadTimeout   = 10 * time.Minute // for a whole recording, at most 64 MiB
)

// recordingView is what the API shows of a recording.
type recordingView struct {
	ID               string    `json:"id"`
	Registration     string    `json:"registration"`
	RegistrationName string    `json:"registration_name"` // empty: it is gone
	Endpoint         string    `json:"endpoint"`
	Credential       string    `json:"credential"`
	Host             string    `json:"host"`
	User             string    `json:"user"`
	Command          string    `json:"command"` // empty: a shell
	Format           string    `json:"format"`  // "asciicast" or "transcript"
	StartedAt        time.Time `json:"started_at"`
	Size             int64     `json:"size"` // bytes
	Live             bool      `json:"live"` // still being written
}

const (
	formatCast       = "asciicast"
	formatTranscript = "transcript"
)

func newRecordingView(e recording.Entry, names map[string]string) recordingView {
	v := recordingView{
		ID: e.ID, Registration: e.Registration, RegistrationName: names[e.Registration],
		Endpoint: e.Endpoint, Credential: e.Credential, Host: e.Host, User: e.User, Command: e.Command,
		Format: formatTranscript, StartedAt: e.Started.UTC(), Size: e.Size, Live: e.Live,
	}
	if e.PTY {
		v.Format = formatCast
	}
	return v
}

// recordings lists a page of recordings, the newest first, and the id that the
// next page begins after.
func (d *dashboard) recordings(registration, before string) ([]recordingView, string, error) {
	if d.Recordings == nil {
		return nil, "", nil
	}
	entries, err := d.Recordings.List(registration, before, recordingsPerPage+1)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(entries) > recordingsPerPage {
		entries = entries[:recordingsPerPage]
		next = entries[len(entries)-1].ID
	}
	names := make(map[string]string)
	for _, reg := range d.Registry.Snapshot().All() {
		names[string(reg.ID)] = reg.Name
	}
	var views []recordingView
	for _, e := range entries {
		views = append(views, newRecordingView(e, names))
	}
	return views, next, nil
}

// openRecording finds what {id} in r's path names.
func (d *dashboard) openRecording(r *http.Request) (recording.Entry, io.ReadSeekCloser, error) {
	noSuch := &failure{http.StatusNotFound, "not_found", "there is no such recording", "the oldest are removed when there are too many"}
	if d.Recordings == nil {
		return recording.Entry{}, nil, noSuch
	}
	e, content, err := d.Recordings.Read(r.PathValue("id"))
	if errors.Is(err, fs.ErrNotExist) {
		return recording.Entry{}, nil, noSuch
	}
	if err != nil {
		return recording.Entry{}, nil, fmt.Errorf("opening a recording: %w", err)
	}
	return e, content, nil
}

func (d *dashboard) listRecordings(w http.ResponseWriter, r *http.Request) {
	items, next, err := d.recordings(r.URL.Query().Get("registration"), r.URL.Query().Get("cursor"))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeList(w, items, next)
}

// recordingAPI answers with the recording as it is stored. It is outside text:
// no browser is to take it for a page.
func (d *dashboard) recordingAPI(w http.ResponseWriter, r *http.Request) {
	e, content, err := d.openRecording(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	defer content.Close()
	name, kind := e.ID+".jsonl", "application/jsonl"
	if e.PTY {
		name, kind = e.ID+".cast", "application/x-asciicast"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`) // an ID is letters, digits, dots and underscores
	// A listener of a test has no deadlines, and needs none.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(downloadTimeout))
	http.ServeContent(w, r, "", time.Time{}, content)
}

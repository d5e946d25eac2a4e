package dashboard

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// Limits of downloads of the action log.
const (
	maxDownloads    = 4         // at a time
	maxDownloadRows = 1_000_000 // of one
	downloadWrite   = 30 * time.Second
)

var tooManyDownloads = &failure{http.StatusServiceUnavailable, "busy", "too many downloads of the action log are running", "try again when one has ended"}

// actionFormat is a form in which the log can be downloaded.
type actionFormat struct {
	name, contentType string
	begin             func(io.Writer) error
	write             func(io.Writer, []actionView) error
}

var csvActions = actionFormat{"csv", "text/csv; charset=utf-8; header=present",
	func(w io.Writer) error { return writeCSV(w, [][]string{actionColumns}) },
	func(w io.Writer, views []actionView) error {
		records := make([][]string, 0, len(views))
		for _, v := range views {
			records = append(records, v.record())
		}
		return writeCSV(w, records)
	},
}

var jsonlActions = actionFormat{"jsonl", "application/jsonl; charset=utf-8",
	func(io.Writer) error { return nil },
	func(w io.Writer, views []actionView) error {
		for _, v := range views {
			if _, err := io.WriteString(w, v.json()+"\n"); err != nil {
				return err
			}
		}
		return nil
	},
}

func (v actionView) json() string {
	text, err := json.Marshal(v)
	if err != nil {
		panic("dashboard: encoding an action: " + err.Error()) // our own type always encodes
	}
	return string(text)
}

// actionColumns are those of actionView's JSON.
var actionColumns = []string{"id", "time", "registration", "profile", "endpoint", "credential", "protocol", "summary", "verdict", "rule", "reason", "status", "bytes_in", "bytes_out", "duration_ms"}

func (v actionView) record() []string {
	record := []string{strconv.FormatInt(v.ID, 10), v.Time.Format(time.RFC3339Nano)}
	for _, text := range []string{v.Registration, v.Profile, v.Endpoint, v.Credential, v.Protocol, v.Summary, v.Verdict, v.Rule, v.Reason, v.Status} {
		record = append(record, cell(text))
	}
	return append(record, strconv.FormatInt(v.BytesIn, 10), strconv.FormatInt(v.BytesOut, 10), strconv.FormatInt(v.DurationMS, 10))
}

// formula is where a spreadsheet takes text for a formula (CWE-1236): at the
// beginning of a cell, and behind a semicolon, which parts cells where the comma is
// a decimal point.
var formula = regexp.MustCompile(`(^|;)([=+\-@\t\r＝＋－＠])`)

// cell keeps a spreadsheet from taking an agent's text for a formula.
func cell(text string) string { return formula.ReplaceAllString(text, "$1'$2") }

// writeCSV writes records as RFC 4180 has them.
func writeCSV(w io.Writer, records [][]string) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	return c.WriteAll(records)
}

// downloadActions returns the handler of one format: the rows of a filter as a
// file, newest first. What fails once rows have been sent cuts the connection
// off: a file that ends early must not look like a whole one.
func (d *dashboard) downloadActions(format actionFormat, running chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("limit") != "" {
			d.fail(w, r, badRequest("limit is not for a download"))
			return
		}
		f, err := d.actionFilter(q)
		if err != nil {
			d.fail(w, r, err)
			return
		}
		select {
		case running <- struct{}{}:
			defer func() { <-running }()
		default:
			d.fail(w, r, tooManyDownloads)
			return
		}
		alive, err := d.stillLoggedIn(r)
		if err != nil {
			d.fail(w, r, err)
			return
		}
		d.flushActions(r.Context())
		w.Header().Set("Content-Type", format.contentType)
		w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="actions-%s.%s"`, d.Now().UTC().Format("20060102T150405Z"), format.name))
		if r.Method == http.MethodHead {
			return
		}
		out := http.NewResponseController(w)
		send := func(views []actionView) error {
			if !alive() {
				return errors.New("the session has ended")
			}
			// The server's own limit is for a whole answer.
			if err := out.SetWriteDeadline(time.Now().Add(downloadWrite)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				return err
			}
			return format.write(w, views)
		}
		if err = format.begin(w); err == nil {
			err = allActions(r.Context(), d.Registry.ActionPage, f, maxDownloadRows, send)
		}
		if err != nil {
			if r.Context().Err() == nil {
				d.Log.Warn("dashboard: a download of the action log was cut off", "err", err)
			}
			panic(http.ErrAbortHandler)
		}
	}
}

// allActions reads page after page of f, at most so many rows, and hands each to
// send, also empty ones: whoever sends them wants to know that it goes on.
func allActions(ctx context.Context, read func(context.Context, registry.ActionFilter) (registry.ActionPage, error), f registry.ActionFilter, most int, send func([]actionView) error) error {
	for most > 0 {
		f.Limit = min(maxActions, most)
		page, err := read(ctx, f)
		if err != nil {
			return err
		}
		if err := send(actionViews(page.Actions)); err != nil {
			return err
		}
		if page.Next == 0 {
			return nil
		}
		most -= len(page.Actions)
		f.Before = page.Next
	}
	return nil
}

package dashboard

import (
	"io"
	"net/http"
)

// DownloadWhenBusy is a download for which there is no place.
func DownloadWhenBusy(h http.Handler) http.HandlerFunc {
	return h.(*dashboard).downloadActions(csvActions, make(chan struct{}))
}

// DownloadWith is a download that calls written after each page of rows.
func DownloadWith(h http.Handler, written func()) http.HandlerFunc {
	format := jsonlActions
	format.write = func(w io.Writer, views []actionView) error {
		defer written()
		return jsonlActions.write(w, views)
	}
	return h.(*dashboard).downloadActions(format, make(chan struct{}, 1))
}

// AllActions counts what a download of at most so many rows sends.
var AllActions = allActions

// ActionView is what AllActions sends.
type ActionView = actionView

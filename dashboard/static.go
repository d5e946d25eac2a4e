package dashboard

import (
	"embed"
	"io/fs"
	"net/http"
	"path"
	"slices"
)

// staticFiles are the stylesheet and the scripts. Of the latter two are htmx
// 2.0.11 and its extension for server-sent events, 2.2.4, as published
// (htmx.org, Zero-Clause BSD); TestStatic_VendoredScriptsAreTheReleases has their
// hashes.
//
//go:embed static/*
var staticFiles embed.FS

var staticTypes = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

// publicStatic are what the pages before the gate need.
var publicStatic = []string{"style.css", "icon.svg"}

func (d *dashboard) handleStatic() {
	files, err := fs.ReadDir(staticFiles, "static")
	if err != nil {
		panic("dashboard: listing embedded files: " + err.Error())
	}
	for _, f := range files {
		if !slices.Contains(publicStatic, f.Name()) {
			d.router.handle("GET /static/"+f.Name(), serveStatic(f.Name()))
		}
	}
}

// serveStatic returns the handler of one embedded file.
func serveStatic(name string) http.HandlerFunc {
	body, err := staticFiles.ReadFile("static/" + name)
	if err != nil {
		panic("dashboard: reading an embedded file: " + err.Error())
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", staticTypes[path.Ext(name)])
		_, _ = w.Write(body)
	}
}

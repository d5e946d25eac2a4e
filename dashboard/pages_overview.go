package dashboard

import "net/http"

func (d *dashboard) handleOverview() {
	d.router.handle("GET /{$}", d.overviewPage)
}

// overviewPage says what needs the operator, what is happening and what happened.
func (d *dashboard) overviewPage(w http.ResponseWriter, _ *http.Request) {
	d.render(w, http.StatusOK, "overview", page{Title: "Overview", Section: "overview"})
}

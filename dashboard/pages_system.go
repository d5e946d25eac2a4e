package dashboard

import "net/http"

func (d *dashboard) handleSystem() {
	d.router.handle("GET /system", d.systemPage)
}

// systemPage says how the gateway itself is.
func (d *dashboard) systemPage(w http.ResponseWriter, _ *http.Request) {
	d.render(w, http.StatusOK, "system", page{Title: "System", Section: "system"})
}

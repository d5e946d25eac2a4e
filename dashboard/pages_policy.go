package dashboard

import "net/http"

func (d *dashboard) handlePolicy() {
	d.router.handle("GET /policy", d.policyPage)

	d.router.handle("GET /api/endpoints", d.listEndpoints)
	d.router.handle("GET /api/profiles", d.listProfiles)
}

// policyPage shows the policy in force.
func (d *dashboard) policyPage(w http.ResponseWriter, _ *http.Request) {
	d.render(w, http.StatusOK, "policy", page{Title: "Policy", Section: "policy"})
}

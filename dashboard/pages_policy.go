package dashboard

import (
	"errors"
	"net/http"
	"strings"

	"github.com/clawpatrol/clawpatrol/policy"
)

func (d *dashboard) handlePolicy() {
	d.router.handle("GET /policy", d.policyPage)
	d.router.handle("GET /policy/draft", d.draftPage)
	d.router.handle("POST /policy/draft", d.draftForm)

	d.router.handle("GET /api/config", d.configAPI)
	d.router.handle("POST /api/config/validate", d.validateAPI)
	d.router.handle("GET /api/endpoints", d.listEndpoints)
	d.router.handle("GET /api/profiles", d.listProfiles)
	d.router.handle("GET /api/rules", d.listRules)
}

type policyBody struct {
	configView
	Counting  bool
	Listings  []listing
	Names     []namedRow
	MoreNames int // that are not listed
}

// namedRow is something the policy names.
type namedRow struct {
	Kind, Ref string
	Anchor    string
	About     string    // what it is for
	Matched   []matched // never empty but for a profile without credentials
}

// maxNamed bounds the table of what a policy names.
const maxNamed = 500

// policyPage shows the policy in force, as it was loaded.
func (d *dashboard) policyPage(w http.ResponseWriter, _ *http.Request) {
	now := d.Policy()
	c := newCounts(d.Registry.Stats(d.Now()))
	body := policyBody{configView: d.config(), Counting: !c.Ready}
	rows := map[string]namedRow{}
	for _, row := range namedRows(now, c) {
		rows[row.Anchor] = row
		if len(body.Names) < maxNamed {
			body.Names = append(body.Names, row)
		} else {
			body.MoreNames++
		}
	}
	for i, s := range body.Sources {
		l := newListing(s.Name, s.Text, nil)
		l.Masked = s.Masked
		if i == 0 {
			for _, decl := range now.Declarations() {
				if decl.Line > len(l.Lines) {
					continue
				}
				at := &l.Lines[decl.Line-1]
				at.Anchor = decl.Kind + "." + decl.Ref
				if row := rows[at.Anchor]; row.Kind != "profile" && len(row.Matched) > 0 {
					at.Lately = &row.Matched[0]
				}
			}
		}
		body.Listings = append(body.Listings, l)
	}
	d.render(w, http.StatusOK, "policy", page{Title: "Policy", Section: "policy", Live: true, Body: body})
}

// namedRows lists what a policy names, in its order.
func namedRows(p *policy.Policy, c counts) []namedRow {
	var rows []namedRow
	add := func(kind, ref, about string, m ...matched) {
		rows = append(rows, namedRow{kind, ref, kind + "." + ref, about, m})
	}
	for _, e := range p.Endpoints {
		add("endpoint", e.Ref(), some(hostList(e.Hosts)), *c.endpoint(e.Ref()))
	}
	for _, cred := range p.Credentials {
		add("credential", cred.Ref(), "for "+cred.Endpoint.Ref(), matched{actionsLink("credential", cred.Ref()), "its actions"})
	}
	for _, pr := range p.Profiles {
		about := "no credentials"
		if n := len(pr.Credentials); n > 0 {
			about = plural(n, "credential")
		}
		if pr.Default {
			about += ", ticked at approval"
		}
		var m []matched
		for _, cred := range pr.Credentials[:min(len(pr.Credentials), maxSome)] {
			m = append(m, matched{actionsLink("credential", cred.Ref()), cred.Ref()})
		}
		add("profile", pr.Name, about, m...)
	}
	return rows
}

// maxSome bounds the names that stand in one place of a page.
const maxSome = 20

// some joins the first of a list.
func some(list []string) string {
	if more := len(list) - maxSome; more > 0 {
		return strings.Join(list[:maxSome], ", ") + " and " + plural(more, "other")
	}
	return strings.Join(list, ", ")
}

// draftBody is a draft, and what checking it came to.
type draftBody struct {
	Source  string
	Target  string // the file that the draft would stand in
	Result  *validationView
	Listing *listing // of a draft with mistakes
}

// draftPage begins with the policy in force.
func (d *dashboard) draftPage(w http.ResponseWriter, _ *http.Request) {
	var body draftBody
	if sources := d.Policy().Sources(); len(sources) > 0 {
		body.Source, body.Target = sources[0].Text, shown(sources[0].Name)
	}
	d.render(w, http.StatusOK, "draft", page{Title: "Check a draft", Section: "policy", Body: body})
}

// draftForm checks a draft. Its answer is the page itself: nothing was done that
// another request could show, and the draft is kept nowhere but in the browser.
func (d *dashboard) draftForm(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); !tooLarge {
			err = badRequest("the form could not be read")
		}
		d.fail(w, r, err)
		return
	}
	// A form's lines end with CR LF (HTML, section 4.10.21.4).
	body := draftBody{Source: strings.ReplaceAll(r.PostForm.Get("source"), "\r\n", "\n")}
	if sources := d.Policy().Sources(); len(sources) > 0 {
		body.Target = shown(sources[0].Name)
	}
	p := page{Title: "Check a draft", Section: "policy"}
	_, err := d.checkDraft(body.Source, func(result validationView) {
		body.Result = &result
		if !result.Valid {
			wrong := map[int]bool{}
			for _, diag := range result.Diagnostics {
				wrong[diag.Line] = true
			}
			l := newListing("The draft", policy.Mask(body.Source), wrong)
			body.Listing = &l
		}
	})
	status := d.showFailure(&p, err)
	p.Body = body
	d.render(w, status, "draft", p)
}

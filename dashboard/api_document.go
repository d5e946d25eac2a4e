package dashboard

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/clawpatrol/clawpatrol/dashboard/openapi"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
)

// What requests carry, where the routes decode it into something that is not
// encoded. TestOpenAPI_RequestsAreWhatRoutesTake holds them against the routes.
type (
	passwordRequest struct {
		Password string `json:"password"`
	}
	setupRequest struct {
		Password string `json:"password"`
		Code     string `json:"code,omitempty"` // after --reset-dashboard-password
	}
	approveRequest struct {
		Profiles []string `json:"profiles"`
		UserCode string   `json:"user_code,omitempty"`
		Pin      *pinView `json:"pin,omitempty"`
		Repin    *pinView `json:"repin,omitempty"`
	}
	profilesRequest struct {
		Profiles []string `json:"profiles"`
	}
	reasonRequest struct {
		Reason string `json:"reason"`
	}
	slotsRequest struct {
		Slots map[string]string `json:"slots"`
	}
	passwordsRequest struct {
		Old string `json:"old"`
		New string `json:"new"`
	}
	valueRequest struct {
		Value string `json:"value"`
	}
)

// failureBody is every answer to a request that fails.
type failureBody struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitempty"`
	} `json:"error"`
}

// paged are the parameters of lists that come in pages.
var paged = []openapi.Parameter{
	{Name: "limit", Does: "entries of a page"},
	{Name: "cursor", Does: "next of the page before"},
}

// actionFilters are the filters of the action log.
var actionFilters = []openapi.Parameter{
	{Name: "registration", Does: "rows of this registration"},
	{Name: "endpoint", Does: "rows of this endpoint, as type.name"},
	{Name: "credential", Does: "rows that used this credential, as type.name"},
	{Name: "verdict", Does: "allow, deny or approve"},
	{Name: "rule", Does: "rows that this rule decided"},
	{Name: "text", Does: "rows whose summary, reason or status has this, in any case"},
	{Name: "since", Does: "rows since an RFC 3339 time, or a duration ago"},
	{Name: "until", Does: "rows before an RFC 3339 time, or a duration ago"},
}

const eventStream = "text/event-stream"

// operations describe the API's routes, by their patterns.
var operations = map[string]openapi.Operation{
	"POST /api/setup":  {Does: "Sets the first root password and logs in.", Takes: setupRequest{}, Open: true},
	"POST /api/login":  {Does: "Logs in.", Takes: passwordRequest{}, Open: true},
	"POST /api/logout": {Does: "Ends the session of the cookie."},

	"GET /api/sessions":         {Does: "Who is logged in.", Gives: sessionView{}, List: true},
	"DELETE /api/sessions":      {Does: "Ends every session."},
	"GET /api/sessions/{id}":    {Does: "One session.", Gives: sessionView{}},
	"DELETE /api/sessions/{id}": {Does: "Ends one session."},
	"PUT /api/password":         {Does: "Changes the root password and ends every other session.", Takes: passwordsRequest{}},

	"GET /api/overview": {Does: "What needs the operator, and the last 24 hours.", Gives: overviewView{}},
	"GET /api/live":     {Does: "Server-sent events that name what has changed.", Media: []string{eventStream}},
	"GET /api/system":   {Does: "How the gateway itself is.", Gives: systemView{}},
	"GET /metrics":      {Does: "Metrics for Prometheus.", Media: []string{"text/plain"}},

	"GET /api/registrations": {Does: "Registrations, oldest first.", Gives: registrationView{}, List: true,
		Query: append([]openapi.Parameter{{Name: "state", Does: "only those in this state"}}, paged...)},
	"GET /api/registrations/{id}":          {Does: "One registration.", Gives: registrationView{}},
	"GET /api/registrations/{id}/flows":    {Does: "A registration's running flows, newest first.", Gives: flowView{}, List: true},
	"POST /api/registrations/{id}/approve": {Does: "Approves a pending registration, or a blocked one again.", Takes: approveRequest{}, Gives: registrationView{}},
	"PUT /api/registrations/{id}/profiles": {Does: "Changes what an approved registration may use.", Takes: profilesRequest{}, Gives: registrationView{}},
	"POST /api/registrations/{id}/block":   {Does: "Blocks a registration: nothing of it is forwarded.", Takes: reasonRequest{}, Gives: registrationView{}},
	"DELETE /api/registrations/{id}":       {Does: "Revokes a registration for good."},
	"GET /api/removals":                    {Does: "Registrations that the gateway removed by itself.", Gives: removalView{}, List: true},
	"DELETE /api/removals": {Does: "Forgets what was removed up to a time.",
		Query: []openapi.Parameter{{Name: "until", Does: "removed_at of the newest that was seen"}}},

	"GET /api/invites":         {Does: "Invites, newest first; never a token.", Gives: invites.Invite{}, List: true, Query: paged},
	"POST /api/invites":        {Does: "Makes an invite; the answer is the only one with its token.", Takes: invites.Request{}, Gives: invites.Issued{}, New: true},
	"DELETE /api/invites/{id}": {Does: "Voids an invite."},

	"GET /api/endpoints": {Does: "The endpoints of the policy in force.", Gives: endpointView{}, List: true},
	"GET /api/profiles":  {Does: "The profiles of the policy in force.", Gives: profileView{}, List: true},
	"GET /api/rules":     {Does: "The rules of the policy in force: none in this version.", Gives: ruleView{}, List: true},

	"GET /api/config":           {Does: "The policy in force as text, and how its file stands to it.", Gives: configView{}},
	"POST /api/config/validate": {Does: "Checks a draft, and says what it would change.", Takes: draftRequest{}, Gives: validationView{}},

	"GET /api/credentials":                  {Does: "Credentials and which slots are set; never a value.", Gives: credentialView{}, List: true},
	"GET /api/credentials/{type}/{name}":    {Does: "One credential, and which registrations may use it.", Gives: credentialDetail{}},
	"PUT /api/credentials/{type}/{name}":    {Does: "Sets slots.", Takes: slotsRequest{}},
	"DELETE /api/credentials/{type}/{name}": {Does: "Clears every slot."},
	"GET /api/secrets":                      {Does: "Named secrets; never a value.", Gives: secretView{}, List: true},
	"PUT /api/secrets/{name}":               {Does: "Sets a named secret.", Takes: valueRequest{}},
	"DELETE /api/secrets/{name}":            {Does: "Clears a named secret."},

	"GET /api/host-keys":                             {Does: "Host keys that an operator accepted.", Gives: hostKeyView{}, List: true},
	"DELETE /api/host-keys/{endpoint}/{host}/{port}": {Does: "Forgets a host key: the next connection asks again."},

	"GET /api/actions":        {Does: "The action log, newest first.", Gives: actionListView{}, Query: slices.Concat(actionFilters, paged)},
	"GET /api/actions/{id}":   {Does: "One action.", Gives: actionView{}},
	"GET /api/actions/stream": {Does: "Actions as they are logged, as server-sent events.", Media: []string{eventStream}, Query: actionFilters[:len(actionFilters)-1]},
	"GET /api/actions.csv":    {Does: "Actions as a file, newest first.", Media: []string{"text/csv"}, Query: slices.Concat(actionFilters, paged[1:])},
	"GET /api/actions.jsonl":  {Does: "Actions as a file, newest first.", Media: []string{"application/jsonl"}, Query: slices.Concat(actionFilters, paged[1:])},

	"GET /api/approvals": {Does: "What waits or waited for an operator, newest first.", Gives: approvalView{}, List: true,
		Query: append([]openapi.Parameter{{Name: "state", Does: "only those in this state"}}, paged...)},
	"GET /api/approvals/{id}":  {Does: "One of them.", Gives: approvalView{}},
	"POST /api/approvals/{id}": {Does: "Decides it.", Takes: decision{}, Gives: approvalView{}},

	"GET /api/grants":         {Does: "What operators allowed beforehand that is in force.", Gives: grantView{}, List: true},
	"DELETE /api/grants/{id}": {Does: "Takes one back: the next action asks again."},

	"GET /api/recordings": {Does: "Recordings of SSH sessions, newest first.", Gives: recordingView{}, List: true,
		Query: []openapi.Parameter{{Name: "registration", Does: "only those of this registration"}, {Name: "cursor", Does: "next of the page before"}}},
	"GET /api/recordings/{id}": {Does: "A recording, as asciicast v2 or as a transcript.", Media: []string{"application/x-asciicast", "application/jsonl"}, Parts: true},

	"GET /api/openapi.json": {Does: "This document.", Gives: json.RawMessage(nil)},
}

func (d *dashboard) handleDocument() {
	document := apiDocument()
	d.router.handle("GET /api/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document)
	})
}

// apiDocument describes the API in OpenAPI 3.1.
func apiDocument() []byte {
	document, err := json.Marshal(openapi.Document("Claw Patrol: the dashboard's API", "1", operations, failureBody{}, map[string]any{
		"session":  map[string]any{"type": "apiKey", "in": "cookie", "name": cookieName},
		"password": map[string]any{"type": "apiKey", "in": "header", "name": secretHeader},
	}))
	if err != nil {
		panic("dashboard: encoding the API's description: " + err.Error()) // our own types always encode
	}
	return append(document, '\n')
}

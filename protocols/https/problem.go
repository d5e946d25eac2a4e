package https

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/clawpatrol/clawpatrol/proxy"
)

// The codes of problems beyond those of package proxy; 502 also has the classes
// of package protocols.
const (
	codeMisdirected = "misdirected"         // 421: names another destination than the connection's
	codeMethod      = "method_not_allowed"  // 405
	codeRequest     = "bad_request"         // 400, 417, 431: no request that could be decided about
	codeTarget      = "bad_target"          // 400
	codeLoad        = "too_many_requests"   // 503
	codeInjection   = "injection_failed"    // 502
	codeUpgrade     = "bad_upgrade"         // 502
	codeAnswer      = "bad_upstream_answer" // 502
)

// allowed is the Allow field of a 405 (RFC 9110 section 15.5.6).
const allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// problem is an RFC 9457 document, what an agent gets instead of an answer.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason"`
}

// answer sends a problem instead of a response from upstream.
func (x *exchange) answer(status int, r *proxy.Refusal) {
	p := problem{
		Type:   "about:blank",
		Title:  http.StatusText(status),
		Status: status,
		Detail: "Claw Patrol did not carry out this request: " + r.Reason,
		Code:   r.Code,
		Rule:   r.Rule,
		Reason: r.Reason,
	}
	body, err := json.Marshal(p)
	if err != nil { // strings and an int: cannot be
		panic(http.ErrAbortHandler)
	}
	body = append(body, '\n')
	h := x.w.Header()
	clear(h)
	h["Content-Type"] = []string{"application/problem+json"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	h["Cache-Control"] = []string{"no-store"}
	h["X-Clawpatrol-Verdict"] = []string{"deny"}
	switch status {
	case http.StatusMethodNotAllowed:
		h["Allow"] = []string{allowed}
	case http.StatusServiceUnavailable:
		h["Retry-After"] = []string{"1"}
	}
	if r.Code == proxy.CodePolicyChanged || r.Code == codeRequest && x.agent != nil || x.conversation.draining() {
		h["Connection"] = []string{"close"} // HTTP/2: GOAWAY
	}
	x.status = strconv.Itoa(status) + " " + r.Code
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		n, _ := x.w.Write(body)
		x.out += int64(n)
	}
}

// refuse records and answers a request that is refused before anything is
// decided about it.
func (x *exchange) refuse(status int, code, reason string) {
	r := &proxy.Refusal{Code: code, Reason: reason}
	x.conversation.flow.Refuse(x.ctx, x.summary(), r)
	x.answer(status, r)
}

// refusalStatus is the status of what the Gate refused.
func refusalStatus(r *proxy.Refusal) int {
	switch r.Code {
	case proxy.CodeSecretMissing:
		return http.StatusBadGateway
	case proxy.CodePolicyChanged:
		return http.StatusMisdirectedRequest // a new connection is routed anew: RFC 9110 section 15.5.20
	}
	return http.StatusForbidden
}

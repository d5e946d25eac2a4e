package https

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// maxInformational bounds the 1xx responses to one request.
const maxInformational = 32

// exchange is one request of an agent and its answer. Fields without a comment
// are owned by the handler's goroutine.
type exchange struct {
	handler      *Handler
	conversation *conversation
	agent        *agentConn      // of an HTTP/1.1 agent; else nil
	ctx          context.Context // ends with the request
	w            http.ResponseWriter
	control      *http.ResponseController
	r            *http.Request
	hosts        []string // the Host fields of an HTTP/1.1 request

	grant    *proxy.Grant
	offered  []*policy.Credential // what the registration has for the endpoint, the granted one among them
	scrubber *scrubber
	path     string
	upgrade  string // the protocol an HTTP/1.1 agent asks to switch to
	body     *requestBody
	upload   *upload   // where the body goes upstream on a goroutine of ours
	pipe     *bodyPipe // where it goes by way of a transport
	status   string    // for the action log
	out      int64     // bytes of body sent to the agent
	echoed   bool      // the upstream sent the secret back

	mu            sync.Mutex
	headSent      bool // no 1xx any more; guarded by mu
	over          bool // w and control must not be used any more; guarded by mu
	informational int  // 1xx from upstream; guarded by mu
}

// serveRequest serves every request of every HTTP/2 agent: the handler of h2.
func (h *Handler) serveRequest(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(conversationKey{}).(*conversation)
	if !ok || !c.begin() {
		panic(http.ErrAbortHandler)
	}
	defer c.running.Done()
	c.frames.requested()
	x := &exchange{handler: h, conversation: c, ctx: r.Context(), w: w, control: http.NewResponseController(w), r: r, status: "aborted"}
	if !h.carry(x) {
		panic(http.ErrAbortHandler)
	}
}

// carry runs an exchange to its end. It reports false where the agent must not
// take the answer for a whole one.
func (h *Handler) carry(x *exchange) (whole bool) {
	defer func() { whole = x.end(recover()) }()
	if id := x.conversation.flow.Registration; h.load.add(id) {
		defer h.load.remove(id)
		x.run()
	} else {
		x.refuse(http.StatusServiceUnavailable, codeLoad, "too many requests of this registration are running")
	}
	return true
}

// end closes the books, whatever happened: panics stop at the request.
func (x *exchange) end(fault any) (whole bool) {
	x.mu.Lock()
	x.over = true
	x.mu.Unlock()
	if x.body != nil && x.body.permit != nil {
		x.body.permit.end()
	}
	if x.pipe != nil {
		x.pipe.abandon()
	}
	if fault != nil && fault != http.ErrAbortHandler {
		x.logPanic(fault)
		x.status = "internal_error"
	}
	if x.echoed {
		x.handler.warn(x.conversation.flow.Registration, "the upstream sent the credential back in a header; it was masked", "endpoint", x.conversation.flow.Match.Endpoint.Ref())
	}
	if x.grant != nil {
		result := registry.ActionResult{Status: x.status, BytesOut: x.out}
		if x.body != nil {
			result.BytesIn = x.body.read.Load()
		}
		x.grant.Finish(result)
	}
	return fault == nil
}

func (x *exchange) logPanic(fault any) {
	// The value could hold anything, the secret included; its type cannot.
	x.handler.log.Error("panic in an https request", "registration", x.conversation.flow.Registration,
		"endpoint", x.conversation.flow.Match.Endpoint.Ref(), "type", fmt.Sprintf("%T", fault), "stack", string(debug.Stack()))
}

// run decides and forwards.
func (x *exchange) run() {
	flow := x.conversation.flow
	switch x.r.Method {
	case http.MethodConnect, http.MethodTrace: // TRACE would show the credential: RFC 9110 section 9.3.8
		x.refuse(http.StatusMethodNotAllowed, codeMethod, "the method "+x.r.Method+" is not forwarded")
		return
	}
	if !isToken(x.r.Method) { // HTTP/2 says nothing about it
		x.refuse(http.StatusBadRequest, codeRequest, "the method is malformed")
		return
	}
	if reason := contradiction(x.r, x.hosts, flow.Match); reason != "" {
		x.refuse(http.StatusMisdirectedRequest, codeMisdirected, reason+", and this connection goes to "+authority(flow.Match))
		return
	}
	path, reason := readTarget(x.r)
	if reason != "" {
		x.refuse(http.StatusBadRequest, codeTarget, reason)
		return
	}
	x.path = path
	grant, err := flow.Authorize(x.ctx, proxy.Action{Summary: x.summary(), Choose: x.choose})
	if err != nil {
		var refusal *proxy.Refusal
		if !errors.As(err, &refusal) { // the request's own end
			panic(http.ErrAbortHandler)
		}
		x.answer(refusalStatus(refusal), refusal)
		return
	}
	x.grant = grant
	if len(x.offered) == 0 { // there is one, and nothing to choose
		x.offered = []*policy.Credential{grant.Credential}
	}
	p, err := x.pool()
	if err != nil {
		var refusal *proxy.Refusal
		if !errors.As(err, &refusal) {
			refusal = &proxy.Refusal{Code: codeInjection, Reason: err.Error()}
		}
		x.answer(http.StatusBadGateway, refusal)
		return
	}
	if p.injection.slot.parameter != "" && x.path == "*" {
		x.answer(http.StatusBadRequest, &proxy.Refusal{Code: codeTarget, Reason: "the request target cannot have the query that the credential goes into"})
		return
	}
	x.forward(p)
}

// summary is METHOD and path: query values can be secrets.
func (x *exchange) summary() string {
	path := x.path // as it goes upstream
	if path == "" {
		path = x.r.URL.EscapedPath() // of what is refused
	}
	return clip(x.r.Method+" "+path, 500)
}

// pool returns the upstream connections for the grant, its credential ready to
// inject. An error means that the request must not go ahead (I21).
func (x *exchange) pool() (*pool, error) {
	flow, credential := x.conversation.flow, x.grant.Credential
	endpoint := flow.Match.Endpoint
	if credential == nil || credential.Endpoint == nil || credential.Endpoint.Ref() != endpoint.Ref() ||
		credential.Endpoint.Fingerprint != endpoint.Fingerprint {
		return nil, errors.New("the credential belongs to another endpoint")
	}
	value, err := x.grant.Secret(secretSlot)
	if err != nil {
		return nil, err
	}
	p := x.handler.pools.get(
		poolKey{flow.Registration, endpoint.Ref(), credential.Ref(), flow.Match.Host, flow.Match.Port},
		poolStamp{endpoint.Fingerprint, credential.Fingerprint, x.grant.Version}, endpoint)
	if err := p.ready(credential, value); err != nil {
		return nil, err
	}
	x.scrubber = p.scrubber
	return p, nil
}

// forward sends the request upstream and relays the answer.
func (x *exchange) forward(p *pool) {
	out := x.outgoing()
	x.identify(out, p.injection)
	if x.agent != nil {
		x.agent.watch.start(x.body != nil)
	}
	resp, err := p.roundTrip(x, out, x.r.ProtoMajor == 2)
	x.mu.Lock()
	x.headSent = true
	x.mu.Unlock()
	if err != nil {
		if x.ctx.Err() != nil {
			panic(http.ErrAbortHandler)
		}
		switch {
		case errors.Is(err, errBody):
			x.answer(http.StatusBadRequest, &proxy.Refusal{Code: codeRequest, Reason: "the request's body is malformed"})
			return
		case errors.Is(err, errTooManyConns):
			x.answer(http.StatusServiceUnavailable, &proxy.Refusal{Code: codeLoad, Reason: "too many connections upstream of this registration are open"})
			return
		}
		failure := protocols.Explain(err)
		detail, _ := x.scrubber.mask(err.Error()) // it may quote what the upstream sent
		x.handler.warn(x.conversation.flow.Registration, "upstream failed", "endpoint", p.endpoint.Ref(), "host", x.conversation.flow.Match.Host, "class", failure.Class, "err", clip(detail, 500))
		x.answer(http.StatusBadGateway, &proxy.Refusal{
			Code:   failure.Class,
			Reason: authority(x.conversation.flow.Match) + " could not be used: " + failure.Reason,
		})
		return
	}
	defer x.closeAnswer(resp.Body)
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		x.switchProtocols(resp)
	case resp.StatusCode < 200 || resp.StatusCode > 999:
		x.answer(http.StatusBadGateway, &proxy.Refusal{Code: codeAnswer, Reason: "the endpoint answered with a status that is none"})
	default:
		x.relay(resp)
	}
}

// closeAnswer closes the body of the upstream's response. Over HTTP/2 that waits
// until the transport has let go of the request's body, which an agent that has
// its answer may never end: that must not hold up the end of this request.
func (x *exchange) closeAnswer(body io.Closer) {
	if x.body == nil || x.body.ended.Load() {
		_ = body.Close()
		return
	}
	x.conversation.running.Go(func() { _ = body.Close() }) // at the latest when the request's context ends
}

// outgoing is the request to send, but for the credential. It has no GetBody,
// so that a transport never sends a body twice.
func (x *exchange) outgoing() *http.Request {
	x.upgrade = upgradeOf(x.r)
	host := authority(x.conversation.flow.Match)
	to := &url.URL{Scheme: "https", Host: host, Opaque: x.path, RawQuery: x.r.URL.RawQuery, ForceQuery: x.r.URL.ForceQuery} // byte for byte
	if strings.HasPrefix(x.path, "//") {
		to.Opaque = "//" + host + x.path // or it would read as an authority; a transport takes this one off
	}
	var header http.Header
	if x.agent != nil {
		header = x.agent.fields
		clear(header)
	} else {
		header = make(http.Header, len(x.r.Header)+2)
	}
	requestHeader(header, x.r, x.upgrade)
	out := &http.Request{
		Method:        x.r.Method,
		URL:           to,
		Host:          host,
		Header:        header,
		ContentLength: x.r.ContentLength,
		Body:          http.NoBody,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
	}
	if x.r.Body != nil && x.r.Body != http.NoBody && x.r.ContentLength != 0 {
		out.Trailer = x.trailer()
		x.body = &requestBody{exchange: x, from: x.r.Body, trailer: out.Trailer}
		out.Body = x.body
	}
	if x.body != nil && hasToken(out.Header["Expect"], "100-continue") {
		x.body.permit = newPermit()
	}
	return out
}

// overHTTP2 prepares a request for a transport.
func (x *exchange) overHTTP2(out *http.Request) *http.Request {
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error { return x.inform(code, http.Header(h)) }}
	if x.body != nil && x.body.permit != nil {
		trace.Wait100Continue, trace.Got100Continue = x.body.permit.ask, x.body.permit.grant
	}
	out = out.WithContext(httptrace.WithClientTrace(context.WithValue(x.ctx, askingKey{}, x.ctx), trace))
	if x.agent != nil {
		out.Header = maps.Clone(out.Header) // a transport may look at it when the next request is here
		if x.body != nil {
			x.pipe = x.pipeBody()
			out.Body = x.pipe
		}
	}
	return out
}

// trailer is the request's announced trailer fields that may go upstream, their
// values to come at the body's end.
func (x *exchange) trailer() http.Header {
	var out http.Header
	for name := range x.r.Trailer {
		if !x.trailerAllowed(name) {
			continue
		}
		if out == nil {
			out = make(http.Header)
		}
		out[name] = nil
	}
	return out
}

// trailerAllowed keeps out of the trailer what a server might take for a field
// of the head: RFC 9110 section 6.5.1.
func (x *exchange) trailerAllowed(name string) bool {
	return isToken(name) && !connectionField(name) && !x.ownedField(name) && framing(name)
}

// framing is false for the fields a trailer must not carry.
func framing(name string) bool {
	switch name {
	case "Authorization", "Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Cookie", "Expect", "Host", "Set-Cookie":
		return false
	}
	return true
}

// inform relays a 1xx. It may run on a goroutine of a transport, before the
// round trip has returned or never.
func (x *exchange) inform(code int, from http.Header) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	// All of them count, those that go no further too: the transport sets no limit
	// of its own where it has this to ask.
	if x.informational++; x.informational > maxInformational {
		return errors.New("too many informational responses")
	}
	// 100 is for the gateway; the agent gets its own when its body is wanted.
	if code == http.StatusContinue || x.headSent || !x.r.ProtoAtLeast(1, 1) {
		return nil
	}
	h := x.w.Header()
	x.responseHeader(h, from)
	delete(h, "Date")
	delete(h, "Content-Type")
	delete(h, "Content-Length")
	x.w.WriteHeader(code)
	clear(h)
	return nil
}

package dashboard

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
)

// when says in which phase a public route is served.
type when int

const (
	always     when = iota
	whileUnset      // only until there is a root password
	onceSet         // only once there is one
)

type publicRoute struct {
	serve http.HandlerFunc
	when  when
}

// router is the gate before every route. Its public routes are given once, as
// one list, to newRouter; handle adds gated routes, and there is no other
// method: a route that is added later, or does not exist, is gated (I13).
type router struct {
	passwordExists func(*http.Request) (bool, error)
	authenticate   func(*http.Request) error // nil: the request has an operator's credential
	fail           func(http.ResponseWriter, *http.Request, error)
	ended          http.HandlerFunc // answers a page's form that came without a credential

	public   map[string]publicRoute // "METHOD /path", matched exactly
	mux      *http.ServeMux
	patterns []string // of mux
}

func newRouter(
	passwordExists func(*http.Request) (bool, error),
	authenticate func(*http.Request) error,
	fail func(http.ResponseWriter, *http.Request, error),
	ended http.HandlerFunc,
	public map[string]publicRoute,
) *router {
	return &router{passwordExists: passwordExists, authenticate: authenticate, fail: fail, ended: ended, public: public, mux: http.NewServeMux()}
}

// handle adds a route that needs an operator's credential.
func (rt *router) handle(pattern string, h http.HandlerFunc) {
	rt.mux.HandleFunc(pattern, h)
	rt.patterns = append(rt.patterns, pattern)
}

// ServeHTTP lets a request through to mux only with a credential, and says
// nothing about which paths exist before that.
func (rt *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	set, err := rt.passwordExists(r)
	if err != nil {
		rt.fail(w, r, err)
		return
	}
	api := isAPI(r.URL.Path)
	public, isPublic := rt.public[publicKey(r)]
	switch {
	case isPublic && (public.when == always || set == (public.when == onceSet)):
		// Anyone can have as many of these under way as the connections carry: at
		// maxBody each, that is more memory than the gateway has.
		r.Body = http.MaxBytesReader(w, r.Body, maxPublicBody)
		public.serve(w, r)
		return
	case !set && api:
		rt.fail(w, r, setupNeeded)
		return
	case !set:
		seeOther(w, r, "/setup")
		return
	case isPublic && api: // set-up after set-up
		rt.fail(w, r, alreadySet)
		return
	case isPublic:
		seeOther(w, r, "/login")
		return
	}
	if err := rt.authenticate(r); err != nil {
		// A script that asked for a part of a page must not get the log-in form in
		// its place: that says 401, and the page keeps what has been typed.
		switch {
		case !errors.Is(err, unauthorized) || api || r.Header.Get("HX-Request") != "":
			rt.fail(w, r, err)
		case r.Method == http.MethodPost:
			rt.ended(w, r)
		default:
			seeOther(w, r, loginThen(r))
		}
		return
	}
	rt.dispatch(w, r)
}

// loginThen is the log-in that goes on to what r asked for.
func loginThen(r *http.Request) string {
	next := ""
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		next = ownPage(r.URL.RequestURI())
	}
	if next == "" || next == "/" {
		return "/login"
	}
	return "/login?next=" + url.QueryEscape(next)
}

// publicKey is r's key in public: HEAD is answered as GET.
func publicKey(r *http.Request) string {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	return method + " " + r.URL.EscapedPath()
}

// dispatch serves a request that is through the gate.
func (rt *router) dispatch(w http.ResponseWriter, r *http.Request) {
	if _, pattern := rt.mux.Handler(r); pattern != "" {
		rt.mux.ServeHTTP(w, r)
		return
	}
	if allowed := rt.allowed(r); len(allowed) > 0 {
		for _, m := range allowed {
			w.Header().Add("Allow", m)
		}
		rt.fail(w, r, &failure{http.StatusMethodNotAllowed, "method_not_allowed", "this path does not take " + r.Method, ""})
		return
	}
	rt.fail(w, r, notFound)
}

// allowed lists the methods that r's path takes.
func (rt *router) allowed(r *http.Request) []string {
	var methods []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = m
		if _, pattern := rt.mux.Handler(probe); pattern != "" && !slices.Contains(methods, m) {
			methods = append(methods, m)
		}
	}
	return methods
}

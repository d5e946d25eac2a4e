package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ca returns the fingerprint of the CA that the public files hold.
func (d *doctor) ca() (*fingerprint, error) {
	b, err := readBounded(d.a.paths.ca())
	if err != nil {
		return nil, fmt.Errorf("reading the gateway's CA certificate: %w", err)
	}
	_, f, err := parseCA(string(b))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", d.a.paths.ca(), err)
	}
	if d.root && f.String() != d.st.GatewayCA {
		return nil, fmt.Errorf("reading %s: it is another CA than the gateway proved to have", d.a.paths.ca())
	}
	return &f, nil
}

// certificates returns the fingerprints of those in a PEM bundle.
func certificates(bundle []byte) map[fingerprint]bool {
	out := make(map[fingerprint]bool)
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return out
		}
		out[sha256.Sum256(block.Bytes)] = true
	}
}

// store checks that the system's trust store has the CA.
func (d *doctor) store() {
	const name = "trust store"
	ca, err := d.ca()
	if err != nil {
		d.failed(name, err, hintUp)
		return
	}
	for _, s := range trustStores {
		if st, err := os.Stat(d.a.host(s.dir)); err != nil || !st.IsDir() || d.a.program(s.refresh) == "" {
			continue
		}
		roots, err := d.a.systemRoots()
		if err != nil {
			d.failed(name, err, "")
			return
		}
		path := filepath.Join(s.dir, trustFile)
		source, err := readBounded(d.a.host(path))
		switch {
		case err != nil || !certificates(source)[*ca]:
			d.fail(name, "stop and start clawpatrol up, which installs it", "the gateway's CA is not in %s", path)
		case !certificates(roots)[*ca]:
			d.fail(name, "run "+s.refresh+" as root", "the gateway's CA is in %s, but not in the store made from it", path)
		default:
			d.ok(name, "the gateway's CA is in it, by %s", path)
		}
		return
	}
	d.warn(name, `eval "$(clawpatrol env`+d.a.stateFlag()+`)"`, "this system has none that this program knows: tools find the CA by clawpatrol env only")
}

// bundle checks what env points tools at.
func (d *doctor) bundle() {
	const name = "bundle"
	ca, err := d.ca()
	if err != nil {
		return // store has told
	}
	b, err := ReadAtMost(d.a.paths.bundle(), maxBundle)
	if err != nil {
		d.failed(name, err, "stop and start clawpatrol up, which writes it")
		return
	}
	roots, err := d.a.systemRoots()
	if err != nil {
		d.failed(name, err, "")
		return
	}
	has := certificates(b)
	lacks := 0
	for c := range certificates(roots) {
		if !has[c] {
			lacks++
		}
	}
	switch {
	case !has[*ca]:
		d.fail(name, "stop and start clawpatrol up, which writes it", "the gateway's CA is not in %s", d.a.paths.bundle())
	case lacks > 0:
		d.warn(name, "stop and start clawpatrol up, which writes it anew", "%s lacks %d of the system's roots, which are newer", d.a.paths.bundle(), lacks)
	default:
		d.ok(name, "%s has %d certificates", d.a.paths.bundle(), len(has))
	}
}

// probeTarget is a server that presents a chain of the gateway's CA.
type probeTarget struct {
	host string
	dial func(context.Context) (net.Conn, error) // nil: its certificate is a public one, and proves nothing
}

const (
	toolTimeout = 40 * time.Second // one program; a JVM that compiles takes a while
	maxRelayed  = 64               // connections at once of one relay
)

// tools runs each tool that is present against a server with a certificate of
// the gateway's CA: an endpoint host if one was named, else the gateway's public
// listener. Both are reached through a relay on loopback, which leaves the TLS
// to the tool and the server.
func (d *doctor) tools(ctx context.Context, served *probeTarget) {
	const name = "tools"
	ca, err := d.ca()
	if err != nil {
		return // store has told
	}
	if len(d.hosts) > 0 {
		h := d.hosts[0]
		served = &probeTarget{host: h, dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", net.JoinHostPort(h, "443"))
		}}
	}
	switch {
	case served == nil:
		d.warn(name, "see gateway", "not tried: there is nothing to try them with")
		return
	case served.dial == nil:
		d.warn(name, "name an endpoint host of this registration: clawpatrol doctor HOST", "not tried: the gateway's certificate is a public one, which proves nothing")
		return
	}
	r, err := startRelay(served.dial)
	if err != nil {
		d.failed(name, err, "")
		return
	}
	defer r.close()
	// Before the tools: is the chain what they have to accept?
	c := &tls.Dialer{NetDialer: &net.Dialer{Timeout: doctorTimeout}, Config: identity{host: served.host, pin: ca, now: d.a.cfg.Now}.tlsConfig()}
	dialCtx, cancel := context.WithTimeout(ctx, doctorTimeout)
	conn, err := c.DialContext(dialCtx, "tcp", r.addr())
	cancel()
	if err != nil {
		d.fail(name, "if it is an endpoint host: no credential of this registration's profiles is for it", "not tried: %s does not present a certificate of the gateway's CA: %s", served.host, oneLine(err.Error()))
		return
	}
	conn.Close()

	vars, err := d.a.Env()
	if err != nil {
		d.failed(name, err, "")
		return
	}
	dir, err := os.MkdirTemp("", "clawpatrol-doctor-")
	if err != nil {
		d.failed(name, err, "")
		return
	}
	defer os.RemoveAll(dir)
	p := probe{a: d.a, host: served.host, relay: r, dir: dir, vars: vars}
	checks := make([]chan *Check, len(probes))
	for i, t := range probes {
		checks[i] = make(chan *Check, 1)
		go func() { checks[i] <- p.check(ctx, t) }()
	}
	none := true
	for _, c := range checks {
		if c := <-c; c != nil { // in order, and all of them
			d.report(*c)
			none = false
		}
	}
	if none {
		d.ok(name, "none of them is present")
	}
}

// errNotTried is returned by a tool that could not be run as it must be.
var errNotTried = errors.New("not tried")

// check runs one tool with what env exports, and without. nil: it is not there.
func (p *probe) check(ctx context.Context, t toolProbe) *Check {
	program := t.find(p.a)
	if program == "" {
		return nil
	}
	c := &Check{Name: t.name}
	with := p.try(ctx, t, program, true)
	if errors.Is(with, errAbsent) {
		return nil
	}
	without := p.try(ctx, t, program, false)
	hint := t.hint
	if hint == nil {
		hint = hintEnv
	}
	switch {
	case errors.Is(with, errNotTried):
		c.Result, c.Detail, c.Hint = Warn, with.Error(), hint(p.a)
	case with != nil:
		c.Result, c.Detail, c.Hint = Fail, fmt.Sprintf("%s does not trust the gateway's CA: %s", program, with), hint(p.a)
	case without == nil:
		c.Result, c.Detail = OK, fmt.Sprintf("%s trusts the gateway's CA", program)
	case t.system:
		c.Result, c.Detail = Warn, fmt.Sprintf("%s trusts the gateway's CA only with what clawpatrol env exports: %s", program, without)
		c.Hint = "see trust store; in each shell: eval \"$(clawpatrol env" + p.a.stateFlag() + ")\""
	default:
		c.Result, c.Detail = OK, fmt.Sprintf("%s trusts the gateway's CA, with what clawpatrol env exports", program)
	}
	return c
}

// environment is this process's, without what env exports or with it.
func (p *probe) environment(exported bool) []string {
	drop := map[string]bool{"JAVA_TOOL_OPTIONS": true, "SSL_CERT_DIR": true, "GIT_SSL_NO_VERIFY": true}
	for _, names := range [][]string{bundleVariables, addedVariables} {
		for _, n := range names {
			drop[n] = true
		}
	}
	var env []string
	for _, kv := range os.Environ() {
		n, _, _ := strings.Cut(kv, "=")
		if !drop[n] && !strings.HasSuffix(strings.ToLower(n), "_proxy") {
			env = append(env, kv)
		}
	}
	env = append(env, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0")
	if exported {
		for _, v := range p.vars {
			if drop[v.Name] {
				env = append(env, v.Name+"="+v.Value)
			}
		}
	}
	return env
}

// lastLine is what a failed program had to say.
func lastLine(out []byte) string {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return oneLine(string(bytes.TrimSpace(lines[len(lines)-1])))
}

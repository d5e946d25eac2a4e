package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// probe is what all tools are tried with.
type probe struct {
	a     *Agent
	host  string // what the certificate must be for
	relay *relay
	dir   string // scratch
	vars  []Variable
}

// toolProbe has one tool connect to the relay, verify the chain it is presented
// in its own way and for the host's name, and end with status 0 if it accepts.
type toolProbe struct {
	name    string
	program string // "": this program itself
	system  bool   // it is expected to follow the system's trust store
	args    func(p *probe) ([]string, error)

	// judge decides on what the tool said where its status does not. nil: 0 is good.
	judge func(err error, out []byte) error
	hint  func(*Agent) string // nil: hintEnv
}

// hintEnv is what helps most tools.
func hintEnv(a *Agent) string {
	return `in each shell: eval "$(clawpatrol env` + a.stateFlag() + `)"; docs/agent-hosts.md says what tools need`
}

//go:embed probe/Probe.java
var javaProbe []byte

//go:embed probe/probe.js
var nodeProbe string

//go:embed probe/probe.py
var pythonProbe string

//go:embed probe/requests.py
var requestsProbe string

var probes = []toolProbe{
	{name: "curl", program: "curl", system: true, args: func(p *probe) ([]string, error) {
		// -q: a .curlrc that says insecure would accept anything.
		return []string{"-q", "-sS", "-o", "/dev/null", "--noproxy", "*", "--connect-to", "::" + p.relay.addr(), "https://" + net.JoinHostPort(p.host, p.relay.port()) + "/info"}, nil
	}},
	{name: "openssl", program: "openssl", system: true, args: func(p *probe) ([]string, error) {
		name := []string{"-servername", p.host, "-verify_hostname", p.host}
		if net.ParseIP(p.host) != nil {
			name = []string{"-noservername", "-verify_ip", p.host}
		}
		return append([]string{"s_client", "-connect", p.relay.addr(), "-verify_return_error", "-brief"}, name...), nil
	}},
	{name: "go", system: true, args: func(p *probe) ([]string, error) {
		return []string{"doctor", "--probe", p.relay.addr(), p.host}, nil
	}},
	{name: "python", program: "python3", system: true, args: func(p *probe) ([]string, error) {
		return []string{"-I", "-c", pythonProbe, p.relay.port(), p.host}, nil
	}},
	{name: "python requests", program: "python3", judge: judgeRequests, args: func(p *probe) ([]string, error) {
		return []string{"-I", "-c", requestsProbe, p.relay.port(), p.host}, nil
	}},
	{name: "node", program: "node", args: func(p *probe) ([]string, error) {
		return []string{"-e", nodeProbe, p.relay.port(), p.host}, nil
	}},
	{name: "git", program: "git", system: true, judge: judgeGit, args: func(p *probe) ([]string, error) {
		return []string{"-c", "http.sslVerify=true", "-c", "http.proxy=", "-c", "credential.helper=", "-c", "http.curloptResolve=" + p.host + ":" + p.relay.port() + ":127.0.0.1", "ls-remote", "https://" + net.JoinHostPort(p.host, p.relay.port()) + "/doctor.git"}, nil
	}},
	{name: "java", program: "java", system: true, judge: judgeJava, args: func(p *probe) ([]string, error) {
		path := filepath.Join(p.dir, "Probe.java")
		if err := os.WriteFile(path, javaProbe, 0o600); err != nil {
			return nil, err
		}
		return []string{path, p.relay.port(), p.host}, nil
	}, hint: func(a *Agent) string {
		return "keytool -importcert -cacerts -alias clawpatrol -file " + shellQuote(a.paths.ca()) + ", with the keytool beside this java"
	}},
}

func (t *toolProbe) find(a *Agent) string {
	if t.program != "" {
		return a.program(t.program)
	}
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	return exe
}

// try runs the tool once. nil: it accepted the chain.
func (p *probe) try(ctx context.Context, t toolProbe, program string, exported bool) error {
	args, err := t.args(p)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotTried, err)
	}
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = p.environment(exported)
	cmd.Dir = p.dir
	cmd.WaitDelay = time.Second
	out := &boundedOutput{left: maxProgramOutput}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("%w: it was not done within %v", errNotTried, toolTimeout)
	}
	if t.judge != nil {
		return t.judge(err, out.Bytes())
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, lastLine(out.Bytes()))
	}
	return nil
}

// boundedOutput keeps the beginning of what a program says.
type boundedOutput struct {
	bytes.Buffer
	left int
}

func (o *boundedOutput) Write(b []byte) (int, error) {
	n := min(len(b), o.left)
	o.left -= n
	o.Buffer.Write(b[:n])
	return len(b), nil
}

// judgeGit: there is no repository, and git has to have got far enough to be told
// so.
func judgeGit(err error, out []byte) error {
	switch {
	case err == nil, bytes.Contains(out, []byte("not found")), bytes.Contains(out, []byte("The requested URL returned error")), bytes.Contains(out, []byte("could not read Username")):
		return nil
	case bytes.Contains(out, []byte("certificate")):
		return errors.New(lastLine(out))
	}
	return fmt.Errorf("%w: it cannot be pointed at the gateway (git 2.37 and newer can): %s", errNotTried, lastLine(out))
}

func judgeJava(err error, out []byte) error {
	switch {
	case err == nil:
		return nil
	case bytes.Contains(out, []byte("SSLHandshakeException")) || bytes.Contains(out, []byte("CertificateException")):
		return errors.New("its own trust store lacks it")
	}
	// Only a JDK 11 and newer runs a source file.
	return fmt.Errorf("%w: this Java has no compiler: %s", errNotTried, lastLine(out))
}

// judgeRequests: a Python without requests has nothing to be tried.
func judgeRequests(err error, out []byte) error {
	switch {
	case err == nil:
		return nil
	case bytes.Contains(out, []byte("no requests")):
		return errAbsent
	}
	return errors.New(lastLine(out))
}

// errAbsent is returned by a tool that turned out not to be there.
var errAbsent = errors.New("it is not there")

// ProbeTrust connects to addr and verifies the certificate for host as any
// program written in Go does. Doctor runs it in a process of its own, whose
// environment is what is tried.
func ProbeTrust(ctx context.Context, addr, host string) error {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: &tls.Config{ServerName: host}}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("verifying %s: %w", host, quoted{err})
	}
	return c.Close()
}

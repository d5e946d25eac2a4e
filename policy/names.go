package policy

import (
	"fmt"
	"net/http"
	"strings"
)

// refusedHeaders cannot carry a credential. A name that ends in a dash stands
// for all that begin with it.
var refusedHeaders = []struct{ name, why string }{
	{"Connection", "it belongs to one connection, not to the request (RFC 9110, section 7.6.1)"},
	{"Keep-Alive", "it belongs to one connection, not to the request (RFC 9110, section 7.6.1)"},
	{"Proxy-", "it speaks to a proxy, not to the endpoint (RFC 9110, section 11.7)"},
	{"Te", "it belongs to one connection, not to the request (RFC 9110, section 10.1.4)"},
	{"Trailer", "it describes how the message is framed (RFC 9110, section 6.6.2)"},
	{"Transfer-Encoding", "it describes how the message is framed (RFC 9112, section 6.1)"},
	{"Upgrade", "it belongs to one connection, not to the request (RFC 9110, section 7.8)"},
	{"Expect", "it changes how the message is exchanged (RFC 9110, section 10.1.1)"},
	{"Host", "it says which host the request is for, and that is the endpoint (RFC 9110, section 7.2)"},
	{"Content-", "it describes the message's body (RFC 9110, section 8)"},
	{"Http2-Settings", "it belongs to one connection, not to the request (RFC 7540, section 3.2.1)"},
	{"Sec-Websocket-", "it is part of the WebSocket handshake (RFC 6455, section 11.3)"},
	{"Accept-Encoding", "the gateway chooses what it can inspect"},
	{"Cookie", "a credential of type \"cookie\" sets one cookie and leaves the others"},
	{"Set-Cookie", "only responses carry it (RFC 6265, section 4.1)"},
}

// canonicalHeader returns a header's name in canonical form.
func canonicalHeader(s string) (string, error) {
	if s == "" || len(s) > maxHeader {
		return "", fmt.Errorf("a header's name has 1 to %d characters", maxHeader)
	}
	if !isToken(s) {
		return "", fmt.Errorf("%q is not a header's name (RFC 9110, section 5.1)", clip(s))
	}
	name := http.CanonicalHeaderKey(s)
	for _, r := range refusedHeaders {
		if name == r.name || strings.HasSuffix(r.name, "-") && strings.HasPrefix(name, r.name) {
			return "", fmt.Errorf("%s cannot carry a credential: %s", name, r.why)
		}
	}
	return name, nil
}

// isToken is token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

// isTokenByte is tchar of RFC 9110, section 5.6.2.
func isTokenByte(ch byte) bool {
	return ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", ch) >= 0
}

// refusedEnv are variables a placeholder must not be exported under. A name
// that ends in an underscore stands for all that begin with it.
var refusedEnv = []struct{ name, why string }{
	{"PATH", "the shell finds programs by it"},
	{"LD_", "the dynamic linker obeys it"},
	{"DYLD_", "the dynamic linker obeys it"},
	{"GCONV_PATH", "the C library loads code by it"},
	{"LOCPATH", "the C library loads data by it"},
	{"MALLOC_", "the C library obeys it"},
	{"GLIBC_TUNABLES", "the C library obeys it"},
	{"IFS", "the shell splits words by it"},
	{"ENV", "the shell runs the file it names"},
	{"BASH_", "the shell obeys it"},
	{"SHELLOPTS", "the shell obeys it"},
	{"PROMPT_COMMAND", "the shell runs it"},
	{"PS4", "the shell expands it"},
	{"SHELL", "programs run it"},
	{"EDITOR", "programs run it"},
	{"VISUAL", "programs run it"},
	{"PAGER", "programs run it"},
	{"BROWSER", "programs run it"},
	{"HOME", "programs find their files by it"},
	{"USER", "programs find the user by it"},
	{"LOGNAME", "programs find the user by it"},
	{"PWD", "programs find their directory by it"},
	{"TMPDIR", "programs find their files by it"},
	{"XDG_", "programs find their files by it"},
	{"TERM", "the terminal's type stands there"},
	{"LANG", "the language stands there"},
	{"LC_", "the language stands there"},
	{"TZ", "the time zone stands there"},
	{"HTTP_PROXY", "programs send their traffic to it"},
	{"HTTPS_PROXY", "programs send their traffic to it"},
	{"ALL_PROXY", "programs send their traffic to it"},
	{"NO_PROXY", "programs send their traffic by it"},
	{"PYTHONPATH", "Python loads code by it"},
	{"PYTHONHOME", "Python loads code by it"},
	{"PYTHONSTARTUP", "Python runs the file it names"},
	{"NODE_OPTIONS", "Node obeys it"},
	{"NODE_PATH", "Node loads code by it"},
	{"PERL5LIB", "Perl loads code by it"},
	{"PERL5OPT", "Perl obeys it"},
	{"RUBYLIB", "Ruby loads code by it"},
	{"RUBYOPT", "Ruby obeys it"},
	{"JAVA_TOOL_OPTIONS", "Java obeys it"},
	{"CLASSPATH", "Java loads code by it"},
	{"GIT_SSH", "git runs it"},
	{"GIT_SSH_COMMAND", "git runs it"},
	{"GIT_ASKPASS", "git runs it"},
	{"GIT_EXEC_PATH", "git finds programs by it"},
	{"SSH_ASKPASS", "ssh runs it"},
	{"SSH_AUTH_SOCK", "ssh finds its agent by it"},
	{"SSL_CERT_FILE", "clawpatrol env sets it, so that programs trust the gateway"},
	{"SSL_CERT_DIR", "programs find trusted certificates by it"},
	{"CURL_CA_BUNDLE", "clawpatrol env sets it, so that programs trust the gateway"},
	{"REQUESTS_CA_BUNDLE", "clawpatrol env sets it, so that programs trust the gateway"},
	{"NODE_EXTRA_CA_CERTS", "clawpatrol env sets it, so that programs trust the gateway"},
	{"NODE_TLS_REJECT_UNAUTHORIZED", "Node stops verifying certificates by it"},
	{"GIT_SSL_", "git verifies certificates by it"},
	{"AWS_CA_BUNDLE", "clawpatrol env sets it, so that programs trust the gateway"},
	{"CARGO_HTTP_CAINFO", "clawpatrol env sets it, so that programs trust the gateway"},
	{"PIP_CERT", "clawpatrol env sets it, so that programs trust the gateway"},
	{"DENO_CERT", "clawpatrol env sets it, so that programs trust the gateway"},
	{"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "clawpatrol env sets it, so that programs trust the gateway"},
	{"HTTPLIB2_CA_CERTS", "clawpatrol env sets it, so that programs trust the gateway"},
	{"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "clawpatrol env sets it, so that programs trust the gateway"},
	{"NIX_SSL_CERT_FILE", "clawpatrol env sets it, so that programs trust the gateway"},
	{"CLAWPATROL_", "clawpatrol itself reads it"},
}

// checkEnv wants the name of an environment variable that nothing but a tool's
// own credential lookup reads.
func checkEnv(s string) error {
	if s == "" || len(s) > maxEnv {
		return fmt.Errorf("an environment variable's name has 1 to %d characters", maxEnv)
	}
	for i := range len(s) {
		ch := s[i]
		if !(ch >= 'A' && ch <= 'Z' || ch == '_' || i > 0 && ch >= '0' && ch <= '9') {
			return fmt.Errorf("%q is not an environment variable's name: capital letters, digits and underscores, no digit first", clip(s))
		}
	}
	for _, r := range refusedEnv {
		if s == r.name || strings.HasSuffix(r.name, "_") && strings.HasPrefix(s, r.name) {
			return fmt.Errorf("%s cannot hold a placeholder: %s", s, r.why)
		}
	}
	return nil
}

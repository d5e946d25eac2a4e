package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Variable is one environment variable of `clawpatrol env`.
type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// bundleVariables replace a tool's roots: they get the system's with ours added.
// SSL_CERT_DIR is left alone: what reads it reads SSL_CERT_FILE as well.
var bundleVariables = []string{
	"SSL_CERT_FILE",      // OpenSSL, Go, Ruby, Rust's native roots
	"REQUESTS_CA_BUNDLE", // Python requests
	"CURL_CA_BUNDLE",
	"GIT_SSL_CAINFO",
	"PIP_CERT",
	"AWS_CA_BUNDLE",
	"CARGO_HTTP_CAINFO",
	"DENO_CERT",                          // adds, but to its own roots: with the bundle it has the host's too
	"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",   // gRPC's C core: Python, Ruby, PHP
	"HTTPLIB2_CA_CERTS",                  // Google's older Python libraries
	"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", // gcloud
	"NIX_SSL_CERT_FILE",
	"npm_config_cafile", // npm, pnpm, Yarn 1: where an npmrc names a file, it comes before what Node trusts
}

// addedVariables add to a tool's roots: they get ours alone.
var addedVariables = []string{
	"NODE_EXTRA_CA_CERTS",
}

const (
	maxVariables = 256 // of the gateway's
	maxEnvValue  = 256 // bytes of a placeholder; the gateway's own limit
)

var envName = regexp.MustCompile(`^[A-Z_][A-Z0-9_]{0,127}$`)

// unsafeNames and unsafePrefixes are variables with which a shell, the loader or
// a common tool runs or loads what the value says. A placeholder has no business
// there, whoever named it.
var (
	unsafeNames = []string{
		"PATH", "HOME", "SHELL", "USER", "LOGNAME", "TERM", "TMPDIR", "PWD", "OLDPWD", "LANG",
		"IFS", "ENV", "CDPATH", "PROMPT_COMMAND", "PS1", "PS2", "PS4", "OPTIND", "SHELLOPTS", "FPATH", "ZDOTDIR",
		"EDITOR", "VISUAL", "PAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "MANPAGER",
		"NODE_OPTIONS", "NODE_PATH", "NODE_TLS_REJECT_UNAUTHORIZED", "RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH",
		"GCONV_PATH", "LOCPATH", "NLSPATH", "HOSTALIASES", "RES_OPTIONS", "LOCALDOMAIN", "GETCONF_DIR", "MALLOC_TRACE",
		"OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES", "SSL_CERT_DIR", "SSLKEYLOGFILE", "GODEBUG",
		"KUBECONFIG", "DOCKER_HOST", "MAKEFLAGS", "CC", "CXX", "RUSTC_WRAPPER",
	}
	unsafePrefixes = []string{"LD_", "DYLD_", "BASH_", "GLIBC_", "PYTHON", "PERL", "GIT_", "LC_", "SUDO_", "XDG_", "NPM_CONFIG_", "PIP_", "CARGO_", "CLAWPATROL_", "_"}
	unsafeSuffixes = []string{"_PROXY", "_COMMAND"}
	// No tool runs what a variable of this name says, whatever it begins with:
	// GIT_TOKEN is a fine placeholder.
	harmlessSuffix = "_TOKEN"
)

// Lists of names are never complete: VIMINIT, LUA_INIT, TAR_OPTIONS and GOFLAGS
// all run what they hold. Where a name does not say that it is for a secret, the
// value may therefore be a word only, which is no command, option, path or URL.
var (
	secretName = regexp.MustCompile(`(^|_)(TOKEN|KEY|APIKEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS|PAT|CREDENTIALS?|AUTH)(_ID)?$|PASSWORD$`)
	word       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@=+-]*$`)
)

// checkEnv accepts a variable that may be exported. The gateway is trusted with
// placeholders, not with the agent's shell.
func checkEnv(name, value string) error {
	switch {
	case !envName.MatchString(name):
		return fmt.Errorf("%s is not a name of an environment variable", oneLine(name))
	case slices.Contains(unsafeNames, name), slices.Contains(bundleVariables, name), slices.Contains(addedVariables, name),
		!strings.HasSuffix(name, harmlessSuffix) && slices.ContainsFunc(unsafePrefixes, func(p string) bool { return strings.HasPrefix(name, p) }),
		slices.ContainsFunc(unsafeSuffixes, func(s string) bool { return strings.HasSuffix(name, s) }):
		return fmt.Errorf("%s means something to the host's own programs", name)
	case len(value) > maxEnvValue:
		return fmt.Errorf("the value of %s is longer than %d bytes", name, maxEnvValue)
	case value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("the value of %s is not printable ASCII without spaces", name)
	case !secretName.MatchString(name) && !word.MatchString(value):
		return fmt.Errorf("%s is not the name of a secret, and its value is more than a word", name)
	}
	return nil
}

// Env returns the variables that make tools trust the gateway's CA and send the
// placeholders. It reads public files only: any user of the host may call it.
func (a *Agent) Env() ([]Variable, error) {
	f, err := a.readEnv()
	if err != nil {
		return nil, err
	}
	var vars []Variable
	for _, name := range bundleVariables {
		vars = append(vars, Variable{name, a.paths.bundle()})
	}
	for _, name := range addedVariables {
		vars = append(vars, Variable{name, a.paths.ca()})
	}
	if _, err := os.Stat(a.paths.javaStore()); err == nil {
		vars = append(vars, Variable{"JAVA_TOOL_OPTIONS", "-Djavax.net.ssl.trustStore=" + a.paths.javaStore() + " -Djavax.net.ssl.trustStorePassword=changeit"})
	}
	vars = append(vars, a.sshVariables()...)
	var names []string
	for name, value := range f.Placeholders {
		if checkEnv(name, value) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		vars = append(vars, Variable{name, f.Placeholders[name]})
	}
	return vars, nil
}

// readEnv reads the public file.
func (a *Agent) readEnv() (*envFile, error) {
	b, err := readBounded(a.paths.env())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, WithHint(errors.New("this host has not been approved by a gateway yet"), "run: clawpatrol join URL --ca-fingerprint sha256:HEX, and wait for the approval")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the environment: %w", err)
	}
	var f envFile
	if err := json.Unmarshal(b, &f); err != nil || len(f.Placeholders) > maxVariables {
		return nil, WithHint(fmt.Errorf("reading %s: it is damaged", a.paths.env()), "run: clawpatrol up")
	}
	return &f, nil
}

// Export returns v as a line for a POSIX shell's eval (POSIX.1-2024, 2.2.2
// Single-Quotes).
func (v Variable) Export() string {
	return "export " + v.Name + "=" + shellQuote(v.Value)
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

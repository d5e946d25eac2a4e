package sandbox

import (
	"regexp"
	"slices"
	"strings"

	"github.com/clawpatrol/clawpatrol/agent"
)

// secretName matches names of variables that hold secrets by convention.
var secretName = regexp.MustCompile(`(?i)(^|_)(TOKEN|SECRET|SECRETS|PASSWORD|PASSWD|PASSPHRASE|PASS|PWD|PAT|CREDENTIALS?|AUTH|APIKEY|API_KEY|ACCESS_KEY|PRIVATE_KEY|SECRET_KEY|SIGNING_KEY|ENCRYPTION_KEY|KEY|COOKIE|SESSION_ID|DSN|WEBHOOK|WEBHOOK_URL)(_[0-9]+|_ID|_FILE|_BASE64|_JSON)?$|(TOKEN|PASSWORD|SECRET)$`)

// secretPrefixes are of programs whose every variable is about access.
var secretPrefixes = []string{"AWS_", "AZURE_", "GCP_", "GCLOUD_", "VAULT_", "OP_SESSION_", "BW_SESSION", "TF_TOKEN_", "TF_VAR_"}

// harmlessNames match one of the above and are none.
var harmlessNames = []string{"PWD", "OLDPWD", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_DEFAULT_OUTPUT", "AWS_PAGER", "AWS_CA_BUNDLE", "COLORTERM"}

// secretValue matches values that are secrets whatever their name: a URL with a
// password, private keys, JSON Web Tokens, and the prefixes that services give
// theirs so that they are found.
var secretValue = regexp.MustCompile(`://[^/\s:@]*:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY|(^|[^A-Za-z0-9])(eyJ[A-Za-z0-9_-]{8,}\.eyJ|gh[pousr]_[A-Za-z0-9]{20}|github_pat_|glpat-|xox[abposr]-|sk-[A-Za-z0-9_-]{16}|[sr]k_(live|test)_|AKIA[0-9A-Z]{12}|ASIA[0-9A-Z]{12}|AIza[0-9A-Za-z_-]{30}|npm_[A-Za-z0-9]{30}|pypi-AgE|hvs\.|dop_v1_|SG\.[A-Za-z0-9_-]{16})`)

// outsideNames and outsidePrefixes name sockets, terminals and proxies of
// outside, which are not there inside.
var (
	outsideNames = []string{
		"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO",
		"DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET", "XAUTHORITY", "SESSION_MANAGER", "ICEAUTHORITY", "PULSE_SERVER", "AT_SPI_BUS_ADDRESS",
		"TMUX", "TMUX_PANE", "STY", "DOCKER_HOST", "CONTAINER_HOST", "BUILDKIT_HOST", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
		"NOTIFY_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID", "CREDENTIALS_DIRECTORY", "KRB5CCNAME", "SUDO_ASKPASS", "SSH_ASKPASS", "GIT_ASKPASS",
		"SSH_TTY", "GPG_TTY", "RESOLV_HOST_CONF", "LOCALDOMAIN", "RES_OPTIONS", "HOSTALIASES",
	}
	outsidePrefixes = []string{"VSCODE_IPC_", "VSCODE_GIT_"}
	proxyName       = regexp.MustCompile(`(?i)^(HTTP|HTTPS|ALL|NO|FTP|RSYNC|SOCKS)_PROXY$`)
)

// looksSecret reports whether a variable looks like a real secret.
func looksSecret(name, value string) bool {
	if slices.Contains(harmlessNames, name) {
		return false
	}
	return secretName.MatchString(name) || secretValue.MatchString(value) ||
		slices.ContainsFunc(secretPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// leadsOutside reports whether a variable names what is not there inside.
func leadsOutside(name string) bool {
	return slices.Contains(outsideNames, name) || proxyName.MatchString(name) ||
		slices.ContainsFunc(outsidePrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// environment is what the command gets: that of the caller, without what looks
// like a secret unless keep says so, and what `clawpatrol env` exports.
func environment(caller []string, exported []agent.Variable, keep bool) []string {
	ours := make(map[string]bool, len(exported))
	for _, v := range exported {
		ours[v.Name] = true
	}
	var out []string
	for _, kv := range caller {
		name, value, _ := strings.Cut(kv, "=")
		if ours[name] || leadsOutside(name) || (!keep && looksSecret(name, value)) {
			continue
		}
		out = append(out, kv)
	}
	for _, v := range exported {
		out = append(out, v.Name+"="+v.Value)
	}
	return out
}

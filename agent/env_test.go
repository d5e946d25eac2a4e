package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCheckEnv(t *testing.T) {
	for _, name := range []string{"GH_TOKEN", "OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "GIT_TOKEN", "X", "PGPASSWORD", "A1_2"} {
		if err := checkEnv(name, "clawpatrol-x"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "1A", "gh_token", "A-B", "A B", "A=B", "A;B", "A$(id)", "Ä", "A\nB", strings.Repeat("A", 200),
		"PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_X_TOKEN_X", "DYLD_INSERT_LIBRARIES", "BASH_ENV", "ENV", "IFS", "PS4", "PROMPT_COMMAND", "HOME", "SHELL",
		"GIT_SSH_COMMAND", "GIT_EXEC_PATH", "PYTHONPATH", "PYTHONSTARTUP", "PERL5OPT", "NODE_OPTIONS", "RUBYOPT", "JAVA_TOOL_OPTIONS", "HTTPS_PROXY", "ALL_PROXY",
		"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "SSL_CERT_DIR", "SSLKEYLOGFILE", "GODEBUG", "EDITOR", "PAGER", "_X",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "HTTPLIB2_CA_CERTS", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "NIX_SSL_CERT_FILE",
	} {
		if err := checkEnv(name, "x"); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	// Attack: names that are on nobody's list of dangerous ones, with values that
	// are commands, options, paths and URLs.
	for name, value := range map[string]string{
		"VIMINIT": ":!id", "LUA_INIT": `os.execute"id"`, "TAR_OPTIONS": "--to-command=id", "GOFLAGS": "-toolexec=/tmp/x", "WGETRC": "/tmp/x",
		"AWS_CONFIG_FILE": "../x", "SOME_URL": "https://evil.example", "FZF_DEFAULT_OPTS": "--preview=id", "LESSKEYIN": "~/x", "PSQLRC": "./x",
		"NPM_CONFIG_SCRIPT_SHELL": "x", "PIP_INDEX_URL": "x",
	} {
		if err := checkEnv(name, value); err == nil {
			t.Errorf("%s=%s is accepted", name, value)
		}
	}
	for name, value := range map[string]string{
		"SLACK_BOT_TOKEN": "xoxb-1/2:3", "AWS_SECRET_ACCESS_KEY": "AKIA/abc+def=", "PGPASSWORD": "it's!", "NPM_CONFIG_TOKEN": "npm_x", "DB_USER": "ci", "CARGO_REGISTRY_TOKEN": "c",
	} {
		if err := checkEnv(name, value); err != nil {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	for _, value := range []string{"", "a b", "a\nb", "a\x00b", "\x1b[2J", "\u009b2J", "\u202e", strings.Repeat("x", maxEnvValue+1)} {
		if err := checkEnv("GH_TOKEN", value); err == nil {
			t.Errorf("the value %.20q is accepted", value)
		}
	}
}

// Attack: a placeholder that breaks out of its quotes. The shell itself says
// what the variable holds.
func TestExport_IsReadBackByAShell(t *testing.T) {
	for _, value := range []string{
		"clawpatrol-x", "", "it's", "'", "''", `'"'`, "$(touch /tmp/x)", "`id`", `\`, `\'`, "a b  c", "$HOME", "!x", "*", "ä€", "~", "#", "-n", "';id;'",
	} {
		shellRoundTrip(t, value)
	}
}

func FuzzExport(f *testing.F) {
	f.Add("it's $(id)")
	f.Fuzz(func(t *testing.T, value string) {
		if checkEnv("V_TOKEN", value) == nil {
			shellRoundTrip(t, value)
		}
	})
}

func shellRoundTrip(t *testing.T, value string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `eval "$1"; printf %s "$V"`, "sh", Variable{"V", value}.Export())
	cmd.Env = []string{"HOME=/nonexistent"}
	got, err := cmd.Output()
	if err != nil || string(got) != value {
		t.Errorf("%q: the shell reads %q, %v", value, got, err)
	}
}

// `env` works for every user of the host, and tells nothing that only root may
// know.
func TestEnv_IsPublicAndSecretsAreNot(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	g.env = map[string]string{"GH_TOKEN": "clawpatrol-github's", "PATH": "/evil", "LD_PRELOAD": "/evil.so"}
	root := newRoot(t)
	r := join(t, g, root)
	vars, err := r.Env()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]string{}
	for _, v := range vars {
		byName[v.Name] = v.Value
	}
	if byName["GH_TOKEN"] != "clawpatrol-github's" || byName["PATH"] != "" || byName["LD_PRELOAD"] != "" {
		t.Errorf("env: %v", vars)
	}
	if !strings.Contains(r.out.String(), "placeholder not exported: PATH ") {
		t.Errorf("nothing said about PATH:\n%s", r.out)
	}
	system, err := os.ReadFile(filepath.Join(root, "/etc/ssl/certs/ca-certificates.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "DENO_CERT",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "HTTPLIB2_CA_CERTS", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "NIX_SSL_CERT_FILE", "npm_config_cafile"} {
		b, err := os.ReadFile(byName[name])
		if err != nil || string(b) != string(system)+g.ca.pem() {
			t.Errorf("%s=%q does not hold the system's roots and ours: %v", name, byName[name], err)
		}
	}
	if b, err := os.ReadFile(byName["NODE_EXTRA_CA_CERTS"]); err != nil || string(b) != g.ca.pem() {
		t.Errorf("NODE_EXTRA_CA_CERTS does not hold ours alone: %v", err)
	}
	for path, mode := range map[string]os.FileMode{
		r.paths.dir: 0o755, r.paths.public(): 0o755, r.paths.env(): 0o644, r.paths.bundle(): 0o644, r.paths.ca(): 0o644,
		r.paths.private(): 0o700, r.paths.state(): 0o600, r.paths.journal(): 0o600, r.paths.lock(): 0o600, filepath.Join(r.paths.private(), controlSocket): 0o600,
	} {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", path, st.Mode().Perm(), err, mode)
		}
	}
	// Nothing in public, and nothing that was said, is what state.json keeps.
	st, err := loadState(r.paths)
	if err != nil {
		t.Fatal(err)
	}
	said := r.out.String()
	for _, name := range []string{r.paths.env(), r.paths.bundle(), r.paths.ca()} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		said += string(b)
	}
	keys := st.JoinCredential.Keys()
	for _, secret := range []string{st.JoinCredential.Encode(), string(st.WireGuardKey.Reveal()), string(keys.MAC.Reveal()), string(keys.PresharedKey.Reveal())} {
		if strings.Contains(said, secret) {
			t.Error("a secret is public")
		}
	}
}

func TestEnv_NotApproved(t *testing.T) {
	a := New(Config{StateDir: t.TempDir()})
	if _, err := a.Env(); err == nil || HintOf(err) == "" {
		t.Errorf("error %v", err)
	}
}

func TestMergeBundle(t *testing.T) {
	ca, system := newTestCA(t), newTestCA(t)
	for _, roots := range []string{"", system.pem(), strings.TrimRight(system.pem(), "\n"), "# a comment\n" + system.pem()} {
		merged := mergeBundle([]byte(roots), ca.cert, []byte(ca.pem()))
		if !strings.HasSuffix(string(merged), ca.pem()) || strings.Count(string(merged), "BEGIN") != strings.Count(roots, "BEGIN")+1 {
			t.Errorf("%q becomes %q", roots, merged)
		}
		again := mergeBundle(merged, ca.cert, []byte(ca.pem()))
		if !slices.Equal(again, merged) {
			t.Error("a second time it is added again")
		}
	}
}

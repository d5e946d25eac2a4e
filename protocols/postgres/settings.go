package postgres

import (
	"slices"
	"strings"

	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
)

// harmless are the run-time parameters that every agent may set in its startup
// message: what drivers send unasked, and how values are written.
var harmless = []string{
	"application_name", "bytea_output", "client_encoding", "client_min_messages", "datestyle", "extra_float_digits",
	"fallback_application_name", "geqo", "idle_in_transaction_session_timeout", "intervalstyle", "jit", "timezone", "xmlbinary",
}

// readOnlySettings undo what a read_only credential is for, whatever the endpoint
// allows: the transactions' mode, who one is, and what code runs.
var readOnlySettings = []string{
	readOnlySetting, "transaction_read_only", "role", "session_authorization",
	"session_preload_libraries", "local_preload_libraries",
}

// sessionSettings returns what goes upstream of the parameters that an agent
// sends. allowed are those that the endpoint's policy adds to the harmless ones.
// The error is a *fatal.
func sessionSettings(asked []setting, allowed []string, replication, readOnly bool) (map[string]string, error) {
	settings := make(map[string]string)
	set := func(name, value string) error {
		name = strings.ToLower(name)
		switch {
		case readOnly && slices.Contains(readOnlySettings, name):
			return &fatal{code: insufficientPrivilege, message: "permission denied to set parameter " + quoted(name) + ": the credential is read_only"}
		case readOnly && statement.ChangesReading(name, value):
			return &fatal{code: insufficientPrivilege, message: "under " + name + " " + quoted(value) + " statements cannot be looked into, and the credential is read_only"}
		case !slices.Contains(harmless, name) && !slices.Contains(allowed, name):
			return &fatal{
				code:    insufficientPrivilege,
				message: "permission denied to set parameter " + quoted(name) + " at the start of a session",
				hint:    "The endpoint's policy lists what agents may set there: options = [...].",
			}
		}
		settings[name] = value
		return nil
	}
	for _, s := range asked {
		switch {
		case s.name == "user" || s.name == "database" || strings.HasPrefix(s.name, "_pq_."):
		case s.name == "replication":
			if !asksForReplication(s.value) {
				continue
			}
			if !replication || readOnly {
				return nil, &fatal{code: insufficientPrivilege, message: "replication connections are not allowed here"}
			}
			settings["replication"] = s.value
		case s.name == "options":
			list, err := parseOptions(s.value)
			if err != nil {
				return nil, err
			}
			for _, o := range list {
				if err := set(o.name, o.value); err != nil {
					return nil, err
				}
			}
		default:
			if err := set(s.name, s.value); err != nil {
				return nil, err
			}
		}
	}
	if readOnly {
		settings[readOnlySetting] = readOnlySettingOn
	}
	return settings, nil
}

// asksForReplication is false for PostgreSQL's spellings of false (parse_bool in
// src/backend/utils/adt/bool.c), of which any other value is the opposite here.
func asksForReplication(value string) bool {
	switch v := strings.ToLower(value); v {
	case "", "0", "of", "off", "n", "no", "f", "fa", "fal", "fals", "false":
		return false
	}
	return true
}

// parseOptions reads the "options" parameter: command-line arguments for the
// server's process, of which only -c name=value and --name=value are known
// (pg_split_opts and process_postgres_switches in src/backend/tcop/postgres.c).
func parseOptions(text string) ([]setting, error) {
	var list []setting
	arguments := splitOptions(text)
	for i := 0; i < len(arguments); i++ {
		argument := arguments[i]
		var assignment string
		switch {
		case argument == "-c":
			if i++; i == len(arguments) {
				return nil, &fatal{code: "42601", message: "options: -c without a value"}
			}
			assignment = arguments[i]
		case strings.HasPrefix(argument, "-c"):
			assignment = argument[len("-c"):]
		case strings.HasPrefix(argument, "--"):
			assignment = argument[len("--"):]
		default:
			return nil, &fatal{code: insufficientPrivilege, message: "options: only -c name=value and --name=value are allowed"}
		}
		name, value, ok := strings.Cut(assignment, "=")
		if !ok || name == "" {
			return nil, &fatal{code: "42601", message: "options: -c needs name=value"}
		}
		list = append(list, setting{strings.ReplaceAll(name, "-", "_"), value})
	}
	return list, nil
}

// splitOptions splits at white space, which a backslash escapes.
func splitOptions(text string) []string {
	var words []string
	var word strings.Builder
	in := false
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case b == '\\':
			in = true
			if i++; i < len(text) {
				word.WriteByte(text[i])
			}
		case b == ' ' || b >= '\t' && b <= '\r':
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			in = true
			word.WriteByte(b)
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words
}

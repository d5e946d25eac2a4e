package policy

// Postgres is what only an endpoint of type "postgres" has.
type Postgres struct {
	DisableTLS  bool     // tls = "disable": plain TCP, to loopback only
	Options     []string // run-time parameters that agents may set in their startup message, besides the harmless ones
	Replication bool     // replication connections are allowed
	LogLiterals bool     // statements are logged as they are, not with their literals replaced
}

// Package statement says what a SQL statement does, as far as its text tells.
//
// Normalise makes of any text the form that may be stored. A Parser makes of it
// Facts, by PostgreSQL's own grammar (that of PostgreSQL 17, compiled to
// WebAssembly): verbs, tables, functions, whether it writes. ReadOnly is what a
// read_only credential makes of those.
//
// What the text does not tell is reported as Unknown, and a rule that depends on
// it is to refuse: the code of DO and CALL and of functions that are not
// PostgreSQL's own, what a prepared statement was that is executed by its name,
// what the grammar does not know. But nobody here asks the server what a name
// means, and some things no text shows: views, triggers, row security, casts and
// input functions of types, functions that are called as if they were columns,
// search_path. The upstream role is the hard limit.
//
// Statements are read as a server does with standard_conforming_strings on and
// in an encoding in which bytes below 0x80 are ASCII: for sessions of another
// kind, of which ChangesReading tells, every statement is to count as Unknown.
package statement

// Facts are what is known of one statement. They are shared with the cache: do
// not change them.
type Facts struct {
	// Kind is the statement's command in capitals, mostly as the server's
	// command tag has it: SELECT, INSERT, CREATE TABLE. "" where it is not known.
	Kind string

	// Verbs are what the statement does, the statements inside of it included, as
	// the first word of their Kind: of "WITH x AS (DELETE …) SELECT …" these are
	// DELETE and SELECT. EXPLAIN without ANALYZE does not do what it explains.
	Verbs []string

	// Tables are the relations named, with schema where the statement has one:
	// orders, sales.orders. A name that search_path resolves stands without. The
	// database is left out, names of common table expressions too. A part with a
	// dot or a quote in it is quoted.
	Tables []string

	// Functions are the functions called: those of PostgreSQL without a schema,
	// others as the statement names them.
	Functions []string

	// Opaque are those Functions, and operators, that are not PostgreSQL's own:
	// what they do is Unknown.
	Opaque []string

	// Settings are the run-time parameters that the statement sets or resets, in
	// lower case; "*" stands for all.
	Settings []string

	// Writes says that the statement changes data, definitions, or something else
	// that outlives it, such as a file or what another session does.
	Writes bool

	// Unknown says that the statement may do more than the other fields say. Why
	// says what is not known, without anything from the statement but the names
	// of functions and settings.
	Unknown bool
	Why     string

	// ReadWrite says that the statement asks, or might ask, for a transaction
	// or session that is not read-only.
	ReadWrite bool

	// SetsRole says that the statement changes whose rights hold: SET ROLE, SET SESSION
	// AUTHORIZATION, and resetting either.
	SetsRole bool

	// SetsPassword says that the statement gives a role a password, or takes it.
	SetsPassword bool

	// ServerFile says that COPY reads or writes a file or program of the server.
	ServerFile bool

	// Prepares and Executes are the names of prepared statements.
	Prepares, Executes string

	// judgedElsewhere says that nothing but Opaque and Executes makes the statement
	// Unknown.
	judgedElsewhere bool
}

// size is roughly how much memory f takes, in bytes.
func (f *Facts) size() int {
	n := 256 + len(f.Kind) + len(f.Why) + len(f.Prepares) + len(f.Executes)
	for _, list := range [...][]string{f.Verbs, f.Tables, f.Functions, f.Opaque, f.Settings} {
		for _, s := range list {
			n += 16 + len(s)
		}
	}
	return n
}

// unknown are the facts about a statement of which nothing is known.
func unknown(why string) []Facts {
	return []Facts{{Unknown: true, Writes: true, ReadWrite: true, Why: why}}
}

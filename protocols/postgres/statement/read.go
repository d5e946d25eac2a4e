package statement

import (
	"slices"
	"strings"
)

// read makes facts of a tree, and reports whether they would be the same
// whatever the values of the literals in it.
func read(tree *node) (facts []Facts, valueless bool) {
	valueless = true
	for _, raw := range tree.children("stmts") {
		r := &reader{}
		stmt := raw.child("stmt")
		if stmt == nil {
			return unknown("a statement that is not there"), false
		}
		r.node(stmt, nil)
		if len(r.verbs) == 0 {
			r.verb(stmt)
		}
		facts = append(facts, r.facts(stmt))
		valueless = valueless && !r.values && valuesAreData(stmt)
	}
	return facts, valueless
}

// valuesAreData reports whether the literals in a statement are but data.
func valuesAreData(stmt *node) bool {
	switch stmt.kind {
	case "SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt":
		return true
	}
	return false
}

// reader collects the facts about one statement, and about those inside of it.
type reader struct {
	verbs, tables, functions, opaque, settings, why []string

	writes, readWrite, role, password, serverFile bool
	prepares, executes                            string

	// pinned are calls of set_config on a column, and what that column must be.
	pinned map[*node]string

	// values says that facts depend on the value of a literal.
	values bool
}

func (r *reader) facts(stmt *node) Facts {
	f := Facts{
		Kind:         commandOf(stmt),
		Verbs:        distinct(r.verbs),
		Tables:       distinct(r.tables),
		Functions:    distinct(r.functions),
		Opaque:       distinct(r.opaque),
		Settings:     distinct(r.settings),
		Writes:       r.writes,
		ReadWrite:    r.readWrite,
		SetsRole:     r.role,
		SetsPassword: r.password,
		ServerFile:   r.serverFile,
		Prepares:     strings.Clone(r.prepares),
		Executes:     strings.Clone(r.executes),
	}
	why := distinct(r.why)
	f.judgedElsewhere = len(why) == 0
	if f.Executes != "" {
		why = append(why, "what was prepared under the name")
	}
	if len(f.Opaque) > 0 {
		why = append(why, "what "+strings.Join(f.Opaque, ", ")+" does")
	}
	f.Unknown = len(why) > 0
	f.Why = strings.Join(why, "; ")
	return f
}

// distinct sorts a list and drops what is there twice. What it returns shares no
// memory with list or the tree: facts are kept for longer.
func distinct(list []string) []string {
	slices.Sort(list)
	list = slices.Clone(slices.Compact(list))
	for i, s := range list {
		list[i] = strings.Clone(s)
	}
	return list
}

// verb takes note of what a statement does.
func (r *reader) verb(n *node) {
	if verb, _, _ := strings.Cut(commandOf(n), " "); verb != "" {
		r.verbs = append(r.verbs, verb)
	}
}

// clauses are parts of statements that the tree calls statements.
var clauses = []string{"ReturnStmt", "ReplicaIdentityStmt"}

func (r *reader) unknown(why string) { r.why = append(r.why, why) }

// scope holds the names of the common table expressions that a part of a
// statement sees.
type scope struct {
	names []string
	outer *scope
}

func (s *scope) has(name string) bool {
	for ; s != nil; s = s.outer {
		if slices.Contains(s.names, name) {
			return true
		}
	}
	return false
}

// node reads n and what is below it. sees are the common table expressions
// around it.
func (r *reader) node(n *node, sees *scope) {
	if with := n.child("with_clause"); with != nil {
		sees = r.with(with, sees)
	}
	switch n.kind {
	case "RangeVar":
		// Only where any kind of node can stand does a name mean a common table
		// expression: what is written to is a table.
		if !n.any || n.text("schemaname") != "" || !sees.has(n.text("relname")) {
			r.table(n)
		}
		return
	case "FuncCall":
		r.call(n)
	case "SelectStmt":
		r.pin(n, sees)
	case "A_Expr":
		r.operator(n)
	case "LockingClause":
		r.writes = true // a row lock is a write to the row
		return          // its relations are aliases of what FROM names
	case "IntoClause":
		r.writes = true
	case "VariableSetStmt":
		r.setting(n)
	case "ExplainStmt":
		r.explain(n, sees)
		return
	default:
		r.utility(n)
	}
	if c, known := commands[n.kind]; known {
		if n.child("values_lists") == nil { // VALUES is no command of INSERT
			r.verb(n)
		}
		r.writes = r.writes || c.writes
	} else if strings.HasSuffix(n.kind, "Stmt") && !slices.Contains(clauses, n.kind) {
		r.writes = true
		r.unknown("a statement of a kind that is new")
	}
	for _, f := range n.fields {
		if c, ok := f.value.(*node); ok && f.name != "with_clause" {
			r.node(c, sees)
		}
	}
}

// with reads a WITH clause and returns what the statement that it belongs to
// sees: an expression sees those before it, or all of them where RECURSIVE.
func (r *reader) with(n *node, sees *scope) *scope {
	inner := &scope{outer: sees}
	expressions := n.children("ctes")
	if n.set("recursive") {
		for _, e := range expressions {
			inner.names = append(inner.names, e.text("ctename"))
		}
	}
	for _, e := range expressions {
		for _, f := range e.fields {
			if c, ok := f.value.(*node); ok {
				r.node(c, &scope{names: slices.Clone(inner.names), outer: sees})
			}
		}
		if !n.set("recursive") {
			inner.names = append(inner.names, e.text("ctename"))
		}
	}
	return inner
}

func (r *reader) table(n *node) {
	parts := []string{n.text("relname")}
	if schema := n.text("schemaname"); schema != "" {
		parts = []string{schema, parts[0]}
	}
	r.tables = append(r.tables, dotted(parts))
}

// call reads a function call; its arguments are read by who calls.
func (r *reader) call(n *node) {
	parts := stringsOf(n.children("funcname"))
	if len(parts) == 0 {
		r.unknown("a function without a name")
		return
	}
	schema := strings.Join(parts[:len(parts)-1], ".")
	name := parts[len(parts)-1]
	if schema == "pg_catalog" {
		parts = parts[1:]
	}
	r.functions = append(r.functions, dotted(parts))
	if matches(effects, name) {
		r.writes = true
	}
	if matches(evaluators, name) {
		r.unknown("what " + dotted(parts) + " is told to run")
	}
	switch {
	case !ours(schema) || !builtin()[name]:
		r.opaque = append(r.opaque, dotted(parts))
	case name == "set_config":
		r.setConfig(n)
	}
}

// operator reads an operator, which is a function by another name.
func (r *reader) operator(n *node) {
	switch n.text("kind") {
	case "AEXPR_OP", "AEXPR_OP_ANY", "AEXPR_OP_ALL":
		r.operatorName(stringsOf(n.children("name")))
	}
}

func (r *reader) operatorName(parts []string) {
	if len(parts) == 0 {
		return
	}
	last := len(parts) - 1
	if !ours(strings.Join(parts[:last], ".")) || !builtin()[parts[last]] {
		r.opaque = append(r.opaque, "operator "+dotted(parts))
	}
}

// explain reads EXPLAIN: what it explains is done only with ANALYZE, but the
// planner may call functions in any case.
func (r *reader) explain(n *node, sees *scope) {
	r.verbs = append(r.verbs, "EXPLAIN")
	if analyzes(n) {
		r.child(n, "query", sees)
		return
	}
	inner := &reader{}
	inner.child(n, "query", sees)
	r.tables = append(r.tables, inner.tables...)
	r.functions = append(r.functions, inner.functions...)
	r.opaque = append(r.opaque, inner.opaque...)
	r.settings = append(r.settings, inner.settings...)
	r.why = append(r.why, inner.why...)
	r.role = r.role || inner.role
	r.readWrite = r.readWrite || inner.readWrite
	r.executes = inner.executes
	r.writes = r.writes || slices.ContainsFunc(inner.functions, func(f string) bool {
		return matches(effects, f[strings.LastIndexByte(f, '.')+1:])
	})
}

func (r *reader) child(n *node, name string, sees *scope) {
	if c := n.child(name); c != nil {
		r.node(c, sees)
	}
}

// analyzes reports whether an EXPLAIN may run what it explains. The last of
// several ANALYZE options holds, but here every one counts.
func analyzes(n *node) bool {
	for _, o := range n.children("options") {
		if !strings.EqualFold(o.text("defname"), "analyze") {
			continue
		}
		if arg := o.child("arg"); arg == nil || boolean(arg) != isFalse {
			return true
		}
	}
	return false
}

package statement

import "strings"

// rowShareLock is the strongest lock that keeps nobody from writing
// (src/include/storage/lockdefs.h).
const rowShareLock = 2

// utility reads what is particular to a kind of node; what is below it is read
// by who calls.
func (r *reader) utility(n *node) {
	if n.text("behavior") == "DROP_CASCADE" {
		r.unknown("what CASCADE reaches")
	}
	switch n.kind {
	case "SubLink":
		r.operatorName(stringsOf(n.children("oper_name")))
	case "SortBy":
		r.operatorName(stringsOf(n.children("use_op")))
	case "RangeTableSample":
		if m := dotted(stringsOf(n.children("method"))); m != "bernoulli" && m != "system" {
			r.opaque = append(r.opaque, m)
		}
	case "LockStmt":
		r.writes = r.writes || n.number("mode") > rowShareLock
	case "CopyStmt":
		r.serverFile = r.serverFile || n.text("filename") != ""
		r.writes = r.writes || n.set("is_from") || r.serverFile
	case "TransactionStmt":
		r.transaction(n)
	case "DiscardStmt":
		if n.text("target") == "DISCARD_ALL" {
			r.settings = append(r.settings, everySetting)
		}
	case "PrepareStmt":
		r.prepares = n.text("name")
	case "ExecuteStmt":
		r.executes = n.text("name")
	case "DoStmt":
		r.unknown("the code of DO")
	case "CallStmt":
		r.unknown("what the procedure does")
	case "LoadStmt":
		r.unknown("what the library does")
	case "CreateFunctionStmt":
		r.unknown("the body of the function")
	case "CreateExtensionStmt", "AlterExtensionStmt":
		r.unknown("the extension's script")
	case "CreateTrigStmt", "CreateEventTrigStmt":
		r.functions = append(r.functions, dotted(stringsOf(n.children("funcname"))))
	case "CreateRoleStmt", "AlterRoleStmt":
		for _, o := range n.children("options") {
			r.password = r.password || o.text("defname") == "password"
		}
	case "GrantStmt":
		if n.text("targtype") == "ACL_TARGET_ALL_IN_SCHEMA" {
			r.unknown("which objects the schema has")
		}
	case "VacuumStmt", "ClusterStmt", "ReindexStmt":
		if n.child("rels") == nil && n.child("relation") == nil {
			r.unknown("which tables there are")
		}
	case "DropOwnedStmt", "ReassignOwnedStmt", "AlterTableMoveAllStmt", "DropdbStmt", "ImportForeignSchemaStmt":
		r.unknown("which tables there are")
	case "DropStmt":
		for _, o := range n.children("objects") {
			r.named(n.text("remove_type"), o)
		}
	case "CommentStmt", "SecLabelStmt":
		r.named(n.text("objtype"), n.child("object"))
	}
}

// named adds the relation that is named by a list of strings where something of
// the kind belongs to a relation, or is one.
func (r *reader) named(kind string, object *node) {
	if object == nil || object.kind != "List" {
		return
	}
	parts := stringsOf(object.children("items"))
	switch strings.TrimPrefix(kind, "OBJECT_") {
	case "TABLE", "VIEW", "MATVIEW", "FOREIGN_TABLE", "INDEX", "SEQUENCE":
	case "COLUMN", "TRIGGER", "RULE", "POLICY", "TABCONSTRAINT":
		parts = parts[:max(len(parts)-1, 0)]
	default:
		return
	}
	if len(parts) > 2 {
		parts = parts[len(parts)-2:] // without the database
	}
	if len(parts) > 0 {
		r.tables = append(r.tables, dotted(parts))
	}
}

func (r *reader) transaction(n *node) {
	switch n.text("kind") {
	case "TRANS_STMT_PREPARE", "TRANS_STMT_COMMIT_PREPARED", "TRANS_STMT_ROLLBACK_PREPARED":
		r.writes = true
	}
	r.modes(n.children("options"))
}

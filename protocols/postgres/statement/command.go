package statement

import "strings"

// command is a kind of statement.
type command struct {
	// tag is its name in capitals, where the tree's own name, in words, is not it.
	tag string

	// writes says that it changes more than the session.
	writes bool
}

// commands are the statements that the grammar knows. One that is not here is
// unknown, and writes.
var commands = map[string]command{
	"SelectStmt":         {tag: "SELECT"},
	"VariableShowStmt":   {tag: "SHOW"},
	"VariableSetStmt":    {tag: "SET"},
	"TransactionStmt":    {tag: "TRANSACTION"},
	"DeclareCursorStmt":  {tag: "DECLARE CURSOR"},
	"FetchStmt":          {tag: "FETCH"},
	"ClosePortalStmt":    {tag: "CLOSE CURSOR"},
	"PrepareStmt":        {tag: "PREPARE"},
	"ExecuteStmt":        {tag: "EXECUTE"},
	"DeallocateStmt":     {tag: "DEALLOCATE"},
	"ExplainStmt":        {tag: "EXPLAIN"},
	"ListenStmt":         {tag: "LISTEN"},
	"UnlistenStmt":       {tag: "UNLISTEN"},
	"ConstraintsSetStmt": {tag: "SET CONSTRAINTS"},
	"DiscardStmt":        {tag: "DISCARD"},
	"LockStmt":           {tag: "LOCK TABLE"},
	"CopyStmt":           {tag: "COPY"},
	"DoStmt":             {tag: "DO"},
	"CallStmt":           {tag: "CALL"},
	"LoadStmt":           {tag: "LOAD"},

	"InsertStmt":         {tag: "INSERT", writes: true},
	"UpdateStmt":         {tag: "UPDATE", writes: true},
	"DeleteStmt":         {tag: "DELETE", writes: true},
	"MergeStmt":          {tag: "MERGE", writes: true},
	"TruncateStmt":       {tag: "TRUNCATE TABLE", writes: true},
	"NotifyStmt":         {tag: "NOTIFY", writes: true},
	"CheckPointStmt":     {tag: "CHECKPOINT", writes: true},
	"ClusterStmt":        {writes: true},
	"VacuumStmt":         {writes: true},
	"ReindexStmt":        {writes: true},
	"RefreshMatViewStmt": {tag: "REFRESH MATERIALIZED VIEW", writes: true},
	"CommentStmt":        {writes: true},
	"SecLabelStmt":       {tag: "SECURITY LABEL", writes: true},
	"GrantStmt":          {writes: true},
	"GrantRoleStmt":      {writes: true},
	"ReassignOwnedStmt":  {writes: true},

	"ImportForeignSchemaStmt": {writes: true},

	"CreateStmt":              {tag: "CREATE TABLE", writes: true},
	"CreateTableAsStmt":       {writes: true},
	"CreateSchemaStmt":        {writes: true},
	"CreateTableSpaceStmt":    {tag: "CREATE TABLESPACE", writes: true},
	"CreateExtensionStmt":     {writes: true},
	"CreateFdwStmt":           {tag: "CREATE FOREIGN DATA WRAPPER", writes: true},
	"CreateForeignServerStmt": {tag: "CREATE SERVER", writes: true},
	"CreateForeignTableStmt":  {writes: true},
	"CreateUserMappingStmt":   {writes: true},
	"CreatePolicyStmt":        {writes: true},
	"CreateAmStmt":            {tag: "CREATE ACCESS METHOD", writes: true},
	"CreateTrigStmt":          {tag: "CREATE TRIGGER", writes: true},
	"CreateEventTrigStmt":     {tag: "CREATE EVENT TRIGGER", writes: true},
	"CreatePLangStmt":         {tag: "CREATE LANGUAGE", writes: true},
	"CreateRoleStmt":          {writes: true},
	"CreateSeqStmt":           {tag: "CREATE SEQUENCE", writes: true},
	"CreateDomainStmt":        {writes: true},
	"CreateOpClassStmt":       {tag: "CREATE OPERATOR CLASS", writes: true},
	"CreateOpFamilyStmt":      {tag: "CREATE OPERATOR FAMILY", writes: true},
	"CreateStatsStmt":         {tag: "CREATE STATISTICS", writes: true},
	"CreateFunctionStmt":      {writes: true},
	"CreateEnumStmt":          {tag: "CREATE TYPE", writes: true},
	"CreateRangeStmt":         {tag: "CREATE TYPE", writes: true},
	"CompositeTypeStmt":       {tag: "CREATE TYPE", writes: true},
	"CreatedbStmt":            {tag: "CREATE DATABASE", writes: true},
	"CreateConversionStmt":    {writes: true},
	"CreateCastStmt":          {writes: true},
	"CreateTransformStmt":     {writes: true},
	"CreatePublicationStmt":   {writes: true},
	"CreateSubscriptionStmt":  {writes: true},
	"DefineStmt":              {tag: "CREATE", writes: true},
	"IndexStmt":               {tag: "CREATE INDEX", writes: true},
	"RuleStmt":                {tag: "CREATE RULE", writes: true},
	"ViewStmt":                {tag: "CREATE VIEW", writes: true},

	"AlterTableStmt":             {writes: true},
	"AlterCollationStmt":         {writes: true},
	"AlterDomainStmt":            {writes: true},
	"AlterDefaultPrivilegesStmt": {writes: true},
	"AlterTableSpaceOptionsStmt": {tag: "ALTER TABLESPACE", writes: true},
	"AlterTableMoveAllStmt":      {tag: "ALTER TABLE", writes: true},
	"AlterExtensionStmt":         {writes: true},
	"AlterExtensionContentsStmt": {tag: "ALTER EXTENSION", writes: true},
	"AlterFdwStmt":               {tag: "ALTER FOREIGN DATA WRAPPER", writes: true},
	"AlterForeignServerStmt":     {tag: "ALTER SERVER", writes: true},
	"AlterUserMappingStmt":       {writes: true},
	"AlterPolicyStmt":            {writes: true},
	"AlterEventTrigStmt":         {tag: "ALTER EVENT TRIGGER", writes: true},
	"AlterRoleStmt":              {writes: true},
	"AlterRoleSetStmt":           {tag: "ALTER ROLE", writes: true},
	"AlterSeqStmt":               {tag: "ALTER SEQUENCE", writes: true},
	"AlterOpFamilyStmt":          {tag: "ALTER OPERATOR FAMILY", writes: true},
	"AlterStatsStmt":             {tag: "ALTER STATISTICS", writes: true},
	"AlterFunctionStmt":          {writes: true},
	"AlterObjectDependsStmt":     {tag: "ALTER", writes: true},
	"AlterObjectSchemaStmt":      {tag: "ALTER", writes: true},
	"AlterOwnerStmt":             {tag: "ALTER", writes: true},
	"AlterOperatorStmt":          {writes: true},
	"AlterTypeStmt":              {writes: true},
	"AlterEnumStmt":              {tag: "ALTER TYPE", writes: true},
	"AlterDatabaseStmt":          {writes: true},
	"AlterDatabaseRefreshCollStmt": {
		tag: "ALTER DATABASE", writes: true,
	},
	"AlterDatabaseSetStmt":     {tag: "ALTER DATABASE", writes: true},
	"AlterSystemStmt":          {writes: true},
	"AlterTSDictionaryStmt":    {tag: "ALTER TEXT SEARCH DICTIONARY", writes: true},
	"AlterTSConfigurationStmt": {tag: "ALTER TEXT SEARCH CONFIGURATION", writes: true},
	"AlterPublicationStmt":     {writes: true},
	"AlterSubscriptionStmt":    {writes: true},
	"RenameStmt":               {tag: "ALTER", writes: true},

	"DropStmt":             {writes: true},
	"DropTableSpaceStmt":   {tag: "DROP TABLESPACE", writes: true},
	"DropRoleStmt":         {writes: true},
	"DropUserMappingStmt":  {writes: true},
	"DropdbStmt":           {tag: "DROP DATABASE", writes: true},
	"DropOwnedStmt":        {writes: true},
	"DropSubscriptionStmt": {writes: true},
}

// commandOf returns the Kind of a statement, or "".
func commandOf(n *node) string {
	if n == nil {
		return ""
	}
	c, known := commands[n.kind]
	if !known {
		return ""
	}
	switch n.kind {
	case "TransactionStmt":
		return words(n.text("kind"), "TRANS_STMT_")
	case "DropStmt":
		return "DROP " + object(n.text("remove_type"))
	case "RenameStmt":
		return "ALTER " + object(n.text("rename_type"))
	case "AlterObjectSchemaStmt", "AlterOwnerStmt":
		return "ALTER " + object(n.text("object_type"))
	case "CreateTableAsStmt":
		return "CREATE " + object(n.text("objtype")) + " AS"
	case "GrantStmt", "GrantRoleStmt":
		if !n.set("is_grant") {
			return "REVOKE"
		}
		return "GRANT"
	case "CreateFunctionStmt":
		if n.set("is_procedure") {
			return "CREATE PROCEDURE"
		}
	case "VariableSetStmt":
		if kind := n.text("kind"); kind == "VAR_RESET" || kind == "VAR_RESET_ALL" {
			return "RESET"
		}
	case "VacuumStmt":
		if !n.set("is_vacuumcmd") {
			return "ANALYZE"
		}
	case "SelectStmt":
		if n.child("into_clause") != nil {
			return "SELECT INTO"
		}
	}
	if c.tag != "" {
		return c.tag
	}
	return spaced(strings.TrimSuffix(n.kind, "Stmt"))
}

// object is an ObjectType in words: OBJECT_FOREIGN_TABLE is FOREIGN TABLE.
func object(name string) string {
	if name == "OBJECT_MATVIEW" {
		return "MATERIALIZED VIEW"
	}
	return words(name, "OBJECT_")
}

// words is a name of an enumeration without its prefix, in words.
func words(name, prefix string) string {
	return strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", " ")
}

// spaced is a name such as AlterPolicy in words and capitals.
func spaced(name string) string {
	var b strings.Builder
	for i, c := range name {
		if 'A' <= c && c <= 'Z' && i > 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return strings.ToUpper(b.String())
}

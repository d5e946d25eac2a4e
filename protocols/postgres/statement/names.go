package statement

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
)

// builtinText names the functions and operators of pg_catalog, those with side
// effects too. The test beside it compares it with a server's.
//
//go:embed builtin.txt
var builtinText string

var builtin = sync.OnceValue(func() map[string]bool {
	names := make(map[string]bool, 4096)
	for name := range strings.FieldsSeq(builtinText) {
		names[name] = true
	}
	return names
})

// effects are functions that change something, by name: those of pg_catalog that
// are volatile and not harmless, and what extensions bring to reach other
// servers, files and jobs. A * stands for any ending. Whatever schema one is called in.
var effects = []string{
	"nextval", "setval",
	"lo_creat", "lo_create", "lo_export", "lo_from_bytea", "lo_import", "lo_open", "lo_put", "lo_truncate*", "lo_unlink", "lowrite", "lo_manage",
	"pg_notify", "pg_cancel_backend", "pg_terminate_backend", "pg_reload_conf", "pg_rotate_logfile*", "pg_promote", "pg_log_backend_memory_contexts",
	"pg_backup_start", "pg_backup_stop", "pg_start_backup", "pg_stop_backup", "pg_create_restore_point", "pg_switch_wal", "pg_wal_replay_pause", "pg_wal_replay_resume",
	"pg_create_*", "pg_copy_*", "pg_drop_*", "pg_sync_replication_slots", "pg_logical_emit_message", "pg_logical_slot_get_*", "pg_replication_origin_*", "pg_replication_slot_advance",
	"pg_stat_reset*", "pg_stat_force_next_flush", "pg_stat_statements_reset", "pg_clear_*", "pg_restore_*", "pg_set_*",
	"pg_import_system_collations", "pg_extension_config_dump", "pg_nextoid", "pg_stop_making_pinned_objects", "binary_upgrade_*",
	"brin_desummarize_range", "brin_summarize_*", "gin_clean_pending_list",
	"pg_file_*", "pg_write*", "pg_prewarm", "pg_truncate_visibility_map", "pg_surgery*", "heap_force_*", "pg_buffercache_evict*",
	"dblink*", "postgres_fdw_disconnect*", "http", "http_*", "net.http_*", "xp_*", "pg_execute_server_program", "system", "run_job", "add_job", "alter_job", "delete_job",
	"schedule", "schedule_in_database", "unschedule", "alter_job",
}

// evaluators are functions that run SQL, or read tables, that they are given as
// text: what those do, a statement's tree does not show.
var evaluators = []string{
	"query_to_xml*", "cursor_to_xml*", "table_to_xml*", "schema_to_xml*", "database_to_xml*", "ts_stat", "ts_rewrite",
	"pg_logical_slot_*", "crosstab*", "connectby", "xpath_table", "plpgsql_*",
}

// matches reports whether a list such as effects holds the name.
func matches(list []string, name string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			return strings.HasPrefix(name, prefix)
		}
		return name == p
	})
}

// ours reports whether a schema holds nothing but what PostgreSQL brings; "" is
// for names without one, which may be other people's too, but seldom are.
func ours(schema string) bool {
	return schema == "" || schema == "pg_catalog" || schema == "information_schema"
}

// dotted writes a name's parts as Facts do.
func dotted(parts []string) string {
	quoted := make([]string, len(parts))
	for i, p := range parts {
		if strings.ContainsAny(p, `."`) {
			p = `"` + strings.ReplaceAll(p, `"`, `""`) + `"`
		}
		quoted[i] = p
	}
	return strings.Join(quoted, ".")
}

package statement_test

import (
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
)

func TestReadOnly_RefusesToLeave(t *testing.T) {
	for _, sql := range []string{
		"SET TRANSACTION READ WRITE", "BEGIN READ WRITE", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ WRITE", "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
		"SET transaction_read_only = off", "SET transaction_read_only TO DEFAULT", "SET default_transaction_read_only = 0", "SET LOCAL default_transaction_read_only TO false", "RESET default_transaction_read_only", "RESET transaction_read_only",
		"SELECT set_config('default_transaction_read_only', 'off', false)", "SELECT pg_catalog.set_config('Transaction_Read_Only', 'off', false)", "SELECT set_config('transaction_' || 'read_only', 'off', false)",
		"SELECT set_config(name, 'off', false) FROM pg_settings", "SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'default_transaction_read_only'",
		"SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'work_mem' OR true", "SELECT set_config(name, 'off', false) FROM pg_settings WHERE name <> 'work_mem'", "SELECT set_config(b.name, 'off', false) FROM pg_settings b, pg_settings WHERE name = 'work_mem'",
		"SELECT set_config(name, 'off', false) FROM (SELECT 'default_transaction_read_only'::bpchar AS name) v WHERE name = 'default_transaction_read_only '",
		"SELECT set_config('application_name', 'role', false), set_config(name, 'x', false) FROM (SELECT current_setting('application_name') AS name) v WHERE name = 'x'",
		"WITH pg_settings AS (SELECT 'role'::bpchar AS name) SELECT set_config(name, 'x', false) FROM pg_settings WHERE name = 'role '", "SELECT set_config(name, 'x', false) FROM other.pg_settings WHERE name = 'work_mem'",
		"SELECT 1 FROM pg_settings, set_config(name, 'off', false) WHERE name = 'work_mem'", "SELECT (SELECT set_config(name, 'off', false)) FROM pg_settings WHERE name = 'work_mem'",
		"EXPLAIN SELECT set_config('default_transaction_read_only', 'off', false)", "PREPARE p AS SELECT set_config('role', 'x', false)", "WITH x AS (SELECT set_config('role', 'x', false)) SELECT 1",
		"SELECT query_to_xml('select set_config(''role'',''x'',false)', true, true, '')",
		"SET ROLE x", "SET ROLE NONE", "RESET ROLE", "SET SESSION AUTHORIZATION DEFAULT", "SET LOCAL ROLE x",
		"COPY t TO PROGRAM 'x'", "COPY t TO '/x'", "DO ''", "CALL p()", "SELECT nextval('s')", "SELECT pg_terminate_backend(1)", "SELECT dblink_exec('x')", "SELECT dblink('x', 'y')", "SELECT pg_write_anything()", "SELECT lo_import('x')",
		"SELECT 1; SET ROLE x", "SELECT 1;DELETE FROM t", "SET standard_conforming_strings = off", "SET client_encoding = 'GBK'", "SELECT 1 FROM t WHERE",
		"CREATE TABLE a AS EXECUTE p", "ALTER ROLE x PASSWORD 'y'",
	} {
		facts, _ := parser.Facts(sql)
		if err := statement.ReadOnly(facts); err == nil {
			t.Errorf("let through: %s", sql)
		} else if strings.Contains(err.Error(), "'") {
			t.Errorf("quotes the statement: %v", err)
		}
	}
	if statement.ReadOnly([]statement.Facts{{Unknown: true}}) == nil {
		t.Error("facts that say only Unknown are let through")
	}
}

func TestReadOnly_LetsReadersThrough(t *testing.T) {
	for _, sql := range append([]string{"", ";", "SELECT st_distance(a, b), a <#> b FROM t", "EXECUTE p", "RESET ALL", "DISCARD ALL", "BEGIN READ ONLY", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"}, reading...) {
		if err := statement.ReadOnly(factsOf(t, sql)); err != nil {
			t.Errorf("%v: %s", err, sql)
		}
	}
}

func TestChangesReading(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        bool
	}{
		{"standard_conforming_strings", "on", false}, {"Standard_Conforming_Strings", "off", true}, {"standard_conforming_strings", "", true},
		{"client_encoding", "UTF8", false}, {"CLIENT_ENCODING", "utf-8", false}, {"client_encoding", "SQL_ASCII", false}, {"client_encoding", "LATIN1", false},
		{"client_encoding", "SJIS", true}, {"client_encoding", "Shift_JIS_2004", true}, {"client_encoding", "GB18030", true}, {"client_encoding", "big5", true}, {"client_encoding", "win950", true}, {"client_encoding", "JOHAB", true}, {"client_encoding", "UHC", true}, {"client_encoding", "", true},
		{"work_mem", "1", false},
	} {
		if got := statement.ChangesReading(c.name, c.value); got != c.want {
			t.Errorf("%s = %q: %v", c.name, c.value, got)
		}
	}
}

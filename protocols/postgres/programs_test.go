package postgres_test

import (
	"testing"
)

func TestPsql_WithoutAPassword(t *testing.T) {
	l, id := ordinary(t)
	at := l.listen(id)
	out, err := l.psql(at, "scram_user", "orders", "SELECT current_user, current_database();")
	if err != nil || out != "scram_user|orders" {
		t.Fatalf("%q, %v\nlogged: %s\nrows: %q", out, err, l.said.String(), l.rows(id))
	}
	t.Logf("%q", l.rows(id))
}

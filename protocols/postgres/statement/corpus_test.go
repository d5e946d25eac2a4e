package statement_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
)

// introspection returns what programs send to look around: psql's backslash
// commands and pg_dump's queries as versions 15 send them, and those of
// SQLAlchemy, Django, Rails, Prisma, Npgsql, pgJDBC and asyncpg.
func introspection(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/introspection/*.sql")
	if err != nil || len(files) < 3 {
		t.Fatalf("introspection queries: %v, %v", files, err)
	}
	var all []string
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for sql := range strings.SplitSeq(string(b), "-- ;;") {
			if sql = strings.TrimSpace(sql); sql != "" {
				all = append(all, sql)
			}
		}
	}
	return all
}

func TestReadOnly_LetsProgramsLookAround(t *testing.T) {
	for _, sql := range introspection(t) {
		facts, err := parser.Facts(sql)
		if err != nil {
			t.Errorf("%v: %s", err, sql)
			continue
		}
		if err := statement.ReadOnly(facts); err != nil {
			t.Errorf("%v: %s", err, sql)
		}
		for _, f := range facts {
			if f.Unknown && f.Executes == "" {
				t.Errorf("%s: %s", f.Why, sql)
			}
		}
	}
}

package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
)

// What is remembered of a statement is never what another one is logged as, and
// takes no more room than is said.
func TestSummaries_AreOfTheStatementItself(t *testing.T) {
	s := &session{conversation: &conversation{endpoint: &policy.Endpoint{Postgres: &policy.Postgres{}}}}
	for range 3 {
		for i := range 20 * maxSummaries {
			column := fmt.Sprintf("c%d", i)
			want := "SELECT " + column + " FROM t WHERE a = ?"
			if got := s.summarize(fmt.Appendf(nil, "SELECT %s  FROM t WHERE a = %d", column, i)); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
	}
	sql := []byte("SELECT 'a'")
	first := s.summarize(sql)
	copy(sql, "DELETE 'a'") // as the next message does in the buffer
	if second := s.summarize(sql); first != "SELECT ?" || second != "DELETE ?" {
		t.Errorf("got %q and %q", first, second)
	}
	if got := s.summarize(nil); got != "(empty statement)" {
		t.Errorf("got %q", got)
	}
	long := "SELECT '" + strings.Repeat("x", 2*maxSummarized) + "'"
	for range 2 {
		if got := s.summarize([]byte(long)); got != "SELECT ?" {
			t.Errorf("got %q", got)
		}
	}
	for _, k := range s.summaries.kept {
		if len(k.text) > maxSummarized {
			t.Errorf("%d bytes are kept", len(k.text))
		}
	}
	again := testing.AllocsPerRun(100, func() { s.summarize(sql) })
	if again != 0 {
		t.Errorf("a statement that comes again allocates %v times", again)
	}
}

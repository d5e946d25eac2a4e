package statement

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pgquery "github.com/wasilibs/go-pgquery/parser"
)

// counting is a Parser of the real grammar, and how often that was asked.
func counting() (*Parser, *atomic.Int64) {
	asked := new(atomic.Int64)
	return &Parser{parse: func(sql string) ([]byte, error) {
		asked.Add(1)
		return pgquery.ParseToProtobuf(sql)
	}}, asked
}

func TestParser_ParsesATextOnceWhateverItsValues(t *testing.T) {
	p, asked := counting()
	for i := range 100 {
		facts, err := p.Facts(fmt.Sprintf("SELECT a FROM t WHERE i = %d AND b = 'x%d' AND c = 'it''s'", i, i))
		if err != nil || len(facts) != 1 || !reflect.DeepEqual(facts[0].Tables, []string{"t"}) {
			t.Fatalf("%+v, %v", facts, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("parsed %d times", n)
	}
}

// Statements that are other statements for another value must not share facts.
func TestParser_ValuesThatMatterAreNotLeftOut(t *testing.T) {
	p, _ := counting()
	for _, pair := range [][2]string{
		{"SELECT set_config('work_mem', 'x', false)", "SELECT set_config('role', 'x', false)"},
		{"SET client_encoding = 'UTF8'", "SET client_encoding = 'SJIS'"},
		{"EXPLAIN (ANALYZE 0) DELETE FROM t", "EXPLAIN (ANALYZE 1) DELETE FROM t"},
		{`SELECT * FROM U&"d!0061" UESCAPE '!'`, `SELECT * FROM U&"d!0061" UESCAPE '#'`},
		{"SELECT 'a'; SELECT b", "SELECT 'a; SELECT b'"},
		{`SELECT 'a\'; DELETE FROM t; --'`, `SELECT 'a\''; DELETE FROM t; --'`},
		{"SELECT $$a$$", "SELECT $$a$$; DELETE FROM t; SELECT $$b$$"},
		{"SELECT 1 -- 'x\n", "SELECT 1 -- 'x\n; DELETE FROM t --'"},
		{"SELECT set_config(name, '', false) FROM pg_settings WHERE name = 'work_mem'", "SELECT set_config(name, '', false) FROM pg_settings WHERE name = 'role'"},
	} {
		a, _ := p.Facts(pair[0])
		b, _ := p.Facts(pair[1])
		if reflect.DeepEqual(a, b) {
			t.Errorf("the same facts for\n%s\n%s\n%+v", pair[0], pair[1], a)
		}
	}
}

func TestParser_CacheIsBounded(t *testing.T) {
	var c cache
	filler := strings.Repeat("x", maxCachedText-16)
	for i := range 3 * maxCached / maxCachedText {
		c.put(fmt.Sprintf("%d %s", i, filler), []Facts{{Kind: "SELECT"}})
	}
	if c.size > maxCached || c.recent.Len() != len(c.entries) {
		t.Errorf("%d bytes, %d and %d entries", c.size, c.recent.Len(), len(c.entries))
	}
	if _, ok := c.get("0 " + filler); ok {
		t.Error("the oldest is still there")
	}
	c.put(filler+filler, nil)
	if _, ok := c.get(filler + filler); ok {
		t.Error("a long text was kept")
	}
}

func TestParser_IsNotUsedAfterItFailed(t *testing.T) {
	calls := 0
	p := &Parser{parse: func(string) ([]byte, error) {
		calls++
		panic("wasm error: out of bounds memory access")
	}}
	for range 3 {
		facts, err := p.Facts("SELECT 1")
		if !errors.Is(err, ErrParser) || ReadOnly(facts) == nil {
			t.Errorf("%+v, %v", facts, err)
		}
	}
	if calls != 1 {
		t.Errorf("called %d times", calls)
	}
	if err := p.Warm(); !errors.Is(err, ErrParser) {
		t.Errorf("Warm: %v", err)
	}
}

func TestParser_ManyAtOnce(t *testing.T) {
	var p Parser
	if err := p.Warm(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				table := fmt.Sprintf("t%d_%d", i, j%5)
				if facts, err := p.Facts("SELECT 1 FROM " + table); err != nil || facts[0].Tables[0] != table {
					t.Errorf("%+v, %v", facts, err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzFacts(f *testing.F) {
	for _, s := range []string{"SELECT 1", "WITH a AS (SELECT 1) DELETE FROM b", "EXPLAIN (ANALYZE x) SELECT", "SET a = b", "SELECT set_config(a, b, c)", "DROP TABLE a.b.c.d", "COMMENT ON COLUMN a IS 'b'"} {
		f.Add(s)
	}
	var p Parser
	if err := p.Warm(); err != nil { // longer than an input may take
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		facts, err := p.Facts(sql)
		if errors.Is(err, ErrParser) {
			t.Fatalf("%q broke the parser", sql)
		}
		if err != nil && (len(facts) != 1 || ReadOnly(facts) == nil) {
			t.Errorf("%q: %v, but %+v", sql, err, facts)
		}
		if err != nil {
			return
		}
		// The facts of a skeleton are those of the text itself.
		tree, err := p.tree(sql)
		if err != nil {
			t.Fatal(err)
		}
		if whole, _ := read(tree); !reflect.DeepEqual(whole, facts) {
			t.Errorf("%q: %+v, not %+v", sql, facts, whole)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("\x08\x01")
	if wire, err := pgquery.ParseToProtobuf("WITH a AS (SELECT 1) DELETE FROM b WHERE c = 'd'"); err == nil {
		f.Add(string(wire))
	}
	f.Fuzz(func(t *testing.T, wire string) {
		if tree, err := decode(wire); err == nil {
			read(tree)
		}
	})
}

func BenchmarkFacts(b *testing.B) {
	for name, sql := range map[string]string{
		"select": "SELECT abalance FROM pgbench_accounts WHERE aid = %d",
		"update": "UPDATE pgbench_accounts SET abalance = abalance + %d WHERE aid = 17",
		"orm":    "SELECT a.id, a.name, b.total FROM sales.customers a LEFT OUTER JOIN sales.orders b ON a.id = b.customer WHERE a.active AND b.placed > now() - interval '1 day' AND a.id IN (SELECT c FROM picked WHERE n = %d) ORDER BY b.total DESC LIMIT 20",
	} {
		var p Parser
		if err := p.Warm(); err != nil {
			b.Fatal(err)
		}
		i := 0
		b.Run(name+"/parsed", func(b *testing.B) {
			for b.Loop() {
				tree, err := p.tree(fmt.Sprintf(sql, i))
				if err != nil {
					b.Fatal(err)
				}
				read(tree)
				i++
			}
		})
		b.Run(name+"/cached", func(b *testing.B) {
			texts := make([]string, 64)
			for i := range texts {
				texts[i] = fmt.Sprintf(sql, i)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Facts(texts[i%64]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

func BenchmarkNormalise(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Normalise("SELECT abalance FROM pgbench_accounts WHERE aid = 123456")
	}
}

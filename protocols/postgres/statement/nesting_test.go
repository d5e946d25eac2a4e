package statement_test

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
)

// shapes are ways to nest, each as deep as it is told.
var shapes = map[string]func(int) string{
	"subselects": func(n int) string { return "select " + strings.Repeat("(select ", n) + "1" + strings.Repeat(")", n) },
	"from": func(n int) string {
		return "select 1 from " + strings.Repeat("(select 1 from ", n) + "a" + strings.Repeat(") x", n)
	},
	"with": func(n int) string {
		return strings.Repeat("with x as(", n) + "select 1" + strings.Repeat(")select 1", n)
	},
	"calls":   func(n int) string { return "select " + strings.Repeat("f(", n) + "1" + strings.Repeat(")", n) },
	"rows":    func(n int) string { return "select " + strings.Repeat("(1,", n) + "1" + strings.Repeat(")", n) },
	"arrays":  func(n int) string { return "select " + strings.Repeat("array[", n) + strings.Repeat("]", n) },
	"indexes": func(n int) string { return "select " + strings.Repeat("a[", n) + "1" + strings.Repeat("]", n) },
	"fields":  func(n int) string { return "select " + strings.Repeat("(", n) + "a" + strings.Repeat(").b", n) },
	"exists":  func(n int) string { return "select " + strings.Repeat("exists(select ", n) + strings.Repeat(")", n) },
	"filters": func(n int) string {
		return "select " + strings.Repeat("f()filter(where ", n) + "a" + strings.Repeat(")", n)
	},
	"not":     func(n int) string { return "select " + strings.Repeat("not ", n) + "a" },
	"minus":   func(n int) string { return "select " + strings.Repeat("- ", n) + "a" },
	"plus":    func(n int) string { return "select 1" + strings.Repeat("+a", n) },
	"casts":   func(n int) string { return "select 1" + strings.Repeat("::int", n) },
	"isnull":  func(n int) string { return "select a" + strings.Repeat(" isnull", n) },
	"collate": func(n int) string { return "select a" + strings.Repeat(" collate c", n) },
	"unions":  func(n int) string { return "select 1" + strings.Repeat(" union select 1", n) },
	"listing unions": func(n int) string {
		return "select a,b" + strings.Repeat(" union select a,b", n)
	},
	"joins":   func(n int) string { return "select * from a" + strings.Repeat(" natural join b", n) },
	"join on": func(n int) string { return "select * from a" + strings.Repeat(" join b on c and d", n) },
	"case": func(n int) string {
		return "select " + strings.Repeat("case when ", n) + "1" + strings.Repeat(" then 1 end", n)
	},
	"case and": func(n int) string {
		return "select " + strings.Repeat("case when a and ", n) + "b" + strings.Repeat(" then 1 end", n)
	},
	"between":     func(n int) string { return "select " + strings.Repeat("not a between 1 and ", n) + "2" },
	"keywords":    func(n int) string { return "select 1" + strings.Repeat("+a.and", n) },
	"unicode":     func(n int) string { return "select E'a'\n'b\\' ' -- '\n" + strings.Repeat("- ", n) + "1" },
	"in comments": func(n int) string { return "select " + strings.Repeat("-/*,*/", n) + "a" },
}

// The parser's memory lies beside its stack. Where the deepest statement that is
// let through, in any shape, leaves the answers as they were, no agent can turn
// another's answers wrong.
func TestFacts_NestingNeitherBreaksTheParserNorItsAnswers(t *testing.T) {
	canaries := []string{
		"SELECT a, b::text FROM s.t JOIN u USING (x) WHERE c LIKE 'x%' AND d IN (1, 2) ORDER BY c%d",
		"WITH w AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM w RETURNING c%d",
		"CREATE TABLE t%d (a int PRIMARY KEY, b text NOT NULL DEFAULT 'x')",
		"ALTER ROLE r%d PASSWORD 'y'", "SET ROLE r%d", "COPY t%d FROM PROGRAM 'x'",
	}
	answers := func(i int) (all [][]statement.Facts) {
		for _, c := range canaries {
			facts := slices.Clone(factsOf(t, strings.Replace(c, "%d", strconv.Itoa(i), 1)))
			for j := range facts {
				facts[j].Tables = slices.Clone(facts[j].Tables)
				for k, table := range facts[j].Tables {
					facts[j].Tables[k] = strings.TrimRight(table, "0123456789")
				}
			}
			all = append(all, facts)
		}
		return all
	}
	before, round := answers(0), 0
	for name, shape := range shapes {
		let := 0
		for depth := 16; ; depth += depth / 8 {
			_, err := parser.Facts(shape(depth))
			if errors.Is(err, statement.ErrParser) {
				t.Fatalf("%s, %d deep: %v", name, depth, err)
			}
			if errors.Is(err, statement.ErrNesting) {
				break
			}
			let = depth
		}
		if let < 50 || let > 500 {
			t.Errorf("%s: let through to a depth of %d", name, let)
		}
		round++
		if after := answers(round); !reflect.DeepEqual(before, after) {
			t.Fatalf("after %s the answers are\n%+v\nnot\n%+v", name, after, before)
		}
	}
}

func TestFacts_WideStatementsAreNotNested(t *testing.T) {
	for name, sql := range map[string]string{
		"values":   "INSERT INTO t VALUES (1, 'x')" + strings.Repeat(", (1, 'x')", 8000),
		"in":       "SELECT * FROM t WHERE a IN (1" + strings.Repeat(", 2", 20000) + ")",
		"or":       "SELECT * FROM t WHERE a = 1" + strings.Repeat(" OR a = 2", 5000),
		"and":      "SELECT * FROM t WHERE a <> 1" + strings.Repeat(" AND a <> 2", 5000),
		"texts":    strings.Repeat("SELECT a FROM t WHERE b = 1;", 3000),
		"joins on": "SELECT * FROM t" + strings.Repeat(" LEFT OUTER JOIN sales.u AS u ON t.a = u.a", 200),
		"joins":    "SELECT * FROM t" + strings.Repeat(" LEFT JOIN u ON t.a = u.a AND t.b = u.b", 300),
		"a text":   "SELECT '" + strings.Repeat("(", 100000) + "'",
		"a dollar": "SELECT $x$" + strings.Repeat("(", 100000) + "$x$",
	} {
		if _, err := parser.Facts(sql); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFacts_BadTextIsUnknown(t *testing.T) {
	for sql, want := range map[string]error{
		"SELEC 1":                                statement.ErrSyntax,
		"SELECT 1 FROM":                          statement.ErrSyntax,
		"SELECT 'x":                              statement.ErrSyntax,
		"SELECT 1\x00; DELETE FROM t":            statement.ErrText,
		"SELECT '\xff'":                          statement.ErrText,
		strings.Repeat(" ", statement.MaxText+1): statement.ErrTooLong,
		strings.Repeat("(", 2000):                statement.ErrNesting,
	} {
		facts, err := parser.Facts(sql)
		if !errors.Is(err, want) {
			t.Errorf("%.30q: %v, want %v", sql, err, want)
		}
		if len(facts) != 1 || !facts[0].Unknown || statement.ReadOnly(facts) == nil {
			t.Errorf("%.30q: %+v", sql, facts)
		}
	}
}

// FuzzFacts_Nesting nests in a mixture of ways, as deep as is let through.
func FuzzFacts_Nesting(f *testing.F) {
	ways := [][2]string{
		{"(", ")"}, {"(select ", ")"}, {"- ", ""}, {"not ", ""}, {"", "+a"}, {"", "::int"}, {"f(", ")"}, {"array[", "]"}, {"a[", "]"}, {"case when ", " then 1 end"},
		{"a between 1 and ", ""}, {"(select 1 from (select ", ")x)"}, {"exists(select 1 where ", ")"}, {"f()over(order by ", ")"}, {"(with x as(select ", ")select 1)"}, {"", " is distinct from not b"},
		{"(1,", ")"}, {"row(", ")"}, {"coalesce(1,", ")"}, {"(", ").b"}, {"a in(1,", ")"}, {"(select 1 union select ", ")"}, {"(select 1 from a join b on ", ")"}, {"", " collate c"}, {"a=any(", ")"}, {"cast(", " as int)"}, {"", " isnull"},
		{"xmlelement(name a,", ")"}, {"trim(", ")"}, {"json_object('a':", ")"}, {"(values(", "))"}, {"f(a=>", ")"}, {"@ ", ""}, {"", " and a.and"}, {"", "+a.on"}, {"(select 1 from a where ", ")"}, {"", " isnull+a.where"},
	}
	for i := range ways {
		f.Add([]byte{byte(i)}, uint16(160))
	}
	if err := parser.Warm(); err != nil { // longer than an input may take
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, choice []byte, depth uint16) {
		if len(choice) == 0 {
			return
		}
		sql := "a"
		for i := range min(int(depth), 1100) {
			way := ways[int(choice[i%len(choice)])%len(ways)]
			sql = way[0] + sql + way[1]
		}
		if _, err := parser.Facts("select " + sql); errors.Is(err, statement.ErrParser) {
			t.Fatalf("%v: %.200s", err, sql)
		}
		facts, err := parser.Facts("WITH w AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT f(b::text) FROM w WHERE c" + strconv.Itoa(int(depth)) + " LIKE 'x'")
		if err != nil || !slices.Equal(facts[0].Tables, []string{"t", "u"}) || !slices.Equal(facts[0].Functions, []string{"f"}) {
			t.Fatalf("%+v, %v", facts, err)
		}
	})
}

package statement_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
)

func TestNormalise(t *testing.T) {
	for sql, want := range map[string]string{
		"SELECT 1":                             "SELECT ?",
		"  SELECT\n\ta  FROM\r\nb ; ":          "SELECT a FROM b ;",
		"SELECT 'it''s', E'it\\'s', b'01', $1": "SELECT ?, ?, ?, $1",
		"SELECT U&'x' UESCAPE '!', N'x', x'f'": "SELECT ? UESCAPE ?, ?, ?",
		"SELECT $$a$$, $t$ $$ $x$ $t$, a$b$c":  "SELECT ?, ?, a$b$c",
		"SELECT -1.5e+3, .5, 0xFF, 1_000, a.b": "SELECT -?+?, ?, ?, ?, a.b",
		`SELECT "a'b""c" FROM "T" -- 'x'`:      `SELECT "a'b""c" FROM "T"`,
		"a/*x/*y*/z*/b":                        "a b",
		"SELECT 'a' -- x\n 'b', E'c'\n'd\\'e'": "SELECT ?, ?",
		"SELECT 'open":                         "SELECT ?",
		"SELECT E'open\\'":                     "SELECT ?",
		"SELECT $a$open$b$":                    "SELECT ?",
		`SELECT "open`:                         "SELECT ?",
		"SELECT a /* open":                     "SELECT a",
		// With standard_conforming_strings off, the literal goes on.
		`SELECT 'a\', 'secret'`:        "SELECT ? …",
		"SELECT a\x00b":                "SELECT a …"[:0] + "SELECT …",
		"SELECT '\xff\x5c' , 'secret'": "SELECT ? …",
		"":                             "",
		"-- x":                         "",
	} {
		if got := statement.Normalise(sql); got != want {
			t.Errorf("%q\n got %q\nwant %q", sql, got, want)
		}
	}
}

func TestNormalise_IsBounded(t *testing.T) {
	for _, sql := range []string{
		"SELECT " + strings.Repeat("abc, ", 1000), strings.Repeat("x", 1000), strings.Repeat("(", 1<<20),
		"SELECT '" + strings.Repeat("x", 1<<20), strings.Repeat("/*", 1<<20), strings.Repeat("é ", 400),
	} {
		got := statement.Normalise(sql)
		if len(got) > 512 {
			t.Errorf("%.20q: %d bytes", sql, len(got))
		}
		if again := statement.Normalise(got); again != got {
			t.Errorf("%.20q: %q became %q", sql, got, again)
		}
	}
}

// check fails where what every result is to be does not hold.
func check(t *testing.T, sql string) string {
	got := statement.Normalise(sql)
	if len(got) > 512 {
		t.Errorf("%q: %d bytes", sql, len(got))
	}
	if !utf8.ValidString(got) {
		t.Errorf("%q: not UTF-8: %q", sql, got)
	}
	if again := statement.Normalise(got); again != got {
		t.Errorf("%q: %q became %q", sql, got, again)
	}
	return got
}

func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"SELECT 'a'", "SELECT E'\\'", "$a$ $a", "/*/**/", "\"a", "1e'x'", "a\xff'", "U&'\\", "'a'\n--\n'b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) { check(t, sql) })
}

// FuzzNormalise_NoLiteralSurvives builds statements of which it knows the
// literals. All that is in those is Ω and what could end them, and there
// is no Ω elsewhere.
func FuzzNormalise_NoLiteralSurvives(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08"), []byte("'\"$\\-/*\n"), 1000)
	f.Add([]byte{10, 4, 10, 5, 9, 6}, []byte(`\''`), 20)
	f.Fuzz(func(t *testing.T, pieces, inside []byte, end int) {
		secret := "Ω"
		for _, c := range inside {
			if c < 0x80 && c != 0 {
				secret += string(rune(c)) + "Ω"
			}
		}
		escaped := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(secret)
		plain := strings.ReplaceAll(strings.ReplaceAll(secret, `\`, "/"), `'`, `''`)
		var b strings.Builder
		for _, p := range pieces {
			switch p % 14 {
			case 0:
				b.WriteString(" '" + plain + "'")
			case 1:
				b.WriteString(" E'" + escaped + "'")
			case 2:
				b.WriteString(" $Ta$" + strings.ReplaceAll(secret, "$", "") + "$Ta$")
			case 3:
				b.WriteString(" $$" + strings.ReplaceAll(secret, "$", "") + "$$")
			case 4:
				b.WriteString("/*" + strings.NewReplacer("*", "", "/", "").Replace(secret) + "*/")
			case 5:
				b.WriteString("--" + strings.NewReplacer("\n", "", "\r", "").Replace(secret) + "\n")
			case 6:
				b.WriteString(" U&'" + plain + "' UESCAPE '" + plain + "'")
			case 7:
				b.WriteString(" E'" + escaped + "'\n'" + escaped + "'")
			case 8:
				b.WriteString(" x'" + plain + "'")
			case 9:
				b.WriteString(`"a''b"`)
			case 10:
				b.WriteString(" , -")
			case 11:
				b.WriteString("name")
			case 12:
				b.WriteString(" 12.5e3")
			case 13:
				b.WriteString("$1")
			}
		}
		sql := b.String()
		if end >= 0 && end < len(sql) {
			sql = sql[:end]
		}
		if got := check(t, sql); strings.Contains(got, "Ω") || strings.Contains(got, "\xce") {
			t.Errorf("%q: %q", sql, got)
		}
	})
}

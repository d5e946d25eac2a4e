package statement

import (
	"slices"
	"strconv"
	"strings"
)

// everySetting stands in Facts.Settings for all of them.
const everySetting = "*"

// plainEncodings are the client encodings, without punctuation, in which no byte
// below 0x80 is a part of another character (src/backend/utils/mb/encnames.c).
// An encoding that is not here may be one of the others: SJIS, BIG5, GBK, UHC, …
var plainEncodings = []string{
	"utf8", "unicode", "sqlascii", "abc", "alt", "koi8", "koi8r", "koi8u", "tcvn", "tcvn5712", "vscii",
	"latin1", "latin2", "latin3", "latin4", "latin5", "latin6", "latin7", "latin8", "latin9", "latin10",
	"iso88591", "iso88592", "iso88593", "iso88594", "iso88595", "iso88596", "iso88597", "iso88598", "iso88599", "iso885910", "iso885913", "iso885914", "iso885915", "iso885916",
	"win", "win866", "win874", "win1250", "win1251", "win1252", "win1253", "win1254", "win1255", "win1256", "win1257", "win1258",
	"windows866", "windows874", "windows1250", "windows1251", "windows1252", "windows1253", "windows1254", "windows1255", "windows1256", "windows1257", "windows1258",
	"euccn", "eucjp", "eucjis2004", "euckr", "euctw",
}

// ChangesReading reports whether a session in which the run-time parameter has
// that value reads statements in another way than this package does. It is for
// startup parameters and for what the server reports in ParameterStatus.
func ChangesReading(name, value string) bool {
	switch strings.ToLower(name) {
	case "standard_conforming_strings":
		return !isOn(value)
	case "client_encoding":
		plain := strings.Map(func(c rune) rune {
			if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' {
				return c
			}
			return -1 // as clean_encoding_name
		}, strings.ToLower(value))
		return !slices.Contains(plainEncodings, plain)
	}
	return false
}

// setting reads SET and RESET.
func (r *reader) setting(n *node) {
	args := n.children("args")
	switch n.text("kind") {
	case "VAR_RESET_ALL":
		r.settings = append(r.settings, everySetting)
	case "VAR_SET_MULTI": // SET TRANSACTION, SET SESSION CHARACTERISTICS
		prefix := ""
		if n.text("name") == "SESSION CHARACTERISTICS" {
			prefix = "default_"
		}
		for _, a := range args {
			if name := a.text("defname"); name != "" {
				r.settings = append(r.settings, prefix+name)
			}
		}
		r.modes(args)
	case "VAR_SET_VALUE":
		if len(args) == 1 {
			value, known := constant(args[0])
			r.sets(n.text("name"), value, known)
			return
		}
		r.sets(n.text("name"), "", false)
	default: // to the default, or to what it is: not ours to know
		r.sets(n.text("name"), "", false)
	}
}

// modes reads the modes of BEGIN and SET TRANSACTION.
func (r *reader) modes(options []*node) {
	for _, o := range options {
		if o.text("defname") == "transaction_read_only" && boolean(o.child("arg")) != isTrue {
			r.readWrite = true
		}
	}
}

// sets takes note that a parameter is set. known is false where the value cannot
// be told.
func (r *reader) sets(name, value string, known bool) {
	name = strings.ToLower(name)
	r.settings = append(r.settings, name)
	switch name {
	case "role", "session_authorization":
		r.role = true
	case "transaction_read_only", "default_transaction_read_only":
		r.readWrite = r.readWrite || !known || !isOn(value)
	case "standard_conforming_strings", "client_encoding":
		if !known || ChangesReading(name, value) {
			r.unknown("how statements are read with another " + name)
		}
	}
}

// setConfig reads a call of set_config(name, value, is_local).
func (r *reader) setConfig(call *node) {
	r.values = true
	args := call.children("args")
	if len(args) == 3 {
		name, ok := constantText(args[0])
		if !ok {
			name, ok = r.pinned[call]
		}
		if ok {
			value, known := constantText(args[1])
			r.sets(name, value, known)
			return
		}
	}
	r.settings = append(r.settings, everySetting)
	r.role, r.readWrite = true, true
	r.unknown("which setting set_config changes")
}

// pin takes note of the calls "SELECT set_config(name, …) FROM pg_settings WHERE
// name = 'x'", which pg_dump makes: a row's name is x where they are made. From
// anything else it need not be: a column of type bpchar is equal to what has more
// blanks, and an expression in place of a column may change its value in between.
func (r *reader) pin(n *node, sees *scope) {
	from := n.children("from_clause")
	if len(from) != 1 || from[0].kind != "RangeVar" || from[0].text("relname") != "pg_settings" {
		return
	}
	if schema := from[0].text("schemaname"); schema != "pg_catalog" && (schema != "" || sees.has("pg_settings")) {
		return
	}
	where := n.child("where_clause")
	if where == nil || where.text("kind") != "AEXPR_OP" || dotted(stringsOf(where.children("name"))) != "=" {
		return
	}
	column := columnOf(where.child("lexpr"))
	value, known := constantText(where.child("rexpr"))
	if column == "" || !known {
		return
	}
	for _, target := range n.children("target_list") {
		call := target.child("val")
		if args := call.children("args"); len(args) > 0 && columnOf(args[0]) == column {
			if r.pinned == nil {
				r.pinned = make(map[*node]string)
			}
			r.pinned[call] = value
		}
	}
}

// columnOf returns the name of a column that is named without its table, or "".
func columnOf(n *node) string {
	if n == nil || n.kind != "ColumnRef" {
		return ""
	}
	if parts := n.children("fields"); len(parts) == 1 {
		return parts[0].text("sval")
	}
	return ""
}

// constantText returns the value of a literal, or of one that is cast to text;
// other types may change it.
func constantText(n *node) (string, bool) {
	if n != nil && n.kind == "TypeCast" {
		t := n.child("type_name")
		name := strings.TrimPrefix(dotted(stringsOf(t.children("names"))), "pg_catalog.")
		if name != "text" || t.child("typmods") != nil || t.child("array_bounds") != nil {
			return "", false
		}
		n = n.child("arg")
	}
	if n == nil || n.kind != "A_Const" || n.child("sval") == nil {
		return "", false
	}
	return n.child("sval").text("sval"), true
}

// constant returns the value of a literal, a number or a word.
func constant(n *node) (string, bool) {
	if n == nil {
		return "", false
	}
	switch n.kind {
	case "String":
		return n.text("sval"), true
	case "Integer":
		return strconv.FormatInt(int64(n.number("ival")), 10), true
	case "Boolean":
		return strconv.FormatBool(n.set("boolval")), true
	case "A_Const":
		if len(n.fields) == 1 {
			value, _ := n.fields[0].value.(*node)
			return constant(value)
		}
	}
	return "", false
}

type truth int

const (
	isNeither truth = iota
	isTrue
	isFalse
)

// boolean is what a constant says as an option.
func boolean(n *node) truth {
	value, known := constant(n)
	switch {
	case known && isOn(value):
		return isTrue
	case known && slices.Contains([]string{"off", "false", "0"}, strings.ToLower(value)):
		return isFalse
	}
	return isNeither
}

// isOn knows the plain spellings of true: with another one, something is
// refused that need not be.
func isOn(value string) bool {
	return slices.Contains([]string{"on", "true", "yes", "1"}, strings.ToLower(value))
}

package statement

import "strings"

// maxNesting bounds how deep the tree of a statement can be, in tokens: half of
// what the parser's stack was seen to hold in each shape and mixture that the
// tests try; at four times as much some overflow. A parser that overflows its
// stack is lost to everybody.
const maxNesting = 500

// nests reports whether the tree of sql might be deeper than maxNesting. Trees
// become deep by brackets, and without them by chains of operators, joins, set
// operations, CASE and BETWEEN. So the depth is at most, summed over the brackets that are
// open, the tokens since the last separator, and all of the words that continue
// a chain beyond one.
func nests(sql string) bool {
	type level struct{ run, chain int }
	var (
		outer    []level
		here     level
		depth    int // of the levels in outer
		afterDot bool
	)
	for l := (lexer{rest: sql}); ; {
		t, more := l.next()
		if !more {
			return false
		}
		if t.kind == gap {
			continue
		}
		here.run++
		switch {
		case t.kind == word && !afterDot && separates(t.text):
			here.run = 0
		case t.kind == word && !afterDot && chains(t.text):
			here.chain++
		case t.kind == punct:
			switch t.text[0] {
			case ',':
				here.run = 0
			case ';':
				here.run = 0
				if len(outer) == 0 {
					here.chain = 0
				}
			case '(', '[':
				depth += here.run + here.chain
				outer = append(outer, here)
				here = level{}
			case ')', ']':
				if n := len(outer) - 1; n >= 0 {
					here, outer = outer[n], outer[:n]
					depth -= here.run + here.chain
				}
			}
		}
		if depth+here.run+here.chain > maxNesting {
			return true
		}
		afterDot = t.kind == punct && t.text == "."
	}
}

// separates reports whether what follows a word is not deeper for what stands
// before it: the members of AND and OR are one list, and the others are reserved
// and stand in no expression. (THEN, FROM and GROUP do: CASE, IS DISTINCT FROM,
// WITHIN GROUP.)
func separates(w string) bool {
	for _, s := range [...]string{"and", "or", "on", "where", "having"} {
		if strings.EqualFold(w, s) {
			return true
		}
	}
	return false
}

func chains(w string) bool {
	for _, c := range [...]string{"union", "except", "intersect", "join", "case", "between"} {
		if strings.EqualFold(w, c) {
			return true
		}
	}
	return false
}

//go:build ignore

// Writes schema.txt: the messages of libpg_query's parse tree that a statement
// can reach, one a line. pg_query_go is not linked into the gateway: it compiles
// the whole of PostgreSQL's parser where cgo is on.
//
//	CGO_ENABLED=0 go run schema_generate.go
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func main() {
	lines := make(map[protoreflect.FullName]string)
	describe((&pg_query.ParseResult{}).ProtoReflect().Descriptor(), lines)
	all := make([]string, 0, len(lines))
	for _, l := range lines {
		all = append(all, l)
	}
	slices.Sort(all)
	if err := os.WriteFile("schema.txt", []byte(strings.Join(all, "\n")+"\n"), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func describe(m protoreflect.MessageDescriptor, lines map[protoreflect.FullName]string) {
	if _, done := lines[m.FullName()]; done {
		return
	}
	lines[m.FullName()] = ""
	var b strings.Builder
	fmt.Fprintf(&b, "message %s", m.Name())
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Name() == "location" {
			continue
		}
		fmt.Fprintf(&b, " %d:%s", f.Number(), f.Name())
		switch f.Kind() {
		case protoreflect.MessageKind:
			fmt.Fprintf(&b, ":%s", f.Message().Name())
			describe(f.Message(), lines)
		case protoreflect.EnumKind:
			fmt.Fprintf(&b, ":%s", f.Enum().Name())
			values := make([]string, f.Enum().Values().Len())
			for j := range values {
				v := f.Enum().Values().Get(j)
				values[j] = fmt.Sprintf("%d:%s", v.Number(), v.Name())
			}
			lines[f.Enum().FullName()] = fmt.Sprintf("enum %s %s", f.Enum().Name(), strings.Join(values, " "))
		case protoreflect.StringKind:
			b.WriteString(":string")
		}
	}
	lines[m.FullName()] = b.String()
}

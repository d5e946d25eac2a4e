package statement

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// node is a message of the parse tree: what PostgreSQL's own parser makes of a
// statement, before any name in it is looked up.
type node struct {
	kind   string // PostgreSQL's name of it: SelectStmt, RangeVar, …
	fields []field

	// any says that it stood where the tree allows every kind of node, and not
	// where only this kind can stand.
	any bool
}

// field is one value; a list is as many fields of one name.
type field struct {
	name string

	// value is a *node, a string (enumerations too), or a uint64.
	value any
}

// child returns the node in the first field of that name, or nil.
func (n *node) child(name string) *node {
	c, _ := n.get(name).(*node)
	return c
}

// children returns the nodes in the fields of that name.
func (n *node) children(name string) []*node {
	if n == nil {
		return nil
	}
	var all []*node
	for _, f := range n.fields {
		if c, ok := f.value.(*node); ok && f.name == name {
			all = append(all, c)
		}
	}
	return all
}

// text returns the string in the field of that name, or "".
func (n *node) text(name string) string {
	s, _ := n.get(name).(string)
	return s
}

// set reports whether the field of that name, a number or a flag, is not zero.
func (n *node) set(name string) bool { return n.number(name) != 0 }

// number returns the number in the field of that name, or 0.
func (n *node) number(name string) uint64 {
	v, _ := n.get(name).(uint64)
	return v
}

func (n *node) get(name string) any {
	if n == nil {
		return nil
	}
	for _, f := range n.fields {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

// strings returns what a list of String nodes says: a name in its parts.
func stringsOf(list []*node) []string {
	parts := make([]string, 0, len(list))
	for _, n := range list {
		if n.kind == "String" {
			parts = append(parts, n.text("sval"))
		}
	}
	return parts
}

// schemaText is written by schema_generate.go.
//
//go:embed schema.txt
var schemaText string

// fieldSchema is how one field of a message is read. A field with neither
// message nor enum is a string or a number, as its wire type says.
type fieldSchema struct {
	name    string
	message *messageSchema
	enum    map[uint64]string
	isText  bool
}

type messageSchema struct {
	name   string
	fields map[uint64]*fieldSchema
}

// parseResult is the schema of a whole tree.
var parseResult = sync.OnceValues(readSchema)

func readSchema() (*messageSchema, error) {
	messages := make(map[string]*messageSchema)
	enums := make(map[string]map[uint64]string)
	lines := strings.Split(strings.TrimSpace(schemaText), "\n")
	for _, line := range lines {
		words := strings.Fields(line)
		switch words[0] {
		case "message":
			messages[words[1]] = &messageSchema{name: words[1], fields: make(map[uint64]*fieldSchema, len(words)-2)}
		case "enum":
			values := make(map[uint64]string, len(words)-2)
			for _, w := range words[2:] {
				number, name, _ := strings.Cut(w, ":")
				n, err := strconv.ParseUint(number, 10, 64)
				if err != nil {
					return nil, fmt.Errorf("reading the schema of %s: %w", words[1], err)
				}
				values[n] = name
			}
			enums[words[1]] = values
		}
	}
	for _, line := range lines {
		words := strings.Fields(line)
		m := messages[words[1]]
		if words[0] != "message" {
			continue
		}
		for _, w := range words[2:] {
			parts := strings.SplitN(w, ":", 3)
			n, err := strconv.ParseUint(parts[0], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("reading the schema of %s: %w", m.name, err)
			}
			f := &fieldSchema{name: parts[1]}
			if len(parts) == 3 {
				f.message, f.enum, f.isText = messages[parts[2]], enums[parts[2]], parts[2] == "string"
				if f.message == nil && f.enum == nil && !f.isText {
					return nil, fmt.Errorf("reading the schema of %s: no type %q", m.name, parts[2])
				}
			}
			m.fields[n] = f
		}
	}
	root := messages["ParseResult"]
	if root == nil {
		return nil, errors.New("reading the schema: no ParseResult")
	}
	return root, nil
}

// maxTreeDepth bounds how deep messages may stand in each other. A level of
// nesting in a statement is at most six of them.
const maxTreeDepth = 12 * maxNesting

var errMalformedTree = errors.New("malformed parse tree")

// decode reads a tree in protobuf's wire format
// (protobuf.dev/programming-guides/encoding). The strings in it share tree's
// memory. What the schema does not name is passed over.
func decode(tree string) (*node, error) {
	root, err := parseResult()
	if err != nil {
		return nil, err
	}
	return decodeMessage(tree, root, maxTreeDepth)
}

func decodeMessage(s string, schema *messageSchema, depth int) (*node, error) {
	if depth == 0 {
		return nil, errMalformedTree
	}
	n := &node{kind: schema.name}
	for s != "" {
		tag, size := uvarint(s)
		if size <= 0 {
			return nil, errMalformedTree
		}
		s = s[size:]
		f := schema.fields[tag>>3]
		switch tag & 7 {
		case 0: // VARINT
			v, size := uvarint(s)
			if size <= 0 {
				return nil, errMalformedTree
			}
			s = s[size:]
			switch {
			case f == nil:
			case f.enum != nil:
				n.fields = append(n.fields, field{f.name, f.enum[v]})
			case f.message == nil && !f.isText:
				n.fields = append(n.fields, field{f.name, v})
			}
		case 1: // I64
			if len(s) < 8 {
				return nil, errMalformedTree
			}
			s = s[8:]
		case 2: // LEN
			length, size := uvarint(s)
			if size <= 0 || length > uint64(len(s)-size) {
				return nil, errMalformedTree
			}
			body := s[size : size+int(length)]
			s = s[size+int(length):]
			switch {
			case f == nil:
			case f.message != nil:
				c, err := decodeMessage(body, f.message, depth-1)
				if err != nil {
					return nil, err
				}
				n.fields = append(n.fields, field{f.name, unwrap(c)})
			case f.isText:
				n.fields = append(n.fields, field{f.name, body})
			}
		case 5: // I32
			if len(s) < 4 {
				return nil, errMalformedTree
			}
			s = s[4:]
		default:
			return nil, errMalformedTree
		}
	}
	return n, nil
}

// unwrap returns the node inside of a Node, which is a union and nothing else.
func unwrap(n *node) *node {
	if n.kind != "Node" || len(n.fields) != 1 {
		return n
	}
	if inner, ok := n.fields[0].value.(*node); ok {
		inner.any = true
		return inner
	}
	return n
}

func uvarint(s string) (uint64, int) {
	var buf [binary.MaxVarintLen64]byte
	return binary.Uvarint(buf[:copy(buf[:], s)])
}

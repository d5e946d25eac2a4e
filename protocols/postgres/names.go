package postgres

// Bounds of what is remembered of one session's prepared statements and portals,
// for the log. What is more is logged without its text.
const (
	maxPrepared = 512
	maxPortals  = 512

	// nameLength is where PostgreSQL cuts names (NAMEDATALEN).
	nameLength = 63
)

// names is what the statements and portals of a session stand for. The unnamed
// ones are by far the most used.
type names struct {
	unnamed       string
	unnamedPortal string
	statements    map[string]string
	portals       map[string]string
}

// unknownStatement is the summary of what was prepared in another way: by SQL, or
// beyond the bounds.
const unknownStatement = "execute a statement prepared before"

func clip(name []byte) string { return string(name[:min(len(name), nameLength)]) }

func (n *names) prepared(name []byte, summary string) {
	if len(name) == 0 {
		n.unnamed = summary
		return
	}
	if n.statements == nil {
		n.statements = make(map[string]string)
	}
	key := clip(name)
	old, taken := n.statements[key]
	switch {
	case taken && old != summary:
		n.statements[key] = unknownStatement // the server keeps the old one, unless SQL has deallocated it
	case len(n.statements) < maxPrepared:
		n.statements[key] = summary
	}
}

func (n *names) bound(portal, statement []byte) {
	summary := n.unnamed
	if len(statement) > 0 {
		summary = n.statements[string(statement[:min(len(statement), nameLength)])]
	}
	if len(portal) == 0 {
		n.unnamedPortal = summary
		return
	}
	if n.portals == nil || len(n.portals) >= maxPortals { // most ended with their transactions
		n.portals = make(map[string]string)
	}
	n.portals[clip(portal)] = summary
}

func (n *names) summary(portal []byte) string {
	summary := n.unnamedPortal
	if len(portal) > 0 {
		summary = n.portals[string(portal[:min(len(portal), nameLength)])]
	}
	if summary == "" {
		return unknownStatement
	}
	return summary
}

func (n *names) closed(kind byte, name []byte) {
	switch kind {
	case 'S':
		delete(n.statements, clip(name))
	case 'P':
		delete(n.portals, clip(name))
	}
}

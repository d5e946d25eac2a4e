package postgres

// Bounds of what is remembered of one session's prepared statements and portals,
// for the log. What is more is logged without its text.
const (
	maxPrepared = 512
	maxPortals  = 512

	// nameLength is where PostgreSQL cuts names (NAMEDATALEN).
	nameLength = 63
)

// unknownStatement is the summary of what was prepared in another way: by SQL,
// beyond the bounds, or in a message of which it is not known whether the upstream
// took it.
const unknownStatement = "execute a statement prepared before"

// names is what the statements and portals of a session stand for. The unnamed
// ones are by far the most used. An agent could have the log say what did not run
// by naming it anew in a message that fails, or that the upstream skips; so a name
// counts only where the upstream has taken it, or could not have run it otherwise.
//
// Messages are in groups, which end with a Sync or a simple query: within one, what
// follows a message that failed is skipped too, and its names are good. The groups
// between two moments at which everything has been answered are a batch.
type names struct {
	unnamed       note
	unnamedPortal note
	statements    map[string]note
	portals       map[string]note

	group   uint64 // that is being sent
	first   uint64 // of the batch
	sent    uint64 // messages of the batch that name something
	inGroup uint64 // those of them in group
	shared  bool   // the batch begins amid a group
	errors  uint64 // that there had been when the batch began
	acks    uint64 // likewise
	lost    bool   // what has been answered is no longer known, nor is any name
}

// note is what a name stands for.
type note struct {
	summary string // empty: not known
	group   uint64
	ordinal uint64 // among the messages of its batch that name something, from 1
}

// clip is a name as PostgreSQL knows it.
func clip(name []byte) []byte { return name[:min(len(name), nameLength)] }

// settle takes note of what has been answered. Call it before each message that
// is looked at. It reports whether the upstream is known to skip the message.
func (n *names) settle(a answered) (skipped bool) {
	n.lost = n.lost || a.lost
	if !a.all || n.group == n.first {
		return a.skipping && !n.lost
	}
	if a.errors != n.errors {
		taken := uint64(0)
		if n.group == n.first+1 && n.inGroup == 0 && !n.shared { // of one group the upstream takes what is in front of the error
			taken = a.acks - n.acks
		}
		n.doubt(taken)
	}
	n.first, n.sent, n.shared = n.group, 0, n.inGroup > 0
	n.errors, n.acks = a.errors, a.acks
	return a.skipping && !n.lost
}

// doubt forgets what the batch named, but for what was taken.
func (n *names) doubt(taken uint64) {
	doubtful := func(m note) bool { return m.group >= n.first && m.ordinal > taken }
	for _, m := range [...]*note{&n.unnamed, &n.unnamedPortal} {
		if doubtful(*m) {
			*m = note{}
		}
	}
	for _, of := range [...]map[string]note{n.statements, n.portals} {
		for name, m := range of {
			if doubtful(m) {
				of[name] = note{}
			}
		}
	}
}

// boundary ends a group: with a Sync, or a simple query or function call.
func (n *names) boundary() {
	n.group++
	n.inGroup = 0
}

// noting is the note of the next message.
func (n *names) noting(summary string) note {
	n.sent++
	n.inGroup++
	return note{summary: summary, group: n.group, ordinal: n.sent}
}

// known is a note's summary, empty where it may not be what the upstream runs.
func (n *names) known(m note) string {
	if n.lost || m.group >= n.first && m.group != n.group {
		return ""
	}
	return m.summary
}

func (n *names) prepared(name []byte, summary string) {
	m := n.noting(summary)
	if len(name) == 0 {
		n.unnamed = m
		return
	}
	if n.statements == nil {
		n.statements = make(map[string]note)
	}
	_, taken := n.statements[string(clip(name))]
	if taken || len(n.statements) < maxPrepared {
		n.statements[string(clip(name))] = m
	}
}

// bound takes note of a portal; statement is nil where its name is not known.
func (n *names) bound(portal, statement []byte) {
	summary := ""
	switch {
	case len(statement) > 0:
		summary = n.known(n.statements[string(clip(statement))])
	case statement != nil:
		summary = n.known(n.unnamed)
	}
	m := n.noting(summary)
	if len(portal) == 0 {
		n.unnamedPortal = m
		return
	}
	if n.portals == nil || len(n.portals) >= maxPortals { // most ended with their transactions
		n.portals = make(map[string]note)
	}
	n.portals[string(clip(portal))] = m
}

func (n *names) summary(portal []byte) string {
	m := n.unnamedPortal
	if len(portal) > 0 {
		m = n.portals[string(clip(portal))]
	}
	if summary := n.known(m); summary != "" {
		return summary
	}
	return unknownStatement
}

// closed forgets a name. Where the upstream does not, it is unknown.
func (n *names) closed(kind byte, name []byte) {
	n.noting("")
	switch {
	case kind == 'S' && len(name) == 0:
		n.unnamed = note{}
	case kind == 'S':
		delete(n.statements, string(clip(name)))
	case len(name) == 0:
		n.unnamedPortal = note{}
	default:
		delete(n.portals, string(clip(name)))
	}
}

package trigger

import (
	"time"

	"github.com/pgautomate/pgautomate/change"
)

// NodeTruth is what one node of a query is of one object.
type NodeTruth struct {
	// Pointer is the RFC 6901 JSON pointer of the node in the query.
	Pointer string
	// Node says in a few words what the node asks.
	Node string
	// Truth is "true", "false" or "unknown": it hangs on a value that was not
	// sent, or on related rows that are not at hand. A node's negation is in it.
	Truth string
}

var truthNames = [...]string{"false", "true", "unknown"}

// Truths evaluates every node of a query by itself, in the order of the query,
// by the evaluator that decides what fires; the first is that of the whole.
// Related rows are those of the mirror as it is. The error is a *ValidationError,
// or says that the row is malformed.
func (s *Set) Truths(def Definition, query []byte, id, organization string, rel *change.Relation, row change.Row) ([]NodeTruth, error) {
	root, problems := parse(query)
	t := s.types[def.ObjectType]
	c := compiler{schemas: s.schema, objectType: def.ObjectType, loc: def.Location, problems: problems}
	if t != nil {
		c.schema = t.schema
	}
	c.compile(root)
	if err := newValidationError(c.problems); err != nil {
		return nil, err
	}
	m := s.depth(0)
	m.organization = organization
	w := truthWalk{set: s, def: &def, m: m, typ: t}
	// Every field is known before the row is taken up, for their number counts.
	w.compile(root, nil)
	m.fields, m.slotFields = t.fields, t.identity()
	m.epoch++
	m.after.reset(len(m.slotFields))
	m.after.id = id
	m.after.isBefore = false
	if err := m.after.load(row, t.layout(rel)); err != nil {
		return nil, err
	}
	list := make([]NodeTruth, len(w.nodes))
	for i, n := range w.nodes {
		truth, _ := m.eval(n.program, &m.after)
		list[i] = NodeTruth{n.pointer, n.words, truthNames[truth]}
	}
	return list, nil
}

// truthWalk compiles the nodes of a tree one by one.
type truthWalk struct {
	set   *Set
	def   *Definition
	m     *matcher
	typ   *objectType
	nodes []struct{ pointer, words, program string }
}

func (w *truthWalk) compile(n *node, at path) {
	c := compiler{schemas: w.set.schema, schema: w.typ.schema, objectType: w.typ.name, loc: w.def.Location}
	if c.loc == nil {
		c.loc = time.UTC
	}
	e := c.node(n, false, true)
	program := string(appendProgram(nil, &e, typeSlots{w.set, w.typ}))
	w.nodes = append(w.nodes, struct{ pointer, words, program string }{at.String(), words(n), program})
	for i, q := range n.queries {
		below := append(append(path{}, at...), step{key: "queries"}, step{idx: i})
		w.compile(q, below)
	}
}

// words describes a node.
func words(n *node) string {
	text := nodeNames[n.typ]
	switch n.typ {
	case nodeObjectType:
		text += " " + n.objectType
	case nodeField:
		text = n.field.name + " " + string(appendCondition(nil, &n.cond))
	case nodeHasRelated:
		text += " " + n.related.other
	case nodeID:
		text += " " + n.id.text
	}
	if n.negate {
		return "not " + text
	}
	return text
}

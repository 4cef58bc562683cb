package trigger

import (
	"encoding/binary"
	"slices"
	"sort"
	"strconv"
	"time"
)

// The layout of a compiled trigger in bytes.
//
//	node   = op|negate, length of the rest, rest
//	and,or = node …
//	other  = slot, payload
//
// Lengths and slots are uvarints. A slot is an index into the field slots of
// the trigger's group (organization and object type), where a value is parsed
// once for all triggers that ask for it.

const (
	opFalse   = iota
	opTrue    //
	opAnd     //
	opOr      //
	opExists  // no payload
	opText    // the lower-case text
	opTerm    // see acceptsTrue
	opBool    // one byte, 0 or 1
	opNumber  // see hasLow
	opMoment  // see hasFrom
	opWindow  // see appendWindow
	opRelated // its slot is that of this side's column; then uvarints: edge, at least so many; then a node whose slots are fields of the other type

	opNegate = 0x80
)

// uvarint reads a uvarint from a string; n is 0 when there is none.
func uvarint(s string) (v uint64, n int) {
	var shift uint
	for i := 0; i < len(s) && i < binary.MaxVarintLen64; i++ {
		b := s[i]
		if b < 0x80 {
			return v | uint64(b)<<shift, i + 1
		}
		v |= uint64(b&0x7f) << shift
		shift += 7
	}
	return 0, 0
}

// take reads a length and that many bytes.
func take(s string) (head, rest string) {
	n, k := uvarint(s)
	end := k + int(n)
	return s[k:end], s[end:]
}

func varint(s string) (int64, string) {
	u, k := uvarint(s)
	return int64(u>>1) ^ -int64(u&1), s[k:]
}

// slots gives the slot of a field, and the edge of a relation with the slots of
// what is on its other side.
type slots interface {
	slot(f fieldSpec) uint32
	edge(r Relation) (edge uint32, other slots)
	bound(m *momentNode, loc *time.Location) uint32
}

// appendProgram lays an expression out.
func appendProgram(dst []byte, e *expr, in slots) []byte {
	op := e.op
	if e.negate {
		op |= opNegate
	}
	dst = append(dst, op)
	switch e.op {
	case opFalse, opTrue:
		return append(dst, 0)
	case opAnd, opOr:
		// The length goes before the rest: make room for it once it is known.
		start := len(dst)
		for i := range e.kids {
			dst = appendProgram(dst, &e.kids[i], in)
		}
		var length [binary.MaxVarintLen64]byte
		n := binary.PutUvarint(length[:], uint64(len(dst)-start))
		return slices.Insert(dst, start, length[:n]...)
	}
	if e.op == opRelated {
		e.spec = fieldSpec{specColumn, e.related.relation.Column}
		edge, other := in.edge(e.related.relation)
		e.payload = binary.AppendUvarint(nil, uint64(edge))
		e.payload = binary.AppendUvarint(e.payload, uint64(e.related.atLeast))
		e.payload = appendProgram(e.payload, &e.related.query, other)
	}
	if e.op == opWindow {
		e.payload = appendWindow(nil, e.window, in)
	}
	var head [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(head[:], uint64(in.slot(e.spec)))
	dst = binary.AppendUvarint(dst, uint64(n+len(e.payload)))
	dst = append(dst, head[:n]...)
	return append(dst, e.payload...)
}

// appendWindow writes the payload of opWindow: the time zone, hasFrom and
// hasBefore with windowMoves for each of them that moves; then for each bound the
// number of the moving one, or the instant of the fixed one.
func appendWindow(dst []byte, w *window, in slots) []byte {
	start := len(dst)
	dst = append(dst, 0)
	for i := range w.moments {
		m := &w.moments[i]
		switch {
		case m.typ == momentNone:
		case m.moves():
			dst[start] |= (hasFrom | windowMoves) << i
			dst = binary.AppendUvarint(dst, uint64(in.bound(m, w.loc)))
		default:
			dst[start] |= hasFrom << i
			_, micros := fixedBound(m, w.loc)
			dst = binary.AppendVarint(dst, micros)
		}
	}
	return dst
}

const windowMoves = 1 << 4

// programSlots visits the slot of every condition, once for each.
func programSlots(code string, visit func(uint32)) {
	for len(code) > 0 {
		op := code[0] &^ opNegate
		var body string
		body, code = take(code[1:])
		switch op {
		case opFalse, opTrue:
		case opAnd, opOr:
			programSlots(body, visit)
		default:
			s, _ := uvarint(body)
			visit(uint32(s))
		}
	}
}

// A list of byte strings, sorted. Short ones are walked; long ones have a table
// of offsets for a binary search.
const shortList = 8

// appendList writes a list; it sorts values in place.
func appendList(dst []byte, values []string) []byte {
	sort.Strings(values)
	values = slices.Compact(values)
	dst = binary.AppendUvarint(dst, uint64(len(values)))
	if len(values) <= shortList {
		for _, v := range values {
			dst = binary.AppendUvarint(dst, uint64(len(v)))
			dst = append(dst, v...)
		}
		return dst
	}
	end := 0
	for _, v := range values {
		end += len(v)
		dst = binary.BigEndian.AppendUint32(dst, uint32(end))
	}
	for _, v := range values {
		dst = append(dst, v...)
	}
	return dst
}

func listHas(list string, v []byte) bool {
	count, k := uvarint(list)
	list = list[k:]
	n := int(count)
	if n <= shortList {
		for range n {
			var item string
			item, list = take(list)
			if item == string(v) {
				return true
			}
		}
		return false
	}
	table, items := list[:4*n], list[4*n:]
	end := func(i int) uint32 {
		if i < 0 {
			return 0
		}
		t := table[4*i : 4*i+4]
		return uint32(t[0])<<24 | uint32(t[1])<<16 | uint32(t[2])<<8 | uint32(t[3])
	}
	low, high := 0, n
	for low < high {
		mid := int(uint(low+high) >> 1)
		switch item := items[end(mid-1):end(mid)]; {
		case item == string(v):
			return true
		case item < string(v):
			low = mid + 1
		default:
			high = mid
		}
	}
	return false
}

// The source of a trigger: its tree in a compact form, kept so that it can be
// compiled again when its table was altered. Names are interned.

type interner struct {
	ids   map[string]uint32
	names []string
}

func (in *interner) id(s string) uint32 {
	if id, ok := in.ids[s]; ok {
		return id
	}
	if in.ids == nil {
		in.ids = map[string]uint32{}
	}
	id := uint32(len(in.names))
	s = string([]byte(s)) // not a part of a whole query
	in.names = append(in.names, s)
	in.ids[s] = id
	return id
}

// appendSource writes a tree that compiled, hence one without unsupported nodes.
func appendSource(dst []byte, n *node, in *interner) []byte {
	typ := byte(n.typ)
	if n.negate {
		typ |= opNegate
	}
	dst = append(dst, typ)
	switch n.typ {
	case nodeAnd, nodeOr:
		dst = binary.AppendUvarint(dst, uint64(len(n.queries)))
		for _, q := range n.queries {
			dst = appendSource(dst, q, in)
		}
	case nodeObjectType:
		dst = binary.AppendUvarint(dst, uint64(in.id(n.objectType)))
	case nodeID:
		dst = appendLiterals(dst, []literal{n.id})
	case nodeHasRelated:
		r := &n.related
		for _, name := range [...]string{r.this, r.other, r.field, r.otherField} {
			dst = binary.AppendUvarint(dst, uint64(in.id(name)))
		}
		dst = appendLiterals(dst, []literal{r.least, r.most})
		dst = appendSource(dst, r.query, in)
	case nodeField:
		dst = append(dst, byte(n.field.typ))
		dst = binary.AppendUvarint(dst, uint64(in.id(n.field.name)))
		if n.field.typ == fieldRegular {
			dst = binary.AppendUvarint(dst, uint64(in.id(n.field.objectType)))
		}
		c := &n.cond
		dst = append(dst, byte(c.typ))
		switch c.typ {
		case condText, condTerm:
			dst = appendLiterals(dst, c.values)
		case condReference:
			dst = binary.AppendUvarint(dst, uint64(in.id(c.refType)))
			dst = appendLiterals(dst, c.values)
		case condBoolean:
			b := byte(0)
			if c.truth {
				b = 1
			}
			dst = append(dst, b)
		case condNumberRange:
			dst = appendLiterals(dst, c.bounds[:])
		case condMomentRange:
			for i := range c.moments {
				m := &c.moments[i]
				dst = append(dst, byte(m.typ))
				switch m.typ {
				case momentFixed:
					dst = binary.AppendUvarint(dst, uint64(in.id(m.which)))
					dst = appendText(dst, m.value)
				case momentOffset:
					dst = appendText(dst, m.value)
				}
			}
		}
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendLiterals(dst []byte, values []literal) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(values)))
	for _, v := range values {
		dst = append(dst, byte(v.kind))
		dst = appendText(dst, v.text)
	}
	return dst
}

type sourceReader struct {
	s  string
	in *interner
}

func (r *sourceReader) byte() byte {
	b := r.s[0]
	r.s = r.s[1:]
	return b
}

func (r *sourceReader) uint() uint64 {
	v, k := uvarint(r.s)
	r.s = r.s[k:]
	return v
}

func (r *sourceReader) name() string { return r.in.names[r.uint()] }

func (r *sourceReader) text() (s string) {
	s, r.s = take(r.s)
	return s
}

func (r *sourceReader) literals() []literal {
	values := make([]literal, r.uint())
	for i := range values {
		values[i].kind = literalKind(r.byte())
		values[i].text = r.text()
	}
	return values
}

func (r *sourceReader) node() *node {
	typ := r.byte()
	n := &node{typ: nodeType(typ &^ opNegate), negate: typ&opNegate != 0}
	switch n.typ {
	case nodeAnd, nodeOr:
		n.queries = make([]*node, r.uint())
		for i := range n.queries {
			n.queries[i] = r.node()
		}
	case nodeObjectType:
		n.objectType = r.name()
	case nodeID:
		n.id = r.literals()[0]
	case nodeHasRelated:
		n.related.this, n.related.other, n.related.field, n.related.otherField = r.name(), r.name(), r.name(), r.name()
		bounds := r.literals()
		n.related.least, n.related.most = bounds[0], bounds[1]
		n.related.query = r.node()
	case nodeField:
		n.field.typ = fieldType(r.byte())
		n.field.name = r.name()
		if n.field.typ == fieldRegular {
			n.field.objectType = r.name()
		}
		c := &n.cond
		c.typ = condType(r.byte())
		switch c.typ {
		case condText:
			c.mode = exactValue
			c.values = r.literals()
		case condTerm:
			c.values = r.literals()
		case condReference:
			c.refType = r.name()
			c.values = r.literals()
		case condBoolean:
			c.truth = r.byte() == 1
		case condNumberRange:
			copy(c.bounds[:], r.literals())
		case condMomentRange:
			for i := range c.moments {
				m := &c.moments[i]
				switch m.typ = momentType(r.byte()); m.typ {
				case momentFixed:
					m.which = r.name()
					m.value = r.text()
				case momentOffset:
					m.value = r.text()
				}
			}
		}
	}
	return n
}

// The tree as JSON, for the nearest accepted form of what was refused.

func appendNode(dst []byte, n *node) []byte {
	if n.typ == nodeBad {
		return append(dst, `{"type":"match_all"}`...)
	}
	dst = append(dst, `{"type":"`...)
	dst = append(dst, nodeNames[n.typ]...)
	dst = append(dst, '"')
	member := func(name, value string) {
		dst = append(dst, `,"`...)
		dst = append(dst, name...)
		dst = append(dst, `":`...)
		dst = append(dst, value...)
	}
	switch n.typ {
	case nodeAnd, nodeOr:
		member("queries", "[")
		for i, q := range n.queries {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendNode(dst, q)
		}
		dst = append(dst, ']')
	case nodeObjectType:
		member("object_type", quoted(n.objectType))
	case nodeField:
		member("field", string(appendField(nil, &n.field)))
		member("condition", string(appendCondition(nil, &n.cond)))
	case nodeHasRelated:
		member("this_object_type", quoted(n.related.this))
		member("related_object_type", quoted(n.related.other))
		for _, m := range [...]struct{ name, value string }{{"this_field_name", n.related.field}, {"related_field_name", n.related.otherField}} {
			if m.value != "" {
				member(m.name, quoted(m.value))
			}
		}
		if n.related.least.kind != litNone {
			member("at_least", n.related.least.text)
		}
		if n.related.most.kind != litNone {
			member("at_most", n.related.most.text)
		}
		member("related_query", string(appendNode(nil, n.related.query)))
	case nodeID:
		member("value", n.id.json())
	case nodeText:
		member("mode", quoted(n.cond.mode))
		member("value", n.cond.values[0].json())
	case nodeSavedSearch:
		member("saved_search_id", quoted(n.saved))
	}
	if n.negate {
		member("negate", "true")
	}
	return append(dst, '}')
}

func (l literal) json() string {
	if l.kind == litString {
		return quoted(l.text)
	}
	return l.text
}

func appendField(dst []byte, f *fieldRef) []byte {
	switch f.typ {
	case fieldRegular:
		dst = append(dst, `{"type":"regular_field","object_type":`...)
		dst = appendString(dst, f.objectType)
		dst = append(dst, `,"field_name":`...)
		dst = appendString(dst, f.name)
	case fieldCustom:
		dst = append(dst, `{"type":"custom_field","custom_field_id":`...)
		dst = appendString(dst, f.name)
	default:
		dst = append(dst, `{"type":`...)
		dst = appendString(dst, f.name)
	}
	return append(dst, '}')
}

func appendCondition(dst []byte, c *condition) []byte { //nolint:unparam // like its siblings
	if c.typ == condBad {
		return append(dst, `{"type":"exists"}`...)
	}
	dst = append(dst, `{"type":"`...)
	dst = append(dst, condNames[c.typ]...)
	dst = append(dst, '"')
	list := func(name string) {
		dst = append(dst, `,"`...)
		dst = append(dst, name...)
		dst = append(dst, `":[`...)
		for i, v := range c.values {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, v.json()...)
		}
		dst = append(dst, ']')
	}
	switch c.typ {
	case condText:
		dst = append(dst, `,"mode":`...)
		dst = appendString(dst, c.mode)
		dst = append(dst, `,"value":`...)
		dst = append(dst, c.values[0].json()...)
	case condTerm:
		list("values")
	case condReference:
		if c.refType != "" {
			dst = append(dst, `,"reference_type":`...)
			dst = appendString(dst, c.refType)
		}
		list("object_ids")
	case condBoolean:
		dst = append(dst, `,"value":`...)
		dst = strconv.AppendBool(dst, c.truth)
	case condNumberRange:
		for i, l := range c.bounds {
			if l.kind != litNone {
				dst = append(dst, `,"`...)
				dst = append(dst, boundNames[i]...)
				dst = append(dst, `":`...)
				dst = append(dst, l.text...)
			}
		}
	case condMomentRange:
		for i := range c.moments {
			m := &c.moments[i]
			if m.typ == momentNone {
				continue
			}
			dst = append(dst, `,"`...)
			dst = append(dst, momentNames[i]...)
			dst = append(dst, `":`...)
			switch m.typ {
			case momentOffset:
				dst = append(dst, m.value...)
			case momentNow:
				dst = append(dst, `{"type":"now"}`...)
			default:
				dst = append(dst, `{"type":"fixed_local_date","value":`...)
				dst = appendString(dst, m.value)
				if m.which != "" {
					dst = append(dst, `,"which":`...)
					dst = appendString(dst, m.which)
				}
				dst = append(dst, '}')
			}
		}
	}
	return append(dst, '}')
}

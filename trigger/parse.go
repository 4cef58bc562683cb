package trigger

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The syntax tree. It holds every node of the grammar, also those that triggers
// refuse (compile.go does that), because the same grammar is used where a query
// runs at execution time.

type nodeType uint8

const (
	nodeBad nodeType = iota // reported; stands where a node could not be read
	nodeAnd
	nodeOr
	nodeObjectType
	nodeField
	nodeHasRelated
	nodeMatchAll
	nodeID
	nodeText
	nodeSavedSearch
)

var nodeNames = [...]string{"", "and", "or", "object_type", "field_condition", "has_related", "match_all", "id", "text", "saved_search"}

type node struct {
	typ    nodeType
	negate bool
	at     int

	queries    []*node   // and, or
	objectType string    // object_type
	field      fieldRef  // field_condition
	cond       condition // field_condition; text
	id         literal   // id
	related    related   // has_related
	saved      string    // saved_search
}

// related is has_related. Of the relations between the two types, field and
// otherField pick one when there are several; least and most bound how many
// related objects must match.
type related struct {
	this, other       string
	field, otherField string
	query             *node
	least, most       literal // litNone: at least one, any number
}

type fieldType uint8

const (
	fieldBad fieldType = iota
	fieldRegular
	fieldCustom
	fieldComputed // anything that is neither; name is its type
)

type fieldRef struct {
	typ        fieldType
	at         int
	objectType string
	name       string
}

type condType uint8

const (
	condBad condType = iota
	condText
	condTerm
	condReference
	condExists
	condBoolean
	condNumberRange
	condMomentRange
	condCurrentUser
)

var condNames = [...]string{"", "text", "term", "reference", "exists", "boolean", "number_range", "moment_range", "current_user"}

const (
	exactValue     = "exact_value"
	exactValueJSON = `"exact_value"`
)

var textModes = []string{exactValue, "full_words", "phrase", "beginning_of_words"}

type condition struct {
	typ     condType
	at      int
	mode    string        // text
	refType string        // reference
	values  []literal     // text (one), term, reference
	truth   bool          // boolean
	bounds  [4]literal    // number_range
	moments [2]momentNode // moment_range
}

// The bounds of number_range, in the order of condition.bounds.
const (
	boundGTE = iota
	boundGT
	boundLTE
	boundLT
)

var boundNames = [4]string{"gte", "gt", "lte", "lt"}

// The bounds of moment_range, in the order of condition.moments.
var momentNames = [2]string{"on_or_after", "before"}

type literalKind uint8

const (
	litNone literalKind = iota
	litString
	litNumber
	litBool
)

// literal is a scalar as it was written; text is a string's meaning, a number's
// own digits, or true or false.
type literal struct {
	kind literalKind
	text string
}

type momentType uint8

const (
	momentNone momentType = iota
	momentBad
	momentFixed
	momentNow
	momentOffset
)

type momentNode struct {
	typ   momentType
	at    int
	which string // start, end, or "" when value is an instant
	value string // of a fixed moment; of an offset its JSON
}

// Query is a query whose syntax is right.
type Query struct {
	root *node
}

// Parse checks a query's syntax and nothing else: not whether its fields
// exist, nor whether it may be used in a trigger. The error is a
// *ValidationError.
func Parse(query []byte) (*Query, error) {
	root, problems := parse(query)
	if err := newValidationError(problems); err != nil {
		return nil, err
	}
	return &Query{root: root}, nil
}

// ObjectType gives the object type that the query names at its top, or "".
func (q *Query) ObjectType() string {
	name := ""
	topObjectTypes(q.root, func(n *node) {
		if name == "" {
			name = n.objectType
		}
	})
	return name
}

// topObjectTypes visits the object_type nodes that hold for the whole query:
// those reached from the root through nothing but and.
func topObjectTypes(n *node, visit func(*node)) {
	if n == nil || n.negate {
		return
	}
	switch n.typ {
	case nodeObjectType:
		visit(n)
	case nodeAnd:
		for _, q := range n.queries {
			topObjectTypes(q, visit)
		}
	}
}

// parser can be used again for the next query; the tree that it gave for the
// one before is overwritten then.
type parser struct {
	json     jsonParser
	src      string
	path     path
	count    int
	slab     []node
	problems []Problem
}

// parse reads a query whose tree is to stay.
func parse(query []byte) (*node, []Problem) {
	return new(parser).parse(query)
}

// parse returns the tree even when there are problems, with nodeBad where a
// node could not be read, so that the compiler can report its own problems too.
func (p *parser) parse(query []byte) (*node, []Problem) {
	p.path, p.count, p.slab, p.problems = p.path[:0], 0, p.slab[:0], nil
	if len(query) > MaxBytes {
		p.report(0, CodeTooLarge, nil, "the query has %d bytes; keep it under %d", len(query), MaxBytes)
		return &node{}, p.problems
	}
	p.src = string(query)
	v, err := p.json.parse(p.src)
	if err != nil {
		code := CodeInvalidJSON
		if err.tooDeep {
			code = CodeTooDeep
		}
		p.report(err.at, code, nil, "the query can't be read at byte %d: %s", err.at, err.msg)
		return &node{}, p.problems
	}
	root := p.node(&v, 1)
	return root, p.problems
}

// newNode takes a node from the slab. Nodes that were given out before stay
// where they are when it grows.
func (p *parser) newNode() *node {
	if len(p.slab) == cap(p.slab) {
		p.slab = make([]node, 0, min(2*cap(p.slab)+8, MaxNodes))
	}
	p.slab = append(p.slab, node{})
	return &p.slab[len(p.slab)-1]
}

func (p *parser) report(at int, code string, nearest json.RawMessage, format string, args ...any) {
	p.problems = append(p.problems, Problem{
		Pointer: p.path.String(), Code: code, Message: fmt.Sprintf(format, args...), Nearest: nearest, at: at,
	})
}

func (p *parser) raw(v *jval) string { return p.src[v.at:v.end] }

// edit gives the object with one member set (or added), or dropped when raw is "".
func (p *parser) edit(v *jval, key, raw string) json.RawMessage {
	out := []byte{'{'}
	put := func(k, r string) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = appendString(out, k)
		out = append(out, ':')
		out = append(out, r...)
	}
	done := raw == ""
	for i := range v.members {
		m := &v.members[i]
		if m.key != key {
			put(m.key, p.raw(&m.val))
		} else if raw != "" {
			put(key, raw)
			done = true
		}
	}
	if !done {
		put(key, raw)
	}
	return append(out, '}')
}

func appendString(dst []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil { // can't be: every string can be written
		return append(dst, `""`...)
	}
	return append(dst, b...)
}

func quoted(s string) string { return string(appendString(nil, s)) }

func describe(v *jval) string {
	switch v.kind {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 'n':
		return "null"
	}
	return "a boolean"
}

// member gives a member that is there and not null. example is what to write
// when it is not; "" makes it optional.
func (p *parser) member(v *jval, key, example string) *jval {
	m := v.get(key)
	if m != nil && m.kind != 'n' {
		return m
	}
	if example != "" {
		p.report(v.at, CodeMissingMember, p.edit(v, key, example), "add the member %q", key)
	}
	return nil
}

// text gives a string member.
func (p *parser) text(v *jval, key, example string) (string, bool) {
	m := p.member(v, key, example)
	if m == nil {
		return "", false
	}
	if m.kind != '"' {
		p.path.key(key)
		p.report(m.at, CodeTypeMismatch, nil, "%q must be a string, not %s", key, describe(m))
		p.path.pop()
		return "", false
	}
	return m.str, true
}

// only reports members that the object does not have in the grammar. A
// misspelled "negate" that is ignored would turn a trigger into its opposite.
func (p *parser) only(v *jval, allowed ...string) {
next:
	for i := range v.members {
		m := &v.members[i]
		for _, a := range allowed {
			if m.key == a {
				continue next
			}
		}
		hint := ""
		nearest := p.edit(v, m.key, "")
		if c := closest(m.key, func(yield func(string) bool) {
			for _, a := range allowed {
				if v.get(a) == nil && !yield(a) {
					return
				}
			}
		}); c != "" {
			hint = fmt.Sprintf(" (or did you mean %q?)", c)
		}
		p.report(m.val.at, CodeUnknownMember, nearest, "remove the member %q%s", m.key, hint)
	}
}

// typeOf reads the member "type" and finds it among names; 0 when it is not
// there or not known.
func (p *parser) typeOf(v *jval, names []string, code, what, example string) int {
	name, ok := p.text(v, "type", example)
	if !ok {
		return 0
	}
	for i, n := range names {
		if i > 0 && n == name {
			return i
		}
	}
	var nearest json.RawMessage
	hint := ""
	if c := closest(name, func(yield func(string) bool) {
		for _, n := range names[1:] {
			if !yield(n) {
				return
			}
		}
	}); c != "" {
		nearest = p.edit(v, "type", quoted(c))
		hint = fmt.Sprintf("; did you mean %q?", c)
	}
	p.report(v.at, code, nearest, "there is no %s of type %q%s", what, name, hint)
	return 0
}

func (p *parser) object(v *jval, what string) bool {
	if v.kind == '{' {
		return true
	}
	p.report(v.at, CodeTypeMismatch, nil, "%s must be an object, not %s", what, describe(v))
	return false
}

func (p *parser) node(v *jval, depth int) *node {
	n := p.newNode()
	n.at = v.at
	if depth > MaxDepth {
		p.report(v.at, CodeTooDeep, nil, "the query is nested more than %d nodes deep; flatten its groups", MaxDepth)
		return n
	}
	if p.count++; p.count > MaxNodes {
		if p.count == MaxNodes+1 {
			p.report(v.at, CodeTooLarge, nil, "the query has more than %d nodes; use a list of values instead of many conditions, or several triggers", MaxNodes)
		}
		return n
	}
	if !p.object(v, "a node") {
		return n
	}
	if m := v.get("negate"); m != nil && m.kind != 'n' {
		if m.kind != 't' && m.kind != 'f' {
			p.path.key("negate")
			p.report(m.at, CodeTypeMismatch, nil, `"negate" must be true or false, not %s`, describe(m))
			p.path.pop()
		}
		n.negate = m.kind == 't'
	}
	typ := nodeType(p.typeOf(v, nodeNames[:], CodeUnknownNode, "node", `"and"`))
	ok := true
	switch typ {
	case nodeAnd, nodeOr:
		p.only(v, "type", "negate", "queries")
		queries := p.member(v, "queries", "[]")
		if queries == nil {
			return n
		}
		p.path.key("queries")
		if queries.kind != '[' {
			p.report(queries.at, CodeTypeMismatch, nil, `"queries" must be a list of nodes, not %s`, describe(queries))
			ok = false
		}
		if len(queries.members) > 0 {
			n.queries = make([]*node, len(queries.members))
		}
		for i := range queries.members {
			p.path.idx(i)
			n.queries[i] = p.node(&queries.members[i].val, depth+1)
			p.path.pop()
		}
		p.path.pop()
	case nodeObjectType:
		p.only(v, "type", "negate", "object_type")
		n.objectType, ok = p.text(v, "object_type", `"lead"`)
	case nodeField:
		p.only(v, "type", "negate", "field", "condition")
		if f := p.member(v, "field", `{"type":"regular_field","object_type":"lead","field_name":"id"}`); f != nil {
			p.path.key("field")
			n.field = p.field(f)
			p.path.pop()
		}
		if c := p.member(v, "condition", `{"type":"exists"}`); c != nil {
			p.path.key("condition")
			n.cond = p.condition(c)
			p.path.pop()
		}
	case nodeHasRelated:
		p.only(v, "type", "negate", "this_object_type", "related_object_type", "related_query", "this_field_name", "related_field_name", "at_least", "at_most")
		n.related.this, _ = p.text(v, "this_object_type", `"lead"`)
		n.related.other, _ = p.text(v, "related_object_type", `"contact"`)
		n.related.field = p.optionalText(v, "this_field_name")
		n.related.otherField = p.optionalText(v, "related_field_name")
		n.related.least = p.count64(v, "at_least")
		n.related.most = p.count64(v, "at_most")
		if q := p.member(v, "related_query", `{"type":"match_all"}`); q != nil {
			p.path.key("related_query")
			n.related.query = p.node(q, depth+1)
			p.path.pop()
		}
		ok = n.related.query != nil
	case nodeMatchAll:
		p.only(v, "type", "negate")
	case nodeID:
		p.only(v, "type", "negate", "value")
		m := p.member(v, "value", `""`)
		if m == nil {
			return n
		}
		p.path.key("value")
		n.id, ok = p.literal(m)
		p.path.pop()
	case nodeText:
		p.only(v, "type", "negate", "mode", "value")
		n.cond.typ = condText
		n.cond.mode, _ = p.text(v, "mode", exactValueJSON)
		value, _ := p.text(v, "value", `""`)
		n.cond.values = []literal{{litString, value}}
	case nodeSavedSearch:
		p.only(v, "type", "negate", "saved_search_id")
		n.saved, ok = p.text(v, "saved_search_id", `""`)
	}
	if ok {
		n.typ = typ
	}
	return n
}

func (p *parser) optionalText(v *jval, key string) string {
	if m := v.get(key); m == nil || m.kind == 'n' {
		return ""
	}
	s, _ := p.text(v, key, `""`)
	return s
}

// count64 reads an optional whole number that counts something.
func (p *parser) count64(v *jval, key string) literal {
	m := v.get(key)
	if m == nil || m.kind == 'n' {
		return literal{}
	}
	raw := p.raw(m)
	if n, err := strconv.ParseUint(raw, 10, 31); m.kind == '0' && err == nil {
		return literal{litNumber, strconv.FormatUint(n, 10)}
	}
	p.path.key(key)
	p.report(m.at, CodeTypeMismatch, nil, "%q counts related objects: give a whole number from 0 to 2147483647", key)
	p.path.pop()
	return literal{}
}

func (p *parser) field(v *jval) (f fieldRef) {
	f.at = v.at
	if !p.object(v, "a field") {
		return f
	}
	name, ok := p.text(v, "type", `"regular_field"`)
	if !ok {
		return f
	}
	switch name {
	case "regular_field":
		p.only(v, "type", "object_type", "field_name")
		var typeOK bool
		f.objectType, typeOK = p.text(v, "object_type", `"lead"`)
		if f.name, ok = p.text(v, "field_name", `"id"`); ok && typeOK {
			f.typ = fieldRegular
		}
	case "custom_field":
		p.only(v, "type", "custom_field_id")
		if f.name, ok = p.text(v, "custom_field_id", `"cf_…"`); ok {
			f.typ = fieldCustom
		}
	default:
		f.typ, f.name = fieldComputed, name
	}
	return f
}

func (p *parser) literal(v *jval) (literal, bool) {
	switch v.kind {
	case '"':
		return literal{litString, v.str}, true
	case '0':
		return literal{litNumber, p.raw(v)}, true
	case 't', 'f':
		return literal{litBool, p.raw(v)}, true
	}
	p.report(v.at, CodeTypeMismatch, nil, "a value must be a string, a number or a boolean, not %s", describe(v))
	return literal{}, false
}

// list reads a list of scalars.
func (p *parser) list(v *jval, key string) ([]literal, bool) {
	m := p.member(v, key, "[]")
	if m == nil {
		return nil, false
	}
	p.path.key(key)
	defer p.path.pop()
	if m.kind != '[' {
		p.report(m.at, CodeTypeMismatch, json.RawMessage("["+p.raw(m)+"]"), "%q must be a list, not %s", key, describe(m))
		return nil, false
	}
	if len(m.members) > MaxList {
		p.report(m.at, CodeTooLarge, nil, "the list has %d values; keep it to %d", len(m.members), MaxList)
		return nil, false
	}
	values, ok := make([]literal, 0, len(m.members)), true
	for i := range m.members {
		p.path.idx(i)
		l, good := p.literal(&m.members[i].val)
		p.path.pop()
		values = append(values, l)
		ok = ok && good
	}
	return values, ok
}

func (p *parser) condition(v *jval) (c condition) {
	c.at = v.at
	if !p.object(v, "a condition") {
		return c
	}
	typ, ok := condType(p.typeOf(v, condNames[:], CodeUnknownCondition, "condition", `"exists"`)), true
	switch typ {
	case condText:
		p.only(v, "type", "mode", "value")
		value := ""
		c.mode, ok = p.text(v, "mode", exactValueJSON)
		if ok {
			ok = p.textMode(v, c.mode)
		}
		var valueOK bool
		value, valueOK = p.text(v, "value", `""`)
		ok = ok && valueOK
		c.values = []literal{{litString, value}}
	case condTerm:
		p.only(v, "type", "values")
		c.values, ok = p.list(v, "values")
	case condReference:
		p.only(v, "type", "reference_type", "object_ids")
		if v.get("reference_type") != nil {
			c.refType, _ = p.text(v, "reference_type", "")
		}
		c.values, ok = p.list(v, "object_ids")
	case condExists, condCurrentUser:
		p.only(v, "type")
	case condBoolean:
		p.only(v, "type", "value")
		m := p.member(v, "value", "true")
		switch {
		case m == nil:
			ok = false
		case m.kind != 't' && m.kind != 'f':
			var nearest json.RawMessage
			if b, err := strconv.ParseBool(m.str); err == nil && m.kind == '"' {
				nearest = strconv.AppendBool(nil, b)
			}
			p.path.key("value")
			p.report(m.at, CodeTypeMismatch, nearest, `"value" must be true or false, not %s`, describe(m))
			p.path.pop()
			ok = false
		default:
			c.truth = m.kind == 't'
		}
	case condNumberRange:
		p.only(v, "type", "gte", "gt", "lte", "lt")
		ok = p.numberRange(v, &c)
	case condMomentRange:
		p.only(v, "type", "on_or_after", "before")
		ok = p.momentRange(v, &c)
	}
	if ok {
		c.typ = typ
	}
	return c
}

func (p *parser) textMode(v *jval, mode string) bool {
	if slices.Contains(textModes, mode) {
		return true
	}
	p.report(v.at, CodeTextMode, p.edit(v, "mode", exactValueJSON), "there is no text mode %q; a trigger can use %q only", mode, exactValue)
	return false
}

func (p *parser) numberRange(v *jval, c *condition) bool {
	ok, some := true, false
	for i, key := range boundNames {
		m := p.member(v, key, "")
		if m == nil {
			continue
		}
		some = true
		if m.kind == '0' {
			c.bounds[i] = literal{litNumber, p.raw(m)}
			continue
		}
		var nearest json.RawMessage
		if inner, err := parseJSON(m.str); m.kind == '"' && err == nil && inner.kind == '0' {
			nearest = json.RawMessage(strings.TrimSpace(m.str))
		}
		p.path.key(key)
		p.report(m.at, CodeTypeMismatch, nearest, "%q must be a number, not %s", key, describe(m))
		p.path.pop()
		ok = false
	}
	if !some {
		p.report(v.at, CodeMissingMember, json.RawMessage(`{"type":"exists"}`), `give at least one of "gte", "gt", "lte", "lt"; to ask for any number, use exists`)
		return false
	}
	return ok
}

func (p *parser) momentRange(v *jval, c *condition) bool {
	ok, some := true, false
	for i, key := range momentNames {
		m := p.member(v, key, "")
		if m == nil {
			continue
		}
		some = true
		p.path.key(key)
		c.moments[i] = p.moment(m)
		p.path.pop()
		ok = ok && c.moments[i].typ != momentBad
	}
	if !some {
		p.report(v.at, CodeMissingMember, json.RawMessage(`{"type":"exists"}`), `give "on_or_after", "before" or both; to ask for any moment, use exists`)
		return false
	}
	return ok
}

func (p *parser) moment(v *jval) (m momentNode) {
	m.typ, m.at = momentBad, v.at
	if !p.object(v, "a moment") {
		return m
	}
	name, ok := p.text(v, "type", `"fixed_local_date"`)
	if !ok {
		return m
	}
	switch name {
	case "now":
		p.only(v, "type")
		m.typ = momentNow
	case "offset":
		p.only(v, "type", "direction", "moment", "offset", "which_day_end")
		m.typ, m.value = momentOffset, p.raw(v)
	case "fixed_local_date":
		p.only(v, "type", "value", "which")
		value, ok := p.text(v, "value", `"2026-01-31"`)
		if !ok {
			return m
		}
		parsed, good := parseMoment(value)
		if !good || parsed.infinite != 0 || len(value) < 10 || value[4] != '-' || value[:4] == "0000" || strings.HasSuffix(value, "BC") || parsed.hasTime && !parsed.hasZone {
			p.path.key("value")
			p.report(v.get("value").at, CodeTypeMismatch, nil, "%q is not a date; write it like 2026-01-31, or an instant like 2026-01-31T10:00:00Z", value)
			p.path.pop()
			return m
		}
		if parsed.hasTime {
			if v.get("which") != nil && v.get("which").kind != 'n' {
				p.report(v.at, CodeUnknownMember, p.edit(v, "which", ""), `remove "which": an instant has neither a start nor an end`)
				return m
			}
		} else {
			if m.which, ok = p.text(v, "which", `"start"`); !ok {
				return m
			}
			if m.which != "start" && m.which != "end" {
				p.report(v.at, CodeTypeMismatch, p.edit(v, "which", `"start"`), `"which" must be "start" or "end", not %q`, m.which)
				return m
			}
		}
		m.typ, m.value = momentFixed, value
	default:
		p.report(v.at, CodeUnknownCondition, nil, "there is no moment of type %q; use fixed_local_date", name)
	}
	return m
}

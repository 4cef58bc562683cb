package trigger

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The compiler checks a tree against an object type's columns and turns it into
// negation normal form: negations stand at the conditions only, groups alternate
// between and or, and what is always true or false is folded away.

// specKind says where a field's value is found.
type specKind uint8

const (
	specColumn specKind = iota // a column; name is the column's
	specCustom                 // a member of the custom column; name is the key
	specID                     // the object's own id
)

// fieldSpec names a field as triggers share it.
type fieldSpec struct {
	kind specKind
	name string
}

// expr is a compiled query before it is laid out in bytes.
type expr struct {
	op      byte
	negate  bool // of conditions only
	spec    fieldSpec
	payload []byte
	kids    []expr
	related *relatedExpr // opRelated
	window  *window      // opWindow
}

// window is a moment_range with a bound that moves with the clock.
type window struct {
	moments [2]momentNode
	loc     *time.Location
}

type compiler struct {
	schemas    Schemas
	schema     *Schema // of objectType; nil: it is not watched
	objectType string  // of the objects that the conditions here are asked of
	loc        *time.Location
	depth      int // has_related around here

	path     path
	problems []Problem
	pinned   int  // object_type nodes seen where they belong
	unsure   bool // a node that could not be read may have been one
}

func (c *compiler) report(at int, code string, nearest json.RawMessage, format string, args ...any) {
	c.problems = append(c.problems, Problem{
		Pointer: c.path.String(), Code: code, Message: fmt.Sprintf(format, args...), Nearest: nearest, at: at,
	})
}

// in reports a problem of a member.
func (c *compiler) in(key string, report func()) {
	c.path.key(key)
	report()
	c.path.pop()
}

// compile gives the normal form; it means nothing when there are problems.
func (c *compiler) compile(root *node) expr {
	if c.loc == nil {
		c.loc = time.UTC
	}
	e := c.node(root, false, true)
	if c.pinned == 0 && !c.unsure {
		name := c.objectType
		if name == "" {
			name = "lead"
		}
		nearest := append([]byte(`{"type":"and","queries":[{"type":"object_type","object_type":`), quoted(name)...)
		nearest = append(nearest, `},`...)
		nearest = append(appendNode(nearest, root), `]}`...)
		c.report(root.at, CodeObjectTypeMissing, nearest, "put one object_type node into the outermost and")
	}
	if c.schema == nil && c.pinned == 0 {
		c.unwatched(root.at)
	}
	return e
}

func (c *compiler) unwatched(at int) {
	if c.objectType == "" {
		return // object_type_missing says it
	}
	c.report(at, CodeUnknownObjectType, nil, "there is no object type %q; watch its table first", c.objectType)
}

func constant(truth bool) expr {
	if truth {
		return expr{op: opTrue}
	}
	return expr{op: opFalse}
}

// node compiles a node. negate is that of the groups around it; top holds while
// everything around it is and.
func (c *compiler) node(n *node, negate, top bool) expr {
	top = top && !n.negate
	negate = negate != n.negate
	switch n.typ {
	case nodeBad:
		c.unsure = c.unsure || top
	case nodeMatchAll:
	case nodeAnd, nodeOr:
		return c.group(n, negate, top)
	case nodeObjectType:
		c.objectTypeNode(n, top)
	case nodeID:
		return c.idNode(n, negate)
	case nodeField:
		return c.fieldNode(n, negate)
	case nodeHasRelated:
		return c.relatedNode(n, negate)
	case nodeText:
		c.report(n.at, CodeBareText, nil, "a text search over all fields can't be used in a trigger; use a field_condition with a text condition of mode %q", exactValue)
	case nodeSavedSearch:
		c.report(n.at, CodeSavedSearch, nil, "a saved search can't be used in a trigger; copy its query here")
	}
	return constant(!negate)
}

func (c *compiler) group(n *node, negate, top bool) expr {
	if len(n.queries) == 0 {
		return constant(!negate) // no restriction, for or as for and
	}
	op := byte(opAnd)
	if (n.typ == nodeOr) != negate {
		op = opOr
	}
	top = top && n.typ == nodeAnd
	decided, isDecided := expr{}, false
	kids := make([]expr, 0, len(n.queries))
	c.path.key("queries")
	for i, q := range n.queries {
		c.path.idx(i)
		kid := c.node(q, negate, top)
		c.path.pop()
		switch kid.op {
		case opTrue, opFalse:
			if (kid.op == opTrue) == (op == opOr) {
				decided, isDecided = kid, true
			}
		case op:
			kids = append(kids, kid.kids...)
		default:
			kids = append(kids, kid)
		}
	}
	c.path.pop()
	switch {
	case isDecided:
		return decided
	case len(kids) == 0:
		return constant(op == opAnd)
	case len(kids) == 1:
		return kids[0]
	}
	return expr{op: op, kids: kids}
}

func (c *compiler) objectTypeNode(n *node, top bool) {
	if !top {
		c.report(n.at, CodeObjectTypeMisplaced, nil, "move object_type into the outermost and; it can't be negated or stand in an or")
		c.unsure = true
		return
	}
	if c.pinned++; c.pinned > 1 {
		c.report(n.at, CodeObjectTypeRepeated, json.RawMessage(`{"type":"match_all"}`), "remove this object_type: a query has exactly one")
		return
	}
	if c.objectType == "" {
		c.objectType = n.objectType
	}
	if n.objectType != c.objectType {
		nearest := append([]byte(`{"type":"object_type","object_type":`), quoted(c.objectType)...)
		what := "this trigger"
		if c.depth > 0 {
			what = "this related_query"
		}
		c.report(n.at, CodeWrongObjectType, append(nearest, '}'), "%s is on %q, so its query can't be on %q", what, c.objectType, n.objectType)
	} else if c.schema == nil {
		c.unwatched(n.at)
	}
}

func (c *compiler) idNode(n *node, negate bool) expr {
	if c.schema == nil {
		return constant(!negate)
	}
	kind := KindText
	if f := c.schema.field(c.schema.ID); f != nil {
		kind = f.Kind
	}
	c.path.key("value")
	payload, ok := c.members(kind, []literal{n.id}, n.at, nil)
	c.path.pop()
	if !ok {
		return constant(!negate)
	}
	return expr{op: opTerm, negate: negate, spec: fieldSpec{kind: specID}, payload: payload}
}

// resolve finds a field in the schema. It is nil when that was reported or
// there is no schema.
func (c *compiler) resolve(f *fieldRef) (*Field, fieldSpec) {
	c.path.key("field")
	defer c.path.pop()
	switch f.typ {
	case fieldComputed:
		c.report(f.at, CodeComputedField, nil, "a field of type %q is not stored in the object's row, so its changes can't be seen; use a regular_field or a custom_field", f.name)
	case fieldRegular:
		if c.objectType != "" && f.objectType != c.objectType {
			right := *f
			right.objectType = c.objectType
			var nearest json.RawMessage
			if c.schema != nil && c.schema.field(f.name) != nil {
				nearest = appendField(nil, &right)
			}
			c.report(f.at, CodeWrongObjectType, nearest, "%q is a field of %q, but this query is on %q; a field of another object is reached through has_related only", f.name, f.objectType, c.objectType)
			return nil, fieldSpec{}
		}
		if c.schema == nil {
			break
		}
		if field := c.schema.field(f.name); field != nil {
			return field, fieldSpec{kind: specColumn, name: f.name}
		}
		near := closest(f.name, func(yield func(string) bool) {
			for i := range c.schema.Fields {
				if !yield(c.schema.Fields[i].Name) {
					return
				}
			}
		})
		if near == "" {
			c.report(f.at, CodeUnknownField, nil, "%q has no field %q; name a column of its table", c.objectType, f.name)
			break
		}
		right := *f
		right.name = near
		c.report(f.at, CodeUnknownField, appendField(nil, &right), "%q has no field %q; did you mean %q?", c.objectType, f.name, near)
	case fieldCustom:
		if c.schema == nil {
			break
		}
		if c.schema.Custom == "" {
			c.report(f.at, CodeUnknownField, nil, "%q has no custom fields; watch its table again and name the jsonb column that holds them", c.objectType)
			break
		}
		field := c.schema.field(c.schema.Custom)
		if field == nil || field.Kind != KindJSON || field.Array {
			c.report(f.at, CodeUnknownField, nil, "the custom fields of %q are in column %q, which is not there or is not jsonb", c.objectType, c.schema.Custom)
			break
		}
		return field, fieldSpec{kind: specCustom, name: f.name}
	}
	return nil, fieldSpec{}
}

func (c *compiler) fieldNode(n *node, negate bool) expr {
	field, spec := c.resolve(&n.field)
	c.path.key("condition")
	defer c.path.pop()
	op, payload, ok := c.condition(field, &n.field, &n.cond)
	if !ok {
		return constant(!negate)
	}
	if op == opFalse {
		return constant(negate)
	}
	e := expr{op: op, negate: negate, spec: spec, payload: payload}
	if op == opWindow {
		e.window = &window{n.cond.moments, c.loc}
	}
	return e
}

// fits reports a condition that can't be asked of a field of this kind.
func (c *compiler) fits(field *Field, ref *fieldRef, cond *condition, nearest json.RawMessage, kinds ...Kind) bool {
	if field == nil || slices.Contains(kinds, field.Kind) {
		return true
	}
	use := "term or exists"
	switch field.Kind {
	case KindText, KindPadded, KindOther:
		use = "text, term or exists"
	case KindBool:
		use = "boolean or exists"
	case KindNumber:
		use = "number_range, term or exists"
	case KindDate, KindTimestamp, KindTimestampTZ:
		use = "moment_range, term or exists"
	}
	c.report(cond.at, CodeTypeMismatch, nearest, "%q holds %s, which %s can't be asked of; use %s", ref.name, article(field.Kind), condNames[cond.typ], use)
	return false
}

func article(k Kind) string {
	switch k {
	case KindOther:
		return "a value without an order"
	case KindText, KindPadded:
		return "text"
	case KindJSON:
		return "JSON"
	}
	return "a " + k.String()
}

// condition compiles a condition on a field, which is nil when it could not be
// resolved: then only what is wrong with any field is reported.
func (c *compiler) condition(field *Field, ref *fieldRef, cond *condition) (op byte, payload []byte, ok bool) {
	switch cond.typ {
	case condText:
		if cond.mode != exactValue {
			right := *cond
			right.mode = exactValue
			c.report(cond.at, CodeTextMode, appendCondition(nil, &right), "text mode %q needs a search index and can't be used in a trigger; use mode %q", cond.mode, exactValue)
			return 0, nil, false
		}
		if !c.fits(field, ref, cond, c.nearestOfText(field, cond), KindText, KindPadded, KindOther, KindJSON) || field == nil {
			return 0, nil, false
		}
		value := strings.ToLower(cond.values[0].text)
		if field.Kind == KindPadded {
			value = strings.TrimRight(value, " ")
		}
		return opText, []byte(value), true

	case condTerm, condReference:
		if cond.typ == condReference && !c.fits(field, ref, cond, nil, KindText, KindPadded, KindOther, KindNumber, KindJSON) || field == nil {
			return 0, nil, false
		}
		key := "values"
		if cond.typ == condReference {
			key = "object_ids"
		}
		if len(cond.values) == 0 {
			return opFalse, nil, true
		}
		c.path.key(key)
		defer c.path.pop()
		payload, ok = c.members(field.Kind, cond.values, cond.at, &c.path)
		return opTerm, payload, ok

	case condExists:
		return opExists, nil, field != nil

	case condBoolean:
		if !c.fits(field, ref, cond, nil, KindBool, KindJSON) || field == nil {
			return 0, nil, false
		}
		if cond.truth {
			return opBool, []byte{1}, true
		}
		return opBool, []byte{0}, true

	case condNumberRange:
		fits := c.fits(field, ref, cond, nil, KindNumber, KindJSON)
		payload, ok = c.numberRange(cond)
		return opNumber, payload, ok && fits && field != nil

	case condMomentRange:
		ok = c.moments(cond)
		if !c.fits(field, ref, cond, nil, KindDate, KindTimestamp, KindTimestampTZ, KindJSON) || !ok || field == nil {
			return 0, nil, false
		}
		if cond.moments[0].moves() || cond.moments[1].moves() {
			return opWindow, nil, true // its bounds are laid out with the program
		}
		return opMoment, c.momentRange(field.Kind, cond), true

	case condCurrentUser:
		c.report(cond.at, CodeCurrentUser, nil, "a trigger has no current user; use a reference condition with the ids of the users")
	}
	return 0, nil, false
}

// nearestOfText is what to ask of a field that is no text instead of exact_value.
func (c *compiler) nearestOfText(field *Field, cond *condition) json.RawMessage {
	if field == nil {
		return nil
	}
	value := cond.values[0].text
	switch field.Kind {
	case KindNumber:
		if _, class := appendNumber(nil, value); class == isNumber {
			return appendCondition(nil, &condition{typ: condTerm, values: cond.values})
		}
	case KindBool:
		if value == "true" || value == "false" {
			return appendCondition(nil, &condition{typ: condBoolean, truth: value == "true"})
		}
	}
	return nil
}

// The payload of opTerm: a byte of accepted booleans, the length of the list of
// accepted texts, that list, and the list of accepted numbers or moments.
const (
	acceptsTrue  = 1
	acceptsFalse = 2
)

// members compiles a list of accepted values for a kind. lists is nil when the
// values are not in a list (their problems then point at the value itself).
func (c *compiler) members(kind Kind, values []literal, at int, lists *path) ([]byte, bool) {
	var (
		accepts        byte
		texts, encoded []string
		ok             = true
	)
	for i, v := range values {
		good := true
		want := ""
		switch kind {
		case KindNumber:
			b, class := appendNumber(nil, v.text)
			good, want = class == isNumber && v.kind != litBool, "a number"
			encoded = append(encoded, string(b))
		case KindBool:
			want = "true or false"
			switch strings.ToLower(v.text) {
			case "true", "t":
				accepts |= acceptsTrue
			case "false", "f":
				accepts |= acceptsFalse
			default:
				good = false
			}
		case KindDate, KindTimestamp, KindTimestampTZ:
			m, isMoment := parseMoment(v.text)
			key := m.instant()
			good, want = isMoment && v.kind == litString, "an instant like 2026-01-31T10:00:00Z"
			if kind == KindDate {
				key = m.days()
				good, want = good && !m.hasTime, "a date like 2026-01-31"
			} else if m.infinite == 0 {
				good = good && m.hasTime && (m.hasZone || kind == KindTimestamp)
			}
			encoded = append(encoded, string(appendMicros(nil, key)))
		case KindJSON:
			texts = append(texts, v.text)
			if b, class := appendNumber(nil, v.text); class == isNumber {
				encoded = append(encoded, string(b))
			}
			switch v.text {
			case "true":
				accepts |= acceptsTrue
			case "false":
				accepts |= acceptsFalse
			}
		case KindPadded:
			texts = append(texts, strings.TrimRight(v.text, " "))
		case KindOther:
			if isUUID(v.text) {
				v.text = strings.ToLower(v.text)
			}
			texts = append(texts, v.text)
		default:
			texts = append(texts, v.text)
		}
		if !good {
			ok = false
			if lists != nil {
				c.path.idx(i)
			}
			c.report(at, CodeTypeMismatch, nil, "the field can't be equal to %q; give %s", v.text, want)
			if lists != nil {
				c.path.pop()
			}
		}
	}
	if !ok {
		return nil, false
	}
	list := appendList(nil, texts)
	payload := []byte{accepts}
	payload = binary.AppendUvarint(payload, uint64(len(list)))
	payload = append(payload, list...)
	return appendList(payload, encoded), true
}

// appendMicros writes a moment so that it can stand in a list.
func appendMicros(dst []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(v)^1<<63)
}

// The payload of opNumber: these flags, then the length of the lower bound, the
// lower bound, the upper bound, each encoded by appendNumber.
const (
	hasLow = 1 << iota
	lowIncluded
	hasHigh
	highIncluded
)

func (c *compiler) numberRange(cond *condition) ([]byte, bool) {
	var (
		bounds [2][]byte // low, high
		flags  byte
		ok     = true
	)
	for i, l := range cond.bounds {
		if l.kind == litNone {
			continue
		}
		b, class := appendNumber(nil, l.text)
		if class != isNumber {
			c.in(boundNames[i], func() {
				c.report(cond.at, CodeTypeMismatch, nil, "the number %.40s is beyond what Postgres can hold", l.text)
			})
			ok = false
			continue
		}
		side, has, included := 0, byte(hasLow), byte(lowIncluded)
		if i == boundLTE || i == boundLT {
			side, has, included = 1, hasHigh, highIncluded
		}
		if flags&has != 0 { // both, e.g. gte and gt: the stricter one holds
			order := strings.Compare(string(b), string(bounds[side]))
			if side == 1 {
				order = -order
			}
			if order < 0 {
				continue
			}
			// gte comes before gt and lte before lt, so an equal bound is the open one
		}
		bounds[side] = b
		flags |= has
		if i == boundGTE || i == boundLTE {
			flags |= included
		} else {
			flags &^= included
		}
	}
	payload := []byte{flags}
	payload = binary.AppendUvarint(payload, uint64(len(bounds[0])))
	payload = append(payload, bounds[0]...)
	return append(payload, bounds[1]...), ok
}

// moments checks the bounds of a moment_range that are relative to now. "Before
// now" alone is refused: it is a way to say that something has passed, which
// whoever means it by a trigger should say with an offset, be it of 0 seconds.
func (c *compiler) moments(cond *condition) bool {
	problems := len(c.problems)
	for i := range cond.moments {
		m := &cond.moments[i]
		c.path.key(momentNames[i])
		switch {
		case m.typ == momentNow && cond.moments[1-i].typ == momentNone:
			c.report(m.at, CodeRelativeMoment, json.RawMessage(`{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"seconds":0},"which_day_end":null}`),
				"a bound that is just now is true or false without a change; a trigger takes an offset from now, which may be 0 seconds, or a window with two bounds")
		case m.typ == momentOffset:
			p := parser{path: slices.Clone(c.path)}
			readOffset(&p, m, 0)
			c.problems = append(c.problems, p.problems...)
		}
		c.path.pop()
	}
	return len(c.problems) == problems
}

// The payload of opMoment: these flags, then for each bound that is there its
// day and its microseconds, those of the two that are asked for.
const (
	hasFrom = 1 << iota
	hasBefore
	asDays
	asMicros
)

func (c *compiler) momentRange(kind Kind, cond *condition) []byte {
	var flags byte
	switch kind {
	case KindDate:
		flags = asDays
	case KindJSON:
		flags = asDays | asMicros
	default:
		flags = asMicros
	}
	payload := []byte{0}
	for i := range cond.moments {
		m := &cond.moments[i]
		if m.typ == momentNone {
			continue
		}
		flags |= hasFrom << i
		day, micros := fixedBound(m, c.loc)
		if flags&asDays != 0 {
			payload = binary.AppendVarint(payload, day)
		}
		if flags&asMicros != 0 {
			payload = binary.AppendVarint(payload, micros)
		}
	}
	payload[0] = flags
	return payload
}

// fixedBound works out a bound that doesn't move: the instant, and the first day
// that starts at or after it, which is what a date is compared with.
func fixedBound(m *momentNode, loc *time.Location) (day, micros int64) {
	if m.typ == momentFixed {
		if parsed, _ := parseMoment(m.value); !parsed.hasTime {
			day = fixedDay(m, &parsed)
			return day, dayStart(day, loc)
		}
	}
	micros = reckoning{0, loc}.instant(m)
	return dayAtOrAfter(micros, loc), micros
}

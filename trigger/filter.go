package trigger

import (
	"encoding/json"
	"slices"
	"strings"
)

// Filter is a condition on a change itself, in the grammar of Close's webhook
// filters (extra_filter). Where a query asks what an object is, a filter asks
// what happened to it: it is evaluated on the event as a JSON document with
// action, object_type, object_id, organization_id, changed_fields, data (the row
// after) and previous_data (the changed columns before).
//
// A trigger that has one fires for every commit after which the query holds and
// whose event passes the filter, whether or not the query held before.
type Filter struct{ root *filterNode }

type filterType uint8

const (
	filterBad filterType = iota
	filterEquals
	filterNotEquals
	filterIsNull
	filterNonNull
	filterContains
	filterAnd
	filterOr
	filterNot
	filterField
	filterAnyValue
)

var filterNames = [...]string{"", "equals", "not_equals", "is_null", "non_null", "contains", "and", "or", "not", "field_accessor", "any_array_value"}

// eventFields are the members of the event.
var eventFields = []string{"action", "object_type", "object_id", "organization_id", "changed_fields", "data", "previous_data"}

type filterNode struct {
	typ     filterType
	value   any // equals, not_equals, contains: nil, bool, string, json.Number
	field   string
	filters []*filterNode // one for not, field_accessor, any_array_value
}

// ParseFilter reads an extra_filter. The error is a *ValidationError.
func ParseFilter(filter []byte) (*Filter, error) {
	var p parser
	root, problems := p.filter(filter)
	if err := newValidationError(problems); err != nil {
		return nil, err
	}
	return &Filter{root}, nil
}

func (p *parser) filter(text []byte) (*filterNode, []Problem) {
	if len(text) > MaxBytes {
		p.report(0, CodeTooLarge, nil, "the filter has %d bytes; keep it under %d", len(text), MaxBytes)
		return nil, p.problems
	}
	p.src = string(text)
	v, err := p.json.parse(p.src)
	if err != nil {
		p.report(err.at, CodeInvalidJSON, nil, "the filter can't be read at byte %d: %s", err.at, err.msg)
		return nil, p.problems
	}
	return p.filterNode(&v, 1, true), p.problems
}

// filterNode reads a filter; top: it is asked of the event itself.
func (p *parser) filterNode(v *jval, depth int, top bool) *filterNode {
	n := &filterNode{}
	if depth > MaxDepth {
		p.report(v.at, CodeTooDeep, nil, "the filter is nested more than %d deep; flatten its groups", MaxDepth)
		return n
	}
	if p.count++; p.count > MaxNodes {
		if p.count == MaxNodes+1 {
			p.report(v.at, CodeTooLarge, nil, "the filter has more than %d nodes", MaxNodes)
		}
		return n
	}
	if !p.object(v, "a filter") {
		return n
	}
	n.typ = filterType(p.typeOf(v, filterNames[:], CodeUnknownNode, "filter", `"and"`))
	inner := func(top bool) {
		if m := p.member(v, "filter", `{"type":"non_null"}`); m != nil {
			p.path.key("filter")
			n.filters = []*filterNode{p.filterNode(m, depth+1, top)}
			p.path.pop()
		}
	}
	switch n.typ {
	case filterEquals, filterNotEquals, filterContains:
		p.only(v, "type", "value")
		m := v.get("value")
		if m == nil {
			p.report(v.at, CodeMissingMember, p.edit(v, "value", `""`), "add the member %q", "value")
			break
		}
		switch m.kind {
		case '"':
			n.value = m.str
		case '0':
			n.value = json.Number(p.raw(m))
		case 't', 'f':
			n.value = m.kind == 't'
		case 'n':
		default:
			p.path.key("value")
			p.report(m.at, CodeTypeMismatch, nil, "the value must be a string, a number, a boolean or null, not %s", describe(m))
			p.path.pop()
		}
	case filterIsNull, filterNonNull:
		p.only(v, "type")
	case filterAnd, filterOr:
		p.only(v, "type", "filters")
		list := p.member(v, "filters", "[]")
		if list == nil {
			break
		}
		p.path.key("filters")
		if list.kind != '[' {
			p.report(list.at, CodeTypeMismatch, nil, `"filters" must be a list of filters, not %s`, describe(list))
		}
		for i := range list.members {
			p.path.idx(i)
			n.filters = append(n.filters, p.filterNode(&list.members[i].val, depth+1, top))
			p.path.pop()
		}
		p.path.pop()
	case filterNot:
		p.only(v, "type", "filter")
		inner(top)
	case filterAnyValue:
		p.only(v, "type", "filter")
		inner(false)
	case filterField:
		p.only(v, "type", "field", "filter")
		var ok bool
		if n.field, ok = p.text(v, "field", `"changed_fields"`); ok && top {
			p.eventField(v, n.field)
		}
		inner(false)
	}
	return n
}

func (p *parser) eventField(v *jval, name string) {
	if slices.Contains(eventFields, name) {
		return
	}
	var nearest json.RawMessage
	if c := closest(name, slices.Values(eventFields)); c != "" {
		nearest = json.RawMessage(quoted(c))
	}
	p.path.key("field")
	p.report(v.get("field").at, CodeUnknownField, nearest, "an event has no field %q; take one of %s. The object's own fields are in data and previous_data", name, strings.Join(eventFields, ", "))
	p.path.pop()
}

// Holds says whether an event passes: what json.Unmarshal makes of its document,
// with numbers as json.Number.
func (f *Filter) Holds(event any) bool { return f.root.holds(event) }

func (n *filterNode) holds(v any) bool {
	switch n.typ {
	case filterEquals:
		return sameScalar(v, n.value)
	case filterNotEquals:
		return !sameScalar(v, n.value)
	case filterIsNull:
		return v == nil
	case filterNonNull:
		return v != nil
	case filterContains:
		switch v := v.(type) {
		case string:
			part, ok := n.value.(string)
			return ok && strings.Contains(v, part)
		case []any:
			for _, e := range v {
				if sameScalar(e, n.value) {
					return true
				}
			}
		}
		return false
	case filterAnd:
		for _, f := range n.filters {
			if !f.holds(v) {
				return false
			}
		}
		return true
	case filterOr:
		for _, f := range n.filters {
			if f.holds(v) {
				return true
			}
		}
		return len(n.filters) == 0 // no restriction, as in a query
	case filterNot:
		return !n.filters[0].holds(v)
	case filterField:
		object, _ := v.(map[string]any)
		return n.filters[0].holds(object[n.field])
	case filterAnyValue:
		list, _ := v.([]any)
		return slices.ContainsFunc(list, n.filters[0].holds)
	}
	return false
}

// sameScalar compares scalars; numbers by what they are worth.
func sameScalar(a, b any) bool {
	x, xNumber := a.(json.Number)
	y, yNumber := b.(json.Number)
	if xNumber != yNumber {
		// "1" is not 1, but ids are often quoted on one side only.
		return xNumber && b == x.String() || yNumber && a == y.String()
	}
	if !xNumber {
		switch a.(type) {
		case nil, bool, string:
			return a == b
		}
		return false
	}
	ax, aClass := appendNumber(nil, []byte(x))
	by, bClass := appendNumber(nil, []byte(y))
	return aClass == isNumber && bClass == isNumber && string(ax) == string(by)
}

// needs gives the names of which one must be among the changed fields; nil when
// an event may pass without.
func (f *Filter) needs() []string { return f.root.needs() }

func (n *filterNode) needs() []string {
	switch n.typ {
	case filterAnd:
		for _, f := range n.filters {
			if names := f.needs(); names != nil {
				return names
			}
		}
	case filterOr:
		var all []string
		for _, f := range n.filters {
			names := f.needs()
			if names == nil {
				return nil
			}
			all = append(all, names...)
		}
		return all
	case filterField:
		if in := n.filters[0]; n.field == "changed_fields" {
			if in.typ == filterAnyValue {
				in = in.filters[0]
				if name, ok := in.value.(string); ok && in.typ == filterEquals {
					return []string{name}
				}
			} else if name, ok := in.value.(string); ok && in.typ == filterContains {
				return []string{name}
			}
		}
	}
	return nil
}

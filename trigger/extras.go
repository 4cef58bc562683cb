package trigger

import (
	"encoding/json"
	"slices"
	"time"
)

// extra is what few triggers have: a query that the object must have met before,
// or a filter on the change itself.
type extra struct {
	beforeJSON, filterJSON string // as they came, to be compiled again

	before string // program, "" for none
	filter *Filter
	needs  []uint32 // slots of which one must have changed; nil: any change will do
	// impossible: the filter waits for a change of a column that there is not.
	impossible bool
}

// compileExtra compiles what a definition has beside its query.
func (s *Set) compileExtra(b *brokenTrigger) (x *extra, before expr, problems []Problem) {
	if b.before == "" && b.filter == "" {
		return nil, expr{}, nil
	}
	x = &extra{beforeJSON: b.before, filterJSON: b.filter}
	if b.before != "" {
		before, problems = compileBefore([]byte(b.before), b.ObjectType, s.schema, s.locations[b.location])
	}
	if b.filter != "" {
		var p parser
		root, wrong := p.filter([]byte(b.filter))
		problems = append(problems, under("/extra_filter", wrong)...)
		x.filter = &Filter{root}
	}
	return x, before, problems
}

func compileBefore(query []byte, objectType string, schemas Schemas, loc *time.Location) (expr, []Problem) {
	root, problems := parse(query)
	c := compiler{schemas: schemas, schema: schemas(objectType), objectType: objectType, loc: loc, problems: problems}
	e := c.compile(root)
	return e, under("/before_query", c.problems)
}

// under puts problems of a part of a definition below its name.
func under(name string, problems []Problem) []Problem {
	for i := range problems {
		problems[i].Pointer = name + problems[i].Pointer
	}
	return problems
}

// CheckBefore checks a before_query as Check does a query. Its problems' pointers
// begin with /before_query.
func CheckBefore(query []byte, objectType string, schemas Schemas, loc *time.Location) error {
	_, problems := compileBefore(query, objectType, schemas, loc)
	return newValidationError(problems)
}

// CheckFilter checks an extra_filter; its problems' pointers begin with
// /extra_filter.
func CheckFilter(filter []byte) error {
	var p parser
	_, problems := p.filter(filter)
	return newValidationError(under("/extra_filter", problems))
}

// present gives an optional part of a definition, "" for none or null.
func present(raw json.RawMessage) string {
	if s := string(raw); s != "null" {
		return s
	}
	return ""
}

// lay finds the slots that a filter waits for.
func (x *extra) lay(g *group) {
	if x.filter == nil {
		return
	}
	names := x.filter.needs()
	if names == nil {
		return
	}
	x.impossible = true
	for _, name := range names {
		if g.typ.schema.field(name) != nil {
			x.needs = append(x.needs, g.slot(g.typ.field(fieldSpec{specColumn, name})))
			x.impossible = false
		}
	}
}

// wants says whether a filter may pass: changed are the slots that differ.
func (x *extra) wants(created bool, changed []uint32) bool {
	switch {
	case x.impossible:
		return false
	case x.needs == nil:
		return true
	case created:
		return false // nothing is among the changed fields of a new object
	}
	return slices.ContainsFunc(x.needs, func(slot uint32) bool { return slices.Contains(changed, slot) })
}

// beforeOf is what the verdict before the change comes to for a trigger that
// matches after it: true keeps it from firing.
func (m *matcher) beforeOf(x *extra, before truth, created bool) truth {
	if x.before != "" {
		met := isFalse // a new object met nothing
		if !created {
			met, _ = m.eval(x.before, &m.before)
		}
		if met != isTrue {
			return met.not()
		}
	}
	if x.filter != nil {
		return isFalse // what happened counts, not what it was
	}
	return before
}

package trigger

import (
	"encoding/json"
	"slices"
	"time"
)

// Where a query is asked once, of rows as they are now, it may hold what a trigger
// may not: moments relative to now, text modes that look for words, and a bare
// text node. Everything else is checked as it is for triggers, by the same code;
// here is what that code would have refused, or did not look at because of it.

// CheckRuntime is Check for a query that is run as SQL (see CompileSQL): of a
// branch, a goal, wait_until or a preview.
func CheckRuntime(query []byte, objectType string, schemas Schemas, loc *time.Location) error {
	_, _, err := parseRuntime(query, objectType, schemas, loc)
	return err
}

// parseRuntime gives the tree of a query without problems, and its object type.
func parseRuntime(query []byte, objectType string, schemas Schemas, loc *time.Location) (*node, string, error) {
	root, problems := parse(query)
	if objectType == "" {
		objectType = (&Query{root: root}).ObjectType()
	}
	c := compiler{schemas: schemas, objectType: objectType, loc: loc}
	if objectType != "" {
		c.schema = schemas(objectType)
	}
	more := runtimeChecker{compiler: c}
	c.compile(root)
	for _, p := range c.problems {
		switch p.Code {
		case CodeTextMode, CodeRelativeMoment, CodeBareText:
		default:
			problems = append(problems, p)
		}
	}
	more.node(root)
	problems = append(problems, more.problems...)
	for i := range problems {
		if say, ok := runtimeMessages[problems[i].Code]; ok {
			problems[i].Message = say
		}
	}
	if err := newValidationError(problems); err != nil {
		return nil, "", err
	}
	return root, objectType, nil
}

// runtimeMessages replace messages that speak of triggers.
var runtimeMessages = map[string]string{
	CodeTextMode:    "there is no such text mode; use full_words, phrase, beginning_of_words or exact_value",
	CodeCurrentUser: "there is no current user here; use a reference condition with the ids of the users",
	CodeSavedSearch: "a saved search can't be used here; copy its query",
}

// runtimeChecker walks a tree as the compiler does, for the same pointers.
type runtimeChecker struct{ compiler }

func (c *runtimeChecker) node(n *node) {
	switch n.typ {
	case nodeAnd, nodeOr:
		c.path.key("queries")
		for i, q := range n.queries {
			c.path.idx(i)
			c.node(q)
			c.path.pop()
		}
		c.path.pop()
	case nodeField:
		c.path.key("condition")
		c.condition(n)
		c.path.pop()
	case nodeText:
		if !slices.Contains(textModes, n.cond.mode) {
			right := *n
			right.cond.mode = "full_words"
			c.report(n.at, CodeTextMode, appendNode(nil, &right), "")
		}
	case nodeHasRelated:
		if c.schemas == nil || c.depth == MaxRelated {
			return // the compiler said so
		}
		outer := c.compiler
		c.schema, c.objectType, c.depth = c.schemas(n.related.other), n.related.other, c.depth+1
		c.path.key("related_query")
		c.node(n.related.query)
		c.path.pop()
		c.schema, c.objectType, c.depth = outer.schema, outer.objectType, outer.depth
	}
}

func (c *runtimeChecker) condition(n *node) {
	if cond := &n.cond; cond.typ == condText {
		if field := c.schema.find(&n.field); field != nil && cond.mode != exactValue {
			c.fits(field, &n.field, cond, c.nearestOfText(field, cond), KindText, KindPadded, KindOther, KindJSON)
		}
	}
}

// find gives the field that a reference means, or nil.
func (s *Schema) find(f *fieldRef) *Field {
	switch {
	case s == nil:
		return nil
	case f.typ == fieldRegular && f.objectType == s.ObjectType:
		return s.field(f.name)
	case f.typ == fieldCustom && s.Custom != "":
		return s.field(s.Custom)
	}
	return nil
}

// The limits of an offset: each unit, and offsets inside offsets.
const (
	maxOffsetDepth = 3
	maxOffsetYears = 1000
)

// offset is a moment some time before or after another one.
type offset struct {
	from   momentNode
	inner  *offset // when from is one
	sign   int64   // -1: before it
	counts [7]int64
	dayEnd string // "", start or end: of the local day on which it lies
}

// The units, in the order of offset.counts.
const (
	unitYears = iota
	unitMonths
	unitWeeks
	unitDays
	unitHours
	unitMinutes
	unitSeconds
)

var (
	unitNames  = [...]string{"years", "months", "weeks", "days", "hours", "minutes", "seconds"}
	unitLimits = [...]int64{
		maxOffsetYears, maxOffsetYears * 12, maxOffsetYears * 53, maxOffsetYears * 366,
		maxOffsetYears * 366 * 24, maxOffsetYears * 366 * 24 * 60, maxOffsetYears * 366 * 24 * 60 * 60,
	}
)

// readOffset reads an offset from its JSON and reports what is wrong with it.
func readOffset(p *parser, m *momentNode, depth int) *offset {
	p.src = m.value
	v, bad := p.json.parse(p.src)
	if bad != nil {
		return nil // can't be: it is a part of JSON that was read
	}
	before := len(p.problems)
	defer func() {
		for i := range p.problems[before:] {
			p.problems[before+i].at += m.at
		}
	}()
	if depth == maxOffsetDepth {
		p.report(0, CodeTooDeep, nil, "offsets are nested more than %d deep; add them up", maxOffsetDepth)
		return nil
	}
	o := &offset{sign: 1}
	switch direction, ok := p.text(&v, "direction", `"past"`); {
	case direction == "past":
		o.sign = -1
	case ok && direction != "future":
		p.report(v.at, CodeTypeMismatch, p.edit(&v, "direction", `"past"`), `"direction" must be "past" or "future", not %q`, direction)
	}
	if d := v.get("which_day_end"); d != nil && d.kind != 'n' {
		if o.dayEnd = d.str; d.kind != '"' || o.dayEnd != "start" && o.dayEnd != "end" {
			p.report(v.at, CodeTypeMismatch, p.edit(&v, "which_day_end", `"start"`), `"which_day_end" must be "start", "end" or null`)
		}
	}
	if units := p.member(&v, "offset", `{"days":1}`); units != nil {
		p.path.key("offset")
		if p.object(units, `"offset"`) {
			p.only(units, unitNames[:]...)
			for i, name := range unitNames {
				o.counts[i] = p.units(units, name, unitLimits[i])
			}
		}
		p.path.pop()
	}
	if from := p.member(&v, "moment", `{"type":"now"}`); from != nil {
		p.path.key("moment")
		if o.from = p.moment(from); o.from.typ == momentOffset {
			inner := parser{path: slices.Clone(p.path)}
			o.inner = readOffset(&inner, &o.from, depth+1)
			p.problems = append(p.problems, inner.problems...)
		}
		p.path.pop()
	}
	return o
}

// units reads how many of a unit an offset has.
func (p *parser) units(v *jval, name string, most int64) int64 {
	m := v.get(name)
	if m == nil || m.kind == 'n' {
		return 0
	}
	d, ok := parseDecimal(p.raw(m))
	n, whole := d.whole()
	switch {
	case m.kind == '0' && ok && whole && n >= 0 && n <= most:
		return n
	case m.kind == '0' && ok && whole && n > most:
		p.path.key(name)
		p.report(m.at, CodeTooLarge, json.RawMessage(quotedNumber(most)), "an offset of %s goes up to %d", name, most)
		p.path.pop()
	default:
		p.path.key(name)
		p.report(m.at, CodeTypeMismatch, nil, "%q must be a whole number from 0 to %d; the direction says whether it is before or after", name, most)
		p.path.pop()
	}
	return 0
}

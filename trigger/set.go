package trigger

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/pgautomate/pgautomate/change"
)

// Firing is a trigger that fires for a change.
type Firing struct {
	TriggerID    int64
	Version      int32
	Organization string
	Created      bool // the object did not exist before the commit, or belonged to another organization
}

// Counters say what one call of Match did.
type Counters struct {
	Candidates    uint64 // triggers that were evaluated
	Indeterminate uint64 // verdicts that hung on a value that was not sent: did not fire
	TypeMismatch  uint64 // conditions that met a value they can't be asked of, e.g. number_range on the JSON string "12": false
	BeforeUnknown uint64 // 1 when the change was left alone because the row before was not sent
	Poisoned      uint64 // triggers whose evaluation panicked: they are broken now, see TakePoisoned
}

// Add adds up.
func (c *Counters) Add(d Counters) {
	c.Candidates += d.Candidates
	c.Indeterminate += d.Indeterminate
	c.TypeMismatch += d.TypeMismatch
	c.BeforeUnknown += d.BeforeUnknown
	c.Poisoned += d.Poisoned
}

// Broken is a trigger that is known but does not match anything.
type Broken struct {
	TriggerID    int64
	Version      int32
	Organization string
	ObjectType   string
	// Err is a *ValidationError, or for a trigger whose evaluation panicked what
	// it panicked with.
	Err error
}

// Recovered is a trigger that was broken and matches again.
type Recovered struct {
	TriggerID    int64
	Version      int32
	Organization string
	ObjectType   string
}

// Set holds all live triggers. It belongs to one goroutine.
type Set struct {
	types  map[string]*objectType
	groups []*group // nil where one was given up
	free   []uint32 // indexes of those
	byID   map[int64]place
	broken map[int64]*brokenTrigger

	locations []*time.Location
	names     interner

	poisoned  []Broken
	recovered []Recovered

	m matcher

	parser parser // of Put, used again
	path   path   // of the compiler, used again
	code   []byte // being laid out
}

// objectType is what the triggers of one object type share, whatever their organization.
type objectType struct {
	name    string
	schema  *Schema // nil: not watched
	groups  map[string]uint32
	fields  []field // every field that a trigger ever referred to
	fieldID map[fieldSpec]uint32
	columns []string // referred to by fields

	layouts  map[*change.Relation]*layout
	lastUsed *layout
}

type field struct {
	spec  fieldSpec
	col   int32 // index into objectType.columns; -1: none
	kind  Kind
	array bool
	gone  bool // not in the schema as of now
}

// layout says where an object type's columns are in a relation's rows.
type layout struct {
	relation  *change.Relation
	columns   *[]string
	positions []int16 // -1: not there
}

func (l *layout) position(col int32) int16 {
	if col < 0 {
		return -1
	}
	for int(col) >= len(l.positions) {
		l.positions = append(l.positions, int16(l.relation.Index((*l.columns)[len(l.positions)])))
	}
	return l.positions[col]
}

// maxLayouts bounds the cache of layouts, which hold on to relations that were
// replaced. A partitioned table can have thousands of live ones.
const maxLayouts = 4096

func (t *objectType) layout(r *change.Relation) *layout {
	if t.lastUsed != nil && t.lastUsed.relation == r {
		return t.lastUsed
	}
	l := t.layouts[r]
	if l == nil {
		if len(t.layouts) >= maxLayouts {
			clear(t.layouts)
		}
		l = &layout{relation: r, columns: &t.columns}
		t.layouts[r] = l
	}
	t.lastUsed = l
	return l
}

// group holds the triggers of one organization and object type.
type group struct {
	index        uint32
	organization string
	typ          *objectType
	slots        []slotRef
	triggers     []entry
}

// slotRef is a field that triggers of the group refer to.
type slotRef struct {
	field uint32 // index into objectType.fields
	uses  uint32 // conditions that refer to it; 0: free
}

// entry is a live trigger. code is its program followed by its source (see
// program.go); mask has a bit for each slot it refers to, by slot modulo 64.
type entry struct {
	id       int64
	mask     uint64
	code     string
	version  int32
	source   uint32 // where the source starts in code
	location uint16 // index into Set.locations
}

type place struct{ group, index uint32 }

// brokenTrigger keeps what is needed to try again. raw is the query as it came
// in, or source the compact form of one that once compiled.
type brokenTrigger struct {
	Broken

	raw, source string
	location    uint16
	poisoned    bool
}

// NewSet gives a set without triggers.
func NewSet() *Set {
	return &Set{
		types:  map[string]*objectType{},
		byID:   map[int64]place{},
		broken: map[int64]*brokenTrigger{},
	}
}

// Len counts the triggers that can fire. Broken ones are not among them.
func (s *Set) Len() int { return len(s.byID) }

// Broken gives the triggers that are known but can't fire, by id.
func (s *Set) Broken() []Broken {
	all := make([]Broken, 0, len(s.broken))
	for _, b := range s.broken {
		all = append(all, b.Broken)
	}
	return sorted(all)
}

func sorted(b []Broken) []Broken {
	slices.SortFunc(b, func(x, y Broken) int {
		if x.TriggerID < y.TriggerID {
			return -1
		}
		return 1
	})
	return b
}

// TakePoisoned gives the triggers that Match disabled because their evaluation
// panicked since the last call. They stay disabled until they are Put again.
func (s *Set) TakePoisoned() []Broken {
	p := s.poisoned
	s.poisoned = nil
	return p
}

// TakeRecovered gives the triggers that SetSchema made whole since the last call.
func (s *Set) TakeRecovered() []Recovered {
	r := s.recovered
	s.recovered = nil
	return r
}

func (s *Set) objectType(name string) *objectType {
	t := s.types[name]
	if t == nil {
		name = string([]byte(name))
		t = &objectType{
			name:    name,
			groups:  map[string]uint32{},
			fieldID: map[fieldSpec]uint32{},
			layouts: map[*change.Relation]*layout{},
		}
		s.types[name] = t
	}
	return t
}

// location interns a time zone. Callers may load the same one many times over.
func (s *Set) location(loc *time.Location) (uint16, error) {
	if loc == nil {
		loc = time.UTC
	}
	for i, l := range s.locations {
		if l == loc {
			return uint16(i), nil
		}
	}
	for i, l := range s.locations {
		if l.String() == loc.String() && reflect.DeepEqual(l, loc) {
			return uint16(i), nil
		}
	}
	if len(s.locations) > 1<<16-1 {
		return 0, errors.New("more than 65,536 time zones")
	}
	s.locations = append(s.locations, loc)
	return uint16(len(s.locations) - 1), nil
}

// Put adds a trigger or replaces the one with its ID. When the error is not
// nil, it is a *ValidationError, the old version is gone, and the new one is
// kept as broken: it matches nothing, and is tried again by SetSchema.
func (s *Set) Put(def Definition) error {
	s.Remove(def.ID)
	root, problems := s.parser.parse(def.Query)
	name := def.ObjectType
	if name == "" {
		name = (&Query{root: root}).ObjectType()
	}
	b := &brokenTrigger{Broken: Broken{TriggerID: def.ID, Version: def.Version, Organization: def.Organization, ObjectType: name}}
	loc, err := s.location(def.Location)
	if err != nil {
		problems = append(problems, Problem{Code: CodeTooLarge, Message: err.Error()})
	}
	b.location = loc
	if err = s.add(b, root, problems); err != nil {
		b.Err = err
		b.Organization = string([]byte(b.Organization))
		b.ObjectType = string([]byte(b.ObjectType))
		b.raw = string(def.Query)
		s.broken[def.ID] = b
	}
	return err
}

// add compiles a trigger and adds it to its group.
func (s *Set) add(b *brokenTrigger, root *node, problems []Problem) error {
	t := s.types[b.ObjectType]
	c := compiler{objectType: b.ObjectType, loc: s.locations[b.location], problems: problems, path: s.path[:0]}
	if t != nil {
		c.schema = t.schema
	}
	e := c.compile(root)
	s.path = c.path
	if err := newValidationError(c.problems); err != nil {
		return err
	}

	g := s.group(t, b.Organization)
	var mask uint64
	code := appendProgram(s.code[:0], &e, func(f fieldSpec) uint32 {
		slot := g.slot(t.field(f))
		mask |= 1 << (slot & 63)
		return slot
	})
	programEnd := uint32(len(code))
	code = appendSource(code, root, &s.names)
	s.code = code
	added := entry{id: b.TriggerID, version: b.Version, mask: mask, code: string(code), source: programEnd, location: b.location}
	s.byID[b.TriggerID] = place{g.index, uint32(len(g.triggers))}
	g.triggers = append(g.triggers, added)
	return nil
}

func forSlots(e *entry, visit func(uint32)) {
	programSlots(e.code[:e.source], visit)
}

func (s *Set) group(t *objectType, organization string) *group {
	if i, ok := t.groups[organization]; ok {
		return s.groups[i]
	}
	g := &group{organization: string([]byte(organization)), typ: t}
	if n := len(s.free); n > 0 {
		g.index = s.free[n-1]
		s.free = s.free[:n-1]
		s.groups[g.index] = g
	} else {
		g.index = uint32(len(s.groups))
		s.groups = append(s.groups, g)
	}
	t.groups[g.organization] = g.index
	return g
}

// slot gives the group's slot of a field and counts one more use of it.
func (g *group) slot(field uint32) uint32 {
	free := -1
	for i := range g.slots {
		if g.slots[i].uses == 0 {
			free = i
		} else if g.slots[i].field == field {
			g.slots[i].uses++
			return uint32(i)
		}
	}
	if free < 0 {
		g.slots = append(g.slots, slotRef{})
		free = len(g.slots) - 1
	}
	g.slots[free] = slotRef{field: field, uses: 1}
	return uint32(free)
}

// field gives the index of a field that is in the schema.
func (t *objectType) field(spec fieldSpec) uint32 {
	if i, ok := t.fieldID[spec]; ok {
		return i
	}
	spec.name = string([]byte(spec.name))
	f := field{spec: spec}
	t.resolve(&f)
	i := uint32(len(t.fields))
	t.fields = append(t.fields, f)
	t.fieldID[spec] = i
	return i
}

// resolve brings a field up to the schema and reports whether that changed it.
func (t *objectType) resolve(f *field) (changed bool) {
	was := *f
	f.col, f.gone, f.kind, f.array = -1, true, KindText, false
	name := f.spec.name
	switch f.spec.kind {
	case specCustom:
		name = t.schema.Custom
	case specID:
		name = t.schema.ID
	}
	if c := t.schema.field(name); c != nil {
		f.gone, f.kind, f.array = false, c.Kind, c.Array
		f.col = t.column(c.Name)
	}
	return *f != was
}

func (t *objectType) column(name string) int32 {
	for i, c := range t.columns {
		if c == name {
			return int32(i)
		}
	}
	t.columns = append(t.columns, string([]byte(name)))
	return int32(len(t.columns) - 1)
}

// Remove takes a trigger out, live or broken.
func (s *Set) Remove(id int64) {
	delete(s.broken, id)
	at, ok := s.byID[id]
	if !ok {
		return
	}
	delete(s.byID, id)
	g := s.groups[at.group]
	forSlots(&g.triggers[at.index], func(slot uint32) { g.slots[slot].uses-- })
	s.drop(g, at.index)
}

// drop takes a trigger out of its group's list; its slots' uses are settled.
func (s *Set) drop(g *group, index uint32) {
	last := len(g.triggers) - 1
	if int(index) != last {
		g.triggers[index] = g.triggers[last]
		s.byID[g.triggers[index].id] = place{g.index, index}
	}
	g.triggers[last] = entry{}
	g.triggers = g.triggers[:last]
	if last == 0 {
		delete(g.typ.groups, g.organization)
		s.groups[g.index] = nil
		s.free = append(s.free, g.index)
	}
}

// SetSchema makes an object type's columns known, as of this point of the
// stream: at load, and again for each new layout of its table. Triggers whose
// fields are not what they were are compiled anew. Those that no longer compile
// stop matching and are returned; those that compile again are given by
// TakeRecovered. relation may be nil, when only the catalog was read.
func (s *Set) SetSchema(schema Schema, relation *change.Relation) []Broken {
	t := s.objectType(schema.ObjectType)
	if relation != nil {
		t.layout(relation)
	}
	if t.schema != nil && t.schema.Custom == schema.Custom && t.schema.ID == schema.ID && slices.Equal(t.schema.Fields, schema.Fields) {
		return nil
	}
	schema.ObjectType = t.name
	schema.Fields = slices.Clone(schema.Fields)
	t.schema = &schema

	changed := make(map[uint32]bool)
	for i := range t.fields {
		if t.resolve(&t.fields[i]) {
			changed[uint32(i)] = true
		}
	}
	return s.recompile(t, func(g *group, e *entry) bool {
		affected := false
		forSlots(e, func(slot uint32) { affected = affected || changed[g.slots[slot].field] })
		return affected
	}, len(changed) > 0)
}

// DropSchema forgets an object type that is no longer watched. Its triggers
// are broken until SetSchema brings it back.
func (s *Set) DropSchema(objectType string) []Broken {
	t := s.types[objectType]
	if t == nil || t.schema == nil {
		return nil
	}
	t.schema = nil
	clear(t.layouts)
	t.lastUsed = nil
	return s.recompile(t, func(*group, *entry) bool { return true }, true)
}

// recompile compiles the affected live triggers and all broken ones of a type.
func (s *Set) recompile(t *objectType, affected func(*group, *entry) bool, live bool) []Broken {
	var again []*brokenTrigger
	for id, b := range s.broken {
		if b.ObjectType == t.name && !b.poisoned {
			delete(s.broken, id)
			again = append(again, b)
		}
	}
	before := len(again)
	if live {
		for _, index := range t.groups {
			g := s.groups[index]
			for i := range g.triggers {
				if e := &g.triggers[i]; affected(g, e) {
					again = append(again, &brokenTrigger{
						Broken:   Broken{TriggerID: e.id, Version: e.version, Organization: g.organization, ObjectType: t.name},
						source:   e.code[e.source:],
						location: e.location,
					})
				}
			}
		}
		for _, b := range again[before:] {
			s.Remove(b.TriggerID)
		}
	}

	var broken []Broken
	for i, b := range again {
		var (
			root     *node
			problems []Problem
		)
		if b.source != "" {
			r := sourceReader{s: b.source, in: &s.names}
			root = r.node()
		} else {
			root, problems = parse([]byte(b.raw))
		}
		err := s.add(b, root, problems)
		switch {
		case err != nil:
			b.Err = err
			b.source = string([]byte(b.source)) // not a part of the whole program
			s.broken[b.TriggerID] = b
			if i >= before {
				broken = append(broken, b.Broken)
			}
		case i < before:
			s.recovered = append(s.recovered, Recovered{b.TriggerID, b.Version, b.Organization, b.ObjectType})
		}
	}
	return sorted(broken)
}

// Match appends to dst the triggers that fire for a change. The error is not
// nil only for a row that is malformed or does not fit its relation; dst is then
// as it was. It never panics: a trigger whose evaluation does is disabled and
// given by TakePoisoned.
func (s *Set) Match(dst []Firing, c *change.Change) (firings []Firing, counters Counters, err error) {
	if c.After == nil || c.Object == nil || c.Organization == "" {
		return dst, Counters{}, nil // gone, or belongs to nobody: it can't match
	}
	t := s.types[c.Object.Type]
	if t == nil {
		return dst, Counters{}, nil
	}
	index, ok := t.groups[c.Organization]
	if !ok {
		return dst, Counters{}, nil
	}
	if c.BeforeUnknown {
		return dst, Counters{BeforeUnknown: 1}, nil
	}
	if c.Relation == nil {
		return dst, Counters{}, fmt.Errorf("object type %q: %w: its relation is not known", t.name, change.ErrMalformedRow)
	}
	g := s.groups[index]
	m := &s.m
	m.counters = Counters{}
	n := len(dst)
	defer func() {
		if r := recover(); r != nil {
			firings, counters = dst[:n], m.counters
			err = fmt.Errorf("table %s: the change can't be evaluated: %v", c.Relation, r)
		}
	}()

	created := c.Before == nil || c.OldOrganization != c.Organization
	if err := m.load(t, g, c, created); err != nil {
		return dst, Counters{}, err
	}
	changed := ^uint64(0)
	if !created {
		if changed = m.changed(c); changed == 0 {
			return dst, m.counters, nil
		}
	}
	firings = dst
	for m.at = 0; m.at < len(g.triggers); {
		firings = s.scan(firings, g, changed, created)
	}
	return firings, m.counters, nil
}

func (m *matcher) load(t *objectType, g *group, c *change.Change, created bool) error {
	if m.epoch++; m.epoch == 0 { // after four thousand million changes
		clear(m.after.values)
		clear(m.before.values)
		m.epoch = 1
	}
	m.fields, m.slots = t.fields, g.slots
	m.after.reset(len(g.slots))
	m.after.id = c.ID
	if err := m.after.load(c.After, t.layout(c.Relation)); err != nil {
		return err
	}
	if created {
		return nil
	}
	m.before.reset(len(g.slots))
	m.before.isBefore = true
	m.before.id = c.ID
	if c.OldID != "" {
		m.before.id = c.OldID
	}
	l := m.after.layout
	if c.BeforeRelation != nil && c.BeforeRelation != c.Relation {
		l = t.layout(c.BeforeRelation)
	}
	return m.before.load(c.Before, l)
}

// changed gives the mask of the slots whose text is not the same on both sides.
// A verdict can't change when no value it hangs on does.
func (m *matcher) changed(*change.Change) uint64 {
	var mask uint64
	customKnown, customSame := false, false
	for i := range m.slots {
		bit := uint64(1) << (i & 63)
		if mask&bit != 0 || m.slots[i].uses == 0 {
			continue
		}
		f := &m.fields[m.slots[i].field]
		same := false
		switch f.spec.kind {
		case specID:
			same = m.before.id == m.after.id
		case specCustom:
			if !customKnown {
				customKnown, customSame = true, sameCell(m.before.cell(f.col), m.after.cell(f.col))
			}
			if same = customSame; !same {
				b, bState := m.before.member(f.col, f.spec.name)
				a, aState := m.after.member(f.col, f.spec.name)
				same = aState == bState && bytes.Equal(a, b)
			}
		default:
			same = sameCell(m.before.cell(f.col), m.after.cell(f.col))
		}
		if !same {
			mask |= bit
		}
	}
	return mask
}

func sameCell(before, after change.Cell) bool {
	if after.Kind == change.Unchanged {
		return true
	}
	return before.Kind == after.Kind && bytes.Equal(before.Data, after.Data)
}

// scan evaluates the group's triggers from m.at on. It comes back early when
// one panicked, with m.at on what to go on with.
func (s *Set) scan(dst []Firing, g *group, changed uint64, created bool) (firings []Firing) {
	m := &s.m
	firings = dst
	defer func() {
		if r := recover(); r != nil {
			s.isolate(g, r)
		}
	}()
	for ; m.at < len(g.triggers); m.at++ {
		e := &g.triggers[m.at]
		if !created && e.mask&changed == 0 {
			continue
		}
		m.counters.Candidates++
		program := e.code[:e.source]
		after, _ := m.eval(program, &m.after)
		if after == isFalse {
			continue
		}
		before := isFalse
		if !created {
			before, _ = m.eval(program, &m.before)
		}
		switch {
		case before == isTrue:
		case after == isTrue && before == isFalse:
			firings = append(firings, Firing{TriggerID: e.id, Version: e.version, Organization: g.organization, Created: created})
		default:
			m.counters.Indeterminate++
		}
	}
	return firings
}

// isolate deals with a panic. If it came from reading a value, the value is at
// fault: it is marked as broken and the trigger tried again. Else the trigger is.
func (s *Set) isolate(g *group, cause any) {
	m := &s.m
	if v := m.reading; v != nil {
		m.reading = nil
		sd := &m.after
		for i := range m.before.values {
			if &m.before.values[i] == v {
				sd = &m.before
			}
		}
		v.start = int32(len(sd.elements))
		sd.elements = append(sd.elements, element{tag: tagBroken})
		v.end = v.start + 1
		v.unknown = false
		v.epoch = m.epoch
		m.counters.Candidates--
		return
	}
	e := g.triggers[m.at]
	b := &brokenTrigger{
		Broken: Broken{
			TriggerID: e.id, Version: e.version, Organization: g.organization, ObjectType: g.typ.name,
			Err: fmt.Errorf("its evaluation failed: %v", cause),
		},
		poisoned: true,
	}
	m.counters.Poisoned++
	delete(s.byID, e.id)
	s.drop(g, uint32(m.at))
	s.broken[e.id] = b
	s.poisoned = append(s.poisoned, b.Broken)
}

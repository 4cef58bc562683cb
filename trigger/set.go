package trigger

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
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

	// Filter, if not nil, must hold for the change's event, too.
	Filter *Filter
}

// Counters say what one call of Match did.
type Counters struct {
	Candidates    uint64 // triggers that were evaluated: those that the index brought up
	Indeterminate uint64 // verdicts that hung on a value that was not sent: did not fire
	TypeMismatch  uint64 // conditions that met a value they can't be asked of, e.g. number_range on the JSON string "12": false. In triggers that were evaluated, which a changed value of the wrong type sees to
	BeforeUnknown uint64 // 1 when the change was left alone because the row before was not sent
	// CrossOrganization counts rows that a relation leads to but that belong to
	// another organization: they are nobody's related rows.
	CrossOrganization uint64
	Poisoned          uint64 // triggers whose evaluation panicked: they are broken now, see TakePoisoned
}

// Add adds up.
func (c *Counters) Add(d Counters) {
	c.Candidates += d.Candidates
	c.Indeterminate += d.Indeterminate
	c.TypeMismatch += d.TypeMismatch
	c.BeforeUnknown += d.BeforeUnknown
	c.Poisoned += d.Poisoned
	c.CrossOrganization += d.CrossOrganization
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
	types    map[string]*objectType
	last     *objectType // of the last change
	expected expected    // see Expect
	groups   []*group    // nil where one was given up
	free     []uint32    // indexes of those
	byID     map[int64]place
	broken   map[int64]*brokenTrigger

	locations []*time.Location
	names     interner

	poisoned  []Broken
	recovered []Recovered

	m matcher

	parsed Parsed // of Put, used again
	path   path   // of the compiler, used again
	code   []byte // being laid out
	poster poster // of the index, used again

	relations relations
	clock     clock
	extras    map[int64]*extra // of triggers that have some
}

// objectType is what the triggers of one object type share, whatever their organization.
type objectType struct {
	name    string
	schema  *Schema // nil: not watched
	groups  groupTable
	fields  []field // every field that a trigger ever referred to
	fieldID map[fieldSpec]uint32
	columns []string // referred to by fields
	plain   []uint32 // see identity

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
	positions []int16 // of objectType.columns in the row; -1: not there
	inverse   []int16 // of the row's columns in objectType.columns; -1: not there
	inverted  int     // so many of objectType.columns are in inverse
}

// column gives the index into objectType.columns of a place in the row.
func (l *layout) column(pos int) int {
	if l.inverse == nil {
		l.inverse = slices.Repeat([]int16{-1}, len(l.relation.Columns))
	}
	for ; l.inverted < len(*l.columns); l.inverted++ {
		if p := l.position(int32(l.inverted)); p >= 0 {
			l.inverse[p] = int16(l.inverted)
		}
	}
	return int(l.inverse[pos])
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

// group holds the triggers of one organization and object type. A trigger's
// number is its place; it stays as long as the trigger.
type group struct {
	name         name
	byColumn     [directColumns]uint8 // slot+1 of the first columns' fields; 0: none; manyFields: look through fields
	columns      uint64               // a bit for each column that fields are in, by its index modulo 64
	slots        []slotRef
	fields       []uint32    // of the slots: indexes into objectType.fields
	index        [2]postings // changes, creations
	triggers     []entry     // the first pageSize of them
	pages        [][]entry   // the others, pageSize each, so that growing never moves them all
	organization string
	typ          *objectType
	bySlot       map[uint32]uint32 // slots by field, once there are many
	number       uint32            // index into Set.groups
	events       []uint32          // triggers with a filter, by number
	live         uint32            // triggers
	used         uint32            // numbers given out
	free         uint32            // a number that is free, plus one; its entry's source has the next
	freeSlots    []uint32
}

const (
	directColumns = 48
	manyFields    = 255
)

// slotRef is a field that triggers of the group refer to.
type slotRef struct {
	uses    uint32    // conditions that refer to it; 0: free
	end     [2]uint32 // of its postings in short indexes
	classes classSet  // of the postings that it has or had
}

// entry is a live trigger. code is its program followed by its time zone's
// index and its source (see program.go). Without code, the number is free.
type entry struct {
	id      int64
	code    string
	version int32
	source  uint32 // where the program ends in code
}

// hasExtra is set in what follows the program, beside the time zone.
const hasExtra = 1

func (e *entry) hasExtra() bool {
	tail, _ := uvarint(e.code[e.source:])
	return tail&hasExtra != 0
}

func (e *entry) program() string { return e.code[:e.source] }

const (
	pageBits = 12
	pageSize = 1 << pageBits
)

// at gives the trigger with a number.
func (g *group) at(number uint32) *entry {
	if number < pageSize {
		return &g.triggers[number]
	}
	return &g.pages[number>>pageBits-1][number&(pageSize-1)]
}

// enter gives a trigger a number.
func (g *group) enter(e entry) uint32 {
	g.live++
	if n := g.free; n > 0 {
		g.free = g.at(n - 1).source
		*g.at(n - 1) = e
		return n - 1
	}
	n := g.used
	g.used++
	switch {
	case n < pageSize:
		if len(g.triggers) == cap(g.triggers) {
			grown := make([]entry, len(g.triggers), min(len(g.triggers)+len(g.triggers)/4+2, pageSize))
			copy(grown, g.triggers)
			g.triggers = grown
		}
		g.triggers = append(g.triggers, e)
	default:
		if n&(pageSize-1) == 0 {
			g.pages = append(g.pages, make([]entry, pageSize))
		}
		*g.at(n) = e
	}
	return n
}

// leave frees a trigger's number.
func (g *group) leave(number uint32) {
	*g.at(number) = entry{source: g.free}
	g.free = number + 1
	g.live--
}

// each visits the live triggers.
func (g *group) each(visit func(*entry)) {
	for n := range g.used {
		if e := g.at(n); e.code != "" {
			visit(e)
		}
	}
}

type place struct{ group, number uint32 }

// brokenTrigger keeps what is needed to try again. raw is the query as it came
// in, or source the compact form of one that once compiled.
type brokenTrigger struct {
	Broken

	before, filter string // JSON, see extra
	raw, source    string
	location       uint16
	poisoned       bool
	across         bool // it looks at other types, too
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
	s.parsed.Parse(def.Query)
	return s.PutParsed(def, &s.parsed)
}

// Parsed is a query that has been read, for PutParsed. It is used again by Parse.
type Parsed struct {
	parser   parser
	root     *node
	problems []Problem
}

// Parse reads a query. It needs no Set, so that another goroutine can do it.
func (p *Parsed) Parse(query json.RawMessage) { p.root, p.problems = p.parser.parse(query) }

// PutParsed is Put for a definition whose query has been parsed.
func (s *Set) PutParsed(def Definition, parsed *Parsed) error {
	s.Remove(def.ID)
	root, problems := parsed.root, parsed.problems
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
	b.before, b.filter = present(def.BeforeQuery), present(def.ExtraFilter)
	if err = s.add(b, root, problems); err != nil {
		b.Err = err
		b.Organization = string([]byte(b.Organization))
		b.ObjectType = string([]byte(b.ObjectType))
		b.raw = string(def.Query)
		b.across = mentionsRelated(root)
		s.broken[def.ID] = b
	}
	return err
}

// add compiles a trigger and adds it to its group.
func (s *Set) add(b *brokenTrigger, root *node, problems []Problem) error {
	t := s.types[b.ObjectType]
	c := compiler{objectType: b.ObjectType, loc: s.locations[b.location], problems: problems, path: s.path[:0]}
	c.schemas = s.schema
	if t != nil {
		c.schema = t.schema
	}
	e := c.compile(root)
	s.path = c.path
	x, before, wrong := s.compileExtra(b)
	if err := newValidationError(append(c.problems, wrong...)); err != nil {
		return err
	}

	g := s.group(t, b.Organization)
	zone := uint64(b.location) << 1
	if x != nil {
		zone |= hasExtra
		if x.beforeJSON != "" {
			x.before = string(appendProgram(nil, &before, groupSlots{s, g}))
		}
		x.lay(g)
		if s.extras == nil {
			s.extras = map[int64]*extra{}
		}
		s.extras[b.TriggerID] = x
	}
	code := appendProgram(s.code[:0], &e, groupSlots{s, g})
	added := entry{id: b.TriggerID, version: b.Version, source: uint32(len(code))}
	code = binary.AppendUvarint(code, zone)
	code = appendSource(code, root, &s.names)
	s.code = code
	added.code = string(code)
	number := g.enter(added)
	s.byID[b.TriggerID] = place{g.number, number}
	if onMirror(&e) || onMirror(&before) {
		s.relate(b.TriggerID, t, g.organization, &e, &before)
		return nil
	}
	if x != nil && x.filter != nil {
		g.events = append(g.events, number)
		return nil
	}
	list := s.poster.postings(added.program(), number, len(g.slots))
	for i := range list {
		g.post(&list[i])
	}
	return nil
}

func (s *Set) schema(objectType string) *Schema {
	if t := s.types[objectType]; t != nil {
		return t.schema
	}
	return nil
}

// groupSlots are the slots of a group, typeSlots those of evaluation on the
// mirror: the fields of a type themselves.
type groupSlots struct {
	set *Set
	g   *group
}

func (in groupSlots) slot(f fieldSpec) uint32 { return in.g.slot(in.g.typ.field(f)) }

func (in groupSlots) bound(m *momentNode, loc *time.Location) uint32 { return in.set.bound(m, loc) }

func (in groupSlots) edge(r Relation) (uint32, slots) {
	id, e := in.set.edge(in.g.typ, r)
	return id, typeSlots{in.set, e.other}
}

type typeSlots struct {
	set *Set
	typ *objectType
}

func (in typeSlots) slot(f fieldSpec) uint32 { return in.typ.field(f) }

func (in typeSlots) bound(m *momentNode, loc *time.Location) uint32 { return in.set.bound(m, loc) }

func (in typeSlots) edge(r Relation) (uint32, slots) {
	id, e := in.set.edge(in.typ, r)
	return id, typeSlots{in.set, e.other}
}

func (s *Set) group(t *objectType, organization string) *group {
	if g := t.groups.get(organization); g != nil {
		return g
	}
	g := &group{organization: string([]byte(organization)), typ: t}
	if n := len(s.free); n > 0 {
		g.number = s.free[n-1]
		s.free = s.free[:n-1]
		s.groups[g.number] = g
	} else {
		g.number = uint32(len(s.groups))
		s.groups = append(s.groups, g)
	}
	t.groups.put(g)
	s.expected.n = 0
	return g
}

// manySlots is how many slots are looked through for one.
const manySlots = 32

// slot gives the group's slot of a field and counts one more use of it.
func (g *group) slot(field uint32) uint32 {
	slot, ok := g.find(field)
	if ok {
		g.slots[slot].uses++
		g.direct(field, slot)
		return slot
	}
	if n := len(g.freeSlots); n > 0 {
		slot = g.freeSlots[n-1]
		g.freeSlots = g.freeSlots[:n-1]
		g.fields[slot] = field
		g.slots[slot].uses, g.slots[slot].classes = 1, 0
	} else {
		slot = uint32(len(g.slots))
		// What any created object brings up stands after all slots.
		always := lowerBound(g.index[creations].all, posting{keyAlways, 0})
		g.fields = append(g.fields, field)
		g.slots = append(g.slots, slotRef{uses: 1, end: [2]uint32{uint32(len(g.index[changes].all)), uint32(always)}})
	}
	g.direct(field, slot)
	switch {
	case g.bySlot != nil:
		g.bySlot[field] = slot
	case len(g.slots) > manySlots:
		g.bySlot = make(map[uint32]uint32, len(g.slots))
		for i, f := range g.fields {
			if g.slots[i].uses > 0 {
				g.bySlot[f] = uint32(i)
			}
		}
	}
	return slot
}

// direct keeps the shortcuts from columns to slots right.
func (g *group) direct(field, slot uint32) {
	f := &g.typ.fields[field]
	if f.col < 0 {
		return
	}
	g.columns |= 1 << (f.col & 63)
	if f.col >= directColumns {
		return
	}
	switch d := &g.byColumn[f.col]; {
	case f.spec.kind != specColumn || slot+1 >= manyFields || *d != 0 && *d != uint8(slot+1):
		*d = manyFields
	default:
		*d = uint8(slot + 1)
	}
}

func (g *group) find(field uint32) (slot uint32, ok bool) {
	if g.bySlot != nil {
		slot, ok = g.bySlot[field]
		return slot, ok
	}
	for i, f := range g.fields {
		if f == field && g.slots[i].uses > 0 {
			return uint32(i), true
		}
	}
	return 0, false
}

// release takes back one use of a slot.
func (g *group) release(slot uint32) {
	r := &g.slots[slot]
	if r.uses--; r.uses == 0 {
		g.freeSlots = append(g.freeSlots, slot)
		delete(g.bySlot, g.fields[slot])
		for i := range g.byColumn {
			if uint32(g.byColumn[i]) == slot+1 && g.byColumn[i] != manyFields {
				g.byColumn[i] = 0
			}
		}
	}
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
	g := s.groups[at.group]
	program := g.at(at.number).program()
	x := s.extras[id]
	delete(s.extras, id)
	switch {
	case s.unrelate(id):
	case x != nil && x.filter != nil:
		g.events = slices.DeleteFunc(g.events, func(n uint32) bool { return n == at.number })
	default:
		list := s.poster.postings(program, at.number, len(g.slots))
		for i := range list {
			g.unpost(&list[i])
		}
	}
	programSlots(program, g.release)
	if x != nil {
		programSlots(x.before, g.release)
		for _, slot := range x.needs {
			g.release(slot)
		}
	}
	s.drop(g, at.number)
}

// drop frees a trigger's number; its postings are gone and its slots released.
func (s *Set) drop(g *group, number uint32) {
	e := g.at(number)
	delete(s.byID, e.id)
	if g.leave(number); g.live == 0 {
		g.typ.groups.remove(g)
		s.expected.n = 0
		s.groups[g.number] = nil
		s.free = append(s.free, g.number)
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
	was := t.schema
	if was != nil && was.Custom == schema.Custom && was.ID == schema.ID && was.Organization == schema.Organization &&
		slices.Equal(was.Fields, schema.Fields) && slices.Equal(was.Relations, schema.Relations) {
		return nil
	}
	schema.ObjectType = t.name
	schema.Fields, schema.Relations = slices.Clone(schema.Fields), slices.Clone(schema.Relations)
	t.schema = &schema
	// What is decided on the mirror hangs on more than fields.
	across := was == nil || was.Custom != schema.Custom || was.ID != schema.ID || was.Organization != schema.Organization || !slices.Equal(was.Relations, schema.Relations)

	changed := make(map[uint32]bool)
	for i := range t.fields {
		if t.resolve(&t.fields[i]) {
			changed[uint32(i)] = true
		}
	}
	return s.recompile(t, func(g *group, e *entry) bool {
		affected := across && s.relations.triggers[e.id] != nil
		programSlots(e.program(), func(slot uint32) { affected = affected || changed[g.fields[slot]] })
		return affected
	}, len(changed) > 0 || across)
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

// recompile compiles the affected live triggers and all broken ones of a type,
// with those of other types that look at it.
func (s *Set) recompile(t *objectType, affected func(*group, *entry) bool, live bool) []Broken {
	var again []*brokenTrigger
	for id, b := range s.broken {
		if (b.ObjectType == t.name || b.across) && !b.poisoned {
			delete(s.broken, id)
			again = append(again, b)
		}
	}
	before := len(again)
	if live {
		t.groups.each(func(g *group) {
			g.each(func(e *entry) {
				if affected(g, e) {
					again = append(again, s.source(g, e))
				}
			})
		})
		for id, rt := range s.relations.triggers {
			if rt.typ != t && slices.Contains(rt.types, t) {
				at := s.byID[id]
				again = append(again, s.source(s.groups[at.group], s.groups[at.group].at(at.number)))
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

// source gives what is needed to compile a live trigger again.
func (s *Set) source(g *group, e *entry) *brokenTrigger {
	zone, k := uvarint(e.code[e.source:])
	b := &brokenTrigger{
		Broken:   Broken{TriggerID: e.id, Version: e.version, Organization: g.organization, ObjectType: g.typ.name},
		source:   e.code[int(e.source)+k:],
		location: uint16(zone >> 1),
		across:   s.relations.triggers[e.id] != nil,
	}
	if x := s.extras[e.id]; x != nil {
		b.before, b.filter = x.beforeJSON, x.filterJSON
	}
	return b
}

// Match appends to dst the triggers that fire for a change. The error is not
// nil only for a row that is malformed or does not fit its relation; dst is then
// as it was. It never panics: a trigger whose evaluation does is disabled and
// given by TakePoisoned.
func (s *Set) Match(dst []Firing, c *change.Change) (firings []Firing, counters Counters, err error) {
	if c.After == nil || c.Object == nil || c.Organization == "" {
		return dst, Counters{}, nil // gone, or belongs to nobody: it can't match
	}
	t := s.last
	if t == nil || t.name != c.Object.Type {
		if t = s.types[c.Object.Type]; t == nil {
			return dst, Counters{}, nil
		}
		s.last = t
	}
	g := s.groupOf(t, c)
	if g == nil {
		return dst, Counters{}, nil
	}
	if c.BeforeUnknown {
		return dst, Counters{BeforeUnknown: 1}, nil
	}
	if c.Relation == nil {
		return dst, Counters{}, fmt.Errorf("object type %q: %w: its relation is not known", t.name, change.ErrMalformedRow)
	}
	m := &s.m
	m.counters = Counters{}
	n := len(dst)
	defer func() {
		if r := recover(); r != nil {
			firings, counters = dst[:n], m.counters
			err = fmt.Errorf("table %s: the change can't be evaluated: %v", c.Relation, r)
			clear(m.hits.words)
			clear(m.hits.summary)
		}
	}()

	created := c.Before == nil || c.OldOrganization != c.Organization
	if err := m.load(t, g, c, created); err != nil {
		return dst, Counters{}, err
	}
	if !created && len(m.changed) == 0 && len(g.events) == 0 {
		return dst, Counters{}, nil
	}
	for !m.tryProbe(g, created) {
	}
	for _, n := range g.events {
		if s.extras[g.at(n).id].wants(created, m.changed) {
			m.hit(n)
		}
	}
	m.numbers = m.hits.list(m.numbers[:0], g.used)
	firings = dst
	for m.at = 0; m.at < len(m.numbers); {
		firings = s.decide(firings, g, created)
	}
	return firings, m.counters, nil
}

// load makes the rows of a change known. m.changed are the slots that are not
// the same then.
func (m *matcher) load(t *objectType, g *group, c *change.Change, created bool) error {
	if m.epoch++; m.epoch == 0 { // after four thousand million changes
		clear(m.after.values)
		clear(m.before.values)
		clear(m.guards[:])
		m.epoch = 1
	}
	m.fields, m.slotFields = t.fields, g.fields
	m.hits.reset(int(g.used))
	m.after.reset(len(g.slots))
	m.after.id = c.ID
	l := t.layout(c.Relation)
	if created {
		return m.after.load(c.After, l)
	}
	m.before.reset(len(g.slots))
	m.before.isBefore = true
	m.before.id = c.ID
	if c.OldID != "" {
		m.before.id = c.OldID
	}
	m.changed = m.changed[:0]
	if c.BeforeRelation == nil || c.BeforeRelation == c.Relation {
		if err := m.loadBoth(c.Before, c.After, l); err != nil {
			return err
		}
		m.columns = bitsOf(m.columns, len(t.columns))
		for i, word := range m.differs {
			for ; word != 0; word &= word - 1 {
				if col := l.column(i*64 + bits.TrailingZeros64(word)); col >= 0 {
					m.columns[col/64] |= 1 << (col % 64)
				}
			}
		}
		m.compare(g)
		return nil
	}
	if err := m.after.load(c.After, l); err != nil {
		return err
	}
	if err := m.before.load(c.Before, t.layout(c.BeforeRelation)); err != nil {
		return err
	}
	m.columns = bitsOf(m.columns, len(t.columns))
	for col := range t.columns {
		if !sameCell(m.before.cell(int32(col)), m.after.cell(int32(col))) {
			m.columns[col/64] |= 1 << (col % 64)
		}
	}
	m.compare(g)
	return nil
}

// bitsOf gives n bits that are 0.
func bitsOf(b []uint64, n int) []uint64 {
	b = slices.Grow(b[:0], (n+63)/64)[:(n+63)/64]
	clear(b)
	return b
}

// compare lists the slots whose text is not the same on both sides: m.columns
// says of which columns it is not. A verdict can't change when no value it hangs
// on does.
func (m *matcher) compare(g *group) {
	differ := uint64(0)
	for _, word := range m.columns {
		differ |= word
	}
	otherID := m.before.id != m.after.id
	if differ&g.columns == 0 && !otherID {
		return // most changes are of columns that nobody asks for
	}
	look := otherID
	for i, word := range m.columns {
		for ; word != 0 && !look; word &= word - 1 {
			switch col := i*64 + bits.TrailingZeros64(word); {
			case col >= directColumns || g.byColumn[col] == manyFields:
				look = true
			case g.byColumn[col] > 0:
				m.changed = append(m.changed, uint32(g.byColumn[col])-1)
			}
		}
	}
	if !look {
		return
	}
	m.changed = m.changed[:0]
	for i, field := range g.fields {
		f := &m.fields[field]
		switch {
		case f.spec.kind == specID:
			if !otherID {
				continue
			}
		case f.col < 0 || m.columns[f.col/64]&(1<<(f.col%64)) == 0:
			continue
		case f.spec.kind == specCustom:
			b, bState := m.before.member(f.col, f.spec.name)
			a, aState := m.after.member(f.col, f.spec.name)
			if aState == bState && bytes.Equal(a, b) {
				continue
			}
		}
		if g.slots[i].uses > 0 {
			m.changed = append(m.changed, uint32(i))
		}
	}
}

func sameCell(before, after change.Cell) bool {
	if after.Kind == change.Unchanged {
		return true
	}
	return before.Kind == after.Kind && bytes.Equal(before.Data, after.Data)
}

// tryProbe is false when a value could not be read: it is marked as broken, and
// the next try finds it so.
func (m *matcher) tryProbe(g *group, created bool) (done bool) {
	defer func() {
		if r := recover(); r != nil {
			if m.reading == nil {
				panic(r)
			}
			m.breakValue()
		}
	}()
	m.probe(g, created)
	return true
}

// decide evaluates the triggers that were brought up, from m.at on. It comes back
// early when something panicked, to be called again.
func (s *Set) decide(dst []Firing, g *group, created bool) (firings []Firing) {
	m := &s.m
	firings = dst
	defer func() {
		if r := recover(); r != nil {
			s.isolate(g, r)
		}
	}()
	for ; m.at < len(m.numbers); m.at++ {
		if m.at%touched == 0 {
			m.sum += g.touch(m.numbers[m.at:min(m.at+touched, len(m.numbers))])
		}
		e := g.at(m.numbers[m.at])
		m.counters.Candidates++
		program := e.code[:e.source]
		after, _ := m.eval(program, &m.after)
		before := isFalse
		if after != isFalse && !created {
			before, _ = m.eval(program, &m.before)
		}
		var x *extra
		if after == isTrue && e.hasExtra() {
			x = s.extras[e.id]
			before = m.beforeOf(x, before, created)
		}
		switch {
		case after == isFalse || before == isTrue:
		case after == isTrue && before == isFalse:
			f := Firing{TriggerID: e.id, Version: e.version, Organization: g.organization, Created: created}
			if x != nil {
				f.Filter = x.filter
			}
			firings = append(firings, f)
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
	if m.reading != nil {
		m.breakValue()
		m.counters.Candidates--
		return
	}
	s.poison(g, m.numbers[m.at], cause)
	m.at++
}

// poison switches a trigger off whose evaluation panicked.
func (s *Set) poison(g *group, number uint32, cause any) {
	e := g.at(number)
	b := &brokenTrigger{
		Broken: Broken{
			TriggerID: e.id, Version: e.version, Organization: g.organization, ObjectType: g.typ.name,
			Err: fmt.Errorf("its evaluation failed: %v", cause),
		},
		poisoned: true,
	}
	s.m.counters.Poisoned++
	if !s.unrelate(e.id) {
		g.purge(number)
	}
	delete(s.extras, e.id)
	g.events = slices.DeleteFunc(g.events, func(n uint32) bool { return n == number })
	s.drop(g, number) // its program is not to be relied on, so its slots stay in use
	s.broken[b.TriggerID] = b
	s.poisoned = append(s.poisoned, b.Broken)
}

// breakValue marks the value that is being read as broken.
func (m *matcher) breakValue() {
	v := m.reading
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
}

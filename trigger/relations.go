package trigger

import (
	"slices"
	"sort"
	"unsafe"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/mirror"
)

// Triggers that look across relations, or at the clock, are decided on the mirror,
// which holds the rows as of the commit before. Of each commit, every change is considered
// first: which objects may it make match, by their own row or by one that is
// related to them? Those are asked whether they match already. Then the commit
// is put into the mirror, and those that did not match are asked again.
//
// That no object is missed: if its verdict changed, then on some way from it
// over relations there is a row that changed, while the links from the object
// to that row did not. So the objects are found from each changed row, against
// the relations, in the mirror as it was; a link that did change is a change of
// the row that holds it.

// relations is what a Set has of such triggers.
type relations struct {
	store    *mirror.Store
	edges    []*edge
	edgeID   map[edgeKey]uint32
	triggers map[int64]*relatedTrigger
	roots    map[typeInOrganization]*group // finds triggers by their own objects' changes
	begins   map[typeInOrganization]*group // finds watchers by related rows' changes
	ends     map[typeInOrganization]*group // and those that wait for related rows to go
	watchers map[int64]watcher             // of the entries of begins and ends
	last     int64                         // number of a watcher
	links    map[*objectType][]int32       // columns that lead from related rows to what is watched
	needs    map[*objectType]*need

	pair   matcher    // the two sides of the change that is considered
	gone   matcher    // its side before, as if it were new
	depths []*matcher // evaluates on the mirror's rows, one for each level of relations

	asked   map[question]int // place in pending, -1: matched already
	pending []pending
	renamed map[renamedKey]string
}

// typeInOrganization: organization "" stands for all, where a relation does not
// stay within one.
type typeInOrganization struct {
	typ          *objectType
	organization string
}

// edge is a relation as evaluation follows it, from this type to the other.
type edge struct {
	this, other         *objectType
	column, otherColumn string
}

type edgeKey struct {
	this, other         *objectType
	column, otherColumn string
}

// isolated says whether only rows of the same organization are related.
func (e *edge) isolated() bool {
	return e.this.schema != nil && e.other.schema != nil && e.this.schema.Organization != "" && e.other.schema.Organization != ""
}

// relatedTrigger is a trigger that looks across relations.
type relatedTrigger struct {
	id           int64
	typ          *objectType
	organization string
	own          place32 // in roots
	paths        []relationPath
	types        []*objectType // those that it looks at, its own among them
	extra        *extra
	timed        bool // may begin to match by the passing of time
	armed        bool // a timed one: the timers of all objects are set
}

// relationPath is a way from a trigger's own type to a related one.
type relationPath struct {
	edges    []*edge
	query    *expr // what the rows at its end are asked
	negative bool  // the trigger waits for rows that stop matching, or go
	watched  typeInOrganization
	begins   place32
	ends     place32 // if negative
	numbers  [2]int64
}

// watcher wants to know of changes of related rows.
type watcher struct {
	trigger *relatedTrigger
	path    int
}

// place32 is an entry of a group that may not be in Set.groups.
type place32 struct {
	group  *group
	number uint32
}

// need is what the mirror must keep of a type.
type need struct {
	columns, links, members map[string]bool
	byOrganization          bool
}

// question asks whether an object matched. The id is the one before the commit;
// a new object may have the id that another one had.
type question struct {
	trigger int64
	id      string
	created bool
}

type pending struct {
	trigger *relatedTrigger
	id      string // before the commit, of a new object after it
	created bool
	unsure  bool  // whether it matched before is not known
	matched bool  // it did
	due     int64 // of a timed trigger: when its timer was due before the commit
	via     Via
}

type renamedKey struct {
	typ *objectType
	id  string
}

// Via names the changed object that made another one match.
type Via struct {
	ObjectType, ObjectID string
}

// RelatedFiring is a trigger that fires for an object which may not have changed
// itself.
type RelatedFiring struct {
	Firing

	ObjectType, ObjectID string
	Via                  Via
}

// SetMirror gives the rows that triggers across relations are decided on. Until
// it has what Wanted asks for they match nothing.
func (s *Set) SetMirror(store *mirror.Store) { s.relations.store = store }

// Related says whether any live trigger is decided on the mirror.
func (s *Set) Related() bool { return len(s.relations.triggers) > 0 }

// Wanted says what the mirror must hold for the live triggers, by type.
func (s *Set) Wanted() []mirror.Spec {
	r := &s.relations
	if len(r.triggers) == 0 {
		return nil
	}
	var specs []mirror.Spec
	for t, n := range r.needs {
		if t.schema == nil {
			continue
		}
		spec := mirror.Spec{Type: t.name, ID: t.schema.ID, Columns: sortedKeys(n.columns), ByOrganization: n.byOrganization}
		for i, c := range spec.Columns {
			if n.links[c] {
				spec.Links = append(spec.Links, i)
			}
		}
		if len(n.members) > 0 && t.schema.Custom != "" {
			spec.Custom, spec.Members = t.schema.Custom, sortedKeys(n.members)
		}
		specs = append(specs, spec)
	}
	sort.Slice(specs, func(i, j int) bool { return specs[i].Type < specs[j].Type })
	return specs
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// onMirror says whether an expression needs the mirror: it has relations in it,
// or moments that move with the clock.
func onMirror(e *expr) bool {
	return e.op == opRelated || e.op == opWindow || slices.ContainsFunc(e.kids, func(k expr) bool { return onMirror(&k) })
}

// DropMirrored switches off the triggers that look at a type, whose rows the
// mirror can't hold, until they are put again.
func (s *Set) DropMirrored(name string, why error) []Broken {
	var list []Broken
	for id, rt := range s.relations.triggers {
		if !slices.ContainsFunc(rt.types, func(t *objectType) bool { return t.name == name }) {
			continue
		}
		at := s.byID[id]
		b := &brokenTrigger{
			Broken:   Broken{TriggerID: id, Version: s.groups[at.group].at(at.number).version, Organization: rt.organization, ObjectType: rt.typ.name, Err: why},
			poisoned: true, // not by a new schema
		}
		s.Remove(id)
		s.broken[id] = b
		list = append(list, b.Broken)
	}
	return sorted(list)
}

func mentionsRelated(n *node) bool {
	return n != nil && (n.typ == nodeHasRelated || slices.ContainsFunc(n.queries, mentionsRelated))
}

func (s *Set) edge(this *objectType, r Relation) (uint32, *edge) {
	rel := &s.relations
	key := edgeKey{this, s.objectType(r.RelatedType), r.Column, r.RelatedColumn}
	if id, ok := rel.edgeID[key]; ok {
		return id, rel.edges[id]
	}
	if rel.edgeID == nil {
		rel.edgeID = map[edgeKey]uint32{}
	}
	id := uint32(len(rel.edges))
	e := &edge{key.this, key.other, string([]byte(r.Column)), string([]byte(r.RelatedColumn))}
	key.column, key.otherColumn = e.column, e.otherColumn
	rel.edges = append(rel.edges, e)
	rel.edgeID[key] = id
	return id, e
}

// relate takes a trigger in that looks across relations.
func (s *Set) relate(id int64, t *objectType, organization string, e, before *expr) {
	r := &s.relations
	if r.triggers == nil {
		r.triggers = map[int64]*relatedTrigger{}
		r.roots, r.begins, r.ends = map[typeInOrganization]*group{}, map[typeInOrganization]*group{}, map[typeInOrganization]*group{}
		r.watchers = map[int64]watcher{}
		r.links = map[*objectType][]int32{}
		r.needs = map[*objectType]*need{}
	}
	rt := &relatedTrigger{id: id, typ: t, organization: organization, types: []*objectType{t}}
	s.follow(rt, t, nil, before, false) // for what the mirror must keep: it only fires when the query begins to hold
	rt.paths = nil
	s.follow(rt, t, nil, e, false)
	rt.extra = s.extras[id]
	if rt.timed = moves(e) && rt.filter() == nil; rt.timed {
		s.needs(t).byOrganization = true
		s.clock.timed++
	}
	r.triggers[id] = rt
	rt.own = s.enlist(r.roots, typeInOrganization{t, organization}, id, e, rt)
	if rt.filter() != nil {
		return // it asks what happens to the object itself
	}
	for i := range rt.paths {
		p := &rt.paths[i]
		p.watched = typeInOrganization{p.edges[len(p.edges)-1].other, organization}
		if slices.ContainsFunc(p.edges, func(e *edge) bool { return !e.isolated() }) {
			p.watched.organization = ""
		}
		watch := func(in map[typeInOrganization]*group, query *expr, which int) place32 {
			r.last++
			p.numbers[which] = r.last
			r.watchers[r.last] = watcher{rt, i}
			return s.enlist(in, p.watched, r.last, query, rt)
		}
		if p.negative {
			opposite := p.query.opposite()
			p.begins = watch(r.begins, &opposite, 0)
		} else {
			p.begins = watch(r.begins, p.query, 0)
		}
		if p.negative || rt.timed {
			p.ends = watch(r.ends, p.query, 1)
		}
		link := p.watched.typ.column(p.edges[len(p.edges)-1].otherColumn)
		if l := r.links[p.watched.typ]; !slices.Contains(l, link) {
			r.links[p.watched.typ] = append(l, link)
		}
	}
}

// opposite gives the normal form of a negated expression.
func (e *expr) opposite() expr {
	o := *e
	switch e.op {
	case opFalse:
		o.op = opTrue
	case opTrue:
		o.op = opFalse
	case opAnd, opOr:
		o.op = opAnd + opOr - e.op
		o.kids = make([]expr, len(e.kids))
		for i := range e.kids {
			o.kids[i] = e.kids[i].opposite()
		}
	default:
		o.negate = !e.negate
	}
	return o
}

// enlist has an entry found by the changes that may make an expression true.
func (s *Set) enlist(in map[typeInOrganization]*group, key typeInOrganization, id int64, e *expr, rt *relatedTrigger) place32 {
	g := in[key]
	if g == nil {
		g = &group{organization: string([]byte(key.organization)), typ: key.typ}
		in[key] = g
	}
	code := appendProgram(s.code[:0], e, groupSlots{s, g})
	s.code = code
	number := g.enter(entry{id: id, code: string(code), source: uint32(len(code))})
	if rt.filter() != nil {
		g.events = append(g.events, number)
		return place32{g, number}
	}
	list := s.relatedPostings(g, number, rt)
	for i := range list {
		g.post(&list[i])
	}
	return place32{g, number}
}

func (s *Set) relatedPostings(g *group, number uint32, rt *relatedTrigger) []slotPosting {
	program := g.at(number).program()
	if rt.timed {
		// Whatever changes may set another timer.
		return s.poster.anyChange(program, number, len(g.slots))
	}
	return s.poster.postings(program, number, len(g.slots))
}

// strike takes out what enlist added.
func (s *Set) strike(in map[typeInOrganization]*group, key typeInOrganization, at place32, rt *relatedTrigger) {
	g := at.group
	if g == nil {
		return
	}
	if rt.filter() != nil {
		g.events = slices.DeleteFunc(g.events, func(n uint32) bool { return n == at.number })
	} else {
		list := s.relatedPostings(g, at.number, rt)
		for i := range list {
			g.unpost(&list[i])
		}
	}
	programSlots(g.at(at.number).program(), g.release)
	g.leave(at.number)
	if g.live == 0 {
		delete(in, key)
	}
}

// follow gathers what the mirror must have for an expression that is asked of a
// type, and the paths that begin there.
func (s *Set) follow(rt *relatedTrigger, t *objectType, way []*edge, e *expr, negative bool) {
	switch e.op {
	case opTrue, opFalse:
	case opAnd, opOr:
		for i := range e.kids {
			s.follow(rt, t, way, &e.kids[i], negative)
		}
	case opRelated:
		_, edge := s.edge(t, e.related.relation)
		s.need(t, edge.column, true)
		s.need(edge.other, edge.otherColumn, true)
		if !slices.Contains(rt.types, edge.other) {
			rt.types = append(rt.types, edge.other)
		}
		longer := append(slices.Clone(way), edge)
		negative = negative != e.negate
		s.follow(rt, edge.other, longer, &e.related.query, negative)
		rt.paths = append(rt.paths, relationPath{edges: longer, query: &e.related.query, negative: negative})
	default:
		switch e.spec.kind {
		case specColumn:
			s.need(t, e.spec.name, false)
		case specCustom:
			s.needs(t).members[e.spec.name] = true
		case specID:
			s.needs(t)
		}
	}
}

func (s *Set) needs(t *objectType) *need {
	n := s.relations.needs[t]
	if n == nil {
		n = &need{columns: map[string]bool{}, links: map[string]bool{}, members: map[string]bool{}}
		s.relations.needs[t] = n
	}
	return n
}

func (s *Set) need(t *objectType, column string, link bool) {
	n := s.needs(t)
	column = string([]byte(column))
	n.columns[column] = true
	if link {
		n.links[column] = true
	}
}

// unrelate takes a trigger out. It says whether it was one that looks across
// relations.
func (s *Set) unrelate(id int64) bool {
	r := &s.relations
	rt := r.triggers[id]
	if rt == nil {
		return false
	}
	delete(r.triggers, id)
	if rt.timed {
		s.clock.timed--
		if rt.armed {
			s.clock.armed--
		}
	}
	s.strike(r.roots, typeInOrganization{rt.typ, rt.organization}, rt.own, rt)
	for i := range rt.paths {
		p := &rt.paths[i]
		s.strike(r.begins, p.watched, p.begins, rt)
		s.strike(r.ends, p.watched, p.ends, rt)
		delete(r.watchers, p.numbers[0])
		delete(r.watchers, p.numbers[1])
	}
	return true
}

// ---- of a commit

// Consider looks which objects a change may make match across relations, while
// the mirror is as before the change's commit. All changes of a commit are
// considered before the first of them is put into the mirror; then call Settle.
func (s *Set) Consider(ch *change.Change) (Counters, error) {
	r := &s.relations
	s.m.counters = Counters{}
	t := s.types[ch.Object.Type]
	if len(r.triggers) == 0 || t == nil || t.schema == nil || r.store == nil {
		return s.m.counters, nil
	}
	table := r.store.Table(t.name)
	if table == nil {
		return s.m.counters, nil
	}
	oldID := ch.ID
	if ch.OldID != "" {
		oldID = ch.OldID
		if ch.After != nil {
			if r.renamed == nil {
				r.renamed = map[renamedKey]string{}
			}
			r.renamed[renamedKey{t, string([]byte(oldID))}] = string([]byte(ch.ID))
		}
	}
	before, had := table.Get(oldID)
	was := ""
	if had {
		was = before.Organization()
	}
	is := ""
	if ch.After != nil {
		is = ch.Organization
	}
	if err := r.load(t, table, ch, before, had); err != nil {
		return s.m.counters, err
	}
	s.considerOwn(t, ch, oldID, !had || was != is)
	s.considerRelated(t, ch, had, was, is)
	return s.m.counters, nil
}

// considerRelated asks for the objects to which the row that changed is related.
// was and is are its organizations, "" where it is not there.
func (s *Set) considerRelated(t *objectType, ch *change.Change, had bool, was, is string) {
	r := &s.relations
	linked := had && ch.After != nil && r.relinked(t)
	for i, organization := range [...]string{"", was, is} {
		if i > 0 && organization == "" || i == 2 && is == was {
			continue
		}
		key := typeInOrganization{t, organization}
		there := had && (i == 0 || was == organization)
		stays := ch.After != nil && (i == 0 || is == organization)
		if g := r.begins[key]; g != nil && stays {
			if there {
				s.considerLinks(g, &r.pair, t, ch, had, false)
			}
			if !there || linked {
				s.considerLinks(g, &r.pair, t, ch, had, true)
			}
		}
		if g := r.ends[key]; g != nil && there && (!stays || linked) {
			s.considerLinks(g, &r.gone, t, ch, had, true)
		}
	}
}

// considerOwn asks for the object that changed. created: as an object of its
// organization.
func (s *Set) considerOwn(t *objectType, ch *change.Change, oldID string, created bool) {
	r := &s.relations
	if ch.After == nil {
		return
	}
	g := r.roots[typeInOrganization{t, ch.Organization}]
	if g == nil {
		return
	}
	id := oldID
	if created {
		id = ch.ID
	}
	for _, n := range r.pair.find(g, created) {
		s.ask(r.triggers[g.at(n).id], id, created, t.name, ch.ID)
	}
	for _, n := range slices.Clone(g.events) { // one that panics is taken out
		s.ask(r.triggers[g.at(n).id], id, created, t.name, ch.ID)
	}
	if s.clock.timed > 0 && oldID != ch.ID {
		g.each(func(e *entry) { // timers go by ids
			if rt := r.triggers[e.id]; rt.timed {
				s.ask(rt, id, created, t.name, ch.ID)
			}
		})
	}
}

// considerLinks asks for the objects to which a related row that changed led
// before, and leads after, of the triggers that m brings up.
func (s *Set) considerLinks(g *group, m *matcher, t *objectType, ch *change.Change, had, created bool) {
	r := &s.relations
	for _, n := range m.find(g, created) {
		w, live := r.watchers[g.at(n).id]
		if !live {
			continue // it panicked just now
		}
		edges := w.trigger.paths[w.path].edges
		link := t.column(edges[len(edges)-1].otherColumn)
		var was []byte
		if had {
			if c := r.pair.before.cell(link); c.Kind == change.Text {
				was = c.Data
				s.climb(w.trigger, edges, was, t.name, ch.ID)
			}
		}
		if ch.After != nil {
			if c := r.pair.after.cell(link); c.Kind == change.Text && (was == nil || string(c.Data) != string(was)) {
				s.climb(w.trigger, edges, c.Data, t.name, ch.ID)
			}
		}
	}
}

// load makes the two sides of a change ready for comparison.
func (r *relations) load(t *objectType, table *mirror.Table, ch *change.Change, before mirror.Row, had bool) error {
	m := &r.pair
	m.fields = t.fields
	m.before.isBefore = true
	m.before.id, m.after.id = ch.ID, ch.ID
	if ch.OldID != "" {
		m.before.id = ch.OldID
	}
	m.before.layout, m.after.layout = nil, nil
	if had {
		l := t.layout(table.Relation())
		if err := m.before.load(before.Image(), l); err != nil {
			return err
		}
		r.gone.fields = t.fields
		r.gone.after.id = m.before.id
		if err := r.gone.after.load(before.Image(), l); err != nil {
			return err
		}
	}
	if ch.After == nil {
		return nil
	}
	if err := m.after.load(ch.After, t.layout(ch.Relation)); err != nil || !had {
		return err
	}
	m.columns = bitsOf(m.columns, len(t.columns))
	for col := range t.columns {
		if !sameCell(m.before.cell(int32(col)), m.after.cell(int32(col))) {
			m.columns[col/64] |= 1 << (col % 64)
		}
	}
	return nil
}

// relinked says whether a column differs that leads to what is watched.
func (r *relations) relinked(t *objectType) bool {
	return slices.ContainsFunc(r.links[t], func(col int32) bool {
		return r.pair.columns[col/64]&(1<<(col%64)) != 0
	})
}

// find gives the entries of a group that the loaded change may make match.
func (m *matcher) find(g *group, created bool) []uint32 {
	if m.epoch++; m.epoch == 0 {
		clear(m.after.values)
		clear(m.before.values)
		clear(m.guards[:])
		m.epoch = 1
	}
	m.slotFields = g.fields
	m.hits.reset(int(g.used))
	m.after.reset(len(g.slots))
	if !created {
		m.before.reset(len(g.slots))
		m.changed = m.changed[:0]
		if m.compare(g); len(m.changed) == 0 {
			return nil
		}
	}
	for !m.tryProbe(g, created) {
	}
	m.numbers = m.hits.list(m.numbers[:0], g.used)
	return m.numbers
}

// climb finds the objects from which edges lead to a value of the last one's
// other column, and asks each.
func (s *Set) climb(rt *relatedTrigger, edges []*edge, value []byte, viaType, viaID string) {
	e := edges[len(edges)-1]
	table := s.relations.store.Table(e.this.name)
	if table == nil {
		return
	}
	table.Linked(linkOf(table, e.column), value, func(row mirror.Row) bool {
		if e.this.schema.Organization != "" && row.Organization() != rt.organization && (len(edges) == 1 || e.isolated()) {
			return true
		}
		if len(edges) == 1 {
			s.ask(rt, unsafe.String(unsafe.SliceData(row.ID()), len(row.ID())), false, viaType, viaID)
			return true
		}
		if c, ok := cellOf(table, row, edges[len(edges)-2].otherColumn); ok {
			s.climb(rt, edges[:len(edges)-1], c, viaType, viaID)
		}
		return true
	})
}

func linkOf(t *mirror.Table, column string) int {
	spec := t.Spec()
	return slices.IndexFunc(spec.Links, func(l int) bool { return spec.Columns[l] == column })
}

// cellOf gives a column's text, false for NULL.
func cellOf(t *mirror.Table, row mirror.Row, column string) ([]byte, bool) {
	cells, err := row.Image().Decode(nil)
	at := t.Relation().Index(column)
	if err != nil || at < 0 || cells[at].Kind != change.Text {
		return nil, false
	}
	return cells[at].Data, true
}

// ask notes an object that may match after the commit, unless it does before.
// The id may be overwritten afterwards.
func (s *Set) ask(rt *relatedTrigger, id string, created bool, viaType, viaID string) {
	r := &s.relations
	if _, known := r.asked[question{rt.id, id, created}]; known {
		return
	}
	if r.asked == nil {
		r.asked = map[question]int{}
	}
	id = string([]byte(id))
	verdict := isFalse
	if x := rt.extra; x != nil {
		verdict = s.beforeVerdict(rt, x, id, created)
	} else if !created {
		verdict = s.verdict(rt, id, "")
	}
	due := s.clock.flips
	if rt.timed && rt.extra != nil && !created {
		s.verdict(rt, id, "") // before_query's clock is none of the timer's
		due = s.clock.flips
	}
	place := -1
	if verdict != isTrue || rt.timed {
		place = len(r.pending)
		r.pending = append(r.pending, pending{rt, id, created, verdict == unknown, verdict == isTrue, due, Via{viaType, string([]byte(viaID))}})
	}
	r.asked[question{rt.id, id, created}] = place
}

// Settle says what fires for the commit whose changes were considered and are in
// the mirror now.
func (s *Set) Settle(dst []RelatedFiring) ([]RelatedFiring, Counters) {
	r := &s.relations
	s.m.counters = Counters{}
	for i := range r.pending {
		p := &r.pending[i]
		at, live := s.byID[p.trigger.id]
		if !live || r.triggers[p.trigger.id] != p.trigger {
			continue
		}
		id, moved := p.id, p.created
		if !p.created {
			if now, ok := r.renamed[renamedKey{p.trigger.typ, id}]; ok {
				id, moved = now, true
			}
		}
		after := s.verdict(p.trigger, id, "")
		if p.trigger.timed && (moved || p.unsure || s.clock.flips != p.due) {
			s.clock.set(p.trigger.id, id)
		}
		switch {
		case p.matched:
		case after == isTrue && !p.unsure:
			e := s.groups[at.group].at(at.number)
			dst = append(dst, RelatedFiring{
				Firing:     Firing{TriggerID: e.id, Version: e.version, Organization: p.trigger.organization, Created: p.created, Filter: p.trigger.filter()},
				ObjectType: p.trigger.typ.name, ObjectID: id, Via: p.via,
			})
		case after != isFalse:
			s.m.counters.Indeterminate++
		}
	}
	clear(r.asked)
	clear(r.renamed)
	clear(r.pending)
	r.pending = r.pending[:0]
	if cap(r.pending) > 1<<16 {
		r.pending, r.asked = nil, nil
	}
	return dst, s.m.counters
}

func (rt *relatedTrigger) filter() *Filter {
	if rt.extra == nil {
		return nil
	}
	return rt.extra.filter
}

// beforeVerdict is matcher.beforeOf on the mirror.
func (s *Set) beforeVerdict(rt *relatedTrigger, x *extra, id string, created bool) truth {
	if x.before != "" {
		met := isFalse
		if !created {
			met = s.verdict(rt, id, x.before)
		}
		if met != isTrue {
			return met.not()
		}
	}
	if x.filter != nil || created {
		return isFalse
	}
	return s.verdict(rt, id, "")
}

// verdict evaluates a trigger, or a program of its slots, for an object as the
// mirror has it.
func (s *Set) verdict(rt *relatedTrigger, id, program string) (result truth) {
	r := &s.relations
	s.clock.flips = never
	at, live := s.byID[rt.id]
	table := r.store.Table(rt.typ.name)
	if !live || table == nil {
		return isFalse
	}
	row, ok := table.Get(id)
	if !ok || rt.typ.schema.Organization != "" && row.Organization() != rt.organization {
		return isFalse
	}
	g := s.groups[at.group]
	for _, d := range r.depths {
		d.counters = Counters{}
	}
	m := s.depth(0)
	m.organization = rt.organization
	m.fields, m.slotFields = rt.typ.fields, g.fields
	defer func() {
		for _, d := range r.depths {
			s.m.counters.Add(d.counters)
		}
		if cause := recover(); cause != nil {
			result = isFalse
			s.poison(g, at.number, cause)
		}
	}()
	if err := m.row(rt.typ, table, row); err != nil {
		return unknown
	}
	m.counters.Candidates++
	if program == "" {
		program = g.at(at.number).program()
	}
	result, _ = m.eval(program, &m.after)
	return result
}

// depth gives the matcher of a level of relations.
func (s *Set) depth(n int) *matcher {
	r := &s.relations
	for len(r.depths) <= n {
		r.depths = append(r.depths, &matcher{set: s, depth: len(r.depths)})
	}
	return r.depths[n]
}

// row takes up a row of the mirror.
func (m *matcher) row(t *objectType, table *mirror.Table, row mirror.Row) error {
	m.epoch++
	m.after.reset(len(m.slotFields))
	m.after.id = unsafe.String(unsafe.SliceData(row.ID()), len(row.ID()))
	return m.after.load(row.Image(), t.layout(table.Relation()))
}

// hasRelated evaluates has_related: code is what follows the slot of this side's
// column.
func (m *matcher) hasRelated(code string, s *side, slot uint32) truth {
	if m.set == nil {
		return unknown // only the row itself is at hand
	}
	cell := s.cell(m.fields[m.slotFields[slot]].col)
	switch cell.Kind {
	case change.Null:
		return isFalse
	case change.Unchanged:
		return unknown
	}
	id, k := uvarint(code)
	code = code[k:]
	atLeast, k := uvarint(code)
	query := code[k:]
	e := m.set.relations.edges[id]
	table := m.set.relations.store.Table(e.other.name)
	if table == nil {
		return unknown
	}
	inner := m.set.depth(m.depth + 1)
	inner.organization = m.organization
	inner.fields, inner.slotFields = e.other.fields, e.other.identity()
	isolated := e.isolated()
	var matched, unsure uint64
	table.Linked(linkOf(table, e.otherColumn), cell.Data, func(row mirror.Row) bool {
		if isolated && row.Organization() != m.organization {
			inner.counters.CrossOrganization++
			return true
		}
		if inner.row(e.other, table, row) != nil {
			unsure++
			return true
		}
		switch t, _ := inner.eval(query, &inner.after); t {
		case isTrue:
			matched++
		case unknown:
			unsure++
		}
		return matched < atLeast
	})
	switch {
	case matched >= atLeast:
		return isTrue
	case matched+unsure >= atLeast:
		return unknown
	}
	return isFalse
}

// identity gives slots that are the fields themselves.
func (t *objectType) identity() []uint32 {
	for len(t.plain) < len(t.fields) {
		t.plain = append(t.plain, uint32(len(t.plain)))
	}
	return t.plain
}

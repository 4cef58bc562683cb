package feed

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unsafe"

	"github.com/pgautomate/pgautomate/change"
)

// This file nets a transaction: however often it touched an object, what counts
// is the row before the transaction and the row after it, for states in between
// were never visible to anyone. It is pure: rows in, a change.Commit out.
//
// An object is followed by its row, not by its id:
//
//   - insert + delete is nothing; delete + insert of one id is an update;
//   - an update of the id is the same object under its new id. So "delete 2,
//     then update 1 to 2" keeps both facts: 2 is gone, 1 is now 2;
//   - a swap of two ids is two updates, also when both rows bore one id for a
//     moment (deferred unique constraints): the old row's bytes tell them apart.
//
// What isn't known is said to be unknown, never guessed: without the old row
// (replica identity not FULL) the object's before is unknown, unless the same
// transaction showed it earlier. After a TRUNCATE, which names no rows, the
// before of an inserted row is unknown too.

// layout is a table's layout together with what it is watched as: the entry of
// the relation cache. It is immutable.
type layout struct {
	relation *change.Relation
	object   *change.Object // nil: not watched
	id, org  int            // column positions; org -1: none named or not there
	noID     bool           // the id column isn't there
	noOrg    bool           // the organization column is named and isn't there
}

func newLayout(rel *change.Relation, obj *change.Object) *layout {
	l := &layout{relation: rel, object: obj, id: -1, org: -1}
	if obj == nil {
		return l
	}
	l.id = rel.Index(obj.ID)
	l.noID = l.id < 0
	if obj.Organization != "" {
		l.org = rel.Index(obj.Organization)
		l.noOrg = l.org < 0
	}
	return l
}

// entry is one object that the open transaction touched.
type entry struct {
	existed bool // before the transaction
	unknown bool // existed, or may have, and its row was not sent
	alive   bool // exists now
	dropped bool // reported as nothing

	before, after             ref     // rows
	beforeLayout, afterLayout *layout // of one object type; never nil, but for after until it is set

	original ref // id before the transaction; at birth, when it did not exist
	id       ref // id now, or the last one

	next int // another live entry under the same id, plus 1; 0: none
}

// ref says where kept bytes are: in memory a block's number and the place in it,
// 32 bits each, in files the place in the log of rows. A row is never empty, so
// the zero ref is no row.
type ref struct {
	at   uint64
	size uint32
}

type objectKey struct{ typ, id string }

// netter gathers one transaction. begin starts the next one. What a transaction
// keeps is in memory until it takes more than limit, then in files (see spill).
// The methods that take rows, and finish, panic with a spillError when the files
// fail: see rescue.
type netter struct {
	limit  int // 0: none
	dir    string
	opened func(*spill) // called before the first file is made
	pause  func() error // called now and then by what takes long

	arena  arena
	blocks [][]byte // of the transaction; the refs say which
	inUse  bool     // the last of them is the arena's
	orgs   interned

	commit   *change.Commit
	entries  []entry
	size     int  // bytes kept
	collided bool // two rows bore one id at a time

	// Above a few entries, maps find them. live: entries under their present
	// id, chained by entry.next. gone: dead entries under their original id.
	indexed bool
	live    map[objectKey]int
	gone    map[objectKey]int

	spill *spill // has the entries, the rows and the index in place of the above
	key   []byte

	truncated []string // object types
}

const (
	scanLimit    = 8       // up to so many entries a scan is faster than a map
	keepEntries  = 1 << 14 // larger tables are given back after the transaction
	keepInterned = 1 << 14
	entryCost    = 400 // bytes that an entry takes beside its rows, at most: itself, its place in a map, its change.Change
)

func (n *netter) begin(xid uint32) {
	n.commit = &change.Commit{XID: xid}
	if cap(n.entries) > keepEntries {
		n.entries, n.live, n.gone = nil, nil, nil
	}
	clear(n.entries)
	n.entries = n.entries[:0]
	if n.indexed {
		clear(n.live)
		clear(n.gone)
		n.indexed = false
	}
	clear(n.blocks)
	n.blocks, n.inUse = n.blocks[:0], false
	n.truncated = n.truncated[:0]
	n.size = 0
	n.collided = false
	n.spill = nil
}

// room takes a transaction that has become too large to files.
func (n *netter) room() {
	if n.spill != nil || n.limit == 0 || n.size+len(n.entries)*entryCost <= n.limit {
		return
	}
	if !n.indexed {
		n.index(len(n.entries))
	}
	s := newSpill(n.dir, n.limit, n.pause)
	if n.opened != nil {
		n.opened(s)
	}
	s.open()
	move := func(r ref) ref {
		if r.size == 0 {
			return ref{}
		}
		return s.rows.append(n.bytes(0, r))
	}
	for i := range n.entries {
		e := n.entries[i]
		original, id := e.original, e.id
		before, after := e.before, e.after
		e.before, e.after = move(before), move(after)
		// An id lies in the row that it came with, if that is still kept.
		place := func(r ref) ref {
			for _, row := range [][2]ref{{before, e.before}, {after, e.after}} {
				if r.at >= row[0].at && r.at+uint64(r.size) <= row[0].at+uint64(row[0].size) {
					return ref{row[1].at + r.at - row[0].at, r.size}
				}
			}
			return move(r)
		}
		e.original, e.id = place(original), place(id)
		s.add(&e)
	}
	s.live, s.gone = newTable(s, s.limit/2, len(n.live)), newTable(s, s.limit/8, len(n.gone))
	for _, m := range []struct {
		from map[objectKey]int
		to   *table
	}{{n.live, s.live}, {n.gone, s.gone}} {
		for key, i := range m.from {
			m.to.set(s.hash(key.typ, []byte(key.id)), i, func(int) bool { return false })
		}
	}
	n.entries, n.live, n.gone, n.blocks, n.inUse = nil, nil, nil, nil, false
	n.arena = arena{}
	n.spill = s
}

func (n *netter) insert(l *layout, row []byte) {
	id, reason := n.rowID(l, row)
	if reason != "" {
		n.undecodable(l, reason)
		return
	}
	n.room()
	kept := n.keep(row)
	kid := within(kept, row, l.id)
	// A row that comes back under the id it had is the same object.
	if i := n.findGone(l.object.Type, id); i >= 0 {
		n.forgetGone(i)
		e := n.load(i)
		e.alive, e.after, e.afterLayout, e.id = true, kept, l, kid
		n.store(i, &e)
		n.addLive(i)
		return
	}
	n.addLive(n.add(&entry{
		alive: true, after: kept, afterLayout: l, beforeLayout: l,
		// A truncated table may have held it.
		unknown:  n.wasTruncated(l.object.Type),
		original: kid, id: kid,
	}))
}

func (n *netter) update(l *layout, oldKind byte, old, row []byte) {
	if !sameWidth(l, row) || (oldKind == oldFull && !sameWidth(l, old)) {
		n.undecodable(l, reasonWidth)
		return
	}
	if l.noID {
		n.undecodable(l, reasonNoID)
		return
	}
	newCell := cellAt(row, l.id)
	oldCell := newCell // no old row: the key did not change
	if oldKind == oldFull || (oldKind == oldKey && l.relation.Columns[l.id].Key) {
		if c := cellAt(old, l.id); c.Kind == change.Text {
			oldCell = c
		}
	}
	if newCell.Kind == change.Unchanged {
		newCell = oldCell
	}
	if newCell.Kind == change.Unchanged {
		n.undecodable(l, reasonUnknownID)
		return
	}
	if newCell.Kind != change.Text {
		if oldCell.Kind == change.Text && oldKind != oldNone {
			n.delete(l, oldKind, old) // a row without an id is no object
			return
		}
		n.undecodable(l, reasonNullID)
		return
	}
	if oldKind == oldFull && cellAt(old, l.id).Kind == change.Null {
		n.insert(l, fill(row, old, l, l)) // a row that gets an id becomes an object
		return
	}

	n.room()
	oldID := borrow(oldCell.Data)
	i := n.findLive(l, oldID, oldKind, old)
	if i < 0 {
		e := entry{existed: true, alive: true, unknown: oldKind != oldFull, beforeLayout: l}
		if oldKind == oldFull {
			e.before = n.keep(old)
			e.original = within(e.before, old, l.id)
		} else {
			e.original = n.keepID(oldID)
		}
		e.id = e.original
		i = n.add(&e)
		n.addLive(i)
	}
	e := n.load(i)
	switch {
	case oldKind == oldFull:
		e.after = n.keep(fill(row, old, l, l))
	case e.after.size != 0:
		e.after = n.keep(fill(row, n.bytes(0, e.after), l, e.afterLayout))
	default:
		e.after = n.keep(row)
	}
	e.afterLayout = l
	newID := borrow(newCell.Data)
	moved := newID != borrow(n.bytes(0, e.id))
	n.store(i, &e)
	if moved {
		n.dropLive(i)
		e := n.load(i)
		e.id = n.keepID(newID)
		n.store(i, &e)
		n.addLive(i)
	}
}

func (n *netter) delete(l *layout, oldKind byte, old []byte) {
	if oldKind == oldKey && !l.noID && !l.relation.Columns[l.id].Key {
		n.undecodable(l, reasonKeyless)
		return
	}
	id, reason := n.rowID(l, old)
	if reason != "" {
		n.undecodable(l, reason)
		return
	}
	n.room()
	i := n.findLive(l, id, oldKind, old)
	if i < 0 {
		e := entry{existed: true, alive: true, unknown: oldKind != oldFull, beforeLayout: l, afterLayout: l}
		if oldKind == oldFull {
			e.before = n.keep(old)
			e.id = within(e.before, old, l.id)
		} else {
			e.id = n.keepID(id)
		}
		e.original = e.id
		i = n.add(&e)
		n.addLive(i)
	}
	n.die(i)
}

// truncate empties a table. Rows that this transaction touched are known to be
// gone; of the others nothing is known but that they are gone.
func (n *netter) truncate(l *layout) {
	for i := range n.count() {
		if e := n.load(i); e.alive && e.afterLayout.relation.OID == l.relation.OID {
			n.die(i)
		}
	}
	if !n.wasTruncated(l.object.Type) {
		n.truncated = append(n.truncated, l.object.Type)
		n.commit.Truncated = append(n.commit.Truncated, l.object)
	}
	n.note("truncate_ignored", l.relation, l.object, "TRUNCATE names no rows: nothing fires for it")
}

func (n *netter) message(prefix, content []byte) {
	n.commit.Messages = append(n.commit.Messages, change.Message{Prefix: string(prefix), Content: bytes.Clone(content)})
	n.size += len(content)
}

// finish gives the commit; LSN, End and Time are the caller's to set.
func (n *netter) finish() (*change.Commit, int) {
	if n.collided {
		n.mergeReplaced()
	}
	if s := n.spill; s != nil {
		if slices.ContainsFunc(s.layouts, func(l *layout) bool { return l.noOrg }) {
			// Seldom, and worth another pass: notes go before the changes.
			if err := s.each(func(*change.Change) error { return nil }, n.orgMissing); err != nil {
				fail(err)
			}
		}
		s.release()
		n.commit.Large = s
		n.spill = nil
		return n.commit, n.size
	}
	count := 0
	for i := range n.entries {
		if nothing(n, &n.entries[i]) {
			n.entries[i].dropped = true
		} else {
			count++
		}
	}
	if count > 0 {
		n.commit.Changes = make([]change.Change, 0, count)
		for i := range n.entries {
			if e := &n.entries[i]; !e.dropped {
				n.commit.Changes = append(n.commit.Changes, netChange(e, n.bytes(0, e.before), n.bytes(0, e.after),
					borrow(n.bytes(0, e.original)), borrow(n.bytes(0, e.id)), &n.orgs, n.orgMissing))
			}
		}
	}
	return n.commit, n.size + count*int(unsafe.Sizeof(change.Change{}))
}

// keeper gives kept bytes. What one window gave holds at least until it is asked
// again.
type keeper interface {
	bytes(window int, r ref) []byte
}

// nothing says whether an entry comes to no change at all.
func nothing(k keeper, e *entry) bool {
	switch {
	case e.dropped:
		return true
	case !e.alive:
		return !e.existed
	case !e.existed || e.unknown || e.beforeLayout.relation != e.afterLayout.relation:
		return false
	default:
		return same(k, e.original, e.id) && same(k, e.before, e.after)
	}
}

func same(k keeper, a, b ref) bool {
	return a == b || a.size == b.size && bytes.Equal(k.bytes(0, a), k.bytes(1, b))
}

// netChange makes an entry's change from its rows and ids.
func netChange(e *entry, before, after change.Row, original, id string, orgs *interned, orgMissing func(*layout)) change.Change {
	c := change.Change{
		Object:        e.beforeLayout.object,
		Relation:      e.afterLayout.relation,
		Before:        before,
		BeforeUnknown: e.unknown,
		ID:            id,
	}
	c.BeforeRelation = c.Relation
	if before != nil {
		c.BeforeRelation = e.beforeLayout.relation
		c.OldOrganization = organization(before, e.beforeLayout, orgs, orgMissing)
	}
	if !e.alive {
		// Gone: everything is as before the commit.
		c.Relation, c.ID = c.BeforeRelation, original
		return c
	}
	c.After = after
	c.Organization = organization(after, e.afterLayout, orgs, orgMissing)
	if e.existed && original != id {
		c.OldID = original
	}
	return c
}

func organization(row change.Row, l *layout, orgs *interned, missing func(*layout)) string {
	if l.object.Organization == "" {
		return change.DefaultOrganization
	}
	if l.noOrg {
		missing(l)
		return ""
	}
	c := cellAt(row, l.org)
	if c.Kind != change.Text {
		return ""
	}
	return orgs.get(c.Data)
}

func (n *netter) orgMissing(l *layout) {
	n.note("column_missing", l.relation, l.object, "the organization column "+l.object.Organization+" is not in the table")
}

// interned are organization ids.
type interned map[string]string

func (m *interned) get(b []byte) string {
	if s, ok := (*m)[string(b)]; ok {
		return s
	}
	if *m == nil || len(*m) >= keepInterned {
		*m = make(map[string]string)
	}
	s := string(b)
	(*m)[s] = s
	return s
}

// mergeReplaced unites an object that is gone with one that was born under its
// id before it went: a replacement under a deferred unique constraint, the same
// as delete + insert.
func (n *netter) mergeReplaced() {
	var gone map[objectKey]int
	var goneTable *table
	if n.spill != nil {
		goneTable = newTable(n.spill, n.limit/8, 0)
		defer goneTable.pages.close()
	} else {
		gone = make(map[objectKey]int)
	}
	for i := range n.count() {
		if e := n.load(i); e.existed && !e.alive && !e.dropped {
			key := n.keyOf(&e, e.original)
			if gone != nil {
				gone[key] = i
			} else {
				n.spill.setKey(goneTable, key, byOriginal, i)
			}
		}
	}
	for i := range n.count() {
		b := n.load(i)
		if b.existed || !b.alive || b.dropped {
			continue
		}
		key := n.keyOf(&b, b.id)
		var g int
		var ok bool
		if gone != nil {
			g, ok = gone[key]
			delete(gone, key)
		} else {
			g, ok = n.spill.getKey(goneTable, key, byOriginal)
			if ok {
				n.spill.removeKey(goneTable, key, byOriginal)
			}
		}
		if !ok {
			continue
		}
		d := n.load(g)
		merged := d
		merged.alive, merged.after, merged.afterLayout, merged.id = true, b.after, b.afterLayout, b.id
		first, second := g, i
		other := b
		if i < g {
			first, second, other = i, g, d
		}
		other.dropped = true
		n.store(first, &merged)
		n.store(second, &other)
	}
}

// ---- entries

func (n *netter) count() int {
	if n.spill != nil {
		return n.spill.count
	}
	return len(n.entries)
}

func (n *netter) load(i int) entry {
	if n.spill != nil {
		n.spill.rest()
		return n.spill.load(i)
	}
	return n.entries[i]
}

func (n *netter) store(i int, e *entry) {
	if n.spill != nil {
		n.spill.store(i, e)
	} else {
		n.entries[i] = *e
	}
}

func (n *netter) add(e *entry) int {
	if n.spill != nil {
		return n.spill.add(e)
	}
	n.entries = append(n.entries, *e)
	i := len(n.entries) - 1
	if !n.indexed && len(n.entries) > scanLimit {
		n.index(i) // its caller adds the last one
	}
	return i
}

// index brings the first entries into the maps.
func (n *netter) index(count int) {
	if n.live == nil {
		n.live, n.gone = make(map[objectKey]int), make(map[objectKey]int)
	}
	n.indexed = true
	for i := range n.entries[:count] {
		e := &n.entries[i]
		e.next = 0
		if e.alive {
			n.addLive(i)
		} else if e.existed && !e.dropped {
			n.setGone(i, e)
		}
	}
}

// keyOf gives an entry's key, until the next one is asked for: in memory it is
// for ever.
func (n *netter) keyOf(e *entry, id ref) objectKey {
	b := n.bytes(0, id)
	if n.spill != nil {
		n.key = append(n.key[:0], b...)
		b = n.key
	}
	return objectKey{e.beforeLayout.object.Type, borrow(b)}
}

func (n *netter) getLive(key objectKey) (i int, ok bool) {
	if n.spill != nil {
		return n.spill.getKey(n.spill.live, key, byID)
	}
	i, ok = n.live[key]
	return i, ok
}

func (n *netter) setLive(key objectKey, i int) {
	if n.spill != nil {
		n.spill.setKey(n.spill.live, key, byID, i)
	} else {
		n.live[key] = i
	}
}

func (n *netter) addLive(i int) {
	if !n.indexed {
		return
	}
	e := n.load(i)
	key := n.keyOf(&e, e.id)
	e.next = 0
	if head, ok := n.getLive(key); ok {
		e.next = head + 1
	}
	n.store(i, &e)
	n.setLive(key, i)
}

func (n *netter) dropLive(i int) {
	if !n.indexed {
		return
	}
	e := n.load(i)
	key := n.keyOf(&e, e.id)
	head, ok := n.getLive(key)
	switch {
	case !ok:
	case head == i && e.next == 0 && n.spill != nil:
		n.spill.removeKey(n.spill.live, key, byID)
	case head == i && e.next == 0:
		delete(n.live, key)
	case head == i:
		n.setLive(key, e.next-1)
	default:
		for at := head; ; {
			o := n.load(at)
			if o.next == 0 {
				break
			}
			if o.next-1 == i {
				o.next = e.next
				n.store(at, &o)
				break
			}
			at = o.next - 1
		}
	}
	e.next = 0
	n.store(i, &e)
}

func (n *netter) die(i int) {
	n.dropLive(i)
	e := n.load(i)
	e.alive, e.after = false, ref{}
	e.dropped = !e.existed // born and gone in one transaction
	n.store(i, &e)
	if e.existed && n.indexed {
		n.setGone(i, &e)
	}
}

func (n *netter) setGone(i int, e *entry) {
	key := n.keyOf(e, e.original)
	if n.spill != nil {
		n.spill.setKey(n.spill.gone, key, byOriginal, i)
	} else {
		n.gone[key] = i
	}
}

func (n *netter) findGone(typ, id string) int {
	key := objectKey{typ, id}
	if n.spill != nil {
		if i, ok := n.spill.getKey(n.spill.gone, key, byOriginal); ok {
			return i
		}
		return -1
	}
	if n.indexed {
		if i, ok := n.gone[key]; ok {
			return i
		}
		return -1
	}
	for i := len(n.entries) - 1; i >= 0; i-- {
		if e := &n.entries[i]; !e.alive && e.existed && n.is(e, e.original, key) {
			return i
		}
	}
	return -1
}

func (n *netter) is(e *entry, id ref, key objectKey) bool {
	return borrow(n.bytes(0, id)) == key.id && e.beforeLayout.object.Type == key.typ
}

func (n *netter) forgetGone(i int) {
	if !n.indexed {
		return
	}
	e := n.load(i)
	key := n.keyOf(&e, e.original)
	if n.spill != nil {
		n.spill.removeKey(n.spill.gone, key, byOriginal)
	} else {
		delete(n.gone, key)
	}
}

// findLive finds the entry whose row is now the given old row. Usually one
// entry bears the id and that is it; but with the whole old row at hand, a row
// that differs from it under the same layout is another row.
func (n *netter) findLive(l *layout, id string, oldKind byte, old []byte) int {
	fallback := -1
	seen := false
	consider := func(i int, e *entry) bool {
		seen = true
		if oldKind == oldFull && e.after.size != 0 && e.afterLayout.relation == l.relation {
			return sameRow(n.bytes(0, e.after), old)
		}
		if fallback < 0 {
			fallback = i // the layout changed meanwhile, or no old row: the id decides
		}
		return false
	}
	key := objectKey{l.object.Type, id}
	if n.indexed {
		head, ok := n.getLive(key)
		if !ok {
			return -1
		}
		for at := head; at >= 0; {
			e := n.load(at)
			if consider(at, &e) {
				return at
			}
			at = e.next - 1
		}
	} else {
		for i := len(n.entries) - 1; i >= 0; i-- {
			if e := &n.entries[i]; e.alive && n.is(e, e.id, key) {
				if consider(i, e) {
					return i
				}
			}
		}
	}
	if seen && fallback < 0 {
		n.collided = true
	}
	return fallback
}

func (n *netter) wasTruncated(typ string) bool {
	return slices.Contains(n.truncated, typ)
}

// ---- rows

const (
	reasonWidth     = "the row does not have the table's number of columns"
	reasonNoID      = "the id column is not in the table"
	reasonNullID    = "the id is NULL"
	reasonUnknownID = "the id was not sent"
	reasonKeyless   = "the id column is not part of the replica identity, so a deleted row cannot be named: ALTER TABLE … REPLICA IDENTITY FULL"
	reasonMalformed = "malformed row"
	reasonUnnamed   = "a change of a table that the stream did not describe"
	reasonOutside   = "a change outside a transaction"
)

// rowID gives the id in a row, borrowed from it, or why there is none.
func (n *netter) rowID(l *layout, row []byte) (id, reason string) {
	if !sameWidth(l, row) {
		return "", reasonWidth
	}
	if l.noID {
		return "", reasonNoID
	}
	switch c := cellAt(row, l.id); c.Kind {
	case change.Text:
		return borrow(c.Data), ""
	case change.Null:
		return "", reasonNullID
	default:
		return "", reasonUnknownID
	}
}

func sameWidth(l *layout, row []byte) bool {
	return len(row) >= 2 && int(binary.BigEndian.Uint16(row)) == len(l.relation.Columns)
}

// cellAt walks to one cell of a well-formed row.
func cellAt(row []byte, index int) change.Cell {
	c, _ := cellIn(row, index)
	return c
}

// within is where a text cell of a kept row is kept.
func within(kept ref, row []byte, index int) ref {
	c, place := cellIn(row, index)
	return ref{kept.at + uint64(place), uint32(len(c.Data))}
}

// cellIn also gives the place of the cell's data.
func cellIn(row []byte, index int) (c change.Cell, place int) {
	at := 2
	for i := 0; at < len(row); i++ {
		kind := row[at]
		at++
		if kind != change.Text {
			if i == index {
				return change.Cell{Kind: kind}, at
			}
			continue
		}
		size := int(binary.BigEndian.Uint32(row[at:]))
		at += 4
		if i == index {
			return change.Cell{Kind: kind, Data: row[at : at+size : at+size]}, at
		}
		at += size
	}
	return change.Cell{Kind: change.Null}, at
}

// fill gives row with the values that it says are unchanged taken from the
// other row. Columns are matched by name when the layouts differ.
func fill(row, from []byte, l, fromLayout *layout) []byte {
	if !hasUnchanged(row) {
		return row
	}
	cells, err := change.Row(row).Decode(make([]change.Cell, 0, len(l.relation.Columns)))
	if err != nil {
		return row
	}
	other, err := change.Row(from).Decode(make([]change.Cell, 0, len(fromLayout.relation.Columns)))
	if err != nil {
		return row
	}
	for i := range cells {
		if cells[i].Kind != change.Unchanged {
			continue
		}
		j := i
		if l.relation != fromLayout.relation {
			j = fromLayout.relation.Index(l.relation.Columns[i].Name)
		}
		if j >= 0 && j < len(other) {
			cells[i] = other[j]
		}
	}
	return change.MakeRow(cells)
}

func hasUnchanged(row []byte) bool {
	for at := 2; at < len(row); {
		switch row[at] {
		case change.Unchanged:
			return true
		case change.Text:
			at += 5 + int(binary.BigEndian.Uint32(row[at+1:]))
		default:
			at++
		}
	}
	return false
}

// sameRow compares a pending row with an old row that came later; what the
// pending one left open counts as equal.
func sameRow(pending, old []byte) bool {
	if bytes.Equal(pending, old) {
		return true
	}
	if !hasUnchanged(pending) {
		return false
	}
	a, errA := change.Row(pending).Decode(nil)
	b, errB := change.Row(old).Decode(nil)
	if errA != nil || errB != nil || len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Kind != change.Unchanged && (a[i].Kind != b[i].Kind || !bytes.Equal(a[i].Data, b[i].Data)) {
			return false
		}
	}
	return true
}

// keep copies a row.
func (n *netter) keep(row []byte) ref {
	n.size += len(row)
	return n.keepBytes(row)
}

func (n *netter) keepID(id string) ref {
	n.size += len(id)
	return n.keepBytes(unsafe.Slice(unsafe.StringData(id), len(id)))
}

func (n *netter) keepBytes(b []byte) ref {
	if len(b) == 0 {
		return ref{}
	}
	if n.spill != nil {
		return n.spill.rows.append(b)
	}
	kept, at, block := n.arena.place(b)
	switch {
	case block == nil: // one of its own
		n.blocks = append(n.blocks, kept)
		n.inUse = false
	case !n.inUse || at == 0:
		n.blocks = append(n.blocks, block)
		n.inUse = true
	}
	return ref{uint64(len(n.blocks)-1)<<32 | uint64(at), uint32(len(b))}
}

// bytes implements keeper; nil for what is not kept.
func (n *netter) bytes(window int, r ref) []byte {
	switch {
	case r.size == 0:
		return nil
	case n.spill != nil:
		return n.spill.bytes(window, r)
	default:
		at := uint32(r.at)
		return n.blocks[r.at>>32][at : at+r.size : at+r.size]
	}
}

// borrow makes a string that aliases b.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// ---- notes

func (n *netter) undecodable(l *layout, reason string) {
	n.note("undecodable", l.relation, l.object, reason)
}

// note adds one, or counts it with its like.
func (n *netter) note(kind string, rel *change.Relation, obj *change.Object, reason string) {
	table, typ := "", ""
	if rel != nil {
		table = rel.String()
	}
	if obj != nil {
		typ = obj.Type
	}
	for i := range n.commit.Notes {
		o := &n.commit.Notes[i]
		if o.Kind == kind && o.Detail["table"] == table && o.Detail["reason"] == reason {
			o.Count++
			return
		}
	}
	n.commit.Notes = append(n.commit.Notes, change.Note{Kind: kind, Count: 1, Detail: map[string]any{
		"table": table, "object_type": typ, "reason": reason,
	}})
}

// ---- memory

// arena copies rows into blocks. A block is shared by rows, also of several
// commits, and lives as long as any of them.
type arena struct{ block []byte }

const arenaBlock = 64 << 10

func (a *arena) copy(b []byte) []byte {
	kept, _, _ := a.place(b)
	return kept
}

// place also gives the whole block and the place in it; a large row has no block.
func (a *arena) place(b []byte) (kept []byte, at int, block []byte) {
	if len(b) > arenaBlock/8 {
		return bytes.Clone(b), 0, nil
	}
	if len(b) > cap(a.block)-len(a.block) {
		a.block = make([]byte, 0, arenaBlock)
	}
	at = len(a.block)
	a.block = append(a.block, b...)
	return a.block[at : at+len(b) : at+len(b)], at, a.block[:arenaBlock]
}

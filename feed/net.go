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
	object *change.Object

	existed bool // before the transaction
	unknown bool // existed, or may have, and its row was not sent
	alive   bool // exists now
	dropped bool // reported as nothing

	before, after             change.Row
	beforeLayout, afterLayout *layout

	original string // id before the transaction; at birth, when it did not exist
	id       string // id now, or the last one

	next int32 // another live entry under the same id, plus 1; 0: none
}

type objectKey struct{ typ, id string }

// netter gathers one transaction. Begin starts the next one.
type netter struct {
	arena arena
	orgs  map[string]string // interned organization ids

	commit   *change.Commit
	entries  []entry
	size     int  // bytes kept
	collided bool // two rows bore one id at a time

	// Above a few entries, maps find them. live: entries under their present
	// id, chained by entry.next. gone: dead entries under their original id.
	indexed bool
	live    map[objectKey]int32
	gone    map[objectKey]int32

	truncated []string // object types
}

const (
	scanLimit    = 8       // up to so many entries a scan is faster than a map
	keepEntries  = 1 << 14 // larger tables are given back after the transaction
	keepInterned = 1 << 14
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
	n.truncated = n.truncated[:0]
	n.size = 0
	n.collided = false
}

func (n *netter) insert(l *layout, row []byte) {
	id, reason := n.rowID(l, row)
	if reason != "" {
		n.undecodable(l, reason)
		return
	}
	kept := n.keep(row)
	// A row that comes back under the id it had is the same object.
	if i := n.findGone(l.object.Type, id); i >= 0 {
		e := &n.entries[i]
		n.forgetGone(i)
		e.alive, e.after, e.afterLayout = true, kept, l
		e.id = idOf(kept, l.id)
		n.addLive(i)
		return
	}
	i := n.add(entry{
		object: l.object, alive: true, after: kept, afterLayout: l, beforeLayout: l,
		// A truncated table may have held it.
		unknown: n.wasTruncated(l.object.Type),
		id:      idOf(kept, l.id),
	})
	n.entries[i].original = n.entries[i].id
	n.addLive(i)
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
		n.insert(l, n.fill(row, old, l, l)) // a row that gets an id becomes an object
		return
	}

	oldID := borrow(oldCell.Data)
	i := n.findLive(l, oldID, oldKind, old)
	if i < 0 {
		e := entry{object: l.object, existed: true, alive: true, unknown: oldKind != oldFull, beforeLayout: l}
		if oldKind == oldFull {
			e.before = n.keep(old)
			e.original = idOf(e.before, l.id)
		} else {
			e.original = n.keepString(oldCell.Data)
		}
		e.id = e.original
		i = n.add(e)
		n.addLive(i)
	}
	e := &n.entries[i]
	switch {
	case oldKind == oldFull:
		e.after = n.fill(row, old, l, l)
	case e.after != nil:
		e.after = n.fill(row, e.after, l, e.afterLayout)
	default:
		e.after = n.keep(row)
	}
	e.afterLayout = l
	if newID := borrow(newCell.Data); newID != e.id {
		n.dropLive(i)
		e.id = n.keepString(newCell.Data)
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
	i := n.findLive(l, id, oldKind, old)
	if i < 0 {
		e := entry{object: l.object, existed: true, alive: true, unknown: oldKind != oldFull, beforeLayout: l, afterLayout: l}
		if oldKind == oldFull {
			e.before = n.keep(old)
			e.id = idOf(e.before, l.id)
		} else {
			e.id = n.keepString([]byte(id))
		}
		e.original = e.id
		i = n.add(e)
		n.addLive(i)
	}
	n.die(i)
}

// truncate empties a table. Rows that this transaction touched are known to be
// gone; of the others nothing is known but that they are gone.
func (n *netter) truncate(l *layout) {
	for i := range n.entries {
		if e := &n.entries[i]; e.alive && e.afterLayout.relation.OID == l.relation.OID {
			n.die(int32(i))
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
	count := 0
	for i := range n.entries {
		if n.nothing(&n.entries[i]) {
			n.entries[i].dropped = true
		} else {
			count++
		}
	}
	if count > 0 {
		n.commit.Changes = make([]change.Change, 0, count)
		for i := range n.entries {
			if !n.entries[i].dropped {
				n.commit.Changes = append(n.commit.Changes, n.change(&n.entries[i]))
			}
		}
	}
	return n.commit, n.size + count*int(unsafe.Sizeof(change.Change{}))
}

// nothing says whether an entry comes to no change at all.
func (n *netter) nothing(e *entry) bool {
	switch {
	case e.dropped:
		return true
	case !e.alive:
		return !e.existed
	case !e.existed || e.unknown:
		return false
	default:
		return e.original == e.id && e.beforeLayout.relation == e.afterLayout.relation && bytes.Equal(e.before, e.after)
	}
}

func (n *netter) change(e *entry) change.Change {
	c := change.Change{
		Object:        e.object,
		Relation:      e.afterLayout.relation,
		Before:        e.before,
		BeforeUnknown: e.unknown,
		ID:            e.id,
	}
	c.BeforeRelation = c.Relation
	if e.before != nil {
		c.BeforeRelation = e.beforeLayout.relation
		c.OldOrganization = n.organization(e.before, e.beforeLayout)
	}
	if !e.alive {
		// Gone: everything is as before the commit.
		c.Relation, c.ID = c.BeforeRelation, e.original
		return c
	}
	c.After = e.after
	c.Organization = n.organization(e.after, e.afterLayout)
	if e.existed && e.original != e.id {
		c.OldID = e.original
	}
	return c
}

func (n *netter) organization(row change.Row, l *layout) string {
	if l.object.Organization == "" {
		return change.DefaultOrganization
	}
	if l.noOrg {
		n.note("column_missing", l.relation, l.object, "the organization column "+l.object.Organization+" is not in the table")
		return ""
	}
	c := cellAt(row, l.org)
	if c.Kind != change.Text {
		return ""
	}
	if s, ok := n.orgs[string(c.Data)]; ok {
		return s
	}
	if n.orgs == nil || len(n.orgs) >= keepInterned {
		n.orgs = make(map[string]string)
	}
	s := string(c.Data)
	n.orgs[s] = s
	return s
}

// mergeReplaced unites an object that is gone with one that was born under its
// id before it went: a replacement under a deferred unique constraint, the same
// as delete + insert.
func (n *netter) mergeReplaced() {
	gone := make(map[objectKey]int)
	for i := range n.entries {
		if e := &n.entries[i]; e.existed && !e.alive && !e.dropped {
			gone[objectKey{e.object.Type, e.original}] = i
		}
	}
	for i := range n.entries {
		b := &n.entries[i]
		if b.existed || !b.alive || b.dropped {
			continue
		}
		key := objectKey{b.object.Type, b.id}
		g, ok := gone[key]
		if !ok {
			continue
		}
		delete(gone, key)
		d := &n.entries[g]
		first, second := d, b
		if i < g {
			first, second = b, d
		}
		merged := *d
		merged.alive, merged.after, merged.afterLayout, merged.id = true, b.after, b.afterLayout, b.id
		*first = merged
		second.dropped = true
	}
}

// ---- finding entries

func (n *netter) add(e entry) int32 {
	n.entries = append(n.entries, e)
	i := int32(len(n.entries) - 1)
	if !n.indexed && len(n.entries) > scanLimit {
		n.index()
	}
	return i
}

func (n *netter) index() {
	if n.live == nil {
		n.live, n.gone = make(map[objectKey]int32), make(map[objectKey]int32)
	}
	n.indexed = true
	last := len(n.entries) - 1 // being added: its caller adds it
	for i := range n.entries[:last] {
		e := &n.entries[i]
		e.next = 0
		if e.alive {
			n.addLive(int32(i))
		} else if e.existed && !e.dropped {
			n.gone[objectKey{e.object.Type, e.original}] = int32(i)
		}
	}
}

func (n *netter) addLive(i int32) {
	if !n.indexed {
		return
	}
	e := &n.entries[i]
	key := objectKey{e.object.Type, e.id}
	if head, ok := n.live[key]; ok {
		e.next = head + 1
	} else {
		e.next = 0
	}
	n.live[key] = i
}

func (n *netter) dropLive(i int32) {
	if !n.indexed {
		return
	}
	e := &n.entries[i]
	key := objectKey{e.object.Type, e.id}
	head, ok := n.live[key]
	switch {
	case !ok:
	case head == i && e.next == 0:
		delete(n.live, key)
	case head == i:
		n.live[key] = e.next - 1
	default:
		for at := head; n.entries[at].next != 0; at = n.entries[at].next - 1 {
			if n.entries[at].next-1 == i {
				n.entries[at].next = e.next
				break
			}
		}
	}
	e.next = 0
}

func (n *netter) die(i int32) {
	n.dropLive(i)
	e := &n.entries[i]
	e.alive, e.after = false, nil
	if e.existed {
		if n.indexed {
			n.gone[objectKey{e.object.Type, e.original}] = i
		}
	} else {
		e.dropped = true // born and gone in one transaction
	}
}

func (n *netter) findGone(typ, id string) int32 {
	if n.indexed {
		if i, ok := n.gone[objectKey{typ, id}]; ok {
			return i
		}
		return -1
	}
	for i := len(n.entries) - 1; i >= 0; i-- {
		if e := &n.entries[i]; !e.alive && e.existed && e.original == id && e.object.Type == typ {
			return int32(i)
		}
	}
	return -1
}

func (n *netter) forgetGone(i int32) {
	if n.indexed {
		e := &n.entries[i]
		delete(n.gone, objectKey{e.object.Type, e.original})
	}
}

// findLive finds the entry whose row is now the given old row. Usually one
// entry bears the id and that is it; but with the whole old row at hand, a row
// that differs from it under the same layout is another row.
func (n *netter) findLive(l *layout, id string, oldKind byte, old []byte) int32 {
	fallback := int32(-1)
	seen := false
	consider := func(i int32) bool {
		e := &n.entries[i]
		seen = true
		if oldKind == oldFull && e.after != nil && e.afterLayout.relation == l.relation {
			return sameRow(e.after, old)
		}
		if fallback < 0 {
			fallback = i // the layout changed meanwhile, or no old row: the id decides
		}
		return false
	}
	if n.indexed {
		head, ok := n.live[objectKey{l.object.Type, id}]
		if !ok {
			return -1
		}
		for at := head + 1; at != 0; at = n.entries[at-1].next {
			if consider(at - 1) {
				return at - 1
			}
		}
	} else {
		for i := len(n.entries) - 1; i >= 0; i-- {
			if e := &n.entries[i]; e.alive && e.id == id && e.object.Type == l.object.Type {
				if consider(int32(i)) {
					return int32(i)
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
	reasonUnnamed   = "row of a table that the stream did not describe"
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
	at := 2
	for i := 0; at < len(row); i++ {
		kind := row[at]
		at++
		if kind != change.Text {
			if i == index {
				return change.Cell{Kind: kind}
			}
			continue
		}
		size := int(binary.BigEndian.Uint32(row[at:]))
		at += 4
		if i == index {
			return change.Cell{Kind: kind, Data: row[at : at+size : at+size]}
		}
		at += size
	}
	return change.Cell{Kind: change.Null}
}

// fill keeps row, with the values that it says are unchanged taken from the
// other row. Columns are matched by name when the layouts differ.
func (n *netter) fill(row, from []byte, l, fromLayout *layout) change.Row {
	if !hasUnchanged(row) {
		return n.keep(row)
	}
	cells, err := change.Row(row).Decode(make([]change.Cell, 0, len(l.relation.Columns)))
	if err != nil {
		return n.keep(row)
	}
	other, err := change.Row(from).Decode(make([]change.Cell, 0, len(fromLayout.relation.Columns)))
	if err != nil {
		return n.keep(row)
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
	return n.keep(change.MakeRow(cells))
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

func (n *netter) keep(row []byte) change.Row {
	n.size += len(row)
	return n.arena.copy(row)
}

func (n *netter) keepString(b []byte) string { return borrow(n.arena.copy(b)) }

// idOf gives the id of a kept row without a copy: it aliases the row, which
// nobody changes.
func idOf(kept change.Row, index int) string { return borrow(cellAt(kept, index).Data) }

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
	if len(b) > arenaBlock/8 {
		return bytes.Clone(b)
	}
	if len(b) > cap(a.block)-len(a.block) {
		a.block = make([]byte, 0, arenaBlock)
	}
	at := len(a.block)
	a.block = append(a.block, b...)
	return a.block[at : at+len(b) : at+len(b)]
}

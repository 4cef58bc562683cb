package mirror

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"unsafe"

	"github.com/pgautomate/pgautomate/change"
)

// Table is the mirror of one object type's table.
type Table struct {
	store    *Store
	spec     Spec
	relation *change.Relation
	custom   int // column that is reduced to members, or -1
	members  members
	rows     rows

	// Where the kept columns are in the relations of the stream; -1: not there.
	lastRelation  *change.Relation
	lastPositions []int
	positions     map[*change.Relation][]int

	journal uint32 // its number in the journal of the present batch, plus 1
}

// maxLayouts bounds what is kept for relations that were replaced.
const maxLayouts = 1024

func newTable(s *Store, spec Spec) *Table {
	spec.Columns, spec.Members, spec.Links = slices.Clone(spec.Columns), slices.Clone(spec.Members), slices.Clone(spec.Links)
	t := &Table{store: s, spec: spec, custom: -1, positions: map[*change.Relation][]int{}}
	t.relation = &change.Relation{Name: spec.Type, Identity: change.IdentityFull}
	for _, name := range spec.Columns {
		t.relation.Columns = append(t.relation.Columns, change.Column{Name: name, Key: name == spec.ID})
	}
	if spec.Custom != "" && len(spec.Members) > 0 && !slices.Contains(spec.Columns, spec.Custom) {
		t.custom = len(t.relation.Columns)
		t.members = newMembers(spec.Members)
		t.relation.Columns = append(t.relation.Columns, change.Column{Name: spec.Custom})
	}
	t.rows = newRows(s.seed, t.shape())
	return t
}

func (t *Table) shape() shape {
	sh := shape{byOrganization: t.spec.ByOrganization, id: -1}
	if t.spec.ID != "" {
		sh.id = slices.Index(t.spec.Columns, t.spec.ID)
	}
	for _, column := range t.spec.Links {
		if column < 0 || column >= len(t.spec.Columns) {
			panic(fmt.Sprintf("mirror: %s has no column %d to link", t.spec.Type, column))
		}
		if column != sh.id && !slices.Contains(sh.columns, column) {
			sh.columns = append(sh.columns, column)
		}
	}
	if len(sh.columns) > 63 {
		panic(fmt.Sprintf("mirror: %s has more than 63 links", t.spec.Type))
	}
	return sh
}

// Spec gives what the table was defined with.
func (t *Table) Spec() Spec { return t.spec }

// Relation is the layout of the rows' images: the kept columns, and the reduced
// custom column after them. The columns' types are not known here.
func (t *Table) Relation() *change.Relation { return t.relation }

// Len is the number of rows.
func (t *Table) Len() int { return t.rows.n }

// Bytes is the memory that the table holds.
func (t *Table) Bytes() int64 { return t.rows.held() }

// Row is a row of a table. It is valid until the store is changed.
type Row struct {
	names        *names
	id, image    []byte
	organization uint32
}

// ID is the row's id, which must not be written to.
func (r Row) ID() []byte { return r.id }

// Organization is the row's organization, "" when it names none. The string
// stays valid.
func (r Row) Organization() string { return r.names.name(r.organization) }

// Image is the row as Table.Relation lays it out. A value that was never sent is
// change.Unchanged in it.
func (r Row) Image() change.Row { return r.image }

func (t *Table) row(place uint32) Row {
	e := t.rows.entry(place)
	return Row{names: &t.store.names, id: e.id, image: e.image, organization: e.organization}
}

// Get gives the row of an id.
func (t *Table) Get(id string) (Row, bool) { return t.GetBytes(raw(id)) }

// GetBytes is Get for an id that is bytes, such as a cell.
func (t *Table) GetBytes(id []byte) (Row, bool) {
	place := t.rows.find(t.rows.hash(id), id)
	if place == 0 {
		return Row{}, false
	}
	return t.row(place), true
}

// raw gives a string's bytes, which nobody may write to.
func raw(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// Linked calls f with the rows whose column Spec.Links[link] has that text, until
// f says false. f must not change the store.
func (t *Table) Linked(link int, value []byte, f func(Row) bool) {
	column := t.spec.Links[link]
	if column == t.rows.id {
		if row, ok := t.GetBytes(value); ok {
			f(row)
		}
		return
	}
	list := slices.Index(t.rows.columns, column)
	if t.rows.byOrganization {
		list++
	}
	t.walk(list, t.rows.head(list, value), f)
}

// InOrganization calls f with an organization's rows, until f says false. f must
// not change the store. The table's Spec must say ByOrganization.
func (t *Table) InOrganization(organization string, f func(Row) bool) {
	if !t.rows.byOrganization {
		panic("mirror: " + t.spec.Type + " has no lists of organizations")
	}
	number, ok := t.store.names.find(organization)
	if !ok || int(number) >= len(t.rows.heads) {
		return
	}
	t.walk(0, t.rows.heads[number], f)
}

func (t *Table) walk(list int, place uint32, f func(Row) bool) {
	for place != 0 && f(t.row(place)) {
		place = next(t.rows.slab.at(place), list)
	}
}

// Put makes a row what the stream says. rel is the layout of row, which is a full
// image but for values that the change left alone (change.Unchanged): these stay
// as they are, and are unknown in a row that is new here. A column that rel lacks
// stays as it is, too, and is NULL in a new row. It says whether anything that is kept changed.
//
// After an error nothing has changed.
func (t *Table) Put(id, organization string, rel *change.Relation, row change.Row) (changed bool, err error) {
	key := raw(id)
	hash := t.rows.hash(key)
	place, before := t.rows.lookup(hash, key)
	image, err := t.image(key, place, &before, rel, row)
	if err != nil {
		return false, err
	}
	return t.put(place, &before, hash, key, t.store.names.number(organization), image)
}

// PutText makes a row what a query or COPY gives: one value in text form for each
// column of Relation, nil for NULL. The custom column may be whole or reduced.
func (t *Table) PutText(id, organization string, values [][]byte) (changed bool, err error) {
	key := raw(id)
	image, err := t.textImage(key, values)
	if err != nil {
		return false, err
	}
	hash := t.rows.hash(key)
	place, before := t.rows.lookup(hash, key)
	return t.put(place, &before, hash, key, t.store.names.number(organization), image)
}

// put writes a row and notes what it was.
func (t *Table) put(place uint32, before *entry, hash uint32, id []byte, organization uint32, image []byte) (changed bool, err error) {
	defer t.store.trim()
	if place != 0 && before.organization == organization && bytes.Equal(before.image, image) {
		return false, nil
	}
	t.store.journal.row(t, id, place != 0, before)
	if err := t.rows.write(place, hash, id, organization, image); err != nil {
		return false, t.failed(err)
	}
	return true, nil
}

func (t *Table) failed(err error) error { return fmt.Errorf("object type %s: %w", t.spec.Type, err) }

// Delete takes a row out. It says whether there was one.
func (t *Table) Delete(id string) bool {
	key := raw(id)
	hash := t.rows.hash(key)
	place, before := t.rows.lookup(hash, key)
	if place == 0 {
		return false
	}
	t.store.journal.row(t, key, true, &before)
	t.rows.remove(place, hash)
	return true
}

// Clear takes all rows out: the table was truncated.
func (t *Table) Clear() {
	before := t.rows
	t.store.journal.step(before.held(), func() { t.rows = before })
	t.rows = newRows(t.store.seed, t.shape())
}

// Rename gives a row another id, in place of any row that has it. It says whether
// there was such a row. For more than one in the same commit see RenameAll.
func (t *Table) Rename(oldID, newID string) (bool, error) {
	n, err := t.RenameAll([]Renamed{{oldID, newID}})
	return n > 0, err
}

// Renamed is a change of a row's id.
type Renamed struct{ Old, New string }

// RenameAll gives rows other ids, all at once, so that rows may exchange their
// ids. It says how many there were. Rows that the commit deleted must be deleted
// before, for another row may have taken the id of one.
func (t *Table) RenameAll(list []Renamed) (int, error) {
	type moving struct {
		id           string
		organization uint32
		image        []byte
	}
	moves := make([]moving, 0, len(list))
	for _, r := range list {
		place, e := t.rows.lookup(t.rows.hash(raw(r.Old)), raw(r.Old))
		if place == 0 || r.Old == r.New {
			continue
		}
		moves = append(moves, moving{r.New, e.organization, t.withID(e.image, raw(r.New))})
		t.Delete(r.Old)
	}
	for _, m := range moves {
		key := raw(m.id)
		hash := t.rows.hash(key)
		place, before := t.rows.lookup(hash, key)
		if _, err := t.put(place, &before, hash, key, m.organization, m.image); err != nil {
			return 0, err
		}
	}
	return len(moves), nil
}

// withID copies an image, with another id if that is one of its columns.
func (t *Table) withID(image, id []byte) []byte {
	if t.rows.id < 0 {
		return bytes.Clone(image)
	}
	cells, err := change.Row(image).Decode(t.store.cells)
	if err != nil {
		panic("mirror: " + err.Error())
	}
	t.store.cells = cells
	cells[t.rows.id].Data = id
	return change.MakeRow(cells)
}

// image makes the kept image of a row of the stream, in the store's buffer.
func (t *Table) image(id []byte, place uint32, before *entry, rel *change.Relation, row change.Row) ([]byte, error) {
	s := t.store
	var err error
	if s.cells, err = row.Decode(s.cells); err != nil {
		return nil, fmt.Errorf("table %s: %w", rel, err)
	}
	if len(s.cells) != len(rel.Columns) {
		return nil, fmt.Errorf("table %s has %d columns, the row has %d: %w", rel, len(rel.Columns), len(s.cells), change.ErrMalformedRow)
	}
	positions := t.layout(rel)
	s.before = s.before[:0]
	s.image = s.head(len(positions))
	for i, position := range positions {
		c := change.Cell{Kind: change.Null}
		switch {
		case position >= 0:
			c = s.cells[position]
		case place != 0:
			c.Kind = change.Unchanged
		}
		switch {
		case i == t.rows.id:
			c = change.Cell{Kind: change.Text, Data: id}
		case c.Kind == change.Unchanged && place != 0:
			if len(s.before) == 0 {
				if s.before, err = change.Row(before.image).Decode(s.before); err != nil {
					return nil, t.failed(err)
				}
			}
			c = s.before[i]
		case i == t.custom && c.Kind == change.Text:
			c = t.reduced(c.Data)
		}
		s.image = appendCell(s.image, c)
	}
	return s.image, nil
}

func (t *Table) textImage(id []byte, values [][]byte) ([]byte, error) {
	if len(values) != len(t.relation.Columns) {
		return nil, fmt.Errorf("object type %s: %d values for %d columns: %w", t.spec.Type, len(values), len(t.relation.Columns), ErrValues)
	}
	s := t.store
	s.image = s.head(len(values))
	for i, v := range values {
		c := change.Cell{Kind: change.Text, Data: v}
		switch {
		case i == t.rows.id:
			c.Data = id
		case v == nil:
			c.Kind = change.Null
		case i == t.custom:
			c = t.reduced(v)
		}
		s.image = appendCell(s.image, c)
	}
	return s.image, nil
}

func (t *Table) reduced(value []byte) change.Cell {
	var ok bool
	if t.store.custom, ok = t.members.reduce(t.store.custom[:0], value); !ok {
		return change.Cell{Kind: change.Null}
	}
	return change.Cell{Kind: change.Text, Data: t.store.custom}
}

// head begins an image of n cells.
func (s *Store) head(n int) []byte { return binary.BigEndian.AppendUint16(s.image[:0], uint16(n)) }

func appendCell(image []byte, c change.Cell) []byte {
	image = append(image, c.Kind)
	if c.Kind == change.Text {
		image = binary.BigEndian.AppendUint32(image, uint32(len(c.Data)))
		image = append(image, c.Data...)
	}
	return image
}

// layout gives the positions of the kept columns in a relation.
func (t *Table) layout(rel *change.Relation) []int {
	if rel == t.lastRelation {
		return t.lastPositions
	}
	positions, ok := t.positions[rel]
	if !ok {
		positions = make([]int, len(t.relation.Columns))
		for i := range positions {
			positions[i] = rel.Index(t.relation.Columns[i].Name)
		}
		if len(t.positions) >= maxLayouts {
			clear(t.positions)
		}
		t.positions[rel] = positions
	}
	t.lastRelation, t.lastPositions = rel, positions
	return positions
}

// Each calls f with every row, in no order, until f says false. f must not
// change the store.
func (t *Table) Each(f func(Row) bool) {
	for i := range t.rows.ids.segments {
		for _, slot := range t.rows.ids.segments[i].slots {
			if slot != 0 && !f(t.row(uint32(slot))) {
				return
			}
		}
	}
}

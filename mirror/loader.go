package mirror

import (
	"fmt"

	"github.com/pgautomate/pgautomate/change"
)

// Loader fills a table from a snapshot of the database, and takes it back to the
// feed's checkpoint, which a snapshot is always ahead of. What the stream has
// between the two is read ahead: a row's first image before a change there is
// what it was at the checkpoint, and is given to Undo. A row without a change
// there is as in the snapshot.
//
// A truncation in that stretch can't be undone, nor a change whose old row was
// not sent: then the table can only be loaded once the checkpoint is past it.
//
// The rows are in no table of the store until Done.
type Loader struct {
	table  *Table
	undone int
	gone   *Table // ids of rows that did not exist at the checkpoint
}

// Load begins to fill a table for an object type.
func (s *Store) Load(spec Spec) *Loader {
	return &Loader{table: newTable(s, spec), gone: newTable(s, Spec{Type: spec.Type})}
}

// Relation is the layout of the rows that PutText takes.
func (l *Loader) Relation() *change.Relation { return l.table.relation }

// Len is the number of rows.
func (l *Loader) Len() int { return l.table.Len() }

// Bytes is the memory that the loader holds.
func (l *Loader) Bytes() int64 { return l.table.Bytes() + l.gone.Bytes() }

// Put takes a row of the snapshot; see Table.Put.
func (l *Loader) Put(id, organization string, rel *change.Relation, row change.Row) error {
	return l.put(id, organization, func(key []byte, place uint32, before *entry) ([]byte, error) {
		return l.table.image(key, place, before, rel, row)
	})
}

// PutText takes a row of the snapshot; see Table.PutText.
func (l *Loader) PutText(id, organization string, values [][]byte) error {
	return l.put(id, organization, func(key []byte, _ uint32, _ *entry) ([]byte, error) {
		return l.table.textImage(key, values)
	})
}

func (l *Loader) put(id, organization string, image func(key []byte, place uint32, before *entry) ([]byte, error)) error {
	key := raw(id)
	t := l.table
	hash := t.rows.hash(key)
	place, before := t.rows.lookup(hash, key)
	if l.isUndone(hash, key, place, &before) {
		return nil
	}
	b, err := image(key, place, &before)
	if err != nil {
		return err
	}
	return l.write(place, hash, key, t.store.names.number(organization), b)
}

// isUndone says whether the row is as of the checkpoint already. Marks on the
// rows themselves say so, and for those that are gone a set of ids.
func (l *Loader) isUndone(hash uint32, id []byte, place uint32, e *entry) bool {
	if l.undone == 0 {
		return false
	}
	if place != 0 {
		return e.marked
	}
	return l.gone.rows.find(hash, id) != 0
}

func (l *Loader) write(place, hash uint32, id []byte, flags uint32, image []byte) error {
	defer l.table.store.trim()
	if err := l.table.rows.write(place, hash, id, flags, image); err != nil {
		return l.table.failed(err)
	}
	return nil
}

// Undo takes a row back to what it was before a change that came after the
// checkpoint: before is the row's image then, nil if there was no such row. Only
// the first Undo of an id counts. A change of the id is two: what the row was,
// under its old id, and nil under the new one, unless another row had that.
//
// Rows of the snapshot may still follow.
func (l *Loader) Undo(id, organization string, rel *change.Relation, before change.Row) error {
	key := raw(id)
	t := l.table
	hash := t.rows.hash(key)
	place, now := t.rows.lookup(hash, key)
	if l.isUndone(hash, key, place, &now) {
		return nil
	}
	if before != nil {
		image, err := t.image(key, place, &now, rel, before)
		if err != nil {
			return err
		}
		if err := l.write(place, hash, key, t.store.names.number(organization)|undone, image); err != nil {
			return err
		}
		l.undone++
		return nil
	}
	if err := l.gone.rows.write(0, hash, key, 0, noCells); err != nil {
		return fmt.Errorf("rows that did not exist: %w", l.gone.failed(err))
	}
	if place != 0 {
		t.rows.remove(place, hash)
	}
	l.undone++
	return nil
}

// UndoCommit is Undo for what a commit did to the rows of this type. It gives
// ErrNotUndoable when the commit does not tell what they were; the Loader is of
// no use then.
func (l *Loader) UndoCommit(c *change.Commit) error {
	objectType := l.table.spec.Type
	for _, o := range c.Truncated {
		if o.Type == objectType {
			return l.table.failed(ErrNotUndoable)
		}
	}
	born := false
	err := c.Each(func(ch *change.Change) error {
		if ch.Object.Type != objectType {
			return nil
		}
		if ch.BeforeUnknown {
			return l.table.failed(ErrNotUndoable)
		}
		born = born || ch.After != nil && (ch.Before == nil || ch.OldID != "")
		if ch.Before == nil {
			return nil
		}
		id := ch.ID
		if ch.OldID != "" {
			id = ch.OldID
		}
		return l.Undo(id, ch.OldOrganization, ch.BeforeRelation, ch.Before)
	})
	if err != nil || !born {
		return err
	}
	return c.Each(func(ch *change.Change) error {
		if ch.Object.Type != objectType || ch.After == nil || ch.Before != nil && ch.OldID == "" {
			return nil
		}
		return l.Undo(ch.ID, "", nil, nil)
	})
}

var noCells = []byte{0, 0}

// Undone is the number of rows that Undo has taken back.
func (l *Loader) Undone() int { return l.undone }

// Done puts the table into the store, in place of one that there was. The Loader
// can't be used any more.
func (l *Loader) Done() *Table {
	t := l.table
	*l = Loader{}
	t.store.install(t.spec.Type, t)
	return t
}

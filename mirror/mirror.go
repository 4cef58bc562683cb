// Package mirror holds in memory the rows of the tables at which triggers look
// across relations: of each row its id, its organization and the columns that
// some trigger mentions, exactly as of the feed's checkpoint. So a trigger on
// leads that asks for a related contact is decided without a query, and sees the
// rows before and after each commit, however late the feed reads it: the
// database itself is always ahead.
//
// A Store has one Table for each object type. The feed's applier puts every
// change of a batch into it between Begin and Commit, or Rollback when the
// batch's transaction failed. A Loader fills a table from a snapshot, and takes
// the snapshot back to the checkpoint.
//
// # Memory
//
// A table may have ten million rows, so nothing here is a Go object for each
// row: rows are bytes in pages (slab.go), their places 32-bit numbers, the rows
// that hold one value a list linked by those numbers (rows.go), and what finds
// them hash tables that grow a few thousand entries at a time (index.go). The
// garbage collector sees a slice for each page of 256 KiB; rows above 16 KiB
// have one each.
//
// A table holds at most 16 GiB of rows of up to 16 KiB; then Put gives ErrFull.
//
// The package does no I/O. A Store is used by one goroutine at a time.
package mirror

import (
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"github.com/pgautomate/pgautomate/change"
)

// Errors of the store.
var (
	// ErrFull is given when a table has no room for the row. Nothing was changed.
	ErrFull = errors.New("the mirror of the table is full: 16 GiB of rows")

	// ErrForgotten is given by Rollback after Forget: the tables must be loaded anew.
	ErrForgotten = errors.New("the journal was given up: the mirror can't be rolled back and must be loaded anew")

	// ErrNotUndoable is given by UndoCommit for a commit that truncated the table,
	// or that came without the old rows. The table can be loaded once the
	// checkpoint is past that commit.
	ErrNotUndoable = errors.New("the stream does not say what the rows were before")

	// ErrValues is given by PutText for a wrong number of values.
	ErrValues = errors.New("the number of values is not the number of columns kept")
)

// Spec says what is kept of an object type's rows.
type Spec struct {
	Type string

	// Columns are kept in this order.
	Columns []string

	// Custom is the jsonb column with custom fields, or "", and Members the keys
	// of it that are kept. The column comes after Columns, as an object of those
	// members only; NULL when the row has none of them. If Custom is also among
	// Columns, it is kept there whole and Members says nothing.
	Custom  string
	Members []string

	// ID is the column that holds the id. If it is among Columns, the id is not
	// kept twice, and a link to it costs nothing. "" is right, too.
	ID string

	// Links are indexes into Columns that are followed backwards, from a value to
	// the rows that have it.
	Links []int

	// ByOrganization says that the rows are found by their organization.
	ByOrganization bool
}

// Store holds the tables. Its zero value can't be used: see New.
type Store struct {
	seed    maphash.Seed
	tables  map[string]*Table
	names   names
	journal journal

	// What Put works in.
	cells, before []change.Cell
	image         []byte
	custom        []byte
}

// New makes an empty store.
func New() *Store {
	seed := maphash.MakeSeed()
	return &Store{seed: seed, tables: map[string]*Table{}, names: newNames(seed)}
}

// Table gives the table of an object type, nil if none is kept.
func (s *Store) Table(objectType string) *Table { return s.tables[objectType] }

// Types lists the object types that have a table, sorted.
func (s *Store) Types() []string { return slices.Sorted(maps.Keys(s.tables)) }

// Define makes a table for an object type, empty, in place of one that there was.
func (s *Store) Define(spec Spec) *Table {
	t := newTable(s, spec)
	s.install(spec.Type, t)
	return t
}

// Drop gives up an object type's table.
func (s *Store) Drop(objectType string) {
	if s.tables[objectType] != nil {
		s.install(objectType, nil)
	}
}

func (s *Store) install(objectType string, t *Table) {
	before := s.tables[objectType]
	var held int64
	if before != nil {
		held = before.Bytes()
	}
	s.journal.step(held, func() { s.set(objectType, before) })
	s.set(objectType, t)
}

func (s *Store) set(objectType string, t *Table) {
	if t == nil {
		delete(s.tables, objectType)
		return
	}
	s.tables[objectType] = t
}

// Apply does to the tables what a commit did to the rows, so that they are as
// after it. After an error they are neither as before nor as after: roll back.
func (s *Store) Apply(c *change.Commit) error {
	for _, o := range c.Truncated {
		if t := s.tables[o.Type]; t != nil {
			t.Clear()
		}
	}
	// Ids may be passed on from row to row, so: what went, then what has another
	// id, then what is.
	renamed := map[*Table][]Renamed{}
	puts := false
	err := c.Each(func(ch *change.Change) error {
		t := s.tables[ch.Object.Type]
		switch {
		case t == nil:
		case ch.After == nil:
			t.Delete(ch.ID)
		default:
			puts = true
			if ch.OldID != "" {
				renamed[t] = append(renamed[t], Renamed{strings.Clone(ch.OldID), strings.Clone(ch.ID)})
			}
		}
		return nil
	})
	if err != nil || !puts {
		return err
	}
	for t, list := range renamed {
		if _, err := t.RenameAll(list); err != nil {
			return err
		}
	}
	return c.Each(func(ch *change.Change) error {
		if t := s.tables[ch.Object.Type]; t != nil && ch.After != nil {
			_, err := t.Put(ch.ID, ch.Organization, ch.Relation, ch.After)
			return err
		}
		return nil
	})
}

// Bytes is the memory that the store holds.
func (s *Store) Bytes() int64 {
	sum := s.names.held() + s.journal.held()
	for _, t := range s.tables {
		sum += t.Bytes()
	}
	return sum
}

// Begin starts to note what is changed, so that it can be undone. It panics when
// that was begun already.
func (s *Store) Begin() { s.journal.begin() }

// Commit ends what Begin started: the changes stay. Without a Begin it does nothing.
func (s *Store) Commit() { s.journal.end() }

// Rollback undoes every change since Begin, of rows and of tables. Without a
// Begin, or after Commit, it does nothing. After an error the store is neither
// here nor there and must be filled anew.
//
// The lists of Linked and InOrganization are in another order afterwards.
func (s *Store) Rollback() error { return s.journal.rollback() }

// JournalBytes is the memory that the changes since Begin hold, with tables that
// were cleared, replaced or dropped.
func (s *Store) JournalBytes() int64 { return s.journal.held() }

// Forget gives up the possibility of a Rollback, and the memory that it takes.
func (s *Store) Forget() { s.journal.forget() }

// trim gives back what one huge row needed.
func (s *Store) trim() {
	const keep = 1 << 20
	if cap(s.image) > keep {
		s.image = nil
	}
	if cap(s.custom) > keep {
		s.custom = nil
	}
}

// Package change holds the words that the feed and the triggers share: a
// position in the write-ahead log, a table's layout, a row as it came over the
// wire, an object's net change and a whole commit.
//
// It knows neither how a commit arrives (package feed) nor what is done with it
// (packages trigger and firing), so that each of those can be read, tested and
// replaced alone.
package change

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// LSN is a byte position in the write-ahead log.
type LSN uint64

// EndLSN is the position just after a commit record: the only position that may
// be checkpointed or confirmed. It is a type of its own so that it can't be
// mixed up with the commit's start (see CommitLSN).
type EndLSN LSN

// CommitLSN is the position where a commit record starts. It identifies a
// commit in the audit (trigger_firings.commit_lsn); it must never be confirmed
// to the server, which would send the commit again.
type CommitLSN LSN

// String gives Postgres's own form, e.g. "16/B374D848".
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// String gives Postgres's own form.
func (l EndLSN) String() string { return LSN(l).String() }

// String gives Postgres's own form.
func (l CommitLSN) String() string { return LSN(l).String() }

// ParseLSN reads Postgres's own form, e.g. "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	var hi, lo uint32
	if n, err := fmt.Sscanf(s, "%X/%X", &hi, &lo); err != nil || n != 2 {
		return 0, fmt.Errorf("%q is not a log position: give it as Postgres prints it, e.g. 16/B374D848", s)
	}
	return LSN(hi)<<32 | LSN(lo), nil
}

// Replica identities as Postgres keeps them in pg_class.relreplident.
const (
	IdentityDefault = 'd'
	IdentityNothing = 'n'
	IdentityFull    = 'f'
	IdentityIndex   = 'i'
)

// Column is one column of a table's layout.
type Column struct {
	Name    string
	TypeOID uint32
	Key     bool // part of the replica identity
}

// Relation is a table's layout at one moment of the stream. It is immutable: a
// changed table is a new Relation, so that pointers can be compared.
type Relation struct {
	OID      uint32
	Schema   string
	Name     string
	Identity byte // IdentityFull and its like
	Columns  []Column
}

// Index gives the position of the named column, or -1.
func (r *Relation) Index(column string) int {
	for i := range r.Columns {
		if r.Columns[i].Name == column {
			return i
		}
	}
	return -1
}

// String gives schema.name, unquoted, for messages.
func (r *Relation) String() string { return r.Schema + "." + r.Name }

// Cell kinds, as in the wire's TupleData.
const (
	Null      = 'n'
	Unchanged = 'u' // a TOASTed value that this change left alone: neither NULL nor changed
	Text      = 't'
)

// Cell is one value of a row in Postgres's text form. Data aliases the row.
type Cell struct {
	Kind byte
	Data []byte
}

// Row is one row exactly as pgoutput sends it (TupleData: a 16-bit count, then
// for each column a kind byte and, for text, a 32-bit length and the bytes).
// Keeping the wire's form costs nothing to take in; columns are found by one
// walk when, and only when, a trigger asks. A nil Row is a row that does not
// exist.
type Row []byte

// ErrMalformedRow is returned by Decode for bytes that are not a TupleData.
var ErrMalformedRow = errors.New("malformed row in the replication stream")

// Decode walks the row once and appends its cells to dst[:0]. The cells alias r.
func (r Row) Decode(dst []Cell) ([]Cell, error) {
	dst = dst[:0]
	if len(r) < 2 {
		return dst, ErrMalformedRow
	}
	n := int(binary.BigEndian.Uint16(r))
	at := 2
	for range n {
		if at >= len(r) {
			return dst, ErrMalformedRow
		}
		kind := r[at]
		at++
		switch kind {
		case Null, Unchanged:
			dst = append(dst, Cell{Kind: kind})
		case Text:
			if len(r)-at < 4 {
				return dst, ErrMalformedRow
			}
			size := int(binary.BigEndian.Uint32(r[at:]))
			at += 4
			if size < 0 || size > len(r)-at {
				return dst, ErrMalformedRow
			}
			dst = append(dst, Cell{Kind: Text, Data: r[at : at+size : at+size]})
			at += size
		default:
			return dst, ErrMalformedRow
		}
	}
	return dst, nil
}

// MakeRow builds a Row from cells: the inverse of Decode.
func MakeRow(cells []Cell) Row {
	size := 2
	for _, c := range cells {
		size++
		if c.Kind == Text {
			size += 4 + len(c.Data)
		}
	}
	row := make([]byte, 2, size)
	binary.BigEndian.PutUint16(row, uint16(len(cells)))
	for _, c := range cells {
		row = append(row, c.Kind)
		if c.Kind == Text {
			row = binary.BigEndian.AppendUint32(row, uint32(len(c.Data)))
			row = append(row, c.Data...)
		}
	}
	return row
}

// Object says how the rows of one watched table are objects: which column
// names them, which one gives their organization, which one holds custom
// fields. The zero Organization means that every row belongs to the
// organization "default".
type Object struct {
	Type         string // the name given with `watch --as`
	Schema       string
	Table        string
	ID           string // column
	Organization string // column, or ""
	Custom       string // jsonb column, or ""
}

// DefaultOrganization owns the rows of tables that are watched without an
// organization column.
const DefaultOrganization = "default"

// String gives schema.table, unquoted, for messages.
func (o *Object) String() string { return strings.Join([]string{o.Schema, o.Table}, ".") }

// Change is what one commit did to one object, net: the row before the commit
// and the row after it. States inside the commit were never visible to anyone
// and are not kept.
type Change struct {
	Object *Object

	// Relation is the layout of After, or of Before when the object is gone.
	// BeforeRelation differs only when the table was altered inside the commit.
	Relation, BeforeRelation *Relation

	// Before is nil when the object did not exist before the commit, After when
	// it does not exist after it.
	Before, After Row

	// BeforeUnknown is set when the object existed before but its row was not
	// sent, because the table's replica identity is not FULL. Such a change
	// fires nothing: nobody guesses.
	BeforeUnknown bool

	// ID is the object's id after the commit (before it, when it is gone);
	// OldID is the id before the commit when the commit changed it, else "".
	ID, OldID string

	// Organization is that of After, OldOrganization that of Before; "" when the
	// row does not exist, is unknown, or names none.
	Organization, OldOrganization string
}

// Prefixes of the transactional logical messages that the feed understands.
const (
	MessageCause    = "pgautomate.cause"    // JSON Cause: this commit was made by an automation
	MessageSuppress = "pgautomate.suppress" // this commit's changes fire nothing
	MessageRegistry = "pgautomate.registry" // object types changed: read them anew
	MessageClock    = "pgautomate.clock"    // nothing changed, but it is that late now
)

// Message is a transactional logical message (pg_logical_emit_message) of a commit.
type Message struct {
	Prefix  string
	Content []byte
}

// Commit is one committed transaction of the source database.
type Commit struct {
	XID  uint32
	LSN  CommitLSN
	End  EndLSN
	Time time.Time

	// Changes are net, one per object, in the order in which the commit first
	// touched them. Of a commit that is too large for memory Large has them
	// instead; read them with Each, which knows both.
	Changes []Change
	Large   Large

	Messages  []Message
	Truncated []*Object
	Notes     []Note
}

// Large gives the net changes of a commit that is not in memory.
type Large interface {
	// Each calls f with each change, in the order of first touch, until f gives
	// an error, which it returns. It may be called again. The Change is f's only
	// until f returns; what its fields point to stays as it is, but should be
	// copied rather than kept: it keeps a block of 64 KiB.
	Each(f func(*Change) error) error
}

// Each calls f with each change of the commit: see Large.
func (c *Commit) Each(f func(*Change) error) error {
	if c.Large != nil {
		return c.Large.Each(f)
	}
	for i := range c.Changes {
		if err := f(&c.Changes[i]); err != nil {
			return err
		}
	}
	return nil
}

// Note is something worth a person's knowing that must not stop the stream; it
// becomes a row in pgautomate.feed_notes.
type Note struct {
	Kind   string // suppressed, truncate_ignored, loop_suppressed, type_mismatch, …
	Count  int
	Detail map[string]any
}

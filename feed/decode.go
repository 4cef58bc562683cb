package feed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/pgautomate/pgautomate/change"
)

// This file parses pgoutput, protocol version 1, as the Postgres manual's
// chapter "Logical Replication Message Formats" lays it out. It copies nothing:
// every slice of a parsed message aliases the input. It never panics, whatever
// the bytes; FuzzDecode holds it to that.

// Kinds of pgoutput messages.
const (
	kindBegin    = 'B'
	kindCommit   = 'C'
	kindOrigin   = 'O'
	kindRelation = 'R'
	kindType     = 'Y'
	kindInsert   = 'I'
	kindUpdate   = 'U'
	kindDelete   = 'D'
	kindTruncate = 'T'
	kindMessage  = 'M'
)

// What an UPDATE or DELETE says about the old row.
const (
	oldNone = 0
	oldKey  = 'K' // only the columns of the replica identity; the others are sent as NULL
	oldFull = 'O' // the whole row (REPLICA IDENTITY FULL)
)

var (
	errTruncatedMessage = errors.New("it ends too early")
	errLongMessage      = errors.New("it goes on after its end")
)

// wire is one parsed message. Which fields are set depends on kind; a wire is
// reused, so a field of another kind may hold anything.
type wire struct {
	kind byte

	lsn  change.LSN // Begin, Commit: start of the commit record; Message: its own position
	end  change.LSN // Commit: end of the commit record
	time time.Time  // Begin, Commit
	xid  uint32     // Begin

	relation uint32           // Relation, Insert, Update, Delete: the table's OID
	layout   *change.Relation // Relation

	oldKind byte   // Update, Delete: oldNone, oldKey, oldFull
	old     []byte // Update, Delete: TupleData
	new     []byte // Insert, Update: TupleData

	truncated []uint32 // Truncate

	transactional bool   // Message
	prefix        []byte // Message
	content       []byte // Message
}

// parse reads one message. When a row message fails after its table's OID was
// read, m.relation is set, so that the caller can say whose row it was.
func (m *wire) parse(data []byte) error {
	if len(data) == 0 {
		return errTruncatedMessage
	}
	m.kind = data[0]
	m.relation = 0
	r := reader{data: data, at: 1}
	switch m.kind {
	case kindBegin:
		m.lsn = change.LSN(r.uint64())
		m.time = postgresTime(r.uint64())
		m.xid = r.uint32()
	case kindCommit:
		r.uint8() // flags, none defined
		m.lsn = change.LSN(r.uint64())
		m.end = change.LSN(r.uint64())
		m.time = postgresTime(r.uint64())
	case kindRelation:
		m.parseRelation(&r)
	case kindInsert:
		m.relation = r.uint32()
		r.expect('N')
		m.oldKind, m.old = oldNone, nil
		m.new = r.tuple()
	case kindUpdate:
		m.relation = r.uint32()
		m.oldKind, m.old = oldNone, nil
		mark := r.uint8()
		if mark == oldKey || mark == oldFull {
			m.oldKind, m.old = mark, r.tuple()
			mark = r.uint8()
		}
		if r.err == nil && mark != 'N' {
			return fmt.Errorf("an update without a new row: found %q", mark)
		}
		m.new = r.tuple()
	case kindDelete:
		m.relation = r.uint32()
		m.oldKind = r.uint8()
		if r.err == nil && m.oldKind != oldKey && m.oldKind != oldFull {
			return fmt.Errorf("a delete without an old row: found %q", m.oldKind)
		}
		m.old, m.new = r.tuple(), nil
	case kindTruncate:
		n := int(r.uint32())
		r.uint8() // CASCADE, RESTART IDENTITY
		m.truncated = m.truncated[:0]
		for i := 0; i < n && r.err == nil; i++ {
			m.truncated = append(m.truncated, r.uint32())
		}
	case kindMessage:
		m.transactional = r.uint8()&1 != 0
		m.lsn = change.LSN(r.uint64())
		m.prefix = r.string()
		m.content = r.bytes(int(r.uint32()))
	case kindOrigin: // where a change came from first
		r.uint64()
		r.string()
	case kindType: // the name of a user's type
		r.uint32()
		r.string()
		r.string()
	default:
		return errors.New("there is no such message")
	}
	if r.err == nil && r.at != len(data) {
		r.err = errLongMessage
	}
	return r.err
}

func (m *wire) parseRelation(r *reader) {
	oid := r.uint32()
	m.relation = oid
	schema := string(r.string())
	name := string(r.string())
	identity := r.uint8()
	n := int(r.uint16())
	if r.err != nil {
		return
	}
	if schema == "" {
		schema = "pg_catalog" // the protocol's shorthand
	}
	columns := make([]change.Column, 0, min(n, 1600))
	for range n {
		flags := r.uint8()
		column := change.Column{Name: string(r.string()), TypeOID: r.uint32(), Key: flags&1 != 0}
		r.uint32() // type modifier
		if r.err != nil {
			return
		}
		columns = append(columns, column)
	}
	m.layout = &change.Relation{OID: oid, Schema: schema, Name: name, Identity: identity, Columns: columns}
}

// reader takes big-endian values off a message. After the first failure every
// read gives a zero value and err stays set.
type reader struct {
	data []byte
	at   int
	err  error
}

func (r *reader) bytes(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.data)-r.at {
		r.fail(errTruncatedMessage)
		return nil
	}
	b := r.data[r.at : r.at+n : r.at+n]
	r.at += n
	return b
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) uint8() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// string reads up to a zero byte, which it also takes.
func (r *reader) string() []byte {
	if r.err != nil {
		return nil
	}
	for i := r.at; i < len(r.data); i++ {
		if r.data[i] == 0 {
			s := r.data[r.at:i:i]
			r.at = i + 1
			return s
		}
	}
	r.fail(errTruncatedMessage)
	return nil
}

func (r *reader) expect(mark byte) {
	if got := r.uint8(); r.err == nil && got != mark {
		r.fail(fmt.Errorf("expected %q, found %q", mark, got))
	}
}

// tuple takes one TupleData, checking every length on the way.
func (r *reader) tuple() []byte {
	if r.err != nil {
		return nil
	}
	n, err := tupleLength(r.data[r.at:])
	if err != nil {
		r.fail(err)
		return nil
	}
	return r.bytes(n)
}

// tupleLength gives the number of bytes that the TupleData at the start of b takes.
func tupleLength(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, change.ErrMalformedRow
	}
	at := 2
	for range int(binary.BigEndian.Uint16(b)) {
		if at >= len(b) {
			return 0, change.ErrMalformedRow
		}
		kind := b[at]
		at++
		switch kind {
		case change.Null, change.Unchanged:
		case change.Text:
			if len(b)-at < 4 {
				return 0, change.ErrMalformedRow
			}
			size := uint64(binary.BigEndian.Uint32(b[at:]))
			at += 4
			if size > uint64(len(b)-at) {
				return 0, change.ErrMalformedRow
			}
			at += int(size)
		default: // 'b', binary, is sent only to who asks for it
			return 0, change.ErrMalformedRow
		}
	}
	return at, nil
}

// postgresTime converts microseconds since 2000-01-01 UTC.
func postgresTime(us uint64) time.Time {
	const epoch = 946_684_800 * 1_000_000
	return time.UnixMicro(int64(us) + epoch).UTC()
}

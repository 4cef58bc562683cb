package feed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgautomate/pgautomate/change"
)

// message builds a pgoutput message. Strings get their zero byte.
func message(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case byte:
			b = append(b, p)
		case rune:
			b = append(b, byte(p))
		case uint16:
			b = binary.BigEndian.AppendUint16(b, p)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, p)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		case string:
			b = append(append(b, p...), 0)
		case change.Row:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		default:
			panic("unknown part")
		}
	}
	return b
}

// Messages as Postgres sends them, one of each kind.
var (
	begin     = message('B', uint64(0x16B374D8), uint64(1_000_000), uint32(7))
	commit    = message('C', byte(0), uint64(0x16B374D8), uint64(0x16B37508), uint64(1_000_000))
	origin    = message('O', uint64(1), "elsewhere")
	relation  = message('R', uint32(1), "public", "lead", byte('f'), uint16(4), byte(1), "id", uint32(23), uint32(0xffffffff), byte(1), "org", uint32(25), uint32(0xffffffff), byte(1), "v", uint32(25), uint32(0xffffffff), byte(1), "doc", uint32(25), uint32(0xffffffff))
	typ       = message('Y', uint32(9), "public", "mood")
	insert    = message('I', uint32(1), 'N', row("1", "A", "x", "~"))
	update    = message('U', uint32(1), 'N', row("1", "A", "y", "^"))
	updateOld = message('U', uint32(1), 'O', row("1", "A", "x", "d"), 'N', row("1", "A", "y", "^"))
	updateKey = message('U', uint32(1), 'K', row("1", "~", "~", "~"), 'N', row("2", "A", "y", "^"))
	remove    = message('D', uint32(1), 'O', row("1", "A", "x", "~"))
	truncate  = message('T', uint32(2), byte(0), uint32(1), uint32(5))
	logical   = message('M', byte(1), uint64(5), "pgautomate.cause", uint32(2), []byte("{}"))

	all = map[string][]byte{
		"begin": begin, "commit": commit, "origin": origin, "relation": relation, "type": typ, "insert": insert,
		"update": update, "updateOld": updateOld, "updateKey": updateKey, "remove": remove, "truncate": truncate, "logical": logical,
	}
)

func TestDecode(t *testing.T) {
	t.Parallel()
	var m wire
	parse := func(data []byte) {
		t.Helper()
		if err := m.parse(data); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)
	parse(begin)
	if m.lsn != 0x16B374D8 || m.xid != 7 || !m.time.Equal(at) {
		t.Errorf("begin: %+v", m)
	}
	parse(commit)
	if m.lsn != 0x16B374D8 || m.end != 0x16B37508 || !m.time.Equal(at) {
		t.Errorf("commit: %+v", m)
	}
	parse(relation)
	if diff := cmp.Diff(fullRelTyped(), m.layout); diff != "" {
		t.Error(diff)
	}
	parse(updateOld)
	if m.relation != 1 || m.oldKind != oldFull || !bytes.Equal(m.old, row("1", "A", "x", "d")) || !bytes.Equal(m.new, row("1", "A", "y", "^")) {
		t.Errorf("update: %+v", m)
	}
	parse(update)
	if m.oldKind != oldNone || m.old != nil {
		t.Errorf("update: %+v", m)
	}
	parse(remove)
	if m.oldKind != oldFull || m.new != nil || !bytes.Equal(m.old, row("1", "A", "x", "~")) {
		t.Errorf("delete: %+v", m)
	}
	parse(truncate)
	if !cmp.Equal(m.truncated, []uint32{1, 5}) {
		t.Errorf("truncate: %+v", m)
	}
	parse(logical)
	if !m.transactional || string(m.prefix) != change.MessageCause || string(m.content) != "{}" {
		t.Errorf("message: %+v", m)
	}
	parse(origin)
	parse(typ)
}

func fullRelTyped() *change.Relation {
	return &change.Relation{OID: 1, Schema: "public", Name: "lead", Identity: 'f', Columns: []change.Column{
		{Name: "id", TypeOID: 23, Key: true}, {Name: "org", TypeOID: 25, Key: true},
		{Name: "v", TypeOID: 25, Key: true}, {Name: "doc", TypeOID: 25, Key: true},
	}}
}

// TestDecodeShortened: every message cut short anywhere is an error, not a
// panic and not a change; and so is every message that goes on.
func TestDecodeShortened(t *testing.T) {
	t.Parallel()
	for name, data := range all {
		var m wire
		if err := m.parse(append(slices.Clip(data), 0)); err == nil {
			t.Errorf("%s: a byte too many is accepted", name)
		}
		for n := range data {
			var m wire
			if err := m.parse(data[:n:n]); err == nil {
				t.Errorf("%s: the first %d of %d bytes are accepted", name, n, len(data))
			}
		}
	}
}

type oneTable struct{}

func (oneTable) Object(context.Context, *change.Relation) (*change.Object, error) { return lead, nil }
func (oneTable) Reload(context.Context) error                                     { return nil }

// testSession is a reader without a connection.
func testSession() *session {
	f := &Feed{cfg: Config{Objects: oneTable{}}, log: slog.New(slog.DiscardHandler), garbled: map[place]int{}, unreadable: map[uint32]int{}}
	return &session{f: f, relations: map[uint32]*layout{}, queue: newQueue(1000, 1<<30), statusEvery: time.Hour,
		tracker: NewTracker(1, 1), stopped: make(chan struct{})}
}

// read gives messages to a session, and what a feed keeps of the error that ends it to the next one.
func read(t *testing.T, f *Feed, messages ...[]byte) (*session, error) {
	t.Helper()
	s := testSession()
	s.f = f
	for _, data := range messages {
		if err := s.handle(t.Context(), data); err != nil {
			if e, ok := errors.AsType[*garbledError](err); ok {
				f.garbled[e.place]++
			}
			return s, err
		}
	}
	return s, nil
}

// TestMalformedRowsDoNotStopTheStream: each is read again, twice, until it is taken for
// what the server has; after three of a table its others are at once. The rest of the
// commit comes through.
func TestMalformedRowsDoNotStopTheStream(t *testing.T) {
	t.Parallel()
	bad := bytes.Clone(insert)
	bad[len(bad)-1] = '?'
	binary := message('I', uint32(1), 'N', uint16(1), byte('b'), uint32(1), byte(0))
	narrow := message('I', uint32(1), 'N', row("9"))
	long := append(bytes.Clone(insert), 0)
	f := testSession().f
	for n := range 6 {
		_, err := read(t, f, begin, relation, bad, insert, binary, insert[:len(insert)-1], narrow, long, commit)
		if e, ok := errors.AsType[*garbledError](err); !ok || e.place.commit != 0x16B374D8 {
			t.Fatalf("reading %d: %v", n, err)
		}
	}
	s, err := read(t, f, begin, relation, bad, insert, binary, insert[:len(insert)-1], narrow, long, commit)
	if err != nil {
		t.Fatal(err)
	}
	commits, _, _ := s.queue.take(nil)
	want := []string{"lead 1: - -> 1,A,x,~ [>A]", "note undecodable 4 " + reasonMalformed, "note undecodable 1 " + reasonWidth}
	if diff := cmp.Diff(want, show(commits[0])); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

// TestNonsenseStopsTheStream: what isn't a row of a known table is read again, twice,
// then it is an error that says where.
func TestNonsenseStopsTheStream(t *testing.T) {
	t.Parallel()
	changed := func(data []byte, at int) []byte {
		c := bytes.Clone(data)
		c[at] ^= 1
		return c
	}
	const inside, outside = "transaction that commits at 0/16B374D8", "after the commit that ends at 0/0"
	for name, test := range map[string]struct {
		messages [][]byte
		where    string
	}{
		"no such message":           {[][]byte{begin, relation, append([]byte{'?'}, insert[1:]...)}, inside},
		"empty":                     {[][]byte{begin, relation, {}}, inside},
		"unnamed table":             {[][]byte{begin, relation, changed(insert, 4)}, inside},
		"unnamed table, truncated":  {[][]byte{begin, truncate}, inside},
		"table cut short":           {[][]byte{begin, relation[:20]}, inside},
		"change outside":            {[][]byte{begin, relation, commit, insert}, "ends at 0/16B37508"},
		"message outside":           {[][]byte{logical}, outside},
		"transaction cut short":     {[][]byte{begin[:9]}, outside},
		"transaction inside":        {[][]byte{begin, relation, insert, begin}, "after 1 changes of the " + inside},
		"end of another":            {[][]byte{begin, relation, changed(commit, 9)}, inside},
		"end outside":               {[][]byte{commit}, outside},
		"end before its beginning":  {[][]byte{begin, changed(commit, 15)}, inside},
		"end cut short":             {[][]byte{begin, commit[:10]}, inside},
		"end with something behind": {[][]byte{begin, append(bytes.Clone(commit), 0)}, inside},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := testSession().f
			for range rereads {
				if _, err := read(t, f, test.messages...); err == nil || isPermanent(err) {
					t.Fatalf("error %v, want one after which it is read again", err)
				}
			}
			s, err := read(t, f, test.messages...)
			if !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), test.where) || !strings.Contains(err.Error(), recreate) {
				t.Errorf("error %v, want one that says %q", err, test.where)
			}
			if test.where != "ends at 0/16B37508" && s.queue.length() != 0 {
				t.Error("something is given to the applier")
			}
		})
	}
}

// FuzzDecode feeds a reader with a stream of messages, each preceded by its
// length: nothing may panic, and what comes out must be well-formed.
func FuzzDecode(f *testing.F) {
	stream := func(messages ...[]byte) (b []byte) {
		for _, m := range messages {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
		}
		return b
	}
	for _, m := range all {
		f.Add(stream(m))
		f.Add(stream(begin, relation, insert, m, updateOld, m, commit))
	}
	f.Add(stream(begin, relation, insert, updateOld, updateKey, remove, truncate, insert, logical, commit, begin, update, remove, commit))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := testSession()
		for len(data) >= 2 {
			n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			part := data[2 : 2+n : 2+n]
			data = data[2+n:]
			if len(part) > 0 && part[0] == kindMessage && bytes.Contains(part, []byte(change.MessageRegistry)) {
				continue // the barrier waits for an applier
			}
			_ = s.handle(t.Context(), part) // an error ends a session; a panic ends all
		}
		s.queue.close()
		for {
			commits, _, more := s.queue.take(nil)
			if !more {
				return
			}
			for _, c := range commits {
				for _, ch := range c.Changes {
					for _, r := range []change.Row{ch.Before, ch.After} {
						if r == nil {
							continue
						}
						if _, err := r.Decode(nil); err != nil {
							t.Fatalf("%v: %q", err, r)
						}
					}
					if ch.Before == nil && ch.After == nil && !ch.BeforeUnknown {
						t.Fatalf("change of nothing: %+v", ch)
					}
				}
			}
		}
	})
}

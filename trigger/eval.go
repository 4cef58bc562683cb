package trigger

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/internal/jsonscan"
)

// Evaluation walks a program's bytes over the two images of one change. Values
// are parsed when the first condition asks for them and kept for the rest of the
// change, for each field slot and side. All of it lives in buffers that the next
// change uses again.

// truth is Kleene's. Unknown comes from a value that the stream did not send;
// NULL is no such thing.
type truth uint8

const (
	isFalse truth = iota
	isTrue
	unknown
)

func truthOf(b bool) truth {
	if b {
		return isTrue
	}
	return isFalse
}

func (t truth) not() truth {
	switch t {
	case isFalse:
		return isTrue
	case isTrue:
		return isFalse
	}
	return unknown
}

type tag uint8

const (
	tagText tag = iota
	tagBool
	tagNumber
	tagDate
	tagInstant
	tagComposite // a JSON object, or an array in an array
	tagBroken    // a value that can't be read; matches nothing
)

// element is one scalar of a field: a plain column has at most one, an array any number.
type element struct {
	raw   []byte
	tag   tag
	class class // of number, once parsed
	done  bool  // number or moment is parsed
	isDay bool  // moment counts days
	good  bool  // moment could be parsed
	num   []byte
	when  int64
}

// fieldValue is a field's elements on one side, valid in one epoch.
type fieldValue struct {
	epoch      uint32
	start, end int32
	unknown    bool
}

// side is one image of the object.
type side struct {
	row      change.Row
	starts   []uint32 // where each cell starts in the row
	layout   *layout
	id       string
	isBefore bool

	values   []fieldValue
	elements []element
	arena    []byte // what had to be rewritten: unescaped strings, encoded numbers

	custom      []jsonscan.Member
	customState customState
}

type customState uint8

const (
	customUnread customState = iota
	customRead
	customSorted // read, and in jsonb's order of keys: shorter ones first
	customNone
	customUnknown
)

func (s *side) reset(slots int) {
	if len(s.values) < slots {
		s.values = make([]fieldValue, slots+slots/2+8)
	}
	s.elements = s.elements[:0]
	s.arena = s.arena[:0]
	s.custom = s.custom[:0]
	s.customState = customUnread
}

// cellEnd gives the end of the cell that starts at a place of a row, or -1.
func cellEnd(row change.Row, at int) int {
	if at >= len(row) {
		return -1
	}
	switch row[at] {
	case change.Null, change.Unchanged:
		return at + 1
	case change.Text:
		if len(row)-at < 5 {
			return -1
		}
		if size := int(binary.BigEndian.Uint32(row[at+1:])); size <= len(row)-at-5 {
			return at + 5 + size
		}
	}
	return -1
}

// load finds the cells of a row.
func (s *side) load(row change.Row, l *layout) error {
	if err := s.begin(row, l); err != nil {
		return err
	}
	at := 2
	for range l.relation.Columns {
		s.starts = append(s.starts, uint32(at))
		if at = cellEnd(row, at); at < 0 {
			return s.malformed()
		}
	}
	return nil
}

func (s *side) begin(row change.Row, l *layout) error {
	s.row, s.layout = row, l
	s.starts = s.starts[:0]
	if len(row) < 2 {
		return s.malformed()
	}
	if n := int(binary.BigEndian.Uint16(row)); n != len(l.relation.Columns) {
		return fmt.Errorf("table %s has %d columns, the row has %d: %w", l.relation, len(l.relation.Columns), n, change.ErrMalformedRow)
	}
	return nil
}

func (s *side) malformed() error {
	return fmt.Errorf("table %s: %w", s.layout.relation, change.ErrMalformedRow)
}

// loadBoth finds the cells of two rows of one layout, and which of them differ:
// m.differs has a bit for each. Most are the same, which takes no more than
// comparing bytes.
func (m *matcher) loadBoth(before, after change.Row, l *layout) error {
	if err := m.before.begin(before, l); err != nil {
		return err
	}
	if err := m.after.begin(after, l); err != nil {
		return err
	}
	n := len(l.relation.Columns)
	m.differs = bitsOf(m.differs, n)
	m.before.starts = slices.Grow(m.before.starts, n)[:n]
	m.after.starts = slices.Grow(m.after.starts, n)[:n]
	b, a := 2, 2
	for i := range n {
		m.before.starts[i], m.after.starts[i] = uint32(b), uint32(a)
		end := cellEnd(after, a)
		if end < 0 {
			return m.after.malformed()
		}
		if bEnd := b + end - a; bEnd <= len(before) && string(before[b:bEnd]) == string(after[a:end]) {
			b = bEnd
		} else {
			if b = cellEnd(before, b); b < 0 {
				return m.after.malformed()
			}
			// What was left alone is marked as such after the change only.
			if after[a] != change.Unchanged {
				m.differs[i/64] |= 1 << (i % 64)
			}
		}
		a = end
	}
	return nil
}

// column gives a column's cell by its place in the row.
func (s *side) column(i int) change.Cell {
	at := int(s.starts[i])
	if s.row[at] != change.Text {
		return change.Cell{Kind: s.row[at]}
	}
	end := at + 5 + int(binary.BigEndian.Uint32(s.row[at+1:]))
	return change.Cell{Kind: change.Text, Data: s.row[at+5 : end : end]}
}

// cell finds a column's cell. A table that was altered inside the commit has
// columns that the row before did not: they had no value. A column that the row
// after lacks is unknown, until the new layout is made known with SetSchema.
func (s *side) cell(col int32) change.Cell {
	if pos := s.layout.position(col); pos >= 0 {
		return s.column(int(pos))
	}
	if s.isBefore {
		return change.Cell{Kind: change.Null}
	}
	return change.Cell{Kind: change.Unchanged}
}

// member finds a custom field. It is nil when the object has none of that name.
func (s *side) member(col int32, key string) (value []byte, state customState) {
	if s.customState == customUnread {
		s.customState = customNone
		switch cell := s.cell(col); cell.Kind {
		case change.Unchanged:
			s.customState = customUnknown
		case change.Text:
			var ok bool
			if s.custom, ok = jsonscan.Members(s.custom[:0], cell.Data); ok {
				s.customState = customRead
				if len(s.custom) > fewMembers && inOrder(s.custom) {
					s.customState = customSorted
				}
			}
		}
	}
	switch s.customState {
	case customRead:
	case customSorted:
		low, high := 0, len(s.custom)
		for low < high {
			mid := int(uint(low+high) >> 1)
			if k := s.custom[mid].Key; len(k) < len(key) || len(k) == len(key) && string(k) < key {
				low = mid + 1
			} else {
				high = mid
			}
		}
		if low < len(s.custom) && string(s.custom[low].Key) == key {
			return s.custom[low].Value, customRead
		}
		return nil, customNone
	default:
		return nil, s.customState
	}
	for i := len(s.custom) - 1; i >= 0; i-- { // json, unlike jsonb, may hold a key twice: the last counts
		v := &s.custom[i]
		k := v.Key
		if string(k) == key {
			return v.Value, customRead
		}
		for j := range k {
			if k[j] == '\\' {
				start := len(s.arena)
				if s.arena = jsonscan.Unquote(s.arena, k); string(s.arena[start:]) == key {
					return v.Value, customRead
				}
				break
			}
		}
	}
	return nil, customNone
}

// fewMembers are looked through one by one.
const fewMembers = 8

// inOrder says whether members are in jsonb's order of keys. Those that need
// unquoting, or are there twice, are in none.
func inOrder(members []jsonscan.Member) bool {
	for i := range members {
		k := members[i].Key
		if slices.Contains(k, '\\') {
			return false
		}
		if i == 0 {
			continue
		}
		if last := members[i-1].Key; len(k) < len(last) || len(k) == len(last) && string(k) <= string(last) {
			return false
		}
	}
	return true
}

// matcher is what evaluation works in. One goroutine, one matcher.
type matcher struct {
	epoch         uint32
	fields        []field  // of the object type
	slotFields    []uint32 // of the group: group.fields
	before, after side
	counters      Counters

	differs []uint64 // a bit for each cell that is not the same, if both rows have one layout
	columns []uint64 // a bit for each of objectType.columns that is not the same
	changed []uint32 // slots that are not the same
	hits    hits     // what probe brought up
	related []uint32 // references with refRelated that probe brought up
	index   int      // changes or creations
	numbers []uint32 // of the triggers that were brought up
	guards  [1 << (32 - guardBits)]guardState
	folded  []byte // scratch of hashFold
	sum     uint32 // see group.touch

	reading *fieldValue // being parsed: what a panic is blamed on, before the trigger
	at      int         // index into numbers of the trigger being evaluated: what a panic is blamed on otherwise

	// Of evaluation on the mirror: see relations.
	set          *Set // nil: relations are unknown
	depth        int
	organization string
}

// value gives a field's elements, reading them if this change has not yet.
func (m *matcher) value(s *side, slot uint32) *fieldValue {
	v := &s.values[slot]
	if v.epoch == m.epoch {
		return v
	}
	m.reading = v
	v.start = int32(len(s.elements))
	v.end = v.start
	v.unknown = false
	f := &m.fields[m.slotFields[slot]]
	switch f.spec.kind {
	case specID:
		start := len(s.arena)
		s.arena = append(s.arena, s.id...)
		s.scalar(f.kind, s.arena[start:len(s.arena):len(s.arena)])
	case specCustom:
		value, state := s.member(f.col, f.spec.name)
		switch state {
		case customUnknown:
			v.unknown = true
		case customRead:
			s.json(value, true)
		}
	default:
		cell := s.cell(f.col)
		switch {
		case cell.Kind == change.Unchanged:
			v.unknown = true
		case cell.Kind == change.Null:
		case f.array:
			var ok bool
			s.arena, ok = splitArray(cell.Data, s.arena, func(e []byte) { s.scalar(f.kind, e) })
			if !ok {
				s.elements = append(s.elements[:v.start], element{raw: cell.Data, tag: tagBroken})
			}
		default:
			s.scalar(f.kind, cell.Data)
		}
	}
	v.end = int32(len(s.elements))
	v.epoch = m.epoch
	m.reading = nil
	return v
}

// scalar adds one value of a column.
func (s *side) scalar(kind Kind, raw []byte) {
	e := element{raw: raw}
	switch kind {
	case KindBool:
		e.tag = tagBool
	case KindNumber:
		e.tag = tagNumber
	case KindDate:
		e.tag = tagDate
	case KindTimestamp, KindTimestampTZ:
		e.tag = tagInstant
	case KindJSON:
		s.json(raw, true)
		return
	case KindPadded:
		for len(e.raw) > 0 && e.raw[len(e.raw)-1] == ' ' {
			e.raw = e.raw[:len(e.raw)-1]
		}
	}
	s.elements = append(s.elements, e)
}

// json adds what a JSON value holds: nothing for null, the elements of an array.
func (s *side) json(raw []byte, arrays bool) {
	i := jsonscan.Space(raw, 0)
	end := jsonscan.Value(raw, i)
	if end < 0 {
		s.elements = append(s.elements, element{raw: raw, tag: tagBroken})
		return
	}
	raw = raw[i:end]
	e := element{raw: raw}
	switch c := raw[0]; c {
	case 'n':
		return
	case 't', 'f':
		e.tag = tagBool
	case '"':
		e.raw = raw[1 : len(raw)-1]
		if slices.Contains(e.raw, '\\') {
			start := len(s.arena)
			s.arena = jsonscan.Unquote(s.arena, e.raw)
			e.raw = s.arena[start:len(s.arena):len(s.arena)]
		}
	case '{':
		e.tag = tagComposite
	case '[':
		if !arrays {
			e.tag = tagComposite
			break
		}
		i = jsonscan.Space(raw, 1)
		for i < len(raw) && raw[i] != ']' {
			end := jsonscan.Value(raw, i)
			if end < 0 {
				s.elements = append(s.elements, element{raw: raw, tag: tagBroken})
				return
			}
			s.json(raw[i:end], false)
			if i = jsonscan.Space(raw, end); i < len(raw) && raw[i] == ',' {
				i = jsonscan.Space(raw, i+1)
			}
		}
		return
	default:
		e.tag = tagNumber
	}
	s.elements = append(s.elements, e)
}

// number reads a number once.
func (m *matcher) number(s *side, v *fieldValue, e *element) bool {
	if !e.done {
		m.reading = v
		start := len(s.arena)
		s.arena, e.class = appendNumber(s.arena, e.raw)
		e.num = s.arena[start:len(s.arena):len(s.arena)]
		e.done = true
		m.reading = nil
	}
	return e.class == isNumber
}

// moment reads a date or a timestamp once.
func (m *matcher) moment(v *fieldValue, e *element) bool {
	if !e.done {
		m.reading = v
		var when moment
		when, e.good = parseMoment(e.raw)
		switch e.tag {
		case tagDate:
			e.isDay = true
		case tagText:
			e.isDay = !when.hasTime && when.infinite == 0
		}
		if e.isDay {
			e.when = when.days()
		} else {
			e.when = when.instant()
		}
		e.done = true
		m.reading = nil
	}
	return e.good
}

// eval evaluates the first node of code and gives what follows it.
func (m *matcher) eval(code string, s *side) (result truth, rest string) {
	op := code[0]
	body, rest := take(code[1:])
	switch op &^ opNegate {
	case opFalse:
		return isFalse, rest
	case opTrue:
		return isTrue, rest
	case opAnd:
		result = isTrue
		for len(body) > 0 {
			var t truth
			if t, body = m.eval(body, s); t == isFalse {
				return isFalse, rest
			} else if t == unknown {
				result = unknown
			}
		}
		return result, rest
	case opOr:
		result = isFalse
		for len(body) > 0 {
			var t truth
			if t, body = m.eval(body, s); t == isTrue {
				return isTrue, rest
			} else if t == unknown {
				result = unknown
			}
		}
		return result, rest
	}
	slot, k := uvarint(body)
	if op&^opNegate == opRelated {
		if result = m.hasRelated(body[k:], s, uint32(slot)); op&opNegate != 0 {
			result = result.not()
		}
		return result, rest
	}
	v := m.value(s, uint32(slot))
	if v.unknown || op&^opNegate == opWindow && m.set == nil { // only a matcher on the mirror has a clock
		return unknown, rest
	}
	result = truthOf(m.condition(op&^opNegate, body[k:], s, v))
	if op&opNegate != 0 {
		result = result.not()
	}
	return result, rest
}

// condition reports whether any element of the value meets the condition.
func (m *matcher) condition(op byte, payload string, s *side, v *fieldValue) bool {
	mismatch := false
	elements := s.elements[v.start:v.end]
	for i := range elements {
		e := &elements[i]
		ok, fits := false, e.tag != tagBroken
		switch op {
		case opExists:
			ok, fits = true, true
		case opText:
			fits = fits && e.tag == tagText
			ok = fits && equalFold(e.raw, payload)
		case opTerm:
			ok, fits = m.term(payload, s, v, e)
		case opBool:
			fits = fits && e.tag == tagBool && len(e.raw) > 0
			ok = fits && (e.raw[0] == 't') == (payload[0] == 1)
		case opNumber:
			fits = fits && e.tag == tagNumber && (m.number(s, v, e) || e.class == isNaN)
			ok = fits && e.class == isNumber && inRange(e.num, payload)
		case opMoment, opWindow:
			fits = fits && (e.tag == tagDate || e.tag == tagInstant || e.tag == tagText) && m.moment(v, e)
			ok = fits && m.within(op, e, payload)
		default:
			panic(fmt.Sprintf("trigger: unknown operation %d", op))
		}
		if ok {
			return true
		}
		mismatch = mismatch || !fits
	}
	if mismatch {
		m.counters.TypeMismatch++
	}
	return false
}

func (m *matcher) term(payload string, s *side, v *fieldValue, e *element) (ok, fits bool) {
	accepts := payload[0]
	texts, encoded := take(payload[1:])
	switch e.tag {
	case tagText:
		return listHas(texts, e.raw), true
	case tagBool:
		want := byte(acceptsFalse)
		if len(e.raw) > 0 && e.raw[0] == 't' {
			want = acceptsTrue
		}
		return accepts&want != 0, true
	case tagNumber:
		if !m.number(s, v, e) {
			return false, e.class == isNaN
		}
		return listHas(encoded, e.num), true
	case tagDate, tagInstant:
		if !m.moment(v, e) {
			return false, false
		}
		var key [8]byte
		return listHas(encoded, appendMicros(key[:0], e.when)), true
	}
	return false, false
}

func inRange(num []byte, payload string) bool {
	flags := payload[0]
	low, high := take(payload[1:])
	if flags&hasLow != 0 && (string(num) <= low && (flags&lowIncluded == 0 || string(num) != low)) {
		return false
	}
	return flags&hasHigh == 0 || string(num) < high || flags&highIncluded != 0 && string(num) == high
}

func (m *matcher) within(op byte, e *element, payload string) bool {
	if op == opWindow {
		return m.set.inWindow(e, payload)
	}
	return inMoments(e, payload)
}

func inMoments(e *element, payload string) bool {
	flags := payload[0]
	payload = payload[1:]
	for _, bound := range [...]byte{hasFrom, hasBefore} {
		if flags&bound == 0 {
			continue
		}
		var day, micros int64
		if flags&asDays != 0 {
			day, payload = varint(payload)
		}
		if flags&asMicros != 0 {
			micros, payload = varint(payload)
		}
		at := micros
		if e.isDay {
			at = day
		}
		if (bound == hasFrom) != (e.when >= at) {
			return false
		}
	}
	return true
}

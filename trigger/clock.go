package trigger

import (
	"slices"
	"time"
	"unsafe"

	"github.com/pgautomate/pgautomate/mirror"
)

// Triggers that begin to match by the passing of time. Whenever such a trigger is
// asked of an object, evaluation notes the next moment at which one of the bounds
// that it looked at passes its value: until then the verdict can't change unless
// a row does. That moment is the timer of (trigger, object); there is at most one.
//
// The clock is that of the commits: it stands at the latest one's time, so that
// what is read again after a crash is decided as it was.

// clock is what a Set has of it.
type clock struct {
	now    int64 // microseconds since 2000-01-01 UTC
	flips  int64 // of the evaluation: the next moment at which it may turn out otherwise
	timed  int   // triggers
	armed  int   // of them, those whose timers are set
	bounds []*movingBound
	ids    map[boundKey]uint32
	timers []Timer
}

type boundKey struct {
	text string
	loc  *time.Location
}

// Timer says when a trigger is to be asked of an object again.
type Timer struct {
	TriggerID int64
	ObjectID  string
	Due       time.Time // zero: not by the clock
}

// Unarmed is a timed trigger whose timers are not all set.
type Unarmed struct {
	TriggerID int64
	Version   int32
}

// bound interns a bound that moves.
func (s *Set) bound(m *momentNode, loc *time.Location) uint32 {
	key := boundKey{m.value, loc} // now has none
	if id, ok := s.clock.ids[key]; ok {
		return id
	}
	b := &movingBound{loc: loc, now: never}
	if m.typ == momentOffset {
		b.offset = readOffset(&parser{}, m, 0)
	}
	if s.clock.ids == nil {
		s.clock.ids = map[boundKey]uint32{}
	}
	key.text = string([]byte(key.text))
	id := uint32(len(s.clock.bounds))
	s.clock.ids[key] = id
	s.clock.bounds = append(s.clock.bounds, b)
	return id
}

// moves says whether an expression has a bound in it that moves with the clock.
func moves(e *expr) bool {
	return e.op == opWindow || e.op == opRelated && moves(&e.related.query) || slices.ContainsFunc(e.kids, func(k expr) bool { return moves(&k) })
}

// inWindow evaluates opWindow and notes when it flips next.
func (s *Set) inWindow(e *element, payload string) bool {
	flags := payload[0]
	payload = payload[1:]
	var fixed [2]int64
	var moving [2]*movingBound
	var loc *time.Location
	for i := range fixed {
		switch {
		case flags>>i&windowMoves != 0:
			id, k := uvarint(payload)
			payload = payload[k:]
			moving[i] = s.clock.bounds[id]
			fixed[i], loc = moving[i].at(s.clock.now), moving[i].loc
		case flags>>i&hasFrom != 0:
			fixed[i], payload = varint(payload)
		}
	}
	value := e.when
	if e.isDay {
		value = startOf(value, loc)
	}
	if flags&hasFrom != 0 && value < fixed[0] {
		return false // passed, for good
	}
	// The bound that decides is the one whose passing matters.
	decides, in := moving[0], true
	if flags&hasBefore != 0 && value >= fixed[1] {
		decides, in = moving[1], false
	}
	if decides != nil {
		s.clock.flips = min(s.clock.flips, decides.passes(s.clock.now, value))
	}
	return in
}

// startOf is dayStart for any date that Postgres holds.
func startOf(day int64, loc *time.Location) int64 {
	switch {
	case day > maxDayNum:
		return infinity
	case day < -maxDayNum:
		return negInfinity
	}
	return dayStart(day, loc)
}

// Timed says whether any live trigger looks at the clock.
func (s *Set) Timed() bool { return s.clock.timed > 0 }

// SetClock sets the time at which evaluation on the mirror takes place.
func (s *Set) SetClock(now time.Time) { s.clock.now = microsOf(now) }

// TakeTimers appends the timers that changed since the last call.
func (s *Set) TakeTimers(dst []Timer) []Timer {
	dst = append(dst, s.clock.timers...)
	clear(s.clock.timers)
	s.clock.timers = s.clock.timers[:0]
	return dst
}

// set notes the timer that the last evaluation asks for.
func (c *clock) set(trigger int64, id string) {
	t := Timer{TriggerID: trigger, ObjectID: id}
	if c.flips != never {
		t.Due = timeOf(c.flips)
	}
	c.timers = append(c.timers, t)
}

// Unarmed gives the timed triggers whose timers are not all set, by id.
func (s *Set) Unarmed() []Unarmed {
	if s.clock.timed == s.clock.armed {
		return nil
	}
	var list []Unarmed
	for id, rt := range s.relations.triggers {
		if rt.timed && !rt.armed {
			at := s.byID[id]
			list = append(list, Unarmed{id, s.groups[at.group].at(at.number).version})
		}
	}
	slices.SortFunc(list, func(a, b Unarmed) int { return int(min(max(a.TriggerID-b.TriggerID, -1), 1)) })
	return list
}

// Disarm makes all timed triggers unarmed: rows may have changed without their
// changes coming by.
func (s *Set) Disarm() {
	for _, rt := range s.relations.triggers {
		rt.armed = false
	}
	s.clock.armed = 0
}

// Armed says that a trigger's timers are set, as of an earlier run.
func (s *Set) Armed(id int64) {
	if rt := s.relations.triggers[id]; rt != nil && rt.timed && !rt.armed {
		rt.armed = true
		s.clock.armed++
	}
}

// Arm asks a timed trigger of every object of its organization, for the timers.
// What matches already does not fire. set says false to have it end.
func (s *Set) Arm(id int64, set func(Timer) error) error {
	rt := s.relations.triggers[id]
	if rt == nil || !rt.timed {
		return nil
	}
	table := s.relations.store.Table(rt.typ.name)
	if table == nil {
		return nil
	}
	var err error
	table.InOrganization(rt.organization, func(row mirror.Row) bool {
		s.verdict(rt, unsafe.String(unsafe.SliceData(row.ID()), len(row.ID())), "")
		if s.clock.flips != never {
			err = set(Timer{id, string(row.ID()), timeOf(s.clock.flips)})
		}
		return err == nil && s.relations.triggers[id] == rt
	})
	if err == nil {
		s.Armed(id)
	}
	return err
}

// Due asks a trigger of an object at the moment its timer is due, and says what
// fires, if it does. The next timer comes with TakeTimers. The clock is at that
// moment then.
func (s *Set) Due(dst []RelatedFiring, t Timer) ([]RelatedFiring, Counters) {
	s.m.counters = Counters{}
	rt := s.relations.triggers[t.TriggerID]
	if rt == nil || !rt.timed {
		s.clock.flips = never
		s.clock.set(t.TriggerID, t.ObjectID)
		return dst, s.m.counters
	}
	now := microsOf(t.Due)
	s.clock.now = now - 1
	before := s.beforeVerdict(rt, rt.extraOrNone(), t.ObjectID, false)
	s.clock.now = now
	after := s.verdict(rt, t.ObjectID, "")
	s.clock.set(t.TriggerID, t.ObjectID)
	at, live := s.byID[t.TriggerID]
	switch {
	case !live || after == isFalse || before == isTrue:
	case after == isTrue && before == isFalse:
		e := s.groups[at.group].at(at.number)
		dst = append(dst, RelatedFiring{
			Firing:     Firing{TriggerID: e.id, Version: e.version, Organization: rt.organization},
			ObjectType: rt.typ.name, ObjectID: t.ObjectID, Via: Via{rt.typ.name, t.ObjectID},
		})
	default:
		s.m.counters.Indeterminate++
	}
	return dst, s.m.counters
}

var noExtra extra

func (rt *relatedTrigger) extraOrNone() *extra {
	if rt.extra == nil {
		return &noExtra
	}
	return rt.extra
}

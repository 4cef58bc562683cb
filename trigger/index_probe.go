package trigger

import (
	"bytes"
	"math"
	"math/bits"
)

// probe brings up the triggers that the change may make match: m.hits of them.
// Reading a value may panic; it is marked as broken then, and probe must be
// called again.
func (m *matcher) probe(g *group, created bool) {
	m.related = m.related[:0]
	if !created {
		m.index = changes
		if g.index[changes].big == nil && len(m.changed) > 1 {
			m.sum += uint32(g.touchRuns(m.changed))
		}
		for _, slot := range m.changed {
			m.probeChanged(g, slot)
		}
		return
	}
	m.index = creations
	start := uint32(0)
	for slot := range g.slots {
		end := g.slots[slot].end[creations]
		if g.index[creations].big != nil && g.slots[slot].classes&hasAny != 0 || end > start {
			m.probeCreated(g, uint32(slot), &m.after)
		}
		start = end
	}
	m.collect(g, uint32(len(g.slots)), keyAlways, keyAlways)
}

// probeCreated looks up what a value that was not there before makes true.
func (m *matcher) probeCreated(g *group, slot uint32, s *side) {
	v := m.value(s, slot)
	switch {
	case v.unknown:
		m.classes(g, slot, 0, classCount-1) // so that what hangs on it is counted
	case g.index[creations].big == nil && v.end-v.start == 1:
		m.sift(g.run(creations, slot), s, v)
	default:
		for i := v.start; i < v.end; i++ {
			m.element(g, slot, 0, g.slots[slot].classes&hasAny, s, v, i)
		}
	}
}

// sift is element for the only one of a slot with few postings: going through
// them takes less time than looking up one class after the other.
func (m *matcher) sift(run []posting, s *side, v *fieldValue) {
	var low, span uint64
	class := uint64(classNegated) // none of those
	for _, p := range run {
		if c := p.key >> classShift & classMask; c != class {
			class = c
			var high uint64
			if low, high = m.window(class, s, v, v.start, valueMask); low > high {
				low, high = noWindow, noWindow
			}
			span = high - low
		}
		if p.key&valueMask-low <= span && m.admits(p.val) {
			m.hit(uint32(p.val))
		}
	}
}

// probeChanged looks up what a change of a value makes true.
func (m *matcher) probeChanged(g *group, slot uint32) {
	has := g.slots[slot].classes
	if has&hasChanged != 0 {
		key := slotKey(slot) | classChanged<<classShift
		m.collect(g, slot, key, key|valueMask)
	}
	if has&(hasAny|hasAny<<negatedShift) == 0 {
		return
	}
	before, after := m.value(&m.before, slot), m.value(&m.after, slot)
	n, was := after.end-after.start, before.end-before.start
	single := n <= 1 && was <= 1
	if has&hasRanges != 0 && n == 1 && was == 1 && m.moves(g, slot, before, after) {
		has &^= hasRanges
	}
	if positive := has & hasAny; positive != 0 {
		if after.unknown {
			m.classes(g, slot, 0, classCount-1) // so that what hangs on it is counted
		}
		if was > 0 {
			positive &^= hasExists
		}
		for i := after.start; i < after.end; i++ {
			if single || !m.among(&m.after, i, &m.before, before) {
				m.element(g, slot, 0, positive, &m.after, after, i)
			}
		}
	}
	if negated := has >> negatedShift; negated != 0 {
		if before.unknown {
			m.classes(g, slot, classNegated, classNegated+classCount-1)
		}
		if n > 0 {
			negated &^= hasExists
		}
		for i := before.start; i < before.end; i++ {
			if single || !m.among(&m.before, i, &m.after, after) {
				m.element(g, slot, classNegated, negated, &m.before, before, i)
			}
		}
	}
}

// among reports whether an element is one of the other side's, too: then it
// makes nothing true that was not.
func (m *matcher) among(s *side, i int32, other *side, v *fieldValue) bool {
	e := &s.elements[i]
	if v.end-v.start > 64 {
		return false // comparing all with all would cost more than it saves
	}
	for j := v.start; j < v.end; j++ {
		if o := &other.elements[j]; o.tag == e.tag && bytes.Equal(o.raw, e.raw) {
			return true
		}
	}
	return false
}

// element looks up the conditions of some classes that an element meets. negated
// is classNegated for the negated ones.
func (m *matcher) element(g *group, slot uint32, negated uint64, classes classSet, s *side, v *fieldValue, i int32) {
	misfit := uint64(valueMask)
	if negated != 0 {
		misfit = 0
	}
	for ; classes != 0; classes &= classes - 1 {
		class := uint64(bits.TrailingZeros32(uint32(classes)))
		if low, high := m.window(class, s, v, i, misfit); low <= high {
			m.between(g, slot, negated+class, low, high)
		}
	}
}

// noWindow is the lower end of a window that has nothing.
const noWindow = valueMask + 1

// window says under which values of a class the conditions stand that an element
// meets, when there is nothing to compare it with: none if low is above high.
// Ranges are found by their lower bounds, or by the upper one if it is the only
// one. misfit is the highest value for an element that a class can't be asked
// of: valueMask brings all of them up, so that they are counted as mismatches.
func (m *matcher) window(class uint64, s *side, v *fieldValue, i int32, misfit uint64) (low, high uint64) {
	e := &s.elements[i]
	low = noWindow
	fits := true
	switch class {
	case classExists:
		low = 0
	case classText:
		switch e.tag {
		case tagText:
			low = hashBytes(e.raw) & valueMask
		case tagBool:
		case tagNumber:
			fits = m.number(s, v, e) || e.class == isNaN
		default:
			fits = false
		}
	case classFold:
		if fits = e.tag == tagText; fits {
			low, m.folded = hashFold(e.raw, m.folded)
			low &= valueMask
		}
	case classCoded:
		low, fits = m.coded(s, v, e)
	case classBool:
		if fits = e.tag == tagBool && len(e.raw) > 0; fits {
			low = boolValue(e.raw[0] == 't')
		}
	case classNumber + boundLow, classNumber + boundHigh:
		if fits = e.tag == tagNumber && (m.number(s, v, e) || e.class == isNaN); fits && e.class == isNumber {
			return from(class-classNumber, numberPrefix(e.num))
		}
	case classDay + boundLow, classDay + boundHigh:
		if fits = m.hasMoment(v, e); fits && e.isDay {
			return from(class-classDay, dayPrefix(e.when))
		}
	case classInstant + boundLow, classInstant + boundHigh:
		if fits = m.hasMoment(v, e); fits && !e.isDay {
			return from(class-classInstant, instantPrefix(e.when))
		}
	}
	if !fits && misfit > 0 {
		return 0, misfit
	}
	return low, low & valueMask
}

// coded gives the value of an element under classCoded.
func (m *matcher) coded(s *side, v *fieldValue, e *element) (value uint64, fits bool) {
	switch e.tag {
	case tagText:
		return noWindow, true
	case tagBool:
		return hashBool(len(e.raw) > 0 && e.raw[0] == 't') & valueMask, true
	case tagNumber:
		if m.number(s, v, e) {
			return hashBytes(e.num) & valueMask, true
		}
		return noWindow, e.class == isNaN
	case tagDate, tagInstant:
		if m.moment(v, e) {
			var key [8]byte
			return hashBytes(appendMicros(key[:0], e.when)) & valueMask, true
		}
	}
	return noWindow, false
}

func (m *matcher) hasMoment(v *fieldValue, e *element) bool {
	return (e.tag == tagDate || e.tag == tagInstant || e.tag == tagText) && m.moment(v, e)
}

// from gives the window of those bounds that a value is within.
func from(bound, prefix uint64) (low, high uint64) {
	if bound == boundLow {
		return 0, prefix
	}
	return prefix, valueMask
}

// families are those of ordered classes.
var families = [...]struct {
	class uint64
	has   classSet
}{{classNumber, hasNumber}, {classDay, hasDay}, {classInstant, hasInstant}}

const hasRanges = (hasNumber | hasDay | hasInstant) * (1 + 1<<negatedShift)

// moves looks up the bounds between one value and another. It is false when they
// can't be compared: then each is looked up for itself.
func (m *matcher) moves(g *group, slot uint32, before, after *fieldValue) bool {
	has := g.slots[slot].classes
	for f := range families {
		family := families[f].class
		if (has|has>>negatedShift)&families[f].has == 0 {
			continue
		}
		// The upper end of the window of lower bounds is the value itself.
		low, old := m.window(family, &m.before, before, before.start, 0)
		if low == noWindow {
			return false
		}
		low, now := m.window(family, &m.after, after, after.start, 0)
		if low == noWindow {
			return false
		}
		// A value that goes up enters ranges at their lower bounds, and leaves
		// others at their upper ones, which makes their negations true.
		if old <= now {
			m.between(g, slot, family+boundLow, old, now)
			m.between(g, slot, classNegated+family+boundHigh, old, now)
			m.between(g, slot, classNegated+family+boundHighOfTwo, old, now)
		}
		if now <= old {
			m.between(g, slot, family+boundHigh, now, old)
			m.between(g, slot, family+boundHighOfTwo, now, old)
			m.between(g, slot, classNegated+family+boundLow, now, old)
		}
	}
	return true
}

// between brings up what is posted from one value of a class to another.
func (m *matcher) between(g *group, slot uint32, class, low, high uint64) {
	if g.slots[slot].classes&classBit(class) == 0 {
		return
	}
	key := slotKey(slot) | class<<classShift
	m.collect(g, slot, key|low, key|high)
}

// classes brings up all that is posted from one class to another.
func (m *matcher) classes(g *group, slot uint32, first, last uint64) {
	key := slotKey(slot)
	m.collect(g, slot, key|first<<classShift, key|last<<classShift|valueMask)
}

// collect brings up what is posted from one key to another.
func (m *matcher) collect(g *group, slot uint32, low, high uint64) {
	from := posting{key: low}
	c := g.index[m.index].big
	if c == nil {
		run := g.run(m.index, slot)
		m.take(run[lowerBound(run, from):], high)
		return
	}
	i := c.find(from)
	list := c.lists[i]
	list = list[lowerBound(list, from):]
	for m.take(list, high) {
		if i++; i == len(c.lists) {
			return
		}
		list = c.lists[i]
	}
}

// hotRun is how many postings of one key are worth leaping over by their guards.
const hotRun = 32

// take brings up what stands at the start of a list, up to a key, if its guard
// holds. It is false if the list goes on beyond.
func (m *matcher) take(list []posting, high uint64) (all bool) {
	for i := 0; i < len(list); i++ {
		p := list[i]
		if p.key > high {
			return false
		}
		if far := i + hotRun; far < len(list) && list[far].key == p.key {
			end := i + lowerBound(list[i:], posting{p.key, math.MaxUint64})
			m.takeHot(list[i:end])
			i = end - 1
			continue
		}
		if m.admits(p.val) {
			m.hit(uint32(p.val))
		}
	}
	return true
}

// takeHot brings up what stands under one key if its guard holds, going from
// guard to guard.
func (m *matcher) takeHot(list []posting) {
	key := list[0].key
	for i := 0; i < len(list); {
		low, high, next := uint64(0), uint64(0), uint64(1)
		if kind := guard(list[i].val>>32) >> guardBits; kind != 0 {
			st := m.guard(kind)
			low = uint64(kind)<<guardBits + uint64(st.low)
			high = low + uint64(st.span)
			next = uint64(kind+1) << guardBits
		}
		i += lowerBound(list[i:], posting{key, min(low, next) << 32})
		for i < len(list) && list[i].val>>32 <= high && list[i].val>>32 < next {
			m.hit(uint32(list[i].val))
			i++
		}
		i += lowerBound(list[i:], posting{key, next << 32})
	}
}

// guardState says which of a guard's values hold after the change: those from
// low to low+span.
type guardState struct {
	epoch     uint32
	low, span uint32
}

// admits reports whether a posting's guard holds after the change.
func (m *matcher) admits(val uint64) bool {
	w := guard(val >> 32)
	return w == 0 || uint32(w&guardMask)-m.guard(w>>guardBits).low <= m.guards[w>>guardBits].span
}

func (m *matcher) guard(kind guard) *guardState {
	st := &m.guards[kind]
	if st.epoch != m.epoch {
		m.readGuard(kind, st)
	}
	return st
}

func (m *matcher) readGuard(kind guard, st *guardState) {
	v := m.value(&m.after, uint32(kind>>4)-1)
	low, high := uint64(0), uint64(guardMask)
	switch {
	case v.unknown || v.end-v.start > 1: // it may hold
	case v.start == v.end:
		low, high = guardMask+1, guardMask+1
	default:
		class := uint64(kind & 15)
		if l, h := m.window(class, &m.after, v, v.start, valueMask); l > h {
			low, high = guardMask+1, guardMask+1
		} else {
			low, high = guardValue(class, l), guardValue(class, h)
		}
	}
	st.low, st.span = uint32(low), uint32(high-low)
	st.epoch = m.epoch
}

// hits are the numbers of triggers, a bit for each, and a bit for each word of
// those that is not 0. In the order of their numbers they are in the order in
// which they lie in memory.
type hits struct {
	words, summary []uint64
}

func (h *hits) reset(n int) {
	if words := (n + 63) / 64; len(h.words) < words {
		words += words / 4
		h.words = make([]uint64, words)
		h.summary = make([]uint64, (words+63)/64)
	}
}

func (m *matcher) hit(ref uint32) {
	if ref&refRelated != 0 {
		m.related = append(m.related, ref)
		return
	}
	word := ref / 64
	m.hits.words[word] |= 1 << (ref % 64)
	m.hits.summary[word/64] |= 1 << (word % 64)
}

// list appends the numbers, all below n, and forgets them.
func (h *hits) list(dst []uint32, n uint32) []uint32 {
	for i, summary := range h.summary[:(n+4095)/4096] {
		for ; summary != 0; summary &= summary - 1 {
			word := i*64 + bits.TrailingZeros64(summary)
			for hits := h.words[word]; hits != 0; hits &= hits - 1 {
				dst = append(dst, uint32(word*64+bits.TrailingZeros64(hits)))
			}
			h.words[word] = 0
		}
		h.summary[i] = 0
	}
	return dst
}

// touched is how many triggers touch reads from.
const touched = 16

// touchRuns reads a little of the postings of several slots, for the same reason as touch.
func (g *group) touchRuns(slots []uint32) (sum uint64) {
	for _, slot := range slots[:min(len(slots), touched)] {
		if run := g.run(changes, slot); len(run) > 0 {
			sum += run[len(run)/2].key
		}
	}
	return sum
}

// touch reads a little of each of several triggers. They are rarely in the
// processor's caches; so they are waited for together, not one after the other.
func (g *group) touch(numbers []uint32) (sum uint32) {
	for _, n := range numbers {
		sum += g.at(n).source
	}
	for _, n := range numbers {
		sum += uint32(g.at(n).code[0])
	}
	return sum
}

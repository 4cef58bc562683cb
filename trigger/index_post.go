package trigger

import (
	"cmp"
	"hash/maphash"
	"iter"
	"math"
	"slices"
	"unicode"
	"unicode/utf8"
)

// Classes of postings: what a value is compared by. A range has its lower bound
// under +0, its upper bound under +1 when it is the only one, else under +2.
const (
	classExists  = iota
	classText    // text as it is
	classFold    // text in lower case
	classCoded   // numbers and moments in their encodings, and what of booleans a list accepts
	classBool    // booleans
	classNumber  // bounds of numbers; three each
	classDay     = classNumber + 3
	classInstant = classDay + 3
	classCount   = classInstant + 3

	classChanged = 14 // any change at all; not among those of values

	boundLow       = 0
	boundHigh      = 1
	boundHighOfTwo = 2

	classNegated = 32 // added to those of negated conditions
)

// classSet has a bit for each class that a slot has postings of.
type classSet uint32

const (
	hasExists    classSet = 1 << classExists
	hasText      classSet = 1 << classText
	hasFold      classSet = 1 << classFold
	hasCoded     classSet = 1 << classCoded
	hasBool      classSet = 1 << classBool
	hasNumber    classSet = 7 << classNumber
	hasDay       classSet = 7 << classDay
	hasInstant   classSet = 7 << classInstant
	hasAny       classSet = 1<<classCount - 1
	hasChanged   classSet = 1 << classChanged
	negatedShift          = 16 // to the classes of negated conditions
)

func classBit(class uint64) classSet {
	return 1 << (class&15 | class/classNegated*negatedShift)
}

// guard is a second condition of a trigger, kept in its postings so that most of
// those that can't match are passed over without a look at the trigger: one
// that stands in the outermost and, hence must hold after the change.
//
//	slot+1 (9 bits) | class, any but classExists (4) | value (19)
//
// 0 is none. Since it comes before the reference in the order, the postings of
// one key are sorted by guard, and only those need to be walked whose guard holds.
type guard uint32

const (
	guardBits  = 19
	guardMask  = 1<<guardBits - 1
	guardSlots = 1<<9 - 1
)

// guardValue is a value of a class as it stands in a guard: days of fourteen
// centuries, instants of three to five hours, else the upper bits.
func guardValue(class, value uint64) uint64 {
	const (
		zero = 1 << (valueBits - 1)
		half = 1 << (guardBits - 1)
	)
	switch {
	case class >= classInstant:
		return uint64(min(max((int64(value)-zero)>>13, -half), half-1) + half)
	case class >= classDay:
		return uint64(min(max(int64(value)-zero, -half), half-1) + half)
	}
	return value >> (valueBits - guardBits)
}

var hashSeed = maphash.MakeSeed()

// hashMost bounds how much of a text is hashed: texts can be very long.
const hashMost = 128

func hashBytes(b []byte) uint64 {
	if len(b) > hashMost {
		b = b[:hashMost]
	}
	return maphash.Bytes(hashSeed, b)
}

func hashString(s string) uint64 {
	if len(s) > hashMost {
		s = s[:hashMost]
	}
	return maphash.String(hashSeed, s)
}

// hashFold hashes a text in lower case, as hashString does with one that has
// been through strings.ToLower. It works in buf.
func hashFold(b, buf []byte) (uint64, []byte) {
	buf = buf[:0]
	for i := 0; i < len(b) && len(buf) < hashMost; {
		c := b[i]
		if c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			buf = append(buf, c)
			i++
			continue
		}
		r, size := utf8.DecodeRune(b[i:])
		buf = utf8.AppendRune(buf, unicode.ToLower(r))
		i += size
	}
	return hashBytes(buf), buf
}

// hashBool hashes a boolean that a list accepts. Encoded numbers start with
// bytes up to numPosInf, and encoded moments have eight.
func hashBool(truth bool) uint64 {
	if truth {
		return hashString("\xFFt")
	}
	return hashString("\xFFf")
}

// boolValue is a boolean's value under classBool. Guards have the upper bits only.
func boolValue(truth bool) uint64 { return uint64(truthOf(truth)) << (valueBits - 1) }

// Prefixes of ordered values: 43 bits, monotone.

// numberPrefix takes what appendNumber wrote: its sign, its power of ten from
// -127 to 126, and ten digits. What is beyond is cut to that.
func numberPrefix[S []byte | string](enc S) uint64 {
	const (
		digitBits = 34
		half      = 1 << (valueBits - 1)
	)
	var flip byte
	switch enc[0] {
	case numNegInf:
		return 0
	case numZero:
		return half
	case numPosInf:
		return valueMask
	case numNegative:
		flip = 0xFF
	}
	e := int(enc[1]^flip)<<16 | int(enc[2]^flip)<<8 | int(enc[3]^flip)
	e -= expBias - 128
	var magnitude uint64
	switch {
	case e < 1:
	case e > 254:
		magnitude = 255 << digitBits
	default:
		digits := uint64(0)
		for i := 4; i < 9; i++ {
			digits *= 100
			if i < len(enc) && enc[i]^flip != 0 {
				digits += uint64(enc[i]^flip) - 1
			}
		}
		magnitude = uint64(e)<<digitBits | digits
	}
	if flip != 0 {
		return half - 1 - magnitude
	}
	return half | magnitude
}

// dayPrefix takes days; 43 bits hold all that Postgres can.
func dayPrefix(day int64) uint64 {
	const half = 1 << (valueBits - 1)
	return uint64(min(max(day, -half), half-1) + half)
}

// instantPrefix takes microseconds: a step is about two seconds.
func instantPrefix(micros int64) uint64 {
	return (uint64(micros) ^ 1<<63) >> (64 - valueBits)
}

// poster lists the postings of a program.
type poster struct {
	out    []slotPosting
	ref    uint32
	guards [2]ownedGuards // the best, and the next best

	own [2]ownedGuards // those of a range's two bounds

	// Of the condition that is being posted.
	slot     uint32
	base     uint64 // of its keys
	guard    *ownedGuards
	creation bool
	whole    bool // it must hold itself
}

// slotPosting is a posting with its slot as the group counts it; creation is set
// for those that created objects are looked up under.
type slotPosting struct {
	posting

	slot     uint32
	creation bool
}

// ownedGuards are the values of which an object must have one.
type ownedGuards struct {
	owner  int // which of the outermost and's conditions
	rank   int // 0: none
	values [guardMost]guard
	count  int
}

// guardMost is how many values a condition may have to be a guard: every posting
// is there once for each.
const guardMost = 2

// noAccess is the cost of what can't be looked up by what a created object has.
const noAccess = math.MaxInt32

// postings lists what a program is posted under, sorted. The number of slots
// tells where keyAlways belongs.
func (p *poster) postings(program string, ref uint32, slots int) []slotPosting {
	p.ref = ref
	p.out = p.out[:0]
	p.guards = [2]ownedGuards{}
	if program[0] == opFalse {
		return nil
	}
	if program[0] == opAnd {
		body, _ := take(program[1:])
		for i := 0; len(body) > 0; i++ {
			l, rest := readNode(body)
			p.offer(i, &l)
			body = rest
		}
	}
	cost, _ := accessCost(program)
	p.node(program, cost < noAccess, -1, true)
	if cost == noAccess {
		p.slot, p.guard, p.creation = uint32(slots), &p.guards[0], true
		p.add(keyAlways)
	}
	slices.SortFunc(p.out, func(a, b slotPosting) int {
		switch {
		case a.key != b.key:
			return cmp.Compare(a.key, b.key)
		case a.val != b.val:
			return cmp.Compare(a.val, b.val)
		case a.slot != b.slot:
			return int(a.slot) - int(b.slot)
		case a.creation == b.creation:
			return 0
		case a.creation: // the one that stays
			return -1
		}
		return 1
	})
	p.out = slices.CompactFunc(p.out, func(a, b slotPosting) bool { return a.posting == b.posting && a.slot == b.slot })
	return p.out
}

// anyChange lists what brings a program up at any change of what it hangs on.
func (p *poster) anyChange(program string, ref uint32, slots int) []slotPosting {
	p.ref = ref
	p.out = p.out[:0]
	none := ownedGuards{}
	p.guard, p.creation = &none, false
	programSlots(program, func(slot uint32) {
		p.slot, p.base = slot, slotKey(slot)
		p.put(classChanged, 0)
	})
	p.slot, p.creation = uint32(slots), true
	p.add(keyAlways)
	slices.SortFunc(p.out, func(a, b slotPosting) int { return cmp.Compare(a.key, b.key) })
	p.out = slices.CompactFunc(p.out, func(a, b slotPosting) bool { return a.posting == b.posting && a.slot == b.slot })
	return p.out
}

// programNode is a node of a program; slot and payload are those of a condition.
type programNode struct {
	op      byte
	negate  bool
	slot    uint32
	payload string
}

func readNode(code string) (n programNode, rest string) {
	n.op, n.negate = code[0]&^opNegate, code[0]&opNegate != 0
	n.payload, rest = take(code[1:])
	switch n.op {
	case opFalse, opTrue, opAnd, opOr:
	default:
		slot, k := uvarint(n.payload)
		n.slot, n.payload = uint32(slot), n.payload[k:]
	}
	return n, rest
}

// accessCost estimates how many triggers a created object would bring up with
// this one: by the one of an and's conditions that is best, by all of an or's.
func accessCost(code string) (cost int, rest string) {
	n, rest := readNode(code)
	switch n.op {
	case opFalse:
		return 0, rest
	case opAnd:
		cost = noAccess
		for body := n.payload; len(body) > 0; {
			var c int
			c, body = accessCost(body)
			cost = min(cost, c)
		}
		return cost, rest
	case opOr:
		for body := n.payload; len(body) > 0; {
			var c int
			c, body = accessCost(body)
			cost = min(cost+c, noAccess)
		}
		return cost, rest
	}
	if n.negate {
		return noAccess, rest
	}
	switch n.op {
	case opExists:
		return 200, rest
	case opText:
		return 4, rest
	case opTerm:
		if n.payload[0] != 0 {
			cost = 50
		}
		texts, encoded := take(n.payload[1:])
		for _, list := range [...]string{texts, encoded} {
			count, _ := uvarint(list)
			cost += 4 * int(count)
		}
		return cost, rest
	case opBool:
		return 60, rest
	case opNumber, opMoment:
		return 100, rest
	}
	return noAccess, rest
}

// node posts all conditions of a node. creation says whether created objects are
// looked up under it. owner is which of the outermost and's conditions this is a
// part of; whole, whether it must hold as it is.
func (p *poster) node(code string, creation bool, owner int, whole bool) (rest string) {
	n, rest := readNode(code)
	switch n.op {
	case opFalse, opTrue:
		return rest
	case opAnd:
		least := noAccess
		if creation {
			least, _ = accessCost(code)
		}
		for i, body := 0, n.payload; len(body) > 0; i++ {
			kid := false
			if creation {
				if c, _ := accessCost(body); c == least {
					kid, creation = true, false
				}
			}
			o := owner
			if owner < 0 {
				o = i
			}
			body = p.node(body, kid, o, owner < 0)
		}
		return rest
	case opOr:
		for body := n.payload; len(body) > 0; {
			body = p.node(body, creation, max(owner, 0), false)
		}
		return rest
	}
	g := &p.guards[0]
	if g.owner == owner {
		g = &p.guards[1]
	}
	p.slot, p.guard, p.creation, p.whole = n.slot, g, creation, whole && !n.negate
	p.condition(&n)
	return rest
}

func (p *poster) condition(n *programNode) {
	p.base = slotKey(n.slot)
	if n.negate {
		p.base |= classNegated << classShift
	}
	switch n.op {
	case opRelated, opWindow: // decided on the mirror, whatever this side's value
		p.base = slotKey(n.slot)
		p.put(classChanged, 0)
	case opExists:
		p.put(classExists, 0)
	case opText:
		p.put(classFold, hashString(n.payload))
	case opTerm:
		texts, encoded := take(n.payload[1:])
		for v := range listItems(texts) {
			p.put(classText, hashString(v))
		}
		for v := range listItems(encoded) {
			p.put(classCoded, hashString(v))
		}
		if n.payload[0]&acceptsTrue != 0 {
			p.put(classCoded, hashBool(true))
		}
		if n.payload[0]&acceptsFalse != 0 {
			p.put(classCoded, hashBool(false))
		}
	case opBool:
		p.put(classBool, boolValue(n.payload[0] == 1))
	case opNumber:
		low, high, hasLow, hasHigh := numberBounds(n.payload)
		p.putRange(classNumber, hasLow, hasHigh, low, high)
	case opMoment:
		days, instants := momentBounds(n.payload)
		flags := n.payload[0]
		if flags&asDays != 0 {
			p.putRange(classDay, flags&hasFrom != 0, flags&hasBefore != 0, days[0], days[1])
		}
		if flags&asMicros != 0 {
			p.putRange(classInstant, flags&hasFrom != 0, flags&hasBefore != 0, instants[0], instants[1])
		}
	}
}

func numberBounds(payload string) (low, high uint64, isLow, isHigh bool) {
	flags := payload[0]
	lowest, highest := take(payload[1:])
	if isLow = flags&hasLow != 0; isLow {
		low = numberPrefix(lowest)
	}
	if isHigh = flags&hasHigh != 0; isHigh {
		high = numberPrefix(highest)
	}
	return low, high, isLow, isHigh
}

func momentBounds(payload string) (days, instants [2]uint64) {
	flags, rest := payload[0], payload[1:]
	for i, bound := range [...]byte{hasFrom, hasBefore} {
		if flags&bound == 0 {
			continue
		}
		var v int64
		if flags&asDays != 0 {
			v, rest = varint(rest)
			days[i] = dayPrefix(v)
		}
		if flags&asMicros != 0 {
			v, rest = varint(rest)
			instants[i] = instantPrefix(v)
		}
	}
	return days, instants
}

// putRange posts the bounds of a range. One without bounds is met by any value,
// which is at least the lowest.
func (p *poster) putRange(class uint64, hasLow, hasHigh bool, low, high uint64) {
	switch {
	case hasLow && hasHigh:
		if p.whole && p.slot < guardSlots && p.guard.rank <= rankRange { // the bounds guard each other
			g := p.guard
			p.own[0] = ownedGuards{rank: rankRange}
			p.own[0].add(p.slot, class+boundHigh, high)
			p.guard = &p.own[0]
			p.put(class+boundLow, low)
			p.own[1] = ownedGuards{rank: rankRange}
			p.own[1].add(p.slot, class+boundLow, low)
			p.guard = &p.own[1]
			p.put(class+boundHighOfTwo, high)
			p.guard = g
			return
		}
		p.put(class+boundLow, low)
		p.put(class+boundHighOfTwo, high)
	case hasHigh:
		p.put(class+boundHigh, high)
	case hasLow:
		p.put(class+boundLow, low)
	default:
		p.put(class+boundLow, 0)
	}
}

func (p *poster) put(class, value uint64) { p.add(p.base | class<<classShift | value&valueMask) }

func (p *poster) add(key uint64) {
	if p.guard.rank == 0 {
		p.out = append(p.out, slotPosting{posting{key, uint64(p.ref)}, p.slot, p.creation})
		return
	}
	for _, v := range p.guard.values[:p.guard.count] {
		p.out = append(p.out, slotPosting{posting{key, uint64(v)<<32 | uint64(p.ref)}, p.slot, p.creation})
	}
}

// listItems visits the strings of a list.
func listItems(list string) iter.Seq[string] {
	return func(yield func(string) bool) {
		count, k := uvarint(list)
		list := list[k:]
		n := int(count)
		if n <= shortList {
			for range n {
				var item string
				if item, list = take(list); !yield(item) {
					return
				}
			}
			return
		}
		table, items := list[:4*n], list[4*n:]
		start := uint32(0)
		for i := range n {
			t := table[4*i : 4*i+4]
			end := uint32(t[0])<<24 | uint32(t[1])<<16 | uint32(t[2])<<8 | uint32(t[3])
			if !yield(items[start:end]) {
				return
			}
			start = end
		}
	}
}

// Ranks of guards: the fewer objects meet one, the better it is.
const (
	rankRange = 1 + iota
	rankBool
	rankFew
	rankOne
)

// offer takes a condition of the outermost and as a guard if it is among the best.
func (p *poster) offer(owner int, n *programNode) {
	if n.negate {
		return
	}
	o := ownedGuards{owner: owner}
	switch n.op {
	case opText:
		o.add(n.slot, classFold, hashString(n.payload))
		o.rank = rankOne
	case opTerm:
		texts, encoded := take(n.payload[1:])
		textCount, _ := uvarint(texts)
		codedCount, _ := uvarint(encoded)
		accepts := n.payload[0]
		if accepts != 0 {
			codedCount += uint64(accepts&1 + accepts>>1) // classCoded has those
		}
		if textCount+codedCount > guardMost {
			return
		}
		for v := range listItems(texts) {
			o.add(n.slot, classText, hashString(v))
		}
		for v := range listItems(encoded) {
			o.add(n.slot, classCoded, hashString(v))
		}
		if accepts&acceptsTrue != 0 {
			o.add(n.slot, classCoded, hashBool(true))
		}
		if accepts&acceptsFalse != 0 {
			o.add(n.slot, classCoded, hashBool(false))
		}
		switch {
		case accepts != 0:
			o.rank = rankBool
		case o.count > 1:
			o.rank = rankFew
		default:
			o.rank = rankOne
		}
	case opBool:
		o.add(n.slot, classBool, boolValue(n.payload[0] == 1))
		o.rank = rankBool
	case opNumber:
		low, high, hasLow, hasHigh := numberBounds(n.payload)
		o.addBound(n.slot, classNumber, hasLow, hasHigh, low, high)
	case opMoment:
		flags := n.payload[0]
		days, instants := momentBounds(n.payload)
		if flags&asDays != 0 {
			o.addBound(n.slot, classDay, flags&hasFrom != 0, flags&hasBefore != 0, days[0], days[1])
		}
		if flags&asMicros != 0 {
			o.addBound(n.slot, classInstant, flags&hasFrom != 0, flags&hasBefore != 0, instants[0], instants[1])
		}
	}
	if n.slot >= guardSlots || o.count == 0 {
		return
	}
	if o.rank > p.guards[0].rank {
		p.guards[1], p.guards[0] = p.guards[0], o
	} else if o.rank > p.guards[1].rank {
		p.guards[1] = o
	}
}

func (o *ownedGuards) add(slot uint32, class, value uint64) {
	o.values[o.count] = guard(slot+1)<<(guardBits+4) | guard(class)<<guardBits | guard(guardValue(class, value&valueMask))
	o.count++
}

func (o *ownedGuards) addBound(slot uint32, class uint64, hasLow, hasHigh bool, low, high uint64) {
	switch {
	case hasLow:
		o.add(slot, class+boundLow, low)
	case hasHigh:
		o.add(slot, class+boundHigh, high)
	default:
		return
	}
	o.rank = rankRange
}

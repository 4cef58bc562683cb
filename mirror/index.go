package mirror

// index finds rows by the hash of a value. Which of the rows that it offers is
// the one, the caller sees by looking at them.
//
// It is an extendible hash table: the top bits of the hash choose, by way of a
// directory, a segment, which is a small table of its own with linear probing.
// A segment that is full grows by a quarter, and splits in two when it is large.
// So no insertion ever costs more than one segment, and the table is filled to
// about three quarters at any size.
type index struct {
	directory []uint32
	segments  []segment
	depth     uint8 // bits of the hash that the directory takes
	bytes     int64 // of the segments' slots
}

// segment is a part of the table. A slot is a hash and a row's place, or 0.
type segment struct {
	slots []uint64
	n     uint32
	depth uint8 // bits of the hash that all entries have in common
}

const (
	minSegment = 8
	maxSegment = 8192
	// maxIndexDepth leaves enough bits of the hash to spread a segment's entries.
	maxIndexDepth = 18
)

func (x *index) segment(hash uint32) *segment {
	return &x.segments[x.directory[hash>>(32-x.depth)]]
}

// home is where an entry is looked for first. The bits above depth are the same
// for the whole segment.
func (s *segment) home(hash uint32) int {
	return int(uint64(hash<<s.depth) * uint64(len(s.slots)) >> 32)
}

// cursor walks over the entries of one hash. It is valid until the next change.
type cursor struct {
	slots    []uint64
	hash     uint32
	at, next int
}

func (x *index) seek(hash uint32) cursor {
	if len(x.segments) == 0 {
		return cursor{}
	}
	s := x.segment(hash)
	return cursor{slots: s.slots, hash: hash, next: s.home(hash)}
}

// row gives the next row whose value has the hash, 0 for none.
func (c *cursor) row() uint32 {
	at := c.next
	for uint(at) < uint(len(c.slots)) {
		e := c.slots[at]
		if e == 0 {
			return 0
		}
		here := at
		if at++; at == len(c.slots) {
			at = 0
		}
		if uint32(e>>32) == c.hash {
			c.at, c.next = here, at
			return uint32(e)
		}
	}
	return 0
}

// replace puts another row in place of the one that was given last.
func (c *cursor) replace(row uint32) { c.slots[c.at] = uint64(c.hash)<<32 | uint64(row) }

func (x *index) insert(hash, row uint32) {
	if len(x.segments) == 0 {
		x.directory = []uint32{0}
		x.segments = []segment{{slots: x.slots(minSegment)}}
	}
	s := x.segment(hash)
	if (uint64(s.n)+1)*16 > uint64(len(s.slots))*13 {
		s = x.grow(s, hash)
	}
	s.put(uint64(hash)<<32 | uint64(row))
	s.n++
}

func (s *segment) put(e uint64) {
	at := s.home(uint32(e >> 32))
	for s.slots[at] != 0 {
		if at++; at == len(s.slots) {
			at = 0
		}
	}
	s.slots[at] = e
}

func (x *index) slots(n int) []uint64 {
	x.bytes += int64(n) * 8
	return make([]uint64, n)
}

// grow makes room in the segment of hash and gives that segment, which may be
// another one afterwards.
func (x *index) grow(s *segment, hash uint32) *segment {
	n := len(s.slots)
	switch {
	case n < 64:
		x.resize(s, n*2)
	case n < maxSegment:
		x.resize(s, min(n+n/4, maxSegment))
	case s.depth < maxIndexDepth:
		x.split(s, hash)
		return x.segment(hash)
	default:
		x.resize(s, n+n/4)
	}
	return s
}

func (x *index) resize(s *segment, n int) {
	old := s.slots
	x.bytes -= int64(len(old)) * 8
	s.slots = x.slots(n)
	for _, e := range old {
		if e != 0 {
			s.put(e)
		}
	}
}

// split divides a segment by the next bit of its hashes.
func (x *index) split(s *segment, hash uint32) {
	if s.depth == x.depth {
		doubled := make([]uint32, 2*len(x.directory))
		for i, number := range x.directory {
			doubled[2*i], doubled[2*i+1] = number, number
		}
		x.directory = doubled
		x.depth++
	}
	// The directory's entries for a segment are side by side; the upper half goes
	// to the new one.
	spread := x.depth - s.depth
	first := int(hash>>(32-s.depth)) << spread
	for i := first + 1<<(spread-1); i < first+1<<spread; i++ {
		x.directory[i] = uint32(len(x.segments))
	}

	old := s.slots
	x.bytes -= int64(len(old)) * 8
	bit := uint64(1) << (63 - s.depth)
	lower := segment{slots: x.slots(maxSegment * 5 / 8), depth: s.depth + 1}
	upper := segment{slots: x.slots(maxSegment * 5 / 8), depth: s.depth + 1}
	for _, e := range old {
		half := &lower
		if e&bit != 0 {
			half = &upper
		}
		if e == 0 {
			continue
		}
		// Hashes are even, so this is for the one in a million that isn't.
		if (uint64(half.n)+2)*16 > uint64(len(half.slots))*13 {
			x.resize(half, len(half.slots)+len(half.slots)/4)
		}
		half.put(e)
		half.n++
	}
	*s = lower
	x.segments = append(x.segments, upper)
}

// remove takes out the entry on which the cursor stands.
func (x *index) remove(c *cursor) {
	s := x.segment(c.hash)
	hole := c.at
	for at := hole; ; {
		if at++; at == len(s.slots) {
			at = 0
		}
		e := s.slots[at]
		if e == 0 {
			break
		}
		// An entry may go back to the hole unless its home lies after it.
		home := s.home(uint32(e >> 32))
		if hole <= at {
			if hole < home && home <= at {
				continue
			}
		} else if hole < home || home <= at {
			continue
		}
		s.slots[hole] = e
		hole = at
	}
	s.slots[hole] = 0
	s.n--
	if n := len(s.slots); n > 64 && int(s.n)*4 < n {
		x.resize(s, max(minSegment, int(s.n)*3/2))
	}
}

func (x *index) held() int64 {
	const perSegment = 32
	return x.bytes + int64(cap(x.segments))*perSegment + int64(cap(x.directory))*4
}

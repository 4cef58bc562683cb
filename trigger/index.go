package trigger

import "slices"

// The index of a group finds the triggers that a change may make match, without
// looking at the others.
//
// A normal form has negations at its conditions only, so it can't become true
// unless one of its conditions does, and only a condition on a changed value
// can. So each condition is posted under what makes it true: an equality under
// the new value, a negated one under the value before, a bound under its place
// in the order, to be found when the value crosses it (index_post.go says how a
// trigger is posted, index_probe.go how a change is looked up). What is found is
// a superset; the program decides.

// posting stands under a key for a trigger.
//
//	key = slot (15 bits) | class (6) | value (43)
//	val = guard (32)     | refRelated (1) | number of the trigger in its group (31)
//
// Values are hashes for equality, and for ranges prefixes that keep the order. A
// guard is a second condition that the object must meet after the change: see
// guard.
type posting struct{ key, val uint64 }

const (
	valueBits  = 43
	valueMask  = 1<<valueBits - 1
	classShift = valueBits
	classMask  = 1<<6 - 1
	slotShift  = classShift + 6
	slotMask   = 1<<(64-slotShift) - 1

	// keyAlways has the triggers that any created object may match.
	keyAlways = ^uint64(0)

	// refRelated marks a reference that is no trigger's number in this group;
	// what is behind it is the business of who posted it. See matcher.related.
	refRelated = 1 << 31
)

// slotKey is the slot as it stands in a key. Beyond what fits, slots share
// places, which brings up more candidates and nothing worse. The last one is
// that of keyAlways.
func slotKey(slot uint32) uint64 { return uint64(slot%slotMask) << slotShift }

func (p posting) less(q posting) bool {
	return p.key < q.key || p.key == q.key && p.val < q.val
}

// A group has two indexes. That of changes has all postings. That of creations
// has what a new object is looked up under: enough of each trigger's to find it
// whenever it can match at all, and keyAlways.
const (
	changes = iota
	creations
)

// postings is a sorted list. As long as it is short, it is one array, and slots
// know where they end in it (slotRef.end). A long one is cut into chunks, so
// that adding a posting never moves more than one of them.
type postings struct {
	all []posting // of a short list
	big *chunks   // of a long one
}

// chunks holds at most chunkMax postings in each of its lists. least has a lower
// bound of each, above all that is in the list before it.
type chunks struct {
	least []posting
	lists [][]posting
}

const (
	shortMax = 2048 // postings of a short list
	chunkMax = 512
	chunkMin = chunkMax / 4 // of a list and its neighbour: they become one

	// shortSlots bounds the slots of a group with a short list: each posting that
	// comes or goes moves the ends of all later ones.
	shortSlots = 1024
)

// lowerBound gives the place of the first posting that is not before p.
func lowerBound(list []posting, p posting) int {
	low, high := 0, len(list)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if list[mid].less(p) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

func insertAt(list []posting, at int, p posting) []posting {
	if len(list) == cap(list) {
		grown := make([]posting, len(list), len(list)+len(list)/4+4)
		copy(grown, list)
		list = grown
	}
	list = append(list, posting{})
	copy(list[at+1:], list[at:])
	list[at] = p
	return list
}

// find gives the list that has p, or should.
func (c *chunks) find(p posting) int {
	low, high := 0, len(c.least)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if p.less(c.least[mid]) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return max(low-1, 0)
}

func (c *chunks) insert(p posting) {
	i := c.find(p)
	list := c.lists[i]
	if len(list) == chunkMax {
		const half = chunkMax / 2
		right := append(make([]posting, 0, chunkMax), list[half:]...)
		c.lists[i] = list[:half]
		c.lists = slices.Insert(c.lists, i+1, right)
		c.least = slices.Insert(c.least, i+1, right[0])
		if !p.less(right[0]) {
			i++
		}
		list = c.lists[i]
	}
	c.lists[i] = insertAt(list, lowerBound(list, p), p)
}

func (c *chunks) remove(p posting) {
	i := c.find(p)
	list := c.lists[i]
	at := lowerBound(list, p)
	if at == len(list) || list[at] != p {
		return
	}
	c.lists[i] = slices.Delete(list, at, at+1)
	c.tidy(i)
}

// tidy joins a list that has become short with a neighbour.
func (c *chunks) tidy(i int) {
	if len(c.lists[i]) >= chunkMin || len(c.lists) == 1 {
		return
	}
	if i == len(c.lists)-1 {
		i--
	}
	if left, right := c.lists[i], c.lists[i+1]; len(left)+len(right) <= chunkMax-chunkMin {
		joined := append(make([]posting, 0, chunkMax), left...)
		c.lists[i] = append(joined, right...)
		c.lists = slices.Delete(c.lists, i+1, i+2)
		c.least = slices.Delete(c.least, i+1, i+2)
	}
}

// run gives a slot's part of a short list. That of keyAlways comes after all
// slots'.
func (g *group) run(index int, slot uint32) []posting {
	all := g.index[index].all
	if int(slot) < len(g.slots) {
		all = all[:g.slots[slot].end[index]]
	}
	if slot > 0 {
		return all[g.slots[slot-1].end[index]:]
	}
	return all
}

// post adds a posting.
func (g *group) post(p *slotPosting) {
	if int(p.slot) < len(g.slots) {
		g.slots[p.slot].classes |= classBit(p.key >> classShift & classMask)
		g.add(changes, p)
	}
	if p.creation {
		g.add(creations, p)
	}
}

// unpost takes out what post added.
func (g *group) unpost(p *slotPosting) {
	if int(p.slot) < len(g.slots) {
		g.take(changes, p)
	}
	if p.creation {
		g.take(creations, p)
	}
}

func (g *group) add(index int, p *slotPosting) {
	x := &g.index[index]
	if x.big == nil && (len(x.all) == shortMax || len(g.slots) > shortSlots) {
		x.split()
	}
	if x.big != nil {
		x.big.insert(p.posting)
		return
	}
	before := 0
	if p.slot > 0 {
		before = int(g.slots[p.slot-1].end[index])
	}
	x.all = insertAt(x.all, before+lowerBound(g.run(index, p.slot), p.posting), p.posting)
	for i := int(p.slot); i < len(g.slots); i++ {
		g.slots[i].end[index]++
	}
}

func (g *group) take(index int, p *slotPosting) {
	x := &g.index[index]
	if x.big != nil {
		x.big.remove(p.posting)
		return
	}
	at := lowerBound(x.all, p.posting)
	if at == len(x.all) || x.all[at] != p.posting {
		return
	}
	x.all = slices.Delete(x.all, at, at+1)
	for i := int(p.slot); i < len(g.slots); i++ {
		g.slots[i].end[index]--
	}
}

// split cuts a short list into chunks.
func (x *postings) split() {
	x.big = &chunks{}
	for list := x.all; ; {
		n := min(len(list), chunkMax/2)
		least := posting{}
		if len(x.big.lists) > 0 {
			least = list[0]
		}
		x.big.least = append(x.big.least, least)
		x.big.lists = append(x.big.lists, append(make([]posting, 0, chunkMax), list[:n]...))
		if list = list[n:]; len(list) == 0 {
			break
		}
	}
	x.all = nil
}

// purge takes out all of a trigger's postings, of which nothing else is known.
func (g *group) purge(ref uint32) {
	gone := func(p posting) bool { return uint32(p.val) == ref }
	for index := range g.index {
		x := &g.index[index]
		if x.big != nil {
			for i := len(x.big.lists) - 1; i >= 0; i-- {
				x.big.lists[i] = slices.DeleteFunc(x.big.lists[i], gone)
				x.big.tidy(min(i, len(x.big.lists)-1))
			}
			continue
		}
		start, taken := uint32(0), uint32(0)
		for i := range g.slots {
			end := g.slots[i].end[index]
			for _, p := range x.all[start:end] {
				if gone(p) {
					taken++
				}
			}
			start = end
			g.slots[i].end[index] -= taken
		}
		x.all = slices.DeleteFunc(x.all, gone)
	}
}

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
//	key = slot (14 bits) | class (6) | value (43) | access (1)
//	val = guard (32)     | refRelated (1) | number of the trigger in its group (31)
//
// Values are hashes for equality, and for ranges prefixes that keep the order.
// The access bit is on those postings that a created object is looked up under:
// enough of a trigger's to find it whenever it can match at all. A guard is a
// second condition that the object must meet after the change: see guard.
type posting struct{ key, val uint64 }

const (
	keyAccess  = 1
	valueBits  = 43
	valueMask  = 1<<valueBits - 1
	classShift = valueBits + 1
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
		grown := make([]posting, len(list), min(len(list)+len(list)/4+4, chunkMax))
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
		half := len(list) / 2
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

// run gives the place of a slot's postings in a short list. Those of keyAlways
// come after all slots'.
func (g *group) run(slot uint32) (start, end uint32) {
	if slot > 0 {
		start = g.slots[slot-1].end
	}
	if int(slot) < len(g.slots) {
		return start, g.slots[slot].end
	}
	return start, uint32(len(g.index.all))
}

// post adds a posting. slot is where it belongs, len(g.slots) for keyAlways.
func (g *group) post(slot uint32, p posting) {
	if int(slot) < len(g.slots) {
		g.slots[slot].classes |= classBit(p.key >> classShift & classMask)
		if p.key&keyAccess != 0 {
			g.slots[slot].classes |= hasAccess
		}
	}
	x := &g.index
	if x.big == nil {
		if len(x.all) < chunkMax && len(g.slots) <= shortSlots {
			start, end := g.run(slot)
			x.all = insertAt(x.all, int(start)+lowerBound(x.all[start:end], p), p)
			for i := int(slot); i < len(g.slots); i++ {
				g.slots[i].end++
			}
			return
		}
		x.big = &chunks{lists: [][]posting{x.all}, least: make([]posting, 1)}
		x.all = nil
	}
	x.big.insert(p)
}

// unpost takes out what post added.
func (g *group) unpost(slot uint32, p posting) {
	x := &g.index
	if x.big != nil {
		x.big.remove(p)
		return
	}
	at := lowerBound(x.all, p)
	if at == len(x.all) || x.all[at] != p {
		return
	}
	x.all = slices.Delete(x.all, at, at+1)
	for i := int(slot); i < len(g.slots); i++ {
		g.slots[i].end--
	}
}

// purge takes out all of a trigger's postings, of which nothing else is known.
func (g *group) purge(ref uint32) {
	gone := func(p posting) bool { return uint32(p.val) == ref }
	x := &g.index
	if x.big != nil {
		for i := len(x.big.lists) - 1; i >= 0; i-- {
			x.big.lists[i] = slices.DeleteFunc(x.big.lists[i], gone)
			x.big.tidy(min(i, len(x.big.lists)-1))
		}
		return
	}
	start := uint32(0)
	taken := uint32(0)
	for i := range g.slots {
		end := g.slots[i].end
		for _, p := range x.all[start:end] {
			if gone(p) {
				taken++
			}
		}
		start = end
		g.slots[i].end -= taken
	}
	x.all = slices.DeleteFunc(x.all, gone)
}

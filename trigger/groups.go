package trigger

import "hash/maphash"

// groupTable finds an organization's group. It is a map that knows more of what it
// holds: of most changes this look is the first, at memory that no cache has, and
// every place less that must be looked at counts.
type groupTable struct {
	slots []groupSlot // a power of two, at most three quarters taken
	n     int
}

type groupSlot struct {
	hash uint64
	g    *group // nil: free
}

// shortName is how long an organization's id may be that stands in its group itself.
const shortName = 39

// name is an organization's id beside what else is looked at first.
type name struct {
	length uint8 // 255: it is longer
	text   [shortName]byte
}

func nameOf(s string) (n name) {
	if len(s) > shortName {
		n.length = 255
		return n
	}
	n.length = uint8(len(s))
	copy(n.text[:], s)
	return n
}

func (g *group) isOf(organization string) bool {
	if g.name.length == 255 {
		return g.organization == organization
	}
	return string(g.name.text[:g.name.length]) == organization
}

func (x *groupTable) get(organization string) *group {
	if x.n == 0 {
		return nil
	}
	hash := maphash.String(hashSeed, organization)
	for i := hash; ; i++ {
		s := &x.slots[i&uint64(len(x.slots)-1)]
		if s.g == nil || s.hash == hash && s.g.isOf(organization) {
			return s.g
		}
	}
}

// probable gives the group that has a hash, if it stands near its place: no group's own memory is read.
func (x *groupTable) probable(hash uint64) *group {
	for i := hash; i < hash+8; i++ {
		if s := &x.slots[i&uint64(len(x.slots)-1)]; s.g == nil || s.hash == hash {
			return s.g
		}
	}
	return nil
}

// put adds the group of an organization that has none.
func (x *groupTable) put(g *group) {
	if 4*(x.n+1) > 3*len(x.slots) {
		old := x.slots
		x.slots = make([]groupSlot, max(8, 2*len(old)))
		for _, s := range old {
			if s.g != nil {
				x.place(s)
			}
		}
	}
	g.name = nameOf(g.organization)
	x.place(groupSlot{maphash.String(hashSeed, g.organization), g})
	x.n++
}

func (x *groupTable) place(s groupSlot) {
	i := s.hash & uint64(len(x.slots)-1)
	for x.slots[i].g != nil {
		i = (i + 1) & uint64(len(x.slots)-1)
	}
	x.slots[i] = s
}

// remove takes a group out, and moves up those behind it that would have stood in its place.
func (x *groupTable) remove(g *group) {
	mask := uint64(len(x.slots) - 1)
	i := maphash.String(hashSeed, g.organization) & mask
	for x.slots[i].g != g {
		if x.slots[i].g == nil {
			return
		}
		i = (i + 1) & mask
	}
	x.n--
	for j := (i + 1) & mask; x.slots[j].g != nil; j = (j + 1) & mask {
		if home := x.slots[j].hash & mask; (j-home)&mask >= (j-i)&mask {
			x.slots[i] = x.slots[j]
			i = j
		}
	}
	x.slots[i] = groupSlot{}
}

func (x *groupTable) each(f func(*group)) {
	for _, s := range x.slots {
		if s.g != nil {
			f(s.g)
		}
	}
}

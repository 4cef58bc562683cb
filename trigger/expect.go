package trigger

// What is about to be matched is fetched into the processor's caches, several changes' at one time.

import (
	"hash/maphash"

	"github.com/pgautomate/pgautomate/change"
)

// Window is how many changes Expect looks at, at most.
const Window = 16

// expected is what Expect has found. It is of use as long as no group comes or goes.
type expected struct {
	changes [Window]*change.Change
	groups  [Window]*group // nil: to be looked up
	n, at   int
	sum     uint64
}

// Expect says which changes are matched next, in that order; beyond Window they don't count. It makes matching them
// faster, and nothing else: of most changes the organization's triggers are in no cache, and to wait for several
// organizations' at once takes little longer than for one's.
func (s *Set) Expect(next []*change.Change) {
	var (
		hashes [Window]uint64
		tables [Window]*groupTable
		e      = &s.expected
		sum    uint64
	)
	e.n, e.at = min(len(next), Window), 0
	// Each loop reads what the one before has found, and no read of a loop waits for another one of it.
	for i, c := range next[:e.n] {
		e.changes[i], e.groups[i] = c, nil
		if c.Object == nil || len(c.After) == 0 {
			continue
		}
		if t := s.types[c.Object.Type]; t != nil && t.groups.n > 0 {
			tables[i] = &t.groups
			hashes[i] = maphash.String(hashSeed, c.Organization)
			sum += t.groups.slots[hashes[i]&uint64(len(t.groups.slots)-1)].hash + uint64(c.After[0])
		}
	}
	for i, x := range tables[:e.n] {
		if x == nil {
			continue
		}
		if g := x.probable(hashes[i]); g != nil {
			e.groups[i] = g
			sum += uint64(g.name.length) + uint64(g.byColumn[directColumns/2]) + g.columns + uint64(len(g.fields)) + uint64(len(g.triggers))
		}
	}
	for _, g := range e.groups[:e.n] {
		if g != nil && len(g.slots) > 0 {
			sum += uint64(g.slots[0].uses) + uint64(g.slots[len(g.slots)/2].uses) + uint64(g.slots[len(g.slots)-1].uses) + uint64(g.fields[0])
		}
	}
	e.sum = sum // so that no read is left out
}

// groupOf finds the group of a change, nil if its organization has none.
func (s *Set) groupOf(t *objectType, c *change.Change) *group {
	e := &s.expected
	for i := e.at; i < e.n; i++ {
		if e.changes[i] != c {
			continue // it didn't come, or something else did
		}
		e.at = i + 1
		if g := e.groups[i]; g != nil && g.typ == t && g.isOf(c.Organization) {
			return g
		}
		break
	}
	return t.groups.get(c.Organization)
}

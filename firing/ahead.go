package firing

import (
	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/trigger"
)

// ahead tells the triggers which changes come next, across the commits of a batch. Those of large commits, which are not in
// memory, don't count.
type ahead struct {
	commits []*change.Commit
	at      int // the next of the first commit's changes
	left    int // so many of those that were told are still to come
	next    [trigger.Window]*change.Change
}

// step is called before each change.
func (a *ahead) step(set *trigger.Set) {
	if a.left > 0 {
		a.left--
		return
	}
	n := 0
	for n < len(a.next) && len(a.commits) > 0 {
		c := a.commits[0]
		if c.Large != nil || a.at == len(c.Changes) {
			a.commits, a.at = a.commits[1:], 0
			continue
		}
		a.next[n] = &c.Changes[a.at]
		a.at++
		n++
	}
	a.left = n - 1
	if n > 1 {
		set.Expect(a.next[:n])
	}
}

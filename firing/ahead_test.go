package firing

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/trigger"
)

// Every change is told before it comes, but for those of large commits and the last one of a batch when it is alone.
func TestAhead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		commits := make([]*change.Commit, rapid.IntRange(0, 12).Draw(t, "commits"))
		for i := range commits {
			commits[i] = &change.Commit{Changes: make([]change.Change, rapid.IntRange(0, 40).Draw(t, "changes"))}
			if rapid.IntRange(0, 5).Draw(t, "large") == 0 {
				commits[i] = &change.Commit{Large: slow{}}
			}
		}
		set := trigger.NewSet()
		a := ahead{commits: commits}
		for i, c := range commits {
			for j := range c.Changes {
				before := a.left
				a.step(set)
				told := a.next[:]
				if before == 0 {
					told = told[:a.left+1]
				}
				found := false
				for _, ch := range told {
					found = found || ch == &c.Changes[j]
				}
				if !found {
					t.Fatalf("change %d of commit %d was not told", j, i)
				}
			}
		}
		if a.left != 0 {
			t.Fatalf("%d changes too many were told", a.left)
		}
	})
}

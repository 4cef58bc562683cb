package feed

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgautomate/pgautomate/change"
)

// A feed that is behind takes what arrives within its patience at once; it waits no
// longer than for a reason.
func TestQueueGathers(t *testing.T) {
	t.Parallel()
	const patience = 50 * time.Millisecond
	commit := func(n int) *change.Commit { return &change.Commit{End: change.EndLSN(n)} }
	for name, c := range map[string]struct {
		patience time.Duration
		write    func(q *queue) // what the reader does
		commits  int
		took     time.Duration
	}{
		"keeps up": {0, func(q *queue) {
			q.push(commit(1), 1)
			time.Sleep(time.Millisecond)
			q.push(commit(2), 1)
		}, 1, 0},
		"behind": {patience, func(q *queue) {
			for i := range 3 {
				q.push(commit(i+1), 1)
				time.Sleep(10 * time.Millisecond)
			}
		}, 3, patience},
		"nothing more is on its way": {patience, func(q *queue) {
			q.push(commit(1), 1)
			time.Sleep(5 * time.Millisecond)
			q.push(commit(2), 1)
			q.nothingMore()
		}, 2, 5 * time.Millisecond},
		"no room": {patience, func(q *queue) {
			for i := 0; q.push(commit(i+1), 1); i++ {
				time.Sleep(time.Millisecond)
			}
		}, 10, 10 * time.Millisecond},
		"a large one": {patience, func(q *queue) { q.push(commit(1), 1000) }, 1, 0},
		"closed": {patience, func(q *queue) {
			q.push(commit(1), 1)
			time.Sleep(time.Millisecond)
			q.close()
		}, 1, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(10, 100)
				q.patience = func() time.Duration { return c.patience }
				began := time.Now()
				written := make(chan struct{})
				go func() {
					defer close(written)
					c.write(q)
				}()
				commits, _, more := q.take(nil)
				if took := time.Since(began); len(commits) != c.commits || took != c.took || !more {
					t.Errorf("%d commits after %v, want %d after %v", len(commits), took, c.commits, c.took)
				}
				<-written
			})
		})
	}
}

package feed

import (
	"sync"
	"time"

	"github.com/pgautomate/pgautomate/change"
)

// queue holds the commits that have wholly arrived and wait to be applied. It
// holds at most one batch, so taking all of it is natural batching: while one
// batch is applied the next one gathers, and an idle feed applies each commit
// at once. A feed that is far behind waits a little for more (patience): then
// nobody notices, and a transaction a commit would be dear.
type queue struct {
	maxCommits, maxBytes int
	patience             func() time.Duration // how long a batch may gather; nil: not at all

	mu      sync.Mutex
	commits []*change.Commit
	bytes   int
	idle    change.EndLSN // a position to write as a checkpoint when no commit does
	look    bool          // the applier is wanted without a commit
	closed  bool
	full    bool // a commit waits for room
	calm    bool // nothing more is on its way

	ready  chan struct{} // there is something to take, or the queue is closed
	space  chan struct{} // something was taken
	enough chan struct{} // there is no reason to gather on
}

func newQueue(maxCommits, maxBytes int) *queue {
	return &queue{
		maxCommits: maxCommits, maxBytes: maxBytes,
		ready: make(chan struct{}, 1), space: make(chan struct{}, 1), enough: make(chan struct{}, 1),
	}
}

// push adds a commit, or gives false when there is no room: then wait for
// space. A commit larger than the limit fits when the queue is empty.
func (q *queue) push(c *change.Commit, size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.commits); n > 0 && (n >= q.maxCommits || q.bytes+size > q.maxBytes) {
		q.full = true
		signal(q.enough)
		return false
	}
	q.commits = append(q.commits, c)
	q.bytes += size
	q.calm = false
	signal(q.ready)
	return true
}

// requestIdle asks for a checkpoint at a position that no commit ends at.
func (q *queue) requestIdle(position change.EndLSN) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.idle = position
	signal(q.ready)
}

// requestLook wakes the applier without anything to apply: for a look at the standbys, or the
// checkpoint of commits that came to nothing.
func (q *queue) requestLook() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.look = true
	signal(q.ready)
}

// close lets take say that nothing more will come, after what is there.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	signal(q.ready)
	signal(q.enough)
}

// nothingMore says that what is there is all that has been sent, or that the reader
// waits for its being applied.
func (q *queue) nothingMore() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calm = true
	signal(q.enough)
}

// gather waits for more commits, at most for the patience. The lock is held, but not meanwhile.
func (q *queue) gather() {
	var end <-chan time.Time
	for !q.closed && !q.full && !q.calm && len(q.commits) < q.maxCommits && q.bytes < q.maxBytes {
		if end == nil {
			wait := q.patience()
			if wait <= 0 {
				return
			}
			t := time.NewTimer(wait)
			defer t.Stop()
			end = t.C
		}
		q.mu.Unlock()
		over := false
		select {
		case <-q.enough:
		case <-end:
			over = true
		}
		q.mu.Lock()
		if over {
			return
		}
	}
}

// take waits for and takes all there is, in the slice reuse. Without commits,
// idle is a position to checkpoint, or 0 for a look at the standbys alone. more is
// false when the queue is closed and empty.
func (q *queue) take(reuse []*change.Commit) (commits []*change.Commit, idle change.EndLSN, more bool) {
	clear(reuse)
	for {
		q.mu.Lock()
		if len(q.commits) > 0 && q.patience != nil {
			q.gather()
		}
		if len(q.commits) > 0 || q.idle != 0 || q.look {
			commits, q.commits = q.commits, reuse[:0]
			idle, q.idle = q.idle, 0
			q.look = false
			q.bytes, q.full = 0, false
			if q.closed {
				signal(q.ready)
			}
			q.mu.Unlock()
			signal(q.space)
			return commits, idle, true
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return nil, 0, false
		}
		<-q.ready
	}
}

// length is the number of commits that wait.
func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.commits)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

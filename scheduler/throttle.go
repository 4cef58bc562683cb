package scheduler

// The arithmetic of throttles, apart from any database.
//
// The rule: at most MaxStarts actions have started_at in any window of `per`,
// and at most MaxRunning are queued or running at once. A token is taken when an
// action is queued, but it counts as started only when a worker takes it, some
// time later. So what is queued counts in full, besides what started within the
// window. Then, whatever the delay between the two, no window can hold too many:
// take any window and the last claim before its end; what starts in the window
// either had started before that claim and within `per` of it, or was queued
// then, or was claimed then: and that sum was at most MaxStarts.

import "math"

// Unlimited is the allowance of an organization without a throttle.
const Unlimited = math.MaxInt32

// Budget is a throttle and what of it is used.
type Budget struct {
	MaxStarts  *int32 // nil: no limit of starts
	MaxRunning *int32 // nil: no limit of running ones

	Starts  int64 // started within the window that ends now
	Queued  int64 // claimed, not started yet
	Running int64
}

// Allowance is how many more actions may be queued now.
func (b Budget) Allowance() int {
	left := int64(Unlimited)
	if b.MaxStarts != nil {
		left = min(left, int64(*b.MaxStarts)-b.Starts-b.Queued)
	}
	if b.MaxRunning != nil {
		left = min(left, int64(*b.MaxRunning)-b.Queued-b.Running)
	}
	return int(max(left, 0))
}

// Take returns the budget after n more were queued.
func (b Budget) Take(n int) Budget {
	b.Queued += int64(n)
	return b
}

// Held says why nothing may be queued: what a window's end will free, or only
// the end of something running, or a person.
type Held int

// The reasons of Held.
const (
	NotHeld       Held = iota
	HeldByStarts       // frees itself when starts leave the window
	HeldByRunning      // frees itself when something ends
	Paused             // a limit of 0: until the throttle changes
)

// Held gives the reason why the allowance is 0.
func (b Budget) Held() Held {
	switch {
	case b.Allowance() > 0:
		return NotHeld
	case b.MaxStarts != nil && *b.MaxStarts == 0, b.MaxRunning != nil && *b.MaxRunning == 0:
		return Paused
	case b.MaxStarts != nil && b.Starts >= int64(*b.MaxStarts):
		return HeldByStarts
	default:
		return HeldByRunning
	}
}

// share divides room among n takers, at least one each as long as there is room.
func share(room, n int) int {
	if n <= 0 || room <= 0 {
		return 0
	}
	return max(1, room/n)
}

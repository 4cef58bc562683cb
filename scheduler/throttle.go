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

// Resumable is how many more actions that have started already may go on after their
// timers: no start, so MaxStarts says nothing to it.
func (b Budget) Resumable() int {
	if b.MaxRunning == nil {
		return Unlimited
	}
	return int(max(int64(*b.MaxRunning)-b.Queued-b.Running, 0))
}

// taker is a lane in a claim.
type taker struct {
	weight int // of its organization, at least 1
	credit int // what is left of a turn that was cut short; 0: a new turn
	want   int // at most so many
}

// deal shares room among takers that stand in line, the longest waiting first, by
// deficit round robin: in its turn each takes its weight, as often as all of them can;
// what is left then is drawn by lot, by weight. Where there is too little room for
// everybody's turn, who is cut short keeps his place with what is left of his turn as
// credit, and those behind him keep theirs. So whatever the room of a single claim,
// over time each gets in proportion to its weight what it wants and there is.
// It is for when these are all. Where others may stand behind them, each gets a turn (see
// pace), so that whoever comes to have a claim for itself doesn't get more for it.
// random gives a number from 0 to n-1.
func deal(room int, line []taker, random func(n int) int) (takes, credits []int, waits []bool) {
	takes, credits, waits = make([]int, len(line)), make([]int, len(line)), make([]bool, len(line))
	weights := 0
	for _, t := range line {
		if t.want > 0 {
			weights += t.weight
		}
	}
	if weights == 0 {
		return takes, credits, waits
	}
	rounds := max(1, room/weights)
	for i, t := range line {
		own := t.weight * rounds
		if t.credit > 0 {
			own = t.credit
		}
		own = min(own, t.want)
		takes[i] = min(own, max(room, 0))
		room -= takes[i]
		if takes[i] < own {
			credits[i], waits[i] = own-takes[i], true
		}
	}
	for ; room > 0; room-- {
		weights = 0
		for i, t := range line {
			if takes[i] < t.want {
				weights += t.weight
			}
		}
		if weights == 0 {
			break
		}
		lot := random(weights)
		for i, t := range line {
			if takes[i] >= t.want {
				continue
			}
			if lot -= t.weight; lot < 0 {
				takes[i]++
				break
			}
		}
	}
	return takes, credits, waits
}

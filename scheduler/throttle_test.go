package scheduler

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// budgetModel is an organization as the database sees it: what is queued, what
// runs, when what started; and the slices in which starts are counted.
type budgetModel struct {
	now             int64 // any unit
	per             int64
	maxStarts       *int32
	maxRunning      *int32
	queued, running int64
	starts          []int64 // times
	slices          map[int64]int64
}

const slicesPerWindow = 64

// budget is what LaneHeads reads.
func (m *budgetModel) budget() Budget {
	b := Budget{MaxStarts: m.maxStarts, MaxRunning: m.maxRunning, Queued: m.queued, Running: m.running}
	for end, n := range m.slices {
		if end > m.now-m.per {
			b.Starts += n
		}
	}
	return b
}

// start is what StartActions and CountStarts do.
func (m *budgetModel) start() {
	m.queued, m.running = m.queued-1, m.running+1
	m.starts = append(m.starts, m.now)
	if m.maxStarts != nil {
		width := m.per / slicesPerWindow
		m.slices[m.now/width*width+width]++
	}
}

func limitOf(t *rapid.T, name string) *int32 {
	if !rapid.Bool().Draw(t, name+"?") {
		return nil
	}
	n := int32(rapid.IntRange(0, 12).Draw(t, name))
	return &n
}

// TestThrottleHolds: whatever happens between a claim and a start, no window
// holds more starts than the limit, and never more than MaxRunning are under way.
func TestThrottleHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		per := int64(slicesPerWindow * rapid.IntRange(1, 20).Draw(t, "slice"))
		m := &budgetModel{per: per, maxStarts: limitOf(t, "starts"), maxRunning: limitOf(t, "running"), slices: map[int64]int64{}}
		since := int64(0) // the limits in force since
		check := func() {
			if m.maxRunning != nil && m.queued+m.running > int64(*m.maxRunning) {
				t.Fatalf("%d queued and %d running, limit %d", m.queued, m.running, *m.maxRunning)
			}
			if m.maxStarts == nil {
				return
			}
			for i, at := range m.starts {
				if at < since {
					continue
				}
				n := 0
				for _, other := range m.starts[i:] {
					if other < at+per {
						n++
					}
				}
				if n > int(*m.maxStarts) {
					t.Fatalf("%d starts from %d on within %d, limit %d (starts %v)", n, at, per, *m.maxStarts, m.starts)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) { m.now += rapid.Int64Range(1, per+per/3).Draw(t, "by") },
			"claim": func(t *rapid.T) {
				want := rapid.IntRange(1, 20).Draw(t, "want")
				b := m.budget()
				n := min(want, b.Allowance())
				if n == 0 && b.Held() == NotHeld {
					t.Fatalf("nothing allowed and not held: %+v", b)
				}
				if n > 0 && b.Held() != NotHeld {
					t.Fatalf("%d allowed and held: %+v", n, b)
				}
				// Two lanes of one budget in a claim take from what is left.
				first := rapid.IntRange(0, n).Draw(t, "first")
				if rest := b.Take(first).Allowance(); rest != Unlimited && first+rest < n {
					t.Fatalf("%d taken leaves %d of %d", first, rest, n)
				}
				m.queued += int64(n)
			},
			"start": func(t *rapid.T) {
				for range rapid.IntRange(1, 5).Draw(t, "n") {
					if m.queued > 0 {
						m.start()
					}
				}
			},
			"end": func(*rapid.T) {
				if m.running > 0 {
					m.running--
				}
			},
			"cancel": func(*rapid.T) {
				if m.queued > 0 {
					m.queued--
				}
			},
			"a higher limit": func(*rapid.T) {
				if m.maxStarts != nil {
					n := *m.maxStarts + 3
					m.maxStarts = &n
				}
			},
			"a lower limit": func(t *rapid.T) {
				// Holds for windows that begin once what was queued before has started.
				if m.maxStarts == nil || *m.maxStarts < 2 {
					t.Skip()
				}
				n := *m.maxStarts / 2
				m.maxStarts = &n
				for m.queued > 0 {
					m.start()
				}
				m.now++
				since = m.now
			},
			"": func(*rapid.T) { check() },
		})
	})
}

// TestThrottleIsUsed: who claims what is allowed as soon as it is allowed gets
// the limit's worth, less what the slices' width costs: a 64th.
func TestThrottleIsUsed(t *testing.T) {
	t.Parallel()
	for _, limit := range []int32{1, 7, 600} {
		m := &budgetModel{per: 6400, maxStarts: &limit, slices: map[int64]int64{}}
		const windows = 20
		for ; m.now < windows*m.per; m.now += 10 {
			for n := m.budget().Allowance(); n > 0; n-- {
				m.queued++
				m.start()
				m.running--
			}
		}
		want := float64(windows) * float64(limit) * 64 / 66
		if got := len(m.starts); float64(got) < want || got > windows*int(limit) {
			t.Errorf("limit %d: %d starts in %d windows, want %.0f to %d", limit, got, windows, want, windows*int(limit))
		}
	}
}

// TestDeal: never more than there is room for, nobody more than he wants, nothing is
// left while anybody wants more, nobody who stands before loses to one who stands
// behind, and with room for all turns each gets his weight at least.
func TestDeal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		room := rapid.IntRange(-5, 500).Draw(t, "room")
		line := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) taker {
			return taker{
				weight: rapid.SampledFrom([]int{1, 1, 1, 2, 7, 100}).Draw(t, "weight"), credit: rapid.IntRange(0, 5).Draw(t, "credit"),
				want: rapid.SampledFrom([]int{1, 3, 50, Unlimited}).Draw(t, "want"),
			}
		}), 0, 300).Draw(t, "line")
		takes, credits, waits := deal(room, line, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "lot") })
		given, wanted, weights, cut := 0, false, 0, false
		for i, n := range takes {
			given += n
			weights += line[i].weight
			wanted = wanted || n < line[i].want
			if n < 0 || n > line[i].want {
				t.Fatalf("%d of %d that it wants", n, line[i].want)
			}
			if n > 0 && cut {
				t.Fatalf("%d took from whom stands before it: %v", i, takes)
			}
			cut = cut || waits[i]
			if waits[i] != (credits[i] > 0) {
				t.Fatalf("waits %v with %d to come", waits[i], credits[i])
			}
		}
		if given > max(room, 0) {
			t.Fatalf("%d were given of %d", given, room)
		}
		if wanted && given < room {
			t.Fatalf("%d were given of %d, and more were wanted", given, room)
		}
		for i, n := range takes {
			if weights <= room && line[i].credit == 0 && n < min(line[i].weight, line[i].want) && slices.Max(creditsOf(line)) == 0 {
				t.Fatalf("weight %d got %d of %d", line[i].weight, n, room)
			}
		}
	})
}

func creditsOf(line []taker) []int {
	list := []int{0}
	for _, t := range line {
		list = append(list, t.credit)
	}
	return list
}

// TestDealIsFair: whatever the room of each claim, over time each gets in proportion
// to its weight; with weights of 1, everybody the same.
func TestDealIsFair(t *testing.T) {
	t.Parallel()
	for _, weights := range [][]int{{1, 1, 1, 1, 1}, {3, 1}, {10, 1, 1, 1, 4}, {1, 100}} {
		for _, room := range []int{1, 2, 7, 50, 400} {
			rnd := rand.New(rand.NewPCG(1, 2))
			var line []int
			got, credit := make([]int, len(weights)), make([]int, len(weights))
			for i := range weights {
				line = append(line, i)
			}
			const wanted = 100_000
			for given := 0; given < wanted; {
				// A claim takes at most as many lanes as it has room for, as LockLanes does.
				p := &pace{turn: longestTurn, yield: longestTurn}
				most := p.lanes(room)
				head := line[:min(most, len(line))]
				var takers []taker
				for _, who := range head {
					takers = append(takers, taker{weights[who], credit[who], Unlimited})
				}
				takes, credits, waits := deal(room, takers, rnd.IntN)
				if len(head) == most { // others may be due
					own, left := make([]int, len(takers)), room
					for i, t := range takers {
						own[i] = p.turnOf(t)
						takes[i] = min(own[i], left)
						left -= takes[i]
					}
					credits, waits = cut(own, takes, room)
				}
				var stay, served []int
				for i, who := range head {
					got[who] += takes[i]
					given += takes[i] // what is left of the room is the next claim's
					credit[who] = credits[i]
					if waits[i] {
						stay = append(stay, who)
					} else {
						served = append(served, who)
					}
				}
				line = slices.Concat(stay, line[len(head):], served)
			}
			sum := 0
			for _, w := range weights {
				sum += w
			}
			for i, w := range weights {
				if want := float64(wanted) * float64(w) / float64(sum); float64(got[i]) < 0.85*want-float64(room) || float64(got[i]) > 1.15*want+float64(room) {
					t.Errorf("weights %v, room %d: got %v, want %.0f for the one of %d", weights, room, got, want, w)
				}
			}
		}
	}
}

func TestNextAt(t *testing.T) {
	t.Parallel()
	now := time.Date(2028, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *time.Time { v := now.Add(d); return &v }
	limit := func(n int32) *int32 { return &n }
	s := &Scheduler{LimitsAfter: 5 * time.Second}
	for name, c := range map[string]struct {
		row  dbq.LaneHeadsRow
		want time.Time
	}{
		"nothing":                          {dbq.LaneHeadsRow{}, never},
		"parked":                           {dbq.LaneHeadsRow{PendingAt: at(time.Hour)}, now.Add(time.Hour)},
		"a timer":                          {dbq.LaneHeadsRow{TimerAt: at(time.Minute)}, now.Add(time.Minute)},
		"a timer before what is parked":    {dbq.LaneHeadsRow{PendingAt: at(time.Hour), TimerAt: at(time.Minute)}, now.Add(time.Minute)},
		"what is parked before a timer":    {dbq.LaneHeadsRow{PendingAt: at(time.Second), TimerAt: at(time.Minute)}, now.Add(time.Second)},
		"due, not held: at once":           {dbq.LaneHeadsRow{PendingAt: at(-time.Hour), TimerAt: at(time.Minute)}, now},
		"due now":                          {dbq.LaneHeadsRow{PendingAt: at(0)}, now},
		"held by starts, free soon":        {dbq.LaneHeadsRow{PendingAt: at(0), MaxStarts: limit(5), Starts: 5, FreesAt: *at(2 * time.Second)}, now.Add(2 * time.Second)},
		"held by starts, free late":        {dbq.LaneHeadsRow{PendingAt: at(0), MaxStarts: limit(5), Starts: 5, FreesAt: *at(time.Hour)}, now.Add(5 * time.Second)},
		"held by starts, a timer before":   {dbq.LaneHeadsRow{PendingAt: at(0), TimerAt: at(time.Second), MaxStarts: limit(5), Starts: 5, FreesAt: *at(time.Hour)}, now.Add(time.Second)},
		"held by what is queued":           {dbq.LaneHeadsRow{PendingAt: at(0), MaxStarts: limit(5), Starts: 1, Queued: 4, FreesAt: *at(time.Hour)}, now.Add(200 * time.Millisecond)},
		"held by what runs":                {dbq.LaneHeadsRow{PendingAt: at(0), MaxRunning: limit(3), Running: 3}, now.Add(200 * time.Millisecond)},
		"paused":                           {dbq.LaneHeadsRow{PendingAt: at(0), MaxStarts: limit(0)}, now.Add(5 * time.Second)},
		"paused by what may run":           {dbq.LaneHeadsRow{PendingAt: at(0), MaxRunning: limit(0)}, now.Add(5 * time.Second)},
		"a timer, all that may run do":     {dbq.LaneHeadsRow{TimerAt: at(-time.Second), MaxRunning: limit(3), Running: 2, Queued: 1}, now.Add(200 * time.Millisecond)},
		"a timer, paused":                  {dbq.LaneHeadsRow{TimerAt: at(-time.Second), MaxRunning: limit(0)}, now.Add(5 * time.Second)},
		"a timer, no start is left":        {dbq.LaneHeadsRow{TimerAt: at(-time.Second), MaxStarts: limit(0)}, now.Add(-time.Second)},
		"paused, nothing due yet":          {dbq.LaneHeadsRow{PendingAt: at(time.Hour), MaxStarts: limit(0)}, now.Add(time.Hour)},
		"limits with room":                 {dbq.LaneHeadsRow{PendingAt: at(0), MaxStarts: limit(5), Starts: 3, Queued: 1, MaxRunning: limit(9), Running: 7}, now},
		"held by starts of a lower limit":  {dbq.LaneHeadsRow{PendingAt: at(0), MaxStarts: limit(5), Starts: 50, FreesAt: *at(time.Second)}, now.Add(time.Second)},
		"due in the past, timer in it too": {dbq.LaneHeadsRow{PendingAt: at(-time.Hour), TimerAt: at(-time.Minute)}, now},
	} {
		c.row.Now = now
		if c.row.MaxStarts != nil || c.row.MaxRunning != nil {
			c.row.Budget = "log"
		}
		l := &lane{LaneHeadsRow: c.row}
		want := c.want
		if name == "due in the past, timer in it too" {
			want = now
		}
		if got := l.nextAt(s); !got.Equal(want) && (!got.Before(now) || !want.Equal(now)) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestYield: a claim takes as many lanes as it needs to fill its room, and few more, whatever they have.
func TestYield(t *testing.T) {
	t.Parallel()
	const room = 200
	for _, due := range []int{1, 2, 3, 8, 100} {
		now := time.Date(2028, 3, 1, 12, 0, 0, 0, time.UTC)
		p := pace{turn: longestTurn, since: now}
		lanes := 0
		for range 20 {
			lanes = p.lanes(room)
			gives := min(due, p.turn)
			claimed := min(lanes*gives, room)
			p.follow(now, (claimed+gives-1)/gives, claimed)
		}
		if gives := min(due, longestTurn); lanes*gives < room || lanes*gives > room*5/4+2*gives {
			t.Errorf("%d due in each: %d lanes for room for %d", due, lanes, room)
		}
	}
	var unknown *pace
	if n := unknown.lanes(room); n != room {
		t.Errorf("%d lanes when nothing is known", n)
	}
	if n := (&pace{yield: 0.01}).lanes(room); n != room {
		t.Errorf("%d lanes when they give nothing", n)
	}
}

// TestCut: who is behind when the room has come to its end keeps his turn, and whoever it was cut short for what is left.
func TestCut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		own, got, credits []int
		room              int
	}{
		"room for all":           {[]int{4, 4, 4}, []int{4, 1, 0}, []int{0, 0, 0}, 6},
		"just":                   {[]int{4, 4}, []int{4, 4}, []int{0, 0}, 8},
		"cut short":              {[]int{4, 4, 4}, []int{4, 2, 0}, []int{0, 2, 4}, 6},
		"cut between":            {[]int{4, 4, 4}, []int{4, 4, 0}, []int{0, 0, 4}, 8},
		"less than its turn":     {[]int{4, 4, 4}, []int{2, 4, 0}, []int{0, 0, 4}, 6},
		"nothing is left at all": {[]int{4, 4}, []int{0, 0}, []int{4, 4}, 0},
	} {
		credits, waits := cut(c.own, c.got, c.room)
		for i := range c.own {
			if credits[i] != c.credits[i] || waits[i] != (c.credits[i] > 0) {
				t.Errorf("%s: %v, %v, want %v", name, credits, waits, c.credits)
			}
		}
	}
}

// Where actions come slowly, turns are short: nobody waits long for his.
func TestPace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		perSecond int
		want      int
	}{{10, 0}, {300, 1}, {1000, 4}, {4000, 16}, {20_000, longestTurn}} {
		now := time.Date(2028, 3, 1, 12, 0, 0, 0, time.UTC)
		p := pace{since: now}
		for range 200 {
			now = now.Add(10 * time.Millisecond)
			claimed := max(1, c.perSecond/100)
			if c.perSecond < 100 {
				now = now.Add(time.Second/time.Duration(c.perSecond) - 10*time.Millisecond)
			}
			p.follow(now, 1000, claimed)
		}
		if p.turn != c.want {
			t.Errorf("%d a second: %d in a turn, want %d", c.perSecond, p.turn, c.want)
		}
	}
}

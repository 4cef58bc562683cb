package firing

// Triggers that begin to match by the passing of time. Each has a timer for each
// object whose verdict the clock can change: the next moment at which it may
// (trigger_timers). The clock is that of the commits: before a commit is matched,
// the timers that were due by then fire, in their order, on the rows as they were.
// So a crash, a standby or an engine that was off for a week makes no difference:
// the same timers meet the same rows. When nobody commits anything, RunClock does,
// as soon as a timer is due.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/trigger"
)

// clockWrong is how far behind the clock a commit may be: servers' clocks are set
// back a little now and then. One that is further behind shows that the clock was
// wrong; from then on the commit's time counts.
const clockWrong = 10 * time.Minute

// dueAtOnce bounds how many due timers are taken up at once.
const dueAtOnce = 1000

// noTimer is in timers.next when none is set.
const noTimer = math.MaxInt64

type timers struct {
	clock time.Time    // as of the checkpoint
	next  atomic.Int64 // when the first is due, microseconds since 1970; 0: the feed is wanted at once
}

func (t *timers) load(ctx context.Context, q *dbq.Queries) error {
	at, err := q.TriggerClock(ctx)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("clock of the triggers: %w", err)
	}
	t.clock = at
	next, err := nextTimer(ctx, q)
	t.next.Store(next)
	return err
}

func nextTimer(ctx context.Context, q *dbq.Queries) (int64, error) {
	due, err := q.NextTimer(ctx)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return noTimer, nil
	case err != nil:
		return 0, fmt.Errorf("timers: %w", err)
	}
	return due.UnixMicro(), nil
}

// timing is what a batch does to the timers.
type timing struct {
	clock   time.Time
	next    int64
	pending map[timerKey]time.Time // not written yet; zero: deleted
	taken   []trigger.Timer
	moved   bool // the clock
}

type timerKey struct {
	trigger int64
	object  string
}

// begin takes over where the checkpoint left off.
func (b *batch) beginTimers() {
	b.timing = timing{clock: b.timers.clock, next: b.timers.next.Load()}
	b.set.SetClock(b.timing.clock)
}

// arm sets the timers of triggers that are new, or whose rows were read anew.
func (b *batch) arm(ctx context.Context) error {
	unarmed := b.set.Unarmed()
	if len(unarmed) == 0 || b.timing.clock.IsZero() || b.mirrors.store == nil || len(b.missing(b.mirrors.at)) > 0 {
		return nil // those that lack rows are armed once they are read
	}
	if err := b.writeTimers(ctx, 1); err != nil {
		return err
	}
	ids := make([]int64, len(unarmed))
	for i, u := range unarmed {
		ids[i] = u.TriggerID
	}
	if err := b.q.DeleteTimersOf(ctx, ids); err != nil {
		return fmt.Errorf("timers: %w", err)
	}
	for _, id := range ids {
		err := b.set.Arm(id, func(t trigger.Timer) error {
			b.keep(t)
			if err := b.speak(ctx); err != nil {
				return err
			}
			return b.writeTimers(ctx, flushAt)
		})
		if err != nil {
			return err
		}
	}
	if err := b.q.TimersSet(ctx, ids); err != nil {
		return fmt.Errorf("timers: %w", err)
	}
	b.timing.moved = true // the clock at which they were set is kept with them
	return nil
}

// advance fires the timers that are due by the time of a commit, and sets the
// clock at it.
func (b *batch) advance(ctx context.Context, c *change.Commit) error {
	t := &b.timing
	if c.Time.After(t.clock) || t.clock.Sub(c.Time) > clockWrong {
		t.clock, t.moved = c.Time, true
	}
	for t.next <= t.clock.UnixMicro() {
		if err := b.writeTimers(ctx, 1); err != nil {
			return err
		}
		due, err := b.q.DueTimers(ctx, dbq.DueTimersParams{Until: t.clock, Most: dueAtOnce})
		if err != nil {
			return fmt.Errorf("timers: %w", err)
		}
		if err := b.fireDue(ctx, c, due); err != nil {
			return err
		}
		if err := b.writeTimers(ctx, 1); err != nil {
			return err
		}
		if t.next, err = nextTimer(ctx, b.q); err != nil {
			return err
		}
	}
	b.set.SetClock(t.clock)
	return b.arm(ctx) // at the very first commit there was no clock before
}

// fireDue asks the triggers of due timers.
func (b *batch) fireDue(ctx context.Context, c *change.Commit, due []dbq.PgautomateTriggerTimer) error {
	b.across = b.across[:0]
	var rows []row
	for _, d := range due {
		if err := b.speak(ctx); err != nil {
			return err
		}
		n := len(b.across)
		var counters trigger.Counters
		b.across, counters = b.set.Due(b.across, trigger.Timer{TriggerID: d.TriggerID, ObjectID: d.ObjectID, Due: d.DueAt})
		b.takeTimers()
		b.count(c, "", counters)
		if len(b.across) > n {
			cause, err := json.Marshal(ClockCause{Clock: d.DueAt.UTC()})
			if err != nil {
				return fmt.Errorf("cause: %w", err)
			}
			rows = append(rows, row{at: d.DueAt, cause: cause})
		}
	}
	return b.fire(ctx, c, b.across, rows)
}

// ClockCause is the cause of a firing that no change brought about: the moment at
// which the object began to match.
type ClockCause struct {
	Clock time.Time `json:"clock"`
}

// takeTimers takes over the timers that evaluation asked for.
func (b *batch) takeTimers() {
	b.timing.taken = b.set.TakeTimers(b.timing.taken[:0])
	for _, t := range b.timing.taken {
		b.keep(t)
	}
}

func (b *batch) keep(t trigger.Timer) {
	if b.timing.pending == nil {
		b.timing.pending = map[timerKey]time.Time{}
	}
	b.timing.pending[timerKey{t.TriggerID, t.ObjectID}] = t.Due
	if !t.Due.IsZero() {
		b.timing.next = min(b.timing.next, t.Due.UnixMicro())
	}
}

// writeTimers writes timers once there are at least so many.
func (b *batch) writeTimers(ctx context.Context, least int) error {
	t := &b.timing
	if len(t.pending) == 0 || len(t.pending) < least {
		return nil
	}
	var put dbq.PutTimersParams
	var gone dbq.DeleteTimersParams
	for key, due := range t.pending {
		if due.IsZero() {
			gone.TriggerIds, gone.ObjectIds = append(gone.TriggerIds, key.trigger), append(gone.ObjectIds, key.object)
			continue
		}
		put.TriggerIds, put.ObjectIds, put.DueAts = append(put.TriggerIds, key.trigger), append(put.ObjectIds, key.object), append(put.DueAts, due)
	}
	clear(t.pending)
	if len(gone.TriggerIds) > 0 {
		if err := b.q.DeleteTimers(ctx, gone); err != nil {
			return fmt.Errorf("timers: %w", err)
		}
	}
	if len(put.TriggerIds) > 0 {
		if err := b.q.PutTimers(ctx, put); err != nil {
			return fmt.Errorf("timers: %w", err)
		}
	}
	return nil
}

// finishTimers writes what is left, with the clock.
func (b *batch) finishTimers(ctx context.Context) error {
	if err := b.writeTimers(ctx, 1); err != nil {
		return err
	}
	if !b.timing.moved || !b.set.Timed() {
		return nil
	}
	if err := b.q.SetTriggerClock(ctx, b.timing.clock); err != nil {
		return fmt.Errorf("clock of the triggers: %w", err)
	}
	return nil
}

// committed makes a batch's timers those of the checkpoint.
func (t *timers) committed(b *batch) {
	t.clock = b.timing.clock
	next := b.timing.next
	if len(b.set.Unarmed()) > 0 {
		next = 0
	}
	t.next.Store(next)
}

// tickAgain is how long RunClock waits for the feed to take up a timer that is
// due, before it ends one more commit for it.
const tickAgain = 30 * time.Second

// RunClock ends a commit of its own whenever a timer is due, so that the feed
// takes it up, until ctx ends. active says whether this process is the one that
// feeds.
func (m *Matcher) RunClock(ctx context.Context, active func() bool) error {
	q := dbq.New(m.Source)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	seen, look := int64(noTimer), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		next := m.timers.next.Load()
		if next != seen {
			seen, look = next, time.Time{}
		}
		if next == noTimer || time.Now().Before(look) || !active() {
			continue
		}
		r, err := q.Tick(ctx, time.UnixMicro(next))
		switch {
		case err != nil:
			look = time.Now().Add(time.Second) // the feed tells of trouble with the database
		case r.Ticked:
			look = time.Now().Add(tickAgain)
		default:
			look = time.Now().Add(min(time.Duration(r.Seconds*float64(time.Second)), time.Minute))
		}
	}
}

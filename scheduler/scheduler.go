package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/failpoint"
	"github.com/pgautomate/pgautomate/jobs"
)

// Scheduler claims due actions. Zero fields take the defaults that are given.
type Scheduler struct {
	Pool   *pgxpool.Pool
	River  *river.Client[pgx.Tx]
	Logger *slog.Logger
	// Here are the workers of this process; nil: it has none.
	Here Workers
	// Advance makes stages' next actions due (see Lifecycle); needed.
	Lifecycle *Lifecycle

	// Poll is how often to look for signals when nothing wakes the scheduler;
	// default 50 ms. An idle look is two index probes; lateness is half of it.
	Poll time.Duration
	// LimitsAfter is how soon a changed throttle is noticed by a lane that it
	// holds; default 5 s.
	LimitsAfter time.Duration
	// LanesPerClaim bounds how many lanes one claim takes; default 200.
	LanesPerClaim int
	// TimersPerClaim bounds how many timers of a lane one claim takes; default 200.
	TimersPerClaim int
	// Ahead is how many actions are queued for each that workers can run at once,
	// so that they never starve between claims; default 2. What is queued can't
	// be overtaken, so more makes organizations wait for each other.
	Ahead float64
	// DeadAfter is how long a worker process may be silent before its actions
	// run elsewhere; default 30 s. Heartbeats come every sixth of it.
	DeadAfter time.Duration
	// ReplyRetention is how long replies are kept; default 30 days. A wait looks
	// back to the start of the action before it, no further.
	ReplyRetention time.Duration
	// ArchiveAfter is how long finished actions stay in the table of those to be
	// done; default a day. ArchiveEvery is how often they are looked for; default a minute.
	ArchiveAfter, ArchiveEvery time.Duration
	// KeepFinished is how long finished actions are kept, by whole months; 0: for ever.
	KeepFinished time.Duration
	// KeepStarts is how long starts are counted at least, so that a throttle whose window is
	// prolonged knows of them; default an hour. No throttle's own window is cut short by it.
	KeepStarts time.Duration

	wake chan struct{}
	// weights are those of organizations that have another than 1, at most a second
	// old; credits are what is left of turns that were cut short.
	weights map[string]int
	credits map[laneKey]int
	paces   map[string]*pace // of action types
	// unknownAt is when actions were last looked for whose type nobody knows.
	unknownAt time.Time
}

// unknownEvery is how often those are looked for.
const unknownEvery = time.Second

// Workers run what was started for them.
type Workers interface {
	// Free says how many more actions of each type can be run now. It may grow until Run is called, not shrink.
	Free() map[string]int
	// Run runs actions, and doesn't wait for their ends.
	Run(started []*jobs.Started)
}

// repliesDeleted bounds how many old replies one statement deletes, every DeadAfter/6.
const repliesDeleted = 5000

// Init sets the defaults; call it once before anything else.
func (s *Scheduler) Init() {
	if s.Poll == 0 {
		s.Poll = 50 * time.Millisecond
	}
	if s.ArchiveAfter == 0 {
		s.ArchiveAfter = 24 * time.Hour
	}
	if s.ArchiveEvery == 0 {
		s.ArchiveEvery = time.Minute
	}
	if s.LimitsAfter == 0 {
		s.LimitsAfter = 5 * time.Second
	}
	if s.LanesPerClaim == 0 {
		s.LanesPerClaim = 200
	}
	if s.TimersPerClaim == 0 {
		s.TimersPerClaim = 200
	}
	if s.Ahead == 0 {
		s.Ahead = 2
	}
	if s.DeadAfter == 0 {
		s.DeadAfter = 30 * time.Second
	}
	if s.ReplyRetention == 0 {
		s.ReplyRetention = 30 * 24 * time.Hour
	}
	if s.KeepStarts == 0 {
		s.KeepStarts = time.Hour
	}
	s.wake = make(chan struct{}, 1)
	s.paces = map[string]*pace{}
	s.credits = map[laneKey]int{}
}

// Wake makes the scheduler look at once. It never blocks.
func (s *Scheduler) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run claims until ctx ends. Errors are logged and tried again with backoff:
// a database that is away is no reason to stop.
func (s *Scheduler) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	beside.Go(func() { s.archive(ctx) })
	beside.Go(func() { s.statistics(ctx) })
	defer beside.Wait()
	capacity := map[string]int64{}
	var capacityAt, rescueAt time.Time
	failures := 0
	for {
		busy, err := false, error(nil)
		if time.Since(capacityAt) > time.Second {
			if capacity, err = s.capacity(ctx); err == nil {
				err = s.loadWeights(ctx)
			}
			if err == nil {
				capacityAt = time.Now()
			}
		}
		if err == nil && time.Since(rescueAt) > s.DeadAfter/6 {
			if err = s.rescue(ctx); err == nil {
				rescueAt = time.Now()
			}
		}
		if err == nil {
			var claimed Claimed
			claimed, err = s.Round(ctx, capacity)
			busy = claimed.More
		}
		wait := s.Poll
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failures++
			wait = min(time.Duration(failures)*100*time.Millisecond, 5*time.Second)
			s.Logger.WarnContext(ctx, "the scheduler's round failed; trying again", "error", err, "in", wait)
		case busy:
			failures, wait = 0, 0
		default:
			failures = 0
		}
		if wait == 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// Round does one round for workers of the capacity that is given, by type. Run does this over and over; call it instead
// of Run, not beside it.
func (s *Scheduler) Round(ctx context.Context, capacity map[string]int64) (Claimed, error) {
	q := dbq.New(s.Pool)
	due, err := q.AnythingDue(ctx)
	if err != nil {
		return Claimed{}, fmt.Errorf("signals: %w", err)
	}
	if due.Signals {
		if _, err := q.MergeSignals(ctx, 50_000); err != nil {
			return Claimed{}, fmt.Errorf("signals: %w", err)
		}
		failpoint.Hit("signals-merged")
	}
	if due.Stalled {
		if err := s.Lifecycle.advanceStalled(ctx); err != nil {
			return Claimed{}, err
		}
	}
	if due.StalledNotifications {
		if err := s.Lifecycle.advanceStalledNotifications(ctx); err != nil {
			return Claimed{}, err
		}
	}
	var here Claimed
	if s.Here != nil {
		if here, err = s.claim(ctx, s.Here.Free(), nil, false, true); err != nil {
			return here, err
		}
	}
	room, err := s.room(ctx, q, capacity)
	if err != nil {
		return here, err
	}
	known := make([]string, 0, len(room))
	for t := range room {
		known = append(known, t)
	}
	slices.Sort(known)
	_, everything := capacity[jobs.UnknownQueue]
	if everything = everything && time.Since(s.unknownAt) > unknownEvery; everything {
		s.unknownAt = time.Now()
	}
	there, err := s.claim(ctx, room, known, everything, false)
	return Claimed{Actions: here.Actions + there.Actions, More: here.More || there.More}, err
}

// room is how many more actions of each type the workers' queues should hold.
func (s *Scheduler) room(ctx context.Context, q *dbq.Queries, capacity map[string]int64) (map[string]int, error) {
	room := make(map[string]int, len(capacity))
	elsewhere := int64(0)
	for t, n := range capacity {
		if t != jobs.UnknownQueue {
			room[t] = int(float64(n) * s.Ahead)
			elsewhere += n
		}
	}
	if elsewhere == 0 {
		return room, nil
	}
	flight, err := q.InFlight(ctx)
	if err != nil {
		return nil, fmt.Errorf("in flight: %w", err)
	}
	for _, f := range flight {
		if _, ok := room[f.ActionType]; ok {
			room[f.ActionType] -= int(f.Actions)
		}
	}
	return room, nil
}

func (s *Scheduler) capacity(ctx context.Context) (map[string]int64, error) {
	rows, err := dbq.New(s.Pool).WorkerCapacity(ctx, s.DeadAfter.Seconds())
	if err != nil {
		return nil, fmt.Errorf("workers: %w", err)
	}
	capacity := make(map[string]int64, len(rows))
	for _, r := range rows {
		capacity[r.ActionType] = r.Capacity
	}
	return capacity, nil
}

// loadWeights reads organizations' weights.
func (s *Scheduler) loadWeights(ctx context.Context) error {
	rows, err := dbq.New(s.Pool).Weights(ctx)
	if err != nil {
		return fmt.Errorf("weights: %w", err)
	}
	s.weights = make(map[string]int, len(rows))
	for _, r := range rows {
		s.weights[r.ID] = int(r.Weight)
	}
	return nil
}

// rescue gives the actions of dead workers, and carriers that got lost, another go.
func (s *Scheduler) rescue(ctx context.Context) error {
	if err := s.Lifecycle.rescue(ctx, s.DeadAfter); err != nil {
		return err
	}
	_, err := dbq.New(s.Pool).DeleteOldReplies(ctx, dbq.DeleteOldRepliesParams{OlderThanSeconds: s.ReplyRetention.Seconds(), Most: repliesDeleted})
	if err != nil {
		return fmt.Errorf("old replies: %w", err)
	}
	return pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return fmt.Errorf("rescue: %w", err)
		}
		stale, err := q.RequeueStale(ctx, s.DeadAfter.Seconds())
		if err != nil {
			return fmt.Errorf("rescue: %w", err)
		}
		if err := q.RemoveDeadWorkers(ctx); err != nil {
			return fmt.Errorf("rescue: %w", err)
		}
		if err := q.DeleteOldStarts(ctx, s.KeepStarts.Seconds()); err != nil {
			return fmt.Errorf("rescue: %w", err)
		}
		if len(stale) == 0 {
			return nil
		}
		capacity, err := s.capacity(ctx)
		if err != nil {
			return err
		}
		room := make(map[string]int, len(capacity))
		for t := range capacity {
			room[t] = 1
		}
		carriers := make([]river.InsertManyParams, len(stale))
		for i, r := range stale {
			carriers[i] = s.carrier(r.ID, r.ActionType, room)
		}
		if _, err := s.River.InsertManyFastTx(ctx, tx, carriers); err != nil {
			return fmt.Errorf("carriers: %w", err)
		}
		return nil
	})
}

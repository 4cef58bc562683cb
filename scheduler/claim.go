package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/failpoint"
	"github.com/pgautomate/pgautomate/jobs"
)

// heldByRunning is how soon a lane is looked at again that waits for the end of
// something that runs.
const heldByRunning = 200 * time.Millisecond

// never is when a lane with nothing parked is looked at next: when a signal says so.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

type laneKey struct{ organization, actionType string }

// lane is one lane in a claim.
type lane struct {
	laneKey
	dbq.LaneHeadsRow

	waits bool // there was no room for its turn, or not for all of it
}

func (l *lane) due() bool   { return l.PendingAt != nil && !l.PendingAt.After(l.Now) }
func (l *lane) timer() bool { return l.TimerAt != nil && !l.TimerAt.After(l.Now) }

// resumable is how many timers that have run out may go on.
func (l *lane) resumable() int {
	if !l.timer() || l.Budget == "" {
		return Unlimited
	}
	return l.budget().Resumable()
}

func (l *lane) budget() Budget {
	return Budget{MaxStarts: l.MaxStarts, MaxRunning: l.MaxRunning, Starts: l.Starts, Queued: l.Queued, Running: l.Running}
}

// nextAt says when the lane is next worth a look.
func (l *lane) nextAt(s *Scheduler) time.Time {
	next := never
	switch {
	case l.TimerAt == nil:
	case l.resumable() > 0:
		next = *l.TimerAt
	case *l.MaxRunning == 0:
		next = l.Now.Add(s.LimitsAfter)
	default:
		next = l.Now.Add(heldByRunning)
	}
	switch {
	case l.PendingAt == nil:
		return next
	case !l.due():
		return earlier(next, *l.PendingAt)
	}
	// Looked at again within LimitsAfter, so that a changed throttle is noticed.
	switch l.budget().Held() {
	case HeldByStarts:
		return earlier(next, earlier(l.FreesAt, l.Now.Add(s.LimitsAfter)))
	case Paused:
		return earlier(next, l.Now.Add(s.LimitsAfter))
	case HeldByRunning:
		return earlier(next, l.Now.Add(heldByRunning))
	case NotHeld:
	}
	return l.Now // to the end of the line
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// claim takes what is due and has room, once; it returns how many actions it
// queued, and whether it is worth trying again at once.
func (s *Scheduler) claim(ctx context.Context, room map[string]int, known []string, unknown bool) (claimed int, err error) {
	var types []string
	var most []int64
	for t, n := range room {
		if n > 0 {
			// Never more lanes than there is room for: each gets something, none loses its place.
			types, most = append(types, t), append(most, int64(min(n, s.LanesPerClaim)))
		}
	}
	err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		keys, err := s.lockLanes(ctx, q, types, most, known, unknown)
		if err != nil || len(keys) == 0 {
			return err
		}
		if err := q.BeEngine(ctx); err != nil {
			return fmt.Errorf("claim: %w", err)
		}
		organizations, actionTypes := columns(keys)
		lanes, err := s.heads(ctx, q, organizations, actionTypes)
		if err != nil {
			return err
		}
		carriers, waits, err := s.take(ctx, q, keys, lanes, room)
		if err != nil {
			return err
		}
		if len(carriers) > 0 {
			if _, err := s.River.InsertManyFastTx(ctx, tx, carriers); err != nil {
				return fmt.Errorf("carriers: %w", err)
			}
		}
		claimed = len(carriers)
		// What is left, read after the claim. Who waits for room keeps his place.
		keys = slices.DeleteFunc(keys, func(k laneKey) bool { return waits[k] })
		organizations, actionTypes = columns(keys)
		lanes, err = s.heads(ctx, q, organizations, actionTypes)
		if err != nil {
			return err
		}
		nexts := make([]time.Time, len(keys))
		for i, k := range keys {
			nexts[i] = never
			if l := lanes[k]; l != nil {
				nexts[i] = l.nextAt(s)
			}
		}
		err = q.SetLanes(ctx, dbq.SetLanesParams{OrganizationIds: organizations, ActionTypes: actionTypes, NextAts: nexts})
		if err != nil {
			return fmt.Errorf("lanes: %w", err)
		}
		if claimed > 0 {
			failpoint.Hit("claim-before-commit")
		}
		return nil
	})
	if err == nil && claimed > 0 {
		failpoint.Hit("claim-after-commit")
	}
	return claimed, err
}

func (s *Scheduler) lockLanes(ctx context.Context, q *dbq.Queries, types []string, most []int64, known []string, unknown bool) ([]laneKey, error) {
	var keys []laneKey
	if len(types) > 0 {
		rows, err := q.LockLanes(ctx, dbq.LockLanesParams{ActionTypes: types, Most: most})
		if err != nil {
			return nil, fmt.Errorf("lanes: %w", err)
		}
		for _, r := range rows {
			if r.Locked {
				keys = append(keys, laneKey{r.OrganizationID, r.ActionType})
			}
		}
	}
	if unknown {
		rows, err := q.LockUnknownLanes(ctx, dbq.LockUnknownLanesParams{Known: known, Most: int64(s.LanesPerClaim)})
		if err != nil {
			return nil, fmt.Errorf("lanes: %w", err)
		}
		for _, r := range rows {
			keys = append(keys, laneKey{r.OrganizationID, r.ActionType})
		}
	}
	return keys, nil
}

func columns(keys []laneKey) (organizations, actionTypes []string) {
	for _, k := range keys {
		organizations = append(organizations, k.organization)
		actionTypes = append(actionTypes, k.actionType)
	}
	return organizations, actionTypes
}

func (s *Scheduler) heads(ctx context.Context, q *dbq.Queries, organizations, actionTypes []string) (map[laneKey]*lane, error) {
	rows, err := q.LaneHeads(ctx, dbq.LaneHeadsParams{OrganizationIds: organizations, ActionTypes: actionTypes})
	if err != nil {
		return nil, fmt.Errorf("lanes: %w", err)
	}
	lanes := make(map[laneKey]*lane, len(rows))
	for _, r := range rows {
		k := laneKey{r.OrganizationID, r.ActionType}
		lanes[k] = &lane{laneKey: k, LaneHeadsRow: r}
	}
	return lanes, nil
}

// take shares the room of each type among its lanes, in the order of keys, and claims.
// waits are lanes for whose turn there was no room.
func (s *Scheduler) take(ctx context.Context, q *dbq.Queries, keys []laneKey, lanes map[laneKey]*lane, room map[string]int) (
	carriers []river.InsertManyParams, waits map[laneKey]bool, err error,
) {
	// A budget of type '*' is one for all lanes of its organization.
	type budgetKey struct{ organization, budget string }
	taken := map[budgetKey]int{}
	line := map[string][]taker{} // of each type
	placed := map[string][]*lane{}
	var timers dbq.ClaimTimersParams
	for _, k := range keys {
		l := lanes[k]
		if l == nil {
			continue
		}
		key := budgetKey{l.organization, l.Budget}
		budget := l.budget().Take(taken[key])
		// What has started goes before what has not.
		if n := min(s.TimersPerClaim, l.resumable()-taken[key]); l.timer() && n > 0 {
			timers.OrganizationIds, timers.ActionTypes = append(timers.OrganizationIds, l.organization), append(timers.ActionTypes, l.actionType)
			timers.Most = append(timers.Most, int64(n))
			if l.MaxRunning != nil {
				taken[key] += n
				budget = budget.Take(n)
			}
		}
		if !l.due() {
			continue
		}
		want := Unlimited
		if l.Budget != "" {
			if want = budget.Allowance(); want <= 0 {
				continue
			}
		}
		if l.Budget == anyType {
			// Its lanes of other types want of the same: none is promised what another takes.
			want = min(want, s.LanesPerClaim)
			taken[key] += want
		}
		line[l.actionType] = append(line[l.actionType], taker{s.weight(l.organization), s.credits[k], want})
		placed[l.actionType] = append(placed[l.actionType], l)
	}
	var due dbq.ClaimDueParams
	waits = map[laneKey]bool{}
	for actionType, takers := range line {
		left, ok := room[actionType]
		if !ok {
			left = s.LanesPerClaim // a type that nobody knows: to be failed
		}
		takes, credits, wait := deal(left, takers, rand.IntN)
		for i, l := range placed[actionType] {
			if takes[i] > 0 {
				due.OrganizationIds, due.ActionTypes = append(due.OrganizationIds, l.organization), append(due.ActionTypes, l.actionType)
				due.Most = append(due.Most, int64(takes[i]))
			}
			delete(s.credits, l.laneKey)
			if wait[i] {
				waits[l.laneKey] = true
				s.credits[l.laneKey] = credits[i]
			}
		}
	}
	if len(timers.Most) > 0 {
		rows, err := q.ClaimTimers(ctx, timers)
		if err != nil {
			return nil, nil, fmt.Errorf("timers: %w", err)
		}
		for _, r := range rows {
			carriers = append(carriers, s.carrier(r.ID, r.ActionType, room))
		}
	}
	if len(due.Most) > 0 {
		rows, err := q.ClaimDue(ctx, due)
		if err != nil {
			return nil, nil, fmt.Errorf("claim: %w", err)
		}
		for _, r := range rows {
			carriers = append(carriers, s.carrier(r.ID, r.ActionType, room))
		}
	}
	return carriers, waits, nil
}

// anyType stands for all action types in a throttle.
const anyType = "*"

// weight is how many turns an organization has when others have one.
func (s *Scheduler) weight(organization string) int { return max(1, s.weights[organization]) }

// carrier makes the River job for an action; one whose type no worker knows goes
// where it is failed with a clear word.
func (s *Scheduler) carrier(id int64, actionType string, room map[string]int) river.InsertManyParams {
	queue := actionType
	if _, ok := room[actionType]; !ok {
		queue = jobs.UnknownQueue
	}
	return river.InsertManyParams{
		Args:       jobs.ActionArgs{ID: id},
		InsertOpts: &river.InsertOpts{Queue: queue, MaxAttempts: 3},
	}
}

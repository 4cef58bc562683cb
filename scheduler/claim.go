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

// pace is how a type's room is shared when many lanes are due: how many actions a lane gets in its turn, and how many lanes
// a claim takes. Long turns cost less, for each claim is of fewer lanes. They follow how fast claims come, so that nobody
// waits longer for his: turnsPerSecond lanes have theirs within a second, as long as there is room for that at all.
type pace struct {
	turn  int     // actions of a lane of weight 1; 0 is 1
	yield float64 // that a lane gave lately; 0: not known yet

	since   time.Time // claimed counts from then on
	claimed int
}

const (
	longestTurn    = 16
	turnsPerSecond = 250
	// paceOver is how long claims are counted for the length of a turn.
	paceOver = 50 * time.Millisecond
	// yieldOver is how many claims it takes for lanes' yield to be known anew, about.
	yieldOver = 4
)

// lanes is how many lanes a claim locks for so much room: rather a few more than it takes, for those keep their places.
func (p *pace) lanes(room int) int {
	if p == nil || p.yield <= 1 {
		return room
	}
	return min(room, int(float64(room)/p.yield*1.2)+1)
}

// turnOf is how many actions a lane gets in its turn.
func (p *pace) turnOf(t taker) int {
	own := t.weight
	if p != nil {
		own *= max(1, p.turn)
	}
	if t.credit > 0 {
		own = t.credit
	}
	return min(own, t.want)
}

// follow learns from a claim that got so many actions of so many lanes.
func (p *pace) follow(now time.Time, lanes, claimed int) {
	if lanes > 0 {
		if yield := float64(claimed) / float64(lanes); p.yield == 0 {
			p.yield = yield
		} else {
			p.yield += (yield - p.yield) / yieldOver
		}
	}
	p.claimed += claimed
	if took := now.Sub(p.since); took >= paceOver {
		p.turn = min(int(float64(p.claimed)/took.Seconds()/turnsPerSecond), longestTurn)
		p.since, p.claimed = now, 0
	}
}

// cut says who waits, and with what is left of his turn, when the room came to its end before the line did: got is what
// each has of its own turn.
func cut(own, got []int, room int) (credits []int, waits []bool) {
	credits, waits = make([]int, len(own)), make([]bool, len(own))
	last := -1
	for i, n := range got {
		if room -= n; n > 0 {
			last = i
		}
	}
	if room > 0 {
		return credits, waits
	}
	for i := max(last, 0); i < len(own); i++ {
		if left := own[i] - got[i]; left > 0 {
			credits[i], waits[i] = left, true
		}
	}
	return credits, waits
}

// claim takes what is due and has room, once: for this process's own workers when here is set, which start at once; else
// it is queued for those of other processes.
func (s *Scheduler) claim(ctx context.Context, room map[string]int, known []string, unknown, here bool) (Claimed, error) {
	var types []string
	var most []int64
	for t, n := range room {
		if n > 0 {
			// Who gets nothing keeps his place.
			types, most = append(types, t), append(most, int64(s.lanesFor(t, n)))
		}
	}
	if len(types) == 0 && !unknown {
		return Claimed{}, nil
	}
	if here {
		// What is started is run, whatever becomes of ctx meanwhile.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), batchTime)
		defer cancel()
	}
	c := &claiming{s: s, room: room, here: here}
	var keys []laneKey
	began := time.Now() // not after the database's now()
	err := inOneGo(ctx, s.Pool, asEngine, func(tx pgx.Tx, q *dbq.Queries) error {
		c.q = q
		var err error
		if keys, err = s.lockLanes(ctx, c.q, types, most, known, unknown); err != nil || len(keys) == 0 {
			return err
		}
		if c.lanes, err = s.heads(ctx, c.q, keys); err != nil {
			return err
		}
		if err := c.take(ctx, keys); err != nil {
			return err
		}
		if len(c.carriers) > 0 {
			if _, err := s.River.InsertManyFastTx(ctx, tx, c.carriers); err != nil {
				return fmt.Errorf("carriers: %w", err)
			}
		}
		if count := countStarts(c.started); len(count.Starts) > 0 {
			if err := c.q.CountStarts(ctx, count); err != nil {
				return fmt.Errorf("starts: %w", err)
			}
		}
		if err := c.setLanes(ctx, keys); err != nil {
			return err
		}
		if c.claimed > 0 {
			failpoint.Hit("claim-before-commit")
		}
		return nil
	})
	if err != nil {
		return Claimed{}, err
	}
	more := c.more(keys)
	c.keepPace(keys)
	if c.claimed > 0 {
		failpoint.Hit("claim-after-commit")
	}
	if len(c.started) > 0 {
		s.Here.Run(s.Lifecycle.take(c.started, began))
	}
	return Claimed{Actions: c.claimed, More: more}, nil
}

// Claimed is what a claim did.
type Claimed struct {
	Actions int
	// More may be had by another at once.
	More bool
}

// more says whether another claim is worth while: this one took something, or all the lanes that it asked for and sent
// some of them away, so that others come to the front.
func (c *claiming) more(keys []laneKey) bool {
	return c.claimed > 0 || c.moved > 0 && slices.ContainsFunc(keys, func(k laneKey) bool { return c.crowded(k.actionType, keys) })
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

func (s *Scheduler) heads(ctx context.Context, q *dbq.Queries, keys []laneKey) (map[laneKey]*lane, error) {
	organizations, actionTypes := columns(keys)
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

// A budget of type '*' is one for all lanes of its organization.
type budgetKey struct{ organization, budget string }

// claiming is one claim.
type claiming struct {
	s     *Scheduler
	q     *dbq.Queries
	lanes map[laneKey]*lane
	room  map[string]int
	here  bool

	waits     map[laneKey]bool  // lanes for whose turn there was no room
	got       map[laneKey]int   // of what was due
	starts    map[budgetKey]int // taken of each budget
	timers    map[budgetKey]int
	moved     int // lanes that are looked at later
	claimed   int
	claimedOf map[string]int // types
	carriers  []river.InsertManyParams
	started   []dbq.StartActionsRow
}

// picks are lanes, and how many actions of each are to be taken, and of each type.
type picks struct {
	organizations, actionTypes []string
	most                       []int64
	types                      []string
	rooms                      []int64
}

func (p *picks) add(k laneKey, n int) {
	p.organizations, p.actionTypes, p.most = append(p.organizations, k.organization), append(p.actionTypes, k.actionType), append(p.most, int64(n))
}

// roomFor is the room of a type, in this claim.
func (c *claiming) roomFor(actionType string) int {
	if n, ok := c.room[actionType]; ok {
		return n
	}
	return c.s.LanesPerClaim // a type that nobody knows: to be failed
}

// take shares the room of each type among its lanes, in the order of keys, and claims.
func (c *claiming) take(ctx context.Context, keys []laneKey) error {
	c.claimedOf = map[string]int{}
	c.waits, c.got, c.starts, c.timers = map[laneKey]bool{}, map[laneKey]int{}, map[budgetKey]int{}, map[budgetKey]int{}
	taken := map[budgetKey]int{}
	resumed := map[string]int{}  // timers of each type
	line := map[string][]taker{} // of each type
	placed := map[string][]*lane{}
	var timers, due picks
	for _, k := range keys {
		l := c.lanes[k]
		if l == nil {
			continue
		}
		key := budgetKey{l.organization, l.Budget}
		budget := l.budget().Take(taken[key])
		// What has started goes before what has not.
		n := min(c.s.TimersPerClaim, l.resumable()-taken[key])
		if c.here {
			n = min(n, c.roomFor(l.actionType)-resumed[l.actionType])
		}
		if l.timer() && n > 0 {
			timers.add(k, n)
			resumed[l.actionType] += n
			if l.MaxRunning != nil {
				taken[key] += n
				budget = budget.Take(n)
			}
		}
		if !l.due() {
			delete(c.s.credits, k)
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
			want = min(want, c.s.LanesPerClaim)
			taken[key] += want
		}
		line[l.actionType] = append(line[l.actionType], taker{c.s.weight(l.organization), c.s.credits[k], want})
		placed[l.actionType] = append(placed[l.actionType], l)
	}
	if err := c.takeTimers(ctx, timers); err != nil {
		return err
	}
	turns := map[string][]int{} // of each type that is crowded
	room := map[string]int{}
	for actionType, takers := range line {
		left := c.roomFor(actionType)
		if c.here {
			for _, r := range c.started {
				if r.ActionType == actionType {
					left--
				}
			}
		}
		room[actionType] = max(left, 0)
		due.types, due.rooms = append(due.types, actionType), append(due.rooms, int64(room[actionType]))
		if c.crowded(actionType, keys) {
			// Each has his turn, as far as the room goes.
			own := make([]int, len(takers))
			for i, t := range takers {
				own[i] = c.s.paces[actionType].turnOf(t)
				due.add(placed[actionType][i].laneKey, own[i])
			}
			turns[actionType] = own
			continue
		}
		takes, credits, wait := deal(left, takers, rand.IntN)
		for i, l := range placed[actionType] {
			if takes[i] > 0 {
				due.add(l.laneKey, takes[i])
			}
			c.keepPlace(l.laneKey, wait[i], credits[i])
		}
	}
	if err := c.takeDue(ctx, due); err != nil {
		return err
	}
	for actionType, own := range turns {
		got := make([]int, len(own))
		for i, l := range placed[actionType] {
			got[i] = c.got[l.laneKey]
		}
		credits, wait := cut(own, got, room[actionType])
		for i, l := range placed[actionType] {
			c.keepPlace(l.laneKey, wait[i], credits[i])
		}
	}
	return nil
}

// keepPlace leaves a lane where it is when it waits, with what is left of its turn.
func (c *claiming) keepPlace(k laneKey, waits bool, credit int) {
	delete(c.s.credits, k)
	if waits {
		c.waits[k] = true
		c.s.credits[k] = credit
	}
}

// crowded says whether more lanes of a type may be due than the claim has locked.
func (c *claiming) crowded(actionType string, keys []laneKey) bool {
	locked := 0
	for _, k := range keys {
		if k.actionType == actionType {
			locked++
		}
	}
	return locked >= c.s.lanesFor(actionType, c.roomFor(actionType))
}

// lanesFor is how many lanes of a type a claim locks for so much room.
func (s *Scheduler) lanesFor(actionType string, room int) int {
	return min(s.paces[actionType].lanes(room), s.LanesPerClaim)
}

// keepPace learns from a claim how much lanes of each type have.
func (c *claiming) keepPace(keys []laneKey) {
	served := map[string]int{}
	for _, k := range keys {
		if !c.waits[k] {
			served[k.actionType]++
		}
	}
	for actionType, lanes := range served {
		if _, known := c.room[actionType]; !known {
			continue
		}
		p := c.s.paces[actionType]
		if p == nil {
			p = &pace{since: time.Now()}
			c.s.paces[actionType] = p
		}
		p.follow(time.Now(), lanes, c.claimedOf[actionType])
	}
}

func (c *claiming) takeTimers(ctx context.Context, p picks) error {
	if len(p.most) == 0 {
		return nil
	}
	if c.here {
		rows, err := c.q.StartTimers(ctx, dbq.StartTimersParams{
			OrganizationIds: p.organizations, ActionTypes: p.actionTypes, Most: p.most, WorkerID: c.s.Lifecycle.worker,
		})
		if err != nil {
			return fmt.Errorf("timers: %w", err)
		}
		started := make([]dbq.StartActionsRow, len(rows))
		for i, r := range rows {
			started[i] = dbq.StartActionsRow(r)
		}
		return c.start(ctx, started, c.timers)
	}
	rows, err := c.q.ClaimTimers(ctx, dbq.ClaimTimersParams{OrganizationIds: p.organizations, ActionTypes: p.actionTypes, Most: p.most})
	if err != nil {
		return fmt.Errorf("timers: %w", err)
	}
	for _, r := range rows {
		c.queue(r.ID, laneKey{r.OrganizationID, r.ActionType}, c.timers)
	}
	return nil
}

func (c *claiming) takeDue(ctx context.Context, p picks) error {
	if len(p.most) == 0 {
		return nil
	}
	if c.here {
		rows, err := c.q.StartDue(ctx, dbq.StartDueParams{
			OrganizationIds: p.organizations, ActionTypes: p.actionTypes, Most: p.most, Types: p.types, Rooms: p.rooms, WorkerID: c.s.Lifecycle.worker,
		})
		if err != nil {
			return fmt.Errorf("claim: %w", err)
		}
		started := make([]dbq.StartActionsRow, len(rows))
		for i, r := range rows {
			started[i] = dbq.StartActionsRow(r)
			c.got[laneKey{r.OrganizationID, r.ActionType}]++
		}
		return c.start(ctx, started, c.starts)
	}
	rows, err := c.q.ClaimDue(ctx, dbq.ClaimDueParams{
		OrganizationIds: p.organizations, ActionTypes: p.actionTypes, Most: p.most, Types: p.types, Rooms: p.rooms,
	})
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	for _, r := range rows {
		c.got[laneKey{r.OrganizationID, r.ActionType}]++
		c.queue(r.ID, laneKey{r.OrganizationID, r.ActionType}, c.starts)
	}
	return nil
}

func (c *claiming) count(k laneKey, of map[budgetKey]int) {
	c.claimed++
	c.claimedOf[k.actionType]++
	if l := c.lanes[k]; l != nil {
		of[budgetKey{k.organization, l.Budget}]++
	}
}

func (c *claiming) queue(id int64, k laneKey, of map[budgetKey]int) {
	c.carriers = append(c.carriers, c.s.carrier(id, k.actionType, c.room))
	c.count(k, of)
}

// start takes what was started, but for actions whose lead has left its stage: those are canceled.
func (c *claiming) start(ctx context.Context, rows []dbq.StartActionsRow, of map[budgetKey]int) error {
	var gone []int64
	for _, r := range rows {
		if !r.Wanted {
			gone = append(gone, r.ID)
			continue
		}
		c.started = append(c.started, r)
		c.count(laneKey{r.OrganizationID, r.ActionType}, of)
	}
	if len(gone) == 0 {
		return nil
	}
	c.claimed += len(gone)
	if err := c.q.CancelUnwanted(ctx, gone); err != nil {
		return fmt.Errorf("actions whose lead has left its stage: %w", err)
	}
	return nil
}

// setLanes says when each lane is looked at next: what is left is read after the claim. Who waits for room keeps its place.
func (c *claiming) setLanes(ctx context.Context, keys []laneKey) error {
	keys = slices.DeleteFunc(keys, func(k laneKey) bool { return c.waits[k] })
	organizations, actionTypes := columns(keys)
	rows, err := c.q.LaneRests(ctx, dbq.LaneRestsParams{OrganizationIds: organizations, ActionTypes: actionTypes})
	if err != nil {
		return fmt.Errorf("lanes: %w", err)
	}
	var p dbq.SetLanesParams
	for _, r := range rows {
		k, next := laneKey{r.OrganizationID, r.ActionType}, never
		if l := c.lanes[k]; l != nil {
			key := budgetKey{k.organization, l.Budget}
			left := *l
			left.PendingAt, left.TimerAt = r.PendingAt, r.TimerAt
			if starts, timers := int64(c.starts[key]), int64(c.timers[key]); c.here {
				left.Starts, left.Running = l.Starts+starts, l.Running+starts+timers
				if l.Starts == 0 {
					left.FreesAt = l.FreesWhatStartsNowAt
				}
			} else {
				left.Queued = l.Queued + starts + timers
			}
			if next = left.nextAt(c.s); next.After(l.Now) {
				c.moved++
			}
		}
		p.OrganizationIds, p.ActionTypes, p.NextAts = append(p.OrganizationIds, k.organization), append(p.ActionTypes, k.actionType), append(p.NextAts, next)
	}
	if err := c.q.SetLanes(ctx, p); err != nil {
		return fmt.Errorf("lanes: %w", err)
	}
	return nil
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

package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/batch"
	"github.com/pgautomate/pgautomate/internal/failpoint"
	"github.com/pgautomate/pgautomate/jobs"
)

// Lifecycle starts actions and writes their outcomes, for all workers of this
// process together: many of either in few statements. It implements jobs.Lifecycle.
type Lifecycle struct {
	pool   *pgxpool.Pool
	logger *slog.Logger
	worker int64
	store  *Store
	zones  Zones
	// changed is called when something became due or room became free.
	changed func()
	// observe is told of each start and end, for metrics.
	observe Observer

	starts   *batch.Batcher[int64, startAnswer]
	finishes *batch.Batcher[finish, finishAnswer]
	// alone bounds the transactions that may wait for an app's lock, so that they
	// never take all connections.
	alone chan struct{}

	// held are the actions that this process runs, with their fences.
	mu   sync.Mutex
	held map[int64]int64

	stop   context.CancelFunc
	sweeps sync.WaitGroup
}

// sweepEvery is how often a process looks for actions that it is said to run and
// doesn't.
const sweepEvery = 3 * time.Second

// mostAlone is how many outcomes with effects are written at once.
const mostAlone = 8

// Zones gives organizations' time zones.
type Zones interface {
	Location(organization string) *time.Location
}

// Observer is told what happens to actions; its methods must be quick.
type Observer interface {
	Started(actionType string, late time.Duration)
	// Ended is told of notifications' jobs as well as of actions.
	Ended(actionType, status string, notification bool)
}

// LifecycleConfig is what a Lifecycle needs.
type LifecycleConfig struct {
	Pool     *pgxpool.Pool
	Logger   *slog.Logger
	WorkerID int64 // of this process, in pgautomate.workers
	Store    *Store
	Zones    Zones
	Changed  func()
	Observer Observer
}

// batchTime bounds one batch of starts or outcomes.
const batchTime = 20 * time.Second

// asEngine begins a transaction as the query BeEngine does, without a further round trip.
var asEngine = pgx.TxOptions{BeginQuery: beginEngine}

// asEngineSoon is for what waits for locks, but not for long.
var asEngineSoon = pgx.TxOptions{BeginQuery: beginEngine + "; SET LOCAL lock_timeout = '50ms'"}

// Plans are made once: each statement's best one doesn't depend on what it is asked.
const beginEngine = "BEGIN; SET LOCAL pgautomate.engine = 'on'; SET LOCAL idle_in_transaction_session_timeout = '20s'; SET LOCAL plan_cache_mode = 'force_generic_plan'; SET LOCAL jit = off"

// NewLifecycle makes a Lifecycle; Stop ends it.
func NewLifecycle(c LifecycleConfig) *Lifecycle {
	l := &Lifecycle{
		pool: c.Pool, logger: c.Logger, worker: c.WorkerID, store: c.Store, zones: c.Zones, changed: c.Changed, observe: c.Observer,
	}
	l.alone = make(chan struct{}, mostAlone)
	l.held = map[int64]int64{}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(context.Background())
	l.sweeps.Go(func() { l.sweep(ctx) })
	l.starts = batch.New(500, 1, l.startBatch)
	l.finishes = batch.New(500, 1, l.finishBatch)
	return l
}

// Stop waits for batches under way; later calls fail with context.Canceled.
func (l *Lifecycle) Stop() {
	l.stop()
	l.sweeps.Wait()
	l.starts.Stop()
	l.finishes.Stop()
}

type startAnswer struct {
	started *jobs.Started
	locked  bool // somebody holds the row: ask again
}

// Start takes a queued action; nil when it is no longer queued.
func (l *Lifecycle) Start(ctx context.Context, id int64) (*jobs.Started, error) {
	for {
		answer, err := l.starts.Do(ctx, id)
		if err != nil || !answer.locked {
			return answer.started, err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (l *Lifecycle) startBatch(ctx context.Context, ids []int64) ([]startAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, batchTime)
	defer cancel()
	answers := make([]startAnswer, len(ids))
	index := make(map[int64]int, len(ids))
	for i, id := range ids {
		index[id] = i // carriers of one action in one batch: the last one gets it
	}
	var rows []dbq.StartActionsRow
	began := time.Now()
	err := inOneGo(ctx, l.pool, asEngine, func(_ pgx.Tx, q *dbq.Queries) error {
		var err error
		if rows, err = q.StartActions(ctx, dbq.StartActionsParams{Ids: ids, WorkerID: l.worker}); err != nil {
			return err
		}
		if count := countStarts(rows); len(count.Starts) > 0 {
			err = q.CountStarts(ctx, count)
		}
		failpoint.Hit("start-before-commit")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	failpoint.Hit("start-after-commit")
	for _, s := range l.take(rows, began) {
		answers[index[s.Action.ID]].started = s
	}
	if len(rows) < len(index) {
		l.markLocked(ctx, ids, index, answers)
	}
	return answers, nil
}

// take makes what was started this process's. taken is when, not later than the database's now().
func (l *Lifecycle) take(rows []dbq.StartActionsRow, taken time.Time) []*jobs.Started {
	l.hold(rows)
	all := make([]*jobs.Started, len(rows))
	for i := range rows {
		s := l.started(&rows[i], taken)
		all[i] = s
		if l.observe != nil && !s.Action.Resumed {
			due := s.Action.Now
			if rows[i].PerformAt != nil {
				due = *rows[i].PerformAt
			}
			l.observe.Started(s.Action.Type, max(0, s.Action.Now.Sub(due)))
		}
	}
	return all
}

// markLocked tells what is locked by somebody from what is no longer queued. When
// the database can't say, all may be: what has started is ours whatever comes.
func (l *Lifecycle) markLocked(ctx context.Context, ids []int64, index map[int64]int, answers []startAnswer) {
	var missing []int64
	for _, id := range ids {
		if answers[index[id]].started == nil {
			missing = append(missing, id)
		}
	}
	still, err := dbq.New(l.pool).StillQueued(ctx, missing)
	if err != nil {
		l.logger.WarnContext(ctx, "actions that did not start are asked for again", "actions", len(missing), "error", err)
		still = missing
	}
	for _, id := range still {
		answers[index[id]].locked = true
	}
}

func countStarts(rows []dbq.StartActionsRow) dbq.CountStartsParams {
	counts := map[laneKey]int32{}
	for _, r := range rows {
		if !r.Timer {
			counts[laneKey{r.OrganizationID, r.ActionType}]++
		}
	}
	var p dbq.CountStartsParams
	for k, n := range counts {
		p.OrganizationIds, p.ActionTypes, p.Starts = append(p.OrganizationIds, k.organization), append(p.ActionTypes, k.actionType), append(p.Starts, n)
	}
	return p
}

func (l *Lifecycle) started(r *dbq.StartActionsRow, taken time.Time) *jobs.Started {
	s := &jobs.Started{
		Action: jobs.Action{
			ID: r.ID, OrganizationID: r.OrganizationID, LeadID: r.LeadID, ObjectType: r.ObjectType,
			SequenceNumber: int(r.SequenceNumber), Type: r.ActionType, Notification: r.Notification, Params: r.Params,
			Attempt: int(r.Attempt), MaxAttempts: int(r.MaxAttempts), Resumed: r.Timer, Now: r.Now,
			Location: time.UTC, PerformAt: r.Now,
		},
		Fence: r.Fence, Taken: taken, AsksGoal: r.AsksGoal,
	}
	if l.zones != nil {
		s.Action.Location = l.zones.Location(r.OrganizationID)
	}
	if r.LeadStageID != nil {
		s.Action.LeadStageID = *r.LeadStageID
	}
	if r.PerformAt != nil {
		s.Action.PerformAt = *r.PerformAt
	}
	if r.WaitsFrom != nil && !r.Timer {
		s.Action.PerformAt = *r.WaitsFrom
	}
	if r.FiringID != nil {
		s.Action.FiringID = *r.FiringID
	}
	if r.FiringAt != nil {
		s.FiringAt = *r.FiringAt
	}
	if r.Timer {
		s.Action.Parked = r.Result
	}
	if r.WaitingSince != nil {
		s.WaitingSince = *r.WaitingSince
	}
	if len(r.Cause) > 0 {
		var cause jobs.Cause
		if err := json.Unmarshal(r.Cause, &cause); err == nil {
			s.Action.Cause = &cause
		}
	}
	return s
}

type finish struct {
	s *jobs.Started
	o jobs.Outcome
}

// plain says that an action is completed, and nothing else.
func (f *finish) plain() bool {
	return f.o.Status == jobs.StatusCompleted && f.o.PerformAt.IsZero() && f.o.WaitingSince.IsZero() &&
		f.o.Error == "" && f.o.Refund == 0
}

type finishAnswer struct {
	locked bool
	err    error
}

// Finish writes an outcome; see jobs.Lifecycle.
func (l *Lifecycle) Finish(ctx context.Context, s *jobs.Started, o jobs.Outcome) error {
	err := l.finish(ctx, s, o)
	if err == nil {
		l.release(s)
	}
	return err
}

func (l *Lifecycle) finish(ctx context.Context, s *jobs.Started, o jobs.Outcome) error {
	// What closes a stage may have to wait for an app's transaction: not in a batch
	// with others.
	closes := o.Status == jobs.StatusFailed && s.Action.LeadStageID != 0 && o.OnError.Policy != jobs.OnErrorSkip
	if o.Effect != nil || o.Decide != nil || closes || o.EndsRun != "" {
		select {
		case l.alone <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-l.alone }()
		return l.finishAlone(ctx, s, o)
	}
	for {
		answer, err := l.finishes.Do(ctx, finish{s, o})
		if err == nil {
			err = answer.err
		}
		if err != nil || !answer.locked {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (l *Lifecycle) finishBatch(ctx context.Context, batch []finish) ([]finishAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, batchTime)
	defer cancel()
	answers := make([]finishAnswer, len(batch))
	index := make(map[int64]int, len(batch))
	for i, f := range batch {
		index[f.s.Action.ID] = i
	}
	var rows []dbq.FinishActionsRow
	write := func(how pgx.TxOptions, actions, steps, other []finish) error {
		rows = nil
		return inOneGo(ctx, l.pool, how, func(_ pgx.Tx, q *dbq.Queries) error {
			if len(actions) > 0 {
				completed, err := q.CompleteActions(ctx, completeParams(actions))
				if err != nil {
					return err
				}
				for _, r := range completed {
					rows = append(rows, dbq.FinishActionsRow(r))
				}
			}
			if len(steps) > 0 {
				completed, err := q.CompleteSteps(ctx, dbq.CompleteStepsParams(completeParams(steps)))
				if err != nil {
					return err
				}
				for _, r := range completed {
					rows = append(rows, dbq.FinishActionsRow(r))
				}
			}
			if len(other) > 0 {
				finished, err := q.FinishActions(ctx, finishParams(other))
				if err != nil {
					return err
				}
				rows = append(rows, finished...)
			}
			err := l.afterwards(ctx, q, rows, func(id int64) jobs.OnErrorPolicy { return batch[index[id]].o.OnError.Policy },
				func(id int64) *jobs.Records { return batch[index[id]].o.Records })
			failpoint.Hit("finish-before-commit")
			return err
		})
	}
	var actions, steps, other []finish
	for _, f := range batch {
		switch {
		case !f.plain():
			other = append(other, f)
		case f.s.Action.Notification:
			steps = append(steps, f)
		default:
			actions = append(actions, f)
		}
	}
	err := write(asEngineSoon, actions, steps, other)
	if isLocked(err) {
		err = write(asEngine, nil, nil, batch) // which waits for nobody
	}
	if isBadValue(err) {
		return l.finishSingly(ctx, batch, err)
	}
	if err != nil {
		return nil, fmt.Errorf("finish: %w", err)
	}
	failpoint.Hit("finish-after-commit")
	done := make(map[int64]bool, len(rows))
	for _, r := range rows {
		done[r.ID] = true
		l.ended(r.ActionType, r.Status, r.Notification)
	}
	if len(rows) < len(batch) {
		var still dbq.StillHeldParams
		for _, f := range batch {
			if !done[f.s.Action.ID] {
				still.Ids, still.Fences = append(still.Ids, f.s.Action.ID), append(still.Fences, f.s.Fence)
			}
		}
		locked, err := dbq.New(l.pool).StillHeld(ctx, still)
		if err != nil {
			return nil, fmt.Errorf("finish: %w", err)
		}
		for _, id := range locked {
			answers[index[id]].locked = true
			done[id] = true
		}
		for _, id := range still.Ids {
			if !done[id] {
				l.logger.WarnContext(ctx, "an action was taken over by another worker meanwhile; this outcome is dropped", "action", id)
			}
		}
	}
	if l.changed != nil {
		l.changed()
	}
	return answers, nil
}

// finishSingly keeps one outcome that the database can't hold from spoiling the
// others of its batch.
func (l *Lifecycle) finishSingly(ctx context.Context, batch []finish, cause error) ([]finishAnswer, error) {
	if len(batch) == 1 {
		return []finishAnswer{{err: &jobs.EffectError{Err: jobs.Permanentf("the result can't be kept: %w", cause)}}}, nil
	}
	answers := make([]finishAnswer, len(batch))
	for i := range batch {
		one, err := l.finishBatch(ctx, batch[i:i+1])
		if err != nil {
			one = []finishAnswer{{err: err}}
		}
		answers[i] = one[0]
	}
	return answers, nil
}

// isBadValue says whether the database can't hold a value that it was given.
func isBadValue(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && strings.HasPrefix(pg.Code, "22")
}

// isPassing says whether the database's refusal has nothing to do with what was
// asked: the same may succeed a moment later.
func isPassing(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code[:2] {
	case "08", "40", "53", "57":
		return true
	}
	return pg.Code == "55P03" // somebody's lock
}

// isLocked says that somebody's lock was waited for, and not had.
func isLocked(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01")
}

var noTime = time.Unix(0, 0).UTC() // stands for NULL in arrays

func orNoTime(t time.Time) time.Time {
	if t.IsZero() {
		return noTime
	}
	return t
}

// orNull is a result as arrays of them hold it.
func orNull(result json.RawMessage) json.RawMessage {
	if len(result) == 0 {
		return json.RawMessage("null")
	}
	return result
}

func completeParams(batch []finish) dbq.CompleteActionsParams {
	var p dbq.CompleteActionsParams
	for _, f := range batch {
		p.Ids, p.Fences = append(p.Ids, f.s.Action.ID), append(p.Fences, f.s.Fence)
		p.Results, p.Reasons, p.Timers = append(p.Results, orNull(f.o.Output)), append(p.Reasons, f.o.Reason), append(p.Timers, f.o.Timer)
	}
	return p
}

func finishParams(batch []finish) dbq.FinishActionsParams {
	var p dbq.FinishActionsParams
	for _, f := range batch {
		p.Ids, p.Fences = append(p.Ids, f.s.Action.ID), append(p.Fences, f.s.Fence)
		p.Statuses = append(p.Statuses, f.o.Status)
		p.PerformAts = append(p.PerformAts, orNoTime(f.o.PerformAt))
		p.Results = append(p.Results, orNull(f.o.Output))
		p.Errors, p.Reasons = append(p.Errors, f.o.Error), append(p.Reasons, f.o.Reason)
		p.Refunds = append(p.Refunds, int32(f.o.Refund))
		p.Timers = append(p.Timers, f.o.Timer)
		p.WaitingSinces = append(p.WaitingSinces, orNoTime(f.o.WaitingSince))
	}
	return p
}

// afterwards does what follows from ended and parked actions: the next action
// becomes due, the stage fails, the lane learns of the timer.
func (l *Lifecycle) afterwards(ctx context.Context, q *dbq.Queries, rows []dbq.FinishActionsRow,
	policy func(id int64) jobs.OnErrorPolicy, records func(id int64) *jobs.Records,
) error {
	var advance, fail, steps []int64
	var signal dbq.SignalParams
	for _, r := range rows {
		switch {
		case r.Status == jobs.StatusPending || r.Status == jobs.StatusDelayed:
			signal.OrganizationIds = append(signal.OrganizationIds, r.OrganizationID)
			signal.ActionTypes = append(signal.ActionTypes, r.ActionType)
			signal.PerformAts = append(signal.PerformAts, *r.PerformAt)
		case r.Notification && r.Status != jobs.StatusMerged:
			steps = append(steps, r.ID)
		case r.LeadStageID == nil:
		case r.Status == jobs.StatusFailed && policy(r.ID) != jobs.OnErrorSkip:
			fail = append(fail, *r.LeadStageID)
		default:
			advance = append(advance, *r.LeadStageID)
		}
	}
	if err := writeRecords(ctx, q, rows, records); err != nil {
		return err
	}
	if len(steps) > 0 {
		if err := q.AdvanceNotifications(ctx, steps); err != nil {
			return fmt.Errorf("advance notifications: %w", err)
		}
	}
	if len(fail) > 0 {
		if _, err := q.CloseStages(ctx, dbq.CloseStagesParams{LeadStageIds: fail, Status: "failed", Reason: "failed", ActionReason: "failed"}); err != nil {
			return fmt.Errorf("close stages: %w", err)
		}
	}
	if len(advance) > 0 {
		if err := q.Advance(ctx, advance); err != nil {
			return fmt.Errorf("advance: %w", err)
		}
	}
	if len(signal.PerformAts) > 0 {
		if err := q.Signal(ctx, signal); err != nil {
			return fmt.Errorf("signal: %w", err)
		}
	}
	return nil
}

// lockDecided takes the notification's lock before its job's, as cancelations do,
// where the outcome is decided under it.
func lockDecided(ctx context.Context, q *dbq.Queries, s *jobs.Started, o jobs.Outcome) error {
	if !s.Action.Notification || o.Decide == nil {
		return nil
	}
	return q.LockNotificationOfJob(ctx, s.Action.ID)
}

// writeRecords keeps what notifications' jobs leave behind.
func writeRecords(ctx context.Context, q *dbq.Queries, rows []dbq.FinishActionsRow, records func(id int64) *jobs.Records) error {
	var messages dbq.WriteMessagesParams
	var details dbq.WriteDetailsParams
	var feeds []int64 // subscribers
	for _, r := range rows {
		kept := records(r.ID)
		if !r.Notification || kept == nil {
			continue
		}
		if kept.Message != nil {
			raw, err := json.Marshal(kept.Message)
			if err != nil {
				return fmt.Errorf("message: %w", err)
			}
			of := kept.Message.Of
			messages.OrganizationIds, messages.NotificationIds = append(messages.OrganizationIds, r.OrganizationID), append(messages.NotificationIds, of.NotificationID)
			messages.JobIds, messages.WorkflowIds = append(messages.JobIds, r.ID), append(messages.WorkflowIds, of.WorkflowID)
			messages.SubscriberIds, messages.SubscriberNos = append(messages.SubscriberIds, of.SubscriberID), append(messages.SubscriberNos, of.SubscriberNo)
			messages.TransactionIds, messages.Channels = append(messages.TransactionIds, of.TransactionID), append(messages.Channels, r.ActionType)
			messages.Messages = append(messages.Messages, raw)
			if r.ActionType == "in_app" {
				feeds = append(feeds, of.SubscriberNo)
			}
		}
		for _, d := range kept.Details {
			details.JobIds, details.Statuses = append(details.JobIds, r.ID), append(details.Statuses, d.Status)
			details.Details, details.Sources = append(details.Details, d.Detail), append(details.Sources, d.Source)
			details.ProviderIds, details.Raws = append(details.ProviderIds, ""), append(details.Raws, d.Raw)
		}
	}
	if len(messages.JobIds) > 0 {
		if err := q.WriteMessages(ctx, messages); err != nil {
			return fmt.Errorf("messages: %w", err)
		}
	}
	if len(feeds) > 0 {
		if err := q.NotifyFeeds(ctx, listed(feeds)); err != nil {
			return fmt.Errorf("messages: %w", err)
		}
	}
	if len(details.JobIds) > 0 {
		if err := q.WriteDetails(ctx, details); err != nil {
			return fmt.Errorf("execution details: %w", err)
		}
	}
	return nil
}

// mostNotified bounds a payload of NOTIFY, which Postgres wants below 8,000 bytes.
const mostNotified = 7000

// listed gives numbers, each once, with commas between, in as few texts as NOTIFY lets.
func listed(numbers []int64) []string {
	slices.Sort(numbers)
	var texts []string
	var text []byte
	for _, n := range slices.Compact(numbers) {
		if len(text) > mostNotified {
			texts, text = append(texts, string(text)), nil
		}
		if len(text) > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendInt(text, n, 10)
	}
	return append(texts, string(text))
}

// finishAlone writes one outcome together with its effect, or with the end of its
// stage, in one transaction: both or none, once.
func (l *Lifecycle) finishAlone(ctx context.Context, s *jobs.Started, o jobs.Outcome) error {
	held := true
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return err
		}
		if err := q.BoundWaits(ctx); err != nil {
			return err
		}
		// What ends or moves a run takes its locks in the order in which entries do: the
		// run, its stage, its actions.
		if s.Action.LeadStageID != 0 && !o.ChangesRows {
			if err := q.LockRun(ctx, s.Action.LeadStageID); err != nil {
				return err
			}
		}
		if err := lockDecided(ctx, q, s, o); err != nil {
			return err
		}
		if _, err := q.HoldAction(ctx, dbq.HoldActionParams{ID: s.Action.ID, Fence: s.Fence}); err != nil {
			if errors.Is(err, pgx.ErrNoRows) {
				held = false
				return nil
			}
			return err
		}
		if o.Decide != nil {
			result, err := o.Decide(ctx, tx)
			if isPassing(err) || err != nil && tx.Conn().IsClosed() {
				return err
			} else if err != nil {
				return &jobs.EffectError{Err: err}
			}
			o = jobs.Decided(&s.Action, result)
		}
		effect, policy := o.Effect, jobs.OnErrorSkip
		switch {
		case o.EndsRun != "":
			effect = func(ctx context.Context, tx pgx.Tx) error {
				return l.store.endRun(ctx, tx, &s.Action, "exited", o.EndsRun, o.EndsRun)
			}
		case o.Status != jobs.StatusFailed:
		case o.OnError.Policy == jobs.OnErrorStage:
			effect = func(ctx context.Context, tx pgx.Tx) error {
				return l.store.MoveLead(ctx, tx, &s.Action, "", o.OnError.Stage, false)
			}
		default:
			effect, policy = nil, o.OnError.Policy
		}
		if effect != nil {
			if err := effect(ctx, tx); isPassing(err) || err != nil && tx.Conn().IsClosed() {
				return err
			} else if err != nil {
				return &jobs.EffectError{Err: err}
			}
		}
		if o.ChangesRows {
			if err := l.emitCause(ctx, q, &s.Action); err != nil {
				return err
			}
		}
		rows, err := q.FinishActions(ctx, finishParams([]finish{{s, o}}))
		if isBadValue(err) {
			return &jobs.EffectError{Err: jobs.Permanentf("the result can't be kept: %w", err)}
		}
		if err != nil {
			return err
		}
		err = l.afterwards(ctx, q, rows, func(int64) jobs.OnErrorPolicy { return policy }, func(int64) *jobs.Records { return o.Records })
		failpoint.Hit("effect-before-commit")
		return err
	})
	if err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	failpoint.Hit("effect-after-commit")
	if !held {
		l.logger.WarnContext(ctx, "an action was taken over by another worker meanwhile; its effect is dropped", "action", s.Action.ID)
		return nil
	}
	l.ended(s.Action.Type, o.Status, s.Action.Notification)
	if l.changed != nil {
		l.changed()
	}
	return nil
}

// emitCause marks the transaction, so that the feed knows whose change it was.
func (l *Lifecycle) emitCause(ctx context.Context, q *dbq.Queries, a *jobs.Action) error {
	raw, err := json.Marshal(a.Next())
	if err != nil {
		return fmt.Errorf("cause: %w", err)
	}
	return q.EmitCause(ctx, string(raw))
}

func (l *Lifecycle) ended(actionType, status string, notification bool) {
	if l.observe != nil {
		l.observe.Ended(actionType, status, notification)
	}
}

// advanceStalledNotifications tries again where a lock was in the way.
func (l *Lifecycle) advanceStalledNotifications(ctx context.Context) error {
	if err := dbq.New(l.pool).AdvanceStalledNotifications(ctx); err != nil {
		return fmt.Errorf("advance notifications: %w", err)
	}
	return nil
}

// advanceStalled tries again where a lock was in the way.
func (l *Lifecycle) advanceStalled(ctx context.Context) error {
	return pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		ids, err := q.TakeStalled(ctx)
		if err != nil || len(ids) == 0 {
			return err
		}
		return q.Advance(ctx, ids)
	})
}

func (l *Lifecycle) hold(rows []dbq.StartActionsRow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rows {
		l.held[r.ID] = r.Fence
	}
}

func (l *Lifecycle) release(s *jobs.Started) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A later taking of the same action, with a higher fence, may be ours too.
	if l.held[s.Action.ID] == s.Fence {
		delete(l.held, s.Action.ID)
	}
}

// sweep gives back, until ctx ends, actions that the database counts as this
// process's and that nobody here runs: when a connection breaks after a commit
// and before its answer, the start has happened and nobody knows.
func (l *Lifecycle) sweep(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	var before map[int64]int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		var err error
		if before, err = l.sweepOnce(ctx, before); err != nil && ctx.Err() == nil {
			l.logger.WarnContext(ctx, "actions that nobody runs are not looked for", "error", err)
		}
	}
}

// sweepOnce gives back what it saw twice: a start that was committed just now may
// not have been heard of yet.
func (l *Lifecycle) sweepOnce(ctx context.Context, before map[int64]int64) (seen map[int64]int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTime)
	defer cancel()
	rows, err := dbq.New(l.pool).RunningHere(ctx, l.worker)
	if err != nil {
		return nil, err
	}
	seen = map[int64]int64{}
	back := dbq.GiveBackParams{WorkerID: l.worker}
	l.mu.Lock()
	for _, r := range rows {
		if l.held[r.ID] == r.Fence {
			continue
		}
		seen[r.ID] = r.Fence
		if before[r.ID] == r.Fence {
			back.Ids, back.Fences = append(back.Ids, r.ID), append(back.Fences, r.Fence)
		}
	}
	l.mu.Unlock()
	if len(back.Ids) == 0 {
		return seen, nil
	}
	return seen, pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return err
		}
		lost, err := q.GiveBack(ctx, back)
		if err != nil {
			return err
		}
		var signal dbq.SignalParams
		for _, r := range lost {
			signal.OrganizationIds = append(signal.OrganizationIds, r.OrganizationID)
			signal.ActionTypes = append(signal.ActionTypes, r.ActionType)
			signal.PerformAts = append(signal.PerformAts, *r.PerformAt)
			l.logger.WarnContext(ctx, "an action's start was never heard of; the action runs again", "action", r.ID)
		}
		return q.Signal(ctx, signal)
	})
}

// rescue takes actions away from workers that are gone: those with attempts left
// run again, the others have failed.
func (l *Lifecycle) rescue(ctx context.Context, deadAfter time.Duration) error {
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return err
		}
		lost, err := q.RescueRunning(ctx, deadAfter.Seconds())
		if err != nil || len(lost) == 0 {
			return err
		}
		var signal dbq.SignalParams
		for _, r := range lost {
			signal.OrganizationIds = append(signal.OrganizationIds, r.OrganizationID)
			signal.ActionTypes = append(signal.ActionTypes, r.ActionType)
			signal.PerformAts = append(signal.PerformAts, *r.PerformAt)
			l.logger.WarnContext(ctx, "an action's worker is gone; the action runs again", "action", r.ID)
		}
		err = q.Signal(ctx, signal)
		failpoint.Hit("rescue-before-commit")
		return err
	})
	if err != nil {
		return fmt.Errorf("rescue: %w", err)
	}
	spent, err := dbq.New(l.pool).LostForGood(ctx, deadAfter.Seconds())
	if err != nil {
		return fmt.Errorf("rescue: %w", err)
	}
	for _, r := range spent {
		if err := l.giveUp(ctx, r); err != nil && ctx.Err() == nil {
			// An app's lock may be in the way; the others don't wait for it.
			l.logger.WarnContext(ctx, "an action's worker is gone; its failure is not written yet", "action", r.ID, "error", err)
		}
	}
	return nil
}

// giveUp fails an action whose worker is gone and which has no attempt left.
func (l *Lifecycle) giveUp(ctx context.Context, r dbq.LostForGoodRow) error {
	s := &jobs.Started{
		Action: jobs.Action{ID: r.ID, OrganizationID: r.OrganizationID, LeadID: r.LeadID, Type: r.ActionType, Params: r.Params},
		Fence:  r.Fence,
	}
	if r.LeadStageID != nil {
		s.Action.LeadStageID = *r.LeadStageID
	}
	o := jobs.Failed(&s.Action, errors.New("the process that ran it ended without a word, and no attempt is left"))
	err := l.finishAlone(ctx, s, o)
	if effect, ok := errors.AsType[*jobs.EffectError](err); ok {
		err = l.finishAlone(ctx, s, o.Stopped(effect.Err))
	}
	return err
}

package pgautomate

// What the carriers' workers do, beside running actions.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/failpoint"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/scheduler"
	"github.com/pgautomate/pgautomate/trigger"
)

type firingKey struct {
	id int64
	at time.Time
}

// insertFiringActions writes the actions of firings, many in one statement, and
// ends the runs of those that are goals'. A firing that has its action already
// gets no second one. The answers are the errors of each.
func (e *Engine) insertFiringActions(ctx context.Context, q *dbq.Queries, keys []firingKey) ([]error, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var p dbq.InsertFiringActionsParams
	for _, k := range keys {
		p.Ids, p.CommittedAts = append(p.Ids, k.id), append(p.CommittedAts, k.at)
	}
	failpoint.Hit("firing-action-before-insert")
	inserted, err := q.InsertFiringActions(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("actions of firings: %w", err)
	}
	failpoint.Hit("firing-action-after-insert")
	e.scheduler.Wake()
	answers := make([]error, len(keys))
	if len(inserted) == len(keys) {
		return answers, nil // no goal among them, nothing waited for
	}
	bad := map[int64]error{}
	if err := e.endMet(ctx, q, p, bad); err != nil {
		return nil, err
	}
	if err := e.wakeMet(ctx, q, p, bad); err != nil {
		return nil, err
	}
	for i, k := range keys {
		answers[i] = bad[k.id]
	}
	return answers, nil
}

// endMet ends the runs whose goals these firings are.
func (e *Engine) endMet(ctx context.Context, q *dbq.Queries, p dbq.InsertFiringActionsParams, bad map[int64]error) error {
	goals, err := q.GoalsMet(ctx, dbq.GoalsMetParams(p))
	if err != nil || len(goals) == 0 {
		return err
	}
	runs := make([]scheduler.Run, len(goals))
	for i, g := range goals {
		runs[i] = scheduler.Run{Organization: g.OrganizationID, Lead: g.LeadID, Pipeline: g.PipelineID, Goal: true, At: g.CommittedAt}
	}
	for i, err := range e.runs.End(ctx, runs) {
		bad[goals[i].ID] = err
	}
	return nil
}

// wakeMet wakes the waits for what these firings say.
func (e *Engine) wakeMet(ctx context.Context, q *dbq.Queries, p dbq.InsertFiringActionsParams, bad map[int64]error) error {
	met, err := q.AwaitedMet(ctx, dbq.AwaitedMetParams(p))
	if err != nil || len(met) == 0 {
		return err
	}
	list := make([]scheduler.Met, len(met))
	for i, m := range met {
		list[i] = scheduler.Met{Organization: m.OrganizationID, ObjectType: m.ObjectType, Lead: m.LeadID, Awaited: m.Awaited, At: m.CommittedAt}
	}
	answers, err := e.waits.WakeMet(ctx, list)
	if err != nil {
		return err
	}
	for i, err := range answers {
		bad[met[i].ID] = err
	}
	return nil
}

// canFire says whether a trigger can have a query.
func (e *Engine) canFire(ctx context.Context, objectType string, query json.RawMessage, where *time.Location) (bool, error) {
	schemas, err := e.catalog.Schemas(ctx)
	if err != nil {
		return false, err
	}
	return schemas(objectType) != nil && trigger.Check(query, objectType, schemas, where) == nil, nil
}

// meeting gives those of the objects that meet a query now.
func (e *Engine) meeting(ctx context.Context, organization, objectType string, query json.RawMessage, ids []string, now time.Time) (map[string]bool, error) {
	s, err := e.catalog.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return s.Meeting(ctx, e.pool, objectType, query, ids, trigger.SQLOptions{
		Location: e.zones.Location(organization), Now: now, Organization: organization,
	}, 30*time.Second)
}

// goalMet says whether the lead whose run begins with an action meets its
// pipeline's goal already. Where that can't be asked, it is the goal's trigger
// that says so, and the run goes its way.
func (e *Engine) goalMet(ctx context.Context, a *jobs.Action) (bool, error) {
	goal, err := dbq.New(e.pool).RunGoal(ctx, a.LeadStageID)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && (len(goal) == 0 || string(goal) == "null") {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the pipeline's goal: %w", err)
	}
	first, err := e.queries.First(ctx, a, []json.RawMessage{goal})
	switch class, _ := jobs.Classify(err); class {
	case jobs.ClassNone:
		return first == 0, nil
	case jobs.ClassNotVisible:
		return false, nil // when it comes to be there, the goal's trigger sees it
	case jobs.ClassPermanent:
		e.logger.WarnContext(ctx, "a pipeline's goal can't be asked", "organization", a.OrganizationID, "lead_stage", a.LeadStageID, "error", err)
		return false, nil
	default:
		return false, fmt.Errorf("the pipeline's goal: %w", err)
	}
}

// suppressed gives the reason why nothing is to be sent to an action's lead over a
// channel, "" when it may be.
func (e *Engine) suppressed(ctx context.Context, a *jobs.Action, channel string) (string, error) {
	reason, err := dbq.New(e.pool).Suppression(ctx, dbq.SuppressionParams{
		OrganizationID: a.OrganizationID, LeadType: a.ObjectType, LeadID: &a.LeadID, Channel: channel,
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("suppressions: %w", err)
	default:
		return suppressionWord(reason), nil
	}
}

// suppressionWord is what a run ends with for a suppression's reason.
func suppressionWord(reason string) string {
	if strings.EqualFold(strings.TrimSpace(reason), "unsubscribed") {
		return "unsubscribed"
	}
	return "suppressed"
}

// suppressedAddresses gives those of the addresses that nothing is to be sent to.
func (e *Engine) suppressedAddresses(ctx context.Context, organization, channel string, addresses []string) (map[string]string, error) {
	rows, err := dbq.New(e.pool).SuppressedAddresses(ctx, dbq.SuppressedAddressesParams{OrganizationID: organization, Channel: channel, Addresses: addresses})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	reasons := make(map[string]string, len(rows))
	for _, r := range rows {
		reasons[r.Asked] = suppressionWord(r.Reason)
	}
	return reasons, nil
}

// integrations implements jobs.Integrations.
type integrations struct{ pool *pgxpool.Pool }

// List implements jobs.Integrations.
func (i integrations) List(ctx context.Context, organization, channel, identifier string) ([]jobs.Integration, error) {
	rows, err := dbq.New(i.pool).ListIntegrations(ctx, dbq.ListIntegrationsParams{OrganizationID: organization, Channel: channel, Identifier: identifier})
	if err != nil {
		return nil, err
	}
	list := make([]jobs.Integration, len(rows))
	for n, row := range rows {
		credentials, err := jobs.DecodeObject(row.Credentials)
		if err != nil {
			return nil, err
		}
		list[n] = jobs.Integration{Identifier: row.Identifier, Provider: row.ProviderID, Credentials: credentials, Conditions: row.Conditions}
	}
	return list, nil
}

// objectGone ends the runs of leads that were deleted or left.
func (e *Engine) objectGone(ctx context.Context, job *river.Job[jobs.ObjectGoneArgs]) error {
	a := job.Args
	return again(e.runs.EndOf(ctx, a.OrganizationID, a.ObjectType, a.IDs, a.Reason))
}

// objectRenamed lets runs follow a lead whose id changed.
func (e *Engine) objectRenamed(ctx context.Context, job *river.Job[jobs.ObjectRenamedArgs]) error {
	a := job.Args
	err := dbq.New(e.pool).RenameLead(ctx, dbq.RenameLeadParams{
		NewID: a.NewID, ObjectType: a.ObjectType, OrganizationID: a.OrganizationID, OldID: a.OldID,
	})
	if err != nil {
		return fmt.Errorf("runs of a lead whose id changed: %w", err)
	}
	return nil
}

// replied wakes the waits of leads that have replied.
func (e *Engine) replied(ctx context.Context, job *river.Job[jobs.RepliedArgs]) error {
	return e.waits.Replied(ctx, job.Args.OrganizationID, job.Args.ObjectType, job.Args.IDs)
}

// sweepNotifications deletes what no notification needs any more, until ctx ends.
func (e *Engine) sweepNotifications(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			err := e.notifications.SweepAttachments(ctx)
			if err == nil && n%60 == 0 {
				q := dbq.New(e.pool)
				err = errors.Join(q.DeleteOldKeys(ctx), q.DeleteOldRequests(ctx))
				if e.cfg.KeepFinished > 0 {
					err = errors.Join(err, e.notifications.Forget(ctx, e.cfg.KeepFinished))
				}
			}
			if err != nil && ctx.Err() == nil {
				e.logger.WarnContext(ctx, "what notifications left behind is not deleted", "error", err)
			}
		}
	}
}

// again lets a carrier come again soon; that is no failure.
func again(err error) error {
	if errors.Is(err, scheduler.ErrLookAgain) {
		return river.JobSnooze(200 * time.Millisecond)
	}
	return err
}

// vars are what an action's templates may name.
func (e *Engine) vars(s *jobs.Started) *jobs.Vars {
	a := &s.Action
	v := jobs.NewVars()
	v.SetLocation(a.Location)
	lead := func(ctx context.Context) (any, error) {
		return e.catalog.Row(ctx, e.pool, a.OrganizationID, a.ObjectType, a.LeadID)
	}
	v.SetLazy("lead", lead)
	v.SetLazy("organization", func(ctx context.Context) (any, error) {
		o, err := dbq.New(e.pool).GetOrganization(ctx, a.OrganizationID)
		if errors.Is(err, pgx.ErrNoRows) {
			o.ID, o.TimeZone = a.OrganizationID, "UTC"
		} else if err != nil {
			return nil, fmt.Errorf("organization %s: %w", a.OrganizationID, err)
		}
		return map[string]any{"id": o.ID, "name": o.Name, "time_zone": o.TimeZone}, nil
	})
	if a.FiringID == 0 {
		v.SetLazy("object", lead)
		v.Set("trigger", map[string]any{})
		return v
	}
	firing := sync.OnceValues(func() (dbq.GetFiringRow, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return dbq.New(e.pool).GetFiring(ctx, dbq.GetFiringParams{ID: a.FiringID, CommittedAt: s.FiringAt})
	})
	v.SetLazy("object", func(context.Context) (any, error) {
		f, err := firing()
		if err != nil {
			return nil, fmt.Errorf("firing %d: %w", a.FiringID, err)
		}
		return decodeObject(f.Data)
	})
	v.SetLazy("trigger", func(context.Context) (any, error) {
		f, err := firing()
		if err != nil {
			return nil, fmt.Errorf("firing %d: %w", a.FiringID, err)
		}
		previous, err := decodeObject(f.PreviousData)
		if err != nil {
			return nil, err
		}
		return map[string]any{
			"id": f.TriggerID, "name": f.Name, "version": f.TriggerVersion, "action": f.Action,
			"changed_fields": f.ChangedFields, "previous": previous, "committed_at": f.CommittedAt, "commit_lsn": f.CommitLsn,
			"object_type": f.ObjectType, "object_id": f.ObjectID,
		}, nil
	})
	return v
}

func decodeObject(raw json.RawMessage) (map[string]any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	return jobs.DecodeObject(raw)
}

// zones keeps organizations' time zones in memory, at most a minute old.
type zones struct {
	pool   *pgxpool.Pool
	logger *slog.Logger

	mu  sync.RWMutex
	all map[string]*time.Location
}

// Location gives an organization's time zone; UTC when it has none or a wrong one.
func (z *zones) Location(organization string) *time.Location {
	z.mu.RLock()
	defer z.mu.RUnlock()
	if loc, ok := z.all[organization]; ok {
		return loc
	}
	return time.UTC
}

func (z *zones) reload(ctx context.Context) error {
	rows, err := dbq.New(z.pool).OrganizationTimeZones(ctx)
	if err != nil {
		return fmt.Errorf("time zones: %w", err)
	}
	all := make(map[string]*time.Location, len(rows))
	for _, r := range rows {
		loc, err := time.LoadLocation(r.TimeZone)
		if err != nil {
			z.logger.Warn("an organization's time zone is unknown, UTC is used", "organization", r.ID, "time_zone", r.TimeZone)
			continue
		}
		all[r.ID] = loc
	}
	z.mu.Lock()
	z.all = all
	z.mu.Unlock()
	return nil
}

func (z *zones) run(ctx context.Context) {
	t := time.NewTicker(30 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := z.reload(ctx); err != nil && ctx.Err() == nil {
				z.logger.Warn("time zones not read", "error", err)
			}
		}
	}
}

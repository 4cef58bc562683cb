package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
)

// What wait_until actions wait for: see the table awaited.

const (
	askEvery     = 30 * time.Second // how often what no trigger sees to is asked
	askQueries   = 20               // how many such queries one round asks
	askWaiters   = 5000             // of how many waits one statement asks
	unusedMargin = time.Hour        // so that few waits for one query write its row
)

// Await implements jobs.Awaiting.
func (w *Waits) Await(ctx context.Context, a *jobs.Action, query json.RawMessage, until time.Time) (name string, fresh bool, err error) {
	q := dbq.New(w.Pool)
	found, err := q.FindAwaited(ctx, dbq.FindAwaitedParams{OrganizationID: a.OrganizationID, ObjectType: a.ObjectType, Query: query})
	if err == nil && !found.UsedUntil.Before(until) {
		return strconv.FormatInt(found.ID, 10), found.Fresh, nil
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", false, err
	}
	canFire, err := w.CanFire(ctx, a.ObjectType, query, a.Location)
	if err != nil {
		return "", false, err
	}
	var put dbq.PutAwaitedRow
	err = pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return err
		}
		var err error
		put, err = q.PutAwaited(ctx, dbq.PutAwaitedParams{
			OrganizationID: a.OrganizationID, ObjectType: a.ObjectType, Query: query, UsedUntil: until.Add(unusedMargin),
		})
		if err != nil || !put.Inserted || !canFire {
			return err
		}
		return q.PutAwaitedTrigger(ctx, dbq.PutAwaitedTriggerParams{
			OrganizationID: a.OrganizationID, AwaitedID: &put.ID, ObjectType: a.ObjectType, Query: query,
		})
	})
	if err != nil {
		return "", false, err
	}
	return strconv.FormatInt(put.ID, 10), put.Fresh && canFire, nil
}

// Met is a lead that came to meet what waits wait for, by a commit at that time.
type Met struct {
	Organization, ObjectType, Lead string
	Awaited                        string
	At                             time.Time
}

// WakeMet wakes the waits for what leads came to meet, and gives an error for
// each: ErrLookAgain where a wait may have missed it.
func (w *Waits) WakeMet(ctx context.Context, list []Met) ([]error, error) {
	var p dbq.WakeUntilsParams
	for i := range list {
		m := &list[i]
		p.Places, p.OrganizationIds, p.ObjectTypes = append(p.Places, int64(i)), append(p.OrganizationIds, m.Organization), append(p.ObjectTypes, m.ObjectType)
		p.LeadIds, p.Awaited, p.Ats = append(p.LeadIds, m.Lead), append(p.Awaited, m.Awaited), append(p.Ats, m.At)
	}
	answers := make([]error, len(list))
	woken := false
	err := pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return err
		}
		// In this order, and each with a snapshot of its own: see Waits.
		looking, err := q.UntilsBeingLookedAt(ctx, dbq.UntilsBeingLookedAtParams{
			Places: p.Places, OrganizationIds: p.OrganizationIds, ObjectTypes: p.ObjectTypes, LeadIds: p.LeadIds,
		})
		if err != nil {
			return err
		}
		for _, place := range looking {
			answers[place] = ErrLookAgain
		}
		rows, err := q.WakeUntils(ctx, p)
		if err != nil {
			return err
		}
		for _, r := range rows {
			woken = woken || r.Woken
			if !r.Woken {
				answers[r.Place] = ErrLookAgain
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("wake waits: %w", err)
	}
	if woken && w.Changed != nil {
		w.Changed()
	}
	return answers, nil
}

// Tend asks what no trigger sees to, and forgets what nobody waits for any more,
// until ctx ends.
func (w *Waits) Tend(ctx context.Context) {
	t := time.NewTicker(w.askEvery() / 5)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := w.tend(ctx); err != nil && ctx.Err() == nil {
			w.Logger.WarnContext(ctx, "waits that no trigger sees to are asked later", "error", err)
		}
	}
}

func (w *Waits) askEvery() time.Duration {
	if w.AskEvery > 0 {
		return w.AskEvery
	}
	return askEvery
}

func (w *Waits) tend(ctx context.Context) error {
	q := dbq.New(w.Pool)
	if _, err := q.DeleteUnusedAwaited(ctx); err != nil {
		return fmt.Errorf("unused queries: %w", err)
	}
	due, err := q.AwaitedToAsk(ctx, dbq.AwaitedToAskParams{EverySeconds: w.askEvery().Seconds(), Most: askQueries})
	if err != nil {
		return fmt.Errorf("queries to ask: %w", err)
	}
	var errs []error
	for i := range due {
		if err := w.ask(ctx, q, &due[i]); err != nil {
			errs = append(errs, fmt.Errorf("query %d of organization %s: %w", due[i].ID, due[i].OrganizationID, err))
		}
	}
	return errors.Join(errs...)
}

// ask asks one query of all who wait for it, and wakes those who meet it.
func (w *Waits) ask(ctx context.Context, q *dbq.Queries, a *dbq.AwaitedToAskRow) error {
	name := strconv.FormatInt(a.ID, 10)
	for after := int64(0); ; {
		rows, err := q.WaitersFor(ctx, dbq.WaitersForParams{Awaited: name, AfterID: after, Most: askWaiters})
		if err != nil || len(rows) == 0 {
			return err
		}
		now, err := q.ApiNow(ctx)
		if err != nil {
			return err
		}
		leads := make([]string, len(rows))
		for i, r := range rows {
			leads[i], after = r.LeadID, r.ID
		}
		meeting, err := w.Meeting(ctx, a.OrganizationID, a.ObjectType, a.Query, leads, now)
		if err != nil {
			return err
		}
		var list []Met
		for _, lead := range leads {
			if meeting[lead] {
				list = append(list, Met{a.OrganizationID, a.ObjectType, lead, name, now})
			}
		}
		if len(list) == 0 {
			continue
		}
		// Who is being looked at just now is asked by who looks.
		if _, err := w.WakeMet(ctx, list); err != nil {
			return err
		}
	}
}

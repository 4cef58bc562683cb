package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
)

// Waits are actions that wait for something else than a time: parked rows like
// any timer, woken by who sees what they wait for. What a waker must not do is
// come too early: a wait that is being looked at when it comes may have looked
// before there was anything to see, and parks afterwards. So it asks first which
// are being looked at, wakes the parked ones then, and comes again while there
// was one of the former. Whoever dies meanwhile changes nothing: wakers are
// carriers, which River gives to somebody else, and a wait whose worker died
// is looked at again.
type Waits struct {
	Pool *pgxpool.Pool
	// Changed is called when something became due.
	Changed func()
	Logger  *slog.Logger

	// CanFire says whether a trigger can have a query.
	CanFire func(ctx context.Context, objectType string, query json.RawMessage, where *time.Location) (bool, error)
	// Meeting gives those of the objects that meet a query.
	Meeting func(ctx context.Context, organization, objectType string, query json.RawMessage, ids []string, now time.Time) (map[string]bool, error)
	// AskEvery is how often queries that no trigger can have are asked; default 30 s.
	AskEvery time.Duration
}

// ErrLookAgain says that a wait may have missed its waker, who must come again soon.
var ErrLookAgain = errors.New("a wait was being looked at")

// Since implements jobs.Replies.
func (w *Waits) Since(ctx context.Context, a *jobs.Action) (time.Time, error) {
	return dbq.New(w.Pool).ReplySince(ctx, dbq.ReplySinceParams{LeadStageID: a.LeadStageID, SequenceNumber: int32(a.SequenceNumber)})
}

// Find implements jobs.Replies.
func (w *Waits) Find(ctx context.Context, a *jobs.Action, since time.Time, channel, contact string) (*jobs.Reply, error) {
	r, err := dbq.New(w.Pool).FindReply(ctx, dbq.FindReplyParams{
		OrganizationID: a.OrganizationID, LeadType: a.ObjectType, LeadID: a.LeadID, Since: since, Channel: channel, Contact: contact,
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // nil says: none
	}
	if err != nil {
		return nil, err
	}
	return &jobs.Reply{ObjectType: r.ObjectType, ObjectID: r.ObjectID, Channel: r.Channel, ContactID: r.ContactID, CommittedAt: r.CommittedAt}, nil
}

// Wake lets the parked waits of that type go on, of these leads. Where a wait was
// being looked at, it comes again, for that lead alone: a lead whose wait looked
// and waits on is left in peace.
func (w *Waits) Wake(ctx context.Context, actionType, organization, objectType string, leads []string) error {
	for {
		missed, err := w.wake(ctx, actionType, organization, objectType, leads)
		if err != nil {
			return fmt.Errorf("wake waits: %w", err)
		}
		if leads = missed; len(leads) == 0 {
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// wake does so once, and gives the leads that may have missed it.
func (w *Waits) wake(ctx context.Context, actionType, organization, objectType string, leads []string) (missed []string, err error) {
	woken := false
	err = pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return err
		}
		// In this order, and each with a snapshot of its own: see Waits.
		var err error
		missed, err = q.WaitsBeingLookedAt(ctx, dbq.WaitsBeingLookedAtParams{
			OrganizationID: organization, LeadIds: leads, ObjectType: objectType, ActionType: actionType,
		})
		if err != nil {
			return err
		}
		rows, err := q.WakeWaits(ctx, dbq.WakeWaitsParams{OrganizationID: organization, LeadIds: leads, ObjectType: objectType, ActionType: actionType})
		for _, r := range rows {
			if woken = woken || r.Woken; !r.Woken {
				missed = append(missed, r.LeadID)
			}
		}
		return err
	})
	if err == nil && woken && w.Changed != nil {
		w.Changed()
	}
	return missed, err
}

// Replied wakes the waits for a reply of these leads, and tells those that had
// just run out what they missed.
func (w *Waits) Replied(ctx context.Context, organization, leadType string, leads []string) error {
	if err := w.Wake(ctx, "wait_for_reply", organization, leadType, leads); err != nil {
		return err
	}
	err := dbq.New(w.Pool).NoteLateReplies(ctx, dbq.NoteLateRepliesParams{OrganizationID: organization, LeadIds: leads, ObjectType: leadType})
	if err != nil {
		return fmt.Errorf("replies that came too late: %w", err)
	}
	return nil
}

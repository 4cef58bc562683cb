package notification

// Cancelation: from the moment it is written nothing of an event starts, and what
// is still to be shared out is not.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// cancelChunk is how many notifications one transaction cancels; cancelChunks how
// many transactions the request itself waits for.
const (
	cancelChunk  = 500
	cancelChunks = 4
)

// Cancel cancels what has not run of the event with this transactionId; false when
// there is nothing to cancel.
func (s *Service) Cancel(ctx context.Context, organization, transactionID string) (bool, error) {
	q := dbq.New(s.Pool)
	found, err := q.Cancelable(ctx, dbq.CancelableParams{OrganizationID: organization, TransactionID: transactionID})
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !found.Something {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cancel: %w", err)
	}
	_, err = q.CancelEvent(ctx, dbq.CancelEventParams{OrganizationID: organization, TransactionID: transactionID})
	if err != nil {
		return false, fmt.Errorf("cancel: %w", err)
	}
	for range cancelChunks {
		left, err := s.cancelNext(ctx, found.ID)
		if err != nil || !left {
			return true, err
		}
	}
	err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		_, err := s.River.InsertManyFastTx(ctx, tx, []river.InsertManyParams{{
			Args: CancelArgs{ID: found.ID}, InsertOpts: &river.InsertOpts{Queue: Queue, MaxAttempts: 25},
		}})
		return err
	})
	if err != nil {
		return false, fmt.Errorf("cancel: %w", err)
	}
	return true, nil
}

// WorkCancel is the River worker's part.
func (s *Service) WorkCancel(ctx context.Context, job *river.Job[CancelArgs]) error {
	for range 4 * cancelChunks {
		left, err := s.cancelNext(ctx, job.Args.ID)
		if err != nil || !left {
			return err
		}
	}
	return river.JobSnooze(0)
}

// cancelNext cancels the jobs of the next notifications. What the database calls off,
// for others that were in the way, is tried again.
func (s *Service) cancelNext(ctx context.Context, event int64) (left bool, err error) {
	for try := 1; ; try++ {
		left, err = s.cancelSome(ctx, event)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || !strings.HasPrefix(pg.Code, "40") || try == 5 {
			return left, err
		}
	}
}

// cancelSome is one transaction of it. Locks are taken in the order of all:
// notifications, groups, jobs.
func (s *Service) cancelSome(ctx context.Context, event int64) (left bool, err error) {
	err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return err
		}
		ids, err := q.CancelNotifications(ctx, dbq.CancelNotificationsParams{EventID: event, Most: cancelChunk})
		if err != nil || len(ids) == 0 {
			return err
		}
		left = len(ids) == cancelChunk
		groups, err := q.LockGroupsOf(ctx, ids)
		if err != nil {
			return err
		}
		canceled, err := q.CancelJobs(ctx, ids)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.MasterJobID != nil && slices.Contains(canceled, *g.MasterJobID) {
				if err := handOver(ctx, q, g.ID, *g.MasterJobID, g.EndsAt); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("cancel: %w", err)
	}
	s.changed()
	return left, nil
}

// SweepAttachments deletes attachments that no job can need any more.
func (s *Service) SweepAttachments(ctx context.Context) error {
	if s.Attachments == nil {
		return nil
	}
	return pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		events, err := q.SpentAttachments(ctx)
		if err != nil {
			return fmt.Errorf("attachments: %w", err)
		}
		for _, e := range events {
			var list []attachment
			if err := json.Unmarshal(e.Attachments, &list); err != nil {
				return fmt.Errorf("attachments: %w", err)
			}
			for _, a := range list {
				if err := s.Attachments.Delete(ctx, a.Key); err != nil && !errors.Is(err, ErrNoAttachment) {
					return fmt.Errorf("attachment %q: %w", a.Name, err)
				}
			}
			if err := q.ForgetAttachments(ctx, e.ID); err != nil {
				return fmt.Errorf("attachments: %w", err)
			}
		}
		return nil
	})
}

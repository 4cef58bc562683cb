package notification

// What notifications leave behind, and for how long it is kept.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
)

const (
	// KeepFeed is how long messages in feeds are kept at least.
	KeepFeed = 365 * 24 * time.Hour
	// forgottenAtOnce bounds how much one transaction deletes.
	forgottenAtOnce = 1000
)

// Forget deletes notifications that ended longer ago than keep, with their jobs,
// details and messages, and the events and digests' groups of which nothing is left. Messages in feeds stay
// for KeepFeed, or for keep, whichever is longer.
func (s *Service) Forget(ctx context.Context, keep time.Duration) error {
	q := dbq.New(s.Pool)
	now := time.Now()
	for _, one := range []func() (int64, error){
		func() (int64, error) {
			return s.forgetNotifications(ctx, now.Add(-keep))
		},
		func() (int64, error) {
			return q.DeleteOldEvents(ctx, dbq.DeleteOldEventsParams{Before: now.Add(-keep), Most: forgottenAtOnce})
		},
		func() (int64, error) {
			return q.DeleteOldMessages(ctx, dbq.DeleteOldMessagesParams{Before: now.Add(-max(keep, KeepFeed)), Most: forgottenAtOnce})
		},
	} {
		for deleted := int64(forgottenAtOnce); deleted == forgottenAtOnce; {
			var err error
			if deleted, err = one(); err != nil {
				return fmt.Errorf("what is old is not deleted: %w", err)
			}
		}
	}
	return nil
}

// forgetNotifications deletes the next notifications, and the digests' groups of which no
// job is left. A group is locked before it is looked at: who is about to take part in it
// holds it, and who comes later makes it anew.
func (s *Service) forgetNotifications(ctx context.Context, before time.Time) (deleted int64, err error) {
	err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		old, err := q.DeleteOldNotifications(ctx, dbq.DeleteOldNotificationsParams{Before: before, Most: forgottenAtOnce})
		if err != nil {
			return err
		}
		deleted = old.Gone
		if len(old.Groups) == 0 {
			return nil
		}
		free, err := q.LockGroups(ctx, old.Groups)
		if err != nil {
			return err
		}
		return q.DeleteUnusedGroups(ctx, free)
	})
	return deleted, err
}

package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// This file moves finished actions out of the table of what is to be done, into
// one for each month (00016_archive.sql). Every look at the table is cheaper for
// it, and so is its vacuum; reading it shows them as before.

// archivedAtOnce bounds how many actions a transaction moves.
const archivedAtOnce = 2000

// archive moves, until ctx ends, actions that finished longer ago than
// ArchiveAfter, and drops the months that lie before KeepFinished.
func (s *Scheduler) archive(ctx context.Context) {
	t := time.NewTicker(s.ArchiveEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := s.archiveOnce(ctx); err != nil && ctx.Err() == nil {
			s.Logger.WarnContext(ctx, "finished actions stay where they are for now", "error", err)
		}
	}
}

func (s *Scheduler) archiveOnce(ctx context.Context) error {
	q := dbq.New(s.Pool)
	for {
		n, err := q.ArchiveActions(ctx, dbq.ArchiveActionsParams{OlderThan: s.ArchiveAfter, Most: archivedAtOnce})
		if err != nil {
			return fmt.Errorf("finished actions: %w", err)
		}
		if n == 0 {
			break
		}
		select { // nobody is in a hurry
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	if s.KeepFinished == 0 {
		return nil
	}
	if _, err := q.DropFinishedActions(ctx, time.Now().Add(-s.KeepFinished)); err != nil {
		return fmt.Errorf("months of finished actions: %w", err)
	}
	return nil
}

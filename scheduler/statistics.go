package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/db/dbq"
)

// This file sees to it that the server knows how large the engine's tables are.
// Plans are kept by each session, made for tables as they were then; autovacuum
// looks once a minute. When an organization's import makes an empty table one of a
// hundred thousand rows within seconds, sessions would go on reading it from end to
// end for every batch, until nobody's actions start in time. ANALYZE makes them
// plan anew.

// statisticsEvery is how often tables' sizes are looked at: one query of the catalog.
const statisticsEvery = time.Second

// statistics analyzes, until ctx ends, tables that have doubled since somebody did.
func (s *Scheduler) statistics(ctx context.Context) {
	t := time.NewTicker(statisticsEvery)
	defer t.Stop()
	for {
		if err := s.analyzeGrown(ctx); err != nil && ctx.Err() == nil {
			s.Logger.WarnContext(ctx, "tables that have grown are not analyzed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (s *Scheduler) analyzeGrown(ctx context.Context) error {
	tables, err := dbq.New(s.Pool).GrownTables(ctx)
	if err != nil {
		return fmt.Errorf("sizes: %w", err)
	}
	for _, table := range tables {
		// Somebody who analyzes it already isn't waited for.
		_, err := s.Pool.Exec(ctx, "ANALYZE (SKIP_LOCKED) "+pgx.Identifier{db.Schema, table}.Sanitize())
		if err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
	}
	return nil
}

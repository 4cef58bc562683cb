package db_test

import (
	"log/slog"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// TestMigrateOnOnePool calls Migrate from more goroutines than the pool has
// connections: who waits for the lock must not hold what the one at work needs.
func TestMigrateOnOnePool(t *testing.T) {
	t.Parallel()
	d := dbtest.NewEmpty(t)
	pool, err := db.Open(t.Context(), d.URL, "test", 3)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	group, ctx := errgroup.WithContext(t.Context())
	for range 8 {
		group.Go(func() error { return db.Migrate(ctx, pool, slog.New(slog.DiscardHandler)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestMigrateDownOfNothing removes a schema that isn't there, which is no error.
func TestMigrateDownOfNothing(t *testing.T) {
	t.Parallel()
	d := dbtest.NewEmpty(t)
	if err := db.MigrateDown(t.Context(), d.Pool, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
}

package scheduler

import (
	"log/slog"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// Counted starts are kept for KeepStarts, and as long as any throttle's window reaches them.
func TestOldStartsAreForgotten(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	if _, err := d.Pool.Exec(t.Context(), `
		INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per) VALUES ('a', 'log', 10, '10 minutes');
		INSERT INTO pgautomate.throttle_starts (organization_id, action_type, slice_start, slice_end, starts)
		SELECT 'a', 'log', now() - x * interval '1 minute', now() - x * interval '1 minute', 1 FROM unnest(ARRAY[5, 30, 90]) x`); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		keep time.Duration
		left int
	}{{0, 2}, {time.Minute, 1}} { // by default an hour; the throttle's window is 10 minutes
		logger := slog.New(slog.DiscardHandler)
		s := &Scheduler{Pool: d.Pool, Logger: logger, KeepStarts: tc.keep, Lifecycle: NewLifecycle(LifecycleConfig{Pool: d.Pool, Logger: logger, Changed: func() {}})}
		s.Init()
		err := s.rescue(t.Context())
		s.Lifecycle.Stop()
		if err != nil {
			t.Fatal(err)
		}
		var left int
		if err := d.Pool.QueryRow(t.Context(), "SELECT count(*) FROM pgautomate.throttle_starts").Scan(&left); err != nil || left != tc.left {
			t.Errorf("kept for %s: %d slices are left, want %d; %v", tc.keep, left, tc.left, err)
		}
	}
}

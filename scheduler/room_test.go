package scheduler

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// TestClaimEndsWithItsRoom: lanes of long turns don't take more than there is room for, each in its turn; who is cut short
// goes on first.
func TestClaimEndsWithItsRoom(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	if _, err := d.Pool.Exec(t.Context(), `
		INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at)
		SELECT 'org ' || o, n::text, 'log', now() - interval '1 hour' + o * interval '1 second' FROM generate_series(1, 6) o, generate_series(1, 10) n`); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	client, err := river.NewClient(riverpgxv5.New(d.Pool), &river.Config{Schema: "pgautomate", Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	s := &Scheduler{Pool: d.Pool, River: client, Logger: logger, LanesPerClaim: 4}
	s.Init()
	if _, err := s.Round(t.Context(), map[string]int64{}); err != nil { // signals become lanes
		t.Fatal(err)
	}
	for i, want := range [][]int64{{4, 3}, {1, 4, 2}, {2, 4, 1}} {
		s.paces["log"] = &pace{turn: 4, yield: 1} // as if learned
		claimed, err := s.claim(t.Context(), map[string]int{"log": 7}, nil, false, false)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := d.Pool.Query(t.Context(), `WITH taken AS (UPDATE pgautomate.lead_stage_actions SET status = 'completed', finished_at = now() WHERE status = 'queued' RETURNING organization_id)
			SELECT count(*) FROM taken GROUP BY organization_id ORDER BY organization_id`)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil || claimed.Actions != 7 || !slices.Equal(got, want) {
			t.Errorf("claim %d: %d actions, %v of each, want 7, %v: %v", i, claimed.Actions, got, want, err)
		}
	}
}

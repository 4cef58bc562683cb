package scheduler

import (
	"log/slog"
	"testing"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// With room for one action, a claim locks one lane. Held lanes that come first must not make the scheduler rest
// while another could go.
func TestHeldLanesDontHideOthers(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	if _, err := d.Pool.Exec(t.Context(), `
		INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per) SELECT 'held ' || g, 'log', 0, '1 hour' FROM generate_series(1, 20) g;
		INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at) SELECT 'held ' || g, '1', 'log', now() - interval '1 hour' FROM generate_series(1, 20) g;
		INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at) VALUES ('free', '1', 'log', now() - interval '1 minute')`); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	client, err := river.NewClient(riverpgxv5.New(d.Pool), &river.Config{Schema: "pgautomate", Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	s := &Scheduler{Pool: d.Pool, River: client, Logger: logger, Ahead: 1}
	s.Init()
	claimed := 0
	for range 100 {
		round, err := s.Round(t.Context(), map[string]int64{"log": 1})
		if err != nil {
			t.Fatal(err)
		}
		claimed += round.Actions
		if !round.More {
			break
		}
	}
	if claimed != 1 {
		t.Errorf("%d actions were claimed before the scheduler rested, want that of the organization that nothing holds", claimed)
	}
	if round, err := s.Round(t.Context(), map[string]int64{"log": 1}); err != nil || round.More {
		t.Errorf("there is nothing more to be had: %+v, %v", round, err)
	}
}

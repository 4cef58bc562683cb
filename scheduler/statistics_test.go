package scheduler

import (
	"slices"
	"testing"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// TestGrownTablesAreAnalyzed: what grew a lot is analyzed once, not again and again.
func TestGrownTablesAreAnalyzed(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	s := &Scheduler{Pool: db.Pool}
	grown := func() []string {
		t.Helper()
		tables, err := dbq.New(db.Pool).GrownTables(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return tables
	}
	add := func(n int) {
		t.Helper()
		_, err := db.Pool.Exec(t.Context(), `INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at)
			SELECT 'a', g::text, 'log', now() + interval '1 day' FROM generate_series(1, $1::integer) g`, n)
		if err != nil {
			t.Fatal(err)
		}
	}
	if tables := grown(); len(tables) > 0 {
		t.Errorf("%v are said to have grown, and are empty", tables)
	}
	add(5000)
	if tables := grown(); !slices.Equal(tables, []string{"lead_stage_actions"}) {
		t.Fatalf("%v are said to have grown, not lead_stage_actions", tables)
	}
	if err := s.analyzeGrown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var rows float64
	if err := db.Pool.QueryRow(t.Context(), `SELECT reltuples FROM pg_class WHERE oid = 'pgautomate.lead_stage_actions'::regclass`).Scan(&rows); err != nil || rows != 5000 {
		t.Errorf("the server takes it to have %.0f rows: %v", rows, err)
	}
	add(2000)
	if tables := grown(); len(tables) > 0 {
		t.Errorf("%v are said to have doubled", tables)
	}
	add(5000)
	if tables := grown(); len(tables) != 1 {
		t.Errorf("after it has doubled again: %v", tables)
	}
}

package db_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// TestEntriesKeepTheirPlans: a session whose plans were made for empty tables lets
// thousands of leads enter, end and move as quickly as any.
func TestEntriesKeepTheirPlans(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	conn, err := db.Pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec := func(sql string, args ...any) time.Duration {
		t.Helper()
		began := time.Now()
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return time.Since(began)
	}
	// Plans are kept from the first on, as they are later anyway, and the server never learns how the tables grow.
	exec(`SET plan_cache_mode = force_generic_plan`)
	for _, table := range []string{"lead_stages", "lead_stage_actions", "lead_runs", "pipeline_stage_actions", "pipelines"} {
		exec(`ALTER TABLE pgautomate.` + table + ` SET (autovacuum_enabled = false)`)
	}
	exec(`WITH p AS (INSERT INTO pgautomate.pipelines (organization_id, name) VALUES ('a', 'p') RETURNING id),
		s AS (INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT p.id, n FROM p, unnest('{one,two,none}'::text[]) n RETURNING id, name)
		INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type) SELECT id, n, 'log' FROM s, generate_series(1, 2) n WHERE name <> 'none'`)
	enter := func(stage string, first, n int) time.Duration {
		t.Helper()
		return exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
			SELECT 'a', g::text, s.id FROM pgautomate.pipeline_stages s, generate_series($2::integer + 1, $2::integer + $3::integer) g WHERE s.name = $1`, stage, first, n)
	}
	for i := range 3 {
		enter("one", i, 1)
		enter("two", i, 1)
		enter("none", i, 1)
	}
	exec(`SELECT pgautomate.advance_lead_stages('{1}')`)
	// Entries of leads that are nowhere yet are the reference. Read by the wrong index, or from end to end, the others take
	// longer the more leads there are.
	const leads, most = 10_000, 15
	reference := enter("one", 10, leads)
	for _, step := range []struct {
		what string
		took time.Duration
	}{
		{"advance", exec(`SELECT pgautomate.advance_lead_stages(ARRAY(SELECT id FROM pgautomate.lead_stages WHERE status = 'active'))`)},
		{"move", enter("two", 10, leads)},
		{"into a stage without actions", enter("none", 10, leads)},
	} {
		t.Logf("%s: %s, %.1f times what entries take (%s)", step.what, step.took, float64(step.took)/float64(reference), reference)
		if step.took > most*reference {
			t.Errorf("%s: %s, %.1f times what entries take (%s)", step.what, step.took, float64(step.took)/float64(reference), reference)
		}
	}
}

// TestProblemsDontReadTheArchive: what finished in the last hour is found without reading
// the months of what finished before.
func TestProblemsDontReadTheArchive(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	exec(t, d, `SELECT pgautomate.ensure_finished_actions('2026-01-01')`)
	exec(t, d, `INSERT INTO pgautomate.lead_stage_actions_2026_01 (id, organization_id, lead_id, action_type, status, perform_at, started_at, finished_at)
		SELECT g, 'org ' || g % 100, g::text, 'log', 'completed', at, at, at
		  FROM generate_series(1, 200000) g CROSS JOIN LATERAL (SELECT '2026-01-01'::timestamptz + g * interval '10 seconds' AS at) x`)
	exec(t, d, `VACUUM (ANALYZE) pgautomate.lead_stage_actions_2026_01`)
	for _, view := range []string{"problems", "action_lateness"} {
		plan := strings.Join(list(t, d, `EXPLAIN TABLE pgautomate.`+view), "\n")
		if !strings.Contains(plan, "lead_stage_actions_2026_01") || strings.Contains(plan, "Seq Scan on lead_stage_actions_2026_01") {
			t.Errorf("%s reads the month from end to end:\n%s", view, plan)
		}
	}
}

package scheduler

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func TestArchive(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	one := func(sql string) (n int) {
		t.Helper()
		if err := db.Pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return n
	}
	exec(`WITH p AS (INSERT INTO pgautomate.pipelines (organization_id, name) VALUES ('a', 'p') RETURNING id),
		s AS (INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT id, 's' FROM p RETURNING id)
		INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type) SELECT id, n, 'log' FROM s, generate_series(1, 3) n`)
	exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) SELECT 'a', i::text, (SELECT max(id) FROM pgautomate.pipeline_stages) FROM generate_series(1, 2000) i`)
	// The first actions of all are done: half of them some months ago, some yesterday, some now.
	exec(`SET pgautomate.engine = 'on'; UPDATE pgautomate.lead_stage_actions SET status = CASE WHEN id % 10 = 0 THEN 'failed' ELSE 'completed' END::pgautomate.job_status,
		finished_at = CASE id % 4 WHEN 0 THEN now() WHEN 1 THEN now() - interval '30 hours' ELSE now() - interval '100 days' END
		WHERE sequence_number = 1; RESET pgautomate.engine`)
	before := one(`SELECT count(*) FROM pgautomate.lead_stage_actions`)
	old := one(`SELECT count(*) FROM pgautomate.lead_stage_actions WHERE finished_at < now() - interval '1 day'`)
	s := &Scheduler{Pool: db.Pool, ArchiveAfter: 24 * time.Hour}
	if err := s.archiveOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one(`SELECT count(*) FROM pgautomate.lead_stage_actions`); n != before {
		t.Errorf("%d actions are shown, there were %d", n, before)
	}
	if n := one(`SELECT count(*) FROM ONLY pgautomate.lead_stage_actions`); n != before-old || old < 1000 {
		t.Errorf("%d actions are still in the way, want %d", n, before-old)
	}
	// Plans that ask for what is to be done don't look at the months.
	rows, err := db.Pool.Query(t.Context(), `EXPLAIN SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status IN ('pending', 'delayed') AND organization_id = 'a'`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, "lead_stage_actions_2") {
			t.Errorf("the plan looks at a month: %s", line)
		}
	}
	// Nobody changes what is finished, but a retry brings it back.
	var failed int64
	if err := db.Pool.QueryRow(t.Context(), `SELECT id FROM pgautomate.lead_stage_actions a WHERE status = 'failed' AND tableoid <> 'pgautomate.lead_stage_actions'::regclass LIMIT 1`).Scan(&failed); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Pool.Exec(t.Context(), `UPDATE pgautomate.lead_stage_actions SET status = 'canceled' WHERE id = $1`, failed); err == nil || !strings.Contains(err.Error(), "only a pending, queued or delayed action") {
		t.Errorf("a finished action was canceled: %v", err)
	}
	if _, err := db.Pool.Exec(t.Context(), `SELECT pgautomate.bring_back_actions($1)`, failed); err != nil {
		t.Fatal(err)
	}
	var here bool
	if err := db.Pool.QueryRow(context.Background(), `SELECT count(*) = 1 FROM ONLY pgautomate.lead_stage_actions WHERE id = $1`, failed).Scan(&here); err != nil || !here {
		t.Errorf("the action was not brought back: %v", err)
	}
	// Whole months go when they are older than what is kept.
	s.KeepFinished = 40 * 24 * time.Hour
	if err := s.archiveOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one(`SELECT count(*) FROM pgautomate.lead_stage_actions WHERE finished_at < now() - interval '99 days' AND tableoid <> 'pgautomate.lead_stage_actions'::regclass`); n > 0 {
		t.Errorf("%d actions of dropped months are left", n)
	}
	if n := one(`SELECT count(*) FROM pgautomate.lead_stage_actions WHERE finished_at > now() - interval '31 hours'`); n == 0 {
		t.Error("what is younger was dropped, too")
	}
}

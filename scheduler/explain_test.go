package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/dbtest"
	"github.com/pgautomate/pgautomate/jobs"
)

// recorder keeps the statements of this package's queries, with their arguments.
type recorder struct {
	mu   sync.Mutex
	seen map[string]pgx.TraceQueryStartData // by sqlc's name; the first one counts
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if name, ok := strings.CutPrefix(data.SQL, "-- name: "); ok {
		name, _, _ = strings.Cut(name, " ")
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, known := r.seen[name]; !known { // not what explain itself asks
			r.seen[name] = data
		}
	}
	return ctx
}

func (*recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// plan is what EXPLAIN says.
type plan struct {
	NodeType    string  `json:"Node Type"`
	Relation    string  `json:"Relation Name"`
	Index       string  `json:"Index Name"`
	Rows        float64 `json:"Actual Rows"`
	Loops       float64 `json:"Actual Loops"`
	Removed     float64 `json:"Rows Removed by Filter"`
	RemovedJoin float64 `json:"Rows Removed by Join Filter"`
	Recheck     float64 `json:"Rows Removed by Index Recheck"`
	Hit         int64   `json:"Shared Hit Blocks"`
	Read        int64   `json:"Shared Read Blocks"`
	Plans       []plan  `json:"Plans"`
}

// walk calls f for all nodes.
func (p *plan) walk(f func(*plan)) {
	f(p)
	for i := range p.Plans {
		p.Plans[i].walk(f)
	}
}

const actionsTable = "lead_stage_actions"

// explain runs a recorded statement again, in a transaction that is rolled back. rows is how many rows of
// the actions its dearest scan reads.
func explain(t *testing.T, pool *pgxpool.Pool, r *recorder, name string) (rows float64) {
	t.Helper()
	var p plan
	data, ok := r.seen[name]
	if !ok {
		t.Fatalf("%s was not asked; asked were %v", name, r.names())
	}
	rolledBack := errors.New("rolled back")
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		var raw []byte
		if err := dbq.New(tx).BeEngine(t.Context()); err != nil {
			return err
		}
		err := tx.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+data.SQL, data.Args...).Scan(&raw)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var plans []struct{ Plan plan }
		if err := json.Unmarshal(raw, &plans); err != nil {
			return err
		}
		p = plans[0].Plan
		return rolledBack
	})
	if !errors.Is(err, rolledBack) {
		t.Fatal(err)
	}
	p.walk(func(n *plan) {
		if n.Relation == actionsTable && strings.Contains(n.NodeType, "Scan") && n.NodeType != "Bitmap Heap Scan" {
			if n.NodeType == "Seq Scan" && n.Rows*n.Loops+n.Removed*n.Loops > 0 {
				t.Errorf("%s reads all of %s, one after the other", name, actionsTable)
			}
			rows = max(rows, (n.Rows+n.Removed+n.Recheck)*n.Loops)
		}
		if n.NodeType == "Bitmap Heap Scan" && n.Relation == actionsTable {
			rows = max(rows, (n.Rows+n.Removed+n.Recheck)*n.Loops)
		}
	})
	t.Logf("%-16s %6.0f rows read, %6d blocks", name, rows, p.Hit+p.Read)
	return rows
}

// reads runs a recorded statement again with the plan that it has in the engine's own transactions, which doesn't know what is
// asked, and says how many rows of the actions all of its scans read.
func reads(t *testing.T, pool *pgxpool.Pool, r *recorder, name string) (n int64) {
	t.Helper()
	rolledBack := errors.New("rolled back")
	err := pgx.BeginTxFunc(t.Context(), pool, asEngine, func(tx pgx.Tx) error {
		const counters = `SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables
			WHERE schemaname = 'pgautomate' AND relname LIKE 'lead_stage_actions%'`
		var before int64
		if err := tx.QueryRow(t.Context(), counters).Scan(&before); err != nil {
			return err
		}
		if _, err := tx.Exec(t.Context(), r.seen[name].SQL, r.seen[name].Args...); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := tx.QueryRow(t.Context(), counters).Scan(&n); err != nil {
			return err
		}
		n -= before
		return rolledBack
	})
	if !errors.Is(err, rolledBack) {
		t.Fatal(err)
	}
	t.Logf("%-16s %6d rows read, with a plan for anything", name, n)
	return n
}

func (r *recorder) names() []string {
	var names []string
	for n := range r.seen {
		names = append(names, n)
	}
	return names
}

type noVars struct{}

func (noVars) UpdateRow(context.Context, pgx.Tx, *jobs.Action, string, map[string]any) (int64, error) {
	return 0, errors.New("no rows here")
}

func (noVars) InsertRow(context.Context, pgx.Tx, *jobs.Action, string, map[string]any) error {
	return errors.New("no rows here")
}

// TestNoQueryReadsMoreThanIsDue: 200,000 actions parked, waiting for their turn,
// finished or with a timer, over twenty organizations; twenty due. Every statement on the
// way of those twenty reads about twenty rows.
func TestNoQueryReadsMoreThanIsDue(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := d.Pool.Exec(ctx, sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(`INSERT INTO pgautomate.pipelines (organization_id, name) SELECT 'org ' || g, 'p' FROM generate_series(0, 19) g`)
	exec(`INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT id, 's' FROM pgautomate.pipelines`)
	exec(`ALTER TABLE pgautomate.lead_stages DISABLE TRIGGER USER`)
	exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_id, pipeline_stage_id, status)
		SELECT p.organization_id, g::text, p.id, s.id, CASE WHEN g % 2 = 0 THEN 'active' ELSE 'completed' END
		  FROM generate_series(1, 50000) g JOIN pgautomate.pipelines p ON p.organization_id = 'org ' || g % 20
		  JOIN pgautomate.pipeline_stages s ON s.pipeline_id = p.id`)
	exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, lead_stage_id, sequence_number, action_type, params, status, perform_at, finished_at, started_at)
		SELECT l.organization_id, l.lead_id, l.id, n, CASE n WHEN 2 THEN 'wait' ELSE 'log' END, '{"message": "x"}',
		       CASE WHEN l.status = 'completed' THEN 'completed' WHEN n = 1 THEN 'completed' WHEN n = 2 AND l.id % 4 = 0 THEN 'delayed' ELSE 'pending' END::pgautomate.job_status,
		       CASE WHEN l.status = 'completed' OR n = 1 THEN now() - interval '1 day' WHEN n = 2 THEN now() + l.id * interval '1 second' + interval '1 hour' END,
		       CASE WHEN l.status = 'completed' OR n = 1 THEN now() - interval '1 day' END,
		       CASE WHEN l.status = 'completed' OR n = 1 THEN now() - interval '1 day' END
		  FROM pgautomate.lead_stages l CROSS JOIN generate_series(1, 4) n`)
	// Retries that are not due yet, in the very lanes of what is due.
	exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at)
		SELECT 'org ' || g % 20, g::text, 'log', now() + interval '1 hour' FROM generate_series(1, 20000) g`)
	exec(`ALTER TABLE pgautomate.lead_stages ENABLE TRIGGER USER`)
	exec(`INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per) VALUES ('*', '*', 1000, '1 hour'), ('org 3', 'log', 100, '1 hour')`)
	exec(`INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params)
		SELECT s.id, n, 'log', '{"message": "x"}' FROM pgautomate.pipeline_stages s CROSS JOIN generate_series(1, 3) n`)
	exec(`ANALYZE`)
	for _, table := range []string{"lead_stage_actions", "lead_stages", "lanes"} {
		exec(`VACUUM pgautomate.` + table)
	}

	config, err := pgxpool.ParseConfig(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	seen := &recorder{seen: map[string]pgx.TraceQueryStartData{}}
	config.ConnConfig.Tracer = seen
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	logger := slog.New(slog.DiscardHandler)
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: "pgautomate", Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	q := dbq.New(pool)
	worker, err := q.AddWorker(ctx, dbq.AddWorkerParams{Hostname: "here", Pid: 1, Capacity: json.RawMessage(`{"log": 50, "wait": 50, "unknown": 10}`)})
	if err != nil {
		t.Fatal(err)
	}
	l := NewLifecycle(LifecycleConfig{Pool: pool, Logger: logger, WorkerID: worker, Store: &Store{Rows: noVars{}}})
	defer l.Stop()
	s := &Scheduler{Pool: pool, River: client, Logger: logger, Lifecycle: l}
	s.Init()

	// The lanes settle: what is parked is where it belongs.
	capacity, err := s.capacity(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tick := func() {
		t.Helper()
		for {
			claimed, err := s.Round(ctx, capacity)
			if err != nil {
				t.Fatal(err)
			}
			if claimed.Actions == 0 {
				return
			}
		}
	}
	tick()
	tick()
	clear(seen.seen)

	const due = 20
	exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
		SELECT p.organization_id, 'new', s.id FROM pgautomate.pipeline_stages s JOIN pgautomate.pipelines p ON p.id = s.pipeline_id`)
	// Each statement is explained as it stands before it has done its work.
	if _, err := q.MergeSignals(ctx, 50_000); err != nil {
		t.Fatal(err)
	}
	rollBack := errors.New("rolled back")
	// One claim, recorded, then undone, so that its statements can be explained.
	fake := *s
	fake.Pool = pool
	for _, here := range []bool{false, true} {
		claimed := 0
		err = pgx.BeginTxFunc(ctx, pool, asEngine, func(tx pgx.Tx) error {
			q := dbq.New(tx)
			keys, err := fake.lockLanes(ctx, q, []string{"log", "wait"}, []int64{100, 100}, []string{"log", "wait"}, true)
			if err != nil {
				return err
			}
			c := &claiming{s: &fake, q: q, room: map[string]int{"log": 100, "wait": 100}, here: here}
			if c.lanes, err = fake.heads(ctx, q, keys); err != nil {
				return err
			}
			if err := c.take(ctx, keys); err != nil {
				return err
			}
			if claimed = c.claimed; len(c.started) > 0 != here || len(c.carriers) > 0 == here {
				t.Errorf("here %v: %d started, %d queued", here, len(c.started), len(c.carriers))
			}
			if err := c.setLanes(ctx, keys); err != nil {
				return err
			}
			return rollBack
		})
		if !errors.Is(err, rollBack) {
			t.Fatal(err)
		}
		if claimed != due {
			t.Fatalf("%d claimed, want %d", claimed, due)
		}
	}
	if _, err := q.InFlight(ctx); err != nil {
		t.Fatal(err)
	}
	for name, most := range map[string]float64{"LockLanes": 0, "LaneHeads": 2 * due, "ClaimDue": due + 2, "StartDue": due + 4, "LaneRests": 2 * due, "InFlight": 0} {
		if rows := explain(t, pool, seen, name); rows > most {
			t.Errorf("%s reads %.0f rows for %d due, want at most %.0f", name, rows, due, most)
		}
		if n := reads(t, pool, seen, name); name != "InFlight" && n > 5*due {
			t.Errorf("%s reads %d rows for %d due with a plan for anything, want at most %d", name, n, due, 5*due)
		}
	}

	// The way on: really claimed, started, finished, advanced.
	tick()
	queued := ids(t, d, `SELECT id FROM pgautomate.lead_stage_actions WHERE status = 'queued' ORDER BY id`)
	if len(queued) != due {
		t.Fatalf("%d queued, want %d", len(queued), due)
	}
	start := dbq.StartActionsParams{Ids: queued, WorkerID: worker}
	record(t, pool, func(q *dbq.Queries) error { _, err := q.StartActions(ctx, start); return err })
	if rows := explain(t, pool, seen, "StartActions"); rows > due {
		t.Errorf("StartActions reads %.0f rows for %d", rows, due)
	}
	if n := reads(t, pool, seen, "StartActions"); n > 5*due {
		t.Errorf("StartActions reads %d rows for %d with a plan for anything", n, due)
	}
	answers, err := l.startBatch(ctx, queued)
	if err != nil {
		t.Fatal(err)
	}
	var batch []finish
	var stages []int64
	for i, a := range answers {
		if a.started == nil {
			t.Fatalf("action %d did not start", queued[i])
		}
		o := jobs.Outcome{Status: jobs.StatusCompleted}
		if i%2 == 1 {
			o = jobs.Outcome{Status: jobs.StatusPending, PerformAt: time.Now(), Error: "again"}
		}
		batch = append(batch, finish{a.started, o})
		stages = append(stages, a.started.Action.LeadStageID)
	}
	record(t, pool, func(q *dbq.Queries) error { _, err := q.FinishActions(ctx, finishParams(batch)); return err })
	if rows := explain(t, pool, seen, "FinishActions"); rows > due {
		t.Errorf("FinishActions reads %.0f rows for %d", rows, due)
	}
	if n := reads(t, pool, seen, "FinishActions"); n > 5*due {
		t.Errorf("FinishActions reads %d rows for %d with a plan for anything", n, due)
	}
	for _, c := range []struct {
		name string
		most float64
		ask  func(*dbq.Queries) error
	}{
		{"StillQueued", due, func(q *dbq.Queries) error { _, err := q.StillQueued(ctx, queued); return err }},
		{"RescueRunning", due, func(q *dbq.Queries) error { _, err := q.RescueRunning(ctx, 30); return err }},
		{"LostForGood", due, func(q *dbq.Queries) error { _, err := q.LostForGood(ctx, 30); return err }},
		{"RequeueStale", due, func(q *dbq.Queries) error { _, err := q.RequeueStale(ctx, 30); return err }},
		{"RunningHere", due, func(q *dbq.Queries) error { _, err := q.RunningHere(ctx, worker); return err }},
	} {
		record(t, pool, c.ask)
		if rows := explain(t, pool, seen, c.name); rows > c.most {
			t.Errorf("%s reads %.0f rows for %d in flight, want at most %.0f", c.name, rows, due, c.most)
		}
	}
	if _, err := l.finishBatch(ctx, batch); err != nil {
		t.Fatal(err)
	}

	// What is inside of functions shows in the counters of a transaction.
	for _, c := range []struct {
		name, sql string
		most      int64
	}{
		{"advance_lead_stages", `SELECT pgautomate.advance_lead_stages($1)`, 5 * due},
		{"close_lead_stages", `SELECT pgautomate.close_lead_stages($1, 'exited', 'exit', 'stage_left')`, 5 * due},
	} {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			const counters = `SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE schemaname = 'pgautomate' AND relname = 'lead_stage_actions'`
			var before, read int64
			if err := tx.QueryRow(ctx, counters).Scan(&before); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, c.sql, stages); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, counters).Scan(&read); err != nil {
				return err
			}
			read -= before
			t.Logf("%-20s %6d rows read", c.name, read)
			if read > c.most || read == 0 {
				t.Errorf("%s reads %d actions for %d stages, want 1 to %d", c.name, read, due, c.most)
			}
			return rollBack
		})
		if !errors.Is(err, rollBack) {
			t.Fatal(err)
		}
	}
}

// record lets the recorder see a statement, and undoes it.
func record(t *testing.T, pool *pgxpool.Pool, ask func(*dbq.Queries) error) {
	t.Helper()
	undo := errors.New("undo")
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(t.Context()); err != nil {
			return err
		}
		if err := ask(q); err != nil {
			return err
		}
		return undo
	})
	if !errors.Is(err, undo) {
		t.Fatal(err)
	}
}

func ids(t *testing.T, d *dbtest.DB, sql string) []int64 {
	t.Helper()
	rows, err := d.Pool.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

package scheduler

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// capture takes a statement instead of running it.
type capture struct {
	sql  string
	args []any
}

var errCaptured = errors.New("captured")

func (c *capture) take(sql string, args []any) { c.sql, c.args = sql, args }

func (c *capture) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	c.take(sql, args)
	return pgconn.CommandTag{}, errCaptured
}

func (c *capture) Query(_ context.Context, sql string, args ...any) (pgx.Rows, error) {
	c.take(sql, args)
	return nil, errCaptured
}

func (c *capture) QueryRow(_ context.Context, sql string, args ...any) pgx.Row {
	c.take(sql, args)
	return c
}

func (c *capture) Scan(...any) error { return errCaptured }

func (c *capture) CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error) {
	return 0, errCaptured
}

// TestByIDs: what asks for actions by their ids goes by the primary key. While somebody holds a snapshot, the
// index of what is in flight keeps all that was, of which statistics know nothing.
func TestByIDs(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	for _, sql := range []string{
		`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, status, perform_at, started_at, finished_at)
		 SELECT 'org ' || g % 10, g::text, 'log', 'completed', now(), now(), now() FROM generate_series(1, 20000) g`,
		`SELECT pgautomate.ensure_finished_actions('2026-01-01')`,
		`VACUUM (ANALYZE) pgautomate.lead_stage_actions, pgautomate.notification_jobs`,
	} {
		if _, err := d.Pool.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	ids, fences := []int64{5, 6, 7}, []int64{1, 1, 1}
	for name, ask := range map[string]func(q *dbq.Queries) error{
		"HoldAction": func(q *dbq.Queries) error {
			_, err := q.HoldAction(ctx, dbq.HoldActionParams{ID: 5, Fence: 1})
			return err
		},
		"StillHeld": func(q *dbq.Queries) error {
			_, err := q.StillHeld(ctx, dbq.StillHeldParams{Ids: ids, Fences: fences})
			return err
		},
		"StillQueued":    func(q *dbq.Queries) error { _, err := q.StillQueued(ctx, ids); return err },
		"CancelUnwanted": func(q *dbq.Queries) error { return q.CancelUnwanted(ctx, ids) },
		"StartActions": func(q *dbq.Queries) error {
			_, err := q.StartActions(ctx, dbq.StartActionsParams{Ids: ids, WorkerID: 1})
			return err
		},
		"GiveBack": func(q *dbq.Queries) error {
			_, err := q.GiveBack(ctx, dbq.GiveBackParams{Ids: ids, Fences: fences, WorkerID: 1})
			return err
		},
		"FinishActions": func(q *dbq.Queries) error {
			_, err := q.FinishActions(ctx, dbq.FinishActionsParams{Ids: ids, Fences: fences})
			return err
		},
		"CompleteActions": func(q *dbq.Queries) error {
			_, err := q.CompleteActions(ctx, dbq.CompleteActionsParams{Ids: ids, Fences: fences})
			return err
		},
	} {
		var c capture
		if err := ask(dbq.New(&c)); !errors.Is(err, errCaptured) {
			t.Fatalf("%s: %v", name, err)
		}
		rows, err := d.Pool.Query(ctx, "EXPLAIN "+c.sql, c.args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		plan := strings.Join(lines, "\n")
		if !strings.Contains(plan, "lead_stage_actions_pkey") {
			t.Errorf("%s does not go by the primary key:\n%s", name, plan)
		}
		for _, no := range []string{"in_flight", "lead_stage_actions_2026_01", "Seq Scan on lead_stage_actions"} {
			if strings.Contains(plan, no) {
				t.Errorf("%s: the plan has %s:\n%s", name, no, plan)
			}
		}
	}
}

package acceptance

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate"
)

// as runs a statement as one of the two roles, and gives the error.
func (w *world) as(role, sql string, args ...any) error {
	w.t.Helper()
	return pgx.BeginFunc(w.t.Context(), w.db.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(w.t.Context(), "SET LOCAL ROLE "+role); err != nil {
			w.t.Fatal(err)
		}
		_, err := tx.Exec(w.t.Context(), sql, args...)
		return err
	})
}

// TestActionsBySQL: an app cancels, moves and retries a lead's actions by plain SQL,
// with an app's rights; who only reads can do none of it, nor what the engine does.
func TestActionsBySQL(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	var broken atomic.Bool
	broken.Store(true)
	stage := w.stage("a", "p", "s", act{"work", `{"max_attempts": 1}`}, act{"log", `{"message": "after"}`})
	later := w.stage("a", "q", "s", act{"wait", `{"for": "1 day"}`}, act{"log", `{"message": "after"}`})
	w.run(handle("work", func(context.Context, *pgautomate.Action) (pgautomate.Result, error) {
		if broken.Load() {
			return pgautomate.Result{}, context.DeadlineExceeded
		}
		return pgautomate.Result{}, nil
	}))
	failed, waits, other := w.enter("a", "1", stage), w.enter("a", "1", later), w.enter("a", "2", later)
	w.untilActions(failed, "failed canceled/failed")
	w.untilActions(waits, "delayed pending")
	w.untilActions(other, "delayed pending")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	for _, sql := range []string{
		`UPDATE pgautomate.lead_stage_actions SET perform_at = now() WHERE lead_id = '1' AND status = 'delayed'`,
		`SELECT pgautomate.retry_action(1)`, `SELECT pgautomate.drop_finished_actions(now() + interval '1 year')`, `SELECT pgautomate.archive_actions('0', 1000)`,
		`SELECT pgautomate.close_lead_stages('{1}', 'exited', 'exit', 'exit')`, `SELECT pgautomate.advance_lead_stages('{1}')`,
	} {
		if err := w.as("pgautomate_readonly", sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("who only reads did %s: %v", sql, err)
		}
	}
	must(w.as("pgautomate_app", `UPDATE pgautomate.lead_stage_actions SET perform_at = now() WHERE lead_id = '1' AND status = 'delayed'`))
	w.untilRun(waits, "completed")
	must(w.as("pgautomate_app", `UPDATE pgautomate.lead_stage_actions SET status = 'canceled' WHERE lead_id = '2' AND status IN ('pending', 'queued', 'delayed')`))
	w.untilActions(other, "canceled/canceled_by_app canceled/canceled_by_app")
	w.untilRun(other, "completed")

	retry := func(run int64, sequence int) error {
		return w.as("pgautomate_app", `SELECT pgautomate.retry_action($1)`, w.action(run, sequence))
	}
	for _, c := range []struct {
		run  int64
		nth  int
		want string
	}{{failed, 2, "retry the action that failed"}, {waits, 1, "the action is completed: only a failed or canceled one"}, {other, 1, "the lead's stage is completed and the lead went on"}} {
		if err := retry(c.run, c.nth); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a retry is answered %v, want %q", err, c.want)
		}
	}
	if err := w.as("pgautomate_app", `SELECT pgautomate.retry_action(987654321)`); err == nil || !strings.Contains(err.Error(), "there is no action 987654321") {
		t.Errorf("a retry of nothing: %v", err)
	}
	// Also what has gone to the finished ones' tables, and is mended by then.
	w.exec(`SET pgautomate.engine = 'on'; UPDATE pgautomate.lead_stage_actions SET finished_at = finished_at - interval '40 days' WHERE status IN ('failed', 'canceled');
		RESET pgautomate.engine; SELECT pgautomate.archive_actions('1 day', 1000)`)
	if n := one[int64](w, `SELECT count(*) FROM ONLY pgautomate.lead_stage_actions WHERE lead_stage_id = $1`, failed); n != 0 {
		t.Fatalf("%d actions were not archived", n)
	}
	broken.Store(false)
	must(retry(failed, 1))
	w.untilRun(failed, "completed")
	if got := w.actions(failed) + " " + w.actionIs(w.action(failed, 1), "attempt"); got != "completed completed 1" {
		t.Errorf("after the retry: %s", got)
	}
}

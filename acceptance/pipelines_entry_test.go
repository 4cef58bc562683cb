package acceptance

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestP01EntryWritesItsActions: one transaction, one due, the others wait.
func TestP01EntryWritesItsActions(t *testing.T) {
	t.Parallel()
	w := newWorkers(t) // no engine: the database alone does it
	stage := w.stage("a", "p", "s", logs("1", "2", "3", "4")...)
	var leadStage int64
	err := pgx.BeginFunc(t.Context(), w.db.Pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(t.Context(), `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
			VALUES ('a', '1', $1) RETURNING id`, stage).Scan(&leadStage)
		if err != nil {
			return err
		}
		var shape string
		err = tx.QueryRow(t.Context(), `SELECT string_agg(concat_ws(' ', sequence_number, status, CASE WHEN perform_at IS NULL THEN 'waits'
			WHEN perform_at <= clock_timestamp() THEN 'due' END, organization_id, lead_id, xmin = pg_current_xact_id()::xid), ', ' ORDER BY sequence_number)
			FROM pgautomate.lead_stage_actions WHERE lead_stage_id = $1`, leadStage).Scan(&shape)
		if err != nil {
			return err
		}
		if want := "1 pending due a 1 t, 2 pending waits a 1 t, 3 pending waits a 1 t, 4 pending waits a 1 t"; shape != want {
			t.Errorf("the actions are\n%s, want\n%s", shape, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions`); n != 4 {
		t.Errorf("%d actions, want 4", n)
	}
	// An entry that is rolled back leaves nothing.
	_ = pgx.BeginFunc(t.Context(), w.db.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', '2', $1)`, stage); err != nil {
			t.Error(err)
		}
		return pgx.ErrTxClosed
	})
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions`); n != 4 {
		t.Errorf("%d actions after a rollback, want 4", n)
	}
	// A stage without actions is done on entry.
	if got := w.runState(w.enter("a", "3", w.stage("a", "p", "empty"))); got != "completed" {
		t.Errorf("a lead in an empty stage is %q, want completed", got)
	}
}

func TestEntryRules(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	first, second := w.stage("a", "p", "first", logs("1", "2")...), w.stage("a", "p", "second", logs("3")...)

	run := w.enter("a", "1", first)
	again := w.enter("a", "1", first)
	if got := w.runState(again); got != "exited/already_enrolled" {
		t.Errorf("entering the stage it is in: %q, want exited/already_enrolled", got)
	}
	if got := w.actions(again); got != "" {
		t.Errorf("a refused entry has actions: %s", got)
	}
	if got := w.runState(run); got != "active" {
		t.Errorf("the run before the refused entry is %q, want active", got)
	}

	moved := w.enter("a", "1", second)
	if got := w.runState(run) + " " + w.runState(moved); got != "exited/moved_by_app active" {
		t.Errorf("entering another stage of the pipeline: %q, want exited/moved_by_app active", got)
	}
	if got := w.actions(run); got != "canceled/stage_left canceled/stage_left" {
		t.Errorf("the actions of the stage that was left: %q", got)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'canceled' AND finished_at IS NULL`); n != 0 {
		t.Errorf("%d canceled actions have no finished_at", n)
	}

	// Twice in one statement, and both stages in one.
	states := list[string](w, `WITH e AS (INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
		VALUES ('a', '2', $1), ('a', '2', $1) RETURNING id) SELECT count(*)::text FROM e`, first)
	if states[0] != "2" {
		t.Errorf("%s rows, want 2", states[0])
	}
	w.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', '3', $1), ('a', '3', $2)`, first, second)
	got := strings.Join(list[string](w, `SELECT concat_ws('/', lead_id, status, reason, (SELECT count(*) FROM pgautomate.lead_stage_actions a
		WHERE a.lead_stage_id = s.id AND a.status = 'pending')) FROM pgautomate.lead_stages s WHERE lead_id IN ('2', '3') ORDER BY id`), " ")
	if want := "2/active/2 2/exited/already_enrolled/0 3/exited/moved_by_app/0 3/active/1"; got != want {
		t.Errorf("entries in one statement:\n%s, want\n%s", got, want)
	}

	// The same lead in another pipeline and another organization is another run.
	other := w.stage("a", "q", "first", logs("1")...)
	if got := w.runState(w.enter("a", "1", other)); got != "active" {
		t.Errorf("another pipeline: %q, want active", got)
	}
	foreign := w.stage("b", "p", "first", logs("1")...)
	if got := w.runState(w.enter("b", "1", foreign)); got != "active" {
		t.Errorf("another organization: %q, want active", got)
	}

	// What can't be is refused clearly.
	for sql, want := range map[string]string{
		fmt.Sprintf(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', '9', %d)`, foreign): `belongs to organization "b", not to "a"`,
		`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', '9', 987654)`:                   `there is no stage 987654`,
		`INSERT INTO pgautomate.lead_stages (organization_id, pipeline_stage_id) VALUES ('a', 1)`:                                      `needs organization_id, lead_id and pipeline_stage_id`,
	} {
		if got := w.fails(sql); !strings.Contains(got, want) {
			t.Errorf("%s\nis refused with %q, want %q in it", sql, got, want)
		}
	}
}

func TestReenrolment(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	for _, c := range []struct{ policy, active, ended, later string }{
		{"never", "exited/already_enrolled", "exited/already_enrolled", "exited/already_enrolled"},
		{"after_exit", "exited/already_enrolled", "active", "active"},
		{"always", "exited/already_enrolled", "active", "active"},
		{"30 days", "exited/already_enrolled", "exited/already_enrolled", "active"},
	} {
		pipeline := "p " + c.policy
		stage := w.stage("a", pipeline, "s", logs("1")...)
		w.exec(`UPDATE pgautomate.pipelines SET reenrolment = $1 WHERE name = $2`, c.policy, pipeline)
		run := w.enter("a", "1", stage)
		if got := w.runState(w.enter("a", "1", stage)); got != c.active {
			t.Errorf("%s, while active: %q, want %q", c.policy, got, c.active)
		}
		end := func() {
			w.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'canceled' WHERE lead_stage_id IN (SELECT id FROM pgautomate.lead_stages WHERE status = 'active') AND status = 'pending'`)
		}
		end()
		if got := w.runState(run); got != "completed" {
			t.Fatalf("%s: the run is %q, want completed", c.policy, got)
		}
		if got := w.runState(w.enter("a", "1", stage)); got != c.ended {
			t.Errorf("%s, after its end: %q, want %q", c.policy, got, c.ended)
		}
		end()
		w.exec(`UPDATE pgautomate.lead_runs SET last_entered_at = last_entered_at - interval '31 days'`)
		if got := w.runState(w.enter("a", "1", stage)); got != c.later {
			t.Errorf("%s, 31 days later: %q, want %q", c.policy, got, c.later)
		}
		end()
	}
	if got := w.fails(`UPDATE pgautomate.pipelines SET reenrolment = 'sometimes'`); !strings.Contains(got, "interval") {
		t.Errorf("a policy that is none is refused with %q", got)
	}
}

// TestConcurrentEntry: one lead from many connections is never an app's error,
// and never two runs.
func TestConcurrentEntry(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	first, second := w.stage("a", "p", "first", logs("1", "2")...), w.stage("a", "p", "second", logs("3")...)
	const connections, rounds = 8, 25
	for round := range rounds {
		var wg sync.WaitGroup
		gate := make(chan struct{})
		for c := range connections {
			wg.Go(func() {
				conn, err := w.db.Pool.Acquire(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Release()
				<-gate
				stage := first
				if round%2 == 1 && c%2 == 1 {
					stage = second
				}
				_, err = conn.Exec(t.Context(), `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', $1, $2)`,
					fmt.Sprint(round), stage)
				if err != nil {
					t.Errorf("an entry failed: %v", err)
				}
			})
		}
		close(gate)
		wg.Wait()
	}
	got := one[string](w, `SELECT format('%s %s %s %s', count(*), count(*) FILTER (WHERE status = 'active'),
		count(*) FILTER (WHERE reason = 'already_enrolled'), count(*) FILTER (WHERE reason = 'moved_by_app')) FROM pgautomate.lead_stages WHERE lead_id::integer % 2 = 0`)
	if want := fmt.Sprintf("%d %d %d 0", 13*connections, 13, 13*(connections-1)); got != want {
		t.Errorf("entries, active, already enrolled, moved: %s, want %s", got, want)
	}
	for _, lead := range list[string](w, `SELECT lead_id FROM pgautomate.lead_stages GROUP BY lead_id
		HAVING count(*) FILTER (WHERE status = 'active') <> 1 OR count(*) <> $1`, connections) {
		t.Errorf("lead %s has not exactly one active run", lead)
	}
	for _, lead := range list[string](w, `SELECT s.lead_id FROM pgautomate.lead_stages s JOIN pgautomate.lead_stage_actions a ON a.lead_stage_id = s.id
		WHERE (s.status = 'active') <> (a.status = 'pending')`) {
		t.Errorf("lead %s has actions that don't fit its run", lead)
	}
}

// TestSixteenThousandEntries: one INSERT, no throttle.
func TestSixteenThousandEntries(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	const leads = 16_000
	stage := w.stage("a", "p", "s", logs("hello")...)
	w.run()
	began := time.Now()
	w.enterMany("a", stage, leads)
	inserted := time.Since(began)
	deadline := time.Now().Add(120 * time.Second)
	for one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) < leads {
		if time.Now().After(deadline) {
			t.Fatalf("not all are done: %v", list[string](w, `SELECT concat_ws(' ', status, count(*)) FROM pgautomate.lead_stage_actions GROUP BY status`))
		}
		time.Sleep(50 * time.Millisecond)
	}
	took := time.Since(began)
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'completed' AND attempt = 1 AND result ->> 'message' = 'hello'`); n != leads {
		t.Errorf("%d actions completed at the first attempt, want %d", n, leads)
	}
	t.Logf("%d leads entered in %s, all completed after %s (%.0f/s); lateness %s", leads, inserted.Round(time.Millisecond), took.Round(time.Millisecond),
		float64(leads)/took.Seconds(), one[string](w, `SELECT format('p50 %s s, p99 %s s, max %s s', round(p50_seconds::numeric, 2), round(p99_seconds::numeric, 2), round(max_seconds::numeric, 2))
		FROM pgautomate.action_lateness`))
	if late := one[float64](w, `SELECT max_seconds FROM pgautomate.action_lateness`); late > 120 {
		t.Errorf("the last action was %.0f s late, want at most 120 s", late)
	}
}

package acceptance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate"
)

// watcher notes who runs when.
type watcher struct {
	mu      sync.Mutex
	now     map[int64]int // by lead stage
	overlap int
	calls   map[int64]int // by action
}

func newWatcher() *watcher { return &watcher{now: map[int64]int{}, calls: map[int64]int{}} }

func (o *watcher) enter(a *pgautomate.Action) (leave func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls[a.ID]++
	if o.now[a.LeadStageID]++; o.now[a.LeadStageID] > 1 {
		o.overlap++
	}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.now[a.LeadStageID]--
	}
}

// TestP02SerialPerStage: action 2 never starts before 1 is done, with 16 workers
// a type and many leads at once.
func TestP02SerialPerStage(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.WorkersPerType = 16
	stage := w.stage("a", "p", "s", act{"slow", ""}, act{"quick", ""}, act{"slow", ""}, act{"quick", ""})
	seen := newWatcher()
	w.run(
		handle("slow", func(ctx context.Context, a *pgautomate.Action) (pgautomate.Result, error) {
			defer seen.enter(a)()
			select {
			case <-time.After(150 * time.Millisecond):
			case <-ctx.Done():
			}
			return pgautomate.Result{}, ctx.Err()
		}),
		handle("quick", func(_ context.Context, a *pgautomate.Action) (pgautomate.Result, error) {
			defer seen.enter(a)()
			return pgautomate.Result{}, nil
		}))
	const leads = 40
	w.enterMany("a", stage, leads)
	w.until("all runs have ended", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == leads
	})
	if seen.overlap > 0 {
		t.Errorf("%d actions ran while another of their stage ran", seen.overlap)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions n JOIN pgautomate.lead_stage_actions p
		ON p.lead_stage_id = n.lead_stage_id AND p.sequence_number < n.sequence_number
		WHERE n.started_at < p.finished_at OR n.perform_at < p.finished_at`); n > 0 {
		t.Errorf("%d actions started, or were due, before one before them had ended", n)
	}
	for id, n := range seen.calls {
		if n != 1 {
			t.Errorf("action %d ran %d times", id, n)
		}
	}
	if len(seen.calls) != 4*leads {
		t.Errorf("%d actions ran, want %d", len(seen.calls), 4*leads)
	}
}

// TestP03HangingSend: what hangs for one lead keeps nobody else waiting.
func TestP03HangingSend(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.DrainTimeout = time.Second
	stage := w.stage("a", "p", "s", act{"send", ""})
	hangs := make(chan struct{})
	w.run(handle("send", func(ctx context.Context, a *pgautomate.Action) (pgautomate.Result, error) {
		if a.LeadID == "hangs" {
			close(hangs)
			<-ctx.Done()
			return pgautomate.Result{}, ctx.Err()
		}
		return pgautomate.Result{}, nil
	}))
	hanging := w.enter("a", "hangs", stage)
	<-hangs
	for range 5 {
		w.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
			SELECT 'a', gen_random_uuid()::text, $1 FROM generate_series(1, 100)`, stage)
		time.Sleep(50 * time.Millisecond)
	}
	w.until("the others are done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'completed'`) == 500
	})
	if late := one[float64](w, `SELECT max_seconds FROM pgautomate.action_lateness`); late > 2 {
		t.Errorf("another lead's action started %.2f s late, want at most 2 s", late)
	}
	if got := w.actions(hanging); got != "running" {
		t.Errorf("the hanging action is %q, want running", got)
	}
	// Told to stop, it is given back for another worker without using an attempt.
	w.halt()
	if got := one[string](w, `SELECT concat_ws(' ', status, attempt) FROM pgautomate.lead_stage_actions WHERE lead_stage_id = $1`, hanging); got != "pending 0" {
		t.Errorf("after the engine's end the hanging action is %q (status, attempts), want pending 0", got)
	}
}

// TestP04Wait: a wait is a row with a time, which outlives the engine.
func TestP04Wait(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	short := w.stage("a", "p", "short", act{"log", `{"message": "before"}`}, act{"wait", `{"for": "3 seconds"}`}, act{"log", `{"message": "after"}`})
	long := w.stage("a", "q", "long", act{"log", `{"message": "before"}`}, act{"wait", `{"for": "2 days"}`}, act{"log", `{"message": "after"}`})
	w.run()
	a, b := w.enter("a", "1", short), w.enter("a", "1", long)
	w.untilActions(a, "completed delayed pending")
	w.untilActions(b, "completed delayed pending")
	const off = `SELECT extract(epoch FROM w.perform_at - p.finished_at - $2::interval)::float8 FROM pgautomate.lead_stage_actions w
		JOIN pgautomate.lead_stage_actions p ON p.lead_stage_id = w.lead_stage_id AND p.sequence_number = 1
		WHERE w.lead_stage_id = $1 AND w.sequence_number = 2`
	for stage, length := range map[int64]string{a: "3 seconds", b: "2 days"} {
		if d := one[float64](w, off, stage, length); d < 0 || d > 0.1 {
			t.Errorf("the wait of %s ends %.3f s beside the end of the action before it plus its length", length, d)
		}
	}
	until := w.actionIs(w.action(a, 2), "perform_at")
	w.halt()
	w.run()
	w.untilActions(a, "completed completed completed")
	if got := w.actionIs(w.action(a, 2), "perform_at"); got != until {
		t.Errorf("a restart moved the wait's end from %s to %s", until, got)
	}
	late := one[float64](w, `SELECT extract(epoch FROM started_at - $1::timestamptz)::float8 FROM pgautomate.lead_stage_actions WHERE id = $2`, until, w.action(a, 3))
	if late < 0 || late > 1 {
		t.Errorf("the action after the wait started %.3f s after its end, want 0 to 1", late)
	}
	if got := w.runState(a); got != "completed" {
		t.Errorf("the run is %q, want completed", got)
	}
	if got := w.actions(b); got != "completed delayed pending" {
		t.Errorf("the long wait is %q", got)
	}

	// An app may end it early, and the next one runs then.
	w.exec(`UPDATE pgautomate.lead_stage_actions SET perform_at = now() WHERE id = $1`, w.action(b, 2))
	w.untilActions(b, "completed completed completed")
}

// TestParkedRowsAreNotRead: while all is parked, the scheduler touches no action.
func TestParkedRowsAreNotRead(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	stage := w.stage("a", "p", "s", act{"wait", `{"for": "2 days"}`})
	w.run()
	w.enterMany("a", stage, 500)
	w.until("all are parked", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'delayed'`) == 500
	})
	w.exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at) SELECT 'a', g::text, 'log', now() + interval '1 day' FROM generate_series(1, 500) g`)
	w.until("the lanes sleep", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lanes WHERE next_at < now() + interval '1 hour'`) == 0 &&
			one[int64](w, `SELECT count(*) FROM pgautomate.due_signals`) == 0
	})
	read := func() int64 {
		return one[int64](w, `SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE schemaname = 'pgautomate' AND relname = 'lead_stage_actions'`)
	}
	// Backends tell what they read some seconds late; a scheduler that polls would
	// show in every interval.
	before := read()
	for range 6 {
		time.Sleep(2 * time.Second)
		now := read()
		if now == before {
			return
		}
		t.Logf("%d actions were read in 2 s in which nothing was due", now-before)
		before = now
	}
	t.Error("actions are read though nothing is due")
}

// TestP13Move: one transaction closes one stage and opens the other.
func TestP13Move(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	target := w.stage("a", "p", "target", logs("there")...)
	stage := w.stage("a", "p", "start", act{"log", `{"message": "1"}`}, act{"move", `{"stage": "target"}`}, act{"log", `{"message": "never"}`})
	elsewhere := w.stage("a", "p", "elsewhere", act{"move", `{"stage": "only", "pipeline": "q"}`}, act{"log", `{"message": "never"}`})
	only := w.stage("a", "q", "only", logs("there")...)
	wrong := w.stage("a", "p", "wrong", act{"move", `{"stage": "nowhere"}`}, act{"log", `{"message": "never"}`})
	leaving := w.stage("a", "p", "leaving", act{"exit", `{"reason": "enough"}`}, act{"log", `{"message": "never"}`})
	w.run()
	run, over := w.enter("a", "1", stage), w.enter("a", "2", elsewhere)
	lost, exit := w.enter("a", "3", wrong), w.enter("a", "4", leaving)

	w.untilActions(run, "completed completed canceled/stage_left")
	if got := w.runState(run); got != "completed/moved" {
		t.Errorf("the stage that was left is %q, want completed/moved", got)
	}
	next := one[int64](w, `SELECT id FROM pgautomate.lead_stages WHERE lead_id = '1' AND pipeline_stage_id = $1`, target)
	w.untilRun(next, "completed")
	if !one[bool](w, `SELECT count(DISTINCT xmin::text) = 1 FROM (
		SELECT xmin FROM pgautomate.lead_stage_actions WHERE id IN ($1, $2)
		UNION ALL SELECT xmin FROM pgautomate.lead_stages WHERE id = $3) x`, w.action(run, 2), w.action(run, 3), run) {
		t.Error("the move, the leftover action and the stage that was left were not written in one transaction")
	}
	if d := one[float64](w, `SELECT extract(epoch FROM n.entered_at - o.finished_at)::float8 FROM pgautomate.lead_stages n, pgautomate.lead_stages o
		WHERE n.id = $1 AND o.id = $2`, next, run); d < -0.1 || d > 0.1 {
		t.Errorf("left and entered %.3f s apart", d)
	}

	w.untilRun(over, "completed/moved")
	w.untilActions(over, "completed canceled/stage_left")
	w.untilRun(one[int64](w, `SELECT id FROM pgautomate.lead_stages WHERE lead_id = '2' AND pipeline_stage_id = $1`, only), "completed")

	w.untilRun(lost, "failed/failed")
	w.untilActions(lost, "failed canceled/failed")
	if got := w.actionIs(w.action(lost, 1), "error"); !strings.Contains(got, `no stage "nowhere"`) {
		t.Errorf("a move to nowhere fails with %q", got)
	}
	w.untilRun(exit, "exited/exit")
	w.untilActions(exit, "completed canceled/stage_left")

	// The unique index is what holds it, whoever writes.
	w.exec(`ALTER TABLE pgautomate.lead_stages DISABLE TRIGGER USER`)
	insert := fmt.Sprintf(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_id, pipeline_stage_id)
		SELECT 'a', '9', pipeline_id, id FROM pgautomate.pipeline_stages WHERE id = %d`, target)
	w.exec(insert)
	if got := w.fails(insert); !strings.Contains(got, "lead_stages_one_active_idx") {
		t.Errorf("a second active run is refused with %q", got)
	}
}

// TestMovesInFlight: leads move while apps move them too; never two active runs,
// never an action that runs for a stage that was left.
func TestMovesInFlight(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	second := w.stage("a", "p", "second", act{"log", `{"message": "x"}`}, act{"wait", `{"for": "1 hour"}`})
	first := w.stage("a", "p", "first", act{"log", `{"message": "x"}`}, act{"move", `{"stage": "second"}`}, act{"log", `{"message": "never"}`})
	third := w.stage("a", "p", "third", act{"log", `{"message": "x"}`}, act{"wait", `{"for": "1 hour"}`})
	w.run()
	const leads = 300
	w.enterMany("a", first, leads)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range leads {
				_, err := w.db.Pool.Exec(t.Context(), `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', $1, $2)`, fmt.Sprint(i+1), third)
				if err != nil {
					t.Errorf("an app's entry failed: %v", err)
				}
			}
		})
	}
	wg.Wait()
	w.until("all leads wait in a stage", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'delayed'`) == leads &&
			one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status IN ('queued', 'running') OR status = 'pending'`) == 0
	})
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'active'`); n != leads {
		t.Errorf("%d active runs, want %d", n, leads)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions a JOIN pgautomate.lead_stages s ON s.id = a.lead_stage_id
		WHERE s.status <> 'active' AND a.status = 'delayed'`); n != 0 {
		t.Errorf("%d waits go on in a stage that was left", n)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE result ->> 'message' = 'never'`); n != 0 {
		t.Errorf("%d actions ran after their stage was left", n)
	}
	// A move that was under way never undoes the app's.
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE pipeline_stage_id = $1 AND reason = 'moved'`, third); n != 0 {
		t.Errorf("%d leads were taken out of where the app had put them", n)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE pipeline_stage_id = $1`, second); n == 0 {
		t.Error("no lead was moved by the engine: the test shows nothing")
	}
}

// TestAppsCancelAndMove: what contract lets apps do to actions by plain SQL.
func TestAppsCancelAndMove(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	parked := w.stage("a", "p", "parked", act{"wait", `{"for": "1 hour"}`}, act{"log", `{"message": "next"}`})
	held := w.stage("a", "p", "held", act{"hold", ""}, act{"log", `{"message": "next"}`})
	going, letGo := make(chan struct{}), make(chan struct{})
	w.run(handle("hold", func(ctx context.Context, _ *pgautomate.Action) (pgautomate.Result, error) {
		close(going)
		select {
		case <-letGo:
		case <-ctx.Done():
		}
		return pgautomate.Result{}, ctx.Err()
	}))

	// A parked one is canceled, the next one runs.
	run := w.enter("a", "1", parked)
	w.untilActions(run, "delayed pending")
	w.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'canceled' WHERE id = $1`, w.action(run, 1))
	w.untilActions(run, "canceled/canceled_by_app completed")
	w.untilRun(run, "completed")

	// One that waits for its turn is canceled: the one before it goes on, and leads to its end.
	run = w.enter("a", "2", parked)
	w.untilActions(run, "delayed pending")
	w.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'canceled', reason = 'mine' WHERE id = $1`, w.action(run, 2))
	if got := w.actions(run); got != "delayed canceled/mine" {
		t.Errorf("the actions are %q", got)
	}
	w.exec(`UPDATE pgautomate.lead_stage_actions SET perform_at = now() WHERE id = $1`, w.action(run, 1))
	w.untilRun(run, "completed")

	// One that runs, or has run, can't be canceled; the error says how to ask.
	run = w.enter("a", "3", held)
	<-going
	for range 2 {
		if got := w.fails(`UPDATE pgautomate.lead_stage_actions SET status = 'canceled' WHERE id = $1`, w.action(run, 1)); !strings.Contains(got, "only a pending, queued or delayed action can be canceled") {
			t.Errorf("canceling is refused with %q", got)
		}
		select {
		case <-letGo:
		default:
			close(letGo)
		}
		w.untilRun(run, "completed")
	}

	// perform_at earlier and later.
	later := one[int64](w, `INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, params, perform_at)
		VALUES ('a', '4', 'log', '{"message": "moved later"}', now() + interval '500 milliseconds') RETURNING id`)
	w.exec(`UPDATE pgautomate.lead_stage_actions SET perform_at = perform_at + interval '1 second' WHERE id = $1`, later)
	earlier := one[int64](w, `INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, params, perform_at)
		VALUES ('a', '4', 'log', '{"message": "moved earlier"}', now() + interval '1 day') RETURNING id`)
	time.Sleep(200 * time.Millisecond) // both are parked in the lane
	w.exec(`UPDATE pgautomate.lead_stage_actions SET perform_at = now() WHERE id = $1`, earlier)
	for _, id := range []int64{earlier, later} {
		w.until("the action is done", func() bool { return w.actionIs(id, "status") == "completed" })
		if late := one[float64](w, `SELECT extract(epoch FROM started_at - perform_at)::float8 FROM pgautomate.lead_stage_actions WHERE id = $1`, id); late < 0 || late > 1 {
			t.Errorf("%s: started %.3f s after its time, want 0 to 1", w.actionIs(id, "params ->> 'message'"), late)
		}
	}

	// An action whose turn has not come can't be made due: a stage is serial.
	run = w.enter("a", "5", parked)
	w.untilActions(run, "delayed pending")
	if got := w.fails(`UPDATE pgautomate.lead_stage_actions SET perform_at = now() WHERE id = $1`, w.action(run, 2)); !strings.Contains(got, "turn") {
		t.Errorf("jumping the queue is refused with %q", got)
	}
	if got := w.fails(`UPDATE pgautomate.lead_stage_actions SET perform_at = NULL WHERE id = $1`, w.action(run, 1)); !strings.Contains(got, "perform_at") {
		t.Errorf("taking the time away is refused with %q", got)
	}
	w.exec(`UPDATE pgautomate.lead_stage_actions SET perform_at = perform_at - interval '1 day' WHERE lead_stage_id = $1`, run)
	w.untilRun(run, "completed")
}

// TestAppsLocksHoldNobodyUp: an app that leaves a transaction open over a lead
// delays that lead alone.
func TestAppsLocksHoldNobodyUp(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.DeadAfter = 2 * time.Second
	bad := w.stage("a", "p", "bad", act{"ask", `{"max_attempts": 1}`}, act{"log", `{"message": "x"}`})
	good := w.stage("a", "p", "good", act{"ask", ""}, act{"log", `{"message": "x"}`})
	other := w.stage("a", "p", "other", logs("x")...)
	going, letGo := make(chan string, 10), make(chan struct{})
	w.run(handle("ask", func(ctx context.Context, a *pgautomate.Action) (pgautomate.Result, error) {
		if a.LeadID == "fails" || a.LeadID == "works" {
			going <- a.LeadID
			select {
			case <-letGo:
			case <-ctx.Done():
				return pgautomate.Result{}, ctx.Err()
			}
		}
		if a.LeadID == "fails" {
			return pgautomate.Result{}, pgautomate.Permanent(fmt.Errorf("no"))
		}
		return pgautomate.Result{}, nil
	}))
	fails, works := w.enter("a", "fails", bad), w.enter("a", "works", good)
	<-going
	<-going
	tx, err := w.db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	// The app moves both leads, and thinks about it.
	for _, lead := range []string{"fails", "works"} {
		if _, err := tx.Exec(t.Context(), `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', $1, $2)`, lead, other); err != nil {
			t.Fatal(err)
		}
	}
	close(letGo)
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	w.enterMany("a", good, 20)
	w.until("the other leads are done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == 20
	})
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the other leads took %s", took)
	}
	if err := tx.Rollback(t.Context()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		t.Fatal(err)
	}
	w.untilRun(fails, "failed/failed")
	w.untilRun(works, "completed")
}

package acceptance

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate"
)

// TestDeadWorker: what a worker that is gone was running runs again, within
// DeadAfter; what has no attempt left fails, and goes where on_error says.
func TestDeadWorker(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.DeadAfter = 2 * time.Second
	stage := w.stage("a", "p", "s", act{"log", `{"message": "x", "max_attempts": 2}`}, act{"log", `{"message": "next"}`})
	moves := w.stage("a", "q", "s", act{"log", `{"message": "x", "max_attempts": 1, "on_error": {"stage": "rescue"}}`}, act{"log", `{"message": "never"}`})
	nowhere := w.stage("a", "r", "s", act{"log", `{"message": "x", "max_attempts": 1, "on_error": {"stage": "none"}}`})
	skips := w.stage("a", "t", "s", act{"log", `{"message": "x", "max_attempts": 1, "on_error": "skip"}`}, act{"log", `{"message": "next"}`})
	waits := w.stage("a", "u", "s", act{"wait", `{"for": "1 hour", "max_attempts": 1}`})
	rescue := w.stage("a", "q", "rescue", logs("rescued")...)
	again, spent := w.enter("a", "again", stage), w.enter("a", "spent", stage)
	moved, lost, skipped := w.enter("a", "moved", moves), w.enter("a", "lost", nowhere), w.enter("a", "skipped", skips)
	timer := w.enter("a", "timer", waits)
	silent := one[int64](w, `INSERT INTO pgautomate.workers (hostname, pid, heartbeat_at) VALUES ('silent', 1, now()) RETURNING id`)
	alive := one[int64](w, `INSERT INTO pgautomate.workers (hostname, pid, heartbeat_at) VALUES ('alive', 2, now() + interval '1 hour') RETURNING id`)
	hold := func(leadStage, worker int64, attempt int) {
		w.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'running', worker_id = $2, attempt = $3, fence = 7, started_at = now()
			WHERE lead_stage_id = $1 AND sequence_number = 1`, leadStage, worker, attempt)
	}
	hold(again, silent, 1)
	hold(spent, silent, 2)
	for _, run := range []int64{moved, lost, skipped} {
		hold(run, 987_654, 1) // a worker that isn't even registered
	}
	hold(timer, silent, 1)
	w.exec(`UPDATE pgautomate.lead_stage_actions SET timer = true WHERE lead_stage_id = $1`, timer)
	keeps := w.enter("a", "keeps", stage)
	hold(keeps, alive, 1)
	began := time.Now()
	w.run()
	w.untilRun(again, "completed")
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the action ran again after %s, want at most 4 s", took)
	}
	if got := w.actionIs(w.action(again, 1), "attempt"); got != "2" {
		t.Errorf("%s attempts, want 2", got)
	}
	for _, c := range []struct {
		name         string
		run          int64
		state, wants string
	}{
		{"spent", spent, "failed/failed", "failed canceled/failed"},
		{"moved", moved, "completed/moved", "failed canceled/stage_left"},
		{"lost", lost, "failed/failed", "failed"},
		{"skipped", skipped, "completed", "failed completed"},
		{"timer", timer, "completed", "completed"},
		{"keeps", keeps, "active", "running pending"},
	} {
		w.untilRun(c.run, c.state)
		w.untilActions(c.run, c.wants)
	}
	w.untilRun(one[int64](w, `SELECT id FROM pgautomate.lead_stages WHERE pipeline_stage_id = $1`, rescue), "completed")
	if got := w.actionIs(w.action(spent, 1), "error"); !strings.Contains(got, "ended without a word") {
		t.Errorf("the error says %q", got)
	}
}

// TestFence: a worker that was given up for dead, and isn't, can't write over
// what a later one did.
func TestFence(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.DeadAfter = 2 * time.Second
	stage := w.stage("a", "p", "s", act{"hold", ""}, act{"log", `{"message": "next"}`})
	going, letGo := make(chan struct{}, 2), make(chan struct{})
	var mu sync.Mutex
	calls := 0
	w.run(handle("hold", func(ctx context.Context, _ *pgautomate.Action) (pgautomate.Result, error) {
		mu.Lock()
		calls++
		first := calls == 1
		mu.Unlock()
		going <- struct{}{}
		if !first {
			return pgautomate.Result{Output: "second"}, nil
		}
		select {
		case <-letGo:
		case <-ctx.Done():
		}
		return pgautomate.Result{Output: "first"}, ctx.Err()
	}))
	run := w.enter("a", "1", stage)
	<-going
	// To all others this process is dead.
	w.exec(`UPDATE pgautomate.lead_stage_actions SET worker_id = 987654 WHERE lead_stage_id = $1 AND status = 'running'`, run)
	w.untilRun(run, "completed")
	close(letGo)
	w.until("the late outcome was dropped", func() bool { return strings.Contains(w.log.String(), "this outcome is dropped") })
	if got := w.actionIs(w.action(run, 1), "concat_ws(' ', status, attempt, result #>> '{}')"); got != "completed 2 second" {
		t.Errorf("status, attempt, result: %q, want completed 2 second", got)
	}
	if got := w.actions(run); got != "completed completed" {
		t.Errorf("the actions are %q", got)
	}
}

// TestLostStart: an action that the database counts as this process's, though the
// process never heard of it (a commit's answer was lost), runs again too.
func TestLostStart(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.DeadAfter = 2 * time.Second
	stage := w.stage("a", "p", "s", logs("x")...)
	run := w.enter("a", "1", stage)
	w.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'queued', queued_at = now() + interval '1 hour'`)
	w.run()
	w.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'running', fence = 1, attempt = 1, started_at = now(), worker_id = (SELECT max(id) FROM pgautomate.workers)`)
	w.untilRun(run, "completed")
}

// TestLostCarrier: a queued action whose carrier got lost gets another.
func TestLostCarrier(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.DeadAfter = 2 * time.Second
	stage := w.stage("a", "p", "s", logs("x")...)
	run := w.enter("a", "1", stage)
	w.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'queued', queued_at = now()`)
	w.run()
	w.untilRun(run, "completed")
}

// TestTwoEngines: they share the work, and each action runs once; one ends in the
// middle of it.
func TestTwoEngines(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.WorkersPerType = 20
	stage := w.stage("a", "p", "s", act{"count", ""}, act{"count", ""}, act{"count", ""})
	var mu sync.Mutex
	calls, by := map[int64]int{}, map[int]int{}
	count := func(engine int) func(*pgautomate.Engine) {
		return handle("count", func(ctx context.Context, a *pgautomate.Action) (pgautomate.Result, error) {
			mu.Lock()
			calls[a.ID]++
			by[engine]++
			mu.Unlock()
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
			return pgautomate.Result{}, ctx.Err()
		})
	}
	w.run(count(1))
	stop := w.another(count(2))
	const leads = 600
	w.enterMany("a", stage, leads)
	w.until("a third is done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'completed'`) >= leads
	})
	stop()
	mu.Lock()
	second := by[2]
	mu.Unlock()
	w.until("all is done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == leads
	})
	mu.Lock()
	defer mu.Unlock()
	if len(calls) != 3*leads {
		t.Errorf("%d actions ran, want %d", len(calls), 3*leads)
	}
	for id, n := range calls {
		if n != 1 {
			t.Errorf("action %d ran %d times", id, n)
		}
	}
	if by[2] != second {
		t.Error("the engine that was stopped ran on")
	}
	if by[1] < leads/4 || by[2] < leads/8 {
		t.Errorf("the engines shared the work %d : %d", by[1], by[2])
	}
	t.Logf("shared %d : %d", by[1], by[2])
}

// TestWorkersApart: scheduler and workers may be processes of their own, and
// workers may take some types only.
func TestWorkersApart(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	stage := w.stage("a", "p", "s", act{"log", `{"message": "x"}`}, act{"wait", `{"for": "100 milliseconds"}`}, act{"log", `{"message": "y"}`})
	w.config.Parts = []pgautomate.Part{pgautomate.SchedulerPart}
	w.run()
	run := w.enter("a", "1", stage)
	time.Sleep(300 * time.Millisecond)
	if got := w.actions(run); got != "pending pending pending" {
		t.Errorf("without any worker the actions are %q", got)
	}
	w.config.Parts, w.config.Queues = []pgautomate.Part{pgautomate.WorkersPart}, []string{"log"}
	w.another()
	w.untilActions(run, "completed pending pending")
	time.Sleep(200 * time.Millisecond)
	w.config.Queues = []string{"wait"}
	w.another()
	w.untilRun(run, "completed")
	w.config.Queues = []string{"fax"}
	two := &world{t: t, db: w.db, log: w.log, config: w.config}
	engine, err := pgautomate.New(t.Context(), two.config)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	if err := engine.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), `no queue "fax"`) {
		t.Errorf("an unknown queue: %v", err)
	}
}

package acceptance

import (
	"fmt"
	"slices"
	"testing"

	"github.com/pgautomate/pgautomate/scheduler"
)

// restage replaces a stage's actions, as a new version of the pipeline does.
func (w *world) restage(stage int64, acts ...act) {
	w.t.Helper()
	w.exec(`DELETE FROM pgautomate.pipeline_stage_actions WHERE pipeline_stage_id = $1`, stage)
	for i, a := range acts {
		w.exec(`INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params) VALUES ($1, $2, $3, $4)`, stage, i+1, a.kind, a.params)
	}
}

func (w *world) apply(perMinute int) string {
	w.t.Helper()
	done, err := scheduler.Apply(w.t.Context(), w.db.Pool, one[int64](w, `SELECT id FROM pgautomate.pipelines WHERE name = 'p'`), perMinute)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprint(done.Applied, done.Kept, done.MovedOn)
}

// TestApply: parked leads take the newest version of their stage.
func TestApply(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	stage := w.stage("a", "p", "s", act{"log", `{"message": "1"}`}, act{"wait", `{"for": "2 days"}`}, act{"log", `{"message": "old"}`})
	other := w.stage("a", "p", "t", act{"wait", `{"for": "9 days"}`}, act{"log", `{"message": "kept"}`})
	w.run()
	const leads = 3
	var runs []int64
	for i := range leads {
		runs = append(runs, w.enter("a", fmt.Sprint(i), stage))
		w.untilActions(runs[i], "completed delayed pending")
	}
	kept := w.enter("a", "k", other)
	w.untilActions(kept, "delayed pending")

	if got := w.apply(0); got != "0 4 0" {
		t.Errorf("nothing is new: applied, kept, moved on are %s", got)
	}
	// The same wait stays as it is; what follows is the new version's.
	until := w.actionIs(w.action(runs[0], 2), "perform_at")
	w.restage(stage, act{"log", `{"message": "0"}`}, act{"log", `{"message": "1"}`}, act{"wait", `{"for": "2 days"}`}, act{"log", `{"message": "new"}`}, act{"log", `{"message": "more"}`})
	if got := w.apply(0); got != "3 1 0" {
		t.Errorf("what follows is new: applied, kept, moved on are %s", got)
	}
	if got := w.actions(runs[0]) + " " + w.actions(kept); got != "completed delayed canceled/superseded pending pending delayed pending" {
		t.Errorf("the actions are %s", got)
	}
	if got := w.actionIs(w.action(runs[0], 2), "perform_at"); got != until {
		t.Errorf("a wait that stays ends at %s, want %s", got, until)
	}
	// Another time for the wait counts from when it began.
	w.restage(stage, act{"log", `{"message": "1"}`}, act{"wait", `{"for": "5 days"}`}, act{"log", `{"message": "last"}`})
	if got := w.apply(0); got != "3 1 0" {
		t.Errorf("the wait is new: applied, kept, moved on are %s", got)
	}
	w.until("the waits have their new time", func() bool {
		return !slices.ContainsFunc(runs, func(run int64) bool { return w.actionIs(w.action(run, 2), "status") != "delayed" })
	})
	if d := one[float64](w, `SELECT extract(epoch FROM w.perform_at - p.finished_at - interval '5 days')::float8 FROM pgautomate.lead_stage_actions w, pgautomate.lead_stage_actions p
		WHERE w.id = $1 AND p.id = $2`, w.action(runs[0], 2), w.action(runs[0], 1)); d < 0 || d > 0.1 {
		t.Errorf("the wait ends %.3f s beside 5 days after the action before it", d)
	}
	if got := w.apply(0); got != "0 4 0" {
		t.Errorf("done again: applied, kept, moved on are %s", got)
	}
	// A time that is over already ends it at once, at most so many a minute.
	w.restage(stage, act{"log", `{"message": "1"}`}, act{"wait", `{"for": "1 millisecond"}`}, act{"log", `{"message": "last"}`})
	if got := w.apply(2); got != "3 1 0" {
		t.Errorf("the wait is over: applied, kept, moved on are %s", got)
	}
	w.untilRun(runs[0], "completed")
	if got := one[string](w, `SELECT string_agg(round(extract(epoch FROM perform_at - now()) / 30)::text, ' ' ORDER BY perform_at) FROM pgautomate.lead_stage_actions
		WHERE lead_stage_id IN ($1, $2) AND perform_at > now()`, runs[1], runs[2]); got != "1 2" {
		t.Errorf("the others go on %s half minutes from now, want 1 2", got)
	}
	// What is gone is left; the lead goes on from there, also to the end.
	w.restage(stage, act{"log", `{"message": "1"}`}, act{"log", `{"message": "instead"}`})
	w.restage(other)
	if got := w.apply(0); got != "0 0 3" {
		t.Errorf("the wait is gone: applied, kept, moved on are %s", got)
	}
	w.untilRun(runs[1], "completed")
	w.untilRun(kept, "completed")
	if got := one[string](w, `SELECT string_agg(result ->> 'message', ' ' ORDER BY id) FROM pgautomate.lead_stage_actions WHERE lead_stage_id = $1 AND status = 'completed'`, runs[1]); got != "1 instead" {
		t.Errorf("the lead that moved on did %q", got)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE result ->> 'message' IN ('old', 'new', 'more', 'kept')`); n != 0 {
		t.Errorf("%d actions of old versions ran", n)
	}
}

// TestApplyLeavesWhatRuns: an action that is under way, or that somebody holds, is
// not touched.
func TestApplyLeavesWhatRuns(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	stage := w.stage("a", "p", "s", act{"wait", `{"for": "2 days"}`}, act{"log", `{"message": "old"}`})
	w.run()
	running, held := w.enter("a", "1", stage), w.enter("a", "2", stage)
	w.untilActions(running, "delayed pending")
	w.untilActions(held, "delayed pending")
	w.halt()
	w.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'running' WHERE id = $1`, w.action(running, 1))
	tx, err := w.db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `SELECT FROM pgautomate.lead_stage_actions WHERE id = $1 FOR UPDATE`, w.action(held, 1)); err != nil {
		t.Fatal(err)
	}
	w.restage(stage, act{"log", `{"message": "new"}`})
	if got := w.apply(0); got != "0 2 0" {
		t.Errorf("applied, kept, moved on are %s", got)
	}
	if got := w.actions(running) + " " + w.actions(held); got != "running pending delayed pending" {
		t.Errorf("the actions are %s", got)
	}
}

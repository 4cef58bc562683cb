package acceptance

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// goal gives a pipeline its goal and waits until the feed has it.
func (w *world) goal(pipeline, query string) {
	w.t.Helper()
	w.exec(`UPDATE pgautomate.pipelines SET goal = $2 WHERE name = $1`, pipeline, query)
	w.settle()
}

// TestP19GoalMetWhileWaiting: the run ends within two seconds of the commit; what
// was still to come is canceled and never sent.
func TestP19GoalMetWhileWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.leads(4)
	stage := w.stage("a", "p", "s", act{"log", `{"message": "first"}`}, act{"wait", `{"for": "2 days"}`}, act{"log", `{"message": "never"}`})
	other := w.stage("a", "q", "s", act{"wait", `{"for": "2 days"}`})
	w.run()
	w.goal("p", qs("C"))
	run, bystander, elsewhere := w.enter("a", "1", stage), w.enter("a", "2", stage), w.enter("a", "1", other)
	w.untilActions(run, "completed delayed pending")
	w.untilActions(bystander, "completed delayed pending")
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id IN (1, 3)`) // 3 is in no pipeline
	w.untilRun(run, "completed/goal")
	w.untilActions(run, "completed canceled/goal canceled/goal")
	if late := one[float64](w, `SELECT extract(epoch FROM s.finished_at - f.committed_at)::float8 FROM pgautomate.lead_stages s, pgautomate.trigger_firings f
		WHERE s.id = $1 AND f.object_id = '1'`, run); late < 0 || late > 2 {
		t.Errorf("the run ended %.2f s after the commit, want 2 at most", late)
	}
	w.settle()
	if got := w.runState(bystander) + " " + w.runState(elsewhere); got != "active active" {
		t.Errorf("another lead's run and the lead's run in another pipeline are %q", got)
	}
	// It is in the audit, and no action of its own.
	if got := one[string](w, `SELECT string_agg(f.object_id, ',' ORDER BY f.object_id) FROM pgautomate.trigger_firings f JOIN pgautomate.triggers t ON t.id = f.trigger_id
		JOIN pgautomate.pipelines p ON p.id = t.pipeline_id WHERE p.name = 'p'`); got != "1,3" {
		t.Errorf("the goal fired for %s, want 1,3", got)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE lead_stage_id IS NULL`); n != 0 {
		t.Errorf("%d actions were written for the goal", n)
	}
	// Another organization's lead of the same id is another lead.
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (20, 'b', 'Q')`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 20`)
	// A changed goal holds from then on, a removed one no more.
	w.goal("p", qs("W"))
	w.exec(`UPDATE lead SET status_id = 'W' WHERE id = 2`)
	w.untilRun(bystander, "completed/goal")
	w.exec(`UPDATE pgautomate.pipelines SET goal = NULL WHERE name = 'p'`)
	w.settle()
	last := w.enter("a", "4", stage)
	w.untilActions(last, "completed delayed pending")
	w.exec(`UPDATE lead SET status_id = 'W' WHERE id = 4`)
	w.settle()
	if got := w.runState(last); got != "active" {
		t.Errorf("a goal that was removed ended a run: %q", got)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.triggers WHERE pipeline_id IS NOT NULL`); n != 0 {
		t.Errorf("%d goals are left as triggers", n)
	}
}

// TestP21GoalAlreadyMet: such a lead is not let through; the app's statement never
// fails, and nothing of the run is done.
func TestP21GoalAlreadyMet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.leads(3)
	w.exec(`UPDATE lead SET status_id = 'C', description = 'a big deal' WHERE id = 1`)
	stage := w.stage("a", "p", "s", act{"log", `{"message": "never"}`}, act{"log", `{"message": "never"}`})
	next := w.stage("a", "p", "next", act{"wait", `{"for": "1 hour"}`})
	unasked := w.stage("a", "q", "s", act{"log", `{"message": "done"}`})
	w.run()
	w.goal("p", qs("C"))
	// A goal that no trigger can have shows as a problem, and is asked all the same.
	w.goal("q", and("lead", field("lead", "description", `{"type":"text","mode":"full_words","value":"deal"}`)))
	met, open := w.enter("a", "1", stage), w.enter("a", "2", stage)
	w.untilRun(met, "exited/goal_already_met")
	w.untilActions(met, "canceled/goal_already_met canceled/goal_already_met")
	w.untilRun(open, "completed")
	w.untilRun(w.enter("a", "1", unasked), "exited/goal_already_met")
	w.untilRun(w.enter("a", "2", unasked), "completed")
	w.until("the goal that can't be is named", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.problems WHERE subject LIKE 'trigger % (goal of pipeline q)'`) == 1
	})
	// A row that is not there meets nothing; a move asks nothing, for it is no new run.
	w.untilRun(w.enter("a", "99", stage), "completed")
	moved := w.enter("a", "2", next)
	w.untilActions(moved, "delayed")
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (5, 'a', 'C')`)
	w.tx(`SELECT pgautomate.suppress()`, `UPDATE lead SET status_id = 'C' WHERE id = 2`)
	w.untilRun(w.enter("a", "2", stage), "completed")
}

// TestGoalsAndEntriesRace: whatever comes first, the goal or the entry, no run
// goes on for a lead that meets the goal.
func TestGoalsAndEntriesRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	const leads = 80
	w.leads(leads)
	first := w.stage("a", "p", "first", act{"log", `{"message": "1"}`}, act{"move", `{"stage": "second"}`})
	w.stage("a", "p", "second", act{"log", `{"message": "2"}`}, act{"wait", `{"for": "1 hour"}`})
	w.run()
	w.goal("p", qs("C"))
	var wg sync.WaitGroup
	open := make(chan struct{}, 1) // the pool's connections are few, and an open entry takes two
	for i := range leads {
		wg.Go(func() {
			id := fmt.Sprint(i + 1)
			enter := func() {
				if _, err := w.db.Pool.Exec(t.Context(), `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', $1, $2)`, id, first); err != nil {
					t.Error(err)
				}
			}
			win := func() {
				if _, err := w.db.Pool.Exec(t.Context(), `UPDATE lead SET status_id = 'C' WHERE id = $1`, i+1); err != nil {
					t.Error(err)
				}
			}
			switch i % 4 {
			case 0:
				enter()
				win()
			case 1:
				win()
				enter()
			case 2:
				enter()
				time.Sleep(time.Duration(i) * 3 * time.Millisecond)
				win()
			default: // an entry whose transaction stays open while the goal is met
				open <- struct{}{}
				defer func() { <-open }()
				err := pgx.BeginFunc(t.Context(), w.db.Pool, func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', $1, $2)`, id, first)
					if err != nil {
						return err
					}
					win()
					time.Sleep(time.Duration(i) * time.Millisecond)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	w.until("no run is active", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'active'`) == 0
	})
	if got := one[string](w, `SELECT string_agg(DISTINCT concat_ws('/', status, reason), ' ' ORDER BY concat_ws('/', status, reason)) FROM pgautomate.lead_stages`); strings.Contains(got, "failed") {
		t.Errorf("the runs ended as %s", got)
	}
	w.until("no action is left", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status IN ('pending', 'queued', 'running', 'delayed')`) == 0
	})
	if strings.Contains(w.log.String(), "deadlock") {
		t.Error("entries, moves and goals waited for each other in a circle")
	}
}

// TestGoalIsItsPipelines: the trigger behind a goal is not to be changed but by its pipeline.
func TestGoalIsItsPipelines(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.stage("a", "p", "s")
	w.exec(`UPDATE pgautomate.pipelines SET goal = $1`, qs("C"))
	for _, sql := range []string{
		`UPDATE pgautomate.triggers SET status = 'paused' WHERE pipeline_id IS NOT NULL`,
		`UPDATE pgautomate.triggers SET query = '{}' WHERE pipeline_id IS NOT NULL`,
		`UPDATE pgautomate.triggers SET pipeline_id = NULL`,
		`DELETE FROM pgautomate.triggers WHERE pipeline_id IS NOT NULL`,
		`INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, pipeline_id) SELECT 'b', 'x', 'lead', '{}', 'goal', id FROM pgautomate.pipelines`,
	} {
		if got := w.fails(sql); !strings.Contains(got, "change pgautomate.pipelines.goal instead") {
			t.Errorf("%s is refused with %q", sql, got)
		}
	}
	// What the engine says on it is let through.
	w.exec(`UPDATE pgautomate.triggers SET status = 'invalid', error = 'x'`)
	w.exec(`UPDATE pgautomate.pipelines SET name = 'renamed', goal = goal`)
	if got := one[string](w, `SELECT concat_ws('/', name, status, version) FROM pgautomate.triggers`); got != "goal of pipeline renamed/active/2" {
		t.Errorf("the goal's trigger is %s", got)
	}
	w.exec(`UPDATE pgautomate.pipelines SET goal = 'null'`)
	w.exec(`UPDATE pgautomate.pipelines SET goal = $1`, qs("C"))
	w.exec(`DELETE FROM pgautomate.pipelines`)
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.triggers`); n != 0 {
		t.Errorf("%d triggers outlived their pipeline", n)
	}
}

// TestDeletedWithoutFullIdentity: the key is in the old row whatever the identity, so a
// deleted lead's runs end, whoever's it was; a run follows its lead to another id.
func TestDeletedWithoutFullIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.leads(3)
	w.exec(`INSERT INTO lead (id, organization_id) VALUES (10, 'b')`)
	a, b := w.stage("a", "p", "s", act{"wait", `{"for": "1 day"}`}), w.stage("b", "p", "s", act{"wait", `{"for": "1 day"}`})
	w.run()
	gone, stays, renamed, other := w.enter("a", "1", a), w.enter("a", "2", a), w.enter("a", "3", a), w.enter("b", "10", b)
	w.exec(`ALTER TABLE lead REPLICA IDENTITY DEFAULT`)
	w.exec(`DELETE FROM lead WHERE id IN (1, 10)`)
	w.exec(`UPDATE lead SET id = 33 WHERE id = 3`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 2`)
	w.untilRun(gone, "exited/object_deleted")
	w.untilRun(other, "exited/object_deleted")
	w.until("the run has followed its lead", func() bool {
		return one[string](w, `SELECT lead_id FROM pgautomate.lead_stages WHERE id = $1`, renamed) == "33"
	})
	w.settle()
	for _, run := range []int64{stays, renamed} {
		if got := w.runState(run); got != "active" {
			t.Errorf("a run that nothing ended is %q", got)
		}
	}
}

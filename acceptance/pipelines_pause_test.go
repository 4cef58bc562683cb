package acceptance

import (
	"testing"
	"time"
)

// TestPausedPipeline shows P29: nothing starts while a pipeline is paused, timers
// run down, due times are kept; on resuming everything overdue runs, once.
func TestPausedPipeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	stage := w.stage("a", "p", "s", act{"wait", `{"for": "1 second"}`}, act{"log", `{"message": "after"}`})
	other := w.stage("a", "q", "s", act{"log", `{"message": "free"}`})
	w.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) SELECT 'a', g::text, $1 FROM generate_series(1, 200) g`, stage)
	w.until("the waits have begun", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'delayed'`) == 200
	})
	w.exec(`UPDATE pgautomate.pipelines SET status = 'paused' WHERE name = 'p'`)
	due := list[time.Time](w, `SELECT perform_at FROM pgautomate.lead_stage_actions WHERE status = 'delayed' ORDER BY id`)
	if len(due) == 0 {
		t.Fatal("no timer was left to be paused")
	}
	// Who enters now is paused too; another pipeline is not.
	w.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', '201', $1), ('a', '201', $2)`, stage, other)
	w.until("the timers have run down", func() bool {
		return one[bool](w, `SELECT bool_and(perform_at < now()) FROM pgautomate.lead_stage_actions WHERE perform_at IS NOT NULL`)
	})
	w.until("the other pipeline's action is done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE result ->> 'message' = 'free'`) == 1
	})
	w.until("nothing is under way", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status IN ('queued', 'running')`) == 0
	})
	before := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'completed'`)
	time.Sleep(500 * time.Millisecond) // ten of the scheduler's rounds
	if after := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'completed'`); after != before {
		t.Errorf("%d actions ran while the pipeline was paused", after-before)
	}
	if got := one[string](w, `SELECT concat_ws('|', due > 0, held = due, reason) FROM pgautomate.action_queue WHERE action_type = 'wait'`); got != "t|t|pipeline paused" {
		t.Errorf("action_queue says %s", got)
	}
	w.exec(`UPDATE pgautomate.pipelines SET status = 'active' WHERE name = 'p'`)
	w.until("all is done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == 202
	})
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'completed' AND attempt = 1`); n != 2*201+1 {
		t.Errorf("%d actions completed at the first attempt, want %d", n, 2*201+1)
	}
	moved := 0
	for i, at := range list[time.Time](w, `SELECT perform_at FROM pgautomate.lead_stage_actions WHERE action_type = 'wait' AND lead_id <> '201' ORDER BY id`) {
		if len(due) == 200 && !at.Equal(due[i]) {
			moved++
		}
	}
	if moved > 0 {
		t.Errorf("%d timers' due times were moved", moved)
	}
}

package acceptance

import (
	"strings"
	"testing"
)

// TestP16Circle: stages that send a lead to each other without a wait stop at the
// cap; the lead stays in a stage that can be named, and somebody can read why.
func TestP16Circle(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.MaxEntriesPerHour = 12
	first := w.stage("a", "p", "first", act{"log", `{"message": "1"}`}, act{"move", `{"stage": "second"}`}, act{"log", `{"message": "never"}`})
	w.stage("a", "p", "second", act{"log", `{"message": "2"}`}, act{"move", `{"stage": "first"}`})
	entering := w.stage("a", "q", "one", act{"enter_stage", `{"pipeline": "q", "stage": "two"}`})
	w.stage("a", "q", "two", act{"enter_stage", `{"pipeline": "q", "stage": "one"}`})
	across := w.stage("a", "x", "one", act{"move", `{"pipeline": "y", "stage": "one"}`})
	w.stage("a", "y", "one", act{"move", `{"pipeline": "x", "stage": "one"}`})
	w.run()
	for _, stage := range []int64{first, entering, across} {
		w.enter("a", "1", stage)
	}
	w.until("all have stopped", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE reason = 'loop_suppressed'`) == 3 &&
			one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'active'`) == 0
	})
	if got := one[string](w, `SELECT string_agg(concat_ws(' ', p.name, n), ', ' ORDER BY p.name) FROM pgautomate.pipelines p,
		LATERAL (SELECT count(*) AS n FROM pgautomate.lead_stages s WHERE s.pipeline_id = p.id AND s.reason IS DISTINCT FROM 'loop_suppressed') c`); got != "p 11, q 12, x 12, y 11" {
		t.Errorf("stages gone through: %s", got)
	}
	last := one[int64](w, `SELECT s.id FROM pgautomate.lead_stages s JOIN pgautomate.pipelines p ON p.id = s.pipeline_id WHERE p.name = 'p' ORDER BY s.id DESC LIMIT 1`)
	if got := w.runState(last) + ": " + w.actions(last); got != "exited/loop_suppressed: completed completed" {
		t.Errorf("the stage in which it stopped: %s", got)
	}
	notes := strings.Join(list[string](w, `SELECT concat_ws(' ', detail ->> 'lead_id', detail ->> 'pipeline', detail ->> 'stage', detail ->> 'entries') FROM pgautomate.feed_notes WHERE kind = 'loop_suppressed' ORDER BY 1`), ", ")
	if notes != "1 p first 12, 1 q one 12, 1 x one 12" {
		t.Errorf("the notes say %q", notes)
	}
	// Another lead is not concerned, and an app may go on as it likes.
	if got := w.runState(w.enter("a", "1", first)); got != "active" {
		t.Errorf("an app's entry after that: %q", got)
	}
}

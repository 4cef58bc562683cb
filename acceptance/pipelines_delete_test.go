package acceptance

import "testing"

// TestDeletedPipeline shows that what a deleted pipeline left due does not run.
func TestDeletedPipeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stage := w.stage("a", "p", "s", act{"log", `{"message": "one"}`}, act{"log", `{"message": "two"}`})
	w.enterMany("a", stage, 100)
	w.exec(`DELETE FROM pgautomate.pipelines WHERE name = 'p'`)
	if got := one[string](w, `SELECT string_agg(DISTINCT concat_ws(' ', status, reason), ', ') FROM pgautomate.lead_stage_actions`); got != "canceled stage_left" {
		t.Errorf("the actions of a deleted pipeline are %q, want all canceled with stage_left", got)
	}
	w.run()
	w.settle()
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE started_at IS NOT NULL`); n != 0 {
		t.Errorf("%d actions of a deleted pipeline ran", n)
	}
}

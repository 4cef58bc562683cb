package acceptance

import "testing"

// TestRowBecomesAction is the whole way once.
func TestRowBecomesAction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	id := w.triggerWith("a", "customers", "lead", qs("C"), "log", `{"message": "lead {{ object.id }} became {{ lead.status_id }}"}`)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'Q')`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	w.settle()
	if n := w.firings(id, "1"); n != 1 {
		t.Fatalf("%d firings, want 1", n)
	}
	w.until("the action is done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'completed'`) == 1
	})
	if got := one[string](w, `SELECT result ->> 'message' FROM pgautomate.lead_stage_actions`); got != "lead 1 became C" {
		t.Fatalf("the action's result is %q", got)
	}
}

package acceptance

import (
	"fmt"
	"strings"
	"testing"
)

func when(query, then string) string { return fmt.Sprintf(`{"query": %s, "then": %s}`, query, then) }

func branchTo(arms ...string) act {
	return act{"branch", `{"arms": [` + strings.Join(arms, ", ") + `]}`}
}

// TestP17BranchOnDataOfThen: a branch is decided on what the rows say when it
// runs, by the first arm that is true; none and no else ends the run.
func TestP17BranchOnDataOfThen(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.crm()
	w.stage("a", "p", "won", logs("won")...)
	ceo := and("lead", `{"type":"has_related","this_object_type":"lead","related_object_type":"contact","related_query":`+
		field("contact", "title", `{"type":"text","mode":"exact_value","value":"CEO"}`)+`}`)
	start := w.stage("a", "p", "start", act{"wait", `{"for": "1 hour"}`},
		branchTo(when(qs("C"), `{"stage": "won"}`), when(qs("C", "N"), `"next"`), when(qs("X"), `"exit"`), when(ceo, `{"stage": "won"}`)),
		act{"log", `{"message": "went on"}`})
	last := w.stage("a", "p", "last", act{"branch", `{"arms": [` + when(qs("C"), `"next"`) + `], "else": {"stage": "won"}}`})
	wrong := w.stage("a", "p", "wrong", act{"branch", `{"arms": [` + when(and("lead", field("lead", "nope", term("x"))), `"next"`) + `]}`})
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT g, 'a', 'Q' FROM generate_series(1, 7) g`)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (8, 'b', 'C')`)
	w.exec(`INSERT INTO contact (organization_id, lead_id, title) VALUES ('a', 5, 'ceo'), ('b', 4, 'CEO')`)
	w.run()
	runs := map[int]int64{}
	for id := 1; id <= 5; id++ {
		runs[id] = w.enter("a", fmt.Sprint(id), start)
		w.untilActions(runs[id], "delayed pending pending")
	}
	// Meanwhile the leads change.
	w.exec(`UPDATE lead SET status_id = CASE id WHEN 1 THEN 'C' WHEN 2 THEN 'N' WHEN 3 THEN 'X' ELSE 'Q' END WHERE id <= 5`)
	w.exec(`UPDATE pgautomate.lead_stage_actions SET perform_at = now() WHERE status = 'delayed'`)
	runs[6], runs[7] = w.enter("a", "6", last), w.enter("a", "7", wrong)
	for id, want := range map[int]struct{ run, actions, arm string }{
		1: {"completed/moved", "completed completed canceled/stage_left", "0"},
		2: {"completed", "completed completed completed", "1"},
		3: {"exited/exit", "completed completed canceled/stage_left", "2"},
		4: {"exited/no_branch", "completed completed canceled/stage_left", ""},
		5: {"completed/moved", "completed completed canceled/stage_left", "3"},
		6: {"completed/moved", "completed", ""},
		7: {"failed/failed", "failed", ""},
	} {
		w.untilRun(runs[id], want.run)
		w.untilActions(runs[id], want.actions)
		if got := one[string](w, `SELECT coalesce(max(result ->> 'arm'), '') FROM pgautomate.lead_stage_actions WHERE lead_stage_id = $1 AND action_type = 'branch'`, runs[id]); got != want.arm {
			t.Errorf("lead %d took arm %q, want %q", id, got, want.arm)
		}
	}
	if got := w.actionIs(w.action(runs[7], 1), "error"); !strings.Contains(got, "nope") {
		t.Errorf("a branch on an unknown field fails with %q", got)
	}
	// Another organization's lead is not there, and nothing is decided on it.
	stranger := w.enter("a", "8", last)
	w.until("the branch waits for its lead's row", func() bool {
		return strings.Contains(w.actionIs(w.action(stranger, 1), "error"), "not there")
	})
	// A table altered a moment ago is seen.
	w.exec(`ALTER TABLE lead ADD COLUMN score numeric DEFAULT 7`)
	scored := w.stage("a", "q", "scored", branchTo(when(and("lead", field("lead", "score", `{"type":"number_range","gte":5}`)), `"next"`)))
	w.untilRun(w.enter("a", "1", scored), "completed")
}

// TestP18BranchAsksWhatTriggersCant: moments relative to now and words in a text.
func TestP18BranchAsksWhatTriggersCant(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.crm()
	soon := and("lead", field("lead", "close_date", `{"type":"moment_range","on_or_after":{"type":"now"},
		"before":{"type":"offset","direction":"future","moment":{"type":"now"},"offset":{"days":7}}}`))
	spoke := and("lead", field("lead", "description", `{"type":"text","mode":"full_words","value":"price list"}`))
	stage := w.stage("a", "p", "s", branchTo(when(soon, `"next"`), when(spoke, `"exit"`)))
	w.exec(`INSERT INTO lead (id, organization_id, close_date, description) VALUES (1, 'a', current_date + 3, NULL),
		(2, 'a', current_date + 30, 'asked for our List, with a PRICE'), (3, 'a', NULL, 'priceless lists')`)
	w.run()
	for id, want := range map[string]string{"1": "completed", "2": "exited/exit", "3": "exited/no_branch"} {
		w.untilRun(w.enter("a", id, stage), want)
	}
}

// TestP15MoveToTheSameStage: only with restart; the stage's actions are then new rows.
func TestP15MoveToTheSameStage(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	bare := w.stage("a", "p", "bare", act{"log", `{"message": "1"}`}, act{"move", `{"stage": "bare"}`})
	again := w.stage("a", "q", "again", act{"log", `{"message": "1"}`}, act{"wait", `{"for": "1 hour"}`}, act{"move", `{"stage": "again", "restart": true}`})
	w.run()
	run := w.enter("a", "1", bare)
	w.untilRun(run, "failed/failed")
	if got := w.actionIs(w.action(run, 2), "error"); !strings.Contains(got, "restart: true") {
		t.Errorf("a move to the same stage fails with %q", got)
	}
	first := w.enter("a", "1", again)
	w.untilActions(first, "completed delayed pending")
	w.exec(`UPDATE pgautomate.lead_stage_actions SET perform_at = now() WHERE status = 'delayed'`)
	w.untilRun(first, "completed/moved")
	second := one[int64](w, `SELECT id FROM pgautomate.lead_stages WHERE pipeline_stage_id = $1 AND status = 'active'`, again)
	w.untilActions(second, "completed delayed pending")
}

// TestP04WaitWindow: what falls outside of a window is moved to its next opening,
// in the organization's time zone.
func TestP04WaitWindow(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.exec(`INSERT INTO pgautomate.organizations (id, time_zone) VALUES ('a', 'Asia/Kathmandu')`)
	stage := w.stage("a", "p", "s", act{"wait", `{"until": "2099-06-06 03:00", "window": {"weekdays": ["mon", "tue"], "hours": ["09:15", "17:00"], "holidays": ["2099-06-08"]}}`})
	w.run()
	run := w.enter("a", "1", stage)
	w.untilActions(run, "delayed")
	// 2099-06-06 is a Saturday; Kathmandu is 5:45 ahead of UTC.
	if got := one[string](w, `SELECT to_char(perform_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') FROM pgautomate.lead_stage_actions WHERE lead_stage_id = $1`, run); got != "2099-06-09 03:30" {
		t.Errorf("the wait ends at %s UTC, want 2099-06-09 03:30", got)
	}
}

package acceptance

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func untilMet(query, more string) act {
	return act{"wait_until", fmt.Sprintf(`{"query": %s, "timeout": "3 days"%s}`, query, more)}
}

// TestWaitUntil: the commit by which the lead comes to meet the query ends the
// wait within two seconds; who meets it already doesn't wait; the timeout comes at
// its time.
func TestWaitUntil(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.leads(8)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 2`)
	ceo := and("lead", `{"type":"has_related","this_object_type":"lead","related_object_type":"contact","related_query":`+
		field("contact", "title", `{"type":"text","mode":"exact_value","value":"CEO"}`)+`}`)
	stage := w.stage("a", "p", "s", untilMet(qs("C"), `, "on_match": {"stage": "won"}, "on_timeout": "exit"`), act{"log", `{"message": "never"}`})
	won := w.stage("a", "p", "won", logs("won")...)
	brief := w.stage("a", "q", "s", act{"wait_until", `{"query": ` + qs("C") + `, "timeout": "3 seconds", "on_match": {"stage": "t"}, "on_timeout": "exit"}`})
	w.stage("a", "q", "t", logs("x")...)
	related := w.stage("a", "r", "s", untilMet(ceo, ""))
	w.run()
	run, met, other, timeout, contact := w.enter("a", "1", stage), w.enter("a", "2", stage), w.enter("a", "3", stage), w.enter("a", "4", brief), w.enter("a", "5", related)
	w.untilRun(met, "completed/moved")
	w.untilActions(run, "delayed pending")
	w.untilActions(other, "delayed pending")
	w.untilActions(contact, "delayed")
	w.settle()
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	w.untilRun(run, "completed/moved")
	if late := one[float64](w, `SELECT extract(epoch FROM a.finished_at - (a.result ->> 'matched_at')::timestamptz)::float8 FROM pgautomate.lead_stage_actions a WHERE id = $1`, w.action(run, 1)); late < 0 || late > 2 {
		t.Errorf("the wait ended %.2f s after the commit, want 2 at most", late)
	}
	if got := w.actionIs(w.action(run, 1), `concat_ws(' ', result ->> 'outcome', result -> 'then' ->> 'stage', result ? 'superseded')`); got != "matched won f" {
		t.Errorf("the wait's result is %q", got)
	}
	w.untilRun(one[int64](w, `SELECT id FROM pgautomate.lead_stages WHERE lead_id = '1' AND pipeline_stage_id = $1`, won), "completed")
	w.exec(`INSERT INTO contact (organization_id, lead_id, title) VALUES ('a', 5, 'CEO')`)
	w.untilRun(contact, "completed")
	w.untilRun(timeout, "exited/exit")
	if late := one[float64](w, `SELECT extract(epoch FROM finished_at - (result ->> 'until')::timestamptz)::float8 FROM pgautomate.lead_stage_actions WHERE id = $1`, w.action(timeout, 1)); late < 0 || late > 2 {
		t.Errorf("the timeout came %.3f s after its time", late)
	}
	if got := w.actions(other); got != "delayed pending" {
		t.Errorf("another lead's wait is %q", got)
	}
	// One query, one trigger, which is nobody's to change, and no action of its own.
	if got := one[string](w, `SELECT concat_ws(' ', count(*), count(DISTINCT awaited_id)) FROM pgautomate.triggers WHERE awaited_id IS NOT NULL`); got != "2 2" {
		t.Errorf("%s triggers for 2 queries", got)
	}
	if got := w.fails(`DELETE FROM pgautomate.triggers WHERE awaited_id IS NOT NULL`); !strings.Contains(got, "engine's own") {
		t.Errorf("deleting it is refused with %q", got)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE lead_stage_id IS NULL`); n != 0 {
		t.Errorf("%d actions were written for what was waited for", n)
	}
	// What nobody waits for any more is forgotten.
	w.exec(`UPDATE pgautomate.awaited SET used_until = now() - interval '2 days' WHERE query <> $1`, qs("C"))
	w.until("its trigger is gone", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.triggers WHERE awaited_id IS NOT NULL`) == 1
	})
}

// TestWaitUntilForAMoment: that the lead met the query between two looks counts,
// what it met before the wait doesn't, also when the feed is late.
func TestWaitUntilForAMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.leads(2)
	stage := w.stage("a", "p", "s", untilMet(qs("C"), ""))
	w.run()
	run := w.enter("a", "1", stage)
	w.untilActions(run, "delayed")
	w.until("the wait was confirmed", func() bool {
		return one[bool](w, `SELECT perform_at > now() + interval '1 day' AND NOT result ? 'confirm' AND status = 'delayed' FROM pgautomate.lead_stage_actions WHERE id = $1`, w.action(run, 1))
	})
	w.settle()
	w.halt()
	w.exec(`UPDATE lead SET status_id = 'C'`)
	w.exec(`UPDATE lead SET status_id = 'Q'`)
	late := w.enter("a", "2", stage)
	// Workers alone, so that the second wait begins before the feed has come there.
	w.config.Parts = newWorkers(t).config.Parts
	w.run()
	w.untilActions(late, "delayed")
	w.halt()
	w.config.Parts = nil
	w.run()
	w.untilRun(run, "completed")
	w.settle()
	w.until("nothing is under way", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.river_job WHERE kind = 'firing' AND state <> 'completed'`) == 0
	})
	w.until("the other one is parked again", func() bool { return w.actions(late) == "delayed" })
}

// TestWaitUntilWords: a query that no trigger can have is asked of all who wait.
func TestWaitUntilWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.AskEvery = 500 * time.Millisecond
	w.crm()
	w.leads(3)
	stage := w.stage("a", "p", "s", untilMet(and("lead", field("lead", "description", `{"type":"text","mode":"full_words","value":"yes"}`)), ""))
	w.run()
	runs := []int64{w.enter("a", "1", stage), w.enter("a", "2", stage), w.enter("a", "3", stage)}
	for _, run := range runs {
		w.untilActions(run, "delayed")
	}
	w.exec(`UPDATE lead SET description = 'Oh yes, please' WHERE id IN (1, 3)`)
	w.untilRun(runs[0], "completed")
	w.untilRun(runs[2], "completed")
	if got := w.actions(runs[1]); got != "delayed" {
		t.Errorf("who doesn't meet it: %q", got)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.triggers WHERE awaited_id IS NOT NULL`); n != 0 {
		t.Errorf("%d triggers for a query that none can have", n)
	}
}

// TestWaitUntilRace: entries and commits at once; none is missed.
func TestWaitUntilRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	const leads = 60
	w.leads(leads)
	stage := w.stage("a", "p", "s", untilMet(qs("C"), ""))
	w.run()
	var wg sync.WaitGroup
	for i := range leads {
		wg.Go(func() {
			if _, err := w.db.Pool.Exec(t.Context(), `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ('a', $1, $2)`, fmt.Sprint(i+1), stage); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Duration(i) * 2 * time.Millisecond)
			if _, err := w.db.Pool.Exec(t.Context(), `UPDATE lead SET status_id = 'C' WHERE id = $1`, i+1); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.until("all waits are over", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == leads
	})
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE result ->> 'outcome' = 'matched'`); n != leads {
		t.Errorf("%d waits matched, want %d", n, leads)
	}
}

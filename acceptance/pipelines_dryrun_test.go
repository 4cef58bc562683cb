package acceptance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/jobs"
)

// TestP32DryRun: what would be done for a lead, with times and the branch taken;
// nothing is written.
func TestP32DryRun(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.crm()
	w.exec(`INSERT INTO lead (id, organization_id, status_id, source, close_date) VALUES (1, 'a', 'N', 'web', current_date + 2), (2, 'a', 'C', 'ads', NULL), (3, 'b', 'N', 'secret', NULL)`)
	past := and("lead", field("lead", "close_date", `{"type":"moment_range","before":{"type":"now"}}`))
	w.stage("a", "p", "start",
		act{"log", `{"message": "hello {{ lead.source }}"}`},
		act{"wait", `{"for": "5 days"}`},
		branchTo(when(qs("X"), `"exit"`), when(past, `"next"`)), // by then it is past
		act{"wait_for_reply", `{"timeout": "3 days", "on_timeout": {"stage": "second"}}`},
		act{"log", `{"message": "never"}`})
	w.stage("a", "p", "second",
		untilMet(qs("C"), `, "on_match": "exit", "on_timeout": "next"`),
		act{"email", `{"to": "{{ lead.source | nonsense }}", "subject": "x", "on_error": "skip"}`},
		act{"move", `{"stage": "third"}`})
	w.stage("a", "p", "third", act{"update_row", `{"set": {"owner_id": "{{ lead.id }}"}}`}, act{"exit", `{"reason": "done"}`})
	circle := w.stage("a", "q", "one", act{"move", `{"stage": "one", "restart": true}`})
	w.run()
	dry := func(pipeline string, stage int64, lead string) *jobs.DryRun {
		t.Helper()
		run, err := w.engine.DryRun(t.Context(), one[int64](w, `SELECT id FROM pgautomate.pipelines WHERE name = $1`, pipeline), stage, lead)
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	written := func() string {
		return one[string](w, `SELECT concat_ws(' ', (SELECT count(*) FROM pgautomate.lead_stages), (SELECT count(*) FROM pgautomate.lead_stage_actions),
			(SELECT count(*) FROM pgautomate.lead_runs), (SELECT count(*) FROM pgautomate.awaited), (SELECT count(*) FROM pgautomate.triggers),
			(SELECT count(*) FROM pgautomate.feed_notes), (SELECT count(*) FROM pgautomate.river_job), (SELECT string_agg(l::text || l.xmin, ',' ORDER BY id) FROM lead l))`)
	}
	before := written()
	run := dry("p", 0, "1")
	if run == nil || len(run.Actions) == 0 {
		t.Fatalf("%+v", run)
	}
	var got []string
	began := run.Actions[0].At
	for _, a := range run.Actions {
		line := fmt.Sprintf("%s/%d %s +%dh", a.Stage, a.SequenceNumber, a.ActionType, int(a.At.Sub(began)/time.Hour))
		for _, more := range []string{a.Outcome, a.Then} {
			if more != "" {
				line += " " + more
			}
		}
		if a.Error != "" {
			line += " error"
		}
		got = append(got, line)
	}
	want := []string{
		"start/1 log +0h", "start/2 wait +0h", "start/3 branch +120h arm 1", "start/4 wait_for_reply +120h timeout stage second",
		"second/1 wait_until +192h timeout", "second/2 email +264h error", "second/3 move +264h stage third",
		"third/1 update_row +264h", "third/2 exit +264h exit",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the dry run gives\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if run.Actions[0].Params["message"] != "hello web" || run.Status != "exited" || run.Reason != "exit" || run.EndsAt.Sub(began) != 11*24*time.Hour {
		t.Errorf("%+v", run)
	}
	if len(run.Actions) > 3 && run.Actions[3].Assumed == "" {
		t.Error("it is not said that no reply was assumed")
	}
	if run := dry("q", circle, "1"); len(run.Actions) != 200 || run.Status != "active" {
		t.Errorf("a circle gives %d actions, %s", len(run.Actions), run.Status)
	}
	for _, lead := range []string{"3", "99", "abc"} { // another organization's, nobody's
		if run := dry("p", 0, lead); run != nil {
			t.Errorf("lead %s: %+v", lead, run)
		}
	}
	if after := written(); after != before {
		t.Errorf("something was written:\n%s\n%s", before, after)
	}
	w.exec(`UPDATE pgautomate.pipelines SET goal = $1 WHERE name = 'p'`, qs("C"))
	w.exec(`INSERT INTO pgautomate.suppressions (organization_id, lead_id) VALUES ('a', '1')`)
	if run := dry("p", 0, "2"); run.Skipped != "goal_already_met" || len(run.Actions) != 0 {
		t.Errorf("a lead that meets the goal: %+v", run)
	}
	if run := dry("p", 0, "1"); run.Skipped != "suppressed" {
		t.Errorf("a lead that is suppressed: %+v", run)
	}
}

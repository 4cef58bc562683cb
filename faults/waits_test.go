//go:build faults

package faults

// Waits that something else ends, and runs that their goal ends, while the engine is
// killed again and again: every one ends, for its reason, and what follows is done once.

import (
	"context"
	"time"

	"github.com/pgautomate/pgautomate/catalog"
)

func (w *world) waitsKilled() {
	w.exec(`CREATE TABLE message (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id text, lead_id bigint, inbound boolean)`)
	reply := `{"type":"field_condition","field":{"type":"regular_field","object_type":"message","field_name":"inbound"},"condition":{"type":"boolean","value":true}}`
	o := catalog.WatchOptions{Table: "public.message", As: "message", Organization: "organization_id", ReplyWhen: []byte(reply), Lead: "lead_id"}
	if _, _, err := catalog.Watch(w.t.Context(), w.db.Pool, o, false); err != nil {
		w.t.Fatal(err)
	}
	is := func(status string) string {
		return query(field("status_id", `{"type":"term","values":["`+status+`"]}`))
	}
	for _, p := range []struct{ name, goal, wait, params string }{
		{"replied", "", "wait_for_reply", `{"timeout":"1 hour","on_timeout":"exit"}`},
		{"matched", "", "wait_until", `{"query":` + is("until") + `,"timeout":"1 hour","on_timeout":"exit"}`},
		{"goal", is("goal"), "wait", `{"for":"1 hour"}`},
	} {
		w.exec(`WITH p AS (INSERT INTO pgautomate.pipelines (organization_id, name, goal) VALUES ('d', $1, nullif($2, '')::jsonb) RETURNING id),
			s AS (INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT id, 's' FROM p RETURNING id)
			INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params)
			SELECT s.id, 1, 'log', '{"message":"began"}'::jsonb FROM s UNION ALL SELECT s.id, 2, $3, $4::jsonb FROM s
			UNION ALL SELECT s.id, 3, 'log', '{"message":"went on"}' FROM s`, p.name, p.goal, p.wait, p.params)
	}
	p := w.engine()
	w.write()
	ctx, cancel := context.WithCancel(context.Background())
	leads := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			w.exec(`WITH l AS (INSERT INTO lead (id, organization_id, status_id) VALUES ((SELECT nextval('lead_ids')), 'd', 'new') RETURNING id)
				INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
				SELECT 'd', l.id::text, s.id FROM l, pgautomate.pipeline_stages s JOIN pgautomate.pipelines p ON p.id = s.pipeline_id WHERE p.organization_id = 'd'`)
			// What ends them comes at any time: before they wait, while they do, when nobody looks.
			w.exec(`INSERT INTO message (organization_id, lead_id, inbound) SELECT 'd', id, true FROM lead WHERE organization_id = 'd' AND status_id = 'new' AND random() < 0.05
				AND NOT EXISTS (SELECT FROM message m WHERE m.lead_id = lead.id)`)
			w.exec(`UPDATE lead SET status_id = CASE status_id WHEN 'new' THEN 'until' ELSE 'goal' END WHERE organization_id = 'd' AND status_id <> 'goal' AND random() < 0.05`)
			time.Sleep(5 * time.Millisecond)
		}
		leads <- n
	}()
	w.underway()
	w.forAWhile(func() {
		pause(0, 1500*time.Millisecond)
		p.kill()
		pause(0, 500*time.Millisecond)
		p = w.engine()
	})
	cancel()
	n := <-leads
	// What comes now comes to waits: what came before them, they may rightly have missed.
	w.until("all who are left wait", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages s WHERE s.organization_id = 'd' AND s.status = 'active' AND NOT EXISTS (
			SELECT FROM pgautomate.lead_stage_actions a WHERE a.lead_stage_id = s.id AND a.sequence_number = 2 AND a.status = 'delayed')`) == 0
	})
	for _, status := range []string{"new", "until", "goal"} {
		w.exec(`UPDATE lead SET status_id = $1 WHERE organization_id = 'd'`, status)
	}
	w.exec(`INSERT INTO message (organization_id, lead_id, inbound) SELECT 'd', id, true FROM lead WHERE organization_id = 'd'`)

	began := time.Now()
	took := w.until("every run has ended", func() bool {
		left := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE organization_id = 'd' AND status = 'active'`)
		if left > 0 && time.Since(began) > caughtUpWithin-5*time.Second {
			type row struct{ Row string }
			for _, r := range list[row](w, `SELECT to_jsonb(a)::text FROM pgautomate.lead_stage_actions a JOIN pgautomate.lead_stages s ON s.id = a.lead_stage_id
				WHERE s.organization_id = 'd' AND s.status = 'active' AND a.status <> 'pending' ORDER BY a.id DESC LIMIT 5`) {
				w.t.Log(r.Row)
			}
			for _, r := range list[row](w, `SELECT concat_ws(' ', kind, state, count(*), max(attempt), min(args::text), (array_agg(errors[1]::text))[1]) FROM pgautomate.river_job WHERE state <> 'completed' GROUP BY kind, state
				UNION ALL SELECT to_jsonb(f)::text FROM pgautomate.feed_status f
				UNION ALL SELECT concat_ws(' ', lead_id, committed_at) FROM pgautomate.replies WHERE lead_id IN (SELECT lead_id FROM pgautomate.lead_stages WHERE organization_id = 'd' AND status = 'active' LIMIT 3)`) {
				w.t.Log(r.Row)
			}
			w.t.Fatalf("%d runs have not ended", left)
		}
		return left == 0
	})
	type end struct {
		Pipeline, End string
		Runs          int64
	}
	lost := 0
	for _, e := range list[end](w, `SELECT p.name, concat_ws('/', s.status, s.reason), count(*) FROM pgautomate.lead_stages s JOIN pgautomate.pipelines p ON p.id = s.pipeline_id
		WHERE s.organization_id = 'd' GROUP BY 1, 2 ORDER BY 1, 2`) {
		w.t.Logf("%s: %s, %d", e.Pipeline, e.End, e.Runs)
		if e.End != "completed" && (e.Pipeline != "goal" || e.End != "completed/goal" && e.End != "exited/goal_already_met") {
			lost += int(e.Runs)
			w.t.Errorf("%d runs of pipeline %s ended as %s", e.Runs, e.Pipeline, e.End)
		}
	}
	if runs := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE organization_id = 'd'`); runs != int64(3*n) || n < 50 {
		w.t.Errorf("%d runs of %d leads", runs, n)
	}
	twice := one[int64](w, `SELECT count(*) FROM (SELECT FROM pgautomate.lead_stage_actions WHERE organization_id = 'd' AND result ->> 'message' = 'went on' GROUP BY lead_stage_id HAVING count(*) > 1) x`)
	bad := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions a JOIN pgautomate.lead_stages s ON s.id = a.lead_stage_id
		WHERE a.organization_id = 'd' AND (s.reason IS NOT NULL AND a.result ->> 'message' = 'went on' OR a.status IN ('pending', 'queued', 'delayed', 'failed'))`)
	if twice+bad > 0 {
		w.t.Errorf("%d waits went on twice, %d actions are not as their runs ended", twice, bad)
	}
	report.add(result{fault: w.fault + ", runs", times: w.times, firings: 3 * n, lost: lost, twice: int(twice), bad: int(bad), feed: took})
	w.check(w.caughtUp())
	p.terminate()
}

//go:build faults

package faults

// Four processes share the work, and two of them are killed again and again until it
// is done: every action is completed, and was completed once.

import (
	"os"
	"strconv"
	"time"
)

// manyActions is FAULT_ACTIONS, or 6,000.
func manyActions() int64 {
	if n, err := strconv.ParseInt(os.Getenv("FAULT_ACTIONS"), 10, 64); err == nil {
		return n
	}
	return 6000
}

func (w *world) halfOfWorkersKilled() {
	const steps = 2
	leads := max(1, manyActions()/steps)
	// A second record, by whoever writes: each time that an action came to be completed.
	w.exec(`CREATE TABLE completion (action_id bigint NOT NULL, attempt integer NOT NULL)`)
	w.exec(`CREATE FUNCTION completed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO completion VALUES (NEW.id, NEW.attempt); RETURN NULL; END $$`)
	w.exec(`CREATE TRIGGER completed AFTER UPDATE ON pgautomate.lead_stage_actions FOR EACH ROW
		WHEN (NEW.status = 'completed' AND OLD.status <> 'completed') EXECUTE FUNCTION completed()`)
	w.exec(`WITH p AS (INSERT INTO pgautomate.pipelines (organization_id, name) VALUES ('p', 'p') RETURNING id),
		s AS (INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT id, 's' FROM p RETURNING id)
		INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params)
		SELECT s.id, n, 'log', '{"message": "{{ lead.id }}"}' FROM s, generate_series(1, $1) n`, steps)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT -i, 'p', 'p' FROM generate_series(1, $1::bigint) i`, leads)
	workers := make([]*process, 4)
	for i := range workers {
		workers[i] = w.run("--only", "scheduler,workers")
	}
	w.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
		SELECT 'p', (-i)::text, s.id FROM pgautomate.pipeline_stages s, generate_series(1, $1::bigint) i`, leads)
	began := time.Now()
	left := func() int64 {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE organization_id = 'p' AND status <> 'completed'`)
	}
	// What is in the hands of the dead waits for its rescue: then there is nothing left to disturb.
	inDeadHands := func() int64 {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions a JOIN pgautomate.workers k ON k.id = a.worker_id
			WHERE a.status = 'running' AND k.heartbeat_at < now() - interval '6 seconds'`)
	}
	var held int64
	for next := 0; left() > 2*inDeadHands() || w.times == 0; next += 2 {
		pause(100*time.Millisecond, 1500*time.Millisecond)
		for i := range 2 {
			dies := workers[(next+i)%len(workers)]
			pid := dies.cmd.Process.Pid
			dies.kill()
			held += one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions a JOIN pgautomate.workers k ON k.id = a.worker_id WHERE k.pid = $1 AND a.status = 'running'`, pid)
		}
		w.times++
		for i := range 2 {
			workers[(next+i)%len(workers)] = w.run("--only", "scheduler,workers")
		}
	}
	lastKill := time.Now()
	w.until("all actions are completed", func() bool { return left() == 0 })
	took := time.Since(lastKill)
	if took > 60*time.Second {
		w.t.Errorf("all was completed %v after the last kill; the bound is 60 s", took)
	}
	type count struct{ Actions, Runs, Completions, Different, Again int64 }
	got := list[count](w, `SELECT (SELECT count(*) FROM pgautomate.lead_stage_actions WHERE organization_id = 'p' AND status = 'completed'),
		(SELECT count(*) FROM pgautomate.lead_stages WHERE organization_id = 'p' AND status = 'completed'),
		count(*), count(DISTINCT action_id), count(*) FILTER (WHERE attempt > 1) FROM completion`)[0]
	want := count{leads * steps, leads, leads * steps, leads * steps, got.Again}
	if got != want {
		w.t.Errorf("completed actions, runs, completions, of different actions: %v, want %v", got, want)
	}
	w.t.Logf("%d actions of 4 processes, 2 of which were killed %d times within %v, with %d actions in their hands; %d were completed at a later attempt, the last one %v after the last kill",
		got.Actions, w.times, lastKill.Sub(began).Round(time.Second), held, got.Again, took.Round(time.Second))
	report.add(result{
		fault: w.fault, times: w.times, firings: int(want.Actions), lost: int(want.Actions - got.Different), twice: int(got.Completions - got.Different), actions: took,
	})
	for _, p := range workers {
		p.terminate()
	}
}

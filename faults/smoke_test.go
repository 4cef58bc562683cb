package faults

import (
	"context"
	"testing"
	"time"
)

// The most frequent faults, for a short time, with all other tests.
func TestSmoke(t *testing.T) {
	needsBinaries(t)
	t.Cleanup(func() { t.Logf("\n%s", &report) })
	t.Run("feed", func(t *testing.T) {
		t.Parallel()
		newWorld(t, "kill -9 and crash of the server").feedKilled()
	})
	t.Run("notifications", func(t *testing.T) {
		t.Parallel()
		newWorld(t, "kill -9 in the midst of triggers").notificationsKilled(200, 1)
	})
}

func (w *world) feedKilled() {
	// The feed is killed, the workers are not: what a killed worker leaves is taken over
	// within a minute, which is too long for this test.
	worker := w.run("--only", "scheduler,workers")
	p := w.run("--only", "feed")
	w.write()
	w.underway()
	p.kill()
	p = w.run("--only", "feed")
	w.crash(0)
	feed := w.caughtUp()
	w.underway()
	w.times = 2
	w.check(feed)
	w.oracleSees()
	p.terminate()
	worker.terminate()
}

// oracleSees spoils what is right and wants the oracle to notice.
func (w *world) oracleSees() {
	w.t.Helper()
	for _, spoil := range []struct {
		sql         string
		lost, twice int
	}{
		{`DELETE FROM pgautomate.lead_stage_actions WHERE id = (SELECT min(id) FROM pgautomate.lead_stage_actions WHERE firing_id IS NOT NULL)`, 1, 0},
		{`INSERT INTO pgautomate.river_job (kind, queue, args, max_attempts, state, finalized_at) SELECT kind, queue, args, 1, 'completed', now() FROM pgautomate.river_job WHERE kind = 'firing' ORDER BY id LIMIT 1`, 0, 1},
		{`INSERT INTO effect (organization_id, title) SELECT organization_id, title FROM effect ORDER BY id LIMIT 1`, 0, 1},
		{`INSERT INTO audit (old, new) SELECT NULL, jsonb_build_object('id', 1000000, 'organization_id', 'a', 'status_id', 'C', 'rev', 1000000)`, 1, 0},
		{`DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit WHERE old IS NULL AND new ->> 'status_id' = 'C' AND new ->> 'organization_id' = 'b' AND new ->> 'rev' IN
			(SELECT data ->> 'rev' FROM pgautomate.trigger_firings WHERE previous_data IS NULL))`, 0, 1},
	} {
		_, lost, twice, _ := w.compare()
		w.exec(spoil.sql)
		_, lostNow, twiceNow, _ := w.compare()
		if lostNow < lost+spoil.lost || twiceNow < twice+spoil.twice {
			w.t.Errorf("lost %d, twice %d, then %d and %d: the oracle didn't notice %s", lost, twice, lostNow, twiceNow, spoil.sql)
		}
	}
}

// crash is an immediate shutdown of the server, and its start after a while.
func (w *world) crash(away time.Duration) {
	w.t.Helper()
	if err := w.server.Kill(); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(away)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.server.Restart(ctx); err != nil {
		w.t.Fatal(err)
	}
}

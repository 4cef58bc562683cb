package acceptance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate"
)

// throttle is what an app or a DBA does.
func (w *world) throttle(organization, actionType, maxStarts, per, maxRunning string) {
	w.t.Helper()
	w.exec(fmt.Sprintf(`INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per, max_running) VALUES ($1, $2, %s, %s, %s)
		ON CONFLICT (organization_id, action_type) DO UPDATE SET max_starts = excluded.max_starts, per = excluded.per, max_running = excluded.max_running`,
		orNull(maxStarts), orNull(per), orNull(maxRunning)), organization, actionType)
}

func orNull(s string) string {
	if s == "" {
		return "NULL"
	}
	return "'" + s + "'"
}

// mostInAnyWindow slides a window over all starts of an organization, of one type
// or of all (""): the largest number that any window of that length holds.
func (w *world) mostInAnyWindow(organization, actionType, per string) int64 {
	w.t.Helper()
	return one[int64](w, `SELECT coalesce(max(n), 0) FROM (
		SELECT count(*) OVER (ORDER BY started_at RANGE BETWEEN CURRENT ROW AND ($3::interval - interval '1 microsecond') FOLLOWING) AS n
		  FROM pgautomate.lead_stage_actions
		 WHERE organization_id = $1 AND ($2 = '' OR action_type = $2) AND started_at IS NOT NULL) x`, organization, actionType, per)
}

func (w *world) started(organization string) int64 {
	w.t.Helper()
	return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE organization_id = $1 AND started_at IS NOT NULL`, organization)
}

// TestP27ThrottleAndNeighbour: 16,000 of one organization at 600 a minute, one of
// another. Also 60 in any 5 s, so that several windows go by.
func TestP27ThrottleAndNeighbour(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.throttle("a", "log", "600", "1 minute", "")
	w.throttle("c", "log", "60", "5 seconds", "")
	a, b, c := w.stage("a", "p", "s", logs("x")...), w.stage("b", "p", "s", logs("x")...), w.stage("c", "p", "s", logs("x")...)
	w.run()
	w.enterMany("a", a, 16_000)
	w.enterMany("c", c, 2000)
	began := time.Now()
	for i := range 20 {
		run := w.enter("b", fmt.Sprint(i), b)
		w.untilRun(run, "completed")
		time.Sleep(time.Until(began.Add(time.Duration(i+1) * 800 * time.Millisecond)))
	}
	if late := one[float64](w, `SELECT max_seconds FROM pgautomate.action_lateness WHERE organization_id = 'b'`); late > 2 {
		t.Errorf("the neighbour's action started %.2f s late, want at most 2 s", late)
	} else {
		t.Logf("the neighbour's actions started at most %.3f s late", late)
	}
	if n := w.started("a"); n != 600 {
		t.Errorf("%d actions of a started within a minute, want exactly the 600 of its limit", n)
	}
	most, all := w.mostInAnyWindow("c", "log", "5 seconds"), w.started("c")
	if most > 60 {
		t.Errorf("%d starts of c within 5 s, want at most 60", most)
	}
	// Three whole windows and a part of a fourth; a window's end may come a 64th late.
	if all < 170 {
		t.Errorf("only %d actions of c started in %s: its limit is not used", all, time.Since(began).Round(time.Second))
	}
	t.Logf("c: %d started in %s, at most %d within 5 s", all, time.Since(began).Round(100*time.Millisecond), most)

	// A DBA sees why.
	got := one[string](w, `SELECT concat_ws('|', due, parked, running, held, reason, next_eligible_at BETWEEN now() AND now() + interval '1 minute')
		FROM pgautomate.action_queue WHERE organization_id = 'a'`)
	if got != "15400|0|0|15400|throttle: 600 starts in any 00:01:00|t" {
		t.Errorf("action_queue says %s", got)
	}

	// A higher limit takes effect within 10 s.
	w.throttle("a", "log", "1500", "1 minute", "")
	changed := time.Now()
	w.until("more start", func() bool { return w.started("a") > 600 })
	if took := time.Since(changed); took > 10*time.Second {
		t.Errorf("the higher limit took effect after %s", took)
	}
	w.until("it is used up", func() bool { return w.started("a") == 1500 })
	t.Logf("the higher limit was used up after %s", time.Since(changed).Round(time.Millisecond))
	// So does the end of any.
	w.exec(`DELETE FROM pgautomate.throttles WHERE organization_id = 'a'`)
	changed = time.Now()
	w.until("more start", func() bool { return w.started("a") > 1500 })
	if took := time.Since(changed); took > 10*time.Second {
		t.Errorf("the limit's end took effect after %s", took)
	}
}

// TestThrottleKinds: pausing, running at once, lower limits, wildcards. Each
// organization is a case; all run at once.
func TestThrottleKinds(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	for _, r := range [][5]string{
		{"paused", "*", "0", "1 minute", ""},
		{"held", "work", "", "1 minute", "0"},
		{"running", "work", "", "1 minute", "3"},
		{"lowered", "work", "40", "2 seconds", ""},
		// The most specific row counts: (org, type), (org, *), (*, type), (*, *).
		{"exact", "work", "5", "1 hour", ""}, {"exact", "*", "1", "1 hour", ""},
		{"own", "*", "4", "1 hour", ""},
		{"*", "rare", "3", "1 hour", ""},
		{"free", "rare", "", "1 hour", ""}, {"free", "work", "", "1 hour", ""},
		// One budget for all types that the row covers.
		{"shared", "*", "6", "1 hour", ""}, {"shared", "other", "2", "1 hour", ""},
	} {
		w.throttle(r[0], r[1], r[2], r[3], r[4])
	}
	slow := func(ctx context.Context, _ *pgautomate.Action) (pgautomate.Result, error) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
		return pgautomate.Result{}, ctx.Err()
	}
	w.run(handle("work", slow), handle("rare", slow), handle("other", slow))
	add := func(organization, kind string, n int) {
		w.exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at)
			SELECT $1, g::text, $2, now() FROM generate_series(1, $3::integer) g`, organization, kind, n)
	}
	for _, organization := range []string{"paused", "held", "running", "exact", "own", "free"} {
		add(organization, "work", 60)
	}
	add("lowered", "work", 1000)
	add("free", "rare", 20)
	add("anybody", "rare", 20)
	add("exact", "other", 20)
	for _, kind := range []string{"work", "rare", "other"} {
		add("shared", kind, 20)
	}
	started := func(organization string) string {
		return one[string](w, `SELECT coalesce(string_agg(concat_ws(' ', action_type, n), ', ' ORDER BY action_type), '') FROM (
			SELECT action_type, count(*) AS n FROM pgautomate.lead_stage_actions WHERE organization_id = $1 AND started_at IS NOT NULL GROUP BY 1) x`, organization)
	}
	w.until("what may run has run", func() bool {
		return started("running") == "work 60" && started("free") == "rare 20, work 60" && w.started("lowered") >= 40
	})
	for organization, want := range map[string]string{
		"paused": "", "held": "", "exact": "other 1, work 5", "own": "work 4", "anybody": "rare 3",
	} {
		w.until(organization+" has used its limit", func() bool { return started(organization) == want })
	}
	w.until("the shared budget is used", func() bool { return w.started("shared") == 8 })

	if most := one[int64](w, `SELECT max(n) FROM (SELECT (SELECT count(*) FROM pgautomate.lead_stage_actions o WHERE o.organization_id = 'running'
		AND o.started_at <= a.started_at AND o.finished_at > a.started_at) AS n FROM pgautomate.lead_stage_actions a WHERE organization_id = 'running') x`); most > 3 {
		t.Errorf("%d ran at once, want at most 3", most)
	}
	for organization, want := range map[string]string{"paused": "paused by throttle", "held": "paused by throttle"} {
		got := one[string](w, `SELECT reason || coalesce(next_eligible_at::text, '') FROM pgautomate.action_queue WHERE organization_id = $1`, organization)
		if got != want {
			t.Errorf("%s: action_queue gives the reason %q, want %q and no time", organization, got, want)
		}
	}

	// Lowered: from 40 to 5 in 2 s; raised from a pause.
	w.throttle("lowered", "work", "5", "2 seconds", "")
	w.throttle("paused", "*", "7", "1 hour", "")
	w.exec(`UPDATE pgautomate.throttles SET max_running = 2 WHERE organization_id = 'held'`)
	changed := one[time.Time](w, `SELECT clock_timestamp()`)
	w.until("the pause is over", func() bool { return started("paused") == "work 7" && started("held") == "work 60" })
	if took := one[float64](w, `SELECT extract(epoch FROM min(started_at) - $1)::float8 FROM pgautomate.lead_stage_actions WHERE organization_id IN ('paused', 'held')`, changed); took > 10 || took < 0 {
		t.Errorf("the pause was over after %.1f s, want 0 to 10", took)
	}
	// What had been queued under the old limit may still have started just after the change.
	settled := one[time.Time](w, `SELECT greatest(clock_timestamp(), $1::timestamptz + interval '2 seconds')`, changed)
	w.until("the lower limit is used", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE organization_id = 'lowered' AND started_at > $1`, settled) > 10
	})
	if n := one[int64](w, `SELECT max(n) FROM (SELECT count(*) OVER (ORDER BY started_at RANGE BETWEEN CURRENT ROW AND interval '1.999999 seconds' FOLLOWING) AS n
		FROM pgautomate.lead_stage_actions WHERE organization_id = 'lowered' AND started_at > $1) x`, settled); n > 5 {
		t.Errorf("%d starts within 2 s after the limit was lowered to 5", n)
	}
	if most := w.mostInAnyWindow("lowered", "work", "2 seconds"); most > 40 {
		t.Errorf("%d starts within 2 s, want at most 40", most)
	}

	// And nothing of what was settled before has moved.
	for organization, want := range map[string]string{"exact": "other 1, work 5", "own": "work 4", "anybody": "rare 3"} {
		if got := started(organization); got != want {
			t.Errorf("%s started %q, want %q", organization, got, want)
		}
	}
	if got := one[string](w, `SELECT concat_ws(' ', count(*) FILTER (WHERE action_type = 'other'), count(*) FILTER (WHERE action_type <> 'other'))
		FROM pgautomate.lead_stage_actions WHERE organization_id = 'shared' AND started_at IS NOT NULL`); got != "2 6" {
		t.Errorf("shared started %s (other, the rest), want 2 6", got)
	}
}

// TestThrottleHoldsAmongEngines: the limit is the organization's, however many
// processes claim, with retries and slow starts among them.
func TestThrottleHoldsAmongEngines(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.throttle("a", "*", "30", "1 second", "")
	stage := w.stage("a", "p", "s", act{"work", ""}, act{"log", `{"message": "x"}`})
	work := func(context.Context, *pgautomate.Action) (pgautomate.Result, error) { return pgautomate.Result{}, nil }
	w.run(handle("work", work))
	w.another(handle("work", work))
	w.another(handle("work", work))
	w.enterMany("a", stage, 100)
	w.until("all are done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == 100
	})
	if most := w.mostInAnyWindow("a", "", "1 second"); most > 30 {
		t.Errorf("%d starts within a second, want at most 30", most)
	}
	took := one[float64](w, `SELECT extract(epoch FROM max(started_at) - min(started_at))::float8 FROM pgautomate.lead_stage_actions`)
	if took > 12 {
		t.Errorf("200 actions at 30 a second took %.1f s", took)
	}
	t.Logf("200 actions at 30 a second took %.1f s", took)
}

// TestManyHeldOrganizations: nothing is filtered after a limit: however many
// organizations are held, the one that is not starts at once.
func TestManyHeldOrganizations(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.throttle("*", "log", "1", "1 hour", "")
	w.throttle("z", "log", "", "1 hour", "")
	w.run()
	w.exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at)
		SELECT 'held ' || g / 10, g::text, 'log', now() - interval '1 day' FROM generate_series(10, 10009) g`)
	w.until("each has had its one", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'completed'`) == 1000
	})
	for range 5 {
		id := one[int64](w, `INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at)
			VALUES ('z', '1', 'log', now()) RETURNING id`)
		w.until("z's is done", func() bool { return w.actionIs(id, "status") == "completed" })
		if late := one[float64](w, `SELECT extract(epoch FROM started_at - perform_at)::float8 FROM pgautomate.lead_stage_actions WHERE id = $1`, id); late > 2 {
			t.Errorf("started %.2f s late behind 1,000 held organizations", late)
		}
	}
	if n := one[int64](w, `SELECT max(n) FROM (SELECT count(*) AS n FROM pgautomate.lead_stage_actions WHERE started_at IS NOT NULL AND organization_id <> 'z' GROUP BY organization_id) x`); n != 1 {
		t.Errorf("an organization started %d, want 1", n)
	}
}

// TestWeights: where there is more to do than workers can, organizations take turns,
// by their weights.
func TestWeights(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.WorkersPerType = 4
	w.exec(`INSERT INTO pgautomate.organizations (id, weight) VALUES ('heavy', 3), ('light', 1)`)
	if got := w.fails(`UPDATE pgautomate.organizations SET weight = 0 WHERE id = 'light'`); !strings.Contains(got, "weight_is_1_to_100") {
		t.Errorf("a weight of 0: %s", got)
	}
	const each = 1500
	for _, organization := range []string{"heavy", "light", "usual"} {
		w.exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at)
			SELECT $1, g::text, 'work', now() FROM generate_series(1, $2::integer) g`, organization, each)
	}
	w.run(handle("work", func(context.Context, *pgautomate.Action) (pgautomate.Result, error) { return pgautomate.Result{}, nil }))
	w.until("the heavy one is through", func() bool { return w.started("heavy") == each })
	// Until then three of five turns were its own.
	type count struct{ Light, Usual int64 }
	at := one[time.Time](w, `SELECT max(started_at) FROM pgautomate.lead_stage_actions WHERE organization_id = 'heavy'`)
	before := func(organization string) int64 {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE organization_id = $1 AND started_at <= $2`, organization, at)
	}
	got := count{before("light"), before("usual")}
	for _, n := range []int64{got.Light, got.Usual} {
		if n < each/3*7/10 || n > each/3*13/10 {
			t.Errorf("while the heavy one had %d, the others had %+v; want about %d each", each, got, each/3)
		}
	}
	t.Logf("while the one of weight 3 had %d, those of weight 1 had %d and %d", each, got.Light, got.Usual)
}

// TestTimersRun: what goes on after a timer is no start, so no token is taken; but
// it runs, so max_running holds for it.
func TestTimersRun(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.throttle("a", "poll", "40", "1 hour", "3")
	var mu sync.Mutex
	running, most := 0, 0
	together := time.Now().Add(6 * time.Second) // then nearly all run out
	poll := func(ctx context.Context, a *pgautomate.Action) (pgautomate.Result, error) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		defer func() {
			mu.Lock()
			running--
			mu.Unlock()
		}()
		if !a.Resumed {
			return pgautomate.Result{Until: together}, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
		return pgautomate.Result{}, ctx.Err()
	}
	w.run(handle("poll", poll))
	w.exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, perform_at)
		SELECT 'a', g::text, 'poll', now() FROM generate_series(1, 50) g`)
	count := func(status string) int64 {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = $1::pgautomate.job_status`, status)
	}
	// One that may not go on says so.
	w.throttle("b", "poll", "", "1 hour", "0")
	w.exec(`INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, status, perform_at, started_at, timer)
		VALUES ('b', '1', 'poll', 'delayed', now() - interval '1 minute', now() - interval '1 hour', true)`)
	if got := one[string](w, `SELECT concat_ws('|', due, parked, held, reason, next_eligible_at) FROM pgautomate.action_queue WHERE organization_id = 'b'`); got != "1|0|1|paused by throttle" {
		t.Errorf("of a timer that may not go on action_queue says %s", got)
	}
	w.until("40 have started and gone on", func() bool { return count("completed") == 40 })
	if n := count("pending"); n != 10 {
		t.Errorf("%d have not started, want the 10 that no token is left for", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if most > 3 {
		t.Errorf("%d ran at once, want at most 3", most)
	}
}

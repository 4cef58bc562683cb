package acceptance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/firing"
)

// Triggers that begin to match by the passing of time: nobody writes anything when
// the moment comes.

func fromNow(direction string, seconds int) string {
	return fmt.Sprintf(`{"type":"offset","direction":%q,"moment":{"type":"now"},"offset":{"seconds":%d},"which_day_end":null}`, direction, seconds)
}

// within the next so many seconds.
func within(name string, seconds int) string {
	return field("lead", name, fmt.Sprintf(`{"type":"moment_range","on_or_after":{"type":"now"},"before":%s}`, fromNow("future", seconds)))
}

// since so many seconds.
func since(name string, seconds int) string {
	return field("lead", name, fmt.Sprintf(`{"type":"moment_range","before":%s}`, fromNow("past", seconds)))
}

// firedAt gives the moments at which a trigger fired for an object, in seconds
// from a moment.
func (w *world) firedAt(trigger int64, object string, from time.Time) string {
	w.t.Helper()
	var times []string
	for _, at := range list[time.Time](w, `SELECT committed_at FROM pgautomate.trigger_firings WHERE trigger_id = $1 AND object_id = $2 ORDER BY committed_at`, trigger, object) {
		times = append(times, fmt.Sprintf("%.3f", at.Sub(from).Seconds()))
	}
	return strings.Join(times, " ")
}

func (w *world) dbNow() time.Time {
	return one[time.Time](w, `SELECT date_trunc('second', clock_timestamp())`)
}

func (w *world) wantFired(what string, trigger int64, object string, from time.Time, want string) {
	w.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	got := w.firedAt(trigger, object, from)
	for got != want && len(got) < len(want) && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
		got = w.firedAt(trigger, object, from)
	}
	if got != want {
		w.t.Errorf("%s: fired at %q seconds, want %q", what, got, want)
	}
}

func TestTriggersByTheClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	// Those that are there when the trigger comes: one has passed, one comes, one
	// comes for another organization.
	t0 := w.dbNow()
	at := func(seconds float64) time.Time { return t0.Add(time.Duration(seconds * float64(time.Second))) }
	w.exec(`INSERT INTO lead (id, organization_id, created_at) VALUES (1, 'a', $1), (2, 'a', $2), (3, 'b', $2), (4, 'a', NULL)`, at(-100), at(6))
	soon := w.trigger("a", "renewal within 4 s", "lead", and("lead", within("created_at", 4)))
	passed := w.trigger("a", "renewal was a second ago", "lead", and("lead", since("created_at", 1)))
	if n := one[int](w, `SELECT count(*) FROM pgautomate.trigger_timers`); n != 2 {
		t.Errorf("%d timers are set, want one for each of two triggers", n)
	}
	// A bound is passed by the first microsecond after it.
	w.wantFired("a lead that was there", soon, "2", t0, "2.000")
	w.wantFired("a lead that was there", passed, "2", t0, "7.000")
	for _, id := range []string{"1", "3", "4"} {
		if n := w.firings(soon, id) + w.firings(passed, id); n != 0 {
			t.Errorf("lead %s: %d firings for the past, or for another organization", id, n)
		}
	}
	late := one[float64](w, `SELECT max(extract(epoch FROM fired_at - committed_at)) FROM pgautomate.trigger_firings`)
	t.Logf("fired %.3f s after the moment", late)

	// New, changed, moved away from in time, brought along without firing, deleted.
	t0 = w.dbNow()
	w.exec(`INSERT INTO lead (id, organization_id, created_at) VALUES (5, 'a', $1), (6, 'a', $1), (7, 'a', $1), (8, 'a', $2), (10, 'a', $1)`, at(3), at(-50))
	w.exec(`UPDATE lead SET created_at = $1 WHERE id = 6`, at(500))
	w.exec(`DELETE FROM lead WHERE id = 7`)
	w.exec(`UPDATE lead SET id = 11 WHERE id = 10`)
	w.tx(`SELECT pgautomate.suppress()`, fmt.Sprintf(`INSERT INTO lead (id, organization_id, created_at) VALUES (9, 'a', '%s')`, at(3).Format(time.RFC3339Nano)))
	w.wantFired("a new lead", passed, "5", t0, "4.000")
	w.wantFired("a lead of a suppressed import", passed, "9", t0, "4.000")
	w.wantFired("a lead with a new id", passed, "11", t0, "4.000")
	w.settle()
	for _, id := range []string{"6", "7", "10"} {
		if n := w.firings(passed, id); n != 0 {
			t.Errorf("lead %s: %d firings, though its date was moved or it is gone", id, n)
		}
	}
	if n := w.firings(passed, "8"); n != 1 {
		t.Errorf("a lead that was written with a date in the past: %d firings, want the one of its commit", n)
	}

	// The audit and the explanation name the moment.
	cause := one[string](w, `SELECT cause ->> 'clock' FROM pgautomate.trigger_firings WHERE trigger_id = $1 AND object_id = '5'`, passed)
	if got, err := time.Parse(time.RFC3339Nano, cause); err != nil || got.Sub(at(4)) != time.Microsecond {
		t.Errorf("the cause is the clock at %s, want a microsecond after %s", cause, at(4))
	}
	x, err := firing.Ask(t.Context(), w.db.Pool, passed, "5", nil)
	if err != nil {
		t.Fatal(err)
	}
	if x.Verdict != "fired" || truths(x) != " false/true, /queries/0 true/true, /queries/1 false/true" || !strings.Contains(x.Note, "passing of time") {
		t.Errorf("explained as %s: %s (%s)", x.Verdict, truths(x), x.Note)
	}
	w.until("the firings' actions have run", func() bool {
		return one[bool](w, `SELECT count(*) = (SELECT count(*) FROM pgautomate.trigger_firings) AND bool_and(status = 'completed') FROM pgautomate.lead_stage_actions WHERE firing_id IS NOT NULL`)
	})

	// Nobody is there when the moment comes: it fires late, but as of then, once.
	t0 = w.dbNow()
	w.exec(`INSERT INTO lead (id, organization_id, created_at) VALUES (20, 'a', $1), (21, 'a', $2)`, at(2), at(2))
	w.settle()
	w.halt()
	time.Sleep(time.Until(at(3.5)))
	w.exec(`UPDATE lead SET created_at = $1 WHERE id = 21`, at(600)) // after its moment
	w.run()
	w.wantFired("nobody was there", passed, "20", t0, "3.000")
	w.wantFired("nobody was there, and its date was moved afterwards", passed, "21", t0, "3.000")

	// Edited, paused, resumed, deleted: never for the past, and no timer is left.
	t0 = w.dbNow()
	w.exec(`INSERT INTO lead (id, organization_id, created_at) VALUES (30, 'a', $1), (31, 'a', $2)`, at(2), at(5))
	w.exec(`UPDATE pgautomate.triggers SET status = 'paused' WHERE id = $1`, passed)
	w.settle()
	if n := one[int](w, `SELECT count(*) FROM pgautomate.trigger_timers WHERE trigger_id = $1`, passed); n != 0 {
		t.Errorf("a paused trigger has %d timers", n)
	}
	time.Sleep(time.Until(at(3.5)))
	w.exec(`UPDATE pgautomate.triggers SET status = 'active' WHERE id = $1`, passed)
	w.wantFired("a lead whose moment came after the pause", passed, "31", t0, "6.000")
	if n := w.firings(passed, "30"); n != 0 {
		t.Error("fired for a moment during the pause")
	}
	w.exec(`UPDATE pgautomate.triggers SET query = $2 WHERE id = $1`, passed, and("lead", since("created_at", 1000)))
	w.settle()
	if n := one[int](w, `SELECT count(*) FROM pgautomate.trigger_timers WHERE trigger_id = $1 AND due_at < $2`, passed, at(600)); n != 0 {
		t.Errorf("%d timers of the version before are left", n)
	}
	w.exec(`DELETE FROM pgautomate.triggers WHERE id IN ($1, $2)`, passed, soon)
	w.settle()
	if n := one[int](w, `SELECT count(*) FROM pgautomate.trigger_timers`); n != 0 {
		t.Errorf("%d timers of deleted triggers are left", n)
	}
}

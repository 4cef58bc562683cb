package acceptance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/jobs"
)

// The life of a trigger's definition: when it begins to count, what a pause or
// an edit does, chains of triggers, suppression, and tables altered under it.

// T73: what was committed while the engine was down fires after its start, in
// order and with the commits' own times.
func TestFiringsAfterDowntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	id := w.trigger("a", "customers", "lead", qs("C"))
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'Q')`)
	w.settle()
	w.halt()
	var before, after []time.Time
	for _, status := range []string{"C", "L", "C"} {
		before = append(before, one[time.Time](w, `SELECT clock_timestamp()`))
		w.exec(`UPDATE lead SET status_id = $1 WHERE id = 1`, status)
		after = append(after, one[time.Time](w, `SELECT clock_timestamp()`))
	}
	w.run()
	w.settle()
	got := w.firingsOf(id)
	if len(got) != 2 {
		t.Fatalf("%d firings, want 2", len(got))
	}
	for i, f := range got {
		if c := 2 * i; f.committed.Before(before[c]) || f.committed.After(after[c]) {
			t.Errorf("firing %d is of %v, its commit was between %v and %v", i+1, f.committed, before[c], after[c])
		}
	}
	if ids := list[int64](w, `SELECT id FROM pgautomate.trigger_firings ORDER BY commit_lsn`); !slices.IsSorted(ids) {
		t.Errorf("the audit's order %v is not the commits'", ids)
	}
	w.everyFiringActed()
}

// T74: a trigger sees exactly the commits after its own, however late the engine is.
func TestTriggerMadeWhileTheEngineLags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'Q'), (2, 'a', 'Q'), (3, 'a', 'Q')`)
	w.settle()
	w.halt()
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	id := one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params)
		VALUES ('a', 'customers', 'lead', $1, 'log', '{"message":"fired"}') RETURNING id`, qs("C"))
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 2`)
	w.exec(`UPDATE pgautomate.triggers SET query = $1 WHERE id = $2`, qs("L"), id)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 3`)
	w.exec(`UPDATE lead SET status_id = 'L' WHERE id = 1`)
	// In the trigger's own commit it doesn't count yet.
	w.tx(`INSERT INTO lead (id, organization_id, status_id) VALUES (4, 'a', 'L')`,
		fmt.Sprintf(`UPDATE pgautomate.triggers SET name = 'lost' WHERE id = %d`, id))
	w.exec(`DELETE FROM pgautomate.triggers WHERE id = $1`, id)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (5, 'a', 'L')`)
	w.run()
	w.settle()
	got := list[string](w, `SELECT object_id || ' v' || trigger_version FROM pgautomate.trigger_firings WHERE trigger_id = $1 ORDER BY commit_lsn`, id)
	// Lead 4 is of the commit that made version 3: version 2 held.
	if want := []string{"2 v1", "1 v2", "4 v2"}; !slices.Equal(got, want) {
		t.Errorf("fired %v, want %v", got, want)
	}
	w.everyFiringActed()
}

// T75 and T76: pausing, resuming and editing never fire for the past.
func TestPauseAndEdit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	id := w.trigger("a", "customers", "lead", qs("C"))
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'Q'), (2, 'a', 'L')`)
	expect := func(what string, object string, n int) {
		t.Helper()
		w.settle()
		if got := w.firings(id, object); got != n {
			t.Errorf("%s: %d firings, want %d", what, got, n)
		}
	}
	w.exec(`UPDATE pgautomate.triggers SET status = 'paused' WHERE id = $1`, id)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	expect("T75 paused", "1", 0)
	w.exec(`UPDATE pgautomate.triggers SET status = 'active' WHERE id = $1`, id)
	expect("T75 resumed", "1", 0)
	w.exec(`UPDATE lead SET status_id = 'L' WHERE id = 1`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	expect("T75 after it was resumed", "1", 1)

	w.exec(`UPDATE pgautomate.triggers SET query = $1 WHERE id = $2`, qs("C", "L"), id)
	expect("T76 edited", "2", 0)
	w.exec(`UPDATE lead SET source = 'web' WHERE id = 2`)
	expect("T76 a row that matches already", "2", 0)
	w.exec(`UPDATE lead SET status_id = 'Q' WHERE id = 2`)
	w.exec(`UPDATE lead SET status_id = 'L' WHERE id = 2`)
	expect("T76 after the edit", "2", 1)
	if v := list[int32](w, `SELECT trigger_version FROM pgautomate.trigger_firings WHERE trigger_id = $1 ORDER BY commit_lsn`, id); !slices.Equal(v, []int32{1, 2}) {
		t.Errorf("the firings are of versions %v, want 1 and 2", v)
	}
	// Pausing is not an edit, nor is it undone by a restart.
	w.exec(`UPDATE pgautomate.triggers SET status = 'paused' WHERE id = $1`, id)
	w.settle()
	w.halt()
	w.run()
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (3, 'a', 'C')`)
	expect("paused across a restart", "3", 0)
	if v := one[int32](w, `SELECT version FROM pgautomate.triggers WHERE id = $1`, id); v != 2 {
		t.Errorf("the trigger's version is %d, want 2", v)
	}
	w.everyFiringActed()
}

// T77: two triggers that undo each other's work are stopped at the cap.
func TestPingPongStopsAtTheCap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.MaxDepth = 5
	w.crm()
	w.run()
	set := func(status string) string { return `{"object":"lead","set":{"status_id":"` + status + `"}}` }
	a := w.triggerWith("a", "A", "lead", qs("C"), "update_row", set("Q"))
	b := w.triggerWith("a", "B", "lead", qs("Q"), "update_row", set("C"))
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'L')`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	w.until("the chain is stopped", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.feed_notes WHERE kind = 'loop_suppressed'`) > 0
	})
	type step struct {
		Trigger int64
		Depth   int32
		Firing  int64
		Cause   *jobs.Cause
	}
	rows, err := w.db.Pool.Query(t.Context(), `SELECT trigger_id, depth, id, cause FROM pgautomate.trigger_firings ORDER BY commit_lsn`)
	if err != nil {
		t.Fatal(err)
	}
	var chain []step
	for rows.Next() {
		var s step
		if err := rows.Scan(&s.Trigger, &s.Depth, &s.Firing, &s.Cause); err != nil {
			t.Fatal(err)
		}
		chain = append(chain, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if len(chain) != w.config.MaxDepth+1 {
		t.Fatalf("%d firings, want %d", len(chain), w.config.MaxDepth+1)
	}
	names := []string{fmt.Sprintf("%d A", a), fmt.Sprintf("%d B", b)}
	var want []string
	for i, s := range chain {
		if s.Trigger != []int64{a, b}[i%2] || int(s.Depth) != i {
			t.Errorf("firing %d is of trigger %d at depth %d", i, s.Trigger, s.Depth)
		}
		switch {
		case i == 0 && s.Cause != nil:
			t.Errorf("a person's change has the cause %+v", s.Cause)
		case i > 0 && s.Cause == nil:
			t.Errorf("firing %d has no cause", i)
		case i > 0 && (s.Cause.FiringID != chain[i-1].Firing || s.Cause.Depth != i || s.Cause.ActionID == 0 || !slices.Equal(s.Cause.Chain, want)):
			t.Errorf("firing %d has the cause %+v, want firing %d and the chain %v", i, s.Cause, chain[i-1].Firing, want)
		}
		want = append(want, names[i%2])
	}
	want = append(want, names[len(chain)%2]) // the one that was stopped
	var detail struct {
		Chain    []string `json:"chain"`
		Depth    int      `json:"depth"`
		ObjectID string   `json:"object_id"`
	}
	raw := one[json.RawMessage](w, `SELECT detail FROM pgautomate.feed_notes WHERE kind = 'loop_suppressed'`)
	if err := json.Unmarshal(raw, &detail); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(detail.Chain, want) || detail.Depth != w.config.MaxDepth+1 || detail.ObjectID != "1" {
		t.Errorf("feed_notes says %s, want the chain %q", raw, want)
	}
	// A person's next change begins anew.
	w.exec(`UPDATE lead SET status_id = 'L' WHERE id = 1`)
	w.exec(`UPDATE lead SET status_id = 'Q' WHERE id = 1`)
	w.until("a new chain is stopped", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.feed_notes WHERE kind = 'loop_suppressed'`) == 2
	})
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.trigger_firings`); int(n) != 2*len(chain) {
		t.Errorf("%d firings, want %d", n, 2*len(chain))
	}
	w.everyFiringActed()
}

// T78: an import says that it wants no automations.
func TestSuppress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	id := w.trigger("a", "customers", "lead", qs("C"))
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT i, 'a', 'Q' FROM generate_series(1, 500) i`)
	w.tx(`UPDATE lead SET status_id = 'C'`, `SELECT pgautomate.suppress()`)
	// Rolled back, the wish is gone with its transaction.
	w.tx(`SAVEPOINT s`, `SELECT pgautomate.suppress()`, `ROLLBACK TO s`, `INSERT INTO lead (id, organization_id, status_id) VALUES (501, 'a', 'C')`)
	w.settle()
	if n := w.firings(id, ""); n != 1 {
		t.Errorf("%d firings, want the one of lead 501", n)
	}
	if counts := list[int64](w, `SELECT count FROM pgautomate.feed_notes WHERE kind = 'suppressed' AND commit_lsn IS NOT NULL`); !slices.Equal(counts, []int64{500}) {
		t.Errorf("feed_notes counts %v, want one row with 500", counts)
	}
	w.exec(`UPDATE lead SET status_id = 'L' WHERE id = 7`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 7`)
	w.settle()
	if n := w.firings(id, "7"); n != 1 {
		t.Errorf("%d firings of a later transition, want 1", n)
	}
	w.everyFiringActed()
}

// T79: a column that is dropped, renamed or retyped breaks the triggers on it and
// nothing else.
func TestAlteredTable(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, alter, query, says, mended, change, back string }{
		{
			"dropped", `ALTER TABLE lead DROP source`, and("lead", field("lead", "source", term("web"))), "source",
			and("lead", field("lead", "owner_id", term("u1"))), `owner_id = 'u1'`, `ALTER TABLE lead ADD source text`,
		},
		{
			"renamed", `ALTER TABLE lead RENAME source TO origin`, and("lead", field("lead", "source", term("web"))), "source",
			and("lead", field("lead", "origin", term("web"))), `origin = 'web'`, `ALTER TABLE lead RENAME origin TO source`,
		},
		{
			"retyped", `ALTER TABLE lead ALTER value TYPE text`, and("lead", field("lead", "value", numbers(`"gte":10`))), "value",
			and("lead", field("lead", "value", term("12"))), `value = '12'`, `ALTER TABLE lead ALTER value TYPE numeric USING value::numeric`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.crm()
			w.run()
			other := w.trigger("a", "other", "lead", qs("C"))
			broken := w.trigger("a", "on the column", "lead", tt.query)
			untouched := w.trigger("a", "left alone", "lead", tt.query)
			w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'Q'), (2, 'a', 'Q')`)
			w.settle()

			w.exec(tt.alter)
			w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
			w.settle()
			w.hasStatus(broken, "invalid")
			if e := w.errorOf(broken); !strings.Contains(e, tt.says) {
				t.Errorf("the error is %q", e)
			}
			if n := one[int64](w, `SELECT count(*) FROM pgautomate.problems WHERE subject LIKE $1`, fmt.Sprintf("trigger %d %%", broken)); n != 1 {
				t.Errorf("the view problems has %d rows for the trigger", n)
			}
			if n := w.firings(other, "1"); n != 1 {
				t.Errorf("the other trigger fired %d times, want 1", n)
			}

			w.exec(`UPDATE pgautomate.triggers SET query = $1 WHERE id = $2`, tt.mended, broken)
			w.exec(`UPDATE lead SET ` + tt.change + ` WHERE id = 2`)
			w.settle()
			w.hasStatus(broken, "active")
			if n := w.firings(broken, "2"); n != 1 {
				t.Errorf("the mended trigger fired %d times, want 1", n)
			}

			// The table mended instead: the trigger that nobody touched is whole again.
			w.exec(tt.back)
			w.exec(`INSERT INTO lead (id, organization_id, source, value) VALUES (3, 'a', 'web', 12)`)
			w.settle()
			w.hasStatus(untouched, "active")
			if n := w.firings(untouched, "3"); n != 1 {
				t.Errorf("the trigger on the mended table fired %d times, want 1", n)
			}
			w.everyFiringActed()
		})
	}
}

// The table itself is renamed, or the column that tells whose a row is: its
// triggers say so, and are whole again when it is back.
func TestRenamedTable(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, away, insert, says, back string }{
		{
			"organization column", `ALTER TABLE lead RENAME organization_id TO org`, `INSERT INTO lead (org, status_id) VALUES ('a', 'C')`,
			"--organization", `ALTER TABLE lead RENAME org TO organization_id`,
		},
		{
			"table", `ALTER TABLE lead RENAME TO prospect`, `INSERT INTO prospect (organization_id, status_id) VALUES ('a', 'C')`,
			"not watched", `ALTER TABLE prospect RENAME TO lead`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.crm()
			w.run()
			id, other := w.trigger("a", "customers", "lead", qs("C")), w.trigger("a", "CEOs", "contact", and("contact", field("contact", "title", exact("CEO"))))
			w.exec(tt.away)
			w.exec(tt.insert)
			w.exec(`INSERT INTO contact (organization_id, title) VALUES ('a', 'CEO')`)
			w.settle()
			w.hasStatus(id, "invalid")
			if e := w.errorOf(id); !strings.Contains(e, tt.says) {
				t.Errorf("the error is %q", e)
			}
			if x, y := w.firings(id, ""), w.firings(other, ""); x != 0 || y != 1 {
				t.Errorf("%d firings, and %d of the other trigger, want 0 and 1", x, y)
			}
			w.exec(tt.back)
			w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (77, 'a', 'C')`)
			w.settle()
			w.hasStatus(id, "active")
			if n := w.firings(id, "77"); n != 1 {
				t.Errorf("%d firings when all is as it was, want 1", n)
			}
		})
	}
}

package acceptance

import (
	"fmt"
	"slices"
	"testing"

	"github.com/pgautomate/pgautomate/backfill"
	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db/dbq"
)

func (w *world) backfill(trigger int64, perMinute *int32) int64 {
	w.t.Helper()
	t, err := dbq.New(w.db.Pool).ApiGetTrigger(w.t.Context(), dbq.ApiGetTriggerParams{ID: trigger})
	if err != nil {
		w.t.Fatal(err)
	}
	client, err := backfill.Client(w.db.Pool)
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := backfill.Start(w.t.Context(), w.db.Pool, client, &t, nil, perMinute)
	if err != nil {
		w.t.Fatal(err)
	}
	return b.ID
}

func (w *world) untilBackfill(id int64, status string) {
	w.t.Helper()
	w.until("the backfill is "+status, func() bool {
		return one[string](w, `SELECT status::text FROM pgautomate.trigger_backfills WHERE id = $1`, id) == status
	})
}

// A trigger that is switched on late is fired for the leads that were there before;
// its actions run as for any other firing, and for each lead once.
func TestBackfillRunsActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.exec(`INSERT INTO lead (id, organization_id, status_id, value, custom) SELECT n, 'A', 'customer', n * 1.50, '{"cf": [1, "a"]}' FROM generate_series(1, 300) n`)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1001, 'A', 'new'), (1002, 'B', 'customer')`)
	w.run()
	trigger := w.trigger("A", "T", "lead", qs("customer"))
	if n := w.firings(trigger, ""); n != 0 {
		t.Fatalf("switching on fired %d times", n)
	}
	id := w.backfill(trigger, nil)
	w.untilBackfill(id, "completed")
	w.until("all actions are done", func() bool {
		return one[int](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'completed'`) == 300
	})
	if n := one[int](w, `SELECT count(DISTINCT lead_id) FROM pgautomate.lead_stage_actions WHERE organization_id = 'A' AND action_type = 'log'`); n != 300 {
		t.Errorf("actions for %d leads", n)
	}
	// The row is told as the feed tells it.
	w.exec(`UPDATE lead SET status_id = 'new' WHERE id = 7`)
	w.exec(`UPDATE lead SET status_id = 'customer' WHERE id = 7`)
	w.until("the feed fires for lead 7", func() bool { return w.firings(trigger, "7") == 2 })
	if n := one[int](w, `SELECT count(DISTINCT data) FROM pgautomate.trigger_firings WHERE object_id = '7'`); n != 1 {
		t.Errorf("the rows differ: %v", list[string](w, `SELECT data::text FROM pgautomate.trigger_firings WHERE object_id = '7'`))
	}
}

// The engine ends in the middle, again and again; the next one goes on.
func TestBackfillGoesOnAfterRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT n, 'A', 'customer' FROM generate_series(1, 4000) n`)
	w.run()
	trigger := w.trigger("A", "T", "lead", qs("customer"))
	id := w.backfill(trigger, nil)
	for part := range 3 {
		w.until("some are fired", func() bool {
			return one[int64](w, `SELECT fired FROM pgautomate.trigger_backfills WHERE id = $1`, id) > int64(part*500)
		})
		w.halt()
		// A process that was killed leaves its job running; nobody snoozes it.
		w.exec(`DELETE FROM pgautomate.river_job WHERE kind = 'backfill'`)
		w.exec(`UPDATE pgautomate.trigger_backfills SET next_at = next_at - interval '1 minute', knocked_at = knocked_at - interval '1 minute'`)
		w.run()
	}
	w.untilBackfill(id, "completed")
	if n, objects := w.firings(trigger, ""), one[int](w, `SELECT count(DISTINCT object_id) FROM pgautomate.trigger_firings`); n != 4000 || objects != 4000 {
		t.Errorf("%d firings for %d leads", n, objects)
	}
	w.until("each has its action", func() bool {
		return one[int](w, `SELECT count(DISTINCT firing_id) FROM pgautomate.lead_stage_actions`) == 4000
	})
}

// One that is canceled by plain SQL stops.
func TestBackfillIsCanceledBySQL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT n, 'A', 'customer' FROM generate_series(1, 50) n`)
	w.run()
	trigger := w.trigger("A", "T", "lead", qs("customer"))
	perMinute := int32(60)
	id := w.backfill(trigger, &perMinute)
	w.until("it began", func() bool { return w.firings(trigger, "") > 0 })
	w.exec(`UPDATE pgautomate.trigger_backfills SET status = 'canceled' WHERE id = $1`, id)
	fired := w.firings(trigger, "")
	w.until("its list is dropped", func() bool { return one[int](w, `SELECT count(*) FROM pgautomate.trigger_backfill_objects`) == 0 })
	if n := w.firings(trigger, ""); n != fired || n >= 50 {
		t.Errorf("%d firings, then %d", fired, n)
	}
	if n := one[int64](w, `SELECT fired FROM pgautomate.trigger_backfills WHERE finished_at IS NOT NULL`); n != int64(fired) {
		t.Errorf("%d are told, %d fired", n, fired)
	}
}

// What a preview shows is what a backfill fires for, and what the feed would fire for.
func TestPreviewIsWhatFires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	queries := []string{
		qs("customer"),
		and("lead", field("lead", "value", `{"type":"number_range","gte":2.5}`, true)),
		and("lead", field("lead", "tags", term("a", "É"))),
		and("lead", field("lead", "description", `{"type":"text","mode":"exact_value","value":"CEO"}`)),
		and("lead", field("lead", "close_date", `{"type":"moment_range","before":{"type":"fixed_local_date","value":"2026-03-29","which":"end"}}`)),
		and("lead", `{"type":"field_condition","field":{"type":"custom_field","custom_field_id":"cf"},"condition":{"type":"term","values":["12"]}}`),
	}
	var triggers []int64
	for i, q := range queries {
		triggers = append(triggers, w.trigger("A", fmt.Sprint(i), "lead", q))
	}
	w.exec(`INSERT INTO lead (organization_id, status_id, value, tags, description, close_date, custom)
		SELECT CASE WHEN n % 7 = 0 THEN 'B' ELSE 'A' END, CASE WHEN n % 2 = 0 THEN 'customer' END, nullif(n % 5, 0), CASE WHEN n % 3 = 0 THEN ARRAY['É', NULL] ELSE '{}' END,
		       (ARRAY['ceo', 'CEO', 'Ceo ', NULL])[n % 4 + 1], date '2026-03-26' + n % 6, (ARRAY['{"cf": 12}', '{"cf": ["12"]}', '{"cf": null}', '[]'])[n % 4 + 1]::jsonb
		  FROM generate_series(1, 60) n`)
	w.settle()
	tables, err := catalog.New(w.db.Pool).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, trigger := range triggers {
		p, err := tables.Preview(t.Context(), w.db.Pool, "A", "lead", []byte(queries[i]), nil)
		if err != nil {
			t.Fatal(err)
		}
		fed := w.firings(trigger, "")
		if p.Count != int64(fed) || fed == 0 || fed == 60 {
			t.Errorf("%s: the preview finds %d, the feed fired for %d", queries[i], p.Count, fed)
		}
		id := w.backfill(trigger, nil)
		w.untilBackfill(id, "completed")
		both := list[string](w, `SELECT object_id FROM pgautomate.trigger_firings WHERE trigger_id = $1 GROUP BY object_id HAVING count(*) = 2`, trigger)
		if len(both) != fed || w.firings(trigger, "") != 2*fed {
			t.Errorf("%s: the backfill fired for others than the feed", queries[i])
		}
		for _, m := range p.Sample {
			if !slices.Contains(both, m.ID) {
				t.Errorf("%s: %s is previewed and did not fire", queries[i], m.ID)
			}
		}
	}
}

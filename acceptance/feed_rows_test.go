package acceptance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/catalog"
)

// What the log says of rows: leads that go or get another id while a pipeline
// has them, tables whose updates hide the old row, large transactions.

// enrolled makes a pipeline that waits, in an organization, and lets leads enter it.
func (w *world) enrolled(organization string, leads ...string) {
	w.t.Helper()
	stage := one[int64](w, `WITH p AS (
			INSERT INTO pgautomate.pipelines (organization_id, name) VALUES ($1, 'parked') RETURNING id
		), s AS (
			INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT id, 'wait' FROM p RETURNING id
		)
		INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params)
		SELECT s.id, n, t, q::jsonb FROM s, (VALUES (1, 'wait', '{"for":"2 days"}'), (2, 'log', '{"message":"{{ lead.id }}"}')) a (n, t, q)
		RETURNING pipeline_stage_id`, organization)
	for _, lead := range leads {
		w.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ($1, $2, $3)`, organization, lead, stage)
	}
	w.until("the leads wait", func() bool {
		return int(one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions a JOIN pgautomate.lead_stages s ON s.id = a.lead_stage_id
			WHERE s.organization_id = $1 AND a.status = 'delayed'`, organization)) == len(leads)
	})
}

// runOf gives a lead's only run as "status reason", with its actions' statuses.
func (w *world) runOf(lead string) string {
	w.t.Helper()
	return one[string](w, `SELECT coalesce((SELECT s.status || coalesce(' ' || s.reason, '') || ' (' ||
			(SELECT string_agg(a.status::text || coalesce(' ' || a.reason, ''), ', ' ORDER BY a.sequence_number) FROM pgautomate.lead_stage_actions a WHERE a.lead_stage_id = s.id) || ')'
		FROM pgautomate.lead_stages s WHERE s.lead_id = $1), 'none')`, lead)
}

func (w *world) awaitRun(lead, want string) {
	w.t.Helper()
	w.until(fmt.Sprintf("the run of lead %s is %s, not %s", lead, want, w.runOf(lead)), func() bool { return w.runOf(lead) == want })
}

// T05, T63 and T66: runs follow what becomes of their lead.
func TestRunsFollowTheirLead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	a, b := w.trigger("a", "customers", "lead", qs("C")), w.trigger("b", "customers", "lead", qs("C"))
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT i, 'a', 'C' FROM generate_series(1, 6) i`)
	w.settle()
	w.enrolled("a", "1", "2", "3", "4", "5", "6")
	const waiting = "active (delayed, pending)"

	w.exec(`DELETE FROM lead WHERE id = 1`)
	w.exec(`UPDATE lead SET organization_id = 'b' WHERE id = 2`)
	w.exec(`UPDATE lead SET id = 30 WHERE id = 3`)
	w.exec(`UPDATE lead SET source = 'web' WHERE id = 4`)
	w.tx(`DELETE FROM lead WHERE id = 5`, `INSERT INTO lead (id, organization_id, status_id) VALUES (5, 'a', 'L')`)
	// Suppressing automations doesn't keep a deleted lead in its pipeline.
	w.tx(`SELECT pgautomate.suppress()`, `DELETE FROM lead WHERE id = 6`)
	w.settle()

	w.awaitRun("1", "exited object_deleted (canceled object_deleted, canceled object_deleted)")
	w.awaitRun("2", "exited left_organization (canceled left_organization, canceled left_organization)")
	w.awaitRun("30", waiting)
	w.awaitRun("6", "exited object_deleted (canceled object_deleted, canceled object_deleted)")
	for lead, want := range map[string]string{"3": "none", "4": waiting, "5": waiting} {
		if got := w.runOf(lead); got != want {
			t.Errorf("the run of lead %s is %s, want %s", lead, got, want)
		}
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE lead_stage_id IS NOT NULL AND lead_id = '30'`); n != 2 {
		t.Errorf("%d actions followed lead 3 to its new id, want 2", n)
	}
	if n := w.firings(a, ""); n != 6 {
		t.Errorf("organization a: %d firings, want the 6 of the inserts", n)
	}
	if x, y := w.firings(b, "2"), w.firings(b, ""); x != 1 || y != 1 {
		t.Errorf("organization b: %d firings for lead 2, %d in all, want 1 and 1", x, y)
	}
	// Under its new id it is the same lead: deleted, it goes.
	w.exec(`DELETE FROM lead WHERE id = 30`)
	w.awaitRun("30", "exited object_deleted (canceled object_deleted, canceled object_deleted)")
}

// T61: a trigger on a table whose updates hide the old row says so at once.
func TestTriggerOnATableWithoutFullIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.exec(`ALTER TABLE lead REPLICA IDENTITY DEFAULT`)
	w.run()
	id := w.trigger("a", "customers", "lead", qs("C"))
	w.hasStatus(id, "degraded")
	if e := w.errorOf(id); !strings.Contains(e, "ALTER TABLE public.lead REPLICA IDENTITY FULL") {
		t.Errorf("the error is %q, it names no ALTER TABLE", e)
	}
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'Q'), (2, 'a', 'C')`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	w.settle()
	if x, y := w.firings(id, "1"), w.firings(id, "2"); x != 0 || y != 1 {
		t.Errorf("%d firings of the update, %d of the insert, want 0 and 1", x, y)
	}
	if !w.doctorSays("REPLICA IDENTITY FULL") {
		t.Error("doctor doesn't say so")
	}
}

// T62: the identity is taken away under an active trigger, and given back.
func TestIdentityTakenAwayAndGivenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	id := w.trigger("a", "customers", "lead", qs("C"))
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'Q'), (2, 'a', 'Q')`)
	w.exec(`ALTER TABLE lead REPLICA IDENTITY DEFAULT`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	w.settle()
	w.hasStatus(id, "degraded")
	if n := w.firings(id, ""); n != 0 {
		t.Errorf("%d firings without the old row, want 0", n)
	}
	w.until("the view problems names the fix", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.problems WHERE problem LIKE '%ALTER TABLE public.lead REPLICA IDENTITY FULL%'`) == 1
	})
	// A restart changes nothing about it.
	w.halt()
	w.run()
	w.settle()
	w.hasStatus(id, "degraded")

	w.exec(`ALTER TABLE lead REPLICA IDENTITY FULL`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 2`)
	w.settle()
	w.hasStatus(id, "active")
	if e := w.errorOf(id); e != "" {
		t.Errorf("the error stays: %q", e)
	}
	if x, y := w.firings(id, "1"), w.firings(id, "2"); x != 0 || y != 1 {
		t.Errorf("%d and %d firings, want 0 and 1", x, y)
	}
}

func (w *world) doctorSays(part string) bool {
	w.t.Helper()
	problems, err := catalog.Doctor(w.t.Context(), w.db.Pool)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range problems {
		if strings.Contains(p.Problem+" "+p.Fix, part) {
			return true
		}
	}
	return false
}

// T68: a publication that hides rows or columns is refused.
func TestPublicationThatHides(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]string{
		"row filter": `lead WHERE (status_id <> 'L')`, "column list": `lead (id, organization_id, source)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.crm()
			if one[bool](w, `SELECT current_setting('server_version_num')::int < 150000`) {
				t.Skip("Postgres 14 has neither row filters nor column lists")
			}
			w.exec(`ALTER PUBLICATION pgautomate DROP TABLE lead`)
			w.exec(`ALTER PUBLICATION pgautomate ADD TABLE ` + table)
			err := w.runs()
			if err == nil || !strings.Contains(err.Error(), "lead (a "+name+")") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("the engine ended with %v", err)
			}
			if !w.doctorSays("public.lead has a row filter or column list") {
				t.Error("doctor doesn't report it")
			}
			// What doctor says to do helps.
			w.exec(`ALTER PUBLICATION pgautomate DROP TABLE public.lead`)
			w.watch(catalog.WatchOptions{Table: "public.lead", As: "lead", Organization: "organization_id"})
			w.run()
			id := w.trigger("a", "customers", "lead", qs("C"))
			w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'L')`)
			w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
			w.settle()
			if n := w.firings(id, "1"); n != 1 {
				t.Errorf("%d firings, want 1", n)
			}
		})
	}
}

// runs runs an engine that is expected to end by itself.
func (w *world) runs() error {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	engine, err := pgautomate.New(ctx, w.config)
	if err != nil {
		return err
	}
	return engine.Run(ctx)
}

// T69 and T70: one statement over 16,000 rows.
func TestLargeUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	const rows = 16_000
	w.exec(`INSERT INTO lead (id, organization_id, status_id, source, description)
		SELECT i, 'a', 'Q', 'web', repeat('x', 200) FROM generate_series(1, $1) i`, rows)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (100001, 'b', 'Q')`)
	w.settle()
	a, b := w.trigger("a", "customers", "lead", qs("C")), w.trigger("b", "customers", "lead", qs("C"))
	w.exec(`UPDATE lead SET status_id = 'C' WHERE organization_id = 'a'`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE organization_id = 'b'`)
	w.settle()
	if n, objects := w.firings(a, ""), one[int64](w, `SELECT count(DISTINCT object_id) FROM pgautomate.trigger_firings WHERE trigger_id = $1`, a); n != rows || objects != rows {
		t.Errorf("T69: %d firings of %d leads, want %d", n, objects, rows)
	}
	if n := w.firings(b, ""); n != 1 {
		t.Errorf("T69: the other organization: %d firings, want 1", n)
	}
	late := one[float64](w, `SELECT extract(epoch FROM b.fired_at - a.fired_at)::float8 FROM
		(SELECT max(fired_at) AS fired_at FROM pgautomate.trigger_firings WHERE trigger_id = $1) a,
		(SELECT fired_at FROM pgautomate.trigger_firings WHERE trigger_id = $2) b`, a, b)
	if late < 0 || late > 2 {
		t.Errorf("T69: the next commit was decided %.1f s after its turn", late)
	}

	// T70: 4,000 of them are there already.
	w.exec(`UPDATE lead SET status_id = 'Q' WHERE organization_id = 'a' AND id > 4000`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE organization_id = 'a'`)
	w.settle()
	if n := w.firings(a, ""); n != rows+12_000 {
		t.Errorf("T70: %d firings, want 12000", n-rows)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.trigger_firings WHERE trigger_id = $1 AND object_id::int <= 4000`, a); n != 4000 {
		t.Errorf("T70: the leads that were there already fired %d times again", n-4000)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.river_job WHERE kind = 'firing'`); n != rows+12_000+1 {
		t.Errorf("%d River jobs", n)
	}
}

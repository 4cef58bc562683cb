package acceptance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/catalog"
)

// The cases of triggers across related objects.

func hasRelated(this, other, query string, more ...string) string {
	return fmt.Sprintf(`{"type":"has_related","this_object_type":%q,"related_object_type":%q,"related_query":%s%s}`, this, other, query, comma(more))
}

const negated = `"negate":true`

// isCEO is the condition on contacts in the cases' QC.
var isCEO = field("contact", "title", exact("CEO"))

func relatedCases() []ruleCase {
	statusC := field("lead", "status_id", term("C"))
	ceo := hasRelated("lead", "contact", isCEO)
	qc := and("lead", statusC, ceo)
	qn := and("lead", hasRelated("lead", "contact", isCEO, negated))
	lead := func(id, status string) string {
		return `INSERT INTO lead (id, organization_id, status_id) VALUES ({` + id + `}, '{org}', '` + status + `')`
	}
	contact := func(id, lead, title string) string {
		return `INSERT INTO contact (id, organization_id, lead_id, title) VALUES ({` + id + `}, '{org}', {` + lead + `}, '` + title + `')`
	}
	does := func(sql string, fires ...string) step { return step{sql: sql, fires: strings.Join(fires, " ")} }
	email := field("contact", "email", exists)
	rich := hasRelated("lead", "opportunity", field("opportunity", "value", numbers(`"gte":1000`)))
	return []ruleCase{
		{"T41", "lead", qc, []step{does(lead("1", "Q")), does(contact("2", "1", "CEO")), setLead("status_id = 'C'", "1").as("updated")}},
		{"T42", "lead", qc, []step{does(lead("1", "C")), does(contact("2", "1", "CTO")), does(`UPDATE contact SET title = 'ceo' WHERE id = {2}`, "1")}},
		{"T43", "lead", qc, []step{does(lead("1", "C")), does(contact("2", "1", "CEO"), "1"), does(contact("3", "1", "CTO")), does(`UPDATE contact SET title = 'CEO' WHERE id = {3}`)}},
		{"T44", "lead", qc, []step{does(lead("1", "Q")), does(contact("2", "1", "CTO")), does(`UPDATE contact SET title = 'CEO' WHERE id = {2}`)}},
		{"T45", "lead", qc, []step{does(lead("1", "C")), does(contact("2", "1", "CEO"), "1")}},
		{"T46", "lead", qc, []step{
			does(lead("1", "C")), does(contact("2", "1", "CEO"), "1"), does(`DELETE FROM contact WHERE id = {2}`),
			does(contact("3", "1", "CTO")), does(`UPDATE contact SET title = 'CEO' WHERE id = {3}`, "1"),
		}},
		{"T47", "lead", qc, []step{
			does(lead("1", "C")), does(lead("2", "C")), does(contact("3", "1", "CEO"), "1"),
			does(`UPDATE contact SET lead_id = {2} WHERE id = {3}`, "2"), does(`UPDATE contact SET lead_id = {1} WHERE id = {3}`, "1"),
		}},
		{"T50", "lead", qc, []step{does(lead("1", "C")+";"+contact("2", "1", "CEO"), "1").as("created")}},
		{"T50, the contact first", "lead", qc, []step{
			does(`INSERT INTO contact (id, organization_id, title) VALUES ({2}, '{org}', 'CEO');` + lead("1", "C") + `; UPDATE contact SET lead_id = {1} WHERE id = {2}`).fired(),
		}},
		{"T52", "contact", and("contact", isCEO, hasRelated("contact", "lead", statusC)), []step{
			does(lead("1", "Q")), does(contact("2", "1", "CEO")), does(contact("3", "1", "CEO")), does(contact("4", "1", "CTO")), does(contact("5", "1", "CEO")),
			setLead("status_id = 'C'", "2 3 5").as("updated"), setLead("source = 'web'", ""), does(`UPDATE contact SET title = 'CEO' WHERE id = {4}`, "4"),
		}},
		{"T53", "lead", and("lead", rich), []step{
			does(lead("1", "Q")),
			does(`INSERT INTO opportunity (id, organization_id, lead_id, value) VALUES ({2}, '{org}', {1}, 1200), ({3}, '{org}', {1}, 500)`, "1"),
			does(`UPDATE opportunity SET value = 900 WHERE id = {2}; UPDATE opportunity SET value = 1500 WHERE id = {3}`),
			does(`UPDATE opportunity SET value = 1 WHERE id = {3}`), does(`UPDATE opportunity SET value = 1000 WHERE id = {2}`, "1"),
		}},
		{"T54", "lead", and("lead", statusC, hasRelated("lead", "contact", group("and", false, isCEO, email))), []step{
			does(lead("1", "Q")), does(contact("2", "1", "CEO")), does(contact("3", "1", "CTO")), does(`UPDATE contact SET email = 'x@example.com' WHERE id = {3}`),
			setLead("status_id = 'C'", ""), does(`UPDATE contact SET email = 'y@example.com' WHERE id = {2}`, "1"),
		}},
		{"T55", "lead", and("lead", statusC, ceo, hasRelated("lead", "contact", email)), []step{
			does(lead("1", "Q")), does(contact("2", "1", "CEO")), does(contact("3", "1", "CTO")), does(`UPDATE contact SET email = 'x@example.com' WHERE id = {3}`),
			setLead("status_id = 'C'", "1"),
		}},
		{"T56", "lead", qc, []step{
			does(lead("1", "C")), does(`INSERT INTO contact (id, organization_id, title) VALUES ({2}, '{org}', 'CEO')`), does(`UPDATE contact SET lead_id = {1} WHERE id = {2}`, "1"),
		}},

		{"QN", "lead", qn, []step{
			does(lead("1", "Q"), "1").as("created"), does(contact("2", "1", "CEO")), does(`UPDATE contact SET title = 'CTO' WHERE id = {2}`, "1"),
			does(`UPDATE contact SET title = 'CEO' WHERE id = {2}`), does(`DELETE FROM contact WHERE id = {2}`, "1"),
			does(lead("3", "Q") + ";" + contact("4", "3", "CEO")), does(`UPDATE contact SET lead_id = {1} WHERE id = {4}`, "3"),
		}},
		{"a negated condition inside", "lead", and("lead", hasRelated("lead", "contact", field("contact", "title", exact("CEO"), true))), []step{
			does(lead("1", "Q")), does(contact("2", "1", "CEO")), does(`UPDATE contact SET title = NULL WHERE id = {2}`, "1"),
		}},
		{"any contact at all", "lead", and("lead", hasRelated("lead", "contact", `{"type":"match_all"}`)), []step{
			does(lead("1", "Q")), does(contact("2", "1", "x"), "1"), does(contact("3", "1", "x")), does(`DELETE FROM contact WHERE lead_id = {1}`), does(contact("4", "1", "x"), "1"),
		}},
		{"or", "lead", and("lead", group("or", false, statusC, ceo)), []step{
			does(lead("1", "C"), "1"), does(contact("2", "1", "CEO")), setLead("status_id = 'L'", ""), does(`DELETE FROM contact WHERE id = {2}`), does(contact("3", "1", "CEO"), "1"),
		}},
		{"at least two", "lead", and("lead", hasRelated("lead", "contact", isCEO, `"at_least":2`)), []step{
			does(lead("1", "Q")), does(contact("2", "1", "CEO")), does(contact("3", "1", "CEO"), "1"), does(contact("4", "1", "CEO")),
			does(`DELETE FROM contact WHERE id IN ({2}, {3})`), does(`UPDATE contact SET title = 'x' WHERE id = {4}`), does(`UPDATE contact SET title = 'CEO' WHERE id = {4};`+contact("5", "1", "CEO"), "1"),
		}},
		{"at most one", "lead", and("lead", statusC, hasRelated("lead", "contact", isCEO, `"at_most":1`)), []step{
			does(lead("1", "C"), "1"), does(contact("2", "1", "CEO")), does(contact("3", "1", "CEO")), does(`UPDATE contact SET title = 'x' WHERE id = {3}`, "1"),
		}},
		{"exactly one", "lead", and("lead", hasRelated("lead", "contact", isCEO, `"at_least":1`, `"at_most":1`)), []step{
			does(lead("1", "C")), does(contact("2", "1", "CEO"), "1"), does(contact("3", "1", "CEO")), does(`DELETE FROM contact WHERE id = {2}`, "1"), does(`DELETE FROM contact WHERE id = {3}`),
		}},
		{"nested", "opportunity", and("opportunity", hasRelated("opportunity", "lead", group("and", false, statusC, hasRelated("lead", "contact", isCEO)))), []step{
			does(lead("1", "C")), does(`INSERT INTO opportunity (id, organization_id, lead_id) VALUES ({2}, '{org}', {1}), ({3}, '{org}', {1})`),
			does(contact("4", "1", "CTO")), does(`UPDATE contact SET title = 'CEO' WHERE id = {4}`, "2", "3"), setLead("status_id = 'L'", ""), setLead("status_id = 'C'", "2 3"),
			does(`INSERT INTO opportunity (id, organization_id, lead_id) VALUES ({5}, '{org}', {1})`, "5"),
		}},
		{"siblings", "contact", and("contact", hasRelated("contact", "lead", hasRelated("lead", "contact", isCEO, negated))), []step{
			does(lead("1", "Q") + ";" + contact("2", "1", "x") + ";" + contact("3", "1", "CEO")), does(`UPDATE contact SET title = 'CTO' WHERE id = {3}`, "2", "3"),
		}},
		{"another organization's row is nobody's relation", "lead", qc, []step{
			does(lead("1", "C")), does(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES ({2}, 'elsewhere', {1}, 'CEO')`),
			does(`UPDATE contact SET organization_id = '{org}' WHERE id = {2}`, "1"),
			does(`UPDATE contact SET organization_id = 'elsewhere' WHERE id = {2}`), does(`UPDATE contact SET organization_id = '{org}' WHERE id = {2}`, "1"),
		}},
		{"a lead that moves to another organization with all that is its", "lead", qc, []step{
			does(`INSERT INTO lead (id, organization_id, status_id) VALUES ({1}, 'elsewhere', 'C'); INSERT INTO contact (id, organization_id, lead_id, title) VALUES ({2}, 'elsewhere', {1}, 'CEO')`),
			does(`UPDATE lead SET organization_id = '{org}' WHERE id = {1}; UPDATE contact SET organization_id = '{org}' WHERE id = {2}`, "1").as("created"),
		}},
		{"the lead's id changes with all that refers to it", "lead", qc, []step{
			does(lead("1", "C")), does(contact("2", "1", "CEO"), "1"),
			does(`UPDATE contact SET lead_id = NULL WHERE id = {2}`),
			does(`UPDATE lead SET id = {3} WHERE id = {1}`), does(`UPDATE contact SET lead_id = {3} WHERE id = {2}`, "3"),
		}},
		{"deleted with all that is its", "lead", qn, []step{does(lead("1", "Q") + ";" + contact("2", "1", "CEO")), does(`DELETE FROM lead WHERE id = {1}`)}},
		{"net of one commit", "lead", qc, []step{
			does(lead("1", "C")), does(contact("2", "1", "CTO")),
			does(`UPDATE contact SET title = 'CEO' WHERE id = {2}; UPDATE contact SET title = 'CTO' WHERE id = {2}`),
			does(contact("3", "1", "CEO") + `; DELETE FROM contact WHERE id = {3}`),
			does(`UPDATE contact SET title = 'CEO' WHERE id = {2}; UPDATE lead SET status_id = 'L' WHERE id = {1}`),
			does(`UPDATE lead SET status_id = 'C' WHERE id = {1}; DELETE FROM contact WHERE id = {2}`),
			does(contact("4", "1", "CEO"), "1"),
		}},
	}
}

func TestRelated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	w.play(t, relatedCases())
	w.everyFiringActed()
}

// T58: the matcher reads both commits late, and sees each as it was.
func TestRelatedRowsAreSeenAsOfTheCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	qc := and("lead", field("lead", "status_id", term("C")), hasRelated("lead", "contact", isCEO))
	id := w.trigger("a", "qc", "lead", qc)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT i, 'a', 'Q' FROM generate_series(1, 4) i`)
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (1, 'a', 1, 'CEO'), (2, 'a', 2, 'CTO'), (3, 'a', 3, 'CEO')`)
	w.settle()
	w.halt()
	// Lead 1: at the first commit the contact still is CEO.
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	w.exec(`UPDATE contact SET title = 'CTO' WHERE id = 1`)
	// Lead 2: at the first commit the contact is not CEO yet.
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 2`)
	w.exec(`UPDATE contact SET title = 'CEO' WHERE id = 2`)
	// Lead 3: its contact is gone now, and was there.
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 3`)
	w.exec(`DELETE FROM contact WHERE id = 3`)
	// Lead 4: its contact came, and went to another one.
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 4`)
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (4, 'a', 4, 'CEO')`)
	w.exec(`UPDATE contact SET lead_id = 3 WHERE id = 4`)
	w.run()
	w.settle()
	var got []string
	for _, f := range w.firingsOf(id) {
		got = append(got, f.object)
	}
	if want := []string{"1", "2", "3", "4", "3"}; !slices.Equal(got, want) {
		t.Errorf("fired for %q, want %q", got, want)
	}
}

// Random changes by one writer, who after each commit asks Postgres which objects
// match. What fired must be exactly what began to match, commit by commit, also when
// the engine is away for a while.
func TestRelatedAgainstSQL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	statusC := field("lead", "status_id", term("C"))
	type pair struct {
		query, sql string
		objectType string
		trigger    int64
		before     map[string]bool
		want       []string
	}
	const ceo = `SELECT FROM contact c WHERE c.lead_id = o.id AND c.organization_id = o.organization_id AND lower(c.title) = 'ceo'`
	pairs := []*pair{
		{objectType: "lead", query: and("lead", statusC, hasRelated("lead", "contact", isCEO)), sql: `o.status_id = 'C' AND EXISTS (` + ceo + `)`},
		{objectType: "lead", query: and("lead", hasRelated("lead", "contact", isCEO, negated)), sql: `NOT EXISTS (` + ceo + `)`},
		{objectType: "lead", query: and("lead", group("or", false, statusC, hasRelated("lead", "contact", isCEO, `"at_least":2`))), sql: `o.status_id = 'C' OR (SELECT count(*) FROM contact c
			WHERE c.lead_id = o.id AND c.organization_id = o.organization_id AND lower(c.title) = 'ceo') >= 2`},
		{objectType: "lead", query: and("lead", hasRelated("lead", "opportunity", field("opportunity", "value", numbers(`"gte":500`)), `"at_least":1`, `"at_most":2`)), sql: `(SELECT count(*) FROM opportunity c
			WHERE c.lead_id = o.id AND c.organization_id = o.organization_id AND c.value >= 500) BETWEEN 1 AND 2`},
		{objectType: "contact", query: and("contact", isCEO, hasRelated("contact", "lead", statusC)), sql: `lower(o.title) = 'ceo' AND EXISTS (SELECT FROM lead l
			WHERE l.id = o.lead_id AND l.organization_id = o.organization_id AND l.status_id = 'C')`},
		{objectType: "opportunity", query: and("opportunity", hasRelated("opportunity", "lead", group("and", true, statusC, hasRelated("lead", "contact", isCEO)))), sql: `EXISTS (SELECT FROM lead l
			WHERE l.id = o.lead_id AND l.organization_id = o.organization_id AND NOT (coalesce(l.status_id = 'C', false) AND EXISTS (SELECT FROM contact c
			WHERE c.lead_id = l.id AND c.organization_id = l.organization_id AND lower(c.title) = 'ceo')))`},
	}
	for i, p := range pairs {
		p.trigger = w.trigger("a", fmt.Sprint("pair ", i), p.objectType, p.query)
		p.before = map[string]bool{}
	}
	rnd := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	some := func(list ...string) string { return list[rnd.IntN(len(list))] }
	id := func() int { return 1 + rnd.IntN(6) }
	lead := func() string {
		if rnd.IntN(8) == 0 {
			return "NULL"
		}
		return fmt.Sprintf("(SELECT id FROM lead WHERE id = %d)", id())
	}
	org := func() string { return some("'a'", "'a'", "'a'", "'a'", "'a'", "'a'", "'a'", "'b'") }
	statement := func() string {
		switch rnd.IntN(14) {
		case 0, 12, 13:
			return fmt.Sprintf(`INSERT INTO lead (id, organization_id, status_id) VALUES (%d, %s, '%s') ON CONFLICT DO NOTHING`, id(), org(), some("C", "Q"))
		case 1, 2:
			return fmt.Sprintf(`UPDATE lead SET status_id = '%s' WHERE id = %d`, some("C", "Q"), id())
		case 3:
			return fmt.Sprintf(`DELETE FROM lead WHERE id = %d`, id())
		case 4:
			return fmt.Sprintf(`UPDATE lead SET organization_id = %s WHERE id = %d`, org(), id())
		case 5:
			return fmt.Sprintf(`UPDATE opportunity SET lead_id = %s WHERE id = %d`, lead(), id())
		case 6:
			return fmt.Sprintf(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (%d, %s, %s, '%s') ON CONFLICT DO NOTHING`, id(), org(), lead(), some("CEO", "CTO"))
		case 7:
			return fmt.Sprintf(`UPDATE contact SET title = '%s' WHERE id = %d`, some("CEO", "ceo", "CTO"), id())
		case 8:
			return fmt.Sprintf(`UPDATE contact SET lead_id = %s WHERE id = %d`, lead(), id())
		case 9:
			return fmt.Sprintf(`DELETE FROM contact WHERE id = %d`, id())
		case 10:
			return fmt.Sprintf(`INSERT INTO opportunity (id, organization_id, lead_id, value) VALUES (%d, %s, %s, %d) ON CONFLICT (id) DO UPDATE SET value = excluded.value`, id(), org(), lead(), rnd.IntN(1000))
		}
		return fmt.Sprintf(`UPDATE contact SET organization_id = %s WHERE id = %d`, org(), id())
	}
	var script []string
	away := false
	for step := range 600 {
		if step%50 == 49 {
			if away = !away; away {
				w.halt()
			} else {
				w.run()
			}
		}
		var sql []string
		for range 1 + rnd.IntN(3) {
			sql = append(sql, statement())
		}
		script = append(script, strings.Join(sql, "; "))
		w.tx(sql...)
		for _, p := range pairs {
			now := map[string]bool{}
			for _, id := range list[string](w, `SELECT id::text FROM `+p.objectType+` o WHERE organization_id = 'a' AND (`+p.sql+`) ORDER BY o.id`) {
				now[id] = true
			}
			var began []string
			for id := range now {
				if !p.before[id] {
					began = append(began, id)
				}
			}
			slices.Sort(began) // one digit each
			p.want = append(p.want, began...)
			p.before = now
		}
	}
	if away {
		w.run()
	}
	w.settle()
	for i, p := range pairs {
		rows, err := w.db.Pool.Query(context.Background(), `SELECT object_id FROM pgautomate.trigger_firings WHERE trigger_id = $1 ORDER BY commit_lsn, object_id::bigint`, p.trigger)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, p.want) {
			t.Errorf("trigger %d fired for\n%q, want\n%q", i, got, p.want)
		}
		if len(p.want) < 3 {
			t.Errorf("trigger %d: only %d firings: the test shows little", i, len(p.want))
		}
	}
	if t.Failed() {
		t.Log(strings.Join(script, "\n"))
	}
}

// A table that is altered, truncated, unwatched: the rows that triggers look at follow.
func TestRelatedTablesChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	id := w.trigger("a", "qc", "lead", and("lead", hasRelated("lead", "contact", isCEO)))
	none := w.trigger("a", "none", "lead", and("lead", hasRelated("lead", "contact", `{"type":"match_all"}`, negated)))
	w.exec(`INSERT INTO lead (id, organization_id) VALUES (1, 'a'), (2, 'a')`)
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (1, 'a', 1, 'CTO')`)
	fired := func(what string, trigger int64, want int) {
		t.Helper()
		w.settle()
		if n := w.firings(trigger, ""); n != want {
			t.Errorf("%s: %d firings, want %d", what, n, want)
		}
	}
	fired("before", id, 0)
	fired("before", none, 2)
	// The column's values change without any row's changing.
	w.exec(`ALTER TABLE contact ALTER title TYPE text USING CASE title WHEN 'CTO' THEN 'CEO' END`)
	w.exec(`ALTER TABLE contact ALTER title TYPE varchar(40)`)
	w.exec(`UPDATE contact SET email = 'x' WHERE id = 1`)
	w.settle()
	w.exec(`UPDATE contact SET lead_id = 2 WHERE id = 1`)
	fired("rewritten", id, 1)
	fired("rewritten", none, 3)
	// Renamed: the trigger says so, and is whole again afterwards.
	w.exec(`ALTER TABLE contact RENAME title TO role`)
	w.exec(`UPDATE contact SET email = 'y' WHERE id = 1`)
	w.until("the trigger is invalid", func() bool {
		return one[bool](w, `SELECT status = 'invalid' AND error LIKE '%title%' FROM pgautomate.triggers WHERE id = $1`, id)
	})
	w.exec(`ALTER TABLE contact RENAME role TO title`)
	w.exec(`UPDATE contact SET email = 'z' WHERE id = 1`)
	w.until("the trigger is active", func() bool {
		return one[bool](w, `SELECT status = 'active' FROM pgautomate.triggers WHERE id = $1`, id)
	})
	w.exec(`UPDATE contact SET lead_id = 1 WHERE id = 1`)
	fired("renamed and back", id, 2)
	// Truncated: nothing fires, and what was there is forgotten.
	w.exec(`TRUNCATE contact`)
	fired("truncated", none, 4)
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (2, 'a', 1, 'CEO')`)
	fired("after the truncation", id, 3)
	// While the engine is away.
	w.halt()
	w.exec(`UPDATE contact SET title = 'CTO' WHERE id = 2`)
	w.exec(`TRUNCATE contact`)
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (3, 'a', 2, 'CEO')`)
	w.run()
	fired("truncated while away", id, 4)
	// Without has_related's table there is nothing to ask.
	if _, err := catalog.Unwatch(t.Context(), w.db.Pool, "contact", false); err != nil {
		t.Fatal(err)
	}
	w.exec(`UPDATE lead SET source = 'x' WHERE id = 2`)
	w.until("the trigger is invalid", func() bool {
		return one[bool](w, `SELECT status = 'invalid' AND error LIKE '%contact%' FROM pgautomate.triggers WHERE id = $1`, id)
	})
	w.exec(`DELETE FROM contact`)
	w.watch(catalog.WatchOptions{Table: "public.contact", As: "contact", Organization: "organization_id"})
	w.until("the trigger is active", func() bool {
		return one[bool](w, `SELECT status = 'active' FROM pgautomate.triggers WHERE id = $1`, id)
	})
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (4, 'a', 2, 'CEO')`)
	fired("watched again", id, 5)
}

// A bound on memory is kept, and the triggers that need more say so.
func TestRelatedRowsThatAreTooMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.config.RelatedBytes = 1 << 20
	w.exec(`INSERT INTO lead (id, organization_id) SELECT i, 'a' FROM generate_series(1, 100) i`)
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) SELECT i, 'a', 1 + i % 100, repeat('x', 100) FROM generate_series(1, 20000) i`)
	w.run()
	id := w.trigger("a", "qc", "lead", and("lead", hasRelated("lead", "contact", isCEO)))
	other := w.trigger("a", "leads", "lead", qs("C"))
	w.until("the trigger is invalid", func() bool {
		return one[bool](w, `SELECT status = 'invalid' AND error LIKE '%--related-memory%' FROM pgautomate.triggers WHERE id = $1`, id)
	})
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	w.settle()
	if n := w.firings(other, ""); n != 1 {
		t.Errorf("%d firings of another trigger", n)
	}
	// One that fits, and then grows.
	w.exec(`TRUNCATE contact`)
	w.settle()
	w.exec(`UPDATE pgautomate.triggers SET name = 'again' WHERE id = $1`, id)
	w.until("the trigger is active", func() bool {
		return one[bool](w, `SELECT status = 'active' FROM pgautomate.triggers WHERE id = $1`, id)
	})
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (1, 'a', 1, 'CEO')`)
	w.settle()
	if n := w.firings(id, ""); n != 1 {
		t.Errorf("%d firings", n)
	}
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) SELECT i, 'a', 1 + i % 100, repeat('x', 100) FROM generate_series(2, 20000) i`)
	w.until("the trigger is invalid", func() bool {
		return one[bool](w, `SELECT status = 'invalid' AND error LIKE '%--related-memory%' FROM pgautomate.triggers WHERE id = $1`, id)
	})
}

package acceptance

import (
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/firing"
)

// truths is an explanation's nodes in short: pointer before/after.
func truths(x *firing.Explanation) string {
	var list []string
	for _, n := range x.Nodes {
		list = append(list, n.Pointer+" "+n.Before+"/"+n.After)
	}
	return strings.Join(list, ", ")
}

// T80, and what else keeps a trigger from firing.
func TestExplain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	customers := w.trigger("a", "QS", "lead", qs("C"))
	qc := w.trigger("a", "QC", "lead", and("lead", field("lead", "status_id", term("C")), hasRelated("lead", "contact", isCEO)))
	here := func() string { return one[string](w, `SELECT pg_current_wal_insert_lsn()::text`) }
	explain := func(trigger int64, object, at string) *firing.Explanation {
		t.Helper()
		w.settle()
		var position *string
		if at != "" {
			position = &at
		}
		x, err := firing.Ask(t.Context(), w.db.Pool, trigger, object, position)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	want := func(x *firing.Explanation, verdict, nodes string) {
		t.Helper()
		if x.Verdict != verdict || truths(x) != nodes {
			t.Errorf("verdict %s: %s\nwant    %s: %s", x.Verdict, truths(x), verdict, nodes)
		}
	}
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'Q'), (2, 'a', 'C'), (3, 'a', 'Q'), (4, 'b', 'C')`)
	want(explain(customers, "2", ""), "fired", " /true, /queries/0 /true, /queries/1 /true")
	w.exec(`UPDATE lead SET status_id = 'L' WHERE id = 1`) // T02
	t02 := here()
	w.exec(`UPDATE lead SET source = 'web' WHERE id = 2`) // T03
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	x := explain(customers, "1", t02)
	want(x, "not_fired: after=false", " false/false, /queries/0 true/true, /queries/1 false/false")
	if strings.Join(x.ChangedFields, " ") != "status_id" || x.Source != "change" || x.CommitLSN == "" {
		t.Errorf("%+v", x)
	}
	want(explain(customers, "2", ""), "not_fired: already_matched", " true/true, /queries/0 true/true, /queries/1 true/true")
	x = explain(customers, "1", "")
	want(x, "fired", " false/true, /queries/0 true/true, /queries/1 false/true")
	if x.FiringID == "" {
		t.Errorf("%+v", x)
	}

	// Related rows are as they were, not as they are.
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (1, 'a', 3, 'CEO')`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 3`)
	then := here()
	w.exec(`UPDATE contact SET title = 'CTO' WHERE id = 1`)
	want(explain(qc, "3", then), "fired", " false/true, /queries/0 true/true, /queries/1 false/true, /queries/2 true/true")
	// Made to match by a related row.
	w.exec(`UPDATE contact SET title = 'CEO' WHERE id = 1`)
	x = explain(qc, "3", "")
	want(x, "fired", " false/true, /queries/0 true/true, /queries/1 true/true, /queries/2 false/true")
	if x.FiringID == "" {
		t.Errorf("%+v", x)
	}

	w.exec(`UPDATE lead SET source = 'x' WHERE id = 4`)
	want(explain(customers, "4", ""), "not_fired: other_organization", "")
	w.tx(`SELECT pgautomate.suppress()`, `INSERT INTO lead (id, organization_id, status_id) VALUES (5, 'a', 'C')`)
	want(explain(customers, "5", ""), "not_fired: suppressed", " /true, /queries/0 /true, /queries/1 /true")
	w.exec(`DELETE FROM lead WHERE id = 5`)
	want(explain(customers, "5", ""), "not_fired: deleted", " true/, /queries/0 true/, /queries/1 true/")
	late := w.trigger("a", "late", "lead", qs("C"))
	want(explain(late, "1", ""), "not_fired: not_live", " false/true, /queries/0 true/true, /queries/1 false/true")

	// What is not kept any more.
	w.halt()
	w.run()
	want(explain(customers, "2", ""), "not_fired: no_change", " /true, /queries/0 /true, /queries/1 /true")
	want(explain(customers, "77", ""), "not_fired: no_change", "")
	if _, err := firing.Ask(t.Context(), w.db.Pool, 12345, "1", nil); err == nil || !strings.Contains(err.Error(), "no such trigger") {
		t.Errorf("a trigger that there is not: %v", err)
	}
}

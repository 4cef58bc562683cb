package acceptance

import (
	"fmt"
	"slices"
	"testing"
)

// From one query to another, and what happens rather than what is.

func TestFromOneQueryToAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	add := func(name, query, before, filter string) int64 {
		t.Helper()
		return one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, before_query, extra_filter, action_type, action_params)
			VALUES ('a', $1, 'lead', $2, nullif($3, '')::jsonb, nullif($4, '')::jsonb, 'log', '{"message":"fired"}') RETURNING id`, name, query, before, filter)
	}
	all := and("lead")
	changed := func(name string) string {
		return fmt.Sprintf(`{"type":"field_accessor","field":"changed_fields","filter":{"type":"contains","value":%q}}`, name)
	}
	ceo := hasRelated("lead", "contact", isCEO)
	fromQ := add("from Q to C", qs("C"), qs("Q"), "")
	fromCEO := add("to C with a CEO before", qs("C"), and("lead", ceo), "")
	relatedFromQ := add("from Q to a CEO", and("lead", ceo), qs("Q"), "")
	status := add("status changes", all, "", changed("status_id"))
	vip := add("value changes while C", qs("C"), "", changed("value"))
	both := add("status changes away from C", all, qs("C"), changed("status_id"))
	ceoStatus := add("status changes with a CEO", and("lead", ceo), "", changed("status_id"))
	create := add("made by hand", all, "", `{"type":"and","filters":[{"type":"field_accessor","field":"action","filter":{"type":"equals","value":"created"}},
		{"type":"field_accessor","field":"data","filter":{"type":"field_accessor","field":"source","filter":{"type":"is_null"}}}]}`)
	nothing := add("a column that there is not", all, "", changed("colour"))
	w.settle()

	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'C'), (2, 'a', 'Q'), (3, 'a', 'L')`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id IN (2, 3)`)
	w.exec(`UPDATE lead SET value = 5`)
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (1, 'a', 1, 'CEO')`)
	w.exec(`UPDATE lead SET status_id = 'Q', value = 6 WHERE id = 1`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 1`)
	w.exec(`UPDATE lead SET status_id = 'Q' WHERE id = 2`)
	w.exec(`INSERT INTO contact (id, organization_id, lead_id, title) VALUES (2, 'a', 2, 'CEO'), (3, 'a', 3, 'CEO')`)
	w.exec(`INSERT INTO lead (id, organization_id, source) VALUES (4, 'a', 'import'), (5, 'a', NULL)`)
	w.settle()
	for _, tt := range []struct {
		name    string
		trigger int64
		want    []string
	}{
		{"from Q", fromQ, []string{"1", "2"}},
		{"from a CEO", fromCEO, []string{"1"}},
		{"related, from Q", relatedFromQ, []string{"2"}},
		{"status", status, []string{"1", "1", "2", "2", "3"}},
		{"value", vip, []string{"1", "2", "3"}},
		{"both", both, []string{"1", "2"}},
		{"status with a CEO", ceoStatus, []string{"1", "1"}},
		{"created", create, []string{"1", "2", "3", "5"}},
		{"nothing", nothing, nil},
	} {
		var got []string
		for _, f := range w.firingsOf(tt.trigger) {
			got = append(got, f.object)
		}
		slices.Sort(got)
		if s := one[string](w, `SELECT status || coalesce(': ' || error, '') FROM pgautomate.triggers WHERE id = $1`, tt.trigger); s != "active" || !slices.Equal(got, tt.want) {
			t.Errorf("%s: fired for %q, want %q; the trigger is %s", tt.name, got, tt.want, s)
		}
	}

	// Versions, restarts, and nonsense.
	w.exec(`UPDATE pgautomate.triggers SET before_query = $1 WHERE id = $2`, qs("L"), fromQ)
	w.settle()
	w.halt()
	w.run()
	w.exec(`UPDATE lead SET status_id = 'L' WHERE id = 2`)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id = 2`)
	w.settle()
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.trigger_firings WHERE trigger_id = $1 AND trigger_version = 2`, fromQ); n != 1 {
		t.Errorf("%d firings of the second version", n)
	}
	bad := add("bad", all, `{"type":"nonsense"}`, `{"type":"contains"}`)
	w.until("the bad one says so", func() bool {
		return one[bool](w, `SELECT status = 'invalid' AND error LIKE '%/before_query%' AND error LIKE '%/extra_filter%' FROM pgautomate.triggers WHERE id = $1`, bad)
	})
}

package firing_test

import (
	"testing"
	"time"
)

// TestFiringsHaveTheirOwnRows: of many firings at one time, with rows of all sizes, more than are held at once, each has its own
// row before and after, as Postgres prints it; and of those that come after them.
func TestFiringsHaveTheirOwnRows(t *testing.T) {
	t.Parallel()
	const rows, few = 6000, 20
	w := newWorld(t)
	w.run()
	w.exec(`INSERT INTO lead SELECT i, CASE i % 3 WHEN 0 THEN 'b' ELSE 'a' END, 'Q', repeat(chr(97 + i % 26), CASE i % 7 WHEN 0 THEN 7000 WHEN 1 THEN 70000 * (i % 49 / 48) ELSE i % 700 END)
		FROM generate_series(1, $1) i`, rows+few)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id <= $1`, rows)
	for i := range few {
		w.exec(`UPDATE lead SET status_id = 'C' WHERE id = $1`, rows+1+i)
	}
	w.until("all have fired", time.Minute, func() bool { return one[int](w, `SELECT count(*)::int FROM pgautomate.trigger_firings`) == rows+few })
	if n := one[int](w, `SELECT count(*)::int FROM pgautomate.trigger_firings f JOIN lead l ON l.id::text = f.object_id AND l.organization_id = f.organization_id
		WHERE f.data = to_jsonb(l) AND f.previous_data = to_jsonb(l) || '{"status_id": "Q"}' AND f.changed_fields = '{status_id}'`); n != rows+few {
		t.Errorf("%d of %d firings have their own rows", n, rows+few)
	}
}

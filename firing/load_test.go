package firing_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// TestEachVersionIsReadOnce: a page of live triggers looks up its own versions. A merge of both tables, which is what the planner
// likes best, would read those of all pages before as well: a million triggers took 30 s instead of 5.
func TestEachVersionIsReadOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n, page = 20_000, 1000
	w.exec(`DELETE FROM pgautomate.triggers`)
	w.exec(`INSERT INTO pgautomate.trigger_versions (trigger_id, version, organization_id, name, object_type, query, action_type, action_params, valid_from)
		SELECT g, 1, 'org_' || g % 100, 'n', 'lead', $1::jsonb, 'log', '{}', '0/1' FROM generate_series(1, $2::int) g`, customers, n)
	w.exec(`INSERT INTO pgautomate.live_triggers (trigger_id, version) SELECT g, 1 FROM generate_series(1, $1::int) g`, n)
	w.exec(`ANALYZE`)
	err := pgx.BeginFunc(t.Context(), w.db.Pool, func(tx pgx.Tx) error {
		q, read := dbq.New(tx), 0
		for after := int64(math.MinInt64); ; {
			rows, err := q.LiveTriggers(t.Context(), dbq.LiveTriggersParams{After: after, Most: page})
			if err != nil {
				return err
			}
			if len(rows) == 0 {
				break
			}
			for _, r := range rows {
				if r.TriggerID <= after {
					return fmt.Errorf("trigger %d after %d", r.TriggerID, after)
				}
				after = r.TriggerID
			}
			read += len(rows)
		}
		if read != n {
			t.Errorf("%d of %d triggers", read, n)
		}
		var fetched int
		err := tx.QueryRow(t.Context(), `SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relid = 'pgautomate.trigger_versions'::regclass`).Scan(&fetched)
		if fetched > n*3/2 {
			t.Errorf("%d versions read for %d triggers", fetched, n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

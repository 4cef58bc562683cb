package db_test

import (
	"testing"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// Jobs come and go for ever: their indexes must not grow with those that went.
func TestRiversIndexesDontGrow(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	round := func() (bytes int64) {
		t.Helper()
		for _, sql := range []string{
			`INSERT INTO pgautomate.river_job (args, kind, max_attempts, queue)
			 SELECT jsonb_build_object('id', nextval('pgautomate.river_job_id_seq'), 'at', clock_timestamp()), 'firing', 25, 'firings' FROM generate_series(1, 5000)`,
			`DELETE FROM pgautomate.river_job`,
			`VACUUM pgautomate.river_job`,
		} {
			if _, err := d.Pool.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		// B-trees use emptied pages again, sooner or later; GIN indexes never let go of a key.
		if err := d.Pool.QueryRow(t.Context(), `SELECT coalesce(sum(pg_relation_size(i.indexrelid)), 0) FROM pg_index i
			  JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
			 WHERE i.indrelid = 'pgautomate.river_job'::regclass AND a.amname = 'gin'`).Scan(&bytes); err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	first, last := round(), int64(0)
	for range 3 {
		last = round()
	}
	if float64(last) > 1.25*float64(first) {
		t.Errorf("the GIN indexes of an empty table take %d kB after four rounds of 5,000 jobs, %d kB after one", last>>10, first>>10)
	}
}

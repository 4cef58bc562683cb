// What is new in Postgres 18: it refuses updates and deletes of tables whose replica identity holds generated columns that are
// not published, it knows virtual ones, and it can invalidate slots that nobody reads.

package catalog_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func TestGeneratedColumns(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	run := func(sql string) {
		t.Helper()
		if _, err := d.Pool.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	watch := func(table string) []string {
		t.Helper()
		_, statements, err := catalog.Watch(ctx, d.Pool, catalog.WatchOptions{Table: table}, false)
		if err != nil {
			t.Fatalf("watch %s: %v", table, err)
		}
		return statements
	}
	// says tells whether the doctor has such a problem of the object type, and its fix.
	says := func(objectType, problem string) (fix string, found bool) {
		t.Helper()
		problems, err := catalog.Doctor(ctx, d.Pool)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if p.Subject == "object type "+objectType && strings.Contains(p.Problem, problem) {
				return p.Fix, true
			}
		}
		return "", false
	}
	before18 := serverVersion(t, d) < 180000

	run(`CREATE TABLE sale (id int PRIMARY KEY, net int, gross int GENERATED ALWAYS AS (net * 2) STORED)`)
	run(`CREATE TABLE parted (id int PRIMARY KEY, net int, gross int GENERATED ALWAYS AS (net * 2) STORED) PARTITION BY RANGE (id)`)
	run(`CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)`)
	for _, table := range []string{"sale", "parted"} {
		watch(table)
		run(`INSERT INTO ` + table + ` VALUES (1, 1), (2, 2)`)
		run(`UPDATE ` + table + ` SET net = 3`)
		run(`DELETE FROM ` + table + ` WHERE id = 2`)
		if _, found := says(table, "refuses"); found {
			t.Errorf("the doctor finds a fault in %s", table)
		}
	}
	if before18 {
		return
	}

	// A publication of a server that was 17 when it was made.
	run(`ALTER PUBLICATION pgautomate SET (publish_generated_columns = none)`)
	fix, found := says("sale", "are not published")
	if !found {
		t.Fatal("the doctor does not see that generated columns are not published")
	}
	if _, err := d.Pool.Exec(ctx, `UPDATE sale SET net = 4`); err == nil {
		t.Error("Postgres takes such an update now: publish_generated_columns is not needed any more")
	}
	run(fix)
	run(`UPDATE sale SET net = 4`)
	run(`ALTER PUBLICATION pgautomate SET (publish_generated_columns = none)`)
	if statements := watch("sale"); !slices.Equal(statements, []string{fix}) {
		t.Errorf("watching again runs %q, not %q", statements, fix)
	}
	run(`UPDATE sale SET net = 5`)

	run(`CREATE TABLE unsaved (id int PRIMARY KEY, net int, gross int GENERATED ALWAYS AS (net * 2) VIRTUAL)`)
	_, _, err := catalog.Watch(ctx, d.Pool, catalog.WatchOptions{Table: "unsaved"}, false)
	if err == nil || !strings.Contains(err.Error(), "virtual generated column gross") {
		t.Errorf("watching a table with a virtual column: %v", err)
	}
	run(`INSERT INTO unsaved VALUES (1, 1)`)
	run(`UPDATE unsaved SET net = 2`)

	run(`ALTER TABLE sale ADD COLUMN vat int GENERATED ALWAYS AS (net / 5) VIRTUAL`)
	if _, found := says("sale", "vat is virtual"); !found {
		t.Error("the doctor does not see a virtual column of a watched table")
	}
}

func serverVersion(t *testing.T, d *dbtest.DB) (version int) {
	t.Helper()
	if err := d.Pool.QueryRow(t.Context(), `SELECT current_setting('server_version_num')::integer`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

func TestDoctorIdleTimeout(t *testing.T) {
	t.Parallel()
	says := func(d *dbtest.DB) bool {
		problems, err := catalog.Doctor(t.Context(), d.Pool)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(problems, func(p catalog.Problem) bool { return strings.Contains(p.Problem, "idle_replication_slot_timeout") })
	}
	d := dbtest.New(t)
	if says(d) {
		t.Error("the doctor speaks of a time-out that is not set")
	}
	if serverVersion(t, d) < 180000 {
		return
	}
	if d = dbtest.NewOn(t, dbtest.OwnServer(t, "idle_replication_slot_timeout=1h")); !says(d) {
		t.Error("the doctor does not see the time-out of slots")
	}
}

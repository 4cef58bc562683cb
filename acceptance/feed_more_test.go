package acceptance

import (
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/trigger"
)

// A partitioned table is one object type: updates of its partitions, and moves
// between them, carry the row before like any other's.
func TestPartitionedTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`CREATE TABLE deal (id bigint, organization_id text, region text, status_id text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)`)
	w.exec(`CREATE TABLE deal_eu PARTITION OF deal FOR VALUES IN ('eu')`)
	w.exec(`CREATE TABLE deal_us PARTITION OF deal FOR VALUES IN ('us') PARTITION BY RANGE (id)`)
	w.exec(`CREATE TABLE deal_us_1 PARTITION OF deal_us FOR VALUES FROM (0) TO (1000)`)
	w.watch(catalog.WatchOptions{Table: "public.deal", As: "deal", Organization: "organization_id", ID: "id"})
	w.run()
	id := w.trigger("a", "won", "deal", and("deal", field("deal", "status_id", term("C"))))
	w.exec(`INSERT INTO deal VALUES (1, 'a', 'eu', 'Q'), (2, 'a', 'us', 'C')`)
	w.exec(`UPDATE deal SET status_id = 'C' WHERE id = 1`)
	w.exec(`UPDATE deal SET region = 'us' WHERE id = 1`) // a delete and an insert
	w.exec(`UPDATE deal SET status_id = 'L' WHERE id = 2`)
	w.exec(`UPDATE deal SET status_id = 'C', region = 'eu' WHERE id = 2`)
	w.settle()
	if x, y := w.firings(id, "1"), w.firings(id, "2"); x != 1 || y != 2 {
		t.Errorf("%d and %d firings, want 1 and 2", x, y)
	}
	if e := w.errorOf(id); e != "" {
		t.Errorf("the trigger's error is %q", e)
	}
	// A partition that is added later has an identity of its own.
	w.exec(`CREATE TABLE deal_asia PARTITION OF deal FOR VALUES IN ('asia')`)
	if !w.doctorSays("ALTER TABLE public.deal_asia REPLICA IDENTITY FULL") {
		t.Error("doctor doesn't see that the new partition hides the old row")
	}
	w.exec(`INSERT INTO deal VALUES (3, 'a', 'asia', 'Q')`)
	w.exec(`UPDATE deal SET status_id = 'C' WHERE id = 3`)
	w.settle()
	w.hasStatus(id, "degraded")
	if e := w.errorOf(id); !strings.Contains(e, "ALTER TABLE public.deal_asia REPLICA IDENTITY FULL") {
		t.Errorf("the error is %q", e)
	}
	// What hides its past fires nothing, also when it goes to another partition
	// or gets another id; the other partitions' rows are seen as ever.
	w.exec(`UPDATE deal SET region = 'eu' WHERE id = 3`)
	w.exec(`INSERT INTO deal VALUES (4, 'a', 'asia', 'L'), (6, 'a', 'eu', 'Q')`)
	w.exec(`UPDATE deal SET id = 5, status_id = 'C' WHERE id = 4`)
	w.exec(`UPDATE deal SET status_id = 'C' WHERE id = 6`)
	w.settle()
	if got := list[string](w, `SELECT DISTINCT object_id FROM pgautomate.trigger_firings WHERE object_id::int >= 3`); len(got) != 1 || got[0] != "6" {
		t.Errorf("fired for %v, want 6 alone", got)
	}
	w.exec(`ALTER TABLE deal_asia REPLICA IDENTITY FULL`)
	w.exec(`UPDATE deal SET status_id = 'Q' WHERE id = 5`)
	w.exec(`UPDATE deal SET status_id = 'C', region = 'eu' WHERE id = 5`)
	w.settle()
	w.hasStatus(id, "active")
	if n := w.firings(id, "5"); n != 1 {
		t.Errorf("%d firings after the partition was mended, want 1", n)
	}
	w.halt()
	if _, err := catalog.Unwatch(t.Context(), w.db.Pool, "deal", false); err != nil {
		t.Fatal(err)
	}
	if n := one[int64](w, `SELECT count(*) FROM pg_class WHERE relname LIKE 'deal%' AND relreplident = 'f'`); n != 0 {
		t.Errorf("%d tables keep the identity FULL after unwatch", n)
	}
}

// A day begins when it begins in the organization's time zone, also when the
// organization's row is as new as its trigger.
func TestTimeZoneOfTheOrganization(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	since := and("lead", field("lead", "created_at", `{"type":"moment_range","on_or_after":{"type":"fixed_local_date","value":"2026-01-01","which":"start"}}`))
	w.exec(`INSERT INTO pgautomate.organizations (id, time_zone) VALUES ('tokyo', 'Asia/Tokyo')`)
	tokyo, utc := w.trigger("tokyo", "this year", "lead", since), w.trigger("utc", "this year", "lead", since)
	w.exec(`INSERT INTO lead (id, organization_id, created_at) VALUES (1, 'tokyo', '2025-12-31T15:00:00Z'), (2, 'tokyo', '2025-12-31T14:59:59Z'), (3, 'utc', '2025-12-31T15:00:00Z')`)
	w.settle()
	// After a restart it is the same.
	w.halt()
	w.run()
	w.exec(`UPDATE lead SET created_at = created_at - interval '1 day' WHERE id = 1`)
	w.exec(`UPDATE lead SET created_at = created_at + interval '1 second' WHERE id = 2`)
	w.settle()
	if x, y, z := w.firings(tokyo, "1"), w.firings(tokyo, "2"), w.firings(utc, ""); x != 1 || y != 1 || z != 0 {
		t.Errorf("%d, %d and %d firings, want 1, 1 and 0", x, y, z)
	}
}

// What trigger.Check says of a column is what the stream can keep: generated
// columns are not in it before Postgres 18.
func TestGeneratedColumn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`CREATE TABLE deal (id bigint PRIMARY KEY, value numeric, doubled numeric GENERATED ALWAYS AS (value * 2) STORED)`)
	w.watch(catalog.WatchOptions{Table: "public.deal", As: "deal"})
	w.run()
	query := and("deal", field("deal", "doubled", numbers(`"gte":10`)))
	id := w.trigger("default", "doubled", "deal", query)
	other := w.trigger("default", "value", "deal", and("deal", field("deal", "value", numbers(`"gte":10`))))
	w.exec(`INSERT INTO deal (id, value) VALUES (1, 20)`)
	w.settle()
	if n := w.firings(other, ""); n != 1 {
		t.Errorf("%d firings of the other trigger, want 1", n)
	}
	schemas, err := catalog.New(w.db.Pool).Schemas(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = trigger.Check([]byte(query), "deal", schemas, nil)
	if one[bool](w, `SELECT current_setting('server_version_num')::int >= 180000`) {
		w.exec(`INSERT INTO deal (id, value) VALUES (2, 1)`)
		w.exec(`UPDATE deal SET value = 6 WHERE id = 2`)
		w.settle()
		if n := w.firings(id, ""); err != nil || n != 2 {
			t.Errorf("%d firings of a trigger of a generated column, want 2; trigger.Check says: %v", n, err)
		}
		w.hasStatus(id, "active")
		return
	}
	if err == nil {
		t.Errorf("trigger.Check accepts a column that the stream doesn't carry; the trigger fired %d times", w.firings(id, ""))
	}
	w.hasStatus(id, "invalid")
}

// A query that is too large for the row itself comes through a pause, which
// doesn't touch it.
func TestLargeQuery(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.exec(`ALTER TABLE pgautomate.triggers ALTER query SET STORAGE EXTERNAL`)
	w.run()
	id := w.trigger("a", "large", "lead", and("lead", field("lead", "status_id", term("C")), field("lead", "description", exact(strings.Repeat("x", 100_000)), true)))
	w.exec(`UPDATE pgautomate.triggers SET status = 'paused' WHERE id = $1`, id)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'C')`)
	w.exec(`UPDATE pgautomate.triggers SET status = 'active' WHERE id = $1`, id)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (2, 'a', 'C')`)
	w.settle()
	if x, y := w.firings(id, "1"), w.firings(id, "2"); x != 0 || y != 1 {
		t.Errorf("%d and %d firings, want 0 and 1: %s", x, y, w.errorOf(id))
	}
}

// TestTimeZoneChanges: another time zone of the organization reaches live triggers at
// its place in the stream; one that doesn't exist is refused.
func TestTimeZoneChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	since := and("lead", field("lead", "created_at", `{"type":"moment_range","on_or_after":{"type":"fixed_local_date","value":"2026-01-01","which":"start"}}`))
	id := w.trigger("a", "this year", "lead", since)
	late := w.trigger("b", "this year", "lead", since)
	add := func(organization string) {
		w.exec(`INSERT INTO lead (organization_id, created_at) VALUES ($1, '2025-12-31T15:00:00Z')`, organization)
	}
	expect := func(what string, trigger int64, n int) {
		t.Helper()
		w.settle()
		if got := w.firings(trigger, ""); got != n {
			t.Errorf("%s: %d firings, want %d", what, got, n)
		}
	}
	add("a")
	expect("in UTC it is still last year", id, 0)
	w.exec(`INSERT INTO pgautomate.organizations (id, time_zone) VALUES ('a', 'Asia/Tokyo'), ('b', 'UTC')`)
	add("a")
	expect("in Tokyo it is this year", id, 1)
	w.exec(`UPDATE pgautomate.organizations SET time_zone = 'America/New_York' WHERE id = 'a'`)
	w.exec(`UPDATE pgautomate.organizations SET time_zone = 'Asia/Tokyo' WHERE id = 'b'`)
	add("a")
	add("b")
	expect("in New York it is not", id, 1)
	expect("in Tokyo it is", late, 1)
	w.exec(`DELETE FROM pgautomate.organizations WHERE id = 'b'`)
	add("b")
	expect("without a row it is UTC again", late, 1)
	if got := w.fails(`UPDATE pgautomate.organizations SET time_zone = 'Europe/Atlantis' WHERE id = 'a'`); !strings.Contains(got, `there is no time zone "Europe/Atlantis": use a name such as`) {
		t.Errorf("a time zone that doesn't exist: %s", got)
	}
	if v := one[int32](w, `SELECT version FROM pgautomate.triggers WHERE id = $1`, id); v != 1 {
		t.Errorf("version %d: what the trigger says has not changed", v)
	}
}

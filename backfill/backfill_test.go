package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

const customers = `{"type":"and","queries":[{"type":"object_type","object_type":"lead"},
	{"type":"field_condition","field":{"type":"regular_field","object_type":"lead","field_name":"status"},"condition":{"type":"term","values":["customer"]}}]}`

// world is a database with leads and a trigger that the feed has taken over.
type world struct {
	t       *testing.T
	db      *dbtest.DB
	client  *river.Client[pgx.Tx]
	trigger int64
}

func newWorld(t *testing.T, leads int) *world {
	t.Helper()
	w := &world{t: t, db: dbtest.New(t)}
	var err error
	if w.client, err = Client(w.db.Pool); err != nil {
		t.Fatal(err)
	}
	w.exec(`CREATE TABLE lead (id bigint PRIMARY KEY, organization_id text, status text, name text, at timestamptz DEFAULT now())`)
	if _, _, err := catalog.Watch(t.Context(), w.db.Pool, catalog.WatchOptions{Table: "public.lead", As: "lead", Organization: "organization_id"}, false); err != nil {
		t.Fatal(err)
	}
	w.exec(`INSERT INTO lead SELECT n, 'a', 'customer', 'lead ' || n FROM generate_series(1, $1::int) n`, leads)
	w.exec(`INSERT INTO lead VALUES (1000001, 'a', 'prospect', 'no'), (1000002, 'b', 'customer', 'no'), (1000003, NULL, 'customer', 'no')`)
	w.trigger = one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type) VALUES ('a', 'T', 'lead', $1, 'log') RETURNING id`, customers)
	w.takeOver()
	return w
}

// takeOver does what the feed does when it comes to the trigger's row.
func (w *world) takeOver() {
	w.t.Helper()
	if err := dbq.New(w.db.Pool).AdoptTriggers(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) worker() *Worker {
	return &Worker{
		Pool: w.db.Pool, River: func() *river.Client[pgx.Tx] { return w.client }, Catalog: catalog.New(w.db.Pool),
		Logger: slog.New(slog.DiscardHandler), Slice: time.Minute,
	}
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func one[T any](w *world, sql string, args ...any) T {
	w.t.Helper()
	var v T
	if err := w.db.Pool.QueryRow(w.t.Context(), sql, args...).Scan(&v); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (w *world) start(limit *int64, perMinute *int32) int64 {
	w.t.Helper()
	b, err := w.ask(limit, perMinute)
	if err != nil {
		w.t.Fatal(err)
	}
	return b.ID
}

func (w *world) ask(limit *int64, perMinute *int32) (dbq.PgautomateTriggerBackfill, error) {
	w.t.Helper()
	t, err := dbq.New(w.db.Pool).ApiGetTrigger(w.t.Context(), dbq.ApiGetTriggerParams{ID: w.trigger})
	if err != nil {
		w.t.Fatal(err)
	}
	return Start(w.t.Context(), w.db.Pool, w.client, &t, limit, perMinute)
}

// finish works until the backfill ends.
func (w *world) finish(id int64) {
	w.t.Helper()
	if _, done, err := w.worker().work(w.t.Context(), id); err != nil || !done {
		w.t.Fatalf("done %t, %v", done, err)
	}
}

func (w *world) row(id int64) dbq.PgautomateTriggerBackfill {
	w.t.Helper()
	b, err := dbq.New(w.db.Pool).GetBackfill(w.t.Context(), dbq.GetBackfillParams{ID: id, TriggerID: w.trigger})
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// fired gives the objects of a backfill's firings, and checks that each has its job.
func (w *world) fired(id int64) []string {
	w.t.Helper()
	rows, err := w.db.Pool.Query(w.t.Context(), `SELECT object_id FROM pgautomate.trigger_firings WHERE cause = jsonb_build_object('backfill', $1::bigint) ORDER BY id`, id)
	if err != nil {
		w.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.t.Fatal(err)
	}
	with := one[int](w, `SELECT count(DISTINCT f.id) FROM pgautomate.trigger_firings f
		JOIN pgautomate.river_job j ON j.kind = 'firing' AND j.queue = 'firings' AND (j.args ->> 'id')::bigint = f.id AND (j.args ->> 'at')::timestamptz = f.committed_at
		WHERE f.cause = jsonb_build_object('backfill', $1::bigint)`, id)
	jobs := one[int](w, `SELECT count(*) FROM pgautomate.river_job WHERE kind = 'firing'`)
	if with != len(ids) || jobs < with {
		w.t.Errorf("%d of %d firings have a job; %d jobs", with, len(ids), jobs)
	}
	return ids
}

// wantOnce checks that a backfill ended with one firing for each of n leads.
func (w *world) wantOnce(id int64, n int) {
	w.t.Helper()
	ids := w.fired(id)
	unique := slices.Compact(slices.Sorted(slices.Values(ids)))
	b := w.row(id)
	if len(ids) != n || len(unique) != n || b.Status != "completed" || b.Fired != int64(n) || b.Found == nil || *b.Found != int64(n) || b.FinishedAt == nil || b.StartedAt == nil {
		w.t.Errorf("%d firings for %d objects, want %d; %+v", len(ids), len(unique), n, b)
	}
	if left := one[int](w, `SELECT count(*) FROM pgautomate.trigger_backfill_objects`); left != 0 {
		w.t.Errorf("%d objects are left in the list", left)
	}
}

func TestBackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1234)
	id := w.start(nil, nil)
	if n := one[int](w, `SELECT count(*) FROM pgautomate.river_job WHERE kind = 'backfill' AND queue = 'backfills' AND (args ->> 'id')::bigint = $1`, id); n != 1 {
		t.Fatalf("%d jobs", n)
	}
	w.finish(id)
	w.wantOnce(id, 1234)
	bad := one[int](w, `SELECT count(*) FROM pgautomate.trigger_firings f JOIN lead l ON l.id::text = f.object_id
		WHERE f.action <> 'updated' OR f.changed_fields <> '{}' OR f.previous_data IS NOT NULL OR f.depth <> 0 OR f.organization_id <> 'a' OR f.object_type <> 'lead'
		   OR f.trigger_id <> $1 OR f.trigger_version <> 1 OR f.data ->> 'name' <> l.name OR f.data -> 'id' <> to_jsonb(l.id) OR (f.data ->> 'at')::timestamptz <> l.at`, w.trigger)
	if bad != 0 {
		t.Errorf("%d firings are not as they should be", bad)
	}
	if _, done, err := w.worker().work(t.Context(), id); !done || err != nil {
		t.Errorf("a second knock: %t %v", done, err)
	}
	w.wantOnce(id, 1234)
	if _, done, err := w.worker().work(t.Context(), 999); !done || err != nil {
		t.Errorf("of nothing: %t %v", done, err)
	}
}

// Processes die between chunks and in the middle of them; others go on.
func TestEachObjectOnceWhateverDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 700)
	id := w.start(nil, nil)
	for life := 0; ; life++ {
		ctx, cancel := context.WithCancel(t.Context())
		worker := w.worker()
		worker.Slice = time.Minute
		if life%2 == 0 {
			worker.afterChunk = cancel
		} else {
			time.AfterFunc(time.Duration(rand.IntN(40_000))*time.Microsecond, cancel)
		}
		_, done, err := worker.work(ctx, id)
		cancel()
		if done && err == nil {
			break
		}
		if life > 500 {
			t.Fatalf("it does not come to an end: %v", err)
		}
	}
	w.wantOnce(id, 700)
}

func TestManyWorkersAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 900)
	id := w.start(nil, nil)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				if _, _, err := w.worker().work(t.Context(), id); err != nil {
					t.Error(err)
				}
				if w.row(id).Status == "completed" {
					return
				}
			}
			t.Error("it does not come to an end")
		})
	}
	all.Wait()
	w.wantOnce(id, 900)
}

func TestLimitTakesTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 30)
	limit := int64(11)
	id := w.start(&limit, nil)
	w.finish(id)
	w.wantOnce(id, 11)
	var want []string
	for i := range 11 {
		want = append(want, fmt.Sprint(i+1))
	}
	if got := w.fired(id); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestOnlyWhatMatchedAtOneMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100)
	id := w.start(nil, nil)
	worker := w.worker()
	first := true
	worker.afterChunk = func() { // 50 are done
		if !first {
			return
		}
		first = false
		w.exec(`UPDATE lead SET status = 'gone' WHERE id IN (1, 60, 61)`)
		w.exec(`UPDATE lead SET organization_id = 'b' WHERE id = 62`)
		w.exec(`DELETE FROM lead WHERE id = 63`)
		w.exec(`INSERT INTO lead VALUES (10001, 'a', 'customer', 'late')`)
		w.exec(`UPDATE lead SET status = 'customer' WHERE id = 1000001`)
	}
	if _, done, err := worker.work(t.Context(), id); !done || err != nil {
		t.Fatal(done, err)
	}
	b, ids := w.row(id), w.fired(id)
	if b.Status != "completed" || *b.Found != 100 || b.Fired != 96 || b.Skipped != 4 || len(ids) != 96 || slices.Contains(ids, "10001") || slices.Contains(ids, "61") {
		t.Errorf("%+v %v", b, ids)
	}
}

func TestPace(t *testing.T) {
	t.Parallel()
	if most, pause := pace(nil, 500); most != 500 || pause != 0 {
		t.Error(most, pause)
	}
	rapid.Check(t, func(t *rapid.T) {
		perMinute := rapid.Int32Range(1, 1_000_000).Draw(t, "per minute")
		most, pause := pace(&perMinute, rapid.Int32Range(1, maxChunk).Draw(t, "size"))
		// So many chunks start in a minute that begins with one.
		chunks := int64((time.Minute + pause - 1) / pause)
		if most < 1 || pause <= 0 || chunks*int64(most) > int64(perMinute) {
			t.Fatalf("%d a minute: %d every %s", perMinute, most, pause)
		}
		if perMinute >= 60 && float64(chunks*int64(most)) < 0.5*float64(perMinute) {
			t.Fatalf("%d a minute: only %d every %s", perMinute, most, pause)
		}
	})
}

func TestThrottled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	perMinute := int32(1)
	id := w.start(nil, &perMinute)
	worker := w.worker()
	worker.Slice = time.Millisecond
	for i := 0; ; i++ {
		wait, done, err := worker.work(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if b := w.row(id); int64(len(w.fired(id))) != b.Fired || b.Fired > 1+int64(i) {
			t.Fatalf("%+v", b)
		}
		if done {
			break
		}
		if b := w.row(id); b.Fired > 0 {
			if b.Fired < 3 && (wait <= 0 || wait > time.Minute) {
				t.Fatalf("waits %s", wait)
			}
			// Nothing more before its time.
			if _, _, err := worker.work(t.Context(), id); err != nil || w.row(id).Fired != b.Fired && b.Fired < 3 {
				t.Fatalf("%v %+v", err, w.row(id))
			}
			if b.Fired < 3 {
				w.exec(`UPDATE pgautomate.trigger_backfills SET next_at = now() - interval '1 second'`)
			}
		}
	}
	w.wantOnce(id, 3)
	if spaced := one[bool](w, `SELECT next_at >= (SELECT max(fired_at) FROM pgautomate.trigger_firings) + interval '1 minute' FROM pgautomate.trigger_backfills WHERE id = $1`, id); !spaced {
		t.Error("the next firing could come within the minute")
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ sql, status, says string }{
		"canceled by SQL":    {`UPDATE pgautomate.trigger_backfills SET status = 'canceled'`, "canceled", ""},
		"trigger changed":    {`UPDATE pgautomate.triggers SET name = 'U'`, "canceled", "changed"},
		"trigger paused":     {`UPDATE pgautomate.triggers SET status = 'paused'`, "canceled", "paused"},
		"trigger invalid":    {`UPDATE pgautomate.triggers SET status = 'invalid'`, "canceled", "invalid"},
		"trigger deleted":    {`DELETE FROM pgautomate.triggers`, "canceled", "deleted"},
		"table not watched":  {`DELETE FROM pgautomate.object_types`, "failed", "not watched"},
		"column gone":        {`ALTER TABLE lead DROP status`, "failed", "does not fit"},
		"organization moved": {`UPDATE pgautomate.triggers SET organization_id = 'b'`, "canceled", "changed"},
	} {
		for _, when := range []string{"before the search", "after a chunk"} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 120)
				id := w.start(nil, nil)
				worker := w.worker()
				want := 0
				if when == "before the search" {
					w.exec(tt.sql)
				} else {
					want = 50
					worker.afterChunk = func() { w.exec(tt.sql) }
				}
				if _, done, err := worker.work(t.Context(), id); !done || err != nil {
					t.Fatal(done, err)
				}
				b := w.row(id)
				if b.Status != tt.status || b.FinishedAt == nil || (tt.says == "") != (b.Error == nil) || b.Error != nil && !strings.Contains(*b.Error, tt.says) {
					t.Errorf("%+v %v", b, b.Error)
				}
				if ids := w.fired(id); len(ids) != want || b.Fired != int64(want) {
					t.Errorf("%d firings, want %d", len(ids), want)
				}
				if left := one[int](w, `SELECT count(*) FROM pgautomate.trigger_backfill_objects`); left != 0 {
					t.Errorf("%d objects are left in the list", left)
				}
				w.exec(`UPDATE pgautomate.trigger_backfills SET status = 'running'`)
				if again := w.row(id); again.Status != tt.status || !again.FinishedAt.Equal(*b.FinishedAt) {
					t.Errorf("what ended was revived: %+v", again)
				}
			})
		}
	}
}

func TestWaitsForTheFeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	w.exec(`UPDATE pgautomate.triggers SET name = 'U'`)
	id := w.start(nil, nil)
	worker := w.worker()
	worker.Slice = time.Millisecond
	wait, done, err := worker.work(t.Context(), id)
	b := w.row(id)
	if done || err != nil || wait <= 0 || b.Status != "pending" || b.Error == nil || !strings.Contains(*b.Error, "feed_status") {
		t.Errorf("%s %t %v %+v", wait, done, err, b)
	}
	w.takeOver()
	w.finish(id)
	w.wantOnce(id, 5)
	if b := w.row(id); b.Error != nil {
		t.Error(*b.Error)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	refused := func(words ...string) {
		t.Helper()
		_, err := w.ask(nil, nil)
		no, ok := errors.AsType[*RefusedError](err)
		if !ok {
			t.Fatalf("not refused: %v", err)
		}
		for _, word := range words {
			if !strings.Contains(no.Error(), word) {
				t.Errorf("%q lacks %q", no, word)
			}
		}
	}
	w.exec(`UPDATE pgautomate.triggers SET status = 'paused'`)
	refused("paused", "active")
	w.exec(`UPDATE pgautomate.triggers SET status = 'invalid', error = 'no such field'`)
	refused("invalid", "no such field", "mend")
	w.exec(`UPDATE pgautomate.triggers SET status = 'degraded'`) // its past is as good as any other's
	id := w.start(nil, nil)
	refused(fmt.Sprintf("backfill %d", id), "cancel")
	if ended, err := Cancel(t.Context(), w.db.Pool, w.client, w.trigger, id); !ended || err != nil {
		t.Error(ended, err)
	}
	if ended, err := Cancel(t.Context(), w.db.Pool, w.client, w.trigger, id); ended || err != nil {
		t.Error(ended, err)
	}
	if ended, err := Cancel(t.Context(), w.db.Pool, w.client, w.trigger+1, id); ended || err != nil {
		t.Error(ended, err)
	}
	stale := dbq.PgautomateTrigger{ID: w.trigger, Version: 77, Status: "active"}
	_, err := Start(t.Context(), w.db.Pool, w.client, &stale, nil, nil)
	if _, ok := errors.AsType[*RefusedError](err); !ok {
		t.Error(err)
	}
	w.start(nil, nil)
}

func TestKnocksForTheLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5)
	id := w.start(nil, nil)
	jobs := func() int { return one[int](w, `SELECT count(*) FROM pgautomate.river_job WHERE kind = 'backfill'`) }
	knock := func() {
		if err := w.worker().knock(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	knock()
	if jobs() != 1 {
		t.Error("knocked for one that is young")
	}
	const old = `UPDATE pgautomate.trigger_backfills SET next_at = now() - interval '1 minute', knocked_at = now() - interval '1 minute'`
	w.exec(old)
	err := pgx.BeginFunc(t.Context(), w.db.Pool, func(tx pgx.Tx) error {
		if ours, err := dbq.New(tx).TryLockBackfillSearch(t.Context(), id); err != nil || !ours {
			t.Error(ours, err)
		}
		knock()
		return nil
	})
	if err != nil || jobs() != 1 {
		t.Error("knocked for one that is being searched for")
	}
	knock()
	knock()
	if jobs() != 2 {
		t.Errorf("%d jobs", jobs())
	}
	w.finish(id)
	w.exec(old)
	knock()
	if jobs() != 2 {
		t.Error("knocked for one that ended")
	}
}

// Ids of types that SQL compares and prints in ways of their own.
func TestIDs(t *testing.T) {
	t.Parallel()
	for typ, ids := range map[string][]string{
		"text":         {"a", "B", "ä", "x y", "'", ""},
		"character(4)": {"a   ", "bcd ", "wxyz"},
		"uuid":         {"00000000-0000-0000-0000-00000000000a", "6f9619ff-8b86-d011-b42d-00c04fc964ff"},
		"numeric":      {"1", "1.5", "-3"},
		"date":         {"2026-01-31", "1999-12-31"},
	} {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 0)
			w.exec(`CREATE TABLE thing (id ` + typ + ` PRIMARY KEY, "group" text, hidden text GENERATED ALWAYS AS ("group" || '!') STORED)`)
			if _, _, err := catalog.Watch(t.Context(), w.db.Pool, catalog.WatchOptions{Table: "public.thing", As: "thing"}, false); err != nil {
				t.Fatal(err)
			}
			w.exec(`INSERT INTO thing (id) SELECT i::`+typ+` FROM unnest($1::text[]) i`, ids)
			w.trigger = one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type)
				VALUES ('default', 'T', 'thing', '{"type": "object_type", "object_type": "thing"}', 'log') RETURNING id`)
			w.takeOver()
			id := w.start(nil, nil)
			w.finish(id)
			w.wantOnce(id, len(ids))
			got := w.fired(id)
			slices.Sort(got)
			slices.Sort(ids)
			if !slices.Equal(got, ids) {
				t.Errorf("%q, want %q", got, ids)
			}
			tables := catalog.New(w.db.Pool)
			if err := tables.Reload(t.Context()); err != nil || !tables.Type("thing").Column("hidden").Hidden {
				return // this Postgres has it in the stream
			}
			if row := one[string](w, `SELECT data::text FROM pgautomate.trigger_firings LIMIT 1`); strings.Contains(row, "hidden") {
				t.Errorf("the row shows what the stream doesn't: %s", row)
			}
		})
	}
}

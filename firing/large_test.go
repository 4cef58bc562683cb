package firing_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

// world is a database with the table lead, watched, and a trigger for leads of
// organization a that become customers.
type world struct {
	t  *testing.T
	db *dbtest.DB
}

const customers = `{"type":"and","queries":[{"type":"object_type","object_type":"lead"},{"type":"field_condition",
	"field":{"type":"regular_field","object_type":"lead","field_name":"status_id"},"condition":{"type":"term","values":["C"]}}]}`

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: dbtest.New(t)}
	w.exec(`CREATE TABLE lead (id bigint PRIMARY KEY, organization_id text, status_id text, description text)`)
	if _, _, err := catalog.Watch(t.Context(), w.db.Pool, catalog.WatchOptions{Table: "public.lead", As: "lead", Organization: "organization_id"}, false); err != nil {
		t.Fatal(err)
	}
	w.exec(`INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params)
		SELECT o, 'customers', 'lead', $1::jsonb, 'log', '{"message":"fired"}' FROM unnest(ARRAY['a', 'b']) o`, customers)
	return w
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func one[V any](w *world, sql string, args ...any) V {
	w.t.Helper()
	var v V
	if err := w.db.Pool.QueryRow(w.t.Context(), sql, args...).Scan(&v); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// until waits for a condition.
func (w *world) until(what string, patience time.Duration, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (w *world) firings(organization string) int {
	w.t.Helper()
	return one[int](w, `SELECT count(*)::int FROM pgautomate.trigger_firings WHERE organization_id = $1`, organization)
}

// insert adds n leads of organization a, of about 130 bytes, in one transaction.
func (w *world) insert(n int, status string) {
	w.t.Helper()
	w.exec(`INSERT INTO lead SELECT i, 'a', $2, repeat('x', 90) FROM generate_series(1, $1) i`, n, status)
}

// run starts an engine that only feeds.
func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	engine, err := pgautomate.New(ctx, pgautomate.Config{
		DatabaseURL: w.db.URL, Parts: []pgautomate.Part{pgautomate.FeedPart}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.until("the engine is ready", 30*time.Second, func() bool { return engine.Ready(ctx) == nil })
}

// TestLargeTransaction updates 200,000 leads in one transaction, which is netted
// in files, while the server ends the engine's connections again and again.
func TestLargeTransaction(t *testing.T) {
	t.Parallel()
	const rows = 200_000
	w := newWorld(t)
	w.run()
	w.insert(rows, "Q")
	w.exec(`UPDATE lead SET status_id = 'C'`)
	// Neither is large, the second is of another organization.
	w.exec(`UPDATE lead SET status_id = 'Q' WHERE id = 1`)
	w.exec(`INSERT INTO lead VALUES (0, 'b', 'C', '')`)
	w.until("the transaction is in files", time.Minute, func() bool { return spilled(t) > 0 })
	cuts := map[string]int{}
	for _, after := range []int{300, 700, 500, 1500, 1000} {
		time.Sleep(time.Duration(after) * time.Millisecond)
		rows, _ := w.db.Pool.Query(t.Context(), `SELECT backend_type FROM (
				SELECT backend_type, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgautomate%'
			) cut`)
		for rows.Next() {
			var kind string
			if err := rows.Scan(&kind); err != nil {
				t.Fatal(err)
			}
			cuts[kind]++
		}
		if rows.Err() != nil {
			t.Fatal(rows.Err())
		}
	}
	t.Logf("cut: %v; firings by then: %d", cuts, w.firings("a"))
	if cuts["walsender"] == 0 {
		t.Error("the stream was never cut: the test shows less than it should")
	}
	w.until("the last commit is decided", 2*time.Minute, func() bool { return w.firings("b") == 1 })
	if n, jobs := w.firings("a"), one[int](w, `SELECT count(*)::int FROM pgautomate.river_job WHERE kind = 'firing'`); n != rows || jobs != rows+1 {
		t.Errorf("%d firings and %d jobs, want %d and %d", n, jobs, rows, rows+1)
	}
	if n := one[int](w, `SELECT count(DISTINCT object_id)::int FROM pgautomate.trigger_firings
		WHERE organization_id = 'a' AND changed_fields = '{status_id}' AND data->>'status_id' = 'C' AND previous_data->>'status_id' = 'Q' AND data->>'id' = object_id`); n != rows {
		t.Errorf("%d leads fired with their own rows, want %d", n, rows)
	}
	if n := one[int](w, `SELECT count(*)::int FROM (SELECT object_id::int - lag(object_id::int) OVER (ORDER BY id) AS step
		FROM pgautomate.trigger_firings WHERE organization_id = 'a') s WHERE step <> 1`); n != 0 {
		t.Errorf("%d firings are not in the order of the stream", n)
	}
	if n := spilled(t); n != 0 {
		t.Errorf("%d files are still open", n)
	}
}

// spilled counts the files of large transactions that this process has open.
func spilled(t *testing.T) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	for _, e := range list {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.Contains(name, "pgautomate-spill-") {
			n++
		}
	}
	return n
}

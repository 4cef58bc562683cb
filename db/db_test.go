package db_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

var quiet = slog.New(slog.DiscardHandler)

func list(t *testing.T, d *dbtest.DB, sql string) []string {
	t.Helper()
	rows, err := d.Pool.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return all
}

func exec(t *testing.T, d *dbtest.DB, sql string) {
	t.Helper()
	if _, err := d.Pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func applied(t *testing.T, d *dbtest.DB) (yes, no int) {
	t.Helper()
	all, err := db.Status(t.Context(), d.Pool, quiet)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Applied {
			yes++
		} else {
			no++
		}
	}
	if last := all[len(all)-1].Name; last != "river" {
		t.Errorf("the last migration is %q, want river", last)
	}
	return yes, no
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	d := dbtest.NewEmpty(t)
	ctx := t.Context()
	if err := db.CheckSchema(ctx, d.Pool, quiet); !errors.Is(err, db.ErrNoSchema) || !strings.Contains(err.Error(), "pgautomate migrate up") {
		t.Errorf("an empty database: %v", err)
	}
	files, err := db.Migrations.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	if yes, no := applied(t, d); yes != 0 || no != len(files)+1 {
		t.Errorf("an empty database has %d migrations and lacks %d, want 0 and %d", yes, no, len(files)+1)
	}
	for range 2 {
		// From several processes at once, on nothing and on what is up to date.
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				pool, err := db.Open(ctx, d.URL, "test", 3)
				if err != nil {
					t.Error(err)
					return
				}
				defer pool.Close()
				if err := db.Migrate(ctx, pool, quiet); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if yes, no := applied(t, d); yes != len(files)+1 || no != 0 {
			t.Errorf("after up: %d migrations and %d missing, want %d and 0", yes, no, len(files)+1)
		}
		if err := db.CheckSchema(ctx, d.Pool, quiet); err != nil {
			t.Error(err)
		}
	}
	before := shape(t, d)

	exec(t, d, `CREATE TABLE public.mine (id bigint)`)
	if err := db.MigrateDown(ctx, d.Pool, quiet); err != nil {
		t.Fatal(err)
	}
	if left := list(t, d, `SELECT nspname::text FROM pg_namespace WHERE nspname = 'pgautomate'`); len(left) > 0 {
		t.Error("the schema is left after down")
	}
	if mine := list(t, d, `SELECT relname::text FROM pg_class WHERE relname = 'mine'`); len(mine) != 1 {
		t.Error("down took a table that isn't ours")
	}
	if err := db.CheckSchema(ctx, d.Pool, quiet); !errors.Is(err, db.ErrNoSchema) {
		t.Errorf("after down: %v", err)
	}
	if err := db.Migrate(ctx, d.Pool, quiet); err != nil {
		t.Fatal(err)
	}
	if after := shape(t, d); !slices.Equal(before, after) {
		t.Error("up, down and up again does not give what up gave")
	}
}

// shape is all columns and functions of the schema.
func shape(t *testing.T, d *dbtest.DB) []string {
	t.Helper()
	return list(t, d, `SELECT table_name || '.' || column_name || ' ' || data_type FROM information_schema.columns WHERE table_schema = 'pgautomate'
		UNION ALL SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE nspname = 'pgautomate'
		UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'pgautomate' ORDER BY 1`)
}

func TestCheckSchema(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	if err := db.CheckSchema(ctx, d.Pool, quiet); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		err := db.CheckSchema(ctx, d.Pool, quiet)
		if !errors.Is(err, db.ErrSchema) || errors.Is(err, db.ErrNoSchema) || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "\n") {
			t.Errorf("the error is %v, want %q in it, in one line", err, what)
		}
	}
	exec(t, d, `INSERT INTO pgautomate.goose_db_version (version_id, is_applied) VALUES (99999, true)`)
	check("run a newer pgautomate")
	exec(t, d, `DELETE FROM pgautomate.goose_db_version WHERE version_id = 99999`)
	exec(t, d, `DELETE FROM pgautomate.goose_db_version WHERE version_id >= 64`) // which makes an index
	check("pgautomate migrate up")
	if err := db.Migrate(ctx, d.Pool, quiet); err == nil {
		t.Error("a migration that is there already was applied again")
	}
	other := dbtest.New(t)
	d = other
	exec(t, d, `DELETE FROM pgautomate.river_migration WHERE version = (SELECT max(version) FROM pgautomate.river_migration)`)
	check("River")
}

func TestOpenSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://u:secret@127.0.0.1:1/x":  "check DATABASE_URL",
		"host=127.0.0.1 port=many":           "postgres://user:password@host:5432/database",
		"postgres://u:secret@127.0.0.1:bad/": "postgres://user:password@host:5432/database",
	} {
		pool, err := db.Open(t.Context(), url, "test", 1)
		if err == nil {
			pool.Close()
			t.Errorf("%s: opened", url)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want %q in it, in one line, and no password", url, err, want)
		}
	}
}

// TestViews: DBAs can read them, and every column says what it is.
func TestViews(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	views := list(t, d, `SELECT viewname::text FROM pg_views WHERE schemaname = 'pgautomate' ORDER BY 1`)
	for _, want := range []string{"action_lateness", "action_queue", "feed_status", "problems"} {
		if !slices.Contains(views, want) {
			t.Errorf("there is no view %s", want)
		}
	}
	for _, view := range views {
		exec(t, d, `TABLE pgautomate.`+view)
	}
	for _, column := range list(t, d, `SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
		WHERE n.nspname = 'pgautomate' AND c.relkind = 'v' AND coalesce(col_description(c.oid, a.attnum), '') = ''`) {
		t.Errorf("%s has no comment", column)
	}
	for _, view := range list(t, d, `SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'pgautomate' AND c.relkind = 'v' AND coalesce(obj_description(c.oid), '') = ''`) {
		t.Errorf("%s has no comment", view)
	}
	for view, columns := range map[string]string{
		"action_queue":    "organization_id, action_type, due, parked, running, held, reason, next_eligible_at",
		"action_lateness": "organization_id, action_type, actions, p50_seconds, p99_seconds, max_seconds",
		"problems":        "severity, subject, problem, fix, since",
	} {
		exec(t, d, `SELECT `+columns+` FROM pgautomate.`+view)
	}
}

// TestRoles: what apps and readers may do, and may not.
func TestRoles(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	as := func(role, sql string) (err error) {
		undo := errors.New("undo")
		err = pgx.BeginFunc(ctx, d.Pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SET LOCAL ROLE `+role); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
			if strings.HasPrefix(sql, "INSERT") {
				return nil
			}
			return undo
		})
		if errors.Is(err, undo) {
			return nil
		}
		return err
	}
	// In this order: later ones need what earlier ones wrote.
	may := []string{
		`INSERT INTO pgautomate.organizations (id, time_zone) VALUES ('a', 'Europe/Vienna')`,
		`INSERT INTO pgautomate.pipelines (organization_id, name) VALUES ('a', 'p')`,
		`INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT id, 's' FROM pgautomate.pipelines`,
		`INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT id, 'z' FROM pgautomate.pipelines`,
		`INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type) SELECT id, 1, 'log' FROM pgautomate.pipeline_stages`,
		`INSERT INTO pgautomate.throttles (organization_id, max_starts) VALUES ('a', 5)`,
		`INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type) VALUES ('a', 't', 'lead', '{}', 'log')`,
		`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) SELECT 'a', '1', id FROM pgautomate.pipeline_stages WHERE name = 's'`,
		`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) SELECT 'a', '1', id FROM pgautomate.pipeline_stages WHERE name = 'z'`,
		`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) SELECT 'a', g::text, id FROM pgautomate.pipeline_stages, generate_series(2, 50) g WHERE name = 'z'`,
		`UPDATE pgautomate.lead_stage_actions SET perform_at = now() + interval '1 day' WHERE status = 'pending'`,
		`UPDATE pgautomate.lead_stage_actions SET status = 'canceled' WHERE status = 'pending'`,
		`UPDATE pgautomate.throttles SET max_starts = 6`,
		`UPDATE pgautomate.triggers SET status = 'paused'`,
		`DELETE FROM pgautomate.triggers`,
		`SELECT pgautomate.suppress()`,
		`INSERT INTO pgautomate.suppressions (organization_id, lead_id, channel, reason) VALUES ('a', '1', 'email', 'unsubscribed'), ('a', '2', NULL, 'bounced')`,
		`DELETE FROM pgautomate.suppressions`,
		`UPDATE pgautomate.pipelines SET goal = '{}'`,
		`UPDATE pgautomate.pipelines SET goal = NULL`,
	}
	for _, sql := range may {
		if err := as("pgautomate_app", sql); err != nil {
			t.Errorf("an app may not %s: %v", sql, err)
		}
	}
	if got := list(t, d, `SELECT concat_ws(' ', count(*) FILTER (WHERE status = 'pending' AND perform_at IS NOT NULL), count(*) FILTER (WHERE reason = 'stage_left')) FROM pgautomate.lead_stage_actions`); got[0] != "50 1" {
		t.Errorf("due and left actions of the app's entries: %s, want 50 1", got[0])
	}
	if n := len(list(t, d, `SELECT action_type FROM pgautomate.due_signals`)); n == 0 {
		t.Error("the app's entries left no signal")
	}
	for _, sql := range []string{
		`SELECT hash FROM pgautomate.api_keys`,
		`DELETE FROM pgautomate.lead_stage_actions`,
		`UPDATE pgautomate.lead_stage_actions SET organization_id = 'b'`,
		`UPDATE pgautomate.lead_stages SET status = 'active'`,
		`UPDATE pgautomate.feed_checkpoints SET generation = 0`,
		`DROP TABLE pgautomate.throttles`,
		`CREATE TABLE pgautomate.mine (id bigint)`,
	} {
		if err := as("pgautomate_app", sql); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("an app may %s (%v)", sql, err)
		}
	}
	for _, table := range list(t, d, `SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'pgautomate' AND c.relkind IN ('v', 'r', 'p') AND c.relname <> 'api_keys' AND NOT c.relispartition
		  AND c.relname NOT LIKE 'river%' AND c.relname <> 'goose_db_version'`) {
		for _, role := range []string{"pgautomate_readonly", "pgautomate_app"} {
			if err := as(role, `SELECT FROM pgautomate.`+table); err != nil {
				t.Errorf("%s may not read %s: %v", role, table, err)
			}
		}
	}
	for _, sql := range []string{`SELECT hash FROM pgautomate.api_keys`, may[0], may[5], `UPDATE pgautomate.lead_stage_actions SET perform_at = now()`} {
		if err := as("pgautomate_readonly", sql); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("a reader may %s (%v)", sql, err)
		}
	}
}

// A frozen process loses its transaction, also when it sleeps with unread results.
func TestSilence(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	for want, options := range map[string][]db.Option{"20s": nil, "0": {db.Patient}} {
		pool, err := db.Open(ctx, d.URL, "silent", 2, options...)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		var got string
		if err := pool.QueryRow(ctx, "SHOW idle_in_transaction_session_timeout").Scan(&got); err != nil || got != want {
			t.Errorf("idle_in_transaction_session_timeout is %q (%v), want %s", got, err, want)
		}
	}
	pool, err := db.Open(ctx, d.URL, "unread", 1)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Conn().Close(ctx); conn.Release(); pool.Close() }()
	if _, err := conn.Exec(ctx, "BEGIN; LOCK TABLE pgautomate.lanes"); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(ctx, "SELECT repeat('x', 1000000) FROM generate_series(1, 200)")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	start := time.Now()
	for !slices.Equal(list(t, d, "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'unread'"), []string{"0"}) {
		if time.Since(start) > 2*time.Minute {
			t.Fatal("the server waits for who doesn't read")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

package catalog

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// TestOldTransactions: who keeps dead rows from being removed is named, and no longer when it has let go.
func TestOldTransactions(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	exec(t, d, `CREATE TABLE note (n int); ALTER DATABASE `+d.Name+` SET pgautomate.old_transaction_after = '1s'`)
	pool, err := db.Open(ctx, d.URL, "doctor", 1) // with that setting
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	session := func(sql string) *pgx.Conn {
		config, err := pgx.ParseConfig(d.URL)
		if err != nil {
			t.Fatal(err)
		}
		config.RuntimeParams["application_name"] = "report"
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	pid := func(c *pgx.Conn) string { return strconv.FormatUint(uint64(c.PgConn().PID()), 10) }
	// Made first: making a slot waits for who writes.
	exec(t, d, `SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput')`)
	// What a server before 17 takes for a second.
	exec(t, d, `DO $$ BEGIN FOR i IN 1..1100 LOOP INSERT INTO note VALUES (i); COMMIT; END LOOP; END $$`)
	reader := session(`BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM note`)
	writer := session(`BEGIN; INSERT INTO note VALUES (1)`)
	idle := session(`BEGIN; SELECT count(*) FROM note`) // holds nothing
	problems := func() (subjects, fixes []string) {
		list, err := Doctor(ctx, pool)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			// Other tests' slots are on the same server.
			if strings.Contains(p.Problem, "VACUUM") && (p.Subject == "slot "+d.Name || !strings.HasPrefix(p.Subject, "slot ")) {
				subjects, fixes = append(subjects, p.Subject), append(fixes, p.Fix)
			}
		}
		slices.Sort(subjects)
		return subjects, fixes
	}
	until := func(want ...string) (fixes []string) {
		t.Helper()
		slices.Sort(want)
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			got, fixes := problems()
			if slices.Equal(got, want) {
				return fixes
			}
			if time.Now().After(end) {
				t.Fatalf("the problems are about %q, want %q", got, want)
			}
		}
	}
	fixes := until("session "+pid(reader)+" report", "session "+pid(writer)+" report", "slot "+d.Name)
	for _, fix := range []string{"pg_terminate_backend(" + pid(reader) + ")", "pg_terminate_backend(" + pid(writer) + ")", "pg_drop_replication_slot('" + d.Name + "')"} {
		if !slices.ContainsFunc(fixes, func(f string) bool { return strings.Contains(f, fix) }) {
			t.Errorf("the fixes are %q, want %q among them", fixes, fix)
		}
	}
	if err := reader.Close(ctx); err != nil {
		t.Fatal(err)
	}
	exec(t, d, `SELECT pg_drop_replication_slot(current_database())`)
	until("session " + pid(writer) + " report")
	if err := writer.Close(ctx); err != nil {
		t.Fatal(err)
	}
	until()
	if err := idle.Close(ctx); err != nil {
		t.Fatal(err)
	}
	// What can't be read is as if it weren't there.
	for setting, want := range map[string]string{"": "00:05:00", "soon": "00:05:00", "1 hour": "01:00:00"} {
		var got string
		_, err := pool.Exec(ctx, `SELECT set_config('pgautomate.old_transaction_after', $1, false)`, setting)
		if err == nil {
			err = pool.QueryRow(ctx, `SELECT pgautomate.old_transaction_after()::text`).Scan(&got)
		}
		if err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", setting, got, err, want)
		}
	}
}

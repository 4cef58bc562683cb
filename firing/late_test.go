package firing

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/internal/dbtest"
	"github.com/pgautomate/pgautomate/jobs"
)

// TestWholeTransaction: statements that go with the commit go with BEGIN, too, when nothing was asked before: all or none
// of them is done, and the connection is as good as before.
func TestWholeTransaction(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	if _, err := d.Pool.Exec(ctx, `CREATE TABLE kept (n int PRIMARY KEY, engine text)`); err != nil {
		t.Fatal(err)
	}
	send := func(numbers ...int) error {
		t.Helper()
		l := &lateTx{pool: d.Pool, engine: true}
		var b pgx.Batch
		for _, n := range numbers {
			b.Queue(`INSERT INTO kept VALUES ($1, current_setting('pgautomate.engine'))`, n)
		}
		b.Queue("COMMIT")
		results := l.SendBatch(ctx, &b)
		for range b.Len() {
			if _, err := results.Exec(); err != nil {
				_ = results.Close()
				if !l.begun() {
					t.Error("it is not begun")
				}
				if _, again := l.Exec(ctx, `SELECT 1`); again == nil {
					t.Error("it goes on")
				}
				if err := l.Rollback(ctx); err != nil {
					t.Errorf("roll back: %v", err)
				}
				return err
			}
		}
		if err := results.Close(); err != nil {
			return err
		}
		l.ended()
		return l.Rollback(ctx) // nothing is left to be
	}
	if err := send(1, 2); err != nil {
		t.Fatal(err)
	}
	if err := send(3, 1); err == nil || !strings.Contains(err.Error(), "23505") {
		t.Errorf("one that is there: %v", err)
	}
	if err := send(4); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := d.Pool.QueryRow(ctx, `SELECT string_agg(n || engine, ' ' ORDER BY n) FROM kept`).Scan(&got); err != nil || got != "1on 2on 4on" {
		t.Errorf("%q, %v", got, err)
	}
	if n := d.Pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are not given back", n)
	}
}

// TestJobsAreRivers: jobs that go with the commit are rows as River's client writes them.
func TestJobsAreRivers(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	ctx := t.Context()
	client, err := river.NewClient(riverpgxv5.New(d.Pool), &river.Config{Schema: db.Schema})
	if err != nil {
		t.Fatal(err)
	}
	b := &batch{Matcher: &Matcher{Config: Config{River: client}}, tx: &lateTx{pool: d.Pool}}
	b.carriers = append(b.carriers, carrier(jobs.FiringArgs{ID: 1, At: time.Unix(5, 0).UTC()}), carrier(jobs.ObjectGoneArgs{ObjectType: "lead", IDs: []string{"1"}}))
	if _, err := client.InsertManyFast(ctx, b.carriers); err != nil {
		t.Fatal(err)
	}
	if err := b.enqueue(ctx, true); err != nil {
		t.Fatal(err)
	}
	if b.tx.begun() || len(b.carriers) != 0 {
		t.Error("they were not left to go with the commit")
	}
	b.closing.Queue("COMMIT")
	if err := b.tx.SendBatch(ctx, &b.closing).Close(); err != nil {
		t.Fatal(err)
	}
	b.tx.ended()
	rows, err := d.Pool.Query(ctx, `SELECT to_jsonb(j) - ARRAY['id', 'created_at', 'scheduled_at'] FROM pgautomate.river_job j
		WHERE scheduled_at <= now() AND created_at > now() - interval '1 minute' ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[json.RawMessage])
	if err != nil || len(all) != 4 {
		t.Fatalf("%d jobs: %v", len(all), err)
	}
	for i := range 2 {
		if string(all[i]) != string(all[i+2]) {
			t.Errorf("River's is\n%s, ours\n%s", all[i], all[i+2])
		}
	}
}

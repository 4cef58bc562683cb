package feed_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/feed"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// discard applies nothing but the checkpoint.
type discard struct {
	w     *world
	store *feed.Checkpoints
	seen  chan int
}

func (d *discard) Apply(ctx context.Context, commits []*change.Commit, position change.EndLSN) error {
	err := pgx.BeginFunc(ctx, d.w.db.Pool, func(tx pgx.Tx) error { return d.store.Advance(ctx, tx, position) })
	n := 0
	for _, c := range commits {
		if err := c.Each(func(*change.Change) error { n++; return nil }); err != nil {
			return err
		}
	}
	if err == nil && n > 0 {
		d.seen <- n
	}
	return err
}

// BenchmarkDrain reads a backlog of rows of about 130 bytes, and compares with
// pg_recvlogical, which only receives, on a slot of the same backlog.
func BenchmarkDrain(b *testing.B) {
	for _, shape := range []struct {
		name         string
		perTx, total int
		update       bool
	}{
		{"1_row_per_commit", 1, 100_000, false},
		{"1000_rows_per_commit", 1000, 300_000, false},
		{"1000_updates_per_commit", 1000, 300_000, true},
		{"one_commit", 500_000, 500_000, false},
	} {
		b.Run(shape.name, func(b *testing.B) {
			for range b.N {
				drain(b, shape.perTx, shape.total, shape.update)
			}
		})
	}
}

func drain(b *testing.B, perTx, total int, update bool) {
	b.Helper()
	b.StopTimer()
	server := dbtest.OwnServer(b)
	w := worldOn(b, dbtest.NewOn(b, server))
	w.exec(`CREATE PROCEDURE load(per int, total int, change bool) LANGUAGE plpgsql AS $$
DECLARE i int := 0;
BEGIN
  WHILE i < total LOOP
    IF change THEN UPDATE lead SET v = 'changed' WHERE id BETWEEN i + 1 AND i + per;
    ELSE INSERT INTO lead SELECT g, 'org' || g % 100, 'status', repeat('x', 90) FROM generate_series(i + 1, i + per) g;
    END IF;
    COMMIT;
    i := i + per;
  END LOOP;
END $$`)
	if update {
		w.exec(`CALL load($1, $2, false)`, perTx, total)
	}
	w.exec(`CREATE PUBLICATION bench FOR TABLE lead`) // pg_recvlogical can't quote the other one's name
	r := w.start().state(feed.StateStreaming)
	r.stop()
	w.exec(`SELECT pg_create_logical_replication_slot('reference', 'pgoutput')`)
	w.exec(`CALL load($1, $2, $3)`, perTx, total, update)
	end := one[string](w, `SELECT pg_current_wal_flush_lsn()::text`)
	w.exec(`CHECKPOINT`)

	began := time.Now()
	tool := filepath.Join(server.BinDir(), "pg_recvlogical")
	if _, err := os.Stat(tool); err != nil {
		tool = "pg_recvlogical" // a server without client programs: the installed one
	}
	out, err := exec.Command(tool, "-d", w.db.URL, "-S", "reference", "--start", "-f", "/dev/null",
		"-o", "proto_version=1", "-o", "publication_names=bench", "-E", end, "--no-loop").CombinedOutput()
	reference := time.Since(began)
	if err != nil {
		b.Fatalf("pg_recvlogical: %v: %s", err, out)
	}

	d := &discard{w: w, seen: make(chan int, 1)}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b.StartTimer()
	began = time.Now()
	r = w.start(func(c *feed.Config, _ *recorder) { d.store, c.Applier = c.Store, d })
	for seen := 0; seen < total; {
		select {
		case n := <-d.seen:
			seen += n
		case <-time.After(2 * time.Minute):
			b.Fatalf("drained %d: %+v", seen, r.feed.Status())
		}
	}
	took := time.Since(began)
	b.StopTimer()
	runtime.ReadMemStats(&after)
	r.stop()
	b.ReportMetric(float64(total)/took.Seconds(), "rows/s")
	b.ReportMetric(float64(total)/reference.Seconds(), "reference_rows/s")
	b.ReportMetric(reference.Seconds()/took.Seconds(), "ratio")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(total), "B/row")
	b.ReportMetric(float64(after.HeapSys)/(1<<20), "heap_MiB")
}

package acceptance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// What fails while changes go on: connections, processes. No firing may be lost,
// none may be there twice.

// traffic makes leads and turns each of them into a customer once, until stop,
// which gives their number.
func (w *world) traffic() (stop func() int) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	var made atomic.Int64
	go func() { done <- w.makeLeads(ctx, &made) }()
	return func() int {
		w.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.t.Fatalf("the app's own writes failed: %v", err)
		}
		return int(made.Load())
	}
}

func (w *world) makeLeads(ctx context.Context, made *atomic.Int64) error {
	// Not the test's context: what is begun is ended.
	always := context.WithoutCancel(ctx)
	pool, err := pgxpool.New(always, w.db.URL)
	if err != nil {
		return err
	}
	defer pool.Close()
	for ctx.Err() == nil {
		n := 1 + rand.IntN(10)
		first := made.Load() + 1
		_, err := pool.Exec(always, `INSERT INTO lead (id, organization_id, status_id) SELECT i, 'a', 'Q' FROM generate_series($1::bigint, $2::bigint) i`, first, first+int64(n)-1)
		if err != nil {
			return err
		}
		if _, err := pool.Exec(always, `UPDATE lead SET status_id = 'C' WHERE id >= $1`, first); err != nil {
			return err
		}
		// This fires nothing.
		if _, err := pool.Exec(always, `UPDATE lead SET source = 'web' WHERE id >= $1`, first); err != nil {
			return err
		}
		made.Add(int64(n))
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// firedOnce checks that each of n leads fired exactly once, with one River job.
func (w *world) firedOnce(trigger int64, n int) {
	w.t.Helper()
	if n == 0 {
		w.t.Fatal("there was no traffic")
	}
	w.until("the last lead has fired", func() bool { return w.firings(trigger, strconv.Itoa(n)) > 0 })
	w.settle()
	all := w.firings(trigger, "")
	objects := one[int64](w, `SELECT count(DISTINCT object_id) FROM pgautomate.trigger_firings WHERE trigger_id = $1`, trigger)
	carried := one[int64](w, `SELECT count(*) FROM pgautomate.river_job WHERE kind = 'firing'`)
	if all != n || int(objects) != n || int(carried) != n {
		w.t.Errorf("%d leads became customers: %d firings of %d leads, %d River jobs", n, all, objects, carried)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.feed_gaps`); n != 0 {
		w.t.Errorf("%d gaps in the feed", n)
	}
}

// T71: the server ends the engine's sessions again and again, wherever they are.
func TestConnectionsAreCutAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	id := w.trigger("a", "customers", "lead", qs("C"))
	stop := w.traffic()
	end := time.Now().Add(5 * time.Second)
	cuts := 0
	for time.Now().Before(end) {
		time.Sleep(time.Duration(20+rand.IntN(250)) * time.Millisecond)
		cuts += len(list[bool](w, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgautomate%'`))
	}
	n := stop()
	t.Logf("%d leads, %d sessions cut", n, cuts)
	w.firedOnce(id, n)
	w.everyFiringActed()
}

// A process that feeds again uses no ids that it had kept from before: ids follow the order of the stream, also when another
// one fed meanwhile.
func TestIDsFollowTheStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.run()
	id := w.trigger("a", "customers", "lead", qs("C"))
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (1, 'a', 'C')`)
	w.until("it fires", func() bool { return w.firings(id, "1") == 1 })
	another := one[int64](w, `SELECT setval('pgautomate.trigger_firings_id_seq', last_value + 100000) FROM pgautomate.trigger_firings_id_seq`)
	w.exec(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()`)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (2, 'a', 'C')`)
	w.until("it fires again", func() bool { return w.firings(id, "2") == 1 })
	if n := one[int64](w, `SELECT max(id) FROM pgautomate.trigger_firings`); n <= another {
		t.Errorf("firing %d came after %d", n, another)
	}
}

// T71: the process is killed again and again, wherever it is, also between its
// jobs' commit and the confirmation to the server.
func testKilledFeeds(t *testing.T, binary string) { //nolint:thelper // a test
	w := newWorld(t)
	w.crm()
	id := one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params)
		VALUES ('a', 'customers', 'lead', $1, 'log', '{"message":"fired"}') RETURNING id`, qs("C"))
	first := start(t, binary, w.db.URL, "run", "--only", "feed")
	first.awaitReady()
	stop := w.traffic()
	first.kill()
	begin := time.Now()
	life := 300 * time.Millisecond // longer where the machine is slow
	kills, moved := 1, 0
	for time.Since(begin) < 6*time.Second || moved < 3 && time.Since(begin) < time.Minute {
		before := w.firings(id, "")
		p := start(t, binary, w.db.URL, "run", "--only", "feed")
		p.awaitReady()
		time.Sleep(rand.N(life))
		p.kill()
		kills++
		if w.firings(id, "") > before {
			moved++
		} else {
			life = min(life*5/4, 10*time.Second)
		}
	}
	n := stop()
	t.Logf("%d leads, %d kills, firings between %d of them", n, kills, moved)
	if moved == 0 {
		t.Error("nothing fired between the kills: the test shows nothing")
	}
	w.run()
	w.firedOnce(id, n)
	w.everyFiringActed()
}

// The second of two processes stands by and takes over when the first is killed.
func testStandbyTakesOver(t *testing.T, binary string) { //nolint:thelper // a test
	w := newWorld(t)
	w.crm()
	id := one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params)
		VALUES ('a', 'customers', 'lead', $1, 'log', '{"message":"fired"}') RETURNING id`, qs("C"))
	first := start(t, binary, w.db.URL, "run", "--listen", freeAddress(t))
	first.awaitReady()
	second := start(t, binary, w.db.URL, "run", "--listen", freeAddress(t))
	second.awaitReady()
	feeding := func() int32 {
		return one[int32](w, `SELECT coalesce((SELECT active_pid FROM pg_replication_slots WHERE database = current_database() AND active), 0)`)
	}
	before := feeding()
	if before == 0 {
		t.Fatal("nobody feeds")
	}
	stop := w.traffic()
	w.until("firings come", func() bool { return w.firings(id, "") > 20 })
	first.kill()
	killed := time.Now()
	w.until("the second one feeds", func() bool { pid := feeding(); return pid != 0 && pid != before })
	took := time.Since(killed)
	t.Logf("took over after %v", took.Round(time.Millisecond))
	if took > 30*time.Second {
		t.Errorf("the takeover took %v", took)
	}
	seen := w.firings(id, "")
	w.until("firings come again", func() bool { return w.firings(id, "") > seen+20 })
	n := stop()
	w.firedOnce(id, n)
	second.terminate()
	if out := second.stdout.String(); out != "pgautomate ready\n" {
		t.Errorf("the second one printed %q", out)
	}
}

// Two processes share the work: each action runs once.
func testTwoProcesses(t *testing.T, binary string) { //nolint:thelper // a test
	w := newWorld(t)
	w.crm()
	id := one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params)
		VALUES ('a', 'customers', 'lead', $1, 'insert_row', '{"table":"contact","values":{"organization_id":"a","title":"of {{ lead.id }}"}}') RETURNING id`, qs("C"))
	var both []*process
	for range 2 {
		both = append(both, start(t, binary, w.db.URL, "run", "--listen", freeAddress(t)))
	}
	for _, p := range both {
		p.awaitReady()
	}
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT i, 'a', 'C' FROM generate_series(1, 1000) i`)
	w.firedOnce(id, 1000)
	w.everyFiringActed()
	if rows, different := one[int64](w, `SELECT count(*) FROM contact`), one[int64](w, `SELECT count(DISTINCT title) FROM contact`); rows != 1000 || different != 1000 {
		t.Errorf("%d rows of %d leads, want 1000", rows, different)
	}
	if n := one[int64](w, `SELECT count(DISTINCT attempted_by[1]) FROM pgautomate.river_job WHERE kind IN ('firing', 'action')`); n != 2 {
		t.Errorf("%d processes worked, want 2", n)
	}
	for _, p := range both {
		p.terminate()
	}
}

// T69: a large update doesn't make the process large.
func testMemoryOfLargeUpdate(t *testing.T, binary string) { //nolint:thelper // a test
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("needs /proc")
	}
	w := newWorld(t)
	w.crm()
	id := one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params)
		VALUES ('a', 'customers', 'lead', $1, 'log', '{"message":"fired"}') RETURNING id`, qs("C"))
	w.exec(`INSERT INTO lead (id, organization_id, status_id, description) SELECT i, 'a', 'Q', repeat('x', 500) FROM generate_series(1, 16000) i`)
	p := start(t, binary, w.db.URL, "run", "--only", "feed")
	p.awaitReady()
	w.settle()
	before := peakMemory(t, p)
	w.exec(`UPDATE lead SET status_id = 'C'`)
	w.settle()
	if n := w.firings(id, ""); n != 16_000 {
		t.Errorf("%d firings, want 16000", n)
	}
	after := peakMemory(t, p)
	t.Logf("peak memory %d MiB, then %d MiB", before>>10, after>>10)
	// The rows are 18 MiB, before and after; they are held once, and written in parts.
	if after > 256<<10 {
		t.Errorf("the process needed %d MiB", after>>10)
	}
}

// peakMemory is VmHWM in KiB.
func peakMemory(t *testing.T, p *process) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

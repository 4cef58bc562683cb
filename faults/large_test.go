//go:build faults

package faults

// One transaction of hundreds of thousands of rows, and the engine killed in the midst of it.

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// memoryLimit is what the engine may take, whatever the size of a transaction, in MiB.
const memoryLimit = 400

// largeTimeout is the server's wal_sender_timeout: much shorter than what is done to the transaction.
const largeTimeout = 6 * time.Second

// peak is the most memory that the process has taken so far, in MiB; 0 when it has ended.
func (p *process) peak() int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	var kib int
	for entry := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(entry, "VmHWM:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
		}
	}
	return kib >> 10
}

// weigh follows a process's memory until it ends; the most of all is kept in most.
func (p *process) weigh(most *atomic.Int64) {
	go func() {
		for !p.ended() {
			if m := int64(p.peak()); m > most.Load() {
				most.Store(m)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
}

// largeKilled: FAULT_ROWS sets how many rows the transaction has.
func (w *world) largeKilled() {
	rows := 300_000
	if n, err := strconv.Atoi(os.Getenv("FAULT_ROWS")); err == nil {
		rows = n
	}
	due := rows - rows/3
	const flushed = 5000 // firings are written in portions of these
	isCustomer := field("status_id", `{"type":"term","values":["C"]}`)
	large := w.trigger("large", "customers", query(isCustomer), "log", `{"message":"fired"}`)
	small := w.trigger("small", "customers", query(isCustomer), "log", `{"message":"fired"}`)
	fired := func(trigger int64) int64 {
		return one[int64](w, `SELECT count(*) FROM pgautomate.trigger_firings WHERE trigger_id = $1`, trigger)
	}
	w.binary = build(w.t, "failpoints")
	w.run("--only", "feed").terminate() // makes the slot
	w.exec(`DO $$ BEGIN
		SET LOCAL session_replication_role = replica; -- no audit: it would take longer than all else
		INSERT INTO lead (id, organization_id, status_id, note) SELECT -i, 'large', (ARRAY['Q', 'C', 'C'])[1 + i % 3], repeat('x', 200) FROM generate_series(1, ` + strconv.Itoa(rows) + `) i;
	END $$`)
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (0, 'small', 'C')`)

	var most atomic.Int64
	// By its own hand, when half of its firings are written.
	p := w.command([]string{"PGAUTOMATE_FAILPOINT=firings-copied:" + strconv.Itoa(max(1, due/flushed/2))}, "run", "--only", "feed", "--listen", freeAddress(w.t))
	p.weigh(&most)
	select {
	case <-p.done:
	case <-time.After(caughtUpWithin):
		w.t.Fatal("it did not come half-way")
	}
	w.times++
	// By another's, somewhere.
	p = w.run("--only", "feed")
	p.weigh(&most)
	w.until("its transaction is under way", func() bool {
		return one[bool](w, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgautomate feed'
			AND backend_xid IS NOT NULL AND clock_timestamp() - xact_start > interval '1 second')`)
	})
	dead := w.reader()
	p.kill()
	w.times++
	if n := fired(large); n != 0 {
		w.t.Errorf("%d firings of a transaction that was not completed", n)
	}

	began := time.Now()
	p = w.run("--only", "feed")
	p.weigh(&most)
	var reader int32
	w.until("it reads, and not the dead one any more", func() bool { reader = w.reader(); return reader != 0 && reader != dead })
	var quiet float64 // seconds between two words to the server
	var largeTook, smallTook time.Duration
	w.until("all has fired", func() bool {
		quiet = max(quiet, one[float64](w, `SELECT coalesce((SELECT extract(epoch FROM clock_timestamp() - reply_time) FROM pg_stat_replication WHERE pid = $1), 0)::float8`, reader))
		if largeTook == 0 && fired(large) > 0 {
			largeTook = time.Since(began)
		}
		if fired(small) > 0 {
			smallTook = time.Since(began)
			if largeTook == 0 {
				largeTook = smallTook
			}
		}
		return smallTook > 0
	})
	if now := w.reader(); now != reader {
		w.t.Error("the stream broke off meanwhile")
	}
	if quiet > largeTimeout.Seconds() {
		w.t.Errorf("the server heard nothing for %.1f s", quiet)
	}
	type count struct{ Firings, Objects, Jobs, Without int64 }
	got := list[count](w, `SELECT count(*), count(DISTINCT object_id) FILTER (WHERE object_id::bigint % 3 <> 0), (SELECT count(*) FROM pgautomate.river_job WHERE kind = 'firing'),
			(SELECT count(*) FROM (SELECT id::text FROM pgautomate.trigger_firings EXCEPT SELECT args ->> 'id' FROM pgautomate.river_job WHERE kind = 'firing') x)
		FROM pgautomate.trigger_firings WHERE trigger_id = $1`, large)[0]
	if want := (count{int64(due), int64(due), int64(due) + 1, 0}); got != want {
		w.t.Errorf("firings, objects, River jobs, firings without one: %v, want %v", got, want)
	}
	if n := fired(small); n != 1 {
		w.t.Errorf("the commit after it fired %d times", n)
	}
	p.terminate()
	w.t.Logf("%d rows, %d firings: after %v, and the commit after them after %v; at most %.1f s between two words to the server; at most %d MiB of memory",
		rows, due, largeTook.Round(time.Millisecond), smallTook.Round(time.Millisecond), quiet, most.Load())
	if m := most.Load(); m > memoryLimit || m == 0 {
		w.t.Errorf("the engine took %d MiB, the limit is %d", m, memoryLimit)
	}
	lost, twice := max(0, due-int(got.Objects)), int(max(0, got.Firings-got.Objects))
	report.add(result{w.fault, w.times, due + 1, lost, twice, 0, smallTook, 0})
}

//go:build faults

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/private"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// senderTimeout is the server's wal_sender_timeout where the fault is about it.
const senderTimeout = 2 * time.Second

var shortTimeout = fmt.Sprintf("wal_sender_timeout=%dms", senderTimeout.Milliseconds())

// alone is the fault whose bound of time holds only on a machine that isn't busy: the engine asks the server in vain when
// that takes longer than 5 s, and then waits for a minute.
const alone = "network: silent cut, new connections work"

// TestFaults inflicts all faults, some at one time, and prints the table.
func TestFaults(t *testing.T) {
	needsBinaries(t)
	build(t, "")
	build(t, "failpoints")
	t.Cleanup(func() { fmt.Printf("\n%s\n", &report) }) // after all that runs in parallel
	for _, f := range []struct {
		name     string
		settings []string
		inflict  func(w *world)
	}{
		{"kill -9, restart", nil, (*world).killAndRestart},
		{"kill -9, a standby takes over", nil, (*world).killWithStandby},
		{"kill -9 while timers come due", nil, (*world).timersKilled},
		{"kill -9 while waits end", nil, (*world).waitsKilled},
		{"kill -9 in the midst of 2,000 triggers of workflows", nil, func(w *world) { w.notificationsKilled(2000, 3) }},
		{"server: immediate shutdown and restart", nil, (*world).crashes},
		{"kill -9 of engine and server at one time", nil, (*world).killBoth},
		{"server: sessions terminated", nil, (*world).terminations},
		{"SIGSTOP, a standby takes over, SIGCONT", []string{shortTimeout}, (*world).freeze},
		{"SIGSTOP while applying, with a standby", []string{shortTimeout}, (*world).freezeWhileApplying},
		{"SIGSTOP while committing, with a standby", []string{shortTimeout}, (*world).freezeWhileCommitting},
		{"SIGSTOP of the only process, SIGCONT", []string{shortTimeout}, (*world).freezeAlone},
		{"worker frozen until it is taken for dead, SIGCONT", nil, (*world).freezeWorker},
		{"scheduler frozen while claiming, SIGCONT", nil, (*world).freezeClaim},
		{"lead_stage_actions locked", []string{shortTimeout}, (*world).actionsLocked},
		{"trigger_firings locked", []string{shortTimeout}, (*world).firingsLocked},
		{"checkpoint row locked", []string{shortTimeout}, (*world).checkpointLocked},
		{"slot dropped", nil, (*world).slotDropped},
		{"slot dropped under the running engine", nil, (*world).slotDroppedRunning},
		{"slot invalidated by max_slot_wal_keep_size", []string{"max_slot_wal_keep_size=1MB", "min_wal_size=32MB", "max_wal_size=32MB"}, (*world).slotInvalidated},
		{"publication dropped and made anew", nil, (*world).publicationDropped},
		{"ALTER TABLE under load", nil, (*world).ddl},
		{"replica identity DEFAULT for a while", nil, (*world).identity},
		{"poison", nil, (*world).poison},
		{"workers killed again and again", nil, (*world).workersKilled},
		{"2 of 4 workers killed again and again", nil, (*world).halfOfWorkersKilled},
		{alone, nil, (*world).silentCut},
		{"network: silent cut that heals", nil, (*world).silentCutHeals},
		{"network: silent cut of the active one, with a standby", []string{shortTimeout}, (*world).silentCutWithStandby},
		{"network: the active one hears nothing, with a standby", []string{shortTimeout}, (*world).deafWithStandby},
		{"failover without the slot", nil, (*world).failoverWithoutSlot},
		{"failover, every commit waits for the standby", nil, (*world).failoverSynchronous},
		{"failover, only the feed waits for the standby", nil, (*world).failoverGuarded},
		{"failover to a standby without the last checkpoint", nil, (*world).failoverAhead},
		{"failover, the feed waited for the standby", nil, (*world).failoverNotAhead},
		{"kill -9 in the midst of a large transaction", []string{fmt.Sprintf("wal_sender_timeout=%ds", int(largeTimeout.Seconds()))}, (*world).largeKilled},
		{"network: messages changed on the way", nil, (*world).garbage},
		{"network: a row that stays unreadable", nil, (*world).spoiltRow},
		{"network: a message that stays unreadable", nil, (*world).spoiltStream},
		{"VACUUM held back", []string{"max_prepared_transactions=2"}, (*world).heldBack},
		{"watched tables idle, others written", nil, (*world).othersWritten},
	} {
		t.Run(f.name, func(t *testing.T) {
			if f.name != alone {
				t.Parallel()
			}
			f.inflict(newWorld(t, f.name, f.settings...))
		})
	}
	t.Run("disk full", func(t *testing.T) { t.Parallel(); diskFull(t) })
	for _, place := range slices.Concat(failpoints, notificationFailpoints) {
		t.Run("failpoint "+place, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "failpoint "+place)
			w.binary = build(t, "failpoints")
			if slices.Contains(notificationFailpoints, place) {
				w.notificationFailpoint(place)
			} else {
				w.failpoint(place)
			}
		})
	}
}

// here is the audit's place now; call it while nobody writes, or holding the table's
// lock.
const here = `SELECT nextval('steps')`

// engine starts `pgautomate run` and waits until it is ready.
func (w *world) engine(env ...string) *process {
	w.t.Helper()
	p := w.command(env, "run", "--listen", freeAddress(w.t))
	p.awaitReady()
	return p
}

// aWhile is FAULT_SECONDS, or 5 s.
func aWhile() time.Duration {
	seconds := 5.0
	if s, err := strconv.ParseFloat(os.Getenv("FAULT_SECONDS"), 64); err == nil {
		seconds = s
	}
	return time.Duration(seconds * float64(time.Second))
}

// forAWhile repeats something for FAULT_SECONDS, at least once.
func (w *world) forAWhile(do func()) {
	w.t.Helper()
	end := time.Now().Add(aWhile())
	for again := true; again; again = time.Now().Before(end) {
		do()
		w.times++
	}
}

func pause(from, to time.Duration) { time.Sleep(from + rand.N(to-from)) }

func (w *world) killAndRestart() {
	p := w.engine()
	w.write()
	w.underway()
	w.forAWhile(func() {
		pause(0, 600*time.Millisecond)
		p.kill()
		p = w.engine()
	})
	w.check(w.caughtUp())
	p.terminate()
}

func (w *world) killWithStandby() {
	active := w.engine()
	standby := w.engine()
	w.write()
	w.underway()
	var longest time.Duration
	w.forAWhile(func() {
		pause(0, 600*time.Millisecond)
		active.kill()
		took := w.caughtUp()
		longest = max(longest, took)
		active, standby = standby, w.engine()
	})
	if longest > 30*time.Second {
		w.t.Errorf("the standby needed %v after a kill -9, the bound is 30 s", longest)
	}
	w.check(longest)
	active.terminate()
	standby.terminate()
}

func (w *world) crashes() {
	p := w.engine()
	w.write()
	w.underway()
	var longest time.Duration
	w.forAWhile(func() {
		pause(0, time.Second)
		w.crash(rand.N(time.Second))
		longest = max(longest, w.caughtUp())
	})
	w.check(longest)
	p.terminate()
}

func (w *world) killBoth() {
	p := w.engine()
	w.write()
	w.underway()
	var longest time.Duration
	w.forAWhile(func() {
		pause(0, time.Second)
		p.kill()
		w.crash(0)
		began := time.Now()
		p = w.engine()
		w.caughtUp()
		longest = max(longest, time.Since(began))
	})
	w.check(longest)
	p.terminate()
}

// Frozen once for FAULT_SECONDS, then again and again for as long as the server bears it.
func (w *world) freezeAlone() {
	p := w.engine()
	w.write()
	w.underway()
	var longest time.Duration
	freeze := func(atLeast time.Duration) {
		p.signal(syscall.SIGSTOP)
		time.Sleep(atLeast)
		w.until("the server gives the reader up", func() bool { return w.reader() == 0 })
		p.signal(syscall.SIGCONT)
		longest = max(longest, w.caughtUp())
	}
	freeze(aWhile())
	w.times++
	w.forAWhile(func() {
		pause(0, 300*time.Millisecond)
		freeze(0)
	})
	w.check(longest)
	p.terminate()
}

// What the frozen process held runs elsewhere; when it wakes, its outcomes are dropped.
func (w *world) freezeWorker() {
	stays := w.engine()
	sleeps := w.run("--only", "scheduler,workers")
	w.write()
	w.underway()
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT nextval('lead_ids'), 'b', 'C' FROM generate_series(1, 3000)`)
	var held []int64
	w.until("it is frozen with actions in its hands", func() bool {
		sleeps.signal(syscall.SIGSTOP)
		held = one[[]int64](w, `SELECT coalesce(array_agg(a.id), '{}') FROM pgautomate.lead_stage_actions a JOIN pgautomate.workers k ON k.id = a.worker_id
			WHERE k.pid = $1 AND a.status = 'running'`, sleeps.cmd.Process.Pid)
		if len(held) == 0 {
			sleeps.signal(syscall.SIGCONT)
		}
		return len(held) > 0
	})
	w.tell(held)
	took := w.until("its actions have run elsewhere", func() bool {
		return one[bool](w, `SELECT bool_and(status = 'completed') FROM pgautomate.lead_stage_actions WHERE id = ANY($1)`, held)
	})
	w.t.Logf("a frozen worker held %d actions; they had run elsewhere after %v", len(held), took.Round(time.Millisecond))
	if took > 60*time.Second {
		w.t.Errorf("they had run elsewhere after %v, the bound is 60 s", took)
	}
	sleeps.signal(syscall.SIGCONT)
	w.times++
	w.underway()
	w.check(w.caughtUp())
	stays.terminate()
	sleeps.terminate()
}

// The frozen process has locked the lanes that it was about to claim from; others skip
// them until it loses its transaction.
func (w *world) freezeClaim() {
	stays := w.run("--only", "feed,workers")
	sleeps := w.run("--only", "scheduler")
	w.write()
	w.underway()
	w.until("it is frozen with lanes in its hands", func() bool {
		release := w.hold(`LOCK TABLE pgautomate.lanes IN ACCESS EXCLUSIVE MODE`)
		waiting := func() []int32 {
			return one[[]int32](w, `SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
				AND query LIKE '%name: LockLanes %'`)
		}
		// Perhaps it merges signals, which waits for the table as well, and leaves no transaction: then once more.
		w.until("it waits for the lock", func() bool {
			return one[int64](w, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%pgautomate.lanes%'`) > 0
		})
		pids := waiting()
		sleeps.signal(syscall.SIGSTOP)
		release()
		w.until("it has the lock", func() bool { return len(waiting()) == 0 })
		open := one[bool](w, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY($1) AND state = 'idle in transaction' AND backend_xid IS NOT NULL)`, pids)
		if !open {
			sleeps.signal(syscall.SIGCONT)
		}
		return open
	})
	w.times++
	takes := w.run("--only", "scheduler")
	n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions`)
	w.until("there is more to claim", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions`) > n+10
	})
	due := one[[]int64](w, `SELECT array_agg(id) FROM pgautomate.lead_stage_actions`)
	w.tell(due)
	took := w.until("what is due has run", func() bool {
		return one[bool](w, `SELECT bool_and(status = 'completed') FROM pgautomate.lead_stage_actions WHERE id = ANY($1)`, due)
	})
	w.t.Logf("all that was due had run %v after the freeze", took.Round(time.Millisecond))
	if took > 60*time.Second {
		w.t.Errorf("all that was due had run %v after the freeze, the bound is 60 s", took)
	}
	sleeps.signal(syscall.SIGCONT)
	w.check(w.caughtUp())
	for _, p := range []*process{stays, sleeps, takes} {
		p.terminate()
	}
}

// tell prints, when the test has failed, what became of these actions, and who does what in the database.
func (w *world) tell(actions []int64) {
	w.t.Cleanup(func() {
		if !w.t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the test's own has ended
		defer cancel()
		for _, q := range []struct {
			sql  string
			args []any
		}{
			{`SELECT jsonb_build_object('actions', count(*), 'status', a.status, 'type', a.action_type, 'reason', a.reason, 'error', a.error, 'attempt', a.attempt,
				'worker', k.pid, 'heartbeat', date_trunc('second', now() - k.heartbeat_at), 'due_in', date_trunc('second', a.perform_at - now()),
				'lead_is_gone', l.id IS NULL, 'ids', (array_agg(a.id ORDER BY a.id))[:5])::text
				FROM pgautomate.lead_stage_actions a LEFT JOIN pgautomate.workers k ON k.id = a.worker_id LEFT JOIN lead l ON l.id::text = a.lead_id
				WHERE a.id = ANY($1) GROUP BY a.status, a.action_type, a.reason, a.error, a.attempt, k.pid, k.heartbeat_at, a.perform_at, l.id IS NULL LIMIT 20`, []any{actions}},
			{`SELECT concat_ws(' ', pid, application_name, state, wait_event_type, wait_event, 'for', date_trunc('second', now() - state_change),
				'blocked by', pg_blocking_pids(pid), left(query, 120))
				FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'`, nil},
		} {
			rows, err := w.db.Pool.Query(ctx, q.sql, q.args...)
			if err == nil {
				var lines []string
				lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
				w.t.Log(strings.Join(lines, "\n"))
			}
			if err != nil {
				w.t.Log(err)
			}
		}
	})
}

func (w *world) terminations() {
	p := w.engine()
	w.write()
	w.underway()
	w.forAWhile(func() {
		pause(20*time.Millisecond, 250*time.Millisecond)
		w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgautomate%'`)
	})
	w.check(w.caughtUp())
	p.terminate()
}

// reader is the session that reads the slot; 0: none.
func (w *world) reader() int32 {
	w.t.Helper()
	return one[int32](w, `SELECT coalesce((SELECT active_pid FROM pg_replication_slots WHERE database = current_database() AND active), 0)`)
}

func (w *world) freeze() {
	active := w.engine()
	standby := w.engine()
	w.write()
	w.underway()
	var longest time.Duration
	w.forAWhile(func() {
		was := w.reader()
		active.signal(syscall.SIGSTOP)
		took := w.until("the standby feeds", func() bool { pid := w.reader(); return pid != 0 && pid != was })
		took += w.caughtUp()
		longest = max(longest, took)
		w.underway()
		active.signal(syscall.SIGCONT)
		w.underway()
		active, standby = standby, active
	})
	if longest > senderTimeout+30*time.Second {
		w.t.Errorf("the standby needed %v after the freeze, the bound is wal_sender_timeout + 30 s", longest)
	}
	w.check(longest)
	active.terminate()
	standby.terminate()
}

// hold takes locks in a session of its own until the returned function is called.
func (w *world) hold(sql string) (release func()) {
	w.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, w.db.URL)
	if err == nil {
		_, err = conn.Exec(ctx, `BEGIN`)
	}
	if err == nil {
		_, err = conn.Exec(ctx, sql)
	}
	if err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return func() { _ = conn.Close(ctx) }
}

// The frozen process has a transaction open, with the very firings that the standby is
// to write.
func (w *world) freezeWhileApplying() {
	w.freezeFeed("it is frozen with its transaction open", `LOCK TABLE pgautomate.river_job IN SHARE ROW EXCLUSIVE MODE`, "river_job", func() {
		// So many that they don't go with their commit in one pipeline, which a frozen process would not hold up.
		w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT nextval('lead_ids'), 'b', 'C' FROM generate_series(1, 500)`)
	}, "idle in transaction")
}

// The frozen process has sent its transaction with the COMMIT, and never hears how it ended.
func (w *world) freezeWhileCommitting() {
	w.freezeFeed("its transaction was committed while it was frozen", `LOCK TABLE pgautomate.feed_checkpoints IN SHARE ROW EXCLUSIVE MODE`, "feed_checkpoints", func() {}, "idle")
}

// freezeFeed freezes the feeding process while it waits for a lock on table, which sql takes, with firings written; state is
// what its session is to be in once it has had the lock.
func (w *world) freezeFeed(what, sql, table string, load func(), state string) {
	active := w.engine()
	standby := w.engine()
	w.write()
	w.underway()
	var was int32
	var began time.Time
	w.until(what, func() bool {
		release := w.hold(sql)
		load()
		waiting := func() []int32 {
			return one[[]int32](w, `SELECT coalesce(array_agg(pid), '{}') FROM pg_locks
				WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND relation = ('pgautomate.' || $1)::regclass AND NOT granted`, table)
		}
		w.until("somebody waits for the lock", func() bool { return len(waiting()) > 0 })
		pids := one[[]int32](w, `SELECT coalesce(array_agg(DISTINCT pid), '{}') FROM pg_locks
			WHERE pid = ANY($1) AND relation = 'pgautomate.trigger_firings'::regclass AND mode = 'RowExclusiveLock'`, waiting())
		if len(pids) == 0 { // another one, or one without firings
			release()
			return false
		}
		was = w.reader()
		active.signal(syscall.SIGSTOP)
		began = time.Now()
		release()
		w.until("those that waited have the lock", func() bool { return len(waiting()) == 0 })
		w.until("it is done with what it was sent", func() bool {
			return one[bool](w, `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY($1) AND state <> ALL('{idle,idle in transaction}') AND wait_event_type IS DISTINCT FROM 'Client')`, pids)
		})
		is := one[bool](w, `SELECT coalesce(bool_and(state = $2), false) FROM pg_stat_activity WHERE pid = ANY($1)`, pids, state)
		if !is {
			active.signal(syscall.SIGCONT)
		}
		return is
	})
	w.times++
	w.until("the standby feeds", func() bool { pid := w.reader(); return pid != 0 && pid != was })
	w.caughtUp()
	took := time.Since(began)
	if took > senderTimeout+30*time.Second {
		w.t.Errorf("the standby needed %v after the freeze, the bound is wal_sender_timeout + 30 s", took)
	}
	active.signal(syscall.SIGCONT)
	w.underway()
	w.check(took)
	active.terminate()
	standby.terminate()
}

func (w *world) locked(sql string) {
	p := w.engine()
	w.write()
	w.underway()
	var longest time.Duration
	w.forAWhile(func() {
		release := w.hold(sql)
		time.Sleep(senderTimeout + 3*time.Second)
		release()
		longest = max(longest, w.caughtUp())
	})
	w.check(longest)
	p.terminate()
}

func (w *world) actionsLocked() {
	w.locked(`LOCK TABLE pgautomate.lead_stage_actions IN ACCESS EXCLUSIVE MODE`)
}

func (w *world) firingsLocked() {
	w.locked(`LOCK TABLE pgautomate.trigger_firings IN ACCESS EXCLUSIVE MODE`)
}
func (w *world) checkpointLocked() {
	w.locked(`SELECT FROM pgautomate.feed_checkpoints FOR UPDATE`)
}

// stopped drains the engine with nothing left to do, and says where the audit is.
func (w *world) stopped(p *process, l *load) int64 {
	w.t.Helper()
	l.halt()
	w.settled()
	p.terminate()
	return one[int64](w, here)
}

// more writes for a moment while nobody feeds.
func (w *world) more() {
	w.t.Helper()
	l := w.write()
	w.until("some transactions are committed", func() bool { return l.committed.Load() > 30 })
	l.halt()
}

// recreated wants the engine to refuse, then follows the fix that it names, and begins
// anew from there; what was written since from is the gap.
func (w *world) recreated(from int64, says ...string) *process {
	w.t.Helper()
	p := w.command(nil, "run", "--listen", freeAddress(w.t))
	w.refused(p, says...)
	return w.mended(from)
}

func (w *world) refused(p *process, says ...string) {
	w.t.Helper()
	if code := p.code(); code != 1 {
		w.t.Errorf("exit code %d, want 1", code)
	}
	for _, s := range append(says, "slot recreate") {
		if !strings.Contains(p.stderr.String(), s) {
			w.t.Errorf("the refusal doesn't say %q: %s", s, tail(p.stderr.String(), 500))
		}
	}
}

func (w *world) mended(from int64) *process {
	w.t.Helper()
	if code := w.command(nil, "slot", "recreate").code(); code != 2 {
		w.t.Errorf("slot recreate without --yes ended with %d, want 2", code)
	}
	before := one[string](w, `SELECT position::text FROM pgautomate.feed_checkpoints`)
	if code := w.command(nil, "slot", "recreate", "--yes").code(); code != 0 {
		w.t.Fatalf("slot recreate --yes ended with %d", code)
	}
	w.windows = append(w.windows, window{from, one[int64](w, here), gap})
	type gapRow struct {
		From     string
		Forwards bool
	}
	if g := list[gapRow](w, `SELECT from_lsn::text, to_lsn > from_lsn FROM pgautomate.feed_gaps`); len(g) != 1 || g[0].From != before || !g[0].Forwards {
		w.t.Errorf("gaps %v, want one from %s", g, before)
	}
	return w.engine()
}

func (w *world) ends(p *process) {
	w.t.Helper()
	w.write()
	w.underway()
	w.check(w.caughtUp())
	p.terminate()
}

func (w *world) slotDropped() {
	p := w.engine()
	l := w.write()
	w.underway()
	from := w.stopped(p, l)
	w.exec(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()`)
	w.more()
	w.times++
	w.ends(w.recreated(from))
}

func (w *world) slotDroppedRunning() {
	p := w.engine()
	l := w.write()
	w.underway()
	l.halt()
	w.settled()
	from := one[int64](w, here)
	// The reader comes back at once, so that the drop must be quicker.
	w.until("the slot is dropped", func() bool {
		w.exec(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database() AND active`)
		for range 20 {
			_, err := w.db.Pool.Exec(w.t.Context(), `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()`)
			if err == nil {
				return true
			}
		}
		return false
	})
	w.more()
	w.times++
	w.refused(p)
	w.ends(w.mended(from))
}

func (w *world) slotInvalidated() {
	p := w.engine()
	l := w.write()
	w.underway()
	from := w.stopped(p, l)
	w.more()
	w.until("the slot is invalid", func() bool {
		w.exec(`SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000)) FROM generate_series(1, 5)`)
		w.exec(`SELECT pg_switch_wal()`)
		w.exec(`CHECKPOINT`)
		return one[bool](w, `SELECT wal_status = 'lost' FROM pg_replication_slots WHERE database = current_database()`)
	})
	w.times++
	w.ends(w.recreated(from, "max_slot_wal_keep_size"))
}

func (w *world) publicationDropped() {
	p := w.engine()
	l := w.write()
	w.underway()
	w.stopped(p, l)
	w.more() // still with the publication: this is read
	from := one[int64](w, here)
	name := one[string](w, `SELECT pubname FROM pg_publication`)
	tables := one[string](w, `SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_publication_tables`)
	w.exec(`DROP PUBLICATION ` + name)
	w.more()
	w.exec(`CREATE PUBLICATION ` + name + ` FOR TABLE ` + tables)
	w.more()
	w.times++
	w.ends(w.recreated(from))
}

func (w *world) ddl() {
	p := w.engine()
	w.write()
	w.underway()
	w.exec(`ALTER TABLE lead ADD COLUMN extra text`)
	broken := w.trigger("a", "of a column that goes", query(field("extra", `{"type":"term","values":["x"]}`)), "log", `{"message":"extra"}`)
	w.caughtUp()
	w.exec(`UPDATE lead SET extra = 'x' WHERE id IN (SELECT id FROM lead WHERE organization_id = 'a' ORDER BY id LIMIT 5)`)
	w.until("it fires", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.trigger_firings WHERE trigger_id = $1`, broken) > 0
	})
	w.forAWhile(func() {
		for _, sql := range []string{
			`ALTER TABLE lead ADD COLUMN passing int DEFAULT 7`,
			`ALTER TABLE lead RENAME COLUMN passing TO passed`,
			`ALTER TABLE lead ALTER COLUMN passed TYPE bigint`,
			`ALTER TABLE lead RENAME COLUMN note TO remark`,
			`ALTER TABLE lead ALTER COLUMN owner_id TYPE varchar(40)`,
			`BEGIN; UPDATE lead SET value = 150 WHERE id IN (SELECT id FROM lead ORDER BY id LIMIT 2); ALTER TABLE lead ADD COLUMN inside text; UPDATE lead SET status_id = 'C', inside = 'y' WHERE id IN (SELECT id FROM lead ORDER BY id LIMIT 2); COMMIT`,
			`ALTER TABLE lead DROP COLUMN inside`,
			`ALTER TABLE lead DROP COLUMN passed`,
			`ALTER TABLE lead RENAME COLUMN remark TO note`,
			`ALTER TABLE lead ALTER COLUMN owner_id TYPE text`,
		} {
			w.alter(sql)
			pause(0, 200*time.Millisecond)
		}
	})
	w.alter(`ALTER TABLE lead DROP COLUMN extra`)
	w.until("the trigger of the dropped column says so", func() bool {
		return one[bool](w, `SELECT status = 'invalid' AND error LIKE '%extra%' FROM pgautomate.triggers WHERE id = $1`, broken)
	})
	w.check(w.caughtUp())
	p.terminate()
}

// alter tries again when the writers' locks were in the way.
func (w *world) alter(sql string) {
	w.t.Helper()
	w.until(sql, func() bool {
		_, err := w.db.Pool.Exec(w.t.Context(), sql)
		if err != nil {
			if !strings.Contains(err.Error(), "deadlock") {
				w.t.Fatalf("%s: %v", sql, err)
			}
			_, _ = w.db.Pool.Exec(w.t.Context(), `ROLLBACK`)
		}
		return err == nil
	})
}

func (w *world) identity() {
	p := w.engine()
	w.write()
	w.underway()
	// In the same transaction, under the table's lock: the audit's place is exact.
	change := func(to string) (at int64) {
		w.t.Helper()
		w.again(to, func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, w.db.Pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `ALTER TABLE lead REPLICA IDENTITY `+to); err != nil {
					return err
				}
				return tx.QueryRow(ctx, here).Scan(&at)
			})
		})
		return at
	}
	states := func(s string) func() bool {
		return func() bool {
			return one[bool](w, `SELECT bool_and(status = $1) FROM pgautomate.triggers WHERE id = ANY($2)`, s, w.triggerIDs())
		}
	}
	w.forAWhile(func() {
		from := change("DEFAULT")
		w.until("the triggers are degraded", states("degraded"))
		pause(200*time.Millisecond, time.Second)
		w.windows = append(w.windows, window{from, change("FULL"), degraded})
		w.until("the triggers are active again", states("active"))
		w.underway()
	})
	w.check(w.caughtUp())
	p.terminate()
}

func (w *world) poison() {
	p := w.engine()
	l := w.write()
	w.underway()
	// A definition that is nonsense, or of the wrong type.
	var bad []int64
	for _, q := range []string{`"nonsense"`, `{"type":"and"}`, `[]`, query(field("nowhere", `{"type":"exists"}`)), query(field("value", `{"type":"term","values":{"a":1}}`))} {
		bad = append(bad, w.trigger("a", "bad", q, "log", `{"message":"bad"}`))
		w.times++
	}
	w.until("bad triggers say so", func() bool {
		return one[bool](w, `SELECT bool_and(status = 'invalid' AND error <> '') FROM pgautomate.triggers WHERE id = ANY($1)`, bad)
	})
	// A value of the wrong type in jsonb.
	w.trigger("a", "custom", `{"type":"and","queries":[{"type":"object_type","object_type":"lead"},{"type":"field_condition","negate":false,
		"field":{"type":"custom_field","custom_field_id":"cf_x"},"condition":{"type":"number_range","gte":10}}]}`, "log", `{"message":"custom"}`)
	w.caughtUp()
	w.exec(`INSERT INTO lead (id, organization_id, status_id, custom) VALUES (nextval('lead_ids'), 'a', 'Q', '{"cf_x":"12"}')`)
	w.until("the mismatch is noted", func() bool {
		return one[bool](w, `SELECT EXISTS (SELECT FROM pgautomate.feed_notes WHERE kind = 'type_mismatch')`)
	})
	// Rows of 20 MB, fired and not.
	w.exec(`INSERT INTO lead (id, organization_id, status_id, value, note) VALUES (nextval('lead_ids'), 'a', 'C', 5, repeat('x', 20000000)), (nextval('lead_ids'), 'b', 'Q', 5, repeat('y', 20000000))`)
	w.times += 2
	w.caughtUp()
	// Jobs and params that somebody edited.
	w.exec(`INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per, max_running) VALUES ('a', 'log', NULL, '1 minute', 0)`)
	l.halt()
	w.caughtUp()
	time.Sleep(11 * time.Second) // a throttle takes effect within 10 s
	w.write()
	w.until("actions wait", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE organization_id = 'a' AND action_type = 'log' AND status = 'pending'`) > 20
	})
	type edited struct{ ID, Firing int64 }
	spoilt := list[edited](w, `UPDATE pgautomate.lead_stage_actions SET params = (ARRAY['"garbage"', '{"message":{"a":[1]}}', '[]', '{"message":"{{ broken"}', 'null'])[1 + id % 5]::jsonb
		WHERE id IN (SELECT id FROM pgautomate.lead_stage_actions WHERE organization_id = 'a' AND action_type = 'log' AND status = 'pending' LIMIT 10) RETURNING id, firing_id`)
	w.exec(`DELETE FROM pgautomate.throttles`)
	w.times += len(spoilt)
	for _, args := range []string{`{"id":"x"}`, `{"id":-1,"at":"never"}`, `{"id":999999999,"at":"2020-01-01T00:00:00Z"}`} {
		w.exec(`INSERT INTO pgautomate.river_job (kind, queue, args, max_attempts, state) VALUES ('firing', 'firings', $1, 1, 'available')`, args)
		w.times++
	}
	w.stray = []string{"x", "-1", "999999999"}
	var ids []int64
	for _, s := range spoilt {
		ids = append(ids, s.ID)
	}
	w.until("garbage fails and says so", func() bool {
		return one[bool](w, `SELECT bool_and(status = 'failed' AND error <> '' OR status = 'completed') FROM pgautomate.lead_stage_actions WHERE id = ANY($1)`, ids)
	})
	failed := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE id = ANY($1) AND status = 'failed'`, ids)
	w.t.Logf("%d of %d actions with edited params failed", failed, len(ids))
	if failed == 0 {
		w.t.Error("none of the edited actions failed")
	}
	// Mended for the count below: it wants all of them completed.
	w.exec(`UPDATE pgautomate.lead_stage_actions SET params = '{"message":"mended"}', status = 'pending', perform_at = now(), attempt = 0, finished_at = NULL, error = NULL
		WHERE id = ANY($1) AND status = 'failed'`, ids)
	// The whole table at once fires nothing.
	w.alter(`TRUNCATE lead`)
	w.times++
	w.exec(`INSERT INTO lead (id, organization_id, status_id, value) SELECT nextval('lead_ids'), 'a', 'Q', 1 FROM generate_series(1, 100)`)
	w.until("TRUNCATE is noted", func() bool {
		return one[bool](w, `SELECT EXISTS (SELECT FROM pgautomate.feed_notes WHERE kind = 'truncate_ignored')`)
	})
	w.underway()
	w.check(w.caughtUp())
	p.terminate()
}

// A report reads for long, a session is forgotten in its transaction, another one's is prepared, a slot has lost its
// reader: nothing stops, and each is named until it lets go.
func (w *world) heldBack() {
	w.exec(`ALTER DATABASE ` + w.db.Name + ` SET pgautomate.old_transaction_after = '2s'`)
	w.db.Pool.Reset() // takes it from now on
	w.exec(`CREATE TABLE aside (n int)`)
	p := w.engine()
	w.write()
	w.underway()
	w.exec(`SELECT pg_create_logical_replication_slot('lost_reader', 'pgoutput')`)
	open := func(application, sql string) *pgx.Conn {
		config, err := pgx.ParseConfig(w.db.URL)
		if err != nil {
			w.t.Fatal(err)
		}
		config.RuntimeParams["application_name"] = application
		conn, err := pgx.ConnectConfig(w.t.Context(), config)
		if err == nil {
			w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
			_, err = conn.Exec(w.t.Context(), sql)
		}
		if err != nil {
			w.t.Fatalf("%s: %v", sql, err)
		}
		return conn
	}
	report := open("a report", `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM lead`)
	forgotten := open("forgotten", `BEGIN; INSERT INTO aside VALUES (1)`)
	prepared := open("prepared", `BEGIN; INSERT INTO aside VALUES (2); PREPARE TRANSACTION 'left behind'`)
	named := []string{fmt.Sprintf("session %d a report", report.PgConn().PID()), fmt.Sprintf("session %d forgotten", forgotten.PgConn().PID()),
		"prepared transaction left behind", "slot lost_reader"}
	w.times = len(named)
	subjects := func() []string {
		return one[[]string](w, `SELECT coalesce(array_agg(subject), '{}') FROM pgautomate.problems WHERE problem LIKE '%VACUUM%'`)
	}
	w.until("all are named", func() bool {
		got := subjects()
		return !slices.ContainsFunc(named, func(n string) bool { return !slices.Contains(got, n) })
	})
	if got := subjects(); len(got) != len(named) {
		w.t.Errorf("problems names %q, want %q", got, named)
	}
	doctor := func() string {
		d := w.command(nil, "doctor")
		d.code()
		return d.stdout.String()
	}
	for said, n := doctor(), 0; n < len(named); n++ {
		if !strings.Contains(said, named[n]+": ") {
			w.t.Errorf("doctor doesn't name %q: %s", named[n], said)
		}
	}
	var longest time.Duration
	for end := time.Now().Add(aWhile()); time.Now().Before(end); time.Sleep(time.Second) {
		longest = max(longest, w.caughtUp())
	}
	w.t.Logf("meanwhile the feed was at most %v late", longest.Round(time.Millisecond))
	_ = report.Close(w.t.Context())
	w.exec(`SELECT pg_terminate_backend($1)`, forgotten.PgConn().PID())
	if _, err := prepared.Exec(w.t.Context(), `ROLLBACK PREPARED 'left behind'`); err != nil {
		w.t.Error(err)
	}
	w.exec(`SELECT pg_drop_replication_slot('lost_reader')`)
	w.until("nobody is named any more", func() bool { return len(subjects()) == 0 })
	if said := doctor(); strings.Contains(said, "VACUUM") {
		w.t.Errorf("doctor goes on: %s", said)
	}
	w.check(w.caughtUp())
	p.terminate()
}

// Much is written that the feed never sees: it confirms it all the same, so that the server may forget it.
func (w *world) othersWritten() {
	const each, most = 300 << 20, 48 << 20 // bytes of log a round, and what may be kept of them
	w.exec(`CREATE TABLE aside (n bigint, text text)`)
	p := w.engine()
	w.caughtUp()
	position := func(of string) int64 {
		return one[int64](w, `SELECT (pg_current_wal_flush_lsn() - `+of+`)::bigint FROM pg_replication_slots WHERE database = current_database()`)
	}
	var peak, left int64
	var longest time.Duration
	w.forAWhile(func() {
		begin := one[string](w, `SELECT pg_current_wal_flush_lsn()::text`)
		for position(`'`+begin+`'`) < each {
			w.exec(`INSERT INTO aside SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 10000) i`)
			peak = max(peak, position("restart_lsn"))
		}
		w.exec(`TRUNCATE aside`)
		end := one[string](w, `SELECT pg_current_wal_flush_lsn()::text`)
		took := w.until("all of it is confirmed", func() bool {
			return one[bool](w, `SELECT confirmed_flush_lsn >= $1::pg_lsn FROM pg_replication_slots WHERE database = current_database()`, end)
		})
		longest = max(longest, took)
		w.until("the server may forget it", func() bool {
			w.exec(`INSERT INTO aside SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 100) i`)
			left = position("restart_lsn")
			return left < most
		})
	})
	w.t.Logf("%d times %d MB of log: at most %d MB were kept, %d MB at the end; all was confirmed %v after it was written",
		w.times, each>>20, peak>>20, left>>20, longest.Round(time.Millisecond))
	if longest > 60*time.Second {
		w.t.Errorf("the log was confirmed %v after it was written", longest)
	}
	w.exec(`INSERT INTO lead (id, organization_id, status_id) VALUES (nextval('lead_ids'), 'a', 'C')`)
	w.caughtUp()
	if n := w.firings(); n != 1 {
		w.t.Errorf("one lead became a customer: %d firings", n)
	}
	w.write()
	w.underway()
	w.check(longest)
	p.terminate()
}

// Two processes work; one of them is killed again and again.
func (w *world) workersKilled() {
	const leads, steps = 1500, 2
	stays := w.engine()
	w.exec(`INSERT INTO pgautomate.pipelines (organization_id, name, object_type) VALUES ('p', 'p', 'lead')`)
	w.exec(`INSERT INTO pgautomate.pipeline_stages (pipeline_id, name, position) SELECT id, 's', 1 FROM pgautomate.pipelines`)
	w.exec(`INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params) SELECT id, n, 'insert_row',
		jsonb_build_object('table', 'effect', 'values', jsonb_build_object('organization_id', 'p', 'title', 'p/{{ lead.id }}/' || n)) FROM pgautomate.pipeline_stages, generate_series(1, $1) n`, steps)
	w.write()
	w.underway()
	w.exec(`INSERT INTO lead (id, organization_id, status_id) SELECT -i, 'p', 'p' FROM generate_series(1, $1) i`, leads)
	w.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) SELECT 'p', (-i)::text, s.id FROM pgautomate.pipeline_stages s, generate_series(1, $1) i`, leads)
	var held []int64
	var worst time.Duration
	var lastKill time.Time
	w.forAWhile(func() {
		dies := w.run("--only", "scheduler,workers")
		pause(50*time.Millisecond, 700*time.Millisecond)
		pid := dies.cmd.Process.Pid
		dies.kill()
		lastKill = time.Now()
		held = append(held, one[[]int64](w, `SELECT coalesce(array_agg(a.id), '{}') FROM pgautomate.lead_stage_actions a JOIN pgautomate.workers k ON k.id = a.worker_id
			WHERE k.pid = $1 AND a.status = 'running'`, pid)...)
	})
	if len(held) > 0 {
		w.tell(held)
		w.until("what the dead ones held has run again", func() bool {
			return one[bool](w, `SELECT bool_and(status = 'completed') FROM pgautomate.lead_stage_actions WHERE id = ANY($1)`, held)
		})
		worst = time.Since(lastKill)
		if worst > 60*time.Second {
			w.t.Errorf("what dead workers held had run again %v after the last kill; the bound is 60 s", worst)
		}
	}
	w.until("all stages are done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == leads
	})
	w.t.Logf("dead workers held %d actions, which had run again %v after the last kill", len(held), worst)
	type count struct{ Actions, Rows, Titles int64 }
	got := list[count](w, `SELECT (SELECT count(*) FROM pgautomate.lead_stage_actions WHERE lead_stage_id IS NOT NULL AND status = 'completed'), count(*), count(DISTINCT title)
		FROM effect WHERE organization_id = 'p'`)[0]
	if want := (count{leads * steps, leads * steps, leads * steps}); got != want {
		w.t.Errorf("completed actions, rows, different rows: %v, want %v", got, want)
	}
	w.exec(`DELETE FROM effect WHERE organization_id = 'p'`)
	w.check(w.caughtUp())
	stays.terminate()
}

// diskFull fills the disk of the server until nothing can be written.
func diskFull(t *testing.T) {
	dir, err := dbtest.Folder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	disk := filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=400m,mode=0755"); err != nil {
		t.Skipf("no disk of our own: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	server, err := private.Start(t.Context(), private.Options{DataDir: filepath.Join(disk, "server"), Volatile: true,
		Settings: map[string]string{"max_wal_size": "64MB", "min_wal_size": "32MB"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = server.Stop(ctx)
	})
	w := newWorldOn(t, "disk full", server)
	p := w.engine()
	w.write()
	w.underway()
	var longest time.Duration
	w.forAWhile(func() {
		filler := filepath.Join(disk, "filler")
		fill(t, filler)
		time.Sleep(3 * time.Second)
		fill(t, filler) // what the server gave back meanwhile
		time.Sleep(2 * time.Second)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		// Where the log can't be written the server ends itself, and somebody starts it.
		if err := w.db.Pool.Ping(t.Context()); err != nil {
			w.t.Logf("the server is down: %v", err)
			w.crashed()
		}
		longest = max(longest, w.caughtUp())
	})
	if p.ended() {
		t.Fatal("the engine ended")
	}
	w.check(longest)
	p.terminate()
}

// crashed starts the server again, whatever is left of it.
func (w *world) crashed() {
	w.t.Helper()
	_ = w.server.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.server.Restart(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// fill writes to a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 4096; size /= 4 {
		block := make([]byte, size)
		for err = nil; err == nil; {
			_, err = f.Write(block)
		}
	}
}

// failpoints are all names that the engine comes by, each between two durable steps.
var failpoints = []string{
	"claim-before-commit", "claim-after-commit", "signals-merged",
	"start-before-commit", "start-after-commit", "handler-before", "handler-done",
	"finish-before-commit", "finish-after-commit", "effect-before-commit", "effect-after-commit",
	"rescue-before-commit", "firing-action-before-insert", "firing-action-after-insert",
	"slot-intended", "slot-made", "firings-copied", "firing-jobs-inserted", "apply-before-commit", "apply-after-commit",
}

// notificationFailpoints are come by when workflows are triggered.
var notificationFailpoints = []string{"trigger-accepted", "trigger-before-queue", "fan-out-before-commit", "fan-out-after-commit"}

// notificationFailpoint kills the engine by its own hand while triggers for topics,
// broadcasts and single subscribers come in.
func (w *world) notificationFailpoint(place string) {
	n := newNotified(w)
	ctx, cancel := context.WithTimeout(w.t.Context(), caughtUpWithin)
	defer cancel()
	recipients := []any{"s1", map[string]any{"type": "Topic", "topicKey": "all"}, []any{"s2", "s3", map[string]any{"type": "Topic", "topicKey": "all"}}}
	events, notifications := 0, 0
	var group sync.WaitGroup
	for _, visit := range []int{1, 2, 5} {
		p := n.start("PGAUTOMATE_FAILPOINT=" + place + ":" + strconv.Itoa(visit))
		p.readyOrDead() // what was not answered before comes again, and may be its end at once
		for range 2 {
			for _, to := range recipients {
				no := events
				group.Go(func() { n.trigger(ctx, no, to) })
				events++
			}
			notifications += 1 + 2*notifiedSubscribers
		}
		select {
		case <-p.done:
		case <-time.After(caughtUpWithin):
			w.t.Fatalf("%s was not come by %d times", place, visit)
		}
		if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			w.t.Fatalf("it ended with %v", p.cmd.ProcessState)
		}
		w.times++
	}
	p := n.start()
	p.awaitReady()
	group.Wait()
	began := time.Now()
	n.ended(int64(events), int64(notifications))
	report.add(result{fault: w.fault, times: w.times, firings: events, actions: time.Since(began)})
	p.terminate()
}

// failpoint kills the engine by its own hand: at the first visit of the place, then, after
// each restart, at the second, and at the fifth.
func (w *world) failpoint(place string) {
	slot := strings.HasPrefix(place, "slot-")
	if !slot {
		w.engine().terminate() // makes the slot: what is written before it is nobody's
		w.write()
	}
	for _, visit := range []int{1, 2, 5} {
		if slot {
			visit = 1 // it is made once
		}
		if place == "rescue-before-commit" {
			// It is only come by when a worker died with an action.
			p := w.engine("PGAUTOMATE_FAILPOINT=handler-before:3")
			<-p.done
			if visit > 1 {
				visit = 1
			}
		}
		args := []string{"run", "--listen", freeAddress(w.t)}
		if strings.HasPrefix(place, "start-") {
			// A process that schedules, too, claims straight to running: this one is sent what it is to do.
			claims := w.run("--only", "scheduler")
			defer claims.terminate()
			args = append(args, "--only", "feed,workers")
		}
		p := w.command([]string{"PGAUTOMATE_FAILPOINT=" + place + ":" + strconv.Itoa(visit)}, args...)
		select {
		case <-p.done:
		case <-time.After(caughtUpWithin):
			w.t.Fatalf("%s was not come by %d times", place, visit)
		}
		if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			w.t.Fatalf("it ended with %v", p.cmd.ProcessState)
		}
		w.times++
		if place == "rescue-before-commit" {
			break // each round takes a dead worker's time
		}
	}
	p := w.engine()
	if slot {
		w.write()
	}
	w.underway()
	w.check(w.caughtUp())
	p.terminate()
}

// TestFailpointsComplete: no place in the source is left out.
func TestFailpointsComplete(t *testing.T) {
	call := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	var found []string
	err := filepath.WalkDir("..", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(source), -1) {
			found = append(found, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(slices.Values(slices.Concat(failpoints, notificationFailpoints)))
	slices.Sort(found)
	if !slices.Equal(found, want) {
		t.Errorf("in the source: %v\nin the list: %v", found, want)
	}
}

//go:build faults

package faults

// The server is lost, and a standby of it is promoted.

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/line"
	"github.com/pgautomate/pgautomate/db/line/linetest"
	"github.com/pgautomate/pgautomate/db/private"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// replica is a streaming standby of the world's server.
type replica struct {
	w      *world
	server *private.Server
	pool   *pgxpool.Pool   // in the database of the same name
	stream *linetest.Proxy // what it gets from its primary comes through here
}

// replica makes one; the world's server is stopped for a moment, so nothing may be running yet.
func (w *world) replica(settings map[string]string) *replica {
	w.t.Helper()
	t := w.t
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.exec(`SELECT pg_create_physical_replication_slot('standby', true)`)
	dir, err := dbtest.Folder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := w.server.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(w.server.DataDir(), "cluster"), dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the server: %v\n%s", err, out)
	}
	data := filepath.Join(dir, "cluster", "data")
	if err := os.RemoveAll(filepath.Join(data, "pg_replslot", "standby")); err != nil { // a base backup has no slots
		t.Fatal(err)
	}
	info, err := os.Stat(data)
	if err == nil {
		err = os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o600)
	}
	if err == nil {
		owner := info.Sys().(*syscall.Stat_t)
		err = os.Chown(filepath.Join(data, "standby.signal"), int(owner.Uid), int(owner.Gid))
	}
	if err == nil {
		err = w.server.Restart(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{w: w, stream: linetest.New(t, w.db.URL)}
	through, err := url.Parse(r.stream.URL(t, w.db.URL))
	if err != nil {
		t.Fatal(err)
	}
	password, _ := through.User.Password()
	all := map[string]string{
		"primary_conninfo": fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=%s application_name=standby",
			through.Hostname(), through.Port(), through.User.Username(), password, w.db.Name),
		"primary_slot_name": "standby", "hot_standby_feedback": "on", "wal_receiver_timeout": "0", "wal_receiver_status_interval": "1s",
	}
	maps.Copy(all, settings)
	if r.server, err = private.Start(ctx, private.Options{DataDir: dir, Volatile: true, Settings: all}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = r.server.Stop(ctx)
	})
	if r.pool, err = pgxpool.New(ctx, r.server.URL(w.db.Name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.pool.Close)
	w.until("the standby streams", func() bool {
		return one[bool](w, `SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'standby' AND state = 'streaming')`)
	})
	return r
}

// ask reads a value on the replica.
func ask[T any](r *replica, sql string, args ...any) (v T) {
	r.w.t.Helper()
	if err := r.pool.QueryRow(r.w.t.Context(), sql, args...).Scan(&v); err != nil {
		r.w.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// has waits until the replica has received, and replayed if it may, all that the server has now.
func (r *replica) has() {
	r.w.t.Helper()
	at := one[string](r.w, `SELECT pg_current_wal_flush_lsn()::text`)
	r.w.until("the standby has it all", func() bool {
		return ask[bool](r, `SELECT pg_last_wal_receive_lsn() >= $1::text::pg_lsn AND pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, at)
	})
}

// promote loses the server and makes the replica the world's. The engine's way leads to it at once, as a
// service's address does that follows a health check, and so for a moment to a standby.
func (r *replica) promote(engine *linetest.Proxy) {
	r.w.t.Helper()
	w := r.w
	if err := w.server.Kill(); err != nil {
		w.t.Fatal(err)
	}
	w.server = r.server
	w.db = &dbtest.DB{Name: w.db.Name, URL: r.server.URL(w.db.Name), Pool: r.pool}
	engine.Point(w.t, w.db.URL)
	engine.Sever()
	time.Sleep(time.Second)
	if !ask[bool](r, `SELECT pg_promote(true, 60)`) {
		w.t.Fatal("the standby was not promoted")
	}
}

const slotRow = ` FROM pg_replication_slots WHERE database = current_database() AND slot_type = 'logical'`

// alterSystem changes a setting of the replica.
func (r *replica) alterSystem(name, value string) {
	r.w.t.Helper()
	for _, sql := range []string{`ALTER SYSTEM SET ` + name + ` = '` + value + `'`, `SELECT pg_reload_conf()`} {
		if _, err := r.pool.Exec(r.w.t.Context(), sql); err != nil {
			r.w.t.Fatal(err)
		}
	}
	r.w.until(name+" is set", func() bool { return ask[string](r, `SELECT current_setting($1)`, name) == value })
}

// synced waits until the replica has a copy of the slot that would serve.
func (r *replica) synced() {
	r.w.t.Helper()
	r.w.until("the slot is there too", func() bool {
		return ask[bool](r, `SELECT coalesce((SELECT synced AND NOT temporary AND invalidation_reason IS NULL`+slotRow+`), false)`)
	})
}

// since wants a version of the server.
func (w *world) since(major int, what string) {
	w.t.Helper()
	if v := w.server.Major(); v < major {
		w.t.Skipf("%s came with Postgres %d, this is %d", what, major, v)
	}
}

// alterSystem changes settings of the running server.
func (w *world) alterSystem(name, value string) {
	w.t.Helper()
	w.exec(`ALTER SYSTEM SET ` + name + ` = '` + value + `'`)
	w.exec(`SELECT pg_reload_conf()`)
	w.until(name+" is set", func() bool { return one[string](w, `SELECT current_setting($1)`, name) == value })
}

// The standby has no copy of the slot: before Postgres 17 it can't, later it wasn't asked to.
func (w *world) failoverWithoutSlot() {
	r := w.replica(nil)
	proxy := linetest.New(w.t, w.db.URL)
	p := w.through(proxy)
	l := w.write()
	w.underway()
	l.halt()
	w.settled()
	r.has()
	r.promote(proxy)
	from := one[int64](w, here)
	w.times++
	w.refused(p, "promoted", "did not come along")
	w.more()
	// Someone makes a slot of that name: it is no answer.
	w.exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, one[string](w, `SELECT slot_name FROM pgautomate.feed_checkpoints`))
	w.more()
	w.refused(w.command(nil, "run", "--listen", freeAddress(w.t)), "promoted", "ahead of the checkpoint")
	w.ends(w.mended(from))
	if n := one[int](w, `SELECT count(*) FROM pgautomate.feed_gaps WHERE reason LIKE '%promoted%'`); n != 1 {
		w.t.Error("the gap doesn't tell of the promotion")
	}
}

// Every commit waits for the standby.
func (w *world) failoverSynchronous() {
	w.failover(func() { w.alterSystem("synchronous_standby_names", "standby") })
}

// No commit waits for the standby, only the feed does.
func (w *world) failoverGuarded() {
	w.failover(func() { w.alterSystem("synchronized_standby_slots", "standby") })
}

// failover loses the server under load. What the standby has goes on as if nothing had been.
func (w *world) failover(set func()) {
	w.since(17, "a failover slot")
	r := w.replica(map[string]string{"sync_replication_slots": "on"})
	set()
	proxy := linetest.New(w.t, w.db.URL)
	p := w.through(proxy)
	l := w.write()
	w.underway()
	r.synced()
	pause(0, time.Second)
	w.underway()
	r.promote(proxy)
	l.halt()
	w.write()
	w.times++
	took := w.caughtUp()
	w.underway()
	if took > line.Bound+slack {
		w.t.Errorf("the engine needed %v after the promotion", took)
	}
	if n := one[int](w, `SELECT count(*) FROM pgautomate.feed_gaps`); n != 0 {
		w.t.Errorf("%d gaps", n)
	}
	w.check(took)
	p.terminate()
}

// The server had a checkpoint, and confirmed it, that the standby didn't get; the slot's copy did.
func (w *world) failoverAhead() {
	w.since(17, "a failover slot")
	p, proxy, r, from := w.ahead(func() {}, true)
	r.promote(proxy)
	w.times++
	w.refused(p, "promoted", "ahead of the checkpoint")
	w.more()
	w.ends(w.mended(from))
}

// The same, where the feed waits for the standby: nothing is confirmed that the standby hasn't.
func (w *world) failoverNotAhead() {
	w.since(17, "a failover slot")
	p, proxy, r, _ := w.ahead(func() { w.alterSystem("synchronized_standby_slots", "standby") }, false)
	r.promote(proxy)
	w.times++
	w.write()
	took := w.caughtUp()
	if n := one[int](w, `SELECT count(*) FROM pgautomate.feed_gaps`); n != 0 {
		w.t.Errorf("%d gaps", n)
	}
	w.check(took)
	p.terminate()
}

// ahead cuts the standby off between a commit's data and the commit of its firings.
func (w *world) ahead(set func(), confirmed bool) (p *process, proxy *linetest.Proxy, r *replica, from int64) {
	w.t.Helper()
	r = w.replica(nil)
	set()
	proxy = linetest.New(w.t, w.db.URL)
	p = w.through(proxy)
	l := w.write()
	w.underway()
	r.alterSystem("sync_replication_slots", "on")
	r.synced()
	r.alterSystem("sync_replication_slots", "off") // from now on when asked
	l.halt()
	w.settled()
	w.until("all is confirmed", func() bool {
		return one[bool](w, `SELECT confirmed_flush_lsn = (SELECT position FROM pgautomate.feed_checkpoints)`+slotRow)
	})
	from = one[int64](w, here)
	release := w.hold(`SELECT FROM pgautomate.feed_checkpoints FOR UPDATE`)
	w.exec(`INSERT INTO lead (id, organization_id, status_id, value) SELECT nextval('lead_ids'), 'a', 'C', 150 FROM generate_series(1, 30)`)
	w.until("the feed waits for the lock", func() bool {
		return one[bool](w, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
			AND query LIKE '%UPDATE pgautomate.feed_checkpoints%' AND pid <> pg_backend_pid())`)
	})
	r.has()
	r.stream.Cut(linetest.Both, false)
	before := one[string](w, `SELECT position::text FROM pgautomate.feed_checkpoints`)
	release()
	w.until("the firings are committed", func() bool {
		return one[bool](w, `SELECT position > $1::text::pg_lsn FROM pgautomate.feed_checkpoints`, before)
	})
	isConfirmed := func() bool {
		return one[bool](w, `SELECT confirmed_flush_lsn > $1::text::pg_lsn`+slotRow, before)
	}
	if confirmed {
		w.until("they are confirmed", isConfirmed)
		// The slot must not get ahead of the standby itself: then it is never copied.
		p.signal(syscall.SIGSTOP)
		defer p.signal(syscall.SIGCONT)
	} else {
		time.Sleep(12 * time.Second) // more than two status messages
		if isConfirmed() {
			w.t.Error("they are confirmed, though the standby hasn't got them")
		}
	}
	var problem error // a worker may just be ending
	defer func() {
		if w.t.Failed() {
			w.t.Logf("the slot was last not copied because: %v", problem)
		}
	}()
	w.until("the slot's copy follows", func() bool {
		_, problem = r.pool.Exec(w.t.Context(), `SELECT pg_sync_replication_slots()`)
		return problem == nil
	})
	return p, proxy, r, from
}

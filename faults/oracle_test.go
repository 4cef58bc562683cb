package faults

// The load, and what must come of it.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// oracle knows the triggers and what happened to the rows.
type oracle struct {
	triggers []rule
	effects  int64 // the trigger whose action leaves a row in table effect
	windows  []window
	loads    []*load
	stray    []string // River jobs that the test itself spoilt: not to be counted
}

// rule is a trigger, said a second time in Go.
type rule struct {
	id           int64
	organization string
	matches      func(r *row) bool
}

// row is what the rules need of a lead.
type row struct {
	ID     int64    `json:"id"`
	Org    string   `json:"organization_id"`
	Status string   `json:"status_id"`
	Value  *float64 `json:"value"`
	Rev    int64    `json:"rev"` // unique for each version of each row
}

// window is a part of the audit in which other rules hold.
type window struct {
	from, to int64 // from < seq <= to
	kind     windowKind
}

type windowKind string

const (
	gap      windowKind = "gap"      // no trigger sees it
	degraded windowKind = "degraded" // updates have no old row: only what is created fires
)

// prepare makes the tables, the audit and the triggers.
func (w *world) prepare() {
	w.t.Helper()
	w.exec(`CREATE TABLE lead (id bigint PRIMARY KEY, organization_id text NOT NULL, status_id text, value numeric, owner_id text, note text, custom jsonb, rev bigint);
		CREATE TABLE effect (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id text, title text);
		CREATE SEQUENCE lead_ids; CREATE SEQUENCE revs; CREATE SEQUENCE steps;
		CREATE TABLE audit (seq bigint NOT NULL DEFAULT nextval('steps'), xid text NOT NULL DEFAULT pg_current_xact_id()::text, old jsonb, new jsonb);
		CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.rev := nextval('revs'); RETURN NEW; END $$;
		CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO audit (old, new) VALUES (
				CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - 'note' - 'custom' END,
				CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - 'note' - 'custom' END);
			RETURN NULL; END $$;
		CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON lead FOR EACH ROW EXECUTE FUNCTION stamp();
		CREATE TRIGGER keep AFTER INSERT OR UPDATE OR DELETE ON lead FOR EACH ROW EXECUTE FUNCTION keep()`)
	w.watch("lead")
	w.watch("effect")
	customer := func(r *row) bool { return r.Status == "C" }
	large := func(r *row) bool { return r.Value != nil && *r.Value >= 100 }
	isCustomer := field("status_id", `{"type":"term","values":["C"]}`)
	isLarge := field("value", `{"type":"number_range","gte":100}`)
	note := `{"message": "fired"}`
	w.rule("a", "customers", isCustomer, "log", note, customer)
	w.rule("a", "large", isLarge, "log", note, large)
	w.rule("b", "large customers", isCustomer+","+isLarge, "log", note, func(r *row) bool { return customer(r) && large(r) })
	w.effects = w.rule("b", "customers", isCustomer, "insert_row",
		`{"table":"effect","values":{"organization_id":"b","title":"{{ object.id }}/{{ object.rev }}"}}`, customer)
	w.exec(`INSERT INTO lead (id, organization_id, status_id, value) SELECT nextval('lead_ids'), (ARRAY['a', 'b'])[1 + i % 2], 'Q', i % 200 FROM generate_series(1, 300) i;
		TRUNCATE audit`) // before the slot: nobody sees this
}

func query(conditions string) string {
	return `{"type":"and","queries":[{"type":"object_type","object_type":"lead"},` + conditions + `]}`
}

func field(name, condition string) string {
	return fmt.Sprintf(`{"type":"field_condition","negate":false,"field":{"type":"regular_field","object_type":"lead","field_name":%q},"condition":%s}`, name, condition)
}

func (w *world) rule(organization, name, conditions, actionType, params string, matches func(*row) bool) int64 {
	w.t.Helper()
	id := w.trigger(organization, name, query(conditions), actionType, params)
	w.triggers = append(w.triggers, rule{id: id, organization: organization, matches: matches})
	return id
}

// trigger adds one that the oracle doesn't know.
func (w *world) trigger(organization, name, query, actionType, params string) int64 {
	w.t.Helper()
	return one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params)
		VALUES ($1, $2, 'lead', $3, $4, $5) RETURNING id`, organization, name, query, actionType, params)
}

// load is writers at work.
type load struct {
	cancel    context.CancelFunc
	group     sync.WaitGroup
	committed atomic.Int64
	failed    atomic.Int64
}

// writers is how many write at one time, each about 40 transactions a second.
const writers = 3

// write starts the load; halt ends it.
func (w *world) write() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for range writers {
		l.group.Go(func() { l.writer(ctx, w.db.URL) })
	}
	w.t.Cleanup(l.halt)
	w.loads = append(w.loads, l)
	return l
}

func (l *load) halt() {
	l.cancel()
	l.group.Wait()
}

// writer writes until ctx ends. Whatever fails, be it the server, is begun anew: the
// audit knows what was committed, also when the writer doesn't.
func (l *load) writer(ctx context.Context, url string) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	}()
	for ctx.Err() == nil {
		// Not the caller's context: what is begun is ended, within a bound.
		always, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := error(nil)
		if conn == nil {
			if conn, err = pgx.Connect(always, url); err == nil {
				_, err = conn.Exec(always, `SET deadlock_timeout = '20ms'; SET application_name = 'writer'`)
			}
		}
		if err == nil {
			err = transaction(always, conn)
		}
		cancel()
		switch {
		case err == nil:
			l.committed.Add(1)
		case errors.Is(err, errRolledBack):
		default:
			l.failed.Add(1)
			if conn != nil && conn.IsClosed() {
				conn = nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Duration(10+rand.IntN(25)) * time.Millisecond)
	}
}

var errRolledBack = errors.New("rolled back on purpose")

// transaction makes one to four changes and commits most often.
func transaction(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for range 1 + rand.IntN(4)*rand.IntN(2) {
			if rand.IntN(6) > 0 {
				if err := step(ctx, tx); err != nil {
					return err
				}
				continue
			}
			err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { // a savepoint
				if err := step(ctx, tx); err != nil {
					return err
				}
				if err := step(ctx, tx); err != nil {
					return err
				}
				if rand.IntN(2) == 0 {
					return errRolledBack
				}
				return nil
			})
			if err != nil && !errors.Is(err, errRolledBack) {
				return err
			}
		}
		if rand.IntN(8) == 0 {
			return errRolledBack
		}
		return nil
	})
}

// step is one statement, or two.
func step(ctx context.Context, tx pgx.Tx) error {
	status := []string{"C", "C", "Q", "L"}[rand.IntN(4)]
	organization := []string{"a", "b"}[rand.IntN(2)]
	value := rand.IntN(200)
	some := func(n int) string {
		return fmt.Sprintf("id IN (SELECT id FROM lead WHERE organization_id IN ('a', 'b') ORDER BY random() LIMIT %d)", n)
	}
	var err error
	switch n := rand.IntN(100); {
	case n < 20:
		_, err = tx.Exec(ctx, `INSERT INTO lead (id, organization_id, status_id, value) SELECT nextval('lead_ids'), $1, $2, $3 FROM generate_series(1, $4)`,
			organization, status, value, 1+rand.IntN(3))
	case n < 50:
		_, err = tx.Exec(ctx, `UPDATE lead SET status_id = $1 WHERE `+some(1+rand.IntN(3)), status)
	case n < 60:
		_, err = tx.Exec(ctx, `UPDATE lead SET value = $1 WHERE `+some(2), value)
	case n < 65:
		_, err = tx.Exec(ctx, `UPDATE lead SET value = NULL, owner_id = $1 WHERE `+some(1), status)
	case n < 75:
		_, err = tx.Exec(ctx, `UPDATE lead SET organization_id = $1 WHERE `+some(1), organization)
	case n < 82:
		_, err = tx.Exec(ctx, `UPDATE lead SET id = nextval('lead_ids'), status_id = $1 WHERE `+some(1), status)
	case n < 90: // the same key, gone and back
		var id int64
		if err = tx.QueryRow(ctx, `DELETE FROM lead WHERE `+some(1)+` RETURNING id`).Scan(&id); err != nil {
			break
		}
		_, err = tx.Exec(ctx, `INSERT INTO lead (id, organization_id, status_id, value) VALUES ($1, $2, $3, $4)`, id, organization, status, value)
	case n < 98:
		_, err = tx.Exec(ctx, `DELETE FROM lead WHERE `+some(2))
	default:
		_, err = tx.Exec(ctx, `UPDATE lead SET status_id = $1 WHERE `+some(50), status)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // somebody else took the row meanwhile
	}
	return err
}

// step of the audit.
type auditRow struct {
	Seq      int64
	Xid      string
	Old, New *row
}

type firingKey struct {
	trigger int64
	object  string
	rev     int64 // of the row after
}

type expected struct {
	seq    int64 // orders the firings of one object
	before int64 // rev of the row before; 0: created
}

// expect computes what must have fired.
func (w *world) expect() map[firingKey]expected {
	w.t.Helper()
	want := map[firingKey]expected{}
	transactions := map[string][]auditRow{}
	for _, a := range list[auditRow](w, `SELECT seq, xid, old, new FROM audit ORDER BY seq`) {
		transactions[a.Xid] = append(transactions[a.Xid], a)
	}
	type object struct {
		before, after *row
		seq           int64
	}
	for _, steps := range transactions {
		kind := w.windowOf(steps[0].Seq)
		if kind == gap {
			continue
		}
		there, gone := map[int64]*object{}, map[int64]*object{}
		take := func(old *row) *object {
			o := there[old.ID]
			if o == nil {
				o = &object{before: old}
			}
			delete(there, old.ID)
			return o
		}
		for _, s := range steps {
			var o *object
			switch {
			case s.Old != nil:
				o = take(s.Old)
			case gone[s.New.ID] != nil: // the same object, back
				o = gone[s.New.ID]
				delete(gone, s.New.ID)
			default:
				o = &object{}
			}
			o.after, o.seq = s.New, s.Seq
			switch {
			case s.New != nil:
				there[s.New.ID] = o
			case o.before != nil: // who saw it saw it under the key that it had before
				gone[o.before.ID] = o
			default:
				gone[s.Old.ID] = o
			}
		}
		for id, o := range there {
			for _, t := range w.triggers {
				if o.after.Org != t.organization || !t.matches(o.after) {
					continue
				}
				created := o.before == nil || o.before.Org != t.organization
				if kind == degraded && o.before != nil || !created && t.matches(o.before) {
					continue
				}
				e := expected{seq: o.seq}
				if !created {
					e.before = o.before.Rev
				}
				want[firingKey{t.id, strconv.FormatInt(id, 10), o.after.Rev}] = e
			}
		}
	}
	return want
}

func (w *world) windowOf(seq int64) windowKind {
	for _, x := range w.windows {
		if x.from < seq && seq <= x.to {
			return x.kind
		}
	}
	return ""
}

// mark is a place in the stream: a trigger's definition travels as rows do.
func (w *world) mark() int64 {
	w.t.Helper()
	return one[int64](w, `INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, status)
		VALUES ('mark', 'mark', 'mark', '{}', 'log', 'paused') RETURNING id`)
}

// caughtUp waits until the feed has dealt with all that is committed now, and says
// how long that took.
func (w *world) caughtUp() time.Duration {
	w.t.Helper()
	began := time.Now()
	id := w.mark()
	w.until("the feed has caught up", func() bool {
		return one[bool](w, `SELECT EXISTS (SELECT FROM pgautomate.trigger_versions WHERE trigger_id = $1)`, id)
	})
	return time.Since(began)
}

// settled waits until nothing is left to do. River's jobs for actions don't count: they
// are knocks on the door, and those of dead processes stay for some minutes.
func (w *world) settled() time.Duration {
	w.t.Helper()
	return w.caughtUp() + w.until("each firing's action has ended", func() bool {
		return one[bool](w, `SELECT NOT EXISTS (SELECT FROM pgautomate.lead_stage_actions WHERE status NOT IN ('completed', 'failed', 'canceled'))
			AND NOT EXISTS (SELECT FROM pgautomate.river_job WHERE kind = 'firing' AND state NOT IN ('completed', 'discarded', 'cancelled'))
			AND (SELECT count(*) FROM pgautomate.trigger_firings WHERE `+actsItself+`) = (SELECT count(*) FROM pgautomate.lead_stage_actions WHERE firing_id IS NOT NULL)`)
	})
}

// actsItself holds for firings that have an action; those of goals end runs, and those of waits wake them.
const actsItself = `trigger_id NOT IN (SELECT v.trigger_id FROM pgautomate.trigger_versions v WHERE v.action_type IN ('goal', 'wake'))`

type firing struct {
	ID, Trigger int64
	Object      string
	Rev, Before *int64
	Action, LSN string
}

// firings counts what has fired so far.
func (w *world) firings() int64 {
	w.t.Helper()
	return one[int64](w, `SELECT count(*) FROM pgautomate.trigger_firings`)
}

// check ends the load, waits until all is done, and wants everything exactly once. feed is how long the
// feed took after the fault.
func (w *world) check(feed time.Duration) {
	w.t.Helper()
	committed, failed := int64(0), int64(0)
	// A fault that is over at once on an idle machine must still have been under load.
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && w.firings() < 60; {
		time.Sleep(50 * time.Millisecond)
	}
	for _, l := range w.loads {
		l.halt()
		committed, failed = committed+l.committed.Load(), failed+l.failed.Load()
	}
	actions := w.settled()
	due, lost, twice, wrong := w.compare()
	if due < 20 {
		w.t.Errorf("only %d firings were due: the test shows nothing", due)
	}
	for i, c := range wrong {
		if i == 20 {
			w.t.Errorf("… and %d more", len(wrong)-i)
			break
		}
		w.t.Error(c)
	}
	w.t.Logf("%s: %d times; %d transactions (%d failed), %d firings; lost %d, twice %d; the feed caught up in %v, the rest was done %v after the load",
		w.fault, w.times, committed, failed, due, lost, twice, feed.Round(time.Millisecond), actions.Round(time.Millisecond))
	report.add(result{w.fault, w.times, due, lost, twice, len(wrong), feed, actions})
}

// compare counts what was due, what is missing, what is there too often, and says each
// difference.
func (w *world) compare() (due, lost, twice int, wrong []string) {
	w.t.Helper()
	want := w.expect()
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	got := list[firing](w, `SELECT id, trigger_id, object_id, (data ->> 'rev')::bigint, (previous_data ->> 'rev')::bigint, action, commit_lsn::text
		FROM pgautomate.trigger_firings WHERE object_type = 'lead' AND trigger_id = ANY($1) ORDER BY id`, w.triggerIDs())
	left := maps.Clone(want)
	type place struct {
		seq int64
		lsn string
	}
	last := map[string]place{}
	for _, f := range got {
		k := firingKey{f.Trigger, f.Object, deref(f.Rev)}
		e, due := left[k]
		if !due {
			twice++
			complain("firing %d of trigger %d, object %s, rev %d, was not due", f.ID, f.Trigger, f.Object, k.rev)
			continue
		}
		delete(left, k)
		action := "updated"
		if e.before == 0 {
			action = "created"
		}
		if e.before != deref(f.Before) || action != f.Action {
			complain("firing %d of object %s: %s, before %d; want %s, before %d", f.ID, f.Object, f.Action, deref(f.Before), action, e.before)
		}
		if p, known := last[f.Object]; known && (e.seq < p.seq || lsn(f.LSN) < lsn(p.lsn)) {
			complain("firing %d of object %s is out of order", f.ID, f.Object)
		}
		last[f.Object] = place{e.seq, f.LSN}
	}
	lost += len(left)
	for k, e := range left {
		complain("trigger %d, object %s, rev %d at step %d did not fire", k.trigger, k.object, k.rev, e.seq)
	}

	type count struct{ None, More int64 }
	for what, sql := range map[string]string{
		"River jobs": `SELECT count(*) FILTER (WHERE j.n IS NULL), coalesce(sum(j.n - 1), 0)::bigint + (SELECT count(*) FROM pgautomate.river_job
				WHERE kind = 'firing' AND NOT args ->> 'id' IN (SELECT id::text FROM pgautomate.trigger_firings) AND NOT args ->> 'id' = ANY($1))
			FROM pgautomate.trigger_firings f LEFT JOIN (SELECT args ->> 'id' AS id, count(*) AS n FROM pgautomate.river_job
				WHERE kind = 'firing' GROUP BY 1) j ON j.id = f.id::text WHERE $1::text[] IS NOT NULL`,
		"completed actions": `SELECT count(*) FILTER (WHERE a.n IS NULL), coalesce(sum(a.n - 1), 0)::bigint
			FROM pgautomate.trigger_firings f LEFT JOIN (SELECT firing_id, count(*) AS n FROM pgautomate.lead_stage_actions
				WHERE status = 'completed' GROUP BY 1) a ON a.firing_id = f.id WHERE f.trigger_id = ANY($1::text[]::bigint[])`,
		"effects": `SELECT count(*) FILTER (WHERE e.n IS NULL), coalesce(sum(e.n - 1), 0)::bigint
				+ (SELECT count(*) FROM effect) - (SELECT coalesce(sum(n), 0)::bigint FROM (SELECT count(*) AS n FROM effect GROUP BY title) x)
			FROM pgautomate.trigger_firings f LEFT JOIN (SELECT title, count(*) AS n FROM effect GROUP BY 1) e
				ON e.title = (f.data ->> 'id') || '/' || (f.data ->> 'rev') WHERE f.trigger_id = ANY($1::text[]::bigint[])`,
	} {
		var arg []string
		switch what {
		case "River jobs":
			arg = append([]string{}, w.stray...)
		case "completed actions":
			for _, id := range w.triggerIDs() {
				arg = append(arg, strconv.FormatInt(id, 10))
			}
		default:
			arg = []string{strconv.FormatInt(w.effects, 10)}
		}
		n := list[count](w, sql, arg)[0]
		lost, twice = lost+int(n.None), twice+int(n.More)
		if n.None != 0 || n.More != 0 {
			complain("%s: %d firings without, %d too many", what, n.None, n.More)
		}
	}
	for _, a := range list[string](w, `SELECT concat_ws(' ', 'action', id, action_type, 'is', status, 'attempt', attempt, reason, error) FROM pgautomate.lead_stage_actions
		WHERE firing_id IN (SELECT id FROM pgautomate.trigger_firings WHERE trigger_id = ANY($1)) AND status <> 'completed' ORDER BY id LIMIT 10`, w.triggerIDs()) {
		complain("%s", a)
	}
	return len(want), lost, twice, wrong
}

func deref(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

func lsn(s string) uint64 {
	high, low, _ := strings.Cut(s, "/")
	h, _ := strconv.ParseUint(high, 16, 64)
	l, _ := strconv.ParseUint(low, 16, 64)
	return h<<32 | l
}

func (w *world) triggerIDs() []int64 {
	var ids []int64
	for _, t := range w.triggers {
		ids = append(ids, t.id)
	}
	return ids
}

// underway waits until the load makes things fire.
func (w *world) underway() {
	w.t.Helper()
	n := one[int64](w, `SELECT count(*) FROM pgautomate.trigger_firings`)
	w.until("something fires", func() bool { return one[int64](w, `SELECT count(*) FROM pgautomate.trigger_firings`) > n+10 })
}

type result struct {
	fault                            string
	times, firings, lost, twice, bad int
	feed, actions                    time.Duration
}

// report gathers what the faults did.
var report reporter

type reporter struct {
	mu   sync.Mutex
	rows []result
}

func (r *reporter) add(x result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.rows {
		if o := &r.rows[i]; o.fault == x.fault {
			o.times, o.firings, o.lost, o.twice, o.bad = o.times+x.times, o.firings+x.firings, o.lost+x.lost, o.twice+x.twice, o.bad+x.bad
			o.feed, o.actions = max(o.feed, x.feed), max(o.actions, x.actions)
			return
		}
	}
	r.rows = append(r.rows, x)
}

func (r *reporter) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortFunc(r.rows, func(a, b result) int { return strings.Compare(a.fault, b.fault) })
	var b strings.Builder
	fmt.Fprintf(&b, "%-52s %5s %8s %5s %6s %6s %10s %10s\n", "fault", "times", "firings", "lost", "twice", "wrong", "feed", "actions")
	for _, x := range r.rows {
		fmt.Fprintf(&b, "%-52s %5d %8d %5d %6d %6d %9.1fs %9.1fs\n", x.fault, x.times, x.firings, x.lost, x.twice, x.bad, x.feed.Seconds(), x.actions.Seconds())
	}
	b.WriteString("feed: the longest time from a fault's end until all that was committed by then had fired.\n" +
		"actions: the longest time from the load's end until every action had ended.\n")
	return b.String()
}

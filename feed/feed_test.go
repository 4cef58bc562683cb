package feed_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/private"
	"github.com/pgautomate/pgautomate/feed"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func TestMain(m *testing.M) { dbtest.MainNoLeaks(m) }

const (
	patience    = 60 * time.Second
	publication = `the "odd" name's`
)

// world is a database with a watched table, and whoever feeds from it.
type world struct {
	t    testing.TB
	db   *dbtest.DB
	slot string

	objects *objects

	mu      sync.Mutex
	applied chan struct{} // closed and replaced at each apply
	calls   int

	marks int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return worldOn(t, dbtest.New(t))
}

func worldOn(t testing.TB, db *dbtest.DB) *world {
	t.Helper()
	w := &world{t: t, db: db, slot: "slot_" + db.Name, applied: make(chan struct{})}
	if len(w.slot) > 63 {
		w.slot = w.slot[:63]
	}
	w.objects = &objects{known: map[string]*change.Object{
		"public.lead":  {Type: "lead", Schema: "public", Table: "lead", ID: "id", Organization: "org"},
		"public.other": {Type: "other", Schema: "public", Table: "other", ID: "id"},
		"public.mark":  {Type: "mark", Schema: "public", Table: "mark", ID: "id"},
	}}
	w.exec(`
CREATE TABLE lead (id int PRIMARY KEY, org text, v text, doc text);
ALTER TABLE lead REPLICA IDENTITY FULL;
ALTER TABLE lead ALTER doc SET STORAGE EXTERNAL;
CREATE TABLE other (id int PRIMARY KEY, v text, doc text);
ALTER TABLE other ALTER doc SET STORAGE EXTERNAL;
CREATE TABLE mark (id text PRIMARY KEY);
CREATE TABLE unwatched (id int PRIMARY KEY);
CREATE TABLE unpublished (filler text);
CREATE TABLE recorded (seq bigserial PRIMARY KEY, commit_lsn pg_lsn, line text);
CREATE PUBLICATION ` + pgx.Identifier{publication}.Sanitize() + ` FOR TABLE lead, other, mark, unwatched`)
	return w
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Pool.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func one[T any](w *world, sql string, args ...any) T {
	w.t.Helper()
	rows, err := w.db.Pool.Query(context.Background(), sql, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// objects is a registry.
type objects struct {
	mu      sync.Mutex
	known   map[string]*change.Object
	asked   []string
	reloads int
	reload  func()                    // called by Reload
	pending map[string]*change.Object // becomes known at the next Reload
}

func (o *objects) Object(_ context.Context, rel *change.Relation) (*change.Object, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, rel.String())
	return o.known[rel.String()], nil
}

func (o *objects) Reload(context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reloads++
	if o.reload != nil {
		o.reload()
	}
	maps.Copy(o.known, o.pending)
	o.pending = nil
	return nil
}

// recorder applies commits by writing them down.
type recorder struct {
	w      *world
	pool   *pgxpool.Pool
	store  *feed.Checkpoints
	before func(commits []*change.Commit) error // may block or fail; not for mere checkpoints
	after  func() error                         // runs when the transaction is committed
}

func (r *recorder) Apply(ctx context.Context, commits []*change.Commit, position change.EndLSN) error {
	r.w.mu.Lock()
	r.w.calls++
	r.w.mu.Unlock()
	if r.before != nil && len(commits) > 0 {
		if err := r.before(commits); err != nil {
			return err
		}
	}
	err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		var lsns, lines []string
		for _, c := range commits {
			for _, line := range describe(c) {
				lsns, lines = append(lsns, c.LSN.String()), append(lines, line)
			}
		}
		if len(lines) > 0 {
			_, err := tx.Exec(ctx, `INSERT INTO recorded (commit_lsn, line) SELECT lsn, line FROM unnest($1::text[]::pg_lsn[], $2::text[]) AS u (lsn, line)`, lsns, lines)
			if err != nil {
				return err
			}
		}
		return r.store.Advance(ctx, tx, position)
	})
	if err != nil {
		return err
	}
	r.w.mu.Lock()
	close(r.w.applied)
	r.w.applied = make(chan struct{})
	r.w.mu.Unlock()
	if r.after != nil {
		return r.after()
	}
	return nil
}

// describe gives a commit as lines.
func describe(c *change.Commit) (lines []string) {
	err := c.Each(func(ch *change.Change) error {
		s := fmt.Sprintf("%s %s: %s -> %s", ch.Object.Type, ch.ID, rowText(ch.BeforeRelation, ch.Before, ch.BeforeUnknown), rowText(ch.Relation, ch.After, false))
		if ch.OldID != "" {
			s += " was " + ch.OldID
		}
		if ch.Organization != ch.OldOrganization && ch.Before != nil && ch.After != nil {
			s += fmt.Sprintf(" moved %s>%s", ch.OldOrganization, ch.Organization)
		}
		lines = append(lines, s)
		return nil
	})
	if err != nil {
		lines = append(lines, err.Error())
	}
	for _, o := range c.Truncated {
		lines = append(lines, "truncated "+o.Type)
	}
	for _, m := range c.Messages {
		lines = append(lines, fmt.Sprintf("message %s %s", m.Prefix, m.Content))
	}
	for _, n := range c.Notes {
		lines = append(lines, fmt.Sprintf("note %s %d %s", n.Kind, n.Count, n.Detail["table"]))
	}
	return lines
}

func rowText(rel *change.Relation, row change.Row, unknown bool) string {
	if unknown {
		return "?"
	}
	if row == nil {
		return "-"
	}
	cells, err := row.Decode(nil)
	if err != nil || len(cells) != len(rel.Columns) {
		return fmt.Sprintf("%v: %d cells, %d columns", err, len(cells), len(rel.Columns))
	}
	var s []string
	for i, c := range cells {
		switch {
		case c.Kind == change.Null:
			continue
		case c.Kind == change.Unchanged:
			s = append(s, rel.Columns[i].Name+"=unchanged")
		case len(c.Data) > 100:
			s = append(s, fmt.Sprintf("%s=%d bytes", rel.Columns[i].Name, len(c.Data)))
		default:
			s = append(s, rel.Columns[i].Name+"="+string(c.Data))
		}
	}
	return strings.Join(s, " ")
}

// running is a feed that runs.
type running struct {
	w      *world
	feed   *feed.Feed
	rec    *recorder
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func (w *world) config() (feed.Config, *recorder) {
	store := feed.NewCheckpoints(w.db.Pool, w.slot)
	rec := &recorder{w: w, pool: w.db.Pool, store: store}
	return feed.Config{
		Conn: w.db.URL, Slot: w.slot, Publication: publication,
		Objects: w.objects, Applier: rec, Store: store,
		Logger:          slog.New(slog.DiscardHandler),
		StandbyInterval: 20 * time.Millisecond,
		MinBackoff:      5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
	}, rec
}

// start runs a feed until the test ends.
func (w *world) start(change ...func(*feed.Config, *recorder)) *running {
	w.t.Helper()
	cfg, rec := w.config()
	for _, f := range change {
		f(&cfg, rec)
	}
	f, err := feed.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{w: w, feed: f, rec: rec, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = f.Run(ctx)
	}()
	w.t.Cleanup(r.stop)
	return r
}

func (r *running) stop() {
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.w.t.Errorf("feed does not stop: %+v", r.feed.Status())
	}
}

// state waits for a state.
func (r *running) state(want feed.State) *running {
	r.w.t.Helper()
	r.w.until(fmt.Sprintf("state %s, not %+v", want, r.feed.Status()), func() bool { return r.feed.Status().State == want })
	return r
}

// fails waits for Run to end with an error.
func (r *running) fails(want error, text ...string) {
	r.w.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.w.t.Fatalf("feed does not end: %+v", r.feed.Status())
	}
	if !errors.Is(r.err, want) {
		r.w.t.Fatalf("feed ended with %v, not %v", r.err, want)
	}
	for _, s := range text {
		if !strings.Contains(r.err.Error(), s) {
			r.w.t.Errorf("error %q does not say %q", r.err, s)
		}
	}
	if strings.Contains(r.err.Error(), "\n") {
		r.w.t.Errorf("error is more than a line: %q", r.err)
	}
	if s := r.feed.Status(); s.State != feed.StateStopped || s.LastError == nil {
		r.w.t.Errorf("status after a permanent error: %+v", s)
	}
}

// until waits for a condition that no signal tells of.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// lines commits a mark, waits until it came through, and gives what was
// recorded since the last time.
func (w *world) lines() []string {
	w.t.Helper()
	w.marks++
	mark := fmt.Sprintf("m%d", w.marks)
	w.exec(`INSERT INTO mark VALUES ($1)`, mark)
	line := fmt.Sprintf("mark %s: - -> id=%s", mark, mark)
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		applied := w.applied
		w.mu.Unlock()
		if one[int](w, `SELECT count(*) FROM recorded WHERE line = $1`, line) > 0 {
			break
		}
		select {
		case <-applied:
		case <-deadline:
			w.t.Fatalf("%s does not come through", mark)
		}
	}
	rows, err := w.db.Pool.Query(context.Background(), `
SELECT line FROM recorded
WHERE seq > (SELECT coalesce(max(seq), 0) FROM recorded WHERE line LIKE 'mark %' AND line <> $1)
ORDER BY seq`, line)
	if err != nil {
		w.t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.t.Fatal(err)
	}
	if n := len(lines); n == 0 || lines[n-1] != line {
		w.t.Fatalf("mark recorded twice or not last: %q", lines)
	}
	return lines[:len(lines)-1]
}

func (w *world) want(want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, slices.Clip(w.lines()), cmp.Transformer("", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
		w.t.Errorf("want -, got +:\n%s", diff)
	}
}

func (w *world) tx(statements ...string) {
	w.t.Helper()
	err := pgx.BeginFunc(context.Background(), w.db.Pool, func(tx pgx.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(context.Background(), s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO lead VALUES (100, 'A', 'before the slot', NULL)`)
	r := w.start().state(feed.StateStreaming)

	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x', NULL)`)
	w.exec(`UPDATE lead SET v = 'y' WHERE id = 1`)
	w.exec(`DELETE FROM lead WHERE id = 1`)
	w.want("lead 1: - -> id=1 org=A v=x", "lead 1: id=1 org=A v=x -> id=1 org=A v=y", "lead 1: id=1 org=A v=y -> -")

	w.exec(`UPDATE lead SET v = v, org = org`) // changes nothing
	w.exec(`INSERT INTO unwatched VALUES (1)`)
	w.exec(`INSERT INTO unpublished VALUES ('x')`)
	w.want()

	// TOAST: the value is not sent, and is known all the same.
	w.exec(`INSERT INTO lead VALUES (2, 'A', 'x', repeat('d', 100000))`)
	w.exec(`UPDATE lead SET v = 'y' WHERE id = 2`)
	w.exec(`UPDATE lead SET v = 'z', doc = repeat('e', 90000) WHERE id = 2`)
	w.want("lead 2: - -> id=2 org=A v=x doc=100000 bytes",
		"lead 2: id=2 org=A v=x doc=100000 bytes -> id=2 org=A v=y doc=100000 bytes",
		"lead 2: id=2 org=A v=y doc=100000 bytes -> id=2 org=A v=z doc=90000 bytes")

	// Key change, organization change, both.
	w.exec(`UPDATE lead SET id = 3, doc = NULL WHERE id = 2`)
	w.exec(`UPDATE lead SET org = 'B' WHERE id = 3`)
	w.exec(`UPDATE lead SET org = NULL, id = 4 WHERE id = 3`)
	w.want("lead 3: id=2 org=A v=z doc=90000 bytes -> id=3 org=A v=z was 2",
		"lead 3: id=3 org=A v=z -> id=3 org=B v=z moved A>B",
		"lead 4: id=3 org=B v=z -> id=4 v=z was 3 moved B>")

	// One transaction is one change per object.
	w.tx(`INSERT INTO lead VALUES (5, 'A', 'x')`, `UPDATE lead SET v = 'y' WHERE id = 5`,
		`INSERT INTO lead VALUES (6, 'A', 'x')`, `DELETE FROM lead WHERE id = 6`,
		`DELETE FROM lead WHERE id = 4`, `INSERT INTO lead VALUES (4, 'C', 'new')`)
	w.want("lead 5: - -> id=5 org=A v=y", "lead 4: id=4 v=z -> id=4 org=C v=new moved >C")

	// What is rolled back never was.
	w.tx(`INSERT INTO lead VALUES (7, 'A', 'x')`, `SAVEPOINT s`, `UPDATE lead SET v = 'rolled back'`,
		`INSERT INTO lead VALUES (8, 'A', 'rolled back')`, `ROLLBACK TO s`, `SAVEPOINT s2`, `UPDATE lead SET v = 'kept' WHERE id = 5`, `RELEASE s2`)
	_, _ = w.db.Pool.Exec(context.Background(), `BEGIN; INSERT INTO lead VALUES (9, 'A', 'x'); ROLLBACK`)
	w.want("lead 7: - -> id=7 org=A v=x", "lead 5: id=5 org=A v=y -> id=5 org=A v=kept")

	// TRUNCATE fires nothing.
	w.exec(`TRUNCATE lead`)
	w.want("truncated lead", "note truncate_ignored 1 public.lead")
	w.tx(`INSERT INTO lead VALUES (1, 'A', 'x')`, `TRUNCATE lead, other`, `INSERT INTO lead VALUES (2, 'A', 'x')`)
	w.want("lead 2: ? -> id=2 org=A v=x", "truncated lead", "truncated other", "note truncate_ignored 1 public.lead", "note truncate_ignored 1 public.other")

	// Without the old row.
	w.exec(`INSERT INTO other VALUES (1, 'x', repeat('d', 10000))`)
	w.exec(`UPDATE other SET v = 'y'`)
	w.exec(`UPDATE other SET id = 2`)
	w.exec(`DELETE FROM other`)
	w.tx(`INSERT INTO other VALUES (5, 'x', repeat('d', 10000))`, `UPDATE other SET v = 'y'`)
	w.want("other 1: - -> id=1 v=x doc=10000 bytes", "other 1: ? -> id=1 v=y doc=unchanged",
		"other 2: ? -> id=2 v=y doc=unchanged was 1", "other 2: ? -> -", "other 5: - -> id=5 v=y doc=10000 bytes")

	// A statement in which ids pass each other.
	w.exec(`CREATE TABLE swap (id int UNIQUE DEFERRABLE INITIALLY DEFERRED, v text); ALTER TABLE swap REPLICA IDENTITY FULL;
ALTER PUBLICATION ` + pgx.Identifier{publication}.Sanitize() + ` ADD TABLE swap`)
	w.objects.mu.Lock()
	w.objects.known["public.swap"] = &change.Object{Type: "swap", ID: "id"}
	w.objects.mu.Unlock()
	w.exec(`INSERT INTO swap VALUES (1, 'one'), (2, 'two')`)
	w.exec(`UPDATE swap SET id = 3 - id`)
	w.want("swap 1: - -> id=1 v=one", "swap 2: - -> id=2 v=two",
		"swap 2: id=1 v=one -> id=2 v=one was 1", "swap 1: id=2 v=two -> id=1 v=two was 2")

	if s := r.feed.Status(); s.LastError != nil || s.Commits == 0 || s.Changes == 0 || s.LastCommit.IsZero() || time.Since(s.LastCommit).Abs() > time.Minute {
		t.Errorf("status: %+v", s)
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(func(_ *feed.Config, r *recorder) {
		r.before = func([]*change.Commit) error { time.Sleep(20 * time.Millisecond); return nil }
	}).state(feed.StateStreaming)
	w.tx(`SELECT pg_logical_emit_message(true, 'pgautomate.cause', '{"depth":1}')`, `INSERT INTO lead VALUES (1, 'A', 'x')`,
		`SELECT pg_logical_emit_message(true, 'someone.else', 'x')`)
	w.exec(`SELECT pg_logical_emit_message(false, 'pgautomate.cause', 'not transactional')`)
	w.exec(`SELECT pg_logical_emit_message(true, 'pgautomate.cause', 'alone')`)
	w.want("lead 1: - -> id=1 org=A v=x", `message pgautomate.cause {"depth":1}`)

	// The registry: commits after the message see the new one, earlier ones the
	// old one, also while they wait in one batch.
	w.objects.mu.Lock()
	reloads := w.objects.reloads
	w.objects.pending = map[string]*change.Object{"public.unwatched": {Type: "now_watched", ID: "id"}}
	w.objects.reload = func() {
		if n := one[int](w, `SELECT count(*) FROM recorded WHERE line LIKE 'message pgautomate.registry%'`); n != 1 {
			t.Errorf("reloaded before the commit was applied")
		}
	}
	w.objects.mu.Unlock()
	w.exec(`INSERT INTO unwatched VALUES (1)`)
	w.tx(`INSERT INTO unwatched VALUES (2)`, `SELECT pg_logical_emit_message(true, 'pgautomate.registry', '')`)
	w.exec(`INSERT INTO unwatched VALUES (3)`)
	w.want("message pgautomate.registry ", "now_watched 3: - -> id=3")
	w.objects.mu.Lock()
	defer w.objects.mu.Unlock()
	if w.objects.reloads != reloads+1 {
		t.Errorf("%d reloads", w.objects.reloads-reloads)
	}
}

func TestAlteredTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start().state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	w.exec(`ALTER TABLE lead ADD COLUMN extra int DEFAULT 7`)
	w.exec(`UPDATE lead SET v = 'y'`)
	w.exec(`ALTER TABLE lead DROP COLUMN doc`)
	w.exec(`UPDATE lead SET v = 'z'`)
	w.exec(`ALTER TABLE lead RENAME COLUMN v TO value`)
	w.exec(`UPDATE lead SET value = 'a'`)
	w.want("lead 1: - -> id=1 org=A v=x",
		"lead 1: id=1 org=A v=x extra=7 -> id=1 org=A v=y extra=7",
		"lead 1: id=1 org=A v=y extra=7 -> id=1 org=A v=z extra=7",
		"lead 1: id=1 org=A value=z extra=7 -> id=1 org=A value=a extra=7")

	// Inside a transaction: before in the old layout, after in the new one.
	w.tx(`UPDATE lead SET value = 'b'`, `ALTER TABLE lead ADD COLUMN late text`, `UPDATE lead SET late = 'l'`)
	w.want("lead 1: id=1 org=A value=a extra=7 -> id=1 org=A value=b extra=7 late=l")

	w.exec(`ALTER TABLE lead REPLICA IDENTITY DEFAULT`)
	w.exec(`UPDATE lead SET value = 'c'`)
	w.exec(`ALTER TABLE lead REPLICA IDENTITY FULL`)
	w.exec(`UPDATE lead SET value = 'd'`)
	w.want("lead 1: ? -> id=1 org=A value=c extra=7 late=l",
		"lead 1: id=1 org=A value=c extra=7 late=l -> id=1 org=A value=d extra=7 late=l")

	w.exec(`ALTER TABLE lead RENAME COLUMN org TO organization`)
	w.exec(`UPDATE lead SET value = 'e'`)
	w.exec(`ALTER TABLE lead RENAME COLUMN organization TO org`)
	w.exec(`ALTER TABLE lead RENAME COLUMN id TO ident`)
	w.exec(`UPDATE lead SET value = 'f'`)
	w.exec(`INSERT INTO other VALUES (1, 'goes on')`)
	w.want("lead 1: id=1 organization=A value=d extra=7 late=l -> id=1 organization=A value=e extra=7 late=l",
		"note column_missing 2 public.lead", "note undecodable 1 public.lead", "other 1: - -> id=1 v=goes on")

	// Objects is asked once a layout, not once a row.
	w.exec(`INSERT INTO other SELECT i, 'x' FROM generate_series(2, 50) i`)
	if n := len(w.lines()); n != 49 {
		t.Errorf("%d lines", n)
	}
	w.objects.mu.Lock()
	defer w.objects.mu.Unlock()
	if n := len(w.objects.asked); n > 14 {
		t.Errorf("asked %d times: %q", n, w.objects.asked)
	}
}

func TestValuesAreIndependentOfTheServersSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`CREATE TABLE val (id int PRIMARY KEY, at timestamptz, f float8, b bytea, i interval, d date, n numeric, a text[], j jsonb);
ALTER TABLE val REPLICA IDENTITY FULL; ALTER PUBLICATION ` + pgx.Identifier{publication}.Sanitize() + ` ADD TABLE val`)
	w.objects.known["public.val"] = &change.Object{Type: "val", ID: "id"}
	w.exec(fmt.Sprintf(`ALTER DATABASE %[1]s SET datestyle = 'German'; ALTER DATABASE %[1]s SET timezone = 'Asia/Tokyo';
ALTER DATABASE %[1]s SET extra_float_digits = -5; ALTER DATABASE %[1]s SET bytea_output = 'escape';
ALTER DATABASE %[1]s SET intervalstyle = 'iso_8601'; ALTER DATABASE %[1]s SET standard_conforming_strings = off`, w.db.Name))
	w.start().state(feed.StateStreaming)
	w.exec(`INSERT INTO val VALUES (1, '2026-01-02 03:04:05.678+00', 0.1::float8 + 0.2, decode('00ff', 'hex'), '1 mon 2 days', 'infinity', 'NaN', '{a,"b c"}', '{"k": 1}')`)
	w.want(`val 1: - -> id=1 at=2026-01-02 03:04:05.678+00 f=0.30000000000000004 b=\x00ff i=1 mon 2 days d=infinity n=NaN a={a,"b c"} j={"k": 1}`)
}

func TestLargeTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO lead SELECT i, 'org' || i % 7, 'q', 'd' FROM generate_series(1, 16000) i`)
	r := w.start(func(c *feed.Config, _ *recorder) { c.MaxBatchBytes = 1 << 20 }).state(feed.StateStreaming)
	w.exec(`UPDATE lead SET v = CASE WHEN id % 4 = 0 THEN v ELSE 'c' END`)
	lines := w.lines()
	if len(lines) != 12000 {
		t.Fatalf("%d changes", len(lines))
	}
	if want := "lead 1: id=1 org=org1 v=q doc=d -> id=1 org=org1 v=c doc=d"; lines[0] != want {
		t.Errorf("got %q, want %q", lines[0], want)
	}
	// Many commits while the applier is held up arrive in few batches.
	w.mu.Lock()
	calls := w.calls
	w.mu.Unlock()
	release, first := make(chan struct{}), make(chan int, 300)
	r.stop()
	r = w.start(func(_ *feed.Config, r *recorder) {
		r.before = func(commits []*change.Commit) error { first <- len(commits); <-release; return nil }
	}).state(feed.StateStreaming)
	w.exec(`UPDATE lead SET v = 'v' WHERE id = 1`)
	var held int
	select {
	case held = <-first:
	case <-time.After(patience):
		t.Fatal("waited in vain for the first batch")
	}
	for i := range 299 {
		w.exec(`UPDATE lead SET v = $1 WHERE id = 1`, fmt.Sprint("v", i+1))
	}
	w.until("the second batch", func() bool { return held+r.feed.Status().Waiting == 300 })
	close(release)
	if lines := w.lines(); len(lines) != 300 || !strings.HasSuffix(lines[299], "v=v299 doc=d") {
		t.Errorf("%d lines", len(lines))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.calls - calls; n > 5 {
		t.Errorf("300 commits took %d transactions", n)
	}
}

func TestBackPressure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	release := make(chan struct{})
	r := w.start(func(c *feed.Config, r *recorder) {
		c.MaxBatchCommits = 2
		c.StatusInterval = 20 * time.Millisecond
		c.Conn += "?options=-c%20wal_sender_timeout%3D600"
		if strings.Contains(w.db.URL, "?") {
			c.Conn = w.db.URL + "&options=-c%20wal_sender_timeout%3D600"
		}
		r.before = func([]*change.Commit) error { <-release; return nil }
	}).state(feed.StateStreaming)
	pid := one[int](w, `SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1`, w.slot)
	for i := range 20 {
		w.exec(`INSERT INTO lead VALUES ($1, 'A', repeat('x', 1000))`, i)
	}
	// The server would end a silent connection after 600 ms.
	time.Sleep(2 * time.Second)
	if now := one[int](w, `SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1`, w.slot); now != pid {
		t.Errorf("the connection was lost while the applier was blocked: walsender %d, then %d; %v", pid, now, r.feed.Status().LastError)
	}
	if s := r.feed.Status(); s.Waiting > 2 || !s.Busy {
		t.Errorf("status under back-pressure: %+v", s)
	}
	close(release)
	if n := len(w.lines()); n != 20 {
		t.Errorf("%d lines", n)
	}
}

func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.start().state(feed.StateStreaming)
	second := w.start().state(feed.StateStandby)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	w.want("lead 1: - -> id=1 org=A v=x")
	if s := second.feed.Status(); s.State != feed.StateStandby || s.LastError != nil {
		t.Errorf("standby is not an error: %+v", s)
	}
	first.stop()
	if first.err != nil {
		t.Errorf("stopped with %v", first.err)
	}
	w.exec(`INSERT INTO lead VALUES (2, 'A', 'x')`)
	second.state(feed.StateStreaming)
	w.want("lead 2: - -> id=2 org=A v=x")
}

// TestRestarts ends connections and feeds at random while commits come in, in
// all the ways there are; every commit must come through once.
func TestRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fault := 0
	faulty := func(_ *feed.Config, r *recorder) {
		n := 0
		r.before = func([]*change.Commit) error {
			switch n++; n % 7 {
			case 3:
				return errors.New("no transaction")
			case 5:
				return &pgconn.PgError{Code: "40001", Message: "serialization failure"}
			}
			return nil
		}
		r.after = func() error {
			if fault++; fault%5 == 0 {
				return errors.New("committed, but the answer was lost")
			}
			return nil
		}
	}
	w.start().state(feed.StateStreaming).stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 400 {
			time.Sleep(5 * time.Millisecond) // so that there is time for the restarts
			if _, err := w.db.Pool.Exec(context.Background(), `INSERT INTO lead VALUES ($1, 'A', 'x')`, i); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := 0; ; i++ {
		r := w.start(faulty)
		r.state(feed.StateStreaming)
		time.Sleep(30 * time.Millisecond)
		if i%2 == 0 {
			w.exec(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL`, w.slot)
			time.Sleep(30 * time.Millisecond)
		}
		r.stop()
		select {
		case <-done:
		default:
			continue
		}
		break
	}
	w.start()
	var want []string
	for i := range 400 {
		want = append(want, fmt.Sprintf("lead %d: - -> id=%d org=A v=x", i, i))
	}
	w.want(want...)
}

// TestStopDrains: what has wholly arrived is applied and confirmed before Run
// returns.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	entered, release := make(chan struct{}, 1), make(chan struct{})
	r := w.start(func(_ *feed.Config, r *recorder) {
		r.before = func([]*change.Commit) error {
			select {
			case entered <- struct{}{}:
			default:
			}
			<-release
			return nil
		}
	}).state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	<-entered
	w.exec(`INSERT INTO lead VALUES (2, 'A', 'x')`)
	w.until("the second commit", func() bool { return r.feed.Status().Waiting == 1 })
	r.cancel()
	close(release)
	r.stop()
	if n := one[int](w, `SELECT count(*) FROM recorded`); n != 2 {
		t.Errorf("%d recorded", n)
	}
	if !one[bool](w, `SELECT s.confirmed_flush_lsn = c.position AND NOT s.active FROM pg_replication_slots s JOIN pgautomate.feed_checkpoints c USING (slot_name) WHERE slot_name = $1`, w.slot) {
		t.Error("not confirmed at the end")
	}
}

// TestStopDoesNotWaitForEver: an applier that hangs is given up; its commit comes
// again.
func TestStopDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(func(c *feed.Config, _ *recorder) { c.DrainTimeout = 50 * time.Millisecond }).state(feed.StateStreaming)
	tx, err := w.db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK recorded`); err != nil {
		t.Fatal(err)
	}
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	w.until("the applier", func() bool { return r.feed.Status().Busy })
	r.stop()
	if r.err != nil {
		t.Errorf("asked to stop, and ended with %v", r.err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.want("lead 1: - -> id=1 org=A v=x")
}

// TestCheckpointInAnotherDatabase: the checkpoint lives with the effects.
func TestCheckpointInAnotherDatabase(t *testing.T) {
	t.Parallel()
	w, queue := newWorld(t), dbtest.New(t)
	if _, err := queue.Pool.Exec(t.Context(), `CREATE TABLE recorded (seq bigserial PRIMARY KEY, commit_lsn pg_lsn, line text)`); err != nil {
		t.Fatal(err)
	}
	inits := 0
	elsewhere := func(c *feed.Config, r *recorder) {
		c.Store = feed.NewCheckpoints(queue.Pool, w.slot)
		r.store, r.pool = c.Store, queue.Pool
		c.Init = func(ctx context.Context, tx pgx.Tx) error {
			inits++
			_, err := tx.Exec(ctx, `SELECT id FROM lead`)
			return err
		}
	}
	r := w.start(elsewhere).state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	w.until("the first", func() bool { return r.feed.Status().Commits == 1 })
	r.stop()
	w.exec(`INSERT INTO lead VALUES (2, 'A', 'x')`)
	r = w.start(elsewhere)
	w.until("the second", func() bool { return r.feed.Status().Commits == 1 })
	rows, err := queue.Pool.Query(t.Context(), `SELECT line FROM recorded ORDER BY seq`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if diff := cmp.Diff([]string{"lead 1: - -> id=1 org=A v=x", "lead 2: - -> id=2 org=A v=x"}, lines); diff != "" || err != nil {
		t.Errorf("%v, want -, got +:\n%s", err, diff)
	}
	if inits != 1 || one[int](w, `SELECT count(*) FROM pgautomate.feed_checkpoints`) != 0 {
		t.Errorf("%d inits", inits)
	}
}

// TestFence: a feed whose checkpoint was moved by another stops applying.
func TestFence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var once sync.Once
	fenced := make(chan error, 1)
	r := w.start()
	r.stop()
	r = w.start(func(_ *feed.Config, r *recorder) {
		r.before = func(commits []*change.Commit) error {
			var err error
			once.Do(func() {
				// Another process applies the first commit meanwhile.
				first := commits[0]
				_, err = w.db.Pool.Exec(context.Background(), `UPDATE pgautomate.feed_checkpoints SET position = $1::text::pg_lsn WHERE slot_name = $2`, first.End.String(), w.slot)
				err = errors.Join(err, pgx.BeginFunc(context.Background(), w.db.Pool, func(tx pgx.Tx) error {
					err := r.store.Advance(context.Background(), tx, first.End)
					fenced <- err
					return err
				}))
			})
			return err
		}
	}).state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'applied by the other')`)
	w.exec(`INSERT INTO lead VALUES (2, 'A', 'x')`)
	if err := <-fenced; !errors.Is(err, feed.ErrFenced) {
		t.Errorf("Advance: %v", err)
	}
	w.want("lead 2: - -> id=2 org=A v=x")
	_ = r
}

func TestIdleDatabaseAdvances(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(func(c *feed.Config, _ *recorder) {
		c.IdleInterval = 50 * time.Millisecond
		c.StatusInterval = 50 * time.Millisecond
	}).state(feed.StateStreaming)
	w.exec(`INSERT INTO unpublished SELECT repeat(md5(i::text), 30) FROM generate_series(1, 5000) i`)
	target := one[string](w, `SELECT pg_current_wal_flush_lsn()::text`)
	w.until("the slot's position", func() bool {
		return one[bool](w, `SELECT confirmed_flush_lsn > $1::text::pg_lsn - 65536 FROM pg_replication_slots WHERE slot_name = $2`, target, w.slot)
	})
	// Invariant: the checkpoint is never behind the slot.
	if !one[bool](w, `SELECT c.position >= s.confirmed_flush_lsn FROM pg_replication_slots s JOIN pgautomate.feed_checkpoints c USING (slot_name) WHERE slot_name = $1`, w.slot) {
		t.Error("slot ahead of the checkpoint")
	}
	// And a restart works, and nothing was left out.
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	r.stop()
	w.start().state(feed.StateStreaming)
	w.want("lead 1: - -> id=1 org=A v=x")
}

// TestIdleIsQuiet: our own checkpoints must not call for further ones.
func TestIdleIsQuiet(t *testing.T) {
	t.Parallel()
	server := dbtest.OwnServer(t)
	w := worldOn(t, dbtest.NewOn(t, server))
	w.start(func(c *feed.Config, _ *recorder) {
		c.IdleInterval, c.StatusInterval = time.Millisecond, 10*time.Millisecond
	}).state(feed.StateStreaming)
	w.exec(`INSERT INTO unpublished SELECT repeat(md5(i::text), 30) FROM generate_series(1, 5000) i`)
	w.want()
	time.Sleep(500 * time.Millisecond)
	w.mu.Lock()
	before := w.calls
	w.mu.Unlock()
	time.Sleep(time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.calls - before; n > 2 {
		t.Errorf("%d checkpoints in an idle second", n)
	}
}

func TestInit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'before')`)
	w.exec(`CREATE TABLE seen (n int)`)
	fails := 2
	withInit := func(c *feed.Config, _ *recorder) {
		c.Init = func(ctx context.Context, tx pgx.Tx) error {
			// A commit after the slot's start is not seen here, but streamed.
			w.exec(`INSERT INTO lead SELECT max(id) + 1, 'A', 'after' FROM lead`)
			if _, err := tx.Exec(ctx, `INSERT INTO seen SELECT count(*) FROM lead`); err != nil {
				return err
			}
			if fails--; fails >= 0 {
				return errors.New("crash")
			}
			return nil
		}
	}
	w.start(withInit).state(feed.StateStreaming)
	w.want("lead 4: - -> id=4 org=A v=after")
	if n := one[int](w, `SELECT n FROM seen`); n != 3 {
		t.Errorf("Init saw %d rows", n)
	}
	if n := one[int](w, `SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1`, w.slot); n != 1 {
		t.Errorf("%d slots", n)
	}
}

func TestHalfMadeSlotIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO pgautomate.feed_checkpoints (slot_name, system_identifier, timeline, generation) VALUES ($1, 'x', 1, 1)`, w.slot)
	w.exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, w.slot)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'nobody was promised this one')`)
	w.start().state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (2, 'A', 'x')`)
	w.want("lead 2: - -> id=2 org=A v=x")
}

func TestTwoStartAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.start(), w.start()
	w.until("one streams, one stands by", func() bool {
		x, y := a.feed.Status().State, b.feed.Status().State
		return x == feed.StateStreaming && y == feed.StateStandby || x == feed.StateStandby && y == feed.StateStreaming
	})
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	w.want("lead 1: - -> id=1 org=A v=x")
}

func TestPermanentErrors(t *testing.T) {
	t.Parallel()
	pub := pgx.Identifier{publication}.Sanitize()
	// began starts a feed, lets it work and stops it.
	began := func(w *world) {
		r := w.start().state(feed.StateStreaming)
		w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
		w.want("lead 1: - -> id=1 org=A v=x")
		r.stop()
	}
	tests := []struct {
		name string
		do   func(w *world)
		want error
		text []string
	}{
		{"publication missing", func(w *world) { w.exec(`DROP PUBLICATION ` + pub) }, feed.ErrPublication, []string{"does not exist", "watch"}},
		{"publication without updates", func(w *world) { w.exec(`ALTER PUBLICATION ` + pub + ` SET (publish = 'insert, delete')`) }, feed.ErrPublication, []string{"leaves out updates", "ALTER PUBLICATION"}},
		{"row filter", func(w *world) { w.exec(`ALTER PUBLICATION ` + pub + ` SET TABLE lead WHERE (org = 'A'), mark`) }, feed.ErrPublication, []string{"lead (a row filter)"}},
		{"column list", func(w *world) { w.exec(`ALTER PUBLICATION ` + pub + ` SET TABLE other (id, v), mark`) }, feed.ErrPublication, []string{"other (a column list)"}},
		{"foreign slot", func(w *world) { w.exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, w.slot) }, feed.ErrForeignSlot, []string{"pgautomate slot recreate"}},
		{"physical slot", func(w *world) {
			w.exec(`SELECT pg_create_physical_replication_slot($1)`, w.slot)
			w.t.Cleanup(func() { w.exec(`SELECT pg_drop_replication_slot($1)`, w.slot) })
		}, feed.ErrForeignSlot, []string{"physical"}},
		{"slot dropped", func(w *world) { began(w); w.exec(`SELECT pg_drop_replication_slot($1)`, w.slot) }, feed.ErrSlotLost, []string{"pgautomate slot recreate"}},
		{"slot recreated", func(w *world) {
			began(w)
			w.exec(`SELECT pg_drop_replication_slot($1)`, w.slot)
			w.exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, w.slot)
		}, feed.ErrForeignSlot, []string{"ahead of the checkpoint", "pgautomate slot recreate"}},
		{"slot advanced by hand", func(w *world) {
			began(w)
			w.exec(`SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())`, w.slot)
		}, feed.ErrForeignSlot, []string{"ahead of the checkpoint"}},
		{"other server", func(w *world) {
			began(w)
			w.exec(`UPDATE pgautomate.feed_checkpoints SET system_identifier = '1'`)
		}, feed.ErrForeignServer, []string{"pgautomate slot recreate"}},
		{"checkpoint ahead of the log", func(w *world) {
			began(w)
			w.exec(`UPDATE pgautomate.feed_checkpoints SET position = 'FFFF/0'`)
		}, feed.ErrForeignServer, []string{"ahead of the server's log"}},
		{"older timeline", func(w *world) {
			began(w)
			w.exec(`UPDATE pgautomate.feed_checkpoints SET timeline = 9`)
		}, feed.ErrForeignServer, []string{"timeline 9"}},
		{"publication recreated while changes wait", func(w *world) {
			began(w)
			w.exec(`DROP PUBLICATION ` + pub)
			w.exec(`INSERT INTO lead VALUES (2, 'A', 'x')`)
			w.exec(`CREATE PUBLICATION ` + pub + ` FOR TABLE lead, mark`)
		}, feed.ErrPublication, []string{"publication", "pgautomate slot recreate"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if (test.name == "row filter" || test.name == "column list") && one[int](w, `SELECT current_setting('server_version_num')::integer`) < 150000 {
				return // Postgres 14 has neither
			}
			test.do(w)
			w.start().fails(test.want, test.text...)
		})
	}
}

func TestRecreate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start().state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	w.want("lead 1: - -> id=1 org=A v=x")
	cfg, _ := w.config()
	if _, err := feed.Recreate(context.Background(), cfg, "asked"); err == nil {
		t.Error("a slot in use was recreated")
	}
	r.stop()
	position := one[string](w, `SELECT position::text FROM pgautomate.feed_checkpoints WHERE slot_name = $1`, w.slot)
	w.exec(`SELECT pg_drop_replication_slot($1)`, w.slot)
	w.exec(`INSERT INTO lead VALUES (2, 'A', 'in the gap')`)
	w.start().fails(feed.ErrSlotLost)
	did, err := feed.Recreate(context.Background(), cfg, "the slot was dropped")
	if err != nil {
		t.Fatal(err)
	}
	if did.From.String() != position || did.To <= change.LSN(did.From) {
		t.Errorf("recreated %+v, checkpoint was %s", did, position)
	}
	w.start().state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (3, 'A', 'x')`)
	w.want("lead 3: - -> id=3 org=A v=x")
	// Somebody else's slot is not ours to drop.
	other := newWorld(t)
	other.exec(`SELECT pg_create_physical_replication_slot($1)`, other.slot)
	cfg, _ = other.config()
	if _, err := feed.Recreate(context.Background(), cfg, "asked"); !errors.Is(err, feed.ErrForeignSlot) {
		t.Errorf("a physical slot: %v", err)
	}
	other.exec(`SELECT pg_drop_replication_slot($1)`, other.slot)
	if got, want := one[string](w, `SELECT from_lsn || ' ' || to_lsn || ' ' || reason FROM pgautomate.feed_gaps WHERE slot_name = $1`, w.slot),
		fmt.Sprintf("%v %v the slot was dropped", did.From, did.To); got != want {
		t.Errorf("gap %q, want %q", got, want)
	}
}

// TestFailoverSlot: standbys may keep a copy of the slot, also of one that was made
// when they couldn't.
func TestFailoverSlot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if one[int](w, `SELECT current_setting('server_version_num')::integer`) < 170000 {
		t.Skip("failover slots came with Postgres 17")
	}
	failover := func() bool {
		return one[bool](w, `SELECT failover FROM pg_replication_slots WHERE slot_name = $1`, w.slot)
	}
	r := w.start().state(feed.StateStreaming)
	if !failover() {
		t.Error("the slot is none")
	}
	r.stop()
	cfg, err := pgconn.ParseConfig(w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), "ALTER_REPLICATION_SLOT "+w.slot+" (FAILOVER false)").ReadAll(); err != nil {
		t.Fatal(err)
	}
	w.start().state(feed.StateStreaming)
	if !failover() {
		t.Error("the slot did not become one")
	}
}

func TestPermission(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	role := "role_" + w.db.Name
	w.exec(`CREATE ROLE ` + role + ` LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() { w.exec(`DROP ROLE ` + role) })
	cfg, err := pgconn.ParseConfig(w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	w.start(func(c *feed.Config, _ *recorder) {
		c.Conn = fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=secret", cfg.Host, cfg.Port, w.db.Name, role)
	}).fails(feed.ErrPermission, "REPLICATION")
}

func TestWALLevel(t *testing.T) {
	t.Parallel()
	for _, settings := range [][]string{{"wal_level=replica"}, {"wal_level=minimal", "max_wal_senders=0"}} {
		t.Run(settings[0], func(t *testing.T) {
			t.Parallel()
			w := worldOn(t, dbtest.NewOn(t, dbtest.OwnServer(t, settings...)))
			w.start().fails(feed.ErrServer, "ALTER SYSTEM SET wal_level = 'logical'", "restart")
		})
	}
}

func TestSlotsExhausted(t *testing.T) {
	t.Parallel()
	w := worldOn(t, dbtest.NewOn(t, dbtest.OwnServer(t, "max_replication_slots=1")))
	w.exec(`SELECT pg_create_logical_replication_slot('taken', 'pgoutput')`)
	w.start().fails(feed.ErrServer, "max_replication_slots", "all 1 ")
}

func TestSlotInvalidated(t *testing.T) {
	t.Parallel()
	w := worldOn(t, dbtest.NewOn(t, dbtest.OwnServer(t, "max_slot_wal_keep_size=1MB", "max_wal_size=32MB", "wal_keep_size=0")))
	r := w.start().state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	w.want("lead 1: - -> id=1 org=A v=x")
	r.stop()
	for range 3 {
		w.exec(`INSERT INTO unpublished SELECT repeat(md5(i::text), 30) FROM generate_series(1, 20000) i`)
		w.exec(`SELECT pg_switch_wal()`)
		w.exec(`CHECKPOINT`)
	}
	w.start().fails(feed.ErrSlotLost, "max_slot_wal_keep_size", "pgautomate slot recreate")
}

// TestServerRestarts: a fast shutdown is not held up by an idle feed, and a
// crash sends again what was confirmed, which changes nothing.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	server := dbtest.OwnServer(t)
	w := worldOn(t, dbtest.NewOn(t, server))
	r := w.start().state(feed.StateStreaming)
	for i := range 30 {
		w.exec(`INSERT INTO lead VALUES ($1, 'A', 'x')`, i)
	}
	if n := len(w.lines()); n != 30 {
		t.Fatalf("%d lines", n)
	}
	restart := func(how string, stop func() error) {
		t.Helper()
		began := time.Now()
		if err := stop(); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s took %v", how, took)
		}
		if err := restartServer(server); err != nil {
			t.Fatal(err)
		}
		w.db.Pool.Reset()
		r.state(feed.StateStreaming)
	}
	restart("crash", server.Kill)
	w.exec(`INSERT INTO lead VALUES (100, 'A', 'x')`)
	w.want("lead 100: - -> id=100 org=A v=x")
	w.exec(`INSERT INTO unpublished VALUES ('a little log that is not worth a checkpoint')`)
	restart("fast shutdown", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return server.Stop(ctx)
	})
	w.exec(`INSERT INTO lead VALUES (101, 'A', 'x')`)
	w.want("lead 101: - -> id=101 org=A v=x")
	if n := one[int](w, `SELECT count(*) FROM recorded WHERE line LIKE 'lead %'`); n != 32 {
		t.Errorf("%d recorded", n)
	}
}

// TestPromoted: a server goes on on a new timeline. Slot and checkpoint that it has
// both are as good as before; a slot that it lost, or that was made since, is not.
func TestPromoted(t *testing.T) {
	t.Parallel()
	server := dbtest.OwnServer(t)
	w := worldOn(t, dbtest.NewOn(t, server))
	data := filepath.Join(server.DataDir(), "cluster", "data")
	// promote makes a standby of the server, and a primary of the standby.
	promote := func(meanwhile func()) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(ctx, "cp", "--preserve=ownership,mode", filepath.Join(data, "PG_VERSION"), filepath.Join(data, "standby.signal")).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := restartServer(server); err != nil {
			t.Fatal(err)
		}
		w.db.Pool.Reset()
		meanwhile()
		if !one[bool](w, `SELECT pg_promote()`) {
			t.Fatal("the server was not promoted")
		}
	}
	timeline := func() int {
		return one[int](w, `SELECT timeline FROM pgautomate.feed_checkpoints`)
	}
	r := w.start().state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	w.want("lead 1: - -> id=1 org=A v=x")
	was := timeline()
	promote(func() {
		w.until("the feed waits for the promotion", func() bool {
			err := r.feed.Status().LastError
			return err != nil && strings.Contains(err.Error(), "the server is a standby")
		})
	})
	r.state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (2, 'A', 'x')`)
	w.want("lead 2: - -> id=2 org=A v=x")
	if now := timeline(); now != was+1 {
		t.Errorf("the checkpoint is on timeline %d, then on %d", was, now)
	}
	r.stop()

	w.exec(`SELECT pg_drop_replication_slot($1)`, w.slot)
	promote(func() {})
	for range 2 {
		w.start().fails(feed.ErrSlotLost, "promoted", "did not come along", "pgautomate slot recreate")
	}
	w.exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, w.slot)
	w.start().fails(feed.ErrForeignSlot, "promoted", "ahead of the checkpoint", "pgautomate slot recreate")
	cfg, _ := w.config()
	did, err := feed.Recreate(context.Background(), cfg, "asked")
	if err != nil {
		t.Fatal(err)
	}
	if got := one[string](w, `SELECT from_lsn || ' ' || reason FROM pgautomate.feed_gaps`); !strings.HasPrefix(got, did.From.String()+" asked (the server was promoted at ") {
		t.Errorf("gap %q, want one from %v that tells of the promotion", got, did.From)
	}
	w.start().state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (3, 'A', 'x')`)
	w.want("lead 3: - -> id=3 org=A v=x")
}

func restartServer(server *private.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return server.Restart(ctx)
}

func TestPoisonIsReportedAndRetried(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	poison, attempts := true, 0
	r := w.start(func(_ *feed.Config, r *recorder) {
		r.before = func([]*change.Commit) error {
			mu.Lock()
			defer mu.Unlock()
			if attempts++; poison {
				return &pgconn.PgError{Code: "22003", Message: "out of range"}
			}
			return nil
		}
	}).state(feed.StateStreaming)
	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x')`)
	w.until("several attempts", func() bool { mu.Lock(); defer mu.Unlock(); return attempts > 3 })
	w.until("the status tells", func() bool { // the pauses are so short here that it forgets between attempts
		err := r.feed.Status().LastError
		return err != nil && strings.Contains(err.Error(), "out of range")
	})
	mu.Lock()
	poison = false
	mu.Unlock()
	w.want("lead 1: - -> id=1 org=A v=x")
	if err := r.feed.Status().LastError; err != nil {
		t.Errorf("status still tells: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	store := feed.NewCheckpoints(nil, "s")
	good := feed.Config{Conn: "postgres://", Slot: "s", Publication: "p", Objects: &objects{}, Applier: &recorder{}, Store: store}
	if _, err := feed.New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*feed.Config){
		"no connection": func(c *feed.Config) { c.Conn = "" },
		"slot name":     func(c *feed.Config) { c.Slot = `s"; DROP` },
		"publication":   func(c *feed.Config) { c.Publication = "" },
		"objects":       func(c *feed.Config) { c.Objects = nil },
		"other store":   func(c *feed.Config) { c.Slot = "other" },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := feed.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

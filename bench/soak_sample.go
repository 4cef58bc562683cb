package bench

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// kept are tables whose rows stay by design: they grow with what was done, and what must
// not grow is what a row takes.
var kept = map[string]bool{
	"trigger_firings": true, "lead_stage_actions (months)": true, "lead_stages": true, "lead_runs": true, "messages": true,
	"notification_requests": true, "feed_notes": true,
}

// hot are tables that are shown even if they are empty whenever somebody looks.
var hot = []string{
	"lead", "lead_stage_actions", "notification_jobs", "notifications", "notification_events", "job_details", "digest_groups", "river_job", "lanes", "due_signals",
	"throttle_starts", "advance_later", "notifications_later", "feed_checkpoints",
}

// worthShowing are the bytes from which any other table is.
const worthShowing = 512 << 10

// looker takes samples, on a connection of its own.
type looker struct {
	s     *soak
	conn  *pgx.Conn
	pid   int
	since time.Time // when starts were last counted
	fired int64     // the last firing that was
	at    time.Duration
	last  struct{ changes, ms, pages float64 }
	spent map[string]spent // by statement
}

// spent is what a statement has cost so far.
type spent struct{ Calls, Ms, Pages float64 }

// dearest is how many statements are shown.
const dearest = 12

func (s *soak) newLooker(ctx context.Context, pid int) (*looker, error) {
	conn, err := pgx.Connect(ctx, s.d.url)
	if err != nil {
		return nil, err
	}
	l := &looker{s: s, conn: conn, pid: pid, spent: map[string]spent{}}
	return l, conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&l.since)
}

func (l *looker) close() { _ = l.conn.Close(context.Background()) }

// look takes one sample. A sample that is cut off is none.
func (l *looker) look(ctx context.Context, at time.Duration) error {
	v := values{}
	var started, notified, fired, p50, p99 float64
	if err := l.conn.QueryRow(ctx, statements["soak_started"], l.since).Scan(&started, &notified, &p50, &p99, &l.since); err != nil {
		return err
	}
	took := (at - l.at).Seconds()
	v.set("starts", "/s", asRate, started/took)
	v.set("messages", "/s", asRate, notified/took)
	if started > 0 {
		v.set("lateness p50", "ms", asLatency, p50)
		v.set("lateness p99", "ms", asLatency, p99)
	}
	if err := l.conn.QueryRow(ctx, statements["soak_fired"], l.fired).Scan(&fired, &l.fired, &p50, &p99); err != nil {
		return err
	}
	v.set("firings", "/s", asRate, fired/took)
	if fired > 0 {
		v.set("commit to firing p50", "ms", asLatency, p50)
		v.set("commit to firing p99", "ms", asLatency, p99)
	}
	changes := float64(l.s.changed.Load())
	v.set("changes", "/s", asRate, (changes-l.last.changes)/took)
	l.last.changes = changes
	var due float64
	if err := l.conn.QueryRow(ctx, statements["soak_due"]).Scan(&due); err != nil {
		return err
	}
	v.set("due and not started", "actions", asQueue, due)
	if err := l.claims(ctx, v, started); err != nil {
		return err
	}
	if err := l.server(ctx, v); err != nil {
		return err
	}
	if err := l.sizes(ctx, v); err != nil {
		return err
	}
	l.at = at
	l.s.report.add(at, v)
	return nil
}

func (l *looker) claims(ctx context.Context, v values, started float64) error {
	if !l.s.statements {
		return nil
	}
	var ms, pages float64
	if err := l.conn.QueryRow(ctx, statements["soak_claims"]).Scan(&ms, &pages); err != nil {
		return err
	}
	if started > 0 {
		v.set("claiming", "server ms/start", asCost, (ms-l.last.ms)/started)
		v.set("claiming, pages", "pages/start", asPages, (pages-l.last.pages)/started)
	}
	l.last.ms, l.last.pages = ms, pages
	return l.statements(ctx, v)
}

func (l *looker) statements(ctx context.Context, v values) error {
	rows, err := l.conn.Query(ctx, statements["soak_statements"])
	if err != nil {
		return err
	}
	type statement struct {
		spent

		Name string
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s statement, err error) {
		return s, row.Scan(&s.Name, &s.Calls, &s.Ms, &s.Pages)
	})
	if err != nil {
		return err
	}
	l.s.report.dearest = l.s.report.dearest[:0]
	for i, s := range all {
		if i < dearest {
			l.s.report.dearest = append(l.s.report.dearest, "statement "+s.Name)
		}
		if calls := s.Calls - l.spent[s.Name].Calls; calls > 0 {
			v.set("statement "+s.Name, "ms/call", asCost, (s.Ms-l.spent[s.Name].Ms)/calls)
			v.set("statement "+s.Name+", pages", "pages/call", asPages, (s.Pages-l.spent[s.Name].Pages)/calls)
		}
		l.spent[s.Name] = s.spent
	}
	return nil
}

func (l *looker) server(ctx context.Context, v values) error {
	rss, err := memoryOf(l.pid, "VmRSS")
	if err != nil {
		return err
	}
	v.set("engine's memory", "MB resident", asMemory, rss)
	var connections, kept, unconfirmed, problems float64
	if err := l.conn.QueryRow(ctx, statements["soak_server"]).Scan(&connections, &kept, &unconfirmed, &problems); err != nil {
		return err
	}
	v.set("engine's connections", "connections", asConnections, connections)
	v.set("log kept by the slot", "MB", asLog, kept/1e6)
	v.set("log not confirmed", "MB", asLog, unconfirmed/1e6)
	v.set("problems", "rows of the view", asQueue, problems)
	return nil
}

func (l *looker) sizes(ctx context.Context, v values) error {
	rows, err := l.conn.Query(ctx, statements["soak_sizes"])
	if err != nil {
		return err
	}
	type size struct {
		Name                      string
		Heap, Indexes, Live, Dead float64
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[size])
	if err != nil {
		return err
	}
	dead := 0.0
	for _, t := range all {
		how := asSize
		if kept[t.Name] {
			how = asKept
		}
		v.set(t.Name+": heap", "MB", how, t.Heap/1e6)
		v.set(t.Name+": indexes", "MB", how, t.Indexes/1e6)
		v.set(t.Name+": dead rows", "rows", asDead, t.Dead)
		v.set(t.Name+": live rows", "rows", asRows, t.Live)
		if t.Live >= 1000 {
			v.set(t.Name+": heap per live row", "B", asPerRow, t.Heap/t.Live)
			v.set(t.Name+": indexes per live row", "B", asPerRow, t.Indexes/t.Live)
		}
		dead += t.Dead
	}
	v.set("dead rows, all tables", "rows", asDead, dead)
	return nil
}

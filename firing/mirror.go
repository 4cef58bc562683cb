package firing

// The mirror's filling and keeping. Triggers that look across relations are
// decided by rows in memory, which must be exactly as of the checkpoint. They are
// read from the tables as they are now and taken back to the checkpoint by
// reading the stream ahead (feed.LookAhead); from then on each commit is put in
// as it is applied.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/feed"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/mirror"
	"github.com/pgautomate/pgautomate/trigger"
)

// DefaultMirrorBytes bounds the memory of the mirror.
const DefaultMirrorBytes = 1 << 30

// journalBytes bounds what is kept to undo a batch; beyond it the mirror is
// filled anew should the batch fail.
const journalBytes = 256 << 20

// mirrors is the Matcher's mirror.
type mirrors struct {
	store *mirror.Store
	at    change.EndLSN // the checkpoint that the rows belong to; 0: to none

	// built is, for each object type, the layout of the kept columns when they
	// were read, and where in the log that was.
	built map[string]builtFrom
}

type builtFrom struct {
	columns []change.Column // of the table, as it was then
	seen    snapshot
	mark    change.LSN
}

// mirrored says whether the mirror has what the live triggers want, as of the
// checkpoint.
func (m *Matcher) mirrored() bool {
	if m.rewant {
		m.lacks = len(m.missing(m.position)) > 0
		m.rewant = false
	}
	return !m.set.Related() || !m.lacks && m.mirrors.at == m.position
}

// missing gives the tables that are to be read.
func (m *Matcher) missing(position change.EndLSN) []mirror.Spec {
	wanted := m.set.Wanted()
	if m.mirrors.store == nil || m.mirrors.at != position {
		return wanted
	}
	return slices.DeleteFunc(wanted, func(want mirror.Spec) bool {
		t := m.mirrors.store.Table(want.Type)
		return t != nil && covers(t.Spec(), want)
	})
}

// covers says whether one spec keeps all that another one asks for.
func covers(has, want mirror.Spec) bool {
	subset := func(part, whole []string) bool {
		return !slices.ContainsFunc(part, func(s string) bool { return !slices.Contains(whole, s) })
	}
	links := func(s mirror.Spec) (names []string) {
		for _, l := range s.Links {
			names = append(names, s.Columns[l])
		}
		return names
	}
	return has.ID == want.ID && has.Custom == want.Custom && subset(want.Columns, has.Columns) && subset(want.Members, has.Members) &&
		subset(links(want), links(has)) && (has.ByOrganization || !want.ByOrganization)
}

// LookAhead implements feed.Ahead: it fills the mirror when it is not the
// checkpoint's, or lacks something.
func (m *Matcher) LookAhead(ctx context.Context, checkpoint change.EndLSN) (*feed.LookAhead, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := pgx.BeginTxFunc(ctx, m.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		cp, found, err := m.Checkpoints.Load(ctx)
		if err != nil || !found || cp.Position != checkpoint {
			return errors.Join(err, errors.New("the checkpoint has moved"))
		}
		if m.position != checkpoint {
			m.recent.forget()
		}
		if m.loaded && m.position == checkpoint {
			m.verify = false
			return m.refreshTypes(ctx) // triggers of tables that are not watched any more want nothing
		}
		m.position = checkpoint
		return m.load(ctx, dbq.New(tx))
	})
	if err != nil {
		return nil, err
	}
	m.marker.flush()
	m.rewant = true
	missing := m.missing(checkpoint)
	if len(missing) == 0 {
		if m.mirrors.store != nil && len(m.set.Wanted()) == 0 {
			m.dropMirror()
		}
		return nil, nil //nolint:nilnil // the interface says so
	}
	if m.mirrors.at != checkpoint {
		m.dropMirror()
	}
	return m.fill(ctx, checkpoint, missing)
}

func (m *Matcher) dropMirror() {
	m.mirrors, m.rewant = mirrors{}, true
	if m.set != nil {
		m.set.SetMirror(nil)
	}
}

// fill reads tables into the mirror, as they are now, and gives what takes them
// back to the checkpoint.
func (m *Matcher) fill(ctx context.Context, checkpoint change.EndLSN, specs []mirror.Spec) (*feed.LookAhead, error) {
	began := time.Now()
	if m.mirrors.store == nil {
		m.mirrors = mirrors{store: mirror.New(), built: map[string]builtFrom{}}
		m.set.SetMirror(m.mirrors.store)
	}
	m.mirrors.at = 0 // until all is there
	conn, seen, mark, err := m.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	defer func() { _, _ = conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") }()
	var loaders []*mirror.Loader
	built := map[string]builtFrom{}
	for _, spec := range specs {
		t := m.Catalog.Type(spec.Type)
		if t == nil {
			continue // unwatched meanwhile; its triggers are told so
		}
		l := m.mirrors.store.Load(spec)
		var held int64
		for _, other := range loaders {
			held += other.Bytes()
		}
		switch err := m.read(ctx, conn.Conn(), t, l, held); {
		case errors.Is(err, errMirrorTooLarge):
			m.tooLarge(spec.Type)
			continue
		case err != nil:
			return nil, err
		}
		loaders = append(loaders, l)
		built[spec.Type] = builtFrom{t.Layout().Columns, seen, mark}
		m.Logger.InfoContext(ctx, "related rows read", "object_type", spec.Type, "rows", l.Len(), "bytes", l.Bytes())
	}
	exact := true
	return &feed.LookAhead{
		Until: mark,
		Commit: func(c *change.Commit) error { // into the loaders, of which nobody else knows
			if !seen.has(c.XID) {
				return nil // not in what was read: nothing to take back
			}
			for _, l := range loaders {
				if err := l.UndoCommit(c); errors.Is(err, mirror.ErrNotUndoable) {
					exact = false
				} else if err != nil {
					return err
				}
			}
			return nil
		},
		Done: func() error {
			m.mu.Lock()
			defer m.mu.Unlock()
			undone := 0
			for _, l := range loaders {
				undone += l.Undone()
				spec := l.Done().Spec()
				m.mirrors.built[spec.Type] = built[spec.Type]
			}
			m.mirrors.at, m.rewant = checkpoint, true
			m.set.SetMirror(m.mirrors.store)
			if !exact {
				m.Logger.WarnContext(ctx, "related rows were truncated, or changed without their old rows, since the checkpoint: until the feed has caught up they are as they are now")
			}
			m.Logger.InfoContext(ctx, "related rows ready", "object_types", len(loaders), "bytes", m.mirrors.store.Bytes(), "taken_back", undone,
				"took", time.Since(began).Round(time.Millisecond))
			m.marker.flush()
			return nil
		},
	}, nil
}

var errMirrorTooLarge = errors.New("the related rows need more memory than they may have")

// tooLarge gives up the triggers that need an object type's rows.
func (m *Matcher) tooLarge(objectType string) {
	why := fmt.Errorf("the rows of %s that triggers look at need more than %d MiB of memory: raise --related-memory, or use neither has_related nor moments relative to now with this type", objectType, m.MirrorBytes>>20)
	for _, b := range m.set.DropMirrored(objectType, why) {
		m.marker.mark(b.TriggerID, b.Version, "invalid", b.Err.Error())
	}
}

// limitMirror gives up what has outgrown its bound, the largest table first.
func (m *Matcher) limitMirror() {
	store := m.mirrors.store
	for store.Bytes() > m.MirrorBytes {
		largest := ""
		for _, name := range store.Types() {
			if largest == "" || store.Table(name).Bytes() > store.Table(largest).Bytes() {
				largest = name
			}
		}
		if largest == "" {
			return
		}
		store.Drop(largest)
		m.tooLarge(largest)
		m.rewant = true
	}
}

// read reads one table. Values come in the text form of the stream, which is not
// always that of a cast to text.
func (m *Matcher) read(ctx context.Context, conn *pgx.Conn, t *catalog.Type, l *mirror.Loader, held int64) error {
	quoted := func(name string) string { return pgx.Identifier{name}.Sanitize() }
	columns := []string{quoted(t.ID)}
	if t.Organization != "" {
		columns = append(columns, quoted(t.Organization))
	} else {
		columns = append(columns, "NULL")
	}
	for _, c := range l.Relation().Columns {
		if t.Column(c.Name) == nil {
			columns = append(columns, "NULL")
			continue
		}
		columns = append(columns, quoted(c.Name))
	}
	// One statement a table, and only the columns that some trigger mentions.
	rows := conn.PgConn().ExecParams(ctx, "SELECT "+strings.Join(columns, ", ")+" FROM "+t.Quoted, nil, nil, nil, []int16{pgx.TextFormatCode})
	for n := 0; rows.NextRow(); n++ {
		v := rows.Values()
		if v[0] == nil {
			continue
		}
		organization := change.DefaultOrganization
		if t.Organization != "" {
			organization = string(v[1])
		}
		if err := l.PutText(string(v[0]), organization, v[2:]); err != nil {
			return errors.Join(err, closed(rows.Close()))
		}
		if n%4096 == 0 && held+m.mirrors.store.Bytes()+l.Bytes() > m.MirrorBytes {
			return errors.Join(errMirrorTooLarge, closed(rows.Close()))
		}
	}
	_, err := rows.Close()
	if err != nil {
		return fmt.Errorf("read the rows of %s: %w", t.Quoted, err)
	}
	m.observeFetch()
	return nil
}

func closed(_ any, err error) error { return err }

func (m *Matcher) observeFetch() {
	if m.Observer != nil {
		m.Observer.RelatedFetched()
	}
}

// snapshot begins a transaction that sees every commit up to the checkpoint, and
// gives a position in the log that lies behind all that it sees.
func (m *Matcher) snapshot(ctx context.Context) (conn *pgxpool.Conn, seen snapshot, mark change.LSN, err error) {
	conn, err = m.Source.Acquire(ctx)
	if err != nil {
		return nil, seen, 0, err
	}
	defer func() {
		if err != nil {
			_, _ = conn.Exec(context.WithoutCancel(ctx), "ROLLBACK")
			conn.Release()
		}
	}()
	for attempt := 0; ; attempt++ {
		_, err = conn.Exec(ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; `+catalog.StreamSettings+`;
			SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`)
		if err != nil {
			return nil, seen, 0, fmt.Errorf("read related rows: %w", err)
		}
		var text string
		var waiting []int64
		// Who waits for a standby has its commit in the stream, and we may be past
		// it, but nobody sees it yet.
		err = conn.QueryRow(ctx, `SELECT pg_current_snapshot()::text, coalesce(array_agg(backend_xid::text::bigint), '{}')
			FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND wait_event = 'SyncRep'`).Scan(&text, &waiting)
		if err != nil {
			return nil, seen, 0, fmt.Errorf("read related rows: %w", err)
		}
		if seen, err = parseSnapshot(text); err != nil {
			return nil, seen, 0, err
		}
		hidden := slices.ContainsFunc(waiting, func(xid int64) bool { return !seen.has(uint32(xid)) })
		if !hidden || attempt == 200 {
			break
		}
		if _, err = conn.Exec(ctx, "ROLLBACK"); err != nil {
			return nil, seen, 0, err
		}
		select {
		case <-ctx.Done():
			return nil, seen, 0, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	var position string
	if err = m.Source.QueryRow(ctx, `SELECT pg_logical_emit_message(true, 'pgautomate.mark', '')::text`).Scan(&position); err != nil {
		return nil, seen, 0, fmt.Errorf("read related rows: %w", err)
	}
	mark, err = change.ParseLSN(position)
	return conn, seen, mark, err
}

// snapshot is what pg_current_snapshot() tells.
type snapshot struct {
	xmin, xmax uint64
	running    map[uint64]struct{}
}

func parseSnapshot(text string) (s snapshot, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("%q is not a snapshot", text)
	}
	number := func(text string) uint64 {
		n, bad := strconv.ParseUint(text, 10, 64)
		err = errors.Join(err, bad)
		return n
	}
	s.xmin, s.xmax, s.running = number(parts[0]), number(parts[1]), map[uint64]struct{}{}
	if parts[2] != "" {
		for p := range strings.SplitSeq(parts[2], ",") {
			s.running[number(p)] = struct{}{}
		}
	}
	return s, err
}

// has says whether a transaction that committed is seen. Its number is the low half.
func (s snapshot) has(xid uint32) bool {
	full := s.xmax&^0xffffffff | uint64(xid)
	switch {
	case full > s.xmax+1<<31 && full >= 1<<32:
		full -= 1 << 32
	case full+1<<31 < s.xmax:
		full += 1 << 32
	}
	if full >= s.xmax {
		return false
	}
	_, running := s.running[full]
	return !running
}

// mostUnseen is how long a commit is waited for that is in the stream and nobody sees.
const mostUnseen = 2 * time.Second

// see waits until who reads tables sees what a transaction wrote. Its commit is in the stream a moment before that; and
// long before, where it waits for a standby: then what is read may be older than the commit.
func (m *Matcher) see(ctx context.Context, xid uint32) error {
	for began := time.Now(); !m.sees.has(xid); {
		var text string
		err := m.Source.QueryRow(ctx, `SELECT pg_current_snapshot()::text`).Scan(&text)
		if err != nil {
			return fmt.Errorf("see what was committed: %w", err)
		}
		if m.sees, err = parseSnapshot(text); err != nil || m.sees.has(xid) {
			return err
		}
		if time.Since(began) > mostUnseen {
			m.Logger.WarnContext(ctx, "a commit is in the stream, and nobody sees it yet: does it wait for a standby? What it changed beside triggers may be missed", "xid", xid)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// consider asks which objects a change may make match across relations.
func (b *batch) consider(ctx context.Context, c *change.Commit, ch *change.Change) error {
	if err := b.layout(ctx, ch.Object, ch.Relation); err != nil {
		return err
	}
	if b.outdated(c, ch.Object.Type, ch.Relation) {
		b.outdatedType = ch.Object.Type
		return feed.ErrAgain
	}
	counters, err := b.set.Consider(ch)
	b.count(c, ch.Object.Type, counters)
	if err != nil {
		b.notes.add(c, "undecodable", 1, map[string]any{"table": ch.Object.String(), "object_id": strings.Clone(ch.ID), "problem": err.Error()})
	}
	return nil
}

// outdated says whether the columns that the mirror keeps of a table are not
// what they were when it was read: then it is read again before the commit is
// considered, for a table that was rewritten sends none of its rows.
func (m *Matcher) outdated(c *change.Commit, objectType string, rel *change.Relation) bool {
	t, built := m.mirrors.store.Table(objectType), m.mirrors.built[objectType]
	if t == nil || change.LSN(c.LSN) < built.mark && built.seen.has(c.XID) {
		return false // read after this commit
	}
	for _, col := range t.Relation().Columns {
		now, was := rel.Index(col.Name), slices.IndexFunc(built.columns, func(b change.Column) bool { return b.Name == col.Name })
		if (now < 0) != (was < 0) || now >= 0 && rel.Columns[now].TypeOID != built.columns[was].TypeOID {
			return true
		}
	}
	return false
}

// count keeps what evaluation met.
func (b *batch) count(c *change.Commit, objectType string, n trigger.Counters) {
	b.counters.Add(n)
	for _, p := range b.set.TakePoisoned() {
		b.poisoned[p.TriggerID] = p.Version
		b.notes.add(c, "poisoned", 1, map[string]any{"trigger_id": p.TriggerID, "problem": p.Err.Error()})
		b.marker.mark(p.TriggerID, p.Version, "invalid", "its evaluation failed, it is switched off until it is saved again: "+p.Err.Error())
	}
	for _, k := range [...]struct {
		kind  string
		count uint64
	}{{"type_mismatch", n.TypeMismatch}, {"indeterminate", n.Indeterminate}, {"cross_org_relation", n.CrossOrganization}} {
		if k.count > 0 {
			b.notes.sum(c, k.kind, int(k.count), objectType)
		}
	}
}

// settle puts a commit into the mirror and writes what fires across relations.
func (b *batch) settle(ctx context.Context, c *change.Commit, cause *jobs.Cause, causeJSON []byte, depth int, suppressed bool) error {
	store := b.mirrors.store
	if err := store.Apply(c); err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	if store.JournalBytes() > journalBytes {
		store.Forget()
	}
	fired, counters := b.set.Settle(b.across[:0])
	b.across = fired[:0]
	b.takeTimers()
	if err := b.writeTimers(ctx, flushAt); err != nil {
		return err
	}
	for i := range fired {
		b.count(c, fired[i].ObjectType, counters)
		counters = trigger.Counters{}
	}
	if len(fired) == 0 {
		b.count(c, "", counters)
	}
	if len(fired) == 0 || suppressed {
		return nil
	}
	if depth > b.MaxDepth {
		for i := range fired {
			f := &fired[i]
			if err := b.loop(ctx, c, f.Firing, f.ObjectType, f.ObjectID, cause); err != nil {
				return err
			}
		}
		return nil
	}
	// What fired and changed itself has its rows in the commit; of the others only
	// what the mirror keeps is known for certain, the rest is as it is now.
	own := make(map[string][]int, len(fired))
	for i := range fired {
		key := fired[i].ObjectType + "\x00" + fired[i].ObjectID
		own[key] = append(own[key], i)
	}
	rows := make([]row, len(fired))
	err := c.Each(func(ch *change.Change) error {
		if ch.After == nil {
			return nil
		}
		places := own[ch.Object.Type+"\x00"+ch.ID]
		if len(places) == 0 {
			return nil
		}
		delete(own, ch.Object.Type+"\x00"+ch.ID)
		r, err := b.row(c, ch, causeJSON, depth, nil)
		for _, i := range places {
			rows[i] = r
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := range rows {
		rows[i].at, rows[i].cause, rows[i].depth = c.Time, causeJSON, depth
	}
	return b.fire(ctx, c, fired, rows)
}

// fire writes what fired by the mirror. Rows that are not in the commit are
// fetched.
func (b *batch) fire(ctx context.Context, c *change.Commit, fired []trigger.RelatedFiring, rows []row) error {
	if err := b.fetch(ctx, fired, rows); err != nil {
		return err
	}
	for i := range fired {
		f, r := &fired[i], &rows[i]
		if f.Filter != nil {
			event, err := eventOf(r, f.Created, f.Organization)
			if err != nil {
				return err
			}
			if !f.Filter.Holds(event) {
				continue
			}
		}
		r.Firing, r.objectType, r.objectID = f.Firing, f.ObjectType, f.ObjectID
		r.commit = c
		if f.Created {
			r.changed, r.previous = []string{}, nil
		}
		if f.Via.ObjectType != f.ObjectType || f.Via.ObjectID != f.ObjectID {
			var err error
			if r.related, err = json.Marshal(map[string]string{"object_type": f.Via.ObjectType, "object_id": f.Via.ObjectID}); err != nil {
				return err
			}
		}
		b.firings = append(b.firings, *r)
		b.size += len(r.data) + len(r.previous)
		if b.size >= flushBytes {
			if err := b.write(ctx, 1, false); err != nil {
				return err
			}
		}
	}
	return b.write(ctx, flushAt, false)
}

// fetch fills in the rows of objects that did not change themselves.
func (b *batch) fetch(ctx context.Context, fired []trigger.RelatedFiring, rows []row) error {
	ids := map[string][]string{}
	for i := range fired {
		if rows[i].data == nil {
			ids[fired[i].ObjectType] = append(ids[fired[i].ObjectType], fired[i].ObjectID)
		}
	}
	now := map[string]map[string]json.RawMessage{}
	for objectType, list := range ids {
		found, err := b.Catalog.Documents(ctx, b.Source, objectType, list)
		if err != nil {
			return err
		}
		now[objectType] = found
		b.observeFetch()
	}
	for i := range fired {
		if rows[i].data != nil {
			continue
		}
		document, err := b.asOf(&fired[i], now[fired[i].ObjectType][fired[i].ObjectID])
		if err != nil {
			return err
		}
		rows[i].objectType, rows[i].objectID = fired[i].ObjectType, fired[i].ObjectID
		rows[i].data, rows[i].previous, rows[i].changed = document, document, []string{}
	}
	return nil
}

// asOf gives an object's row: as it is now, but for what the mirror knows as of
// the commit.
func (b *batch) asOf(f *trigger.RelatedFiring, now json.RawMessage) (json.RawMessage, error) {
	document := map[string]json.RawMessage{}
	if now != nil {
		if err := json.Unmarshal(now, &document); err != nil {
			return nil, fmt.Errorf("row of %s %s: %w", f.ObjectType, f.ObjectID, err)
		}
	}
	t := b.mirrors.store.Table(f.ObjectType)
	if t == nil {
		return json.Marshal(document)
	}
	if kept, ok := t.Get(f.ObjectID); ok {
		rel := *t.Relation()
		rel.Columns = slices.Clone(rel.Columns)
		for i := range rel.Columns {
			if w := b.Catalog.Type(f.ObjectType); w != nil {
				if col := w.Column(rel.Columns[i].Name); col != nil {
					rel.Columns[i].TypeOID = col.TypeOID
				}
			}
		}
		raw, err := b.documents.document(&rel, kept.Image())
		if err != nil {
			return nil, fmt.Errorf("row of %s %s: %w", f.ObjectType, f.ObjectID, err)
		}
		exact := map[string]json.RawMessage{}
		if err := json.Unmarshal(raw, &exact); err != nil {
			return nil, fmt.Errorf("row of %s %s: %w", f.ObjectType, f.ObjectID, err)
		}
		if spec := t.Spec(); spec.Custom != "" && document[spec.Custom] != nil && !slices.Contains(spec.Columns, spec.Custom) {
			delete(exact, spec.Custom) // only some of its members are kept
		}
		maps.Copy(document, exact)
	}
	return json.Marshal(document)
}

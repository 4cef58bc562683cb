// Package firing turns commits into firings: for each change it asks the
// triggers, and writes, in one transaction, the audit (trigger_firings), a River
// job for each firing, the live triggers as they are now, and the feed's
// checkpoint. That this is one transaction is what "exactly once" rests on.
//
// It follows the triggers' definitions through the same stream as the data:
// within a commit the definitions before it hold, from the next commit on its
// own. What is live is kept, as of the checkpoint, in live_triggers, so that a
// restart goes on with exactly the definitions that belong to its position.
package firing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"golang.org/x/sync/errgroup"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/feed"
	"github.com/pgautomate/pgautomate/internal/failpoint"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/trigger"
)

// DefaultMaxDepth is how many automations may follow from one another before the
// chain is stopped.
const DefaultMaxDepth = 8

// flushAt and flushBytes bound how many firings, and how much of their documents,
// are held before they are written: a commit of a million rows must not be held
// as a million documents.
const (
	flushAt    = 5000
	flushBytes = 4 << 20
)

// copyAt is from how many firings on COPY is the quicker way to write them.
const copyAt = 50

// idsAtOnce is how many ids of firings are reserved at once, at least.
const idsAtOnce = 64

// goneAt bounds how many ids of leads that are gone are held before their jobs
// are written.
const goneAt = 20_000

// Observer is told what the matcher did; its methods must be quick.
type Observer interface {
	Fired(objectType string, n int)
	Matched(c trigger.Counters)
	RelatedFetched()
	Live(triggers int)
}

// Config is what a Matcher needs.
type Config struct {
	Pool        *pgxpool.Pool // the feed's own
	Source      *pgxpool.Pool // of the database that is watched
	River       *river.Client[pgx.Tx]
	Catalog     *catalog.Catalog
	Checkpoints *feed.Checkpoints
	Logger      *slog.Logger
	Observer    Observer
	// MaxDepth is the cap of chains; 0 is DefaultMaxDepth.
	MaxDepth int
	// MirrorBytes bounds the memory of the rows that triggers across relations are
	// decided on; 0 is DefaultMirrorBytes.
	MirrorBytes int64
}

// Matcher implements feed.Applier and feed.Objects. It belongs to one feed; the
// marker's methods apart, it is used by one goroutine at a time.
type Matcher struct {
	Config

	marker   *marker
	set      *trigger.Set
	query    trigger.Parsed // of put, used again
	loaded   bool
	verify   bool // the connection is new: is what is loaded still the checkpoint's?
	position change.EndLSN
	renamed  atomic.Bool // the stream showed a table that is not watched: are the watched ones still there?

	layouts    map[*change.Relation]struct{}
	identities map[string]byte // by object type
	partitions map[string]struct{}
	pipelines  map[string]bool   // object types with pipelines; per batch
	unusable   map[string]string // object types whose rows belong to nobody, and why
	poisoned   map[int64]int32   // triggers that are off because their evaluation failed, with their versions

	mu     sync.Mutex // what follows is also looked at by who explains
	recent recent

	replyTypes  map[string]*replyType
	replyErrors map[string]string // as last shown on the object types; "": the reply query holds

	mirrors mirrors
	timers  timers
	sees    snapshot // the latest that was asked for by see
	rewant  bool     // what the triggers want of the mirror may have changed
	lacks   bool     // it lacks something of that

	matched   []trigger.Firing
	documents documents
	ids       []int64 // reserved for firings
}

// New makes a Matcher. Run its marker with RunMarker.
func New(c Config) *Matcher {
	if c.MaxDepth == 0 {
		c.MaxDepth = DefaultMaxDepth
	}
	if c.MirrorBytes == 0 {
		c.MirrorBytes = DefaultMirrorBytes
	}
	return &Matcher{
		Config: c, marker: newMarker(c.Pool, c.Logger), partitions: map[string]struct{}{}, documents: newDocuments(c.Catalog),
	}
}

// RunMarker shows on the triggers' rows what became of them (invalid, degraded,
// whole again) until ctx ends. It is apart from the feed's transaction, because
// an app may hold those rows locked.
func (m *Matcher) RunMarker(ctx context.Context) { m.marker.run(ctx) }

// Init takes over the triggers as they were at the start of a slot's history;
// see feed.Config.
func (m *Matcher) Init(ctx context.Context, tx pgx.Tx) error {
	q := dbq.New(tx)
	if err := q.ForgetLiveTriggers(ctx); err != nil {
		return fmt.Errorf("live triggers: %w", err)
	}
	if err := q.AdoptTriggers(ctx); err != nil {
		return fmt.Errorf("trigger versions: %w", err)
	}
	if err := q.AdoptLiveTriggers(ctx); err != nil {
		return fmt.Errorf("live triggers: %w", err)
	}
	m.loaded = false
	return nil
}

// Object implements feed.Objects.
func (m *Matcher) Object(ctx context.Context, rel *change.Relation) (*change.Object, error) {
	o, err := m.Catalog.Object(ctx, rel)
	if err != nil || o != nil || !m.Catalog.Stale(rel) {
		return o, err
	}
	if err := m.Catalog.Reload(ctx); err != nil {
		return nil, err
	}
	m.renamed.Store(true)
	return m.Catalog.Object(ctx, rel)
}

// Reload implements feed.Objects: the object types are read anew.
func (m *Matcher) Reload(ctx context.Context) error {
	if err := m.Catalog.Reload(ctx); err != nil {
		return err
	}
	m.verify = true
	// Another process may have fed meanwhile, and ids follow the order of the stream.
	m.ids = nil
	return nil
}

// load brings in the triggers as of the checkpoint, with the tables as they are
// now; the stream corrects the latter where it is behind.
func (m *Matcher) load(ctx context.Context, q *dbq.Queries) error {
	start := time.Now()
	m.set = trigger.NewSet()
	m.set.SetMirror(m.mirrors.store)
	m.rewant = true
	m.unusable = map[string]string{}
	m.layouts = map[*change.Relation]struct{}{}
	m.identities = map[string]byte{}
	m.poisoned = map[int64]int32{}
	types, err := m.Catalog.Types(ctx)
	if err != nil {
		return err
	}
	for _, name := range types {
		t := m.Catalog.Type(name)
		if err := m.columns(ctx, &t.Object, t.Layout(), nil); err != nil {
			return err
		}
		m.identity(name, t.Identity, t.AlterIdentity())
	}
	zones, err := q.OrganizationTimeZones(ctx)
	if err != nil {
		return fmt.Errorf("time zones: %w", err)
	}
	locations, byName := make(map[string]*time.Location, len(zones)), map[string]*time.Location{}
	for _, z := range zones {
		if byName[z.TimeZone] == nil {
			byName[z.TimeZone] = location(z.TimeZone)
		}
		locations[z.ID] = byName[z.TimeZone]
	}
	err = liveTriggers(ctx, q, func(r *dbq.LiveTriggersRow, query *trigger.Parsed) {
		m.putParsed(definition{
			id: r.TriggerID, version: r.Version, organization: r.OrganizationID, name: r.Name,
			objectType: r.ObjectType, query: json.RawMessage(r.Query), beforeQuery: json.RawMessage(r.BeforeQuery),
			extraFilter: json.RawMessage(r.ExtraFilter), location: locations[r.OrganizationID],
		}, query)
		if r.TimersSet {
			m.set.Armed(r.TriggerID)
		}
	})
	if err != nil {
		return err
	}
	if err := m.timers.load(ctx, q); err != nil {
		return err
	}
	if len(m.set.Unarmed()) > 0 {
		m.timers.next.Store(0)
	}
	if err := m.mended(ctx, q); err != nil {
		return err
	}
	m.loaded, m.verify = true, false
	m.observeLive()
	m.Logger.InfoContext(ctx, "triggers loaded", "live", m.set.Len(), "broken", len(m.set.Broken()), "took", time.Since(start).Round(time.Millisecond))
	return nil
}

// liveTriggers calls f with each live trigger and its query. While one page is taken in, the next
// one is parsed and another one read: there may be millions, more than should be in memory at one time.
func liveTriggers(ctx context.Context, q *dbq.Queries, f func(*dbq.LiveTriggersRow, *trigger.Parsed)) error {
	const most = 250
	type page struct {
		rows    []dbq.LiveTriggersRow
		queries []trigger.Parsed
	}
	pages, parsed, spare := make(chan []dbq.LiveTriggersRow, 1), make(chan page, 1), make(chan []trigger.Parsed, 2)
	for range cap(spare) {
		spare <- make([]trigger.Parsed, most)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(parsed)
		for rows := range pages {
			p := page{rows, <-spare}
			for i := range rows {
				p.queries[i].Parse(json.RawMessage(rows[i].Query))
			}
			parsed <- p
		}
		return nil
	})
	group.Go(func() error {
		defer close(pages)
		for after := int64(math.MinInt64); ; {
			page, err := q.LiveTriggers(ctx, dbq.LiveTriggersParams{After: after, Most: most})
			if err != nil {
				return fmt.Errorf("live triggers: %w", err)
			}
			if len(page) == 0 {
				return nil
			}
			after = page[len(page)-1].TriggerID
			pages <- page
		}
	})
	for p := range parsed {
		for i := range p.rows {
			f(&p.rows[i], &p.queries[i])
		}
		spare <- p.queries
	}
	return group.Wait()
}

// mended finds triggers that are shown as invalid and compile now: their table
// was mended while nobody read the stream.
func (m *Matcher) mended(ctx context.Context, q *dbq.Queries) error {
	shown, err := q.InvalidTriggers(ctx)
	if err != nil {
		return fmt.Errorf("invalid triggers: %w", err)
	}
	if len(shown) == 0 {
		return nil
	}
	broken := map[int64]bool{}
	for _, b := range m.set.Broken() {
		broken[b.TriggerID] = true
	}
	for _, t := range shown {
		if !broken[t.ID] {
			m.markWhole(t.ID, t.Version, t.ObjectType)
		}
	}
	return nil
}

func (m *Matcher) observeLive() {
	if m.Observer != nil {
		m.Observer.Live(m.set.Len())
	}
}

// Preload loads the triggers before the first commit comes, so that what is
// wrong with them shows, and the first commit doesn't wait.
func (m *Matcher) Preload(ctx context.Context) error {
	return pgx.BeginTxFunc(ctx, m.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		cp, found, err := m.Checkpoints.Load(ctx)
		if err != nil || !found {
			return err
		}
		m.position = cp.Position
		if err := m.load(ctx, dbq.New(tx)); err != nil {
			return err
		}
		m.marker.flush()
		return nil
	})
}

// Apply implements feed.Applier.
func (m *Matcher) Apply(ctx context.Context, commits []*change.Commit, position change.EndLSN) error {
	_, err := m.apply(ctx, commits, position, true)
	return err
}

// ApplyLazily implements feed.Lazy: when the commits fire nothing, nothing is written.
func (m *Matcher) ApplyLazily(ctx context.Context, commits []*change.Commit, position change.EndLSN) (written bool, err error) {
	return m.apply(ctx, commits, position, false)
}

// apply writes the checkpoint if it must, or if there is anything else to write.
func (m *Matcher) apply(ctx context.Context, commits []*change.Commit, position change.EndLSN, must bool) (written bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ensurePartitions(ctx, commits); err != nil {
		return false, err
	}
	m.documents.room.clear()
	b := &batch{Matcher: m, tx: &lateTx{pool: m.Pool}, notes: newNotes(), position: position}
	err = b.run(ctx, commits, must)
	written = err == nil && b.tx.begun()
	if rollbackErr := b.tx.Rollback(ctx); err != nil {
		err = errors.Join(err, rollbackErr)
	}
	switch {
	case errors.Is(err, feed.ErrAgain) && !b.begun:
		return false, err
	case err != nil:
		m.undo(b)
		return false, err
	case !written: // the checkpoint is where it was
		m.timers.committed(b)
		m.remember(commits, b)
		m.marker.flush()
		return false, nil
	}
	failpoint.Hit("apply-after-commit")
	if m.mirrors.store != nil {
		m.mirrors.store.Commit()
		if m.mirrors.at == m.position {
			m.mirrors.at = b.position
		}
		m.limitMirror()
	}
	if b.registry {
		m.dropMirror()
		if m.set.Timed() {
			m.set.Disarm()
		}
	}
	m.timers.committed(b)
	m.remember(commits, b)
	m.position = b.position
	m.marker.flush()
	m.observeLive()
	if b.again {
		return true, feed.ErrAgain
	}
	return true, nil
}

// run matches and writes.
func (b *batch) run(ctx context.Context, commits []*change.Commit, must bool) error {
	m := b.Matcher
	b.q = dbq.New(b.tx)
	// First what may take long without a word and holds no locks.
	if err := m.current(ctx, b.q); err != nil {
		return err
	}
	if len(commits) > 0 && !m.mirrored() {
		return feed.ErrAgain
	}
	b.tx.engine = true
	if b.tx.begun() {
		if err := b.q.BeEngine(ctx); err != nil {
			return fmt.Errorf("feed: %w", err)
		}
	}
	b.begun = true
	if m.mirrors.store != nil {
		m.mirrors.store.Begin()
	}
	m.pipelines = map[string]bool{}
	b.beginTimers()
	if err := b.arm(ctx); err != nil {
		return err
	}
	b.ahead.commits = commits
	for _, c := range commits {
		if err := b.advance(ctx, c); err != nil {
			return err
		}
		if err := b.commit(ctx, c); err != nil {
			return err
		}
		if slices.ContainsFunc(c.Messages, func(msg change.Message) bool { return msg.Prefix == change.MessageRegistry }) {
			// The tables are looked at anew, and so are related rows: what a table did
			// while it was not watched did not come by.
			b.position, b.again, b.registry = c.End, true, true
			break
		}
		if m.rewant && m.set.Related() && len(m.missing(m.mirrors.at)) > 0 {
			// A trigger wants more rows than the mirror has: they are read as of here.
			b.position, b.again = c.End, true
			break
		}
	}
	if err := b.finish(ctx); err != nil {
		return err
	}
	if err := b.finishTimers(ctx); err != nil {
		return err
	}
	// The mirror is of the checkpoint, so with one it must be written.
	if !must && !b.again && !b.tx.begun() && b.closing.Len() == 0 && m.mirrors.store == nil {
		return nil
	}
	failpoint.Hit("apply-before-commit")
	if err := m.Checkpoints.AdvanceAndCommit(ctx, b.tx, &b.closing, b.position); err != nil {
		return err
	}
	b.tx.ended()
	return nil
}

// undo is for a batch that failed: the set may be ahead of the checkpoint now, so it is
// read anew.
func (m *Matcher) undo(b *batch) {
	m.loaded = false
	m.marker.drop()
	if m.mirrors.store == nil {
		return
	}
	if bad := m.mirrors.store.Rollback(); bad != nil {
		m.dropMirror()
	} else if b.outdatedType != "" {
		m.mirrors.store.Drop(b.outdatedType)
	}
}

// remember keeps what may be asked about.
func (m *Matcher) remember(commits []*change.Commit, b *batch) {
	for i := range b.taken {
		m.recent.add(commits[i], b.taken[i].suppressed, b.taken[i].depth)
	}
}

// current makes sure that the loaded triggers are those of the checkpoint.
func (m *Matcher) current(ctx context.Context, q *dbq.Queries) error {
	if m.loaded && m.verify {
		cp, _, err := m.Checkpoints.Load(ctx)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		if cp.Position == m.position {
			m.verify = false
			return m.refreshTypes(ctx)
		}
		m.loaded = false
	}
	if !m.loaded {
		return m.load(ctx, q)
	}
	if !m.renamed.Swap(false) {
		return nil
	}
	changed, err := m.typesChanged(ctx)
	if err != nil || !changed {
		return err
	}
	return m.refreshTypes(ctx)
}

// typesChanged says whether watched tables were found gone, or are back.
func (m *Matcher) typesChanged(ctx context.Context) (bool, error) {
	types, err := m.Catalog.Types(ctx)
	if err != nil {
		return false, err
	}
	return len(types) != len(m.identities) || slices.ContainsFunc(types, func(name string) bool {
		_, known := m.identities[name]
		return !known
	}), nil
}

// refreshTypes brings newly watched types in and drops unwatched ones.
func (m *Matcher) refreshTypes(ctx context.Context) error {
	m.layouts = map[*change.Relation]struct{}{}
	types, err := m.Catalog.Types(ctx)
	if err != nil {
		return err
	}
	for name := range m.identities {
		if !slices.Contains(types, name) {
			for _, b := range m.set.DropSchema(name) {
				m.marker.mark(b.TriggerID, b.Version, "invalid", catalog.NotWatched(name).Error())
			}
			delete(m.identities, name)
		}
	}
	for _, name := range types {
		t := m.Catalog.Type(name)
		if err := m.columns(ctx, &t.Object, t.Layout(), nil); err != nil {
			return err
		}
		m.identity(t.Type, t.Identity, t.AlterIdentity())
	}
	return nil
}

// columns makes a table's columns known; streamed is the stream's layout, if
// they come from there.
func (m *Matcher) columns(ctx context.Context, o *change.Object, rel, streamed *change.Relation) error {
	if o.Organization != "" && rel.Index(o.Organization) < 0 {
		why := fmt.Sprintf("table %s has no column %s any more, which held the organization: run `pgautomate watch %s --as %s --organization COLUMN`",
			rel, o.Organization, rel, o.Type)
		m.unusable[o.Type] = why
		for _, b := range m.set.DropSchema(o.Type) {
			m.marker.mark(b.TriggerID, b.Version, "invalid", why)
		}
		return nil
	}
	delete(m.unusable, o.Type)
	schema, err := m.Catalog.LayoutSchema(ctx, o, rel)
	if err != nil {
		return err
	}
	m.broken(m.set.SetSchema(schema, streamed))
	m.rewant = true
	m.recovered()
	return nil
}

// layout makes a table's layout known when the stream shows a new one.
func (m *Matcher) layout(ctx context.Context, o *change.Object, rel *change.Relation) error {
	if _, known := m.layouts[rel]; known {
		return nil
	}
	if err := m.columns(ctx, o, rel, rel); err != nil {
		return err
	}
	identity, alter := rel.Identity, "ALTER TABLE "+rel.String()+" REPLICA IDENTITY FULL"
	if t := m.Catalog.Type(o.Type); t != nil {
		alter = t.AlterIdentity()
		if t.Partitioned {
			identity = t.Identity
		}
	}
	m.identity(o.Type, identity, alter)
	m.layouts[rel] = struct{}{}
	return nil
}

// identity notes a table's replica identity, and shows its triggers degraded, or
// whole again, when that changed.
func (m *Matcher) identity(objectType string, identity byte, alter string) {
	before, known := m.identities[objectType]
	m.identities[objectType] = identity
	switch {
	case identity != change.IdentityFull:
		m.marker.degrade(objectType, degradedText(alter))
	case known && before != change.IdentityFull:
		m.marker.recover(objectType)
	case !known:
		m.marker.recover(objectType)
	}
}

func degradedText(alter string) string {
	return "updates come without the old row, so only inserts fire: run " + alter
}

func (m *Matcher) broken(list []trigger.Broken) {
	for _, b := range list {
		m.marker.mark(b.TriggerID, b.Version, "invalid", b.Err.Error())
	}
}

func (m *Matcher) recovered() {
	for _, r := range m.set.TakeRecovered() {
		m.markWhole(r.TriggerID, r.Version, r.ObjectType)
	}
}

func (m *Matcher) markWhole(id int64, version int32, objectType string) {
	if identity, known := m.identities[objectType]; known && identity != change.IdentityFull {
		alter := ""
		if t := m.Catalog.Type(objectType); t != nil {
			alter = t.AlterIdentity()
		}
		m.marker.mark(id, version, "degraded", degradedText(alter))
		return
	}
	m.marker.mark(id, version, "active", "")
}

// location gives a time zone; one that doesn't exist counts as UTC, like none.
func location(zone string) *time.Location {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return time.UTC
	}
	return loc
}

// definition is a trigger's row as the stream or live_triggers has it.
type definition struct {
	id                                         int64
	version                                    int32
	organization, name, objectType, actionType string
	query, actionParams                        json.RawMessage
	beforeQuery, extraFilter                   json.RawMessage // nil: none
	status                                     string
	location                                   *time.Location // nil is UTC
}

// put makes a definition live and shows on its row when it can't be.
func (m *Matcher) put(d definition) {
	m.query.Parse(d.query)
	m.putParsed(d, &m.query)
}

func (m *Matcher) putParsed(d definition, query *trigger.Parsed) {
	m.rewant = true
	err := m.set.PutParsed(trigger.Definition{
		ID: d.id, Version: d.version, Organization: d.organization, Name: d.name, ObjectType: d.objectType,
		Query: d.query, BeforeQuery: d.beforeQuery, ExtraFilter: d.extraFilter, Location: d.location,
	}, query)
	if err != nil {
		text := err.Error()
		if why := m.unusable[d.objectType]; why != "" {
			text = why
		} else if m.Catalog.Type(d.objectType) == nil {
			text = catalog.NotWatched(d.objectType).Error()
		}
		m.marker.mark(d.id, d.version, "invalid", text)
		return
	}
	degraded := m.identities[d.objectType] != change.IdentityFull
	if d.status != "" && (d.status != "active" || degraded) {
		m.markWhole(d.id, d.version, d.objectType)
	}
}

// ensurePartitions makes the audit's partitions for the days of the commits,
// outside the feed's transaction.
func (m *Matcher) ensurePartitions(ctx context.Context, commits []*change.Commit) error {
	for _, c := range commits {
		if err := m.ensurePartition(ctx, c.Time); err != nil {
			return err
		}
	}
	if len(commits) == 0 {
		return nil
	}
	// Timers fire at the moment they were due, which may be on days without commits.
	first, last := commits[0].Time, commits[0].Time
	for _, c := range commits {
		if c.Time.Before(first) {
			first = c.Time
		}
		if c.Time.After(last) {
			last = c.Time
		}
	}
	if due := time.UnixMicro(m.timers.next.Load()); m.timers.next.Load() > 0 && due.Before(first) {
		first = due
	}
	if m.set != nil && m.set.Timed() && !m.timers.clock.IsZero() && m.timers.clock.Before(first) {
		first = m.timers.clock
	}
	for day := first; day.Before(last); day = day.AddDate(0, 0, 1) {
		if err := m.ensurePartition(ctx, day); err != nil {
			return err
		}
	}
	return nil
}

func (m *Matcher) ensurePartition(ctx context.Context, at time.Time) error {
	day := at.UTC().Format(time.DateOnly)
	if _, ok := m.partitions[day]; ok {
		return nil
	}
	if err := dbq.New(m.Pool).EnsureFiringPartition(ctx, day); err != nil {
		return fmt.Errorf("partition of trigger_firings for %s: %w", day, err)
	}
	m.partitions[day] = struct{}{}
	return nil
}

// ChainName is how a trigger is named in a cause's chain.
func ChainName(id int64, name string) string { return strconv.FormatInt(id, 10) + " " + name }

// parseCause reads the cause of a commit; a message that can't be read still
// says that an automation made it.
func parseCause(messages []change.Message) (cause *jobs.Cause, suppressed bool, err error) {
	for _, msg := range messages {
		switch msg.Prefix {
		case change.MessageSuppress:
			suppressed = true
		case change.MessageCause:
			var c jobs.Cause
			if bad := json.Unmarshal(msg.Content, &c); bad != nil {
				err = errors.Join(err, bad)
				c = jobs.Cause{Depth: 1}
			}
			if cause == nil || c.Depth > cause.Depth {
				cause = &c
			}
		}
	}
	return cause, suppressed, err
}

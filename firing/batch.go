package firing

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/failpoint"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/trigger"
)

// batch is what one transaction of the feed writes.
type batch struct {
	*Matcher

	tx    *lateTx
	q     *dbq.Queries
	notes *notes

	position change.EndLSN // up to which it goes
	begun    bool          // what is loaded may be changed from here on
	again    bool          // what follows is to come on a new connection
	registry bool          // the tables are to be looked at anew

	firings  []row
	size     int // bytes of documents in them
	carriers []river.InsertManyParams
	closing  pgx.Batch // statements that go with the commit, in one round trip
	defs     []definition
	removed  []int64
	counters trigger.Counters
	fired    map[string]int
	names    map[int64]string // of triggers that the cap stopped
	last     *change.Commit

	locations map[string]*time.Location // of organizations whose triggers came

	across []trigger.RelatedFiring
	timing timing

	taken []struct { // of each commit so far
		suppressed bool
		depth      int
	}

	outdatedType string // that the mirror must read again

	replies replies
	ahead   ahead

	quiet  int // changes since the clock was last looked at
	spoken time.Time
}

// speak keeps the transaction from being taken for a frozen process's (BeEngine)
// while a commit is matched that is so large, or fires so little, that nothing else is
// said to the server for long.
func (b *batch) speak(ctx context.Context) error {
	if b.quiet++; b.quiet < 1000 {
		return nil
	}
	b.quiet = 0
	if !b.tx.begun() || time.Since(b.spoken) < 2*time.Second {
		return nil
	}
	b.spoken = time.Now()
	if _, err := b.tx.Exec(ctx, "SELECT"); err != nil {
		return fmt.Errorf("feed: %w", err)
	}
	return nil
}

// row is one firing.
type row struct {
	trigger.Firing

	objectType, objectID string
	changed              []string
	data, previous       []byte
	commit               *change.Commit
	at                   time.Time // the commit's, or when the clock made it match
	cause, related       []byte
	depth                int
}

// commit matches one commit's changes against the triggers before it, then takes
// over the definitions that it brings.
func (b *batch) commit(ctx context.Context, c *change.Commit) error {
	b.last = c
	for _, n := range c.Notes {
		b.notes.add(c, n.Kind, n.Count, n.Detail)
	}
	cause, suppressed, err := parseCause(c.Messages)
	if err != nil {
		b.notes.add(c, "cause_unreadable", 1, map[string]any{"problem": err.Error()})
	}
	var causeJSON []byte
	depth := 0
	if cause != nil {
		depth = cause.Depth
		if causeJSON, err = json.Marshal(cause); err != nil {
			return fmt.Errorf("cause: %w", err)
		}
	}
	b.taken = append(b.taken, struct {
		suppressed bool
		depth      int
	}{suppressed, depth})
	kept := 0
	across := b.mirrors.store != nil && (!suppressed || b.set.Timed())
	var gone goneIDs
	var definitions []*change.Change
	// A commit may be larger than memory: nothing here may grow with it. What is
	// kept of a change is copied, for a row or an id keeps the block that it is in.
	err = c.Each(func(ch *change.Change) error {
		if c.Large == nil {
			b.ahead.step(b.set)
		}
		if ch.Object == catalog.Definitions {
			d := *ch // these are in memory anyway, as triggers
			d.After, d.ID = bytes.Clone(ch.After), strings.Clone(ch.ID)
			d.Before, d.OldID = nil, ""
			definitions = append(definitions, &d)
			return nil
		}
		if err := b.speak(ctx); err != nil {
			return err
		}
		if err := b.runs(ctx, ch, &gone); err != nil {
			return err
		}
		if err := b.reply(ctx, c, ch, suppressed); err != nil {
			return err
		}
		if across {
			if err := b.consider(ctx, c, ch); err != nil {
				return err
			}
		}
		if ch.After == nil {
			return nil
		}
		if suppressed {
			kept++
			return nil
		}
		return b.match(ctx, c, ch, cause, causeJSON, depth)
	})
	if err != nil {
		return err
	}
	if b.mirrors.store != nil {
		if err := b.settle(ctx, c, cause, causeJSON, depth, suppressed); err != nil {
			return err
		}
	}
	b.carriers = append(b.carriers, gone.carriers()...)
	if kept > 0 {
		b.notes.add(c, "suppressed", kept, nil)
	}
	if len(definitions) > 0 {
		if err := b.writeTimers(ctx, 1); err != nil { // before some of them are deleted with their trigger
			return err
		}
		if err := b.definitions(ctx, c, definitions); err != nil {
			return err
		}
		if err := b.arm(ctx); err != nil {
			return err
		}
	}
	return b.write(ctx, flushAt, false)
}

// match asks the triggers about one change.
func (b *batch) match(ctx context.Context, c *change.Commit, ch *change.Change, cause *jobs.Cause, causeJSON []byte, depth int) error {
	if err := b.layout(ctx, ch.Object, ch.Relation); err != nil {
		return err
	}
	if ch.BeforeRelation != nil && ch.BeforeRelation != ch.Relation {
		if _, known := b.layouts[ch.BeforeRelation]; !known {
			// Rows of a layout that this very commit left behind: their columns are
			// found by name, the schema is the newer one's.
			b.layouts[ch.BeforeRelation] = struct{}{}
		}
	}
	if t := b.Catalog.Type(ch.Object.Type); t != nil && t.Partitioned {
		if b.identities[t.Type] != t.Identity {
			b.identity(t.Type, t.Identity, t.AlterIdentity())
		}
		if t.KeyOnly(ch.Before) {
			hidden := *ch
			hidden.Before, hidden.BeforeUnknown, hidden.OldOrganization = nil, true, ""
			ch = &hidden
		}
	}
	matched, counters, err := b.set.Match(b.matched[:0], ch)
	b.matched = matched[:0]
	b.count(c, ch.Object.Type, counters)
	if err != nil {
		b.notes.add(c, "undecodable", 1, map[string]any{"table": ch.Object.String(), "object_id": strings.Clone(ch.ID), "problem": err.Error()})
		return nil //nolint:nilerr // a poison change is noted and passed over
	}
	if len(matched) == 0 {
		return nil
	}
	if depth > b.MaxDepth {
		for _, f := range matched {
			if err := b.loop(ctx, c, f, ch.Object.Type, ch.ID, cause); err != nil {
				return err
			}
		}
		return nil
	}
	r, err := b.row(c, ch, causeJSON, depth, &b.documents.room)
	if err != nil {
		return err
	}
	var event any
	for _, f := range matched {
		if f.Filter != nil {
			if event == nil {
				if event, err = eventOf(&r, f.Created, f.Organization); err != nil {
					return err
				}
			}
			if !f.Filter.Holds(event) {
				continue
			}
		}
		r := r
		r.Firing = f
		if f.Created {
			r.changed, r.previous = []string{}, nil
		}
		b.firings = append(b.firings, r)
	}
	if b.size += len(r.data) + len(r.previous); b.size >= flushBytes {
		return b.write(ctx, 1, false)
	}
	return b.write(ctx, flushAt, false)
}

// row gives what the audit keeps of a change; its documents are in the room that is given, if that isn't nil.
func (b *batch) row(c *change.Commit, ch *change.Change, causeJSON []byte, depth int, in *room) (r row, err error) {
	failed := func(err error) (row, error) { return r, fmt.Errorf("row of %s: %w", ch.Object, err) }
	r = row{objectType: ch.Object.Type, objectID: strings.Clone(ch.ID), commit: c, cause: causeJSON, depth: depth}
	if c != nil {
		r.at = c.Time
	}
	after, err := b.documents.decode(0, ch.After)
	if err != nil {
		return failed(err)
	}
	before, err := b.documents.decode(1, ch.Before)
	if err != nil {
		return failed(err)
	}
	r.data = b.documents.print(in, b.documents.columnsOf(ch.Relation), ch.After, after)
	r.previous = b.documents.print(in, b.documents.columnsOf(ch.BeforeRelation), ch.Before, before)
	r.changed = changedFields(ch, before, after)
	return r, nil
}

// loop notes a firing that the cap stopped, with the chain that led to it.
func (b *batch) loop(ctx context.Context, c *change.Commit, f trigger.Firing, objectType, objectID string, cause *jobs.Cause) error {
	name, known := b.names[f.TriggerID]
	if !known {
		err := b.tx.QueryRow(ctx, "SELECT name FROM pgautomate.trigger_versions WHERE trigger_id = $1 AND version = $2", f.TriggerID, f.Version).Scan(&name)
		if err != nil {
			return fmt.Errorf("name of trigger %d: %w", f.TriggerID, err)
		}
		if b.names == nil {
			b.names = map[int64]string{}
		}
		b.names[f.TriggerID] = name
	}
	chain := append(slices.Clone(cause.Chain), ChainName(f.TriggerID, name))
	b.notes.add(c, "loop_suppressed", 1, map[string]any{
		"trigger_id": f.TriggerID, "object_type": objectType, "object_id": strings.Clone(objectID), "depth": cause.Depth, "chain": chain,
	})
	return nil
}

// goneIDs gathers a commit's leads that are gone, by organization, type and
// reason, and those that got another id.
type goneIDs struct {
	keys  []jobs.ObjectGoneArgs
	ids   map[string]int
	more  []river.InsertManyParams
	count int
}

func (g *goneIDs) add(organization, objectType, reason, id string) {
	key := organization + "\x00" + objectType + "\x00" + reason
	at, ok := g.ids[key]
	if !ok || len(g.keys[at].IDs) >= 1000 {
		if g.ids == nil {
			g.ids = map[string]int{}
		}
		at = len(g.keys)
		g.ids[key] = at
		g.keys = append(g.keys, jobs.ObjectGoneArgs{OrganizationID: organization, ObjectType: objectType, Reason: reason})
	}
	g.keys[at].IDs = append(g.keys[at].IDs, strings.Clone(id))
	g.count++
}

// carriers gives the jobs of all and forgets them.
func (g *goneIDs) carriers() []river.InsertManyParams {
	list := g.more
	for _, k := range g.keys {
		list = append(list, carrier(k))
	}
	*g = goneIDs{}
	return list
}

func carrier(args river.JobArgs) river.InsertManyParams {
	return river.InsertManyParams{Args: args, InsertOpts: &river.InsertOpts{Queue: jobs.FiringQueue, MaxAttempts: carrierAttempts}}
}

// carrierAttempts is how often River tries a job of ours.
const carrierAttempts = 25

// runs lets pipelines know of leads that are gone, left, or got another id.
func (b *batch) runs(ctx context.Context, ch *change.Change, gone *goneIDs) error {
	// With REPLICA IDENTITY DEFAULT the old row is but its key: whose it was isn't known,
	// but who it was is.
	keyOnly := ch.BeforeUnknown
	if !keyOnly && ch.OldOrganization == "" && ch.Before != nil {
		t := b.Catalog.Type(ch.Object.Type)
		keyOnly = t != nil && t.KeyOnly(ch.Before)
	}
	switch {
	case keyOnly && ch.After == nil, keyOnly && ch.OldID != "":
	case ch.OldOrganization == "", ch.After != nil && ch.OldID == "" && ch.OldOrganization == ch.Organization:
		return nil
	}
	has, known := b.pipelines[ch.Object.Type]
	if !known {
		var err error
		if has, err = b.q.ObjectTypeHasPipelines(ctx, ch.Object.Type); err != nil {
			return fmt.Errorf("pipelines: %w", err)
		}
		b.pipelines[ch.Object.Type] = has
	}
	if !has {
		return nil
	}
	id := ch.ID
	if ch.OldID != "" {
		id = ch.OldID
	}
	switch {
	case ch.After == nil:
		gone.add(ch.OldOrganization, ch.Object.Type, "object_deleted", id)
	case ch.OldOrganization != ch.Organization && !keyOnly:
		gone.add(ch.OldOrganization, ch.Object.Type, "left_organization", id)
	default:
		gone.more = append(gone.more, carrier(jobs.ObjectRenamedArgs{
			OrganizationID: ch.Organization, ObjectType: ch.Object.Type, OldID: strings.Clone(id), NewID: strings.Clone(ch.ID),
		}))
		gone.count++
	}
	if gone.count < goneAt {
		return nil
	}
	b.carriers = append(b.carriers, gone.carriers()...)
	return b.enqueue(ctx, false)
}

// definitions takes over triggers that the commit wrote.
func (b *batch) definitions(ctx context.Context, c *change.Commit, changes []*change.Change) error {
	if err := b.see(ctx, c.XID); err != nil {
		return err
	}
	// The tables as they are now, for the verdict that the author reads.
	if err := b.Catalog.Reload(ctx); err != nil {
		return err
	}
	for name, was := range b.identities {
		if t := b.Catalog.Type(name); t != nil && t.Identity != was {
			b.identity(name, t.Identity, t.AlterIdentity())
		}
	}
	var versions dbq.PutTriggerVersionsParams
	for _, ch := range changes {
		if ch.After == nil {
			id, err := strconv.ParseInt(ch.ID, 10, 64)
			if err != nil {
				return fmt.Errorf("trigger id %q: %w", ch.ID, err)
			}
			b.set.Remove(id)
			b.removed = append(b.removed, id)
			delete(b.poisoned, id)
			continue
		}
		d, err := parseDefinition(ch)
		if err != nil {
			return err
		}
		versions.TriggerIds, versions.Versions = append(versions.TriggerIds, d.id), append(versions.Versions, d.version)
		versions.OrganizationIds, versions.Names = append(versions.OrganizationIds, d.organization), append(versions.Names, d.name)
		versions.ObjectTypes, versions.Queries = append(versions.ObjectTypes, d.objectType), append(versions.Queries, d.query)
		versions.BeforeQueries, versions.ExtraFilters = append(versions.BeforeQueries, string(d.beforeQuery)), append(versions.ExtraFilters, string(d.extraFilter))
		versions.ActionTypes, versions.ActionParams = append(versions.ActionTypes, d.actionType), append(versions.ActionParams, d.actionParams)
		versions.ValidFroms = append(versions.ValidFroms, c.LSN.String())
		if d.location, err = b.location(ctx, d.organization); err != nil {
			return err
		}
		if d.status == "paused" {
			b.set.Remove(d.id)
			b.removed = append(b.removed, d.id)
			delete(b.poisoned, d.id)
			continue
		}
		// Our own mark on a trigger whose evaluation failed comes by here too: it
		// stays off until it says something else.
		if v, off := b.poisoned[d.id]; !off || v != d.version {
			delete(b.poisoned, d.id)
			b.put(d)
		}
		b.defs = append(b.defs, d)
	}
	if len(versions.TriggerIds) > 0 {
		if err := b.q.PutTriggerVersions(ctx, versions); err != nil {
			return fmt.Errorf("trigger versions: %w", err)
		}
	}
	var live dbq.PutLiveTriggersParams
	for _, d := range b.defs {
		live.TriggerIds, live.Versions = append(live.TriggerIds, d.id), append(live.Versions, d.version)
	}
	if len(live.TriggerIds) > 0 {
		if err := b.q.PutLiveTriggers(ctx, live); err != nil {
			return fmt.Errorf("live triggers: %w", err)
		}
	}
	if len(b.removed) > 0 {
		if err := b.q.RemoveLiveTriggers(ctx, b.removed); err != nil {
			return fmt.Errorf("live triggers: %w", err)
		}
	}
	b.defs, b.removed = nil, nil
	return nil
}

// location gives an organization's time zone as it is now: the organization may
// be as new as its trigger.
func (b *batch) location(ctx context.Context, organization string) (*time.Location, error) {
	if loc, known := b.locations[organization]; known {
		return loc, nil
	}
	zone, err := b.q.OrganizationTimeZone(ctx, organization)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("time zone of organization %s: %w", organization, err)
	}
	loc := location(zone) // none is UTC
	if b.locations == nil {
		b.locations = map[string]*time.Location{}
	}
	b.locations[organization] = loc
	return loc, nil
}

func parseDefinition(ch *change.Change) (definition, error) {
	var d definition
	cells, err := ch.After.Decode(nil)
	if err != nil {
		return d, fmt.Errorf("trigger %s: %w", ch.ID, err)
	}
	for i, col := range ch.Relation.Columns {
		if i >= len(cells) || cells[i].Kind != change.Text {
			continue
		}
		text := string(cells[i].Data)
		switch col.Name {
		case "id":
			d.id, err = strconv.ParseInt(text, 10, 64)
		case "version":
			var v int64
			v, err = strconv.ParseInt(text, 10, 32)
			d.version = int32(v)
		case "organization_id":
			d.organization = text
		case "name":
			d.name = text
		case "object_type":
			d.objectType = text
		case "query":
			d.query = json.RawMessage(text)
		case "before_query":
			d.beforeQuery = json.RawMessage(text)
		case "extra_filter":
			d.extraFilter = json.RawMessage(text)
		case "action_type":
			d.actionType = text
		case "action_params":
			d.actionParams = json.RawMessage(text)
		case "status":
			d.status = text
		}
		if err != nil {
			return d, fmt.Errorf("trigger %s, column %s: %w", ch.ID, col.Name, err)
		}
	}
	return d, nil
}

// insertFiring writes one firing; a few go with the commit.
const insertFiring = `
INSERT INTO pgautomate.trigger_firings (id, trigger_id, trigger_version, organization_id, object_type, object_id, action, changed_fields,
                                        data, previous_data, committed_at, fired_at, cause, depth, related, commit_lsn)
OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16::text::pg_lsn)`

// columns are a firing's, but for commit_lsn, whose form is another one in COPY.
func (f *row) columns(id int64, now time.Time) []any {
	action := "updated"
	if f.Created {
		action = "created"
	}
	return append(make([]any, 0, 16), id, f.TriggerID, f.Version, f.Organization, f.objectType, f.objectID, action, f.changed,
		json.RawMessage(f.data), orNull(f.previous), f.at, now, orNull(f.cause), f.depth, orNull(f.related))
}

// write writes firings and their jobs once there are at least `least` of them. The last
// ones of a batch, when they are few, are left to go with the commit.
func (b *batch) write(ctx context.Context, least int, last bool) error {
	n := len(b.firings)
	if n == 0 || n < least {
		return nil
	}
	if len(b.ids) < n { // some more, so that not each firing needs a round trip for its id
		more, err := b.q.FiringIDs(ctx, int32(max(n, idsAtOnce)))
		if err != nil {
			return fmt.Errorf("firing ids: %w", err)
		}
		b.ids = more
	}
	ids := b.ids[:n:n]
	b.ids = b.ids[n:]
	now := time.Now()
	if last && n < copyAt {
		for i := range b.firings {
			b.closing.Queue(insertFiring, append(b.firings[i].columns(ids[i], now), b.firings[i].commit.LSN.String())...)
		}
	} else {
		_, err := b.tx.CopyFrom(ctx, pgx.Identifier{"pgautomate", "trigger_firings"}, []string{
			"id", "trigger_id", "trigger_version", "organization_id", "object_type", "object_id", "action", "changed_fields",
			"data", "previous_data", "committed_at", "fired_at", "cause", "depth", "related", "commit_lsn",
		}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
			return append(b.firings[i].columns(ids[i], now), copyLSN(b.firings[i].commit.LSN)), nil
		}))
		if err != nil {
			return fmt.Errorf("trigger_firings: %w", err)
		}
	}
	failpoint.Hit("firings-copied")
	for i := range b.firings {
		f := &b.firings[i]
		b.carriers = append(b.carriers, carrier(jobs.FiringArgs{ID: ids[i], At: f.at}))
		if b.fired == nil {
			b.fired = map[string]int{}
		}
		b.fired[f.objectType]++
	}
	clear(b.firings)
	b.firings, b.size = b.firings[:0], 0
	if b.closing.Len() == 0 { // else the last ones still are to be sent
		b.documents.room.clear()
	}
	if last {
		return nil // finish enqueues
	}
	return b.enqueue(ctx, false)
}

// insertJobs writes jobs of River as its client does, which takes round trips of its own for it.
const insertJobs = `
INSERT INTO pgautomate.river_job (kind, args, max_attempts, queue)
SELECT unnest($1::text[]), unnest($2::jsonb[]), $3, $4`

// notifyRiver wakes those who work on firings, as River's client does.
const notifyRiver = `SELECT pg_notify('pgautomate.river_insert', $1)`

// enqueue writes the jobs that have gathered. The last ones of a batch, when they are few, are left to go with the commit.
func (b *batch) enqueue(ctx context.Context, last bool) error {
	if len(b.carriers) == 0 {
		return nil
	}
	if last && len(b.carriers) < copyAt {
		kinds, args := make([]string, len(b.carriers)), make([]json.RawMessage, len(b.carriers))
		for i, c := range b.carriers {
			raw, err := json.Marshal(c.Args)
			if err != nil {
				return fmt.Errorf("jobs of River: %w", err)
			}
			kinds[i], args[i] = c.Args.Kind(), raw
		}
		b.closing.Queue(insertJobs, kinds, args, carrierAttempts, jobs.FiringQueue)
		b.closing.Queue(notifyRiver, fmt.Sprintf(`{"queue": %q}`, jobs.FiringQueue))
	} else if _, err := b.River.InsertManyFastTx(ctx, b.tx, b.carriers); err != nil {
		return fmt.Errorf("jobs of River: %w", err)
	}
	failpoint.Hit("firing-jobs-inserted")
	clear(b.carriers)
	b.carriers = b.carriers[:0]
	return nil
}

// copyLSN is a pg_lsn as COPY's binary form has it: pgx doesn't know the type.
func copyLSN(l change.CommitLSN) []byte { return binary.BigEndian.AppendUint64(nil, uint64(l)) }

func orNull(raw []byte) any {
	if raw == nil {
		return nil
	}
	return json.RawMessage(raw)
}

// finish writes what is left.
func (b *batch) finish(ctx context.Context) error {
	if err := b.write(ctx, 1, true); err != nil {
		return err
	}
	if err := b.writeReplies(ctx); err != nil {
		return err
	}
	if err := b.enqueue(ctx, true); err != nil {
		return err
	}
	if err := b.notes.write(ctx, b.tx); err != nil {
		return err
	}
	if b.Observer != nil {
		for t, n := range b.fired {
			b.Observer.Fired(t, n)
		}
		b.Observer.Matched(b.counters)
	}
	return nil
}

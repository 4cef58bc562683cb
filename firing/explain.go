package firing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/trigger"
)

// Explanation says why a trigger fired for an object, or did not.
type Explanation struct {
	TriggerID string `json:"trigger_id"`
	Version   int32  `json:"version"`
	ObjectID  string `json:"object_id"`
	// CommitLSN and CommittedAt name the commit that is explained; absent when
	// no change is kept, and the row is explained as it is now.
	CommitLSN   string     `json:"commit_lsn,omitempty"`
	CommittedAt *time.Time `json:"committed_at,omitempty"`
	// Verdict is "fired", or "not_fired: " and the reason: after=false,
	// already_matched, deleted, other_organization, suppressed, loop_suppressed,
	// before_query=false, extra_filter=false, not_live, unknown, or no_change.
	Verdict string `json:"verdict"`
	// Source says what was evaluated: "change", a change that is kept, or "now".
	Source        string     `json:"source" enum:"change,now"`
	ChangedFields []string   `json:"changed_fields"`
	Nodes         []NodeSide `json:"nodes"`
	FiringID      string     `json:"firing_id,omitempty"`
	Note          string     `json:"note,omitempty"`
}

// NodeSide is a node's truth on both sides of a commit: true, false, unknown, or
// absent when the object did not exist.
type NodeSide struct {
	Pointer string `json:"pointer"`
	Node    string `json:"node"`
	Before  string `json:"before,omitempty"`
	After   string `json:"after,omitempty"`
}

// ErrNoTrigger is given for a trigger that there never was.
var ErrNoTrigger = errors.New("there is no such trigger")

// Explain looks at the latest change of an object, or the one at or before a
// position (0: any), with the trigger as it was then. It knows the changes of the
// last moments (recentBytes); of others only the row as it is now.
func (m *Matcher) Explain(ctx context.Context, triggerID int64, objectID string, at change.LSN) (*Explanation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := dbq.New(m.Pool)
	lsn := func(l change.LSN) string {
		if l == 0 {
			return "FFFFFFFF/FFFFFFFF"
		}
		return l.String()
	}
	newest, err := q.TriggerVersionAt(ctx, dbq.TriggerVersionAtParams{TriggerID: triggerID, At: lsn(at)})
	if errors.Is(err, pgx.ErrNoRows) {
		if newest, err = q.TriggerVersionAt(ctx, dbq.TriggerVersionAtParams{TriggerID: triggerID, At: lsn(0)}); errors.Is(err, pgx.ErrNoRows) {
			return nil, ErrNoTrigger
		}
	}
	if err != nil {
		return nil, fmt.Errorf("trigger %d: %w", triggerID, err)
	}
	if m.set == nil || m.Catalog.Type(newest.ObjectType) == nil {
		return nil, fmt.Errorf("object type %s is not watched, or nothing was fed yet", newest.ObjectType)
	}
	e := explanation{Matcher: m, q: q, version: newest, objectID: objectID}
	ch, place := m.recent.find(newest.ObjectType, objectID, at)
	// A related row may have made it fire after its own last change.
	if fired, err := q.LatestFiring(ctx, dbq.LatestFiringParams{TriggerID: triggerID, ObjectID: objectID, At: lsn(at)}); err == nil {
		position, _ := change.ParseLSN(fired.CommitLsn)
		for i := len(m.recent.commits) - 1; i >= m.recent.first; i-- {
			if k := &m.recent.commits[i]; change.LSN(k.lsn) == position && (ch == nil || i > place) {
				return e.change(ctx, nil, i)
			}
		}
	}
	if ch == nil {
		return e.now(ctx)
	}
	return e.change(ctx, ch, place)
}

type explanation struct {
	*Matcher

	q        *dbq.Queries
	version  dbq.TriggerVersionAtRow
	objectID string
}

func (e *explanation) definition(ctx context.Context) (trigger.Definition, error) {
	v := &e.version
	d := trigger.Definition{ID: v.TriggerID, Version: v.Version, Organization: v.OrganizationID, Name: v.Name, ObjectType: v.ObjectType, Query: v.Query}
	zone, err := e.q.OrganizationTimeZone(ctx, v.OrganizationID)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return d, fmt.Errorf("time zone: %w", err)
	}
	d.Location = location(zone)
	return d, nil
}

func (e *explanation) begin(source string) *Explanation {
	return &Explanation{
		TriggerID: fmt.Sprint(e.version.TriggerID), Version: e.version.Version, ObjectID: e.objectID, Source: source,
		ChangedFields: []string{}, Nodes: []NodeSide{},
	}
}

// change explains a commit that is kept. ch is nil when only related rows changed.
func (e *explanation) change(ctx context.Context, ch *change.Change, place int) (*Explanation, error) {
	k := &e.recent.commits[place]
	x := e.begin("change")
	x.CommitLSN, x.CommittedAt = k.lsn.String(), &k.time
	// The trigger as it was before that commit.
	version, err := e.q.TriggerVersionAt(ctx, dbq.TriggerVersionAtParams{TriggerID: e.version.TriggerID, At: (change.LSN(k.lsn) - 1).String()})
	live := err == nil
	if live {
		e.version = version
		x.Version = version.Version
	} else if !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("trigger %d: %w", e.version.TriggerID, err)
	}
	def, err := e.definition(ctx)
	if err != nil {
		return nil, err
	}
	after, before := image{}, image{}
	if ch != nil {
		after = image{ch.ID, ch.Relation, ch.After}
		before = image{ch.ID, ch.BeforeRelation, ch.Before}
		if ch.OldID != "" {
			before.id = ch.OldID
		}
		if ch.Organization != def.Organization {
			after.row = nil
		}
		if ch.OldOrganization != def.Organization {
			before.row = nil
		}
		was, err := e.documents.decode(1, ch.Before)
		if err != nil {
			return nil, err
		}
		is, err := e.documents.decode(0, ch.After)
		if err != nil {
			return nil, err
		}
		x.ChangedFields = changedFields(ch, was, is)
	}
	if e.mirrors.store != nil {
		e.mirrors.store.Begin()
		defer func() {
			if err := e.mirrors.store.Rollback(); err != nil {
				e.dropMirror()
			}
		}()
		for i := len(e.recent.commits) - 1; i > place; i-- {
			e.undo(x, &e.recent.commits[i])
		}
	}
	e.set.SetClock(k.time)
	became := time.Time{} // by the clock alone
	if ch == nil {
		if f, err := e.q.LatestFiring(ctx, dbq.LatestFiringParams{TriggerID: def.ID, ObjectID: e.objectID, At: k.lsn.String()}); err == nil && f.CommitLsn == k.lsn.String() {
			var cause ClockCause
			if json.Unmarshal(f.Cause, &cause) == nil && !cause.Clock.IsZero() {
				became = cause.Clock
				x.Note = "no change made it match, but the passing of time, at " + became.UTC().Format(time.RFC3339Nano)
				e.set.SetClock(became)
				e.undo(x, k) // it was before the commit at which it was seen
			}
		}
		after = e.mirroredRow(&def)
	}
	afterTruths, err := e.truths(&def, def.Query, after)
	if err != nil {
		return nil, err
	}
	switch {
	case !became.IsZero():
		e.set.SetClock(became.Add(-time.Microsecond))
	case e.mirrors.store != nil:
		e.undo(x, k)
	}
	if ch == nil {
		before = e.mirroredRow(&def)
	}
	beforeTruths, err := e.truths(&def, def.Query, before)
	if err != nil {
		return nil, err
	}
	for i := range max(len(afterTruths), len(beforeTruths)) {
		var n NodeSide
		if i < len(afterTruths) {
			n = NodeSide{Pointer: afterTruths[i].Pointer, Node: afterTruths[i].Node, After: afterTruths[i].Truth}
		}
		if i < len(beforeTruths) {
			n.Pointer, n.Node, n.Before = beforeTruths[i].Pointer, beforeTruths[i].Node, beforeTruths[i].Truth
		}
		x.Nodes = append(x.Nodes, n)
	}
	x.Verdict, err = e.verdict(&def, ch, k, live, before, x)
	if err != nil {
		return nil, err
	}
	if x.Verdict == fired {
		f, err := e.q.LatestFiring(ctx, dbq.LatestFiringParams{TriggerID: def.ID, ObjectID: e.objectID, At: k.lsn.String()})
		if err == nil && f.CommitLsn == k.lsn.String() {
			x.FiringID = fmt.Sprint(f.ID)
		}
	}
	return x, nil
}

const fired = "fired"

func (e *explanation) verdict(def *trigger.Definition, ch *change.Change, k *recentCommit, live bool, before image, x *Explanation) (string, error) {
	after, was := "", ""
	if len(x.Nodes) > 0 {
		after, was = x.Nodes[0].After, x.Nodes[0].Before
	}
	v := &e.version
	switch {
	case ch != nil && ch.After == nil:
		return "not_fired: deleted", nil
	case ch != nil && ch.Organization != def.Organization:
		return "not_fired: other_organization", nil
	case !live:
		return "not_fired: not_live", nil
	case k.suppressed:
		return "not_fired: suppressed", nil
	case after == "false":
		return "not_fired: after=false", nil
	case ch != nil && ch.BeforeUnknown, after == "unknown":
		return "not_fired: unknown", nil
	}
	if v.BeforeQuery != nil {
		truths, err := e.truths(def, v.BeforeQuery, before)
		if err != nil {
			return "", err
		}
		if len(truths) == 0 || truths[0].Truth != "true" {
			return "not_fired: before_query=false", nil
		}
	}
	if v.ExtraFilter != nil {
		filter, err := trigger.ParseFilter(v.ExtraFilter)
		if err != nil || ch == nil {
			return "not_fired: extra_filter=false", nil //nolint:nilerr // it is shown on the trigger
		}
		b := batch{Matcher: e.Matcher}
		r, err := b.row(nil, ch, nil, 0, nil)
		if err != nil {
			return "", err
		}
		event, err := eventOf(&r, before.row == nil, def.Organization)
		if err != nil {
			return "", err
		}
		if !filter.Holds(event) {
			return "not_fired: extra_filter=false", nil
		}
		was = ""
	}
	switch {
	case was == "true":
		return "not_fired: already_matched", nil
	case was == "unknown":
		return "not_fired: unknown", nil
	case k.depth > e.MaxDepth:
		return "not_fired: loop_suppressed", nil
	}
	return fired, nil
}

// image is one side of an object.
type image struct {
	id  string
	rel *change.Relation
	row change.Row
}

func (e *explanation) truths(def *trigger.Definition, query json.RawMessage, of image) ([]trigger.NodeTruth, error) {
	if of.row == nil {
		return nil, nil
	}
	return e.set.Truths(*def, query, of.id, def.Organization, of.rel, of.row)
}

// mirroredRow is the object as the mirror has it.
func (e *explanation) mirroredRow(def *trigger.Definition) image {
	if e.mirrors.store == nil {
		return image{}
	}
	t := e.mirrors.store.Table(def.ObjectType)
	if t == nil {
		return image{}
	}
	row, ok := t.Get(e.objectID)
	if w := e.Catalog.Type(def.ObjectType); !ok || w != nil && w.Organization != "" && row.Organization() != def.Organization {
		return image{}
	}
	return image{e.objectID, t.Relation(), append(change.Row(nil), row.Image()...)}
}

// undo takes the mirror back over a commit.
func (e *explanation) undo(x *Explanation, k *recentCommit) {
	store := e.mirrors.store
	if k.partial {
		x.Note = "related rows are as they are now: a transaction since was too large to be kept"
		return
	}
	for i := range k.changes {
		if ch := &k.changes[i]; ch.After != nil {
			if t := store.Table(ch.Object.Type); t != nil && (ch.Before != nil || !ch.BeforeUnknown) {
				t.Delete(ch.ID)
			}
		}
	}
	for i := range k.changes {
		ch := &k.changes[i]
		if t := store.Table(ch.Object.Type); t != nil && ch.Before != nil {
			id := ch.ID
			if ch.OldID != "" {
				id = ch.OldID
			}
			if _, err := t.Put(id, ch.OldOrganization, ch.BeforeRelation, ch.Before); err != nil {
				x.Note = err.Error()
			}
		}
	}
}

// now explains the row as it is, for want of a change.
func (e *explanation) now(ctx context.Context) (*Explanation, error) {
	x := e.begin("now")
	x.Verdict = "not_fired: no_change"
	x.Note = "no change of this object is kept any more: after is the row as it is now"
	def, err := e.definition(ctx)
	if err != nil {
		return nil, err
	}
	rel, row, organization, err := e.Catalog.Image(ctx, e.Source, def.ObjectType, e.objectID)
	if err != nil {
		return nil, err
	}
	switch {
	case row == nil:
		x.Note = "there is no such object, and no change of it is kept"
		return x, nil
	case organization != def.Organization:
		x.Verdict = "not_fired: other_organization"
		return x, nil
	}
	e.set.SetClock(time.Now())
	truths, err := e.truths(&def, def.Query, image{e.objectID, rel, row})
	for _, n := range truths {
		x.Nodes = append(x.Nodes, NodeSide{Pointer: n.Pointer, Node: n.Node, After: n.Truth})
	}
	return x, err
}

// Answer carries out the requests that others left in the database, until ctx
// ends. active says whether this process is the one that feeds.
func (m *Matcher) Answer(ctx context.Context, active func() bool) error {
	q := dbq.New(m.Pool)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !active() {
			continue
		}
		requests, err := q.OpenExplanations(ctx)
		if err != nil {
			continue // the feed tells of trouble with the database
		}
		for _, r := range requests {
			at := change.LSN(0)
			if r.CommitLsn != "" {
				at, _ = change.ParseLSN(r.CommitLsn)
			}
			var answer, problem []byte
			x, err := m.Explain(ctx, r.TriggerID, r.ObjectID, at)
			if err == nil {
				answer, err = json.Marshal(x)
			}
			if err != nil {
				problem = []byte(err.Error())
			}
			if err := q.AnswerExplanation(ctx, dbq.AnswerExplanationParams{ID: r.ID, Answer: answer, Problem: string(problem)}); err != nil {
				break
			}
		}
	}
}

// ErrUnanswered is given by Ask when no process feeds.
var ErrUnanswered = errors.New("nobody answered within 10 s: only the process that feeds can explain; is `pgautomate run` up?")

// Ask has the process that feeds explain, wherever it runs.
func Ask(ctx context.Context, db dbq.DBTX, triggerID int64, objectID string, at *string) (*Explanation, error) {
	q := dbq.New(db)
	id, err := q.AskExplanation(ctx, dbq.AskExplanationParams{TriggerID: triggerID, ObjectID: objectID, CommitLsn: at})
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		r, err := q.Explanation(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("explanation: %w", err)
		}
		switch {
		case r.Problem != nil:
			return nil, errors.New(*r.Problem)
		case r.Answer != nil:
			var x Explanation
			if err := json.Unmarshal(r.Answer, &x); err != nil {
				return nil, fmt.Errorf("explanation: %w", err)
			}
			return &x, nil
		case time.Now().After(deadline):
			return nil, ErrUnanswered
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

package firing

// Replies: rows of tables that are registered as holding them (`watch
// --reply-when`). A row is one when it comes to meet the table's reply query, by
// the rule by which triggers fire and the same evaluator: it did not meet it
// before the commit, or was not there, and meets it after. Replies are written in
// the feed's transaction, with a carrier that wakes the waits of whom they are from.

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/trigger"
)

// repliesAt bounds how many replies are held before they are written, and
// repliersAt how many leads one carrier wakes.
const (
	repliesAt  = 5000
	repliersAt = 1000
)

// replyType is an object type whose rows may be replies: its query as a trigger
// of each organization that a row came from.
type replyType struct {
	typ           *catalog.Type // as of which this was made
	set           *trigger.Set
	layouts       map[*change.Relation]struct{}
	organizations map[string]struct{}
}

// replies are those of one transaction of the feed.
type replies struct {
	rows dbq.InsertRepliesParams

	// Of the change before: most are of the same type.
	object *change.Object
	typ    *replyType
}

// reply keeps a change that makes a row a reply.
func (b *batch) reply(ctx context.Context, c *change.Commit, ch *change.Change, suppressed bool) error {
	if ch.After == nil || ch.Organization == "" || suppressed {
		return nil
	}
	if b.replies.object != ch.Object {
		b.replies.object, b.replies.typ = ch.Object, b.replyType(ch.Object.Type)
	}
	t := b.replies.typ
	if t == nil || t.typ.KeyOnly(ch.Before) { // of the latter it can't be told what it was before
		return nil
	}
	is, err := b.isReply(ctx, c, t, ch)
	if err != nil || !is {
		return err
	}
	cells, err := ch.After.Decode(nil)
	if err != nil {
		return fmt.Errorf("row of %s: %w", ch.Object, err)
	}
	value := func(column string) string {
		if i := ch.Relation.Index(column); column != "" && i >= 0 && i < len(cells) && cells[i].Kind == change.Text {
			return string(cells[i].Data)
		}
		return ""
	}
	r := t.typ.Reply
	lead, contact, channel := value(r.Lead), value(r.Contact), value(r.Channel)
	if lead != "" {
		b.replies.add(c, ch, r.LeadType, lead, contact, channel)
	}
	if contact != "" && r.ContactType != r.LeadType {
		b.replies.add(c, ch, r.ContactType, contact, contact, channel)
	}
	if len(b.replies.rows.LeadIds) < repliesAt {
		return nil
	}
	if err := b.writeReplies(ctx); err != nil {
		return err
	}
	return b.enqueue(ctx, false)
}

// replyType gives what is known of a type's replies; nil when it has none.
func (m *Matcher) replyType(name string) *replyType {
	t := m.Catalog.Type(name)
	if t == nil || t.Reply == nil {
		delete(m.replyTypes, name)
		return nil
	}
	if known := m.replyTypes[name]; known != nil && known.typ == t {
		return known
	}
	if m.replyTypes == nil {
		m.replyTypes = map[string]*replyType{}
	}
	made := &replyType{typ: t, set: trigger.NewSet(), layouts: map[*change.Relation]struct{}{}, organizations: map[string]struct{}{}}
	m.replyTypes[name] = made
	return made
}

// isReply asks the reply query about one change.
func (b *batch) isReply(ctx context.Context, c *change.Commit, t *replyType, ch *change.Change) (bool, error) {
	if _, known := t.layouts[ch.Relation]; !known {
		// The table has changed: whether the query still holds is seen anew.
		t.set, t.organizations = trigger.NewSet(), map[string]struct{}{}
		clear(t.layouts)
		schema, err := b.Catalog.LayoutSchema(ctx, ch.Object, ch.Relation)
		if err != nil {
			return false, err
		}
		schema.Relations = nil
		t.set.SetSchema(schema, ch.Relation)
		t.layouts[ch.Relation] = struct{}{}
	}
	if _, known := t.organizations[ch.Organization]; !known {
		where, err := b.location(ctx, ch.Organization)
		if err != nil {
			return false, err
		}
		organization := strings.Clone(ch.Organization)
		err = t.set.Put(trigger.Definition{
			ID: int64(len(t.organizations)) + 1, Version: 1, Organization: organization, Name: "replies", ObjectType: ch.Object.Type,
			Query: t.typ.Reply.When, Location: where,
		})
		b.judgeReplies(c, ch.Object.Type, err)
		t.organizations[organization] = struct{}{}
	}
	matched, _, err := t.set.Match(b.matched[:0], ch)
	b.matched = matched[:0]
	if err != nil {
		b.notes.add(c, "undecodable", 1, map[string]any{"table": ch.Object.String(), "object_id": strings.Clone(ch.ID), "problem": err.Error()})
		return false, nil //nolint:nilerr // a poison change is noted and passed over
	}
	return len(matched) > 0, nil
}

// judgeReplies shows on the object type whether its reply query holds.
func (b *batch) judgeReplies(c *change.Commit, objectType string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if shown, known := b.replyErrors[objectType]; known && shown == text {
		return
	}
	if b.replyErrors == nil {
		b.replyErrors = map[string]string{}
	}
	b.replyErrors[objectType] = text
	b.marker.add(mark{objectType: objectType, status: repliesStatus, error: text})
	if text != "" {
		b.notes.add(c, "reply_query_invalid", 1, map[string]any{
			"object_type": objectType, "problem": text, "fix": "watch the table again with a --reply-when that holds for its columns",
		})
	}
}

func (r *replies) add(c *change.Commit, ch *change.Change, leadType, lead, contact, channel string) {
	p := &r.rows
	p.OrganizationIds, p.LeadTypes = append(p.OrganizationIds, strings.Clone(ch.Organization)), append(p.LeadTypes, leadType)
	p.LeadIds, p.ObjectTypes = append(p.LeadIds, lead), append(p.ObjectTypes, ch.Object.Type)
	p.ObjectIds, p.ContactIds = append(p.ObjectIds, strings.Clone(ch.ID)), append(p.ContactIds, contact)
	p.Channels, p.CommittedAts = append(p.Channels, channel), append(p.CommittedAts, c.Time)
	p.CommitLsns = append(p.CommitLsns, c.LSN.String())
}

// writeReplies writes the replies, and what wakes the waits for them.
func (b *batch) writeReplies(ctx context.Context) error {
	p := &b.replies.rows
	if len(p.LeadIds) == 0 {
		return nil
	}
	if err := b.q.InsertReplies(ctx, *p); err != nil {
		return fmt.Errorf("replies: %w", err)
	}
	b.carriers = append(b.carriers, repliers(p)...)
	b.replies.rows = dbq.InsertRepliesParams{}
	return nil
}

// repliers gives the carriers: each lead once, at most repliersAt in one.
func repliers(p *dbq.InsertRepliesParams) []river.InsertManyParams {
	type key struct{ organization, leadType string }
	var keys []key
	leads := map[key][]string{}
	for i, id := range p.LeadIds {
		k := key{p.OrganizationIds[i], p.LeadTypes[i]}
		if leads[k] == nil {
			keys = append(keys, k)
		}
		leads[k] = append(leads[k], id)
	}
	var list []river.InsertManyParams
	for _, k := range keys {
		ids := leads[k]
		slices.Sort(ids)
		for part := range slices.Chunk(slices.Compact(ids), repliersAt) {
			list = append(list, carrier(jobs.RepliedArgs{OrganizationID: k.organization, ObjectType: k.leadType, IDs: part}))
		}
	}
	return list
}

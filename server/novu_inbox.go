package server

// A subscriber's in-app feed as v2 has it (the inbox): items instead of messages,
// archived and snoozed beside read and seen, buttons.

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// maxCounts is how many filters one count may have.
const maxCounts = 30

func (s *Server) registerInbox(mux *http.ServeMux) {
	const tag, base = "inbox", "/v2/subscribers/{subscriberId}/notifications"
	const one = base + "/{notificationId}"
	routes := []wire{
		{method: http.MethodGet, path: base, id: "inbox", summary: "A subscriber's inbox, the newest first", tag: tag, query: []string{
			"limit", "offset", "after", "read", "seen", "archived", "snoozed", "tags", "data", "createdGte", "createdLte",
		}, handle: inbox},
		{method: http.MethodGet, path: base + "/count", id: "inbox-count", summary: "How many there are, for each of up to 30 filters", tag: tag, query: []string{"filters"}, handle: inboxCount},
		{method: http.MethodPatch, path: one + "/snooze", id: "inbox-snooze", summary: "Hide an item until a time", tag: tag, handle: snooze},
		{method: http.MethodPatch, path: one + "/unsnooze", id: "inbox-unsnooze", summary: "Show a snoozed item again", tag: tag, handle: unsnooze},
		{method: http.MethodDelete, path: one, id: "inbox-delete", summary: "Delete an item", tag: tag, handle: deleteItem},
		{method: http.MethodPatch, path: one + "/actions/{actionType}/complete", id: "inbox-complete", summary: "A button was pressed", tag: tag, handle: func(c *call) (int, any, error) { return c.pressed("done") }},
		{method: http.MethodPatch, path: one + "/actions/{actionType}/revert", id: "inbox-revert", summary: "A button is given back", tag: tag, handle: func(c *call) (int, any, error) { return c.pressed("pending") }},
		{method: http.MethodPost, path: "/v1/subscribers/{subscriberId}/messages/{messageId}/actions/{type}", id: "v1-message-action", summary: "A button was pressed (v1)", tag: tag, handle: messageAction},
	}
	for as, name := range map[string]string{"read": "read", "unread": "unread", "archived": "archive", "unarchived": "unarchive"} {
		routes = append(routes, wire{method: http.MethodPatch, path: one + "/" + name, id: "inbox-" + name, summary: "Mark an item as " + as, tag: tag, handle: func(c *call) (int, any, error) { return c.markItem(as) }})
	}
	for as, name := range map[string]string{"read": "read", "seen": "seen", "archived": "archive", "read-archived": "read-archive", "deleted": "delete"} {
		routes = append(routes, wire{method: http.MethodPost, path: base + "/" + name, id: "inbox-all-" + name, summary: "Mark all items: " + as, tag: tag, handle: func(c *call) (int, any, error) { return c.markItems(as) }})
	}
	s.novu(mux, routes...)
}

// itemFilter is what lists, counts and marks of an inbox can be narrowed by.
type itemFilter struct {
	Read     *bool           `json:"read"`
	Seen     *bool           `json:"seen"`
	Archived *bool           `json:"archived"`
	Snoozed  *bool           `json:"snoozed"`
	Tags     json.RawMessage `json:"tags"`
	Data     json.RawMessage `json:"data"`
	IDs      []string        `json:"notificationIds"`
}

// tags reads ["a", "b"], any of which will do.
func (f *itemFilter) tags() ([]string, error) {
	list := []string{}
	if len(f.Tags) > 0 && json.Unmarshal(f.Tags, &list) != nil {
		return nil, refuse("tags must be a list of strings")
	}
	return orNone(list), nil
}

// data reads an object, or the JSON text of one.
func (f *itemFilter) data() (json.RawMessage, error) {
	raw := f.Data
	var text string
	if json.Unmarshal(raw, &text) == nil {
		raw = json.RawMessage(text)
	}
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var o obj
	if json.Unmarshal(raw, &o) != nil {
		return nil, refuse("data must be a JSON object")
	}
	return raw, nil
}

func (f *itemFilter) show() obj {
	m := obj{}
	put(m, "read", f.Read)
	put(m, "seen", f.Seen)
	put(m, "archived", f.Archived)
	put(m, "snoozed", f.Snoozed)
	put(m, "tags", f.Tags)
	put(m, "data", f.Data)
	return m
}

// snoozed hides what is snoozed unless it is asked for.
func (f *itemFilter) snoozed() *bool {
	if f.Snoozed == nil {
		return new(bool)
	}
	return f.Snoozed
}

func showItem(r *dbq.ApiInboxRow, sub *dbq.ApiGetSubscriberRow) obj {
	to := obj{"id": itoa(sub.ID), "subscriberId": sub.SubscriberID}
	put(to, "firstName", sub.FirstName)
	put(to, "lastName", sub.LastName)
	put(to, "avatar", sub.Avatar)
	snoozed := r.SnoozedUntil != nil && r.SnoozedUntil.After(time.Now())
	m := obj{
		"id": itoa(r.ID), "transactionId": r.TransactionID, "body": "", "to": to, "isRead": r.Read, "isSeen": r.Seen, "isArchived": r.Archived,
		"isSnoozed": snoozed, "createdAt": wireTime(r.CreatedAt), "channelType": "in_app", "tags": orNone(r.Tags), "severity": r.Severity,
	}
	put(m, "body", r.Content)
	put(m, "subject", r.Subject)
	put(m, "avatar", r.Avatar)
	put(m, "data", r.Data)
	put(m, "snoozedUntil", r.SnoozedUntil)
	for name, at := range map[string]*time.Time{"readAt": r.ReadAt, "firstSeenAt": r.SeenAt, "archivedAt": r.ArchivedAt} {
		put(m, name, at)
	}
	if r.WorkflowID != 0 {
		m["workflow"] = obj{
			"id": itoa(r.WorkflowID), "identifier": r.WorkflowIdentifier, "name": r.WorkflowName, "critical": r.WorkflowCritical,
			"tags": orNone(r.Tags), "severity": r.Severity,
		}
	}
	showButtons(m, r.Cta)
	return m
}

// showButtons gives an item the redirect and the buttons of a message's cta.
func showButtons(m obj, cta json.RawMessage) {
	var c struct {
		Data struct {
			URL    string `json:"url"`
			Target string `json:"target"`
		} `json:"data"`
		Action struct {
			Status  string `json:"status"`
			Buttons []struct {
				Type    string `json:"type"`
				Content string `json:"content"`
				URL     string `json:"url"`
			} `json:"buttons"`
			Result struct {
				Type string `json:"type"`
			} `json:"result"`
		} `json:"action"`
	}
	if json.Unmarshal(cta, &c) != nil {
		return // nothing that a button can be made of
	}
	if c.Data.URL != "" {
		m["redirect"] = obj{"url": c.Data.URL}
	}
	for _, b := range c.Action.Buttons {
		name := map[string]string{"primary": "primaryAction", "secondary": "secondaryAction"}[b.Type]
		if name == "" {
			continue
		}
		button := obj{"label": b.Content, "isCompleted": c.Action.Status == "done" && c.Action.Result.Type == b.Type}
		if b.URL != "" {
			button["redirect"] = obj{"url": b.URL}
		}
		m[name] = button
	}
}

// time reads a parameter in milliseconds since 1970, or ISO 8601.
func (c *call) time(name string) (*time.Time, error) {
	text := c.query(name)
	if text == "" {
		return nil, nil
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		t := time.UnixMilli(ms)
		return &t, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, refuse(name + " must be milliseconds since 1970, or a time such as 2028-03-13T10:00:00Z")
	}
	return &t, nil
}

func inbox(c *call) (int, any, error) {
	limit, err := c.limit(10)
	if err != nil {
		return 0, nil, err
	}
	skip, err := c.number("offset", 0, 1_000_000)
	if err != nil {
		return 0, nil, err
	}
	f := itemFilter{Read: c.flag("read"), Seen: c.flag("seen"), Archived: c.flag("archived"), Snoozed: c.flag("snoozed"), Data: json.RawMessage(c.query("data"))}
	if tags := c.all("tags"); len(tags) > 0 {
		if f.Tags, err = json.Marshal(tags); err != nil {
			return 0, nil, err
		}
	}
	p := dbq.ApiInboxParams{Read: f.Read, Seen: f.Seen, Archived: f.Archived, Snoozed: f.snoozed(), Ids: []int64{}, MaxRows: limit + 1, Skip: skip}
	if p.Tags, err = f.tags(); err != nil {
		return 0, nil, err
	}
	if p.Data, err = f.data(); err != nil {
		return 0, nil, err
	}
	if p.CreatedFrom, err = c.time("createdGte"); err != nil {
		return 0, nil, err
	}
	if p.CreatedUntil, err = c.time("createdLte"); err != nil {
		return 0, nil, err
	}
	if after := c.query("after"); after != "" {
		id := idNumber(after)
		if id == nil {
			return 0, nil, refuse("after must be an item's id")
		}
		p.Before = *id
	}
	sub, err := c.feedOf(http.StatusNotFound)
	if err != nil {
		return 0, nil, err
	}
	p.SubscriberNo = sub.ID
	rows, err := c.s.q.ApiInbox(c.ctx, p)
	if err != nil {
		return 0, nil, err
	}
	data := []obj{}
	for i := range rows[:min(len(rows), int(limit))] {
		data = append(data, showItem(&rows[i], sub))
	}
	return http.StatusOK, obj{"data": data, "hasMore": len(rows) > int(limit), "filter": f.show()}, nil
}

func inboxCount(c *call) (int, any, error) {
	var filters []itemFilter
	text := c.query("filters")
	if text == "" || json.Unmarshal([]byte(text), &filters) != nil || len(filters) == 0 || len(filters) > maxCounts {
		return 0, nil, refuse("filters must be the JSON text of an array of 1 to " + strconv.Itoa(maxCounts) + " filters, such as [{\"read\":false}]")
	}
	sub, err := c.feedOf(http.StatusNotFound)
	if err != nil {
		return 0, nil, err
	}
	out := make([]obj, len(filters))
	for i := range filters {
		f := &filters[i]
		p := dbq.ApiInboxCountParams{SubscriberNo: sub.ID, Read: f.Read, Seen: f.Seen, Archived: f.Archived, Snoozed: f.snoozed()}
		if p.Tags, err = f.tags(); err != nil {
			return 0, nil, err
		}
		if p.Data, err = f.data(); err != nil {
			return 0, nil, err
		}
		n, err := c.s.q.ApiInboxCount(c.ctx, p)
		if err != nil {
			return 0, nil, err
		}
		out[i] = obj{"count": n, "filter": f.show()}
	}
	return http.StatusOK, out, nil
}

// itemID is the subscriber and the item that a path names.
func (c *call) itemID(name string) (*dbq.ApiGetSubscriberRow, int64, error) {
	sub, err := c.feedOf(http.StatusNotFound)
	if err != nil {
		return nil, 0, err
	}
	id := idNumber(c.PathValue(name))
	if id == nil {
		return nil, 0, notFound("notification", c.PathValue(name))
	}
	return sub, *id, nil
}

func (c *call) item(sub *dbq.ApiGetSubscriberRow, id int64) (int, any, error) {
	rows, err := c.s.q.ApiInbox(c.ctx, dbq.ApiInboxParams{SubscriberNo: sub.ID, Ids: []int64{id}, Tags: []string{}, MaxRows: 1})
	if err != nil {
		return 0, nil, err
	}
	if len(rows) == 0 {
		return 0, nil, notFound("notification", itoa(id))
	}
	return http.StatusOK, showItem(&rows[0], sub), nil
}

func (c *call) markItem(as string) (int, any, error) {
	sub, id, err := c.itemID("notificationId")
	if err != nil {
		return 0, nil, err
	}
	if _, err := c.s.q.ApiMarkMessages(c.ctx, dbq.ApiMarkMessagesParams{MarkAs: as, SubscriberNo: sub.ID, Ids: []int64{id}}); err != nil {
		return 0, nil, err
	}
	return c.item(sub, id)
}

func (c *call) markItems(as string) (int, any, error) {
	var f itemFilter
	if len(c.body) > 0 {
		if err := c.read(&f); err != nil {
			return 0, nil, err
		}
	}
	p := dbq.ApiMarkInboxParams{MarkAs: as, Ids: []int64{}}
	var err error
	if p.Tags, err = f.tags(); err != nil {
		return 0, nil, err
	}
	if p.Data, err = f.data(); err != nil {
		return 0, nil, err
	}
	for _, text := range f.IDs {
		id := idNumber(text)
		if id == nil {
			return 0, nil, refuse("notificationIds must be items' ids")
		}
		p.Ids = append(p.Ids, *id)
	}
	if as == "deleted" && len(f.IDs) > 0 && len(p.Ids) == 0 {
		return 0, nil, refuse("notificationIds must be items' ids")
	}
	sub, err := c.feedOf(http.StatusNotFound)
	if err != nil {
		return 0, nil, err
	}
	p.SubscriberNo = sub.ID
	_, err = c.s.q.ApiMarkInbox(c.ctx, p)
	return http.StatusNoContent, nil, err
}

func snooze(c *call) (int, any, error) {
	var b struct {
		Until *time.Time `json:"snoozeUntil"`
	}
	if err := json.Unmarshal(c.body, &b); err != nil || b.Until == nil || !b.Until.After(time.Now()) {
		return 0, nil, refuse("snoozeUntil must be a time in the future, such as 2028-03-13T10:00:00Z")
	}
	return c.snoozeUntil(b.Until)
}

func unsnooze(c *call) (int, any, error) { return c.snoozeUntil(nil) }

func (c *call) snoozeUntil(until *time.Time) (int, any, error) {
	sub, id, err := c.itemID("notificationId")
	if err != nil {
		return 0, nil, err
	}
	if _, err := c.s.q.ApiSnooze(c.ctx, dbq.ApiSnoozeParams{SubscriberNo: sub.ID, ID: id, Until: until}); err != nil {
		return 0, nil, err
	}
	return c.item(sub, id)
}

func deleteItem(c *call) (int, any, error) {
	sub, id, err := c.itemID("notificationId")
	if err != nil {
		return 0, nil, err
	}
	n, err := c.s.q.ApiMarkInbox(c.ctx, dbq.ApiMarkInboxParams{MarkAs: "deleted", SubscriberNo: sub.ID, Ids: []int64{id}, Tags: []string{}})
	if err == nil && n == 0 {
		err = notFound("notification", itoa(id))
	}
	return http.StatusNoContent, nil, err
}

// press writes that a button was pressed, or given back.
func (c *call) press(sub *dbq.ApiGetSubscriberRow, id int64, button, status string, payload json.RawMessage) error {
	if button != "primary" && button != "secondary" {
		return refuse("the action's type must be primary or secondary")
	}
	p := dbq.ApiMessageActionParams{SubscriberNo: sub.ID, ID: id, Button: button, Status: status}
	if strings.HasPrefix(string(payload), "{") {
		if raw, err := json.Marshal(obj{"payload": payload}); err == nil {
			p.Payload = raw
		}
	}
	n, err := c.s.q.ApiMessageAction(c.ctx, p)
	if err == nil && n == 0 {
		err = notFound("notification", itoa(id))
	}
	return err
}

func (c *call) pressed(status string) (int, any, error) {
	sub, id, err := c.itemID("notificationId")
	if err == nil {
		err = c.press(sub, id, c.PathValue("actionType"), status, nil)
	}
	if err != nil {
		return 0, nil, err
	}
	return c.item(sub, id)
}

func messageAction(c *call) (int, any, error) {
	var b struct {
		Status  string          `json:"status"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if b.Status != "done" && b.Status != "pending" {
		return 0, nil, refuse("status must be one of the following values: pending, done")
	}
	sub, id, err := c.itemID("messageId")
	if err == nil {
		err = c.press(sub, id, c.PathValue("type"), b.Status, b.Payload)
	}
	if err != nil {
		return 0, nil, err
	}
	rows, err := c.s.q.ApiListMessages(c.ctx, dbq.ApiListMessagesParams{OrganizationID: c.org, SubscriberID: sub.SubscriberID, TransactionIds: []string{}, ID: id, MaxRows: 1})
	if err != nil {
		return 0, nil, err
	}
	if len(rows) == 0 {
		return 0, nil, notFound("message", itoa(id))
	}
	return http.StatusCreated, showMessage(messageOf(&rows[0])), nil
}

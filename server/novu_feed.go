package server

// A subscriber's in-app feed: what is in it, what of it was seen and read, and word
// of what is new while it is looked at.

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/pgautomate/pgautomate/db/dbq"
)

func (s *Server) registerFeed(mux *http.ServeMux) {
	const tag, base = "feed", "/v1/subscribers/{subscriberId}"
	s.novu(mux,
		wire{method: http.MethodGet, path: base + "/notifications/feed", id: "feed", summary: "A subscriber's feed, the newest first", tag: tag, query: []string{"page", "limit", "read", "seen", "payload"}, handle: feed},
		wire{method: http.MethodGet, path: base + "/notifications/unseen", id: "feed-unseen", summary: "How many are not seen", tag: tag, query: []string{"seen", "limit"}, handle: unseen},
		wire{method: http.MethodPost, path: base + "/messages/mark-as", id: "feed-mark-as", summary: "Mark messages as read, seen, unread or unseen", tag: tag, handle: markAs},
		wire{method: http.MethodPost, path: base + "/messages/markAs", id: "feed-mark", summary: "Mark messages by {read, seen}, as older clients do", tag: tag, handle: mark},
		wire{method: http.MethodPost, path: base + "/messages/mark-all", id: "feed-mark-all", summary: "Mark all messages", tag: tag, handle: markAll},
	)
}

var marks = []string{"read", "seen", "unread", "unseen"}

func (c *call) feedOf(status int) (*dbq.ApiGetSubscriberRow, error) {
	id := c.PathValue("subscriberId")
	r, err := c.s.q.ApiGetSubscriber(c.ctx, dbq.ApiGetSubscriberParams{OrganizationID: c.org, SubscriberID: id})
	if none(err) {
		return nil, problemf(status, "Subscriber not found for this environment with the id: %s. Make sure to create a subscriber before fetching the feed.", clip(id))
	}
	return &r, err
}

func feed(c *call) (int, any, error) {
	page, size, err := c.paging(100)
	if err != nil {
		return 0, nil, err
	}
	p := dbq.ApiFeedParams{Read: c.flag("read"), Seen: c.flag("seen"), Tags: []string{}, MaxRows: size + 1, Skip: page * size}
	if text := c.query("payload"); text != "" {
		raw, err := base64.StdEncoding.DecodeString(text)
		var o obj
		if err != nil || json.Unmarshal(raw, &o) != nil {
			return 0, nil, problemf(http.StatusBadRequest, "Invalid payload, the JSON object should be encoded to base64 string.")
		}
		p.Payload = raw
	}
	sub, err := c.feedOf(http.StatusBadRequest)
	if err != nil {
		return 0, nil, err
	}
	p.SubscriberNo = sub.ID
	rows, err := c.s.q.ApiFeed(c.ctx, p)
	if err != nil {
		return 0, nil, err
	}
	total, data := int64(0), []obj{}
	if len(rows) == 0 && page > 0 { // beyond the end: of what?
		p.Skip, p.MaxRows = 0, 1
		first, err := c.s.q.ApiFeed(c.ctx, p)
		if err != nil {
			return 0, nil, err
		}
		for i := range first {
			total = first[i].Total
		}
	}
	for i := range rows {
		total = rows[i].Total
		if i == int(size) {
			break
		}
		r := &rows[i]
		one := showMessage(&dbq.PgautomateMessage{
			ID: r.ID, OrganizationID: r.OrganizationID, NotificationID: r.NotificationID, JobID: r.JobID, WorkflowID: r.WorkflowID, SubscriberID: r.SubscriberID,
			SubscriberNo: r.SubscriberNo, TransactionID: r.TransactionID, Channel: r.Channel, ProviderID: r.ProviderID, Subject: r.Subject, Content: r.Content,
			Cta: r.Cta, Payload: r.Payload, Data: r.Data, Avatar: r.Avatar, Tags: r.Tags, Status: r.Status, Read: r.Read, Seen: r.Seen, Archived: r.Archived,
			ReadAt: r.ReadAt, SeenAt: r.SeenAt, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
		})
		one["subscriber"] = obj{"_id": itoa(sub.ID), "subscriberId": sub.SubscriberID}
		data = append(data, one)
	}
	return http.StatusOK, obj{"page": page, "pageSize": size, "hasMore": len(rows) > int(size), "totalCount": total, "data": data}, nil
}

func unseen(c *call) (int, any, error) {
	limit, err := c.limit(100)
	if err != nil {
		return 0, nil, err
	}
	sub, err := c.feedOf(http.StatusBadRequest)
	if err != nil {
		return 0, nil, err
	}
	seen := c.flag("seen")
	if seen == nil {
		seen = new(bool)
	}
	n, err := c.s.q.ApiFeedCount(c.ctx, dbq.ApiFeedCountParams{SubscriberNo: sub.ID, Seen: seen, Tags: []string{}, Most: int64(limit)})
	return http.StatusOK, obj{"count": n}, err
}

func markAs(c *call) (int, any, error) {
	var b struct {
		MessageID json.RawMessage `json:"messageId"`
		MarkAs    string          `json:"markAs"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	return c.mark(b.MessageID, b.MarkAs)
}

// mark is what the form before markAs was: {mark: {seen, read}}.
func mark(c *call) (int, any, error) {
	var b struct {
		MessageID json.RawMessage `json:"messageId"`
		Mark      struct {
			Seen *bool `json:"seen"`
			Read *bool `json:"read"`
		} `json:"mark"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	var as []string
	for _, m := range []struct {
		said    *bool
		on, off string
	}{{b.Mark.Seen, "seen", "unseen"}, {b.Mark.Read, "read", "unread"}} {
		switch {
		case m.said == nil:
		case *m.said:
			as = append(as, m.on)
		default:
			as = append(as, m.off)
		}
	}
	if len(as) == 0 {
		return 0, nil, refuse("mark must say read or seen: true or false")
	}
	return c.mark(b.MessageID, as...)
}

// mark marks messages, one way after the other.
func (c *call) mark(messageID json.RawMessage, as ...string) (int, any, error) {
	var ids []string
	var one string
	if json.Unmarshal(messageID, &one) == nil && one != "" {
		ids = []string{one}
	} else {
		_ = json.Unmarshal(messageID, &ids) // no list: refused below
	}
	if len(ids) == 0 {
		return 0, nil, problemf(http.StatusBadRequest, "messageId is required")
	}
	for _, one := range as {
		if !slices.Contains(marks, one) {
			return 0, nil, refuse("markAs must be one of the following values: read, seen, unread, unseen")
		}
	}
	sub, err := c.feedOf(http.StatusNotFound)
	if err != nil {
		return 0, nil, err
	}
	p := dbq.ApiMarkMessagesParams{SubscriberNo: sub.ID, Ids: []int64{}}
	for _, id := range ids {
		if n := idNumber(id); n != nil {
			p.Ids = append(p.Ids, *n)
		}
	}
	var rows []dbq.PgautomateMessage
	err = c.transaction(func(q *dbq.Queries) (err error) {
		for _, p.MarkAs = range as {
			if rows, err = q.ApiMarkMessages(c.ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
	data := make([]obj, len(rows))
	for i := range rows {
		data[i] = showMessage(&rows[i])
	}
	return http.StatusCreated, data, err
}

func markAll(c *call) (int, any, error) {
	var b struct {
		MarkAs string `json:"markAs"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if !slices.Contains(marks, b.MarkAs) {
		return 0, nil, refuse(fmt.Sprintf("markAs must be one of the following values: %s", "read, seen, unread, unseen"))
	}
	sub, err := c.feedOf(http.StatusNotFound)
	if err != nil {
		return 0, nil, err
	}
	n, err := c.s.q.ApiMarkAll(c.ctx, dbq.ApiMarkAllParams{MarkAs: b.MarkAs, SubscriberNo: sub.ID, Tags: []string{}})
	return http.StatusCreated, n, err
}

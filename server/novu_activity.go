package server

// The activity feed: notifications with their jobs and what happened to each, and
// the messages that were sent.

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/notification"
)

func (s *Server) registerActivity(mux *http.ServeMux) {
	const tag = "activity"
	s.novu(mux,
		wire{method: http.MethodGet, path: "/v1/notifications", id: "list-notifications", summary: "List notifications, the newest first", tag: tag, query: []string{
			"page", "limit", "transactionId", "channels", "templates", "emails", "subscriberIds", "search", "after", "before", "topicKey", "severity",
		}, handle: listNotifications},
		wire{method: http.MethodGet, path: "/v1/notifications/{notificationId}", id: "get-notification", summary: "Get a notification", tag: tag, handle: getNotification},
		wire{method: http.MethodGet, path: "/v1/messages", id: "list-messages", summary: "List messages, the newest first", tag: tag, query: []string{"page", "limit", "channel", "subscriberId", "transactionId"}, handle: listMessages},
		wire{method: http.MethodDelete, path: "/v1/messages/{messageId}", id: "delete-message", summary: "Delete a message", tag: tag, handle: deleteMessage},
		wire{method: http.MethodDelete, path: "/v1/messages/transaction/{transactionId}", id: "delete-messages", summary: "Delete a transaction's messages", tag: tag, query: []string{"channel"}, handle: deleteMessages},
	)
}

// moment reads an ISO 8601 instant in the query.
func (c *call) moment(name string) (*time.Time, error) {
	text := c.query(name)
	if text == "" {
		return nil, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, refuse(name + " must be a valid ISO 8601 date string")
	}
	return &t, nil
}

func listNotifications(c *call) (int, any, error) {
	page, size, err := c.paging(100)
	if err != nil {
		return 0, nil, err
	}
	p := dbq.ApiListNotificationsParams{
		OrganizationID: c.org, TransactionIds: c.all("transactionId"), Channels: c.all("channels"), Workflows: c.all("templates"),
		Emails: c.all("emails"), SubscriberIds: c.all("subscriberIds"), Search: c.query("search"), TopicKey: c.query("topicKey"), Severities: c.all("severity"),
		MaxRows: size + 1, Skip: page * size,
	}
	if p.After, err = c.moment("after"); err != nil {
		return 0, nil, err
	}
	if p.Before, err = c.moment("before"); err != nil {
		return 0, nil, err
	}
	data, err := c.activity(p)
	if err != nil {
		return 0, nil, err
	}
	more := len(data) > int(size)
	return http.StatusOK, obj{"page": page, "pageSize": size, "hasMore": more, "data": data[:min(len(data), int(size))]}, nil
}

// activity is a page of the feed: notifications, and among them, in the order of their
// ids, topics that weren't there.
func (c *call) activity(p dbq.ApiListNotificationsParams) ([]obj, error) {
	var failures []int64
	if len(p.Channels)+len(p.Emails)+len(p.SubscriberIds) == 0 { // they have none
		var err error
		if failures, err = c.s.q.ApiListFailures(c.ctx, dbq.ApiListFailuresParams{
			OrganizationID: p.OrganizationID, ID: p.ID, TransactionIds: p.TransactionIds, Workflows: p.Workflows, Search: p.Search,
			After: p.After, Before: p.Before, TopicKey: p.TopicKey, Severities: p.Severities, MaxRows: p.Skip + p.MaxRows,
		}); err != nil {
			return nil, err
		}
	}
	// At least so many of what is skipped are notifications; the others are merged first.
	skip, size := p.Skip, p.MaxRows
	p.Skip = max(0, skip-int32(min(len(failures), int(skip))))
	skip -= p.Skip
	p.MaxRows = size + skip
	rows, err := c.s.q.ApiListNotifications(c.ctx, p)
	if err != nil {
		return nil, err
	}
	var chosen []dbq.ApiListNotificationsRow
	var places []int64 // of the page: a failure's id, or 0 for the next notification
	failed := []int64{}
	for n, f := 0, 0; n+f < int(skip+size) && (n < len(rows) || f < len(failures)); {
		shown := n+f >= int(skip)
		if n == len(rows) || f < len(failures) && failures[f] > rows[n].ID {
			if shown {
				failed, places = append(failed, failures[f]), append(places, failures[f])
			}
			f++
			continue
		}
		if shown {
			chosen, places = append(chosen, rows[n]), append(places, 0)
		}
		n++
	}
	made, err := c.showNotifications(chosen)
	if err != nil || len(failed) == 0 {
		return made, err
	}
	shown, err := c.s.q.ApiFailures(c.ctx, failed)
	if err != nil {
		return nil, err
	}
	failure := map[int64]obj{}
	for i := range shown {
		failure[shown[i].ID] = showFailure(&shown[i])
	}
	data := make([]obj, 0, len(places))
	for _, id := range places {
		if id == 0 {
			data, made = append(data, made[0]), made[1:]
		} else if one := failure[id]; one != nil { // else its event was deleted just now
			data = append(data, one)
		}
	}
	return data, nil
}

func getNotification(c *call) (int, any, error) {
	text := c.PathValue("notificationId")
	missing := problemf(http.StatusNotFound, "Notification with id %s not found", clip(text))
	id := idNumber(text)
	if id == nil {
		return 0, nil, missing
	}
	data, err := c.activity(dbq.ApiListNotificationsParams{
		OrganizationID: c.org, ID: id, MaxRows: 1, TransactionIds: []string{}, Channels: []string{}, Workflows: []string{}, Emails: []string{}, SubscriberIds: []string{}, Severities: []string{},
	})
	if err != nil {
		return 0, nil, err
	}
	if len(data) == 0 {
		return 0, nil, missing
	}
	return http.StatusOK, data[0], nil
}

// providers are those that the SDKs know; an answer with another one is refused by them.
var providers = []string{
	"novu", "nodemailer", "email-webhook", "generic-sms", "push-webhook", "chat-webhook", "sendgrid", "ses", "mailgun", "twilio", "sns", "fcm", "apns", "slack",
	"discord", "msteams", "mattermost", "expo", "one-signal", "postmark", "resend", "mailjet", "plivo", "nexmo", "messagebird", "telnyx",
}

func knownProvider(id string) string {
	if slices.Contains(providers, id) {
		return id
	}
	return "novu"
}

func (c *call) showNotifications(rows []dbq.ApiListNotificationsRow) ([]obj, error) {
	ids := make([]int64, len(rows))
	for i := range rows {
		ids[i] = rows[i].ID
	}
	jobRows, err := c.s.q.ApiJobsOf(c.ctx, ids)
	if err != nil {
		return nil, err
	}
	detailRows, err := c.s.q.ApiDetailsOf(c.ctx, ids)
	if err != nil {
		return nil, err
	}
	details := map[int64][]obj{}
	for i := range detailRows {
		d := &detailRows[i]
		details[d.JobID] = append(details[d.JobID], showDetail(d, len(details[d.JobID])))
	}
	jobs := map[int64][]obj{}
	for i := range jobRows {
		j := &jobRows[i]
		jobs[j.NotificationID] = append(jobs[j.NotificationID], showJob(j, details[j.ID]))
	}
	out := make([]obj, len(rows))
	for i := range rows {
		r := &rows[i]
		who := obj{"_id": itoa(r.SubscriberNo), "subscriberId": r.SubscriberID}
		put(who, "firstName", r.FirstName)
		put(who, "lastName", r.LastName)
		put(who, "email", r.Email)
		put(who, "phone", r.Phone)
		out[i] = obj{
			"_id": itoa(r.ID), "_environmentId": r.OrganizationID, "_organizationId": r.OrganizationID, "_subscriberId": itoa(r.SubscriberNo),
			"_templateId": itoa(r.WorkflowID), "transactionId": r.TransactionID, "channels": r.Channels, "createdAt": wireTime(r.CreatedAt),
			"updatedAt": wireTime(r.CreatedAt), "subscriber": who, "payload": r.Payload, "to": obj{"subscriberId": r.SubscriberID}, "tags": orNone(r.Tags), "severity": r.Severity,
			"template": showTemplateOf(r.WorkflowID, r.WorkflowName, r.Identifier),
			"jobs":     slices.Concat([]obj{}, jobs[r.ID]),
		}
		if r.DigestedInto != 0 {
			out[i]["_digestedNotificationId"] = itoa(r.DigestedInto)
		}
	}
	return out, nil
}

func showTemplateOf(id int64, name, identifier string) obj {
	return obj{"_id": itoa(id), "name": name, "triggers": []obj{{"type": "event", "identifier": identifier, "variables": []obj{}}}}
}

// showFailure is an entry of what reached nobody: it has no subscriber, and of jobs the
// trigger alone, which says why.
func showFailure(f *dbq.ApiFailuresRow) obj {
	id, at := itoa(f.ID), wireTime(f.CreatedAt)
	return obj{
		"_id": id, "_environmentId": f.OrganizationID, "_organizationId": f.OrganizationID, "_subscriberId": "", "_templateId": itoa(f.WorkflowID),
		"transactionId": f.TransactionID, "channels": []string{}, "createdAt": at, "updatedAt": at, "payload": f.Payload,
		"to": obj{"type": "Topic", "topicKey": f.TopicKey}, "topics": []obj{{"_topicId": "", "topicKey": f.TopicKey}}, "tags": orNone(f.Tags), "severity": f.Severity,
		"template": showTemplateOf(f.WorkflowID, f.WorkflowName, f.Identifier),
		"jobs": []obj{{
			"_id": id, "type": "trigger", "status": "failed", "providerId": "novu", "createdAt": at, "overrides": obj{}, "payload": obj{},
			"step": obj{"_id": id, "active": true, "filters": []obj{}, "_templateId": id, "stepId": ""}, "error": obj{"message": f.Detail},
			"executionDetails": []obj{{
				"_id": id + "-0", "_jobId": id, "isRetry": false, "isTest": false, "status": "Failed", "detail": f.Detail, "source": "Internal", "createdAt": at,
			}},
		}},
	}
}

func showDetail(d *dbq.ApiDetailsOfRow, place int) obj {
	m := obj{"_id": itoa(d.JobID) + "-" + itoa(int64(place)), "_jobId": itoa(d.JobID), "isRetry": false, "isTest": false}
	put(m, "status", d.Status)
	put(m, "detail", d.Detail)
	put(m, "source", d.Source)
	put(m, "createdAt", d.CreatedAt)
	put(m, "raw", d.Raw)
	if d.ProviderID != nil {
		m["providerId"] = knownProvider(*d.ProviderID)
	}
	return m
}

// filtersShown leaves out what the SDKs' closed enums don't know.
func filtersShown(raw json.RawMessage) []obj {
	var groups []obj
	_ = json.Unmarshal(raw, &groups) // our own document
	out := []obj{}
	for _, g := range groups {
		children, _ := g["children"].([]any)
		known := []any{}
		for _, e := range children {
			child, _ := e.(obj)
			on, _ := child["on"].(string)
			operator, _ := child["operator"].(string)
			if slices.Contains([]string{"subscriber", "payload"}, on) && slices.Contains([]string{
				"LARGER", "SMALLER", "LARGER_EQUAL", "SMALLER_EQUAL", "EQUAL", "NOT_EQUAL", "ALL_IN", "ANY_IN", "NOT_IN", "BETWEEN", "NOT_BETWEEN", "LIKE", "NOT_LIKE", "IN",
			}, operator) {
				field, _ := child["field"].(string)
				value, ok := child["value"].(string)
				if !ok {
					text, _ := json.Marshal(child["value"])
					value = string(text)
				}
				known = append(known, obj{"on": on, "operator": operator, "field": field, "value": value})
			}
		}
		value, _ := g["value"].(string)
		if len(known) > 0 && (value == "AND" || value == "OR") {
			out = append(out, obj{"isNegated": g["isNegated"] == true, "type": "GROUP", "value": value, "children": known})
		}
	}
	return out
}

func showJob(j *dbq.ApiJobsOfRow, details []obj) obj {
	kind := j.ActionType
	if kind == "webhook" {
		kind = "http_request"
	}
	stepNo := itoa(j.ID)
	if j.StepNo != nil {
		stepNo = itoa(*j.StepNo)
	}
	m := obj{
		"_id": itoa(j.ID), "type": kind, "status": j.Status, "executionDetails": slices.Concat([]obj{}, details),
		"step":       obj{"_id": stepNo, "active": true, "filters": filtersShown(j.Filters), "_templateId": stepNo, "stepId": j.StepID},
		"providerId": knownProvider(j.ProviderID), "createdAt": wireTime(j.CreatedAt), "overrides": obj{}, "payload": obj{},
	}
	if j.FinishedAt != nil {
		m["updatedAt"] = wireTime(*j.FinishedAt)
	}
	if j.Error != nil {
		m["error"] = obj{"message": *j.Error}
	}
	if j.PerformAt != nil && j.Status == "delayed" {
		m["scheduledAt"] = wireTime(*j.PerformAt)
	}
	if j.MergedInto != nil {
		m["_mergedDigestId"] = itoa(*j.MergedInto)
	}
	if j.ActionType == "digest" {
		m["digest"] = showDigest(j)
	}
	return m
}

func showDigest(j *dbq.ApiJobsOfRow) obj {
	out := notification.DigestShown(j.Settings)
	var result struct {
		Events []struct {
			Payload json.RawMessage `json:"payload"`
		} `json:"events"`
	}
	if json.Unmarshal(j.Result, &result) == nil && result.Events != nil {
		events := make([]json.RawMessage, len(result.Events))
		for i, e := range result.Events {
			events[i] = e.Payload
		}
		out["events"] = events
	}
	return out
}

// Messages.

func showMessage(m *dbq.PgautomateMessage) obj {
	out := obj{
		"_id": itoa(m.ID), "_templateId": itoa(m.WorkflowID), "_environmentId": m.OrganizationID, "_organizationId": m.OrganizationID,
		"_notificationId": itoa(m.NotificationID), "_subscriberId": itoa(m.SubscriberNo), "_jobId": itoa(m.JobID), "transactionId": m.TransactionID,
		"channel": m.Channel, "read": m.Read, "seen": m.Seen, "archived": m.Archived, "cta": m.Cta, "status": m.Status, "payload": m.Payload,
		"createdAt": wireTime(m.CreatedAt), "updatedAt": wireTime(m.UpdatedAt), "providerId": knownProvider(m.ProviderID), "tags": orNone(m.Tags),
		"deviceTokens": []string{}, "deleted": false, "overrides": obj{}, "contextKeys": []string{},
	}
	if m.Channel == "webhook" {
		out["channel"] = "http_request"
	}
	put(out, "content", m.Content)
	put(out, "subject", m.Subject)
	put(out, "avatar", m.Avatar)
	put(out, "data", m.Data)
	put(out, "errorId", m.ErrorID)
	put(out, "errorText", m.ErrorText)
	put(out, "lastReadDate", m.ReadAt)
	put(out, "lastSeenDate", m.SeenAt)
	if m.Channel == "email" {
		put(out, "email", m.Recipient)
	}
	if m.Channel == "sms" {
		put(out, "phone", m.Recipient)
	}
	return out
}

func messageOf(r *dbq.ApiListMessagesRow) *dbq.PgautomateMessage {
	return &dbq.PgautomateMessage{
		ID: r.ID, OrganizationID: r.OrganizationID, NotificationID: r.NotificationID, JobID: r.JobID, WorkflowID: r.WorkflowID, SubscriberID: r.SubscriberID,
		SubscriberNo: r.SubscriberNo, TransactionID: r.TransactionID, Channel: r.Channel, ProviderID: r.ProviderID, Recipient: r.Recipient, Subject: r.Subject,
		Content: r.Content, Cta: r.Cta, Payload: r.Payload, Data: r.Data, Avatar: r.Avatar, Tags: r.Tags, Status: r.Status, ErrorID: r.ErrorID,
		ErrorText: r.ErrorText, Read: r.Read, Seen: r.Seen, Archived: r.Archived, ReadAt: r.ReadAt, SeenAt: r.SeenAt, ArchivedAt: r.ArchivedAt,
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
}

func listMessages(c *call) (int, any, error) {
	page, size, err := c.paging(1000)
	if err != nil {
		return 0, nil, err
	}
	rows, err := c.s.q.ApiListMessages(c.ctx, dbq.ApiListMessagesParams{
		OrganizationID: c.org, Channel: c.query("channel"), SubscriberID: c.query("subscriberId"), TransactionIds: c.all("transactionId"),
		MaxRows: size + 1, Skip: page * size,
	})
	if err != nil {
		return 0, nil, err
	}
	data := []obj{}
	for i := range rows[:min(len(rows), int(size))] {
		one := showMessage(messageOf(&rows[i]))
		one["templateIdentifier"] = rows[i].WorkflowIdentifier
		data = append(data, one)
	}
	return http.StatusOK, obj{"page": page, "pageSize": size, "hasMore": len(rows) > int(size), "data": data}, nil
}

func deleteMessage(c *call) (int, any, error) {
	text := c.PathValue("messageId")
	var n int64
	var err error
	if id := idNumber(text); id != nil {
		n, err = c.s.q.ApiDeleteMessage(c.ctx, dbq.ApiDeleteMessageParams{OrganizationID: c.org, ID: *id})
	}
	if err == nil && n == 0 {
		err = problemf(http.StatusNotFound, "Message with id %s not found", clip(text))
	}
	return http.StatusOK, obj{"acknowledged": true, "status": "deleted"}, err
}

func deleteMessages(c *call) (int, any, error) {
	id := c.PathValue("transactionId")
	n, err := c.s.q.ApiDeleteMessages(c.ctx, dbq.ApiDeleteMessagesParams{OrganizationID: c.org, TransactionID: id, Channel: c.query("channel")})
	if err == nil && n == 0 {
		err = problemf(http.StatusNotFound, "Messages of transaction %s not found", clip(id))
	}
	return http.StatusNoContent, nil, err
}

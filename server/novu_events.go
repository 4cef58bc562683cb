package server

// Triggers of workflows: one, many, for all, canceled.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/notification"
)

const maxBulk = 100

func (s *Server) registerEvents(mux *http.ServeMux) {
	const most = 30 << 20 // 20 MiB of attachments, in base64
	s.novu(mux,
		wire{method: http.MethodPost, path: "/v1/events/trigger", id: "events-trigger", summary: "Trigger a workflow", tag: "events", most: most, handle: triggerEvent},
		wire{method: http.MethodPost, path: "/v1/events/trigger/bulk", id: "events-trigger-bulk", summary: "Trigger up to 100 workflows", tag: "events", most: most, handle: triggerBulk},
		wire{method: http.MethodPost, path: "/v1/events/trigger/broadcast", id: "events-broadcast", summary: "Trigger a workflow for all subscribers", tag: "events", most: most, handle: broadcast},
		wire{method: http.MethodGet, path: "/v1/events/trigger/{transactionId}", id: "events-progress", summary: "How far an event is shared out among its recipients", tag: "events", handle: eventProgress},
		wire{method: http.MethodDelete, path: "/v1/events/trigger/{transactionId}", id: "events-cancel", summary: "Cancel what has not run of a transaction", tag: "events", handle: cancelEvent},
	)
}

// transactionFor makes the transactionId of a trigger that gives none: that of its
// idempotency key, so that the repetition of a request whose answer was lost with the
// process is none.
func (c *call) transactionFor(r *notification.Request, place int) {
	if key := keyOf(c.ctx); key != "" && r.TransactionID == "" {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%d\n%s", c.org, c.URL.Path, key, place, c.body))
		h := hex.EncodeToString(sum[:16])
		r.TransactionID = h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	}
}

func triggerEvent(c *call) (int, any, error) {
	var r notification.Request
	if err := c.read(&r); err != nil {
		return 0, nil, err
	}
	c.transactionFor(&r, 0)
	answer, err := c.s.notifications.Trigger(c.ctx, c.org, r)
	return http.StatusCreated, answer, err
}

func broadcast(c *call) (int, any, error) {
	var r notification.Request
	if err := c.read(&r); err != nil {
		return 0, nil, err
	}
	r.Broadcast = true
	c.transactionFor(&r, 0)
	answer, err := c.s.notifications.Trigger(c.ctx, c.org, r)
	return http.StatusCreated, answer, err
}

func triggerBulk(c *call) (int, any, error) {
	var b struct {
		Events []json.RawMessage `json:"events"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if b.Events == nil {
		return 0, nil, refuse("events must be an array")
	}
	if len(b.Events) > maxBulk {
		return 0, nil, refuse(fmt.Sprintf("events must contain no more than %d elements", maxBulk))
	}
	answers := make([]notification.Answer, len(b.Events))
	for i, raw := range b.Events {
		var r notification.Request
		var err error
		if err = readInto(raw, &r, "the event"); err == nil {
			c.transactionFor(&r, i)
			answers[i], err = c.s.notifications.Trigger(c.ctx, c.org, r)
		}
		if err != nil {
			message, known := c.refusal(err)
			if !known {
				return 0, nil, err
			}
			answers[i] = notification.Answer{Acknowledged: true, Status: notification.Errored, Error: []string{message}}
		}
	}
	return http.StatusCreated, answers, nil
}

func cancelEvent(c *call) (int, any, error) {
	done, err := c.s.notifications.Cancel(c.ctx, c.org, c.PathValue("transactionId"))
	return http.StatusOK, done, err
}

// eventProgress tells how far an event is shared out, and what of it could not be done.
func eventProgress(c *call) (int, any, error) {
	id := c.PathValue("transactionId")
	e, err := c.s.q.ApiGetEvent(c.ctx, dbq.ApiGetEventParams{OrganizationID: c.org, TransactionID: id})
	if err != nil {
		return 0, nil, orNotFound(err, "event", id)
	}
	left, err := c.recipientsLeft(&e)
	if err != nil {
		return 0, nil, err
	}
	m := obj{
		"_id": itoa(e.ID), "transactionId": e.TransactionID, "_organizationId": c.org, "_environmentId": c.org, "status": e.Status,
		"template":      obj{"_id": itoa(e.WorkflowID), "name": e.Name, "triggers": []obj{{"type": "event", "identifier": e.Identifier, "variables": []obj{}}}},
		"notifications": e.FannedOut, "remaining": left, "createdAt": wireTime(e.CreatedAt),
	}
	put(m, "error", e.Error)
	put(m, "finishedAt", e.FinishedAt)
	put(m, "canceledAt", e.CanceledAt)
	return http.StatusOK, m, nil
}

// recipientsLeft is how many an event may still be shared out to; who is left out of
// topics or has a notification already is counted, too.
func (c *call) recipientsLeft(e *dbq.ApiGetEventRow) (int64, error) {
	if e.Status != "pending" {
		return 0, nil
	}
	var singles []json.RawMessage
	var topics []struct {
		Key string `json:"topicKey"`
	}
	if err := errors.Join(json.Unmarshal(e.Recipients, &singles), json.Unmarshal(e.Topics, &topics)); err != nil {
		return 0, err
	}
	left := int64(len(singles))
	if e.Broadcast {
		n, err := c.s.q.ApiSubscribersAfter(c.ctx, dbq.ApiSubscribersAfterParams{OrganizationID: c.org, After: e.TopicAfter})
		return left + n, err
	}
	for i := int(e.TopicNo); i < len(topics); i++ {
		after := int64(0)
		if i == int(e.TopicNo) {
			after = e.TopicAfter
		}
		n, err := c.s.q.ApiMembersAfter(c.ctx, dbq.ApiMembersAfterParams{OrganizationID: c.org, Key: topics[i].Key, After: after})
		if err != nil {
			return 0, err
		}
		left += n
	}
	return left, nil
}

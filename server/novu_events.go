package server

// Triggers of workflows: one, many, for all, canceled.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/pgautomate/pgautomate/notification"
)

const maxBulk = 100

func (s *Server) registerEvents(mux *http.ServeMux) {
	const most = 30 << 20 // 20 MiB of attachments, in base64
	s.novu(mux,
		wire{method: http.MethodPost, path: "/v1/events/trigger", id: "events-trigger", summary: "Trigger a workflow", tag: "events", most: most, handle: triggerEvent},
		wire{method: http.MethodPost, path: "/v1/events/trigger/bulk", id: "events-trigger-bulk", summary: "Trigger up to 100 workflows", tag: "events", most: most, handle: triggerBulk},
		wire{method: http.MethodPost, path: "/v1/events/trigger/broadcast", id: "events-broadcast", summary: "Trigger a workflow for all subscribers", tag: "events", most: most, handle: broadcast},
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
		if err = json.Unmarshal(raw, &r); err != nil {
			err = &notification.RefusedError{Status: http.StatusBadRequest, Message: "the event is not as it should be: " + clip(err.Error())}
		} else {
			c.transactionFor(&r, i)
			answers[i], err = c.s.notifications.Trigger(c.ctx, c.org, r)
		}
		if refused, ok := errors.AsType[*notification.RefusedError](err); ok {
			answers[i] = notification.Answer{Acknowledged: true, Status: notification.Errored, Error: []string{refused.Error()}}
		} else if err != nil {
			// Of what the database refuses one event is told like any other.
			var p *problem
			if !errors.As(c.s.toProblem(c.ctx, err), &p) || p.status >= http.StatusInternalServerError {
				return 0, nil, err
			}
			answers[i] = notification.Answer{Acknowledged: true, Status: notification.Errored, Error: []string{p.message}}
		}
	}
	return http.StatusCreated, answers, nil
}

func cancelEvent(c *call) (int, any, error) {
	done, err := c.s.notifications.Cancel(c.ctx, c.org, c.PathValue("transactionId"))
	return http.StatusOK, done, err
}

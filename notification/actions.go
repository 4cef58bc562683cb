package notification

// Triggers that come from inside: actions of type notify and in_app, and rows that
// trigger_event() wrote.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
)

// RequestArgs carries what trigger_event() was asked for.
type RequestArgs struct {
	ID int64 `json:"id"`
}

// Kind is River's name for it; trigger_event() knows it too.
func (RequestArgs) Kind() string { return "notification_request" }

// WorkRequest is the River worker's part: the request and its event in one transaction.
func (s *Service) WorkRequest(ctx context.Context, job *river.Job[RequestArgs]) error {
	err := pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		r, err := q.LockRequest(ctx, job.Args.ID)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		answer, err := s.TriggerTx(ctx, tx, r.OrganizationID, Request{Name: r.Workflow, To: r.Recipients, Payload: r.Payload, TransactionID: r.TransactionID})
		refusal := ""
		if refused, ok := errors.AsType[*RefusedError](err); ok {
			refusal, answer.Status = refused.Error(), ""
		} else if err != nil {
			return err
		}
		return q.AnswerRequest(ctx, dbq.AnswerRequestParams{ID: job.Args.ID, Answer: answer.Status, Error: refusal})
	})
	if err != nil {
		return fmt.Errorf("request %d of trigger_event: %w", job.Args.ID, err)
	}
	s.changed()
	return nil
}

// Notify triggers a workflow in the transaction of an action; see jobs.Notifier.
func (s *Service) Notify(ctx context.Context, tx pgx.Tx, a *jobs.Action, n jobs.Notify) error {
	cause, err := json.Marshal(a.Next())
	if err != nil {
		return jobs.Permanent(err)
	}
	r := Request{Name: n.Workflow, To: n.To, Payload: n.Payload, TransactionID: n.TransactionID, Cause: cause}
	answer, err := s.TriggerTx(ctx, tx, a.OrganizationID, r)
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		return jobs.Permanentf("notify: workflow %q: %s", n.Workflow, refused.Error())
	}
	if err != nil {
		return err
	}
	if answer.Status != Processed {
		return jobs.Permanentf("notify: workflow %q was not started: %s", n.Workflow, answer.Status)
	}
	return nil
}

// InApp puts a message into a subscriber's feed; see jobs.Notifier.
func (s *Service) InApp(ctx context.Context, tx pgx.Tx, a *jobs.Action, subscriber, subject, body string) error {
	if !ValidID(subscriber) {
		return jobs.Permanentf("in_app: subscriber %q can't be one", subscriber)
	}
	q := dbq.New(tx)
	if _, err := s.upsert(ctx, q, a.OrganizationID, []recipient{{SubscriberID: subscriber}}); err != nil {
		return err
	}
	p := dbq.InsertInAppMessageParams{
		OrganizationID: a.OrganizationID, ActionID: a.ID, SubscriberID: subscriber, TransactionID: a.IdempotencyKey(), Content: &body,
	}
	if subject != "" {
		p.Subject = &subject
	}
	if err := q.InsertInAppMessage(ctx, p); err != nil {
		return err
	}
	return q.NotifyFeed(ctx, dbq.NotifyFeedParams{OrganizationID: a.OrganizationID, SubscriberID: subscriber})
}

// Package notification turns triggers of workflows into notifications, and runs
// their steps. It decides; what is sent goes through the handlers of package jobs,
// what is due and what ran through package scheduler.
//
//	Trigger ──one transaction──▶ event (and, for topics and broadcasts, a River job)
//	                               │ fan-out: so many recipients a transaction, with its progress
//	                               ▼
//	            a notification for each recipient, a job for each step, the first one due
//	                               │ the scheduler's claim, as for stage actions
//	                               ▼
//	            Step.Run: conditions, preferences, content, sender ── outcome ──▶ the next job due
//
// A digest decides in the transaction that writes its outcome, with the lock of
// its group in hand: who is first opens the window, the others are merged into it.
// The window closes under the same lock, so an event is in exactly one window.
package notification

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/batch"
	"github.com/pgautomate/pgautomate/jobs"
)

// Queue is the River queue of fan-outs and cancelations that go on.
const Queue = "notifications"

// Types are the action types of jobs that no handler of package jobs runs.
var Types = []string{"digest", "delay", "in_app", "email", "sms", "push", "chat", "webhook", "throttle", "custom"}

// EventArgs carries an event to who shares it out.
type EventArgs struct {
	ID int64 `json:"id"`
}

// Kind is River's name for it.
func (EventArgs) Kind() string { return "notification_event" }

// CancelArgs carries an event whose cancelation was too large for one request.
type CancelArgs struct {
	ID int64 `json:"id"`
}

// Kind is River's name for it.
func (CancelArgs) Kind() string { return "notification_cancel" }

// Inserter puts jobs into River's queues; river.Client does.
type Inserter interface {
	InsertManyFastTx(ctx context.Context, tx pgx.Tx, params []river.InsertManyParams) (int, error)
}

// Senders gives the handlers that send; jobs.Registry does.
type Senders interface {
	Handler(actionType string) (jobs.Handler, bool)
}

// Service accepts triggers, shares them out and runs steps.
type Service struct {
	Pool   *pgxpool.Pool
	River  Inserter
	Logger *slog.Logger
	// Senders are needed to run steps.
	Senders Senders
	// Integrations know what sends; without them every sms, push and chat fails.
	Integrations jobs.Integrations
	// Location gives an organization's time zone; nil: UTC.
	Location func(organization string) *time.Location
	// Attachments keeps attachments between trigger and sending; nil: triggers with any are refused.
	Attachments Attachments
	// Changed is called when jobs became due.
	Changed func()

	// Chunk is how many recipients get their notifications in one transaction; default 1000.
	Chunk int

	loads *batch.Batcher[int64, dbq.LoadJobsRow]
}

// Start readies what running steps needs.
func (s *Service) Start() { s.loads = batch.New(200, 1, s.loadJobs) }

// Stop ends what Start began; steps that still run fail, and run again later.
func (s *Service) Stop() {
	if s.loads != nil {
		s.loads.Stop()
	}
}

// loadJobs gives what is known of jobs; nothing of those that are gone.
func (s *Service) loadJobs(ctx context.Context, ids []int64) ([]dbq.LoadJobsRow, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	found, err := dbq.New(s.Pool).LoadJobs(ctx, ids)
	if err != nil {
		return nil, err
	}
	index := make(map[int64]int, len(found))
	for i, row := range found {
		index[row.ID] = i
	}
	rows := make([]dbq.LoadJobsRow, len(ids))
	for i, id := range ids {
		if at, ok := index[id]; ok {
			rows[i] = found[at]
		}
	}
	return rows, nil
}

// loadTime bounds one look at what jobs need.
const loadTime = 20 * time.Second

// Attachments keeps bytes by name.
type Attachments interface {
	Put(ctx context.Context, key string, content []byte) error
	Get(ctx context.Context, key string) ([]byte, error)
	Delete(ctx context.Context, key string) error
}

func (s *Service) location(organization string) *time.Location {
	if s.Location == nil {
		return time.UTC
	}
	return s.Location(organization)
}

func (s *Service) changed() {
	if s.Changed != nil {
		s.Changed()
	}
}

func (s *Service) chunk() int {
	if s.Chunk > 0 {
		return s.Chunk
	}
	return 1000
}

// RefusedError is a request that can't be accepted.
type RefusedError struct {
	Status   int // HTTP's
	Message  string
	Messages []string            // in the place of Message, where Novu says a list
	Fields   map[string][]string // by member, with 422
	Errors   []FieldError        // with 400
}

func (r *RefusedError) Error() string {
	if r.Message == "" && len(r.Messages) > 0 {
		return r.Messages[0]
	}
	return r.Message
}

// FieldError says what of a payload is wrong.
type FieldError struct {
	Field      string          `json:"field"`
	Message    string          `json:"message"`
	Value      json.RawMessage `json:"value,omitempty"`
	SchemaPath string          `json:"schemaPath,omitempty"`
}

func unprocessable(field, message string) error {
	return &RefusedError{Status: 422, Message: message, Fields: map[string][]string{field: {message}}}
}

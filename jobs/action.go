// Package jobs runs actions: one file for each action type, and the words that
// a handler, ours or one registered through the Go API, needs: the action, its
// result, and the kinds of error.
//
// A handler decides and reports; it never writes the action's own row. What it
// wants done in the database it returns as Result.Effect, which runs in the very
// transaction that marks the action completed: such effects happen exactly once.
// Effects outside the database (mail, HTTP) happen at least once and carry
// Action.IdempotencyKey, which is the same for every attempt.
package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// Cause is the chain of automations that led to a change: the content of a
// logical message with prefix change.MessageCause.
type Cause struct {
	// Depth is the number of automations in the chain.
	Depth int `json:"depth"`
	// ActionID is the action that made the change.
	ActionID int64 `json:"action_id,omitempty"`
	// FiringID is the last trigger firing of the chain.
	FiringID int64 `json:"firing_id,omitempty"`
	// Chain names the triggers that fired, oldest first, as "id name".
	Chain []string `json:"chain,omitempty"`
}

// Next is the cause of what an action does: the chain that led to it, one longer.
func (a *Action) Next() Cause {
	cause := Cause{ActionID: a.ID, Depth: 1, FiringID: a.FiringID}
	if a.Cause != nil {
		cause.Depth, cause.Chain = a.Cause.Depth+1, a.Cause.Chain
		if cause.FiringID == 0 {
			cause.FiringID = a.Cause.FiringID
		}
	}
	return cause
}

// Action is one action as its handler gets it.
type Action struct {
	ID             int64
	OrganizationID string
	LeadID         string
	ObjectType     string // what LeadID names
	LeadStageID    int64  // 0: a trigger's own action, in no pipeline
	SequenceNumber int
	Type           string
	// Notification says that it is a notification's job: a step of a workflow for one subscriber.
	Notification bool

	// Params are the action's parameters as saved, Liquid templates and all.
	Params json.RawMessage
	// Vars are what templates may name: lead, object, trigger, organization, …;
	// each is loaded when a template first asks for it.
	Vars *Vars

	Attempt     int // 1 for the first start
	MaxAttempts int
	// PerformAt is when it became due: for the first action of a stage its entry,
	// for the others the end of the action before.
	PerformAt time.Time
	// Resumed is set when the action had returned Result.Until and that time has come.
	Resumed bool
	// Parked is the Result.Output that went with Result.Until, for a resumed action.
	Parked json.RawMessage

	FiringID int64 // the trigger firing that wrote it, or 0
	Cause    *Cause
	// Now is the database's time at the start of this attempt.
	Now time.Time
	// Location is the organization's time zone.
	Location *time.Location
	// Meets says whether an integration's conditions hold for what the action is about;
	// nil: there is nothing to ask, and integrations with conditions are not used.
	Meets func(ctx context.Context, conditions json.RawMessage) (bool, error)

	// suppressed gives those of some addresses that nothing is to be sent to, with the
	// reasons; see Executor.SuppressedAddresses.
	suppressed func(ctx context.Context, organization, channel string, addresses []string) (map[string]string, error)
}

// IdempotencyKey is the same for every attempt of an action and differs between actions.
func (a *Action) IdempotencyKey() string { return "pgautomate-action-" + strconv.FormatInt(a.ID, 10) }

// Result is what a handler reports when it did not fail.
type Result struct {
	// Output is kept as the action's result (JSON).
	Output any
	// Until, when set, parks the action: status delayed, run again (Resumed) then.
	Until time.Time
	// Effect, when set, runs in the transaction that completes the action. It must
	// not do anything outside of tx.
	Effect func(ctx context.Context, tx pgx.Tx) error
	// Status, when set, is how the action ended instead of completed: canceled or
	// skipped; Reason says why.
	Status, Reason string
	// Decide, when set, decides in the transaction that writes the outcome what it is,
	// under locks that it takes there. What else the result says doesn't count then.
	Decide func(ctx context.Context, tx pgx.Tx) (Result, error)
	// Records are written with the outcome of a notification's job.
	Records *Records
	// ChangesRows says that Effect may change watched rows: the transaction then
	// carries the cause, so that the loop guard sees it.
	ChangesRows bool
}

// Records are what a notification's job leaves behind beside its status.
type Records struct {
	Message *Message
	Details []Detail
}

// Message is what was sent, or put into the in-app feed.
type Message struct {
	ProviderID string          `json:"provider_id,omitempty"`
	Recipient  string          `json:"recipient,omitempty"`
	Subject    *string         `json:"subject,omitempty"`
	Content    string          `json:"content"`
	CTA        json.RawMessage `json:"cta,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	Avatar     string          `json:"avatar,omitempty"`
	Tags       []string        `json:"tags,omitempty"`
	Payload    json.RawMessage `json:"payload,omitempty"`
	Status     string          `json:"status,omitempty"` // sent (default), warning or error
	ErrorID    string          `json:"error_id,omitempty"`
	ErrorText  string          `json:"error_text,omitempty"`

	// Of is what the message belongs to.
	Of MessageOf `json:"-"`
}

// MessageOf is the notification of a message.
type MessageOf struct {
	NotificationID, WorkflowID, SubscriberNo int64
	SubscriberID, TransactionID              string
}

// Detail is one line of a job's history, in Novu's words.
type Detail struct {
	Status string // Success, Warning, Failed, Pending
	Detail string
	Source string // Internal, Credentials, Payload or Webhook
	Raw    string
}

// Handler runs one type of action. It must be safe for concurrent use, and end
// soon after ctx does.
type Handler interface {
	// Run carries out the action. An error makes it run again later, with
	// backoff, until its attempts are used up; Permanent and RetryAfter change that.
	Run(ctx context.Context, action *Action) (Result, error)
}

// Validator is implemented by handlers that can check parameters before
// anything runs; pipelines and triggers that fail it are refused when saved
// through HTTP. The error is one line that says what to do.
type Validator interface {
	Validate(params json.RawMessage) error
}

// HandlerFunc makes a Handler of a function.
type HandlerFunc func(ctx context.Context, action *Action) (Result, error)

// Run calls f.
func (f HandlerFunc) Run(ctx context.Context, action *Action) (Result, error) { return f(ctx, action) }

// PermanentError ends an action at once: no attempt can help.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }

func (e *PermanentError) Unwrap() error { return e.Err }

// Permanent marks an error that no further attempt can mend.
func Permanent(err error) error { return &PermanentError{err} }

// Permanentf is Permanent(fmt.Errorf(...)).
func Permanentf(format string, args ...any) error { return Permanent(fmt.Errorf(format, args...)) }

// RetryAfterError postpones an action without using an attempt.
type RetryAfterError struct {
	After time.Duration
	Err   error
}

func (e *RetryAfterError) Error() string {
	return fmt.Sprintf("%s (again in %s)", e.Err, e.After.Round(time.Second))
}

func (e *RetryAfterError) Unwrap() error { return e.Err }

// RetryAfter postpones the action by d without using an attempt: a provider
// said how long to wait.
func RetryAfter(d time.Duration, err error) error { return &RetryAfterError{d, err} }

// ErrNotVisible says that the lead's or object's row is not there (yet): a
// change can arrive before its commit is visible. The action is tried again
// without using an attempt, for a bounded time.
var ErrNotVisible = errors.New("the row is not there (yet)")

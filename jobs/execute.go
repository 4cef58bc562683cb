package jobs

// One attempt of one action, from start to outcome. The rules of retrying are
// here; the writing of the rows is the Lifecycle's.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/internal/failpoint"
)

// Statuses of an action or job, as in the SQL enum job_status.
const (
	StatusPending   = "pending"
	StatusQueued    = "queued"
	StatusRunning   = "running"
	StatusCompleted = "completed"
	StatusFailed    = "failed"
	StatusDelayed   = "delayed"
	StatusCanceled  = "canceled"
	StatusMerged    = "merged"
	StatusSkipped   = "skipped"
)

// Started is an action that this process holds.
type Started struct {
	Action Action
	Fence  int64 // proves, when the outcome is written, that it still does
	// FiringAt is the committed_at of the action's firing.
	FiringAt time.Time
	// Taken is when, by this process's monotonic clock; not later than Action.Now.
	Taken time.Time
	// WaitingSince is when the action first found its lead's row missing; zero: not.
	WaitingSince time.Time
	// AsksGoal is set for the first action of a run whose pipeline has a goal.
	AsksGoal bool
}

// Outcome is how an attempt ended.
type Outcome struct {
	Status       string    // completed, failed, pending (again) or delayed
	PerformAt    time.Time // for pending and delayed
	Output       json.RawMessage
	Error        string
	Reason       string
	Refund       int  // attempts given back; -1: one more is counted
	Timer        bool // for delayed; and for pending after a timer
	WaitingSince time.Time

	// OnError says where a failed action leads.
	OnError OnError

	Effect      func(ctx context.Context, tx pgx.Tx) error
	ChangesRows bool
	// EndsRun, if not "", ends the run with that reason: it exits.
	EndsRun string
	// Decide, when set, gives the result in the transaction that writes it.
	Decide  func(ctx context.Context, tx pgx.Tx) (Result, error)
	Records *Records
}

// Decided is the outcome that a result means, when the action itself said so.
func Decided(action *Action, r Result) Outcome {
	if !r.Until.IsZero() {
		return Outcome{Status: StatusDelayed, PerformAt: r.Until, Output: toJSON(r.Output), Timer: true, Records: r.Records}
	}
	o := Outcome{
		Status: StatusCompleted, Reason: r.Reason, Output: toJSON(r.Output), Timer: action.Resumed,
		Effect: r.Effect, ChangesRows: r.ChangesRows, Decide: r.Decide, Records: r.Records,
	}
	if r.Status != "" {
		o.Status = r.Status
	}
	return o
}

// Lifecycle starts actions and writes their outcomes.
type Lifecycle interface {
	// Start takes a queued action; nil when it is no longer queued.
	Start(ctx context.Context, id int64) (*Started, error)
	// Finish writes the outcome, unless another worker took the action over
	// meanwhile, which is no error. *EffectError when the effect failed: nothing is
	// written then.
	Finish(ctx context.Context, s *Started, o Outcome) error
}

// EffectError wraps the error of an Outcome's effect.
type EffectError struct{ Err error }

func (e *EffectError) Error() string { return e.Err.Error() }

func (e *EffectError) Unwrap() error { return e.Err }

// Executor runs actions.
type Executor struct {
	Lifecycle Lifecycle
	Registry  *Registry
	// Vars gives an action's template variables.
	Vars   func(s *Started) *Vars
	Logger *slog.Logger
	// GoalMet says whether an action's lead meets the goal of its pipeline.
	GoalMet func(ctx context.Context, a *Action) (bool, error)
	// Suppressed gives the reason why nothing is to be sent to an action's lead over
	// a channel: unsubscribed or suppressed; "" when it may be.
	Suppressed func(ctx context.Context, a *Action, channel string) (string, error)
	// SuppressedAddresses gives those of some addresses that nothing is to be sent to over
	// a channel, each with the reason: unsubscribed or suppressed.
	SuppressedAddresses func(ctx context.Context, organization, channel string, addresses []string) (map[string]string, error)
	// Step runs the jobs of notifications, of whatever type.
	Step Handler

	// Timeout bounds one attempt.
	Timeout time.Duration
	// VisibleWithin bounds how long an action waits for its lead's row.
	VisibleWithin time.Duration
}

// Run carries out one attempt of a queued action.
func (e *Executor) Run(ctx context.Context, id int64) error {
	s, err := e.Lifecycle.Start(ctx, id)
	if err != nil || s == nil {
		return err
	}
	return e.RunStarted(ctx, s, func() {})
}

// RunStarted carries out the attempt of an action that was started for this process. It calls done when nothing is left of it
// but to write the outcome.
func (e *Executor) RunStarted(ctx context.Context, s *Started, done func()) error {
	if e.Vars != nil {
		s.Action.Vars = e.Vars(s)
	}
	s.Action.suppressed = e.SuppressedAddresses
	failpoint.Hit("handler-before")
	outcome := e.decide(ctx, s)
	failpoint.Hit("handler-done")
	done()
	return e.finish(ctx, s, outcome)
}

// decide gives the outcome of an attempt: first of all that of the run, where the
// lead meets its goal before anything was done.
func (e *Executor) decide(ctx context.Context, s *Started) Outcome {
	if s.AsksGoal && e.GoalMet != nil && !s.Action.Resumed {
		bounded, cancel := context.WithTimeout(ctx, e.Timeout)
		met, err := e.GoalMet(bounded, &s.Action)
		cancel()
		if err != nil {
			return e.outcome(s, attempt{err: err})
		}
		if met {
			return endedBefore(s, "goal_already_met")
		}
	}
	if channel := e.Registry.Channel(s.Action.Type); channel != "" && e.Suppressed != nil && !s.Action.Notification {
		bounded, cancel := context.WithTimeout(ctx, e.Timeout)
		reason, err := e.Suppressed(bounded, &s.Action, channel)
		cancel()
		if err != nil {
			return e.outcome(s, attempt{err: err})
		}
		if reason != "" {
			return endedBefore(s, reason)
		}
	}
	return e.outcome(s, e.attempt(ctx, s))
}

// endedBefore is the outcome of an action that is not carried out because its run
// is to end.
func endedBefore(s *Started, reason string) Outcome {
	o := Outcome{Status: StatusCanceled, Reason: reason, Refund: 1, Timer: s.Action.Resumed}
	if s.Action.Resumed {
		o.Refund = 0
	}
	if s.Action.LeadStageID != 0 {
		o.EndsRun = reason
	}
	return o
}

// finish writes the outcome: until it is written, also when the database is away
// for long, since as long as this process lives nobody else takes the action. Only
// a process that was told to stop gives up: then the action runs again elsewhere.
func (e *Executor) finish(ctx context.Context, s *Started, outcome Outcome) error {
	told := 0
	for try := 0; ; try++ {
		write, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		err := e.Lifecycle.Finish(write, s, outcome)
		cancel()
		var effect *EffectError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &effect) && outcome.Status == StatusFailed:
			outcome = outcome.Stopped(effect.Err)
		case errors.As(err, &effect):
			outcome = e.outcome(s, attempt{err: effect.Err})
		case errors.Is(err, context.Canceled) || told == 5:
			return fmt.Errorf("the outcome of action %d can't be written: %w", s.Action.ID, err)
		default:
			e.Logger.WarnContext(ctx, "outcome not written, trying again", "action", s.Action.ID, "error", err)
			if errors.Is(ctx.Err(), context.Canceled) {
				told++
			}
			time.Sleep(min(100*time.Millisecond<<min(try, 6), 5*time.Second))
		}
	}
}

type attempt struct {
	result Result
	err    error
}

// attempt calls the handler, bounded in time, with its panics caught.
func (e *Executor) attempt(ctx context.Context, s *Started) (a attempt) {
	handler, ok := e.Registry.Handler(s.Action.Type)
	if s.Action.Notification && e.Step != nil {
		handler, ok = e.Step, true
	}
	if !ok {
		return attempt{err: Permanent(unknownType(s.Action.Type, e.Registry.Types()))}
	}
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			e.Logger.ErrorContext(ctx, "a handler panicked", "action", s.Action.ID, "type", s.Action.Type,
				"panic", p, "stack", string(debug.Stack()))
			a = attempt{err: fmt.Errorf("the handler of %q panicked: %v", s.Action.Type, p)}
		}
	}()
	a.result, a.err = handler.Run(ctx, &s.Action)
	if a.err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		a.err = fmt.Errorf("no result within %s: %w", e.Timeout, a.err)
	}
	return a
}

// outcome applies the rules of retrying to an attempt.
func (e *Executor) outcome(s *Started, a attempt) Outcome {
	action := &s.Action
	// The database's clock, carried forward: this machine's own may be wrong.
	now := action.Now.Add(time.Since(s.Taken))
	again := Outcome{Status: StatusPending, Timer: action.Resumed}
	if a.err != nil {
		again.Error = errorText(a.err)
	}
	// A start counts as an attempt; what goes on after a timer did not count
	// when it was taken.
	free, counted := 1, 0
	if action.Resumed {
		free, counted = 0, -1
	}
	if suppressed, ok := errors.AsType[*SuppressedError](a.err); ok {
		return endedBefore(s, suppressed.Reason)
	}
	class, wait := Classify(a.err)
	switch class {
	case ClassNone:
		return Decided(action, a.result)
	case ClassNotVisible:
		since := s.WaitingSince
		if since.IsZero() {
			since = action.Now
		}
		if action.Now.Sub(since) > e.VisibleWithin {
			return e.failed(action, fmt.Errorf("%w; waited %s for it", a.err, e.VisibleWithin))
		}
		again.PerformAt, again.Refund, again.WaitingSince = now.Add(time.Second), free, since
		return again
	case ClassRetryAfter:
		again.PerformAt, again.Refund = now.Add(wait), free
		return again
	case ClassStopped:
		again.PerformAt, again.Refund = now, free
		return again
	case ClassTransient:
		if action.Attempt < action.MaxAttempts {
			again.PerformAt, again.Refund = now.Add(Backoff(action.Attempt)), counted
			return again
		}
	case ClassPermanent:
	}
	return e.failed(action, a.err)
}

func (e *Executor) failed(action *Action, err error) Outcome { return Failed(action, err) }

// Failed is the outcome of an action that no further attempt can mend.
func Failed(action *Action, err error) Outcome {
	o := Outcome{Status: StatusFailed, Error: errorText(err), Timer: action.Resumed}
	if action.Notification {
		o.Records = &Records{Details: []Detail{{Status: "Failed", Detail: failedDetail(err), Source: "Internal", Raw: o.Error}}}
		if sent, ok := errors.AsType[*UnsentError](err); ok {
			o.Records.Message = sent.Message
		}
		return o
	}
	onError, bad := OnErrorOf(action.Params)
	if bad != nil {
		o.Error += "; and on_error can't be read: " + bad.Error()
	}
	o.OnError = onError
	return o
}

// UnsentError is the error of a step that could not send its message, with that message.
type UnsentError struct {
	Err     error
	Detail  string // in Novu's words; "" for that of a provider's error
	Message *Message
}

func (e *UnsentError) Error() string { return e.Err.Error() }

func (e *UnsentError) Unwrap() error { return e.Err }

func failedDetail(err error) string {
	if sent, ok := errors.AsType[*UnsentError](err); ok && sent.Detail != "" {
		return sent.Detail
	}
	return "Unexpected provider error"
}

// Stopped is a failed outcome whose on_error can't be carried out: the stage fails.
func (o Outcome) Stopped(err error) Outcome {
	o.OnError = OnError{Policy: OnErrorStop}
	o.Effect, o.Output = nil, nil
	o.Error = errorText(fmt.Errorf("%s; and what was to follow can't be done: %w", o.Error, err))
	return o
}

// maxErrorText bounds the text of an error in the action's row, in bytes.
const maxErrorText = 8 << 10

// errorText is an error as Postgres can keep it: valid, without NUL, bounded.
func errorText(err error) string {
	text := err.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// toJSON is a result as Postgres can keep it: jsonb knows neither NUL nor half
// surrogates.
func toJSON(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	raw, err := json.Marshal(v)
	if err == nil && bytes.Contains(raw, []byte(`\u`)) {
		var plain any
		if err = decodeJSON(raw, &plain); err == nil {
			raw, err = json.Marshal(withoutNUL(plain))
		}
	}
	if err != nil {
		raw, _ = json.Marshal(map[string]string{"unprintable": errorText(err)}) //nolint:errchkjson // a map of strings
	}
	return raw
}

func withoutNUL(v any) any {
	switch v := v.(type) {
	case string:
		return strings.ReplaceAll(v, "\x00", "\uFFFD")
	case []any:
		for i := range v {
			v[i] = withoutNUL(v[i])
		}
	case map[string]any:
		for _, k := range slices.Collect(maps.Keys(v)) {
			value := withoutNUL(v[k])
			delete(v, k)
			v[strings.ReplaceAll(k, "\x00", "\uFFFD")] = value
		}
	}
	return v
}

// DecodeObject reads a JSON object as templates see it: numbers exact.
func DecodeObject(raw json.RawMessage) (map[string]any, error) {
	var m map[string]any
	if err := decodeJSON(raw, &m); err != nil {
		return nil, fmt.Errorf("a document: %w", err)
	}
	return m, nil
}

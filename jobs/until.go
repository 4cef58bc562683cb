package jobs

// Action type wait_until: the run goes on when the lead meets a query, or when
// the time is up. The query is asked by SQL when the wait begins. From then on a
// trigger of the engine's own sees the commit by which the lead comes to meet it,
// and wakes the wait: also when the lead meets it only for a moment. Queries
// that no trigger can have (words of a text, for one) are asked again by SQL, of all
// who wait, at intervals.
//
// No commit is missed in between: the trigger is there before the query is asked
// for the last time. A trigger that was made just now has that once more a moment
// later, for a commit that went before it in the log may have been invisible.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// confirmAfter is when a wait whose trigger is new asks once more.
const confirmAfter = 2 * time.Second

// Awaiting looks after what wait_until actions wait for.
type Awaiting interface {
	// Await sees to it that waits for the query are woken until then; it returns the
	// name under which. fresh says that this began just now.
	Await(ctx context.Context, a *Action, query json.RawMessage, until time.Time) (name string, fresh bool, err error)
}

type untilHandler struct {
	store    Store
	queries  Queries
	awaiting Awaiting
}

// UntilOutput is the result of wait_until.
type UntilOutput struct {
	Until      time.Time        `json:"until"`
	Since      time.Time        `json:"since"`
	Awaited    string           `json:"awaited,omitempty"`
	Confirm    bool             `json:"confirm,omitempty"` // parked only to ask once more
	Outcome    string           `json:"outcome,omitempty"` // matched or timeout; not while it waits
	MatchedAt  *time.Time       `json:"matched_at,omitempty"`
	Then       any              `json:"then,omitempty"`
	Superseded *UntilSuperseded `json:"superseded,omitempty"`
}

// UntilSuperseded is what lost a race with the outcome.
type UntilSuperseded struct {
	Timeout time.Time `json:"timeout"`
}

type until struct {
	query              json.RawMessage
	onMatch, onTimeout target
}

func readUntil(params json.RawMessage) (u until, err error) {
	var p struct {
		Query json.RawMessage `json:"query"`
	}
	if len(bytes.TrimSpace(params)) > 0 {
		if err := json.Unmarshal(params, &p); err != nil {
			return u, fmt.Errorf("params: not a JSON object: %w", err)
		}
	}
	if u.query = p.Query; !isObjectJSON(u.query) {
		return u, errors.New("query: give a query, as for triggers")
	}
	u.onMatch, u.onTimeout, err = readTargets(params, "on_match", "on_timeout")
	return u, err
}

func (h untilHandler) Run(ctx context.Context, a *Action) (Result, error) {
	if a.LeadStageID == 0 {
		return Result{}, Permanentf("%s: this action stands in no pipeline, so there is nothing to go on with", a.Type)
	}
	u, err := readUntil(a.Params)
	if err != nil {
		return Result{}, Permanent(err)
	}
	if h.store == nil || h.queries == nil || h.awaiting == nil {
		return Result{}, errNoStore
	}
	out, woken, err := h.state(ctx, a)
	if err != nil {
		return Result{}, err
	}
	if woken != nil && !woken.Before(out.Since) {
		return h.matched(ctx, a, &u, out, *woken)
	}
	met, err := h.queries.First(ctx, a, []json.RawMessage{u.query})
	if err != nil {
		return Result{}, err
	}
	// An app may have moved the time of a wait; being woken moves it, too.
	expired := !a.Now.Before(out.Until) || a.Resumed && !out.Confirm && woken == nil && !a.Now.Before(a.PerformAt)
	switch {
	case met == 0:
		return h.matched(ctx, a, &u, out, a.Now)
	case expired:
		out.Outcome, out.Then = "timeout", u.onTimeout.words()
		return u.onTimeout.lead(ctx, h.store, a, Result{Output: out})
	case a.Resumed:
		out.Confirm = false
		return Result{Output: out, Until: out.Until}, nil
	}
	fresh := false
	if out.Awaited, fresh, err = h.awaiting.Await(ctx, a, u.query, out.Until); err != nil {
		return Result{}, fmt.Errorf("what is waited for: %w", err)
	}
	if !fresh {
		return Result{Output: out, Until: out.Until}, nil
	}
	if met, err = h.queries.First(ctx, a, []json.RawMessage{u.query}); err != nil {
		return Result{}, err
	}
	if met == 0 {
		return h.matched(ctx, a, &u, out, a.Now)
	}
	if soon := a.Now.Add(confirmAfter); soon.Before(out.Until) {
		out.Confirm = true
		return Result{Output: out, Until: soon}, nil
	}
	return Result{Output: out, Until: out.Until}, nil
}

// state gives what is known of the wait, and when the commit was by which it was
// woken, if it was.
func (h untilHandler) state(ctx context.Context, a *Action) (out UntilOutput, woken *time.Time, err error) {
	if a.Resumed {
		var p struct {
			Woken *time.Time `json:"woken"`
		}
		if json.Unmarshal(a.Parked, &out) != nil || json.Unmarshal(a.Parked, &p) != nil || out.Until.IsZero() {
			return out, nil, Permanentf("the result of this wait was changed while it waited: it must keep until and since")
		}
		return out, p.Woken, nil
	}
	p, err := Render(ctx, timeoutOnly(a.Params), a.Vars)
	if err != nil {
		return out, nil, err
	}
	if out.Until, err = timeout(p, a); err != nil {
		return out, nil, Permanent(err)
	}
	out.Since = a.Now
	return out, nil, nil
}

// timeoutOnly leaves the query out: it is no template.
func timeoutOnly(params json.RawMessage) json.RawMessage {
	var p struct {
		Timeout json.RawMessage `json:"timeout,omitempty"`
	}
	if json.Unmarshal(params, &p) != nil {
		return nil
	}
	raw, _ := json.Marshal(p) //nolint:errchkjson // it was read from JSON
	return raw
}

func (h untilHandler) matched(ctx context.Context, a *Action, u *until, out UntilOutput, at time.Time) (Result, error) {
	out.Outcome, out.MatchedAt, out.Then, out.Confirm = "matched", &at, u.onMatch.words(), false
	if !a.Now.Before(out.Until) {
		out.Superseded = &UntilSuperseded{out.Until}
	}
	return u.onMatch.lead(ctx, h.store, a, Result{Output: out})
}

func (untilHandler) Validate(params json.RawMessage) error {
	if _, err := readUntil(params); err != nil {
		return err
	}
	return validateTimeout(params)
}

func (untilHandler) References(params json.RawMessage) (stages []StageRef, queries []QueryRef) {
	u, err := readUntil(params)
	if err != nil {
		return nil, nil
	}
	return append(u.onMatch.reference("/on_match"), u.onTimeout.reference("/on_timeout")...), []QueryRef{{"/query", u.query}}
}

package jobs

// A dry run: what an action would do, and when, without doing it. Decisions are
// made as they would be, on the rows as they are now; what nobody can know, such
// as a reply, is assumed not to come, and said to be assumed.

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Planned is what would become of one action.
type Planned struct {
	// Params are the parameters as they would be rendered.
	Params map[string]any
	// Until is when a wait would end; zero: the action takes no time.
	Until time.Time
	// Outcome names the decision: arm 1, else, timeout, matched; Assumed says what
	// was assumed for it.
	Outcome, Assumed string
	// Where it leads; all empty: to the next action.
	Stage, Pipeline string
	// Ends is the reason with which the run would end, "" when it goes on.
	Ends string
}

// DryRun is what would happen to a lead that entered a pipeline now.
type DryRun struct {
	LeadID string `json:"lead_id"`
	// Skipped is the reason why it would not be let in; then there are no actions.
	Skipped string         `json:"skipped,omitempty" doc:"Why the lead would not be let in: goal_already_met, suppressed."`
	Actions []DryRunAction `json:"actions" doc:"What would be done, in order. Throttles and what others do meanwhile are not known."`
	Status  string         `json:"status" doc:"How the run would end: completed, exited, failed; active when this was cut short."`
	Reason  string         `json:"reason,omitempty"`
	EndsAt  time.Time      `json:"ends_at"`
}

// DryRunAction is one action of a dry run.
type DryRunAction struct {
	Stage          string         `json:"stage"`
	SequenceNumber int            `json:"sequence_number"`
	ActionType     string         `json:"action_type"`
	At             time.Time      `json:"at" doc:"When it would start."`
	Until          *time.Time     `json:"until,omitempty" doc:"When it would end, if it waits."`
	Params         map[string]any `json:"params,omitempty" doc:"The parameters as they would be rendered."`
	Outcome        string         `json:"outcome,omitempty" doc:"The decision: arm 0, else, timeout, matched, …"`
	Assumed        string         `json:"assumed,omitempty" doc:"What was assumed for it, because nobody can know it."`
	Then           string         `json:"then,omitempty" doc:"Where it leads, if not to the next action."`
	Error          string         `json:"error,omitempty" doc:"Why it would fail."`
}

// planner is implemented by handlers that decide something.
type planner interface {
	plan(ctx context.Context, a *Action) (Planned, error)
}

// Plan says what an action would do. The error is that with which it would fail.
func (r *Registry) Plan(ctx context.Context, a *Action) (Planned, error) {
	reg := r.lookup(a.Type)
	if reg == nil {
		return Planned{}, Permanent(unknownType(a.Type, r.Types()))
	}
	if h, ok := reg.handler.(planner); ok {
		return h.plan(ctx, a)
	}
	p, err := Render(ctx, a.Params, a.Vars)
	return Planned{Params: p}, err
}

// to makes a plan lead where a target does.
func (t target) to(ctx context.Context, a *Action, p Planned) (Planned, error) {
	if t.exit {
		p.Ends = "exit"
	}
	if t.stage == "" {
		return p, nil
	}
	var err error
	p.Stage, err = RenderString(ctx, "stage", t.stage, a.Vars)
	if err == nil && p.Stage == "" {
		err = Permanent(errors.New("stage: the template gives no name"))
	}
	return p, err
}

func (waitHandler) plan(ctx context.Context, a *Action) (Planned, error) {
	p, err := Render(ctx, a.Params, a.Vars)
	if err != nil {
		return Planned{}, err
	}
	until, err := WaitTime(p, a.PerformAt, a.Location)
	return Planned{Params: p, Until: until}, err
}

func (h effectHandler) plan(ctx context.Context, a *Action) (Planned, error) {
	p, err := Render(ctx, a.Params, a.Vars, KeepTypes(h.typed...))
	if err != nil {
		return Planned{}, err
	}
	out := Planned{Params: p}
	if err := h.check(p); err != nil {
		return out, err
	}
	switch a.Type {
	case "move":
		out.Stage, _ = reference(p, "stage", true)
		out.Pipeline, _ = reference(p, "pipeline", false)
	case "exit":
		out.Ends = "exit"
	}
	return out, nil
}

func (h branchHandler) plan(ctx context.Context, a *Action) (Planned, error) {
	b, err := readBranch(a.Params)
	if err != nil {
		return Planned{}, err
	}
	if h.queries == nil {
		return Planned{}, errNoStore
	}
	arm, err := h.queries.First(ctx, a, b.queries)
	switch {
	case err != nil:
		return Planned{}, err
	case arm >= 0:
		return b.then[arm].to(ctx, a, Planned{Outcome: "arm " + string(toJSON(arm))})
	case b.last != nil:
		return b.last.to(ctx, a, Planned{Outcome: "else"})
	default:
		return Planned{Outcome: "no_branch", Ends: "no_branch"}, nil
	}
}

func (h replyHandler) plan(ctx context.Context, a *Action) (Planned, error) {
	p, err := Render(ctx, a.Params, a.Vars)
	if err != nil {
		return Planned{}, err
	}
	out := Planned{Params: p, Outcome: "timeout", Assumed: "no reply comes"}
	_, onTimeout, err := h.targets(a.Params)
	if err != nil {
		return out, err
	}
	if out.Until, err = timeout(p, a); err != nil {
		return out, err
	}
	return onTimeout.to(ctx, a, out)
}

func (h untilHandler) plan(ctx context.Context, a *Action) (Planned, error) {
	u, err := readUntil(a.Params)
	if err != nil {
		return Planned{}, err
	}
	p, err := Render(ctx, timeoutOnly(a.Params), a.Vars)
	if err != nil {
		return Planned{}, err
	}
	out := Planned{Params: p}
	if h.queries == nil {
		return out, errNoStore
	}
	met, err := h.queries.First(ctx, a, []json.RawMessage{u.query})
	if err != nil {
		return out, err
	}
	if met == 0 {
		out.Outcome = "matched"
		return u.onMatch.to(ctx, a, out)
	}
	out.Outcome, out.Assumed = "timeout", "the lead doesn't come to meet the query"
	if out.Until, err = timeout(p, a); err != nil {
		return out, err
	}
	return u.onTimeout.to(ctx, a, out)
}

package jobs

// Where a decision leads: on to the next action, out of the pipeline, or to a
// stage of it. branch, wait_for_reply and wait_until speak of it in one form.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
)

const targetForms = `use "next", "exit" or {"stage": "name or id"}`

// target is a place that a decision leads to.
type target struct {
	exit    bool
	stage   string // "": not a stage; may be a template
	restart bool   // the stage may be the one that the lead is in
}

// readTarget reads a parameter of that name; absent and null are next.
func readTarget(name string, raw json.RawMessage) (target, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return target{}, nil
	}
	var v any
	if err := decodeJSON(raw, &v); err != nil {
		return target{}, fmt.Errorf("%s: not valid JSON: %w", name, err)
	}
	switch v := v.(type) {
	case nil:
		return target{}, nil
	case string:
		switch v {
		case "next":
			return target{}, nil
		case "exit":
			return target{exit: true}, nil
		}
		return target{}, fmt.Errorf("%s: %q is not known: %s", name, excerpt(v), targetForms)
	case map[string]any:
		for _, member := range slices.Sorted(maps.Keys(v)) {
			if member != "stage" && member != "restart" {
				return target{}, fmt.Errorf("%s: unknown member %q: %s", name, excerpt(member), targetForms)
			}
		}
		stage, ok := stageName(v["stage"])
		if !ok {
			return target{}, fmt.Errorf("%s: %s", name, targetForms)
		}
		restart, ok := v["restart"].(bool)
		if !ok && v["restart"] != nil {
			return target{}, fmt.Errorf("%s.restart: use true or false", name)
		}
		return target{stage: stage, restart: restart}, nil
	default:
		return target{}, fmt.Errorf("%s: %s", name, targetForms)
	}
}

// words is the target as results show it.
func (t target) words() any {
	switch {
	case t.exit:
		return "exit"
	case t.stage != "":
		return map[string]string{"stage": t.stage}
	default:
		return "next"
	}
}

// lead makes a result go there: the effect that the decision has on the run.
func (t target) lead(ctx context.Context, s Store, a *Action, r Result) (Result, error) {
	if t.stage == "" && !t.exit {
		return r, nil
	}
	if s == nil {
		return r, errNoStore
	}
	if t.exit {
		r.Effect = func(ctx context.Context, tx pgx.Tx) error { return s.ExitLead(ctx, tx, a, "") }
		return r, nil
	}
	stage, err := RenderString(ctx, "stage", t.stage, a.Vars)
	if err != nil {
		return r, err
	}
	if stage == "" {
		return r, Permanent(errors.New("stage: the template gives no name"))
	}
	r.Effect = func(ctx context.Context, tx pgx.Tx) error { return s.MoveLead(ctx, tx, a, "", stage, t.restart) }
	return r, nil
}

var errNoStore = Permanent(errors.New("this process has no database to carry the action out in"))

// StageRef is a stage of the action's own pipeline that its parameters name.
type StageRef struct {
	Pointer string // where, below the parameters: a JSON pointer
	Stage   string // name or id
	// Restart says that it may be the stage in which the action stands.
	Restart bool
}

// QueryRef is a query that stands in an action's parameters.
type QueryRef struct {
	Pointer string
	Query   json.RawMessage
}

// Referrer is implemented by handlers whose parameters name stages of their own
// pipeline, or hold queries, so that both can be checked when the pipeline is
// saved. Parameters that Validate refuses may give nothing.
type Referrer interface {
	References(params json.RawMessage) (stages []StageRef, queries []QueryRef)
}

func (t target) reference(pointer string) []StageRef {
	if t.stage == "" {
		return nil
	}
	return []StageRef{{pointer + "/stage", t.stage, t.restart}}
}

// Queries asks queries of an action's object, by SQL, of the rows as they are
// now: relative moments and all text modes are allowed.
type Queries interface {
	// First gives the place of the first query that the action's object meets, -1
	// when it meets none. ErrNotVisible when there is no such row (yet); Permanent
	// for a query that can't be asked.
	First(ctx context.Context, a *Action, queries []json.RawMessage) (int, error)
}

func isObjectJSON(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) > 0 && raw[0] == '{'
}

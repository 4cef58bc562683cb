package jobs

// Action type branch: the run goes where the first arm leads whose query the lead
// meets. Decided when it runs, by SQL, on the rows as they are then; all arms in
// one statement, so that no change comes between them. Queries stand as they
// are: they are no templates.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// maxArms bounds a branch: its arms are one SQL statement.
const maxArms = 50

type branchHandler struct {
	store   Store
	queries Queries
}

// BranchOutput is the result of a branch.
type BranchOutput struct {
	// Arm is the place of the arm that was taken, from 0; nil when none was.
	Arm *int `json:"arm"`
	// Then is where it leads: next, exit, {"stage": …}, or no_branch.
	Then any `json:"then"`
}

type branch struct {
	queries []json.RawMessage
	then    []target
	last    *target // else
}

func readBranch(params json.RawMessage) (branch, error) {
	var p struct {
		Arms []json.RawMessage `json:"arms"`
		Else json.RawMessage   `json:"else"`
	}
	var b branch
	if err := json.Unmarshal(params, &p); err != nil {
		return b, errors.New(`arms: use an array of {"query": {…}, "then": …}`)
	}
	if len(p.Arms) == 0 || len(p.Arms) > maxArms {
		return b, fmt.Errorf(`arms: give 1 to %d arms: [{"query": {…}, "then": …}]`, maxArms)
	}
	for i, raw := range p.Arms {
		var arm struct {
			Query json.RawMessage `json:"query"`
			Then  json.RawMessage `json:"then"`
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&arm); err != nil || !isObjectJSON(arm.Query) {
			return b, fmt.Errorf(`arms[%d]: use {"query": {…}, "then": …}`, i)
		}
		if len(arm.Then) == 0 {
			return b, fmt.Errorf("arms[%d].then: %s", i, targetForms)
		}
		then, err := readTarget(fmt.Sprintf("arms[%d].then", i), arm.Then)
		if err != nil {
			return b, err
		}
		b.queries, b.then = append(b.queries, arm.Query), append(b.then, then)
	}
	if len(bytes.TrimSpace(p.Else)) > 0 && string(bytes.TrimSpace(p.Else)) != "null" {
		last, err := readTarget("else", p.Else)
		if err != nil {
			return b, err
		}
		b.last = &last
	}
	return b, nil
}

func (h branchHandler) Run(ctx context.Context, a *Action) (Result, error) {
	if a.LeadStageID == 0 {
		return Result{}, Permanentf("%s: this action stands in no pipeline, so there is nothing to branch", a.Type)
	}
	b, err := readBranch(a.Params)
	if err != nil {
		return Result{}, Permanent(err)
	}
	if h.store == nil || h.queries == nil {
		return Result{}, errNoStore
	}
	arm, err := h.queries.First(ctx, a, b.queries)
	if err != nil {
		return Result{}, err
	}
	switch {
	case arm >= 0:
		return b.then[arm].lead(ctx, h.store, a, Result{Output: BranchOutput{&arm, b.then[arm].words()}})
	case b.last != nil:
		return b.last.lead(ctx, h.store, a, Result{Output: BranchOutput{nil, b.last.words()}})
	default:
		return Result{
			Output: BranchOutput{nil, "no_branch"},
			Effect: func(ctx context.Context, tx pgx.Tx) error { return h.store.EndRun(ctx, tx, a, "exited", "no_branch") },
		}, nil
	}
}

func (branchHandler) Validate(params json.RawMessage) error {
	_, err := readBranch(params)
	return err
}

func (branchHandler) References(params json.RawMessage) (stages []StageRef, queries []QueryRef) {
	b, err := readBranch(params)
	if err != nil {
		return nil, nil
	}
	for i := range b.queries {
		queries = append(queries, QueryRef{fmt.Sprintf("/arms/%d/query", i), b.queries[i]})
		stages = append(stages, b.then[i].reference(fmt.Sprintf("/arms/%d/then", i))...)
	}
	if b.last != nil {
		stages = append(stages, b.last.reference("/else")...)
	}
	return stages, queries
}

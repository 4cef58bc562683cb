package jobs

// Action types whose work is done in the database: move, exit, enter_stage,
// update_row, insert_row. Each returns it as Result.Effect, so that it happens
// exactly once, in the transaction that completes the action. What is wrong with
// the parameters shows before that, in Run.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Store is what effects do in the database. All methods work in tx, and report
// what can't be done with errors of this package: Permanent for names that don't
// exist, ErrNotVisible for rows that are not there (yet).
type Store interface {
	// MoveLead closes the action's lead stage (reason moved) and enters the stage,
	// named by name or id, of the same pipeline or of the named one. The stage that
	// the lead is in is begun again only with restart.
	MoveLead(ctx context.Context, tx pgx.Tx, a *Action, pipeline, stage string, restart bool) error
	// ExitLead ends the action's lead stage: status exited, reason "exit", detail = the given text.
	ExitLead(ctx context.Context, tx pgx.Tx, a *Action, reason string) error
	// EndRun ends the action's lead stage with that status and reason.
	EndRun(ctx context.Context, tx pgx.Tx, a *Action, status, reason string) error
	// EnterStage puts a lead (default: the action's own) into a stage.
	EnterStage(ctx context.Context, tx pgx.Tx, a *Action, pipeline, stage, lead string) error
	// UpdateRow sets columns of the lead's row (object "" or "lead" or its object
	// type) or of rows related to it; it returns how many rows changed.
	// ErrNotVisible when the row isn't there.
	UpdateRow(ctx context.Context, tx pgx.Tx, a *Action, object string, set map[string]any) (int64, error)
	// InsertRow writes one row into a watched table.
	InsertRow(ctx context.Context, tx pgx.Tx, a *Action, table string, values map[string]any) error
}

// Values in set and values are nil, bool, string, json.Number, []any or
// map[string]any (KeepTypes); the Store brings them to the columns' types.

// effectOutput is the result of the types here: the parameters as rendered.
type effectOutput map[string]any

// effectHandler makes an effect of rendered parameters.
type effectHandler struct {
	store   Store
	typed   []string
	check   func(p map[string]any) error
	effect  func(s Store, a *Action, p map[string]any) (Result, error)
	inStage bool // needs a lead stage: not for a trigger's own action
	stages  func(p map[string]any) []StageRef
}

func (h effectHandler) Run(ctx context.Context, a *Action) (Result, error) {
	if h.inStage && a.LeadStageID == 0 {
		return Result{}, Permanentf("%s: this action stands in no pipeline, so there is no stage to leave: use enter_stage", a.Type)
	}
	p, err := Render(ctx, a.Params, a.Vars, KeepTypes(h.typed...))
	if err != nil {
		return Result{}, err
	}
	if err := h.check(p); err != nil {
		return Result{}, Permanent(err)
	}
	if h.store == nil {
		return Result{}, errNoStore
	}
	return h.effect(h.store, a, p)
}

func (h effectHandler) Validate(params json.RawMessage) error {
	p, err := decodeParams(params)
	if err != nil {
		return err
	}
	return h.check(p)
}

func (h effectHandler) References(params json.RawMessage) (stages []StageRef, queries []QueryRef) {
	if p, err := decodeParams(params); err == nil && h.stages != nil {
		stages = h.stages(p)
	}
	return stages, nil
}

// reference is a parameter that names a stage or pipeline by name or id.
func reference(p map[string]any, name string, required bool) (string, error) {
	v, there := p[name]
	if !there || v == nil || v == "" {
		if required {
			return "", fmt.Errorf("%s: name a %s, by name or id", name, name)
		}
		return "", nil
	}
	s, ok := stageName(v)
	if !ok {
		return "", fmt.Errorf("%s: use a name or an id", name)
	}
	return strings.TrimSpace(s), nil
}

func newMove(s Store) Handler {
	return effectHandler{
		store:   s,
		inStage: true,
		check: func(p map[string]any) error {
			if _, err := reference(p, "stage", true); err != nil {
				return err
			}
			if _, err := reference(p, "pipeline", false); err != nil {
				return err
			}
			if _, ok := p["restart"].(bool); !ok && p["restart"] != nil {
				return errors.New("restart: use true or false")
			}
			return nil
		},
		effect: func(s Store, a *Action, p map[string]any) (Result, error) {
			stage, _ := reference(p, "stage", true)
			pipeline, _ := reference(p, "pipeline", false)
			return Result{
				Output: effectOutput{"stage": stage, "pipeline": pipeline},
				Effect: func(ctx context.Context, tx pgx.Tx) error {
					return s.MoveLead(ctx, tx, a, pipeline, stage, p["restart"] == true)
				},
			}, nil
		},
		stages: func(p map[string]any) []StageRef {
			stage, ok := stageName(p["stage"])
			if pipeline, _ := reference(p, "pipeline", false); !ok || pipeline != "" {
				return nil // another pipeline's
			}
			return []StageRef{{"/stage", stage, p["restart"] == true}}
		},
	}
}

func newExit(s Store) Handler {
	return effectHandler{
		store:   s,
		inStage: true,
		check: func(p map[string]any) error {
			_, err := textParam(p, "reason")
			return err
		},
		effect: func(s Store, a *Action, p map[string]any) (Result, error) {
			reason, _ := textParam(p, "reason")
			return Result{
				Output: effectOutput{"reason": reason},
				Effect: func(ctx context.Context, tx pgx.Tx) error { return s.ExitLead(ctx, tx, a, reason) },
			}, nil
		},
	}
}

func newEnterStage(s Store) Handler {
	return effectHandler{
		store: s,
		check: func(p map[string]any) error {
			if _, err := reference(p, "pipeline", true); err != nil {
				return err
			}
			if _, err := reference(p, "stage", true); err != nil {
				return err
			}
			_, err := textParam(p, "lead")
			return err
		},
		effect: func(s Store, a *Action, p map[string]any) (Result, error) {
			pipeline, _ := reference(p, "pipeline", true)
			stage, _ := reference(p, "stage", true)
			lead, _ := textParam(p, "lead")
			if _, named := p["lead"]; named && strings.TrimSpace(lead) == "" {
				return Result{}, Permanent(errors.New("lead: the template gives no id: leave lead out for the action's own lead"))
			}
			if lead == "" {
				lead = a.LeadID
			}
			return Result{
				Output: effectOutput{"pipeline": pipeline, "stage": stage, "lead": lead},
				Effect: func(ctx context.Context, tx pgx.Tx) error { return s.EnterStage(ctx, tx, a, pipeline, stage, lead) },
			}, nil
		},
	}
}

func newUpdateRow(s Store) Handler {
	return effectHandler{
		store: s,
		typed: []string{"set"},
		check: func(p map[string]any) error {
			if _, err := textParam(p, "object"); err != nil {
				return err
			}
			_, err := objectParam(p, "set")
			return err
		},
		effect: func(s Store, a *Action, p map[string]any) (Result, error) {
			object, _ := textParam(p, "object")
			set, _ := objectParam(p, "set")
			return Result{
				Output:      effectOutput{"object": object, "set": set},
				ChangesRows: true,
				Effect: func(ctx context.Context, tx pgx.Tx) error {
					_, err := s.UpdateRow(ctx, tx, a, object, set)
					return err
				},
			}, nil
		},
	}
}

func newInsertRow(s Store) Handler {
	return effectHandler{
		store: s,
		typed: []string{"values"},
		check: func(p map[string]any) error {
			table, err := textParam(p, "table")
			if err != nil {
				return err
			}
			if strings.TrimSpace(table) == "" {
				return errors.New("table: name a watched table or its object type")
			}
			_, err = objectParam(p, "values")
			return err
		},
		effect: func(s Store, a *Action, p map[string]any) (Result, error) {
			table, _ := textParam(p, "table")
			values, _ := objectParam(p, "values")
			return Result{
				Output:      effectOutput{"table": table, "values": values},
				ChangesRows: true,
				Effect: func(ctx context.Context, tx pgx.Tx) error {
					return s.InsertRow(ctx, tx, a, table, values)
				},
			}, nil
		},
	}
}

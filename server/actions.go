package server

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// Action is one action on the wire.
type Action struct {
	ID             string          `json:"id"`
	OrganizationID string          `json:"organization_id"`
	LeadID         string          `json:"lead_id"`
	ObjectType     string          `json:"object_type"`
	LeadStageID    *string         `json:"lead_stage_id" doc:"null: a trigger's own action, in no pipeline."`
	SequenceNumber int32           `json:"sequence_number"`
	ActionType     string          `json:"action_type"`
	Params         json.RawMessage `json:"params"`
	Status         string          `json:"status" enum:"pending,queued,running,completed,failed,delayed,canceled,merged,skipped"`
	Reason         *string         `json:"reason"`
	PerformAt      *time.Time      `json:"perform_at" doc:"null: waits for the action before it."`
	Attempt        int32           `json:"attempt"`
	MaxAttempts    int32           `json:"max_attempts"`
	Error          *string         `json:"error"`
	Result         json.RawMessage `json:"result"`
	CreatedAt      time.Time       `json:"created_at"`
	QueuedAt       *time.Time      `json:"queued_at"`
	StartedAt      *time.Time      `json:"started_at"`
	FinishedAt     *time.Time      `json:"finished_at"`
	FiringID       *string         `json:"firing_id" doc:"The trigger firing that wrote it."`
	Depth          int32           `json:"depth"`
}

func showAction(a *dbq.ApiListActionsRow) Action {
	return Action{
		strconv.FormatInt(a.ID, 10), a.OrganizationID, a.LeadID, a.ObjectType, idString(a.LeadStageID), a.SequenceNumber,
		a.ActionType, a.Params, a.Status, a.Reason, a.PerformAt, a.Attempt, a.MaxAttempts, a.Error, a.Result,
		a.CreatedAt, a.QueuedAt, a.StartedAt, a.FinishedAt, idString(a.FiringID), a.Depth,
	}
}

func (s *Server) registerActions() {
	tags := []string{"actions"}
	type listInput struct {
		OrgParam
		Paged

		Status     string `query:"status" enum:"pending,queued,running,completed,failed,delayed,canceled,merged,skipped"`
		ActionType string `query:"action_type" maxLength:"200"`
		LeadID     string `query:"lead_id" maxLength:"1000"`
	}
	route(s, huma.Operation{
		OperationID: "list-actions", Method: http.MethodGet, Path: "/v1/actions", Tags: tags,
		Summary: "List actions", Description: "The newest first.",
	}, func(ctx context.Context, in *listInput) (*List[Action], error) {
		org, err := scope(ctx, &in.OrgParam)
		if err != nil {
			return nil, err
		}
		before, err := idCursor(in.Cursor, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		var rows []dbq.ApiListActionsRow
		if org != nil && in.LeadID != "" {
			of, err := s.q.ApiListLeadActions(ctx, dbq.ApiListLeadActionsParams{
				OrganizationID: *org, LeadID: in.LeadID, BeforeID: before,
				Status: optional(in.Status), ActionType: optional(in.ActionType), MaxRows: in.Limit + 1,
			})
			if err != nil {
				return nil, err
			}
			for i := range of {
				rows = append(rows, dbq.ApiListActionsRow(of[i]))
			}
		} else {
			rows, err = s.q.ApiListActions(ctx, dbq.ApiListActionsParams{
				OrganizationID: org, LeadID: optional(in.LeadID), BeforeID: before,
				Status: optional(in.Status), ActionType: optional(in.ActionType), MaxRows: in.Limit + 1,
			})
			if err != nil {
				return nil, err
			}
		}
		return page(rows, in.Limit, showAction, func(a *dbq.ApiListActionsRow) string { return strconv.FormatInt(a.ID, 10) }), nil
	})

	type oneInput struct {
		OrgParam

		ID string `path:"id"`
	}
	one := func(do func(context.Context, *string, int64) error) func(context.Context, *oneInput) (*Single[Action], error) {
		return func(ctx context.Context, in *oneInput) (*Single[Action], error) {
			org, err := scope(ctx, &in.OrgParam)
			if err != nil {
				return nil, err
			}
			id, err := parseID("action", in.ID)
			if err != nil {
				return nil, err
			}
			if err := do(ctx, org, id); err != nil {
				return nil, orNotFound(err, "action", in.ID)
			}
			row, err := s.q.ApiGetAction(ctx, dbq.ApiGetActionParams{ID: id, OrganizationID: org})
			if err != nil {
				return nil, orNotFound(err, "action", in.ID)
			}
			return single(showAction((*dbq.ApiListActionsRow)(&row))), nil
		}
	}
	route(s, huma.Operation{
		OperationID: "get-action", Method: http.MethodGet, Path: "/v1/actions/{id}", Tags: tags, Summary: "Get an action",
	}, one(func(context.Context, *string, int64) error { return nil }))
	type moveInput struct {
		OrgParam

		ID   string `path:"id"`
		Body struct {
			PerformAt time.Time `json:"perform_at" doc:"When it may start; in the past: at once."`
		}
	}
	route(s, huma.Operation{
		OperationID: "move-action", Method: http.MethodPatch, Path: "/v1/actions/{id}", Tags: tags,
		Summary: "Move an action to another time", Description: "One that waits for its time; a wait's end, too.",
	}, func(ctx context.Context, in *moveInput) (*Single[Action], error) {
		return one(func(ctx context.Context, org *string, id int64) error {
			return s.moveAction(ctx, org, id, in.Body.PerformAt)
		})(ctx, &oneInput{in.OrgParam, in.ID})
	})
	route(s, huma.Operation{
		OperationID: "cancel-action", Method: http.MethodPost, Path: "/v1/actions/{id}/cancel", Tags: tags,
		Summary: "Cancel an action", Description: "One that has not started. The next action of its stage becomes due.",
	}, one(s.cancelAction))
	route(s, huma.Operation{
		OperationID: "retry-action", Method: http.MethodPost, Path: "/v1/actions/{id}/retry", Tags: tags,
		Summary: "Run a failed or canceled action again", Description: "Its attempts are counted anew. The stage that failed because of it is reopened; " +
			"an action of a stage that is still active runs when nothing else of that stage does.",
	}, one(s.retryAction))
}

func (s *Server) cancelAction(ctx context.Context, org *string, id int64) error {
	var n int64
	err := s.inTx(ctx, func(q *dbq.Queries) (err error) {
		n, err = q.ApiCancelAction(ctx, dbq.ApiCancelActionParams{ID: id, OrganizationID: org})
		return err
	})
	if err != nil || n > 0 {
		return err
	}
	row, err := s.q.ApiGetAction(ctx, dbq.ApiGetActionParams{ID: id, OrganizationID: org})
	if err != nil {
		return err
	}
	return conflict("the action is %s: only a pending, queued or delayed one can be canceled", row.Status)
}

// retryAction makes a failed or canceled action due again, by the rules of
// pgautomate.retry_action.
func (s *Server) retryAction(ctx context.Context, org *string, id int64) error {
	return s.inTx(ctx, func(q *dbq.Queries) error {
		if _, err := q.ApiGetAction(ctx, dbq.ApiGetActionParams{ID: id, OrganizationID: org}); err != nil {
			return err
		}
		err := q.ApiRetryAction(ctx, id)
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == pgerrcode.ObjectNotInPrerequisiteState {
			return conflict("%s", refused.Message)
		}
		return err
	})
}

// moveAction lets an action be done at another time.
func (s *Server) moveAction(ctx context.Context, org *string, id int64, at time.Time) error {
	var n int64
	err := s.inTx(ctx, func(q *dbq.Queries) (err error) {
		n, err = q.ApiMoveAction(ctx, dbq.ApiMoveActionParams{ID: id, OrganizationID: org, PerformAt: at})
		return err
	})
	if err != nil || n > 0 {
		return err
	}
	row, err := s.q.ApiGetAction(ctx, dbq.ApiGetActionParams{ID: id, OrganizationID: org})
	switch {
	case err != nil:
		return err
	case row.Status == "pending" && row.PerformAt == nil:
		return conflict("it is not the action's turn yet: it becomes due when the action before it ends")
	default:
		return conflict("the action is %s: only a pending or delayed one can be moved", row.Status)
	}
}

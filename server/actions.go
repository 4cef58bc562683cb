package server

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

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

// retryAction makes a failed or canceled action due again. What an action in a
// stage may do depends on the stage: the lead may long be somewhere else.
func (s *Server) retryAction(ctx context.Context, org *string, id int64) error {
	return s.inTx(ctx, func(q *dbq.Queries) error {
		if err := q.ApiBringBackActions(ctx, dbq.ApiBringBackActionsParams{ID: id, OrganizationID: org}); err != nil {
			return err
		}
		// Entries of the lead wait for this, as they do for each other.
		if err := q.ApiLockRunOfAction(ctx, id); err != nil {
			return err
		}
		a, err := q.ApiLockActionForRetry(ctx, dbq.ApiLockActionForRetryParams{ID: id, OrganizationID: org})
		if err != nil {
			return err
		}
		if a.Status != "failed" && a.Status != "canceled" {
			return conflict("the action is %s: only a failed or canceled one can be retried", a.Status)
		}
		if a.LeadStageID != nil {
			if err := reopen(ctx, q, &a); err != nil {
				return err
			}
		}
		if err := q.ApiResetAction(ctx, id); err != nil {
			return err
		}
		if a.LeadStageID != nil {
			return q.ApiAdvanceStage(ctx, *a.LeadStageID)
		}
		return nil
	})
}

func reopen(ctx context.Context, q *dbq.Queries, a *dbq.ApiLockActionForRetryRow) error {
	switch {
	case a.StageStatus == "active":
		return nil
	case a.StageStatus == "":
		return conflict("the stage of this action is no more: put the lead into a stage instead")
	case a.StageStatus == "failed" && a.Status == "canceled":
		return conflict("this action was canceled because its stage failed before it: retry the action that failed")
	case a.StageStatus == "failed" && a.LaterFailed:
		return conflict("the stage went on after this action and failed at a later one: retry that one")
	case a.StageStatus != "failed":
		why := ""
		if a.StageReason != "" {
			why = fmt.Sprintf(" (%s)", a.StageReason)
		}
		return conflict("the lead's stage is %s%s and the lead went on: put it into the stage again instead", a.StageStatus, why)
	case a.AnotherActive:
		return conflict("the lead is in another stage of pipeline %q by now, and can only be in one", a.Pipeline)
	}
	if err := q.ApiReopenStage(ctx, *a.LeadStageID); err != nil {
		return err
	}
	return q.ApiRestoreCanceledActions(ctx, dbq.ApiRestoreCanceledActionsParams{LeadStageID: a.LeadStageID, SequenceNumber: a.SequenceNumber})
}

package server

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgerrcode"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// Throttle is a throttle on the wire.
type Throttle struct {
	OrganizationID string `json:"organization_id" doc:"* is any organization."`
	ActionType     string `json:"action_type" doc:"* is any type: one budget for all."`
	MaxStarts      *int32 `json:"max_starts" doc:"In any window of per; null: no limit; 0 pauses."`
	Per            string `json:"per"`
	MaxRunning     *int32 `json:"max_running" doc:"At once; null: no limit; 0 pauses."`
}

func (s *Server) registerThrottles() {
	tags := []string{"throttles"}
	type listInput struct {
		OrgParam
		Paged
	}
	route(s, huma.Operation{
		OperationID: "list-throttles", Method: http.MethodGet, Path: "/v1/throttles", Tags: tags, Summary: "List throttles",
		Description: "The most specific one counts: (organization, type), (organization, *), (*, type), (*, *).",
	}, func(ctx context.Context, in *listInput) (*List[Throttle], error) {
		org, err := scope(ctx, &in.OrgParam)
		if err != nil {
			return nil, err
		}
		raw, err := decodeCursor(in.Cursor)
		if err != nil {
			return nil, err
		}
		afterOrg, afterType, _ := strings.Cut(raw, "\n")
		rows, err := s.q.ApiListThrottles(ctx, dbq.ApiListThrottlesParams{
			OrganizationID: org, AfterOrganization: afterOrg, AfterType: afterType, MaxRows: in.Limit + 1,
		})
		if err != nil {
			return nil, err
		}
		return page(rows, in.Limit, func(r *dbq.ApiListThrottlesRow) Throttle { return Throttle(*r) },
			func(r *dbq.ApiListThrottlesRow) string { return r.OrganizationID + "\n" + r.ActionType }), nil
	})

	type putThrottle struct {
		OrgParam

		Body struct {
			OrganizationID string `json:"organization_id,omitempty" maxLength:"500" doc:"For an operator's key; * is any organization."`
			ActionType     string `json:"action_type,omitempty" maxLength:"200" default:"*"`
			MaxStarts      *int32 `json:"max_starts,omitempty" minimum:"0" nullable:"true"`
			Per            string `json:"per,omitempty" maxLength:"100" default:"1 minute" doc:"An interval, e.g. 1 minute."`
			MaxRunning     *int32 `json:"max_running,omitempty" minimum:"0" nullable:"true"`
		}
	}
	route(s, huma.Operation{
		OperationID: "put-throttle", Method: http.MethodPut, Path: "/v1/throttles", Tags: tags, Summary: "Set a throttle",
		Description: "Takes effect within 10 s.",
	}, func(ctx context.Context, in *putThrottle) (*Single[Throttle], error) {
		b := &in.Body
		org, err := writer(ctx, &in.OrgParam, b.OrganizationID)
		if err != nil {
			return nil, err
		}
		if types := s.actions.Types(); b.ActionType != "*" && !slices.Contains(types, b.ActionType) {
			slices.Sort(types)
			return nil, invalid("/action_type", "unknown_action_type", "there is no such action type: take * or one of "+strings.Join(types, ", "))
		}
		row, err := s.q.ApiPutThrottle(ctx, dbq.ApiPutThrottleParams{
			OrganizationID: org, ActionType: b.ActionType, MaxStarts: b.MaxStarts, Per: b.Per, MaxRunning: b.MaxRunning,
		})
		if isPG(err, pgerrcode.InvalidDatetimeFormat, pgerrcode.DatetimeFieldOverflow, pgerrcode.IntervalFieldOverflow) {
			return nil, invalid("/per", "invalid", perHelp)
		}
		if err != nil {
			return nil, err
		}
		return single(Throttle(row)), nil
	})

	type deleteInput struct {
		OrgParam

		ActionType string `query:"action_type" required:"true" maxLength:"200"`
	}
	route(s, huma.Operation{
		OperationID: "delete-throttle", Method: http.MethodDelete, Path: "/v1/throttles", Tags: tags,
		DefaultStatus: http.StatusNoContent, Summary: "Remove a throttle",
	}, func(ctx context.Context, in *deleteInput) (*Empty, error) {
		org, err := writer(ctx, &in.OrgParam, "")
		if err != nil {
			return nil, err
		}
		n, err := s.q.ApiDeleteThrottle(ctx, dbq.ApiDeleteThrottleParams{OrganizationID: org, ActionType: in.ActionType})
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, notFound("throttle of action type", in.ActionType)
		}
		return &Empty{}, nil
	})
}

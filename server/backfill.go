package server

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/pgautomate/pgautomate/backfill"
	"github.com/pgautomate/pgautomate/db/dbq"
)

// Backfill is a backfill on the wire.
type Backfill struct {
	ID             string     `json:"id"`
	TriggerID      string     `json:"trigger_id"`
	TriggerVersion int32      `json:"trigger_version"`
	OrganizationID string     `json:"organization_id"`
	Status         string     `json:"status" enum:"pending,running,completed,canceled,failed"`
	Limit          *int64     `json:"limit"`
	PerMinute      *int32     `json:"per_minute"`
	Found          *int64     `json:"found" doc:"How many objects matched when they were listed; null: not listed yet."`
	Fired          int64      `json:"fired" doc:"Firings so far."`
	Skipped        int64      `json:"skipped" doc:"Objects that no longer matched when their turn came."`
	Error          *string    `json:"error" doc:"Why it waits, failed, or was canceled by the engine."`
	CreatedAt      time.Time  `json:"created_at"`
	StartedAt      *time.Time `json:"started_at"`
	FinishedAt     *time.Time `json:"finished_at"`
}

func showBackfill(b *dbq.PgautomateTriggerBackfill) Backfill {
	return Backfill{
		strconv.FormatInt(b.ID, 10), strconv.FormatInt(b.TriggerID, 10), b.TriggerVersion, b.OrganizationID, b.Status, b.MaxObjects, b.PerMinute,
		b.Found, b.Fired, b.Skipped, b.Error, b.CreatedAt, b.StartedAt, b.FinishedAt,
	}
}

func (s *Server) registerBackfills() {
	tags := []string{"triggers"}

	type startBackfill struct {
		OrgParam

		ID   string `path:"id"`
		Body *struct {
			Limit     *int64 `json:"limit,omitempty" minimum:"1" doc:"At most so many objects, the first by their ids."`
			PerMinute *int32 `json:"per_minute,omitempty" minimum:"1" doc:"At most so many firings in any minute; without it there is no limit."`
		}
	}
	route(s, huma.Operation{
		OperationID: "backfill-trigger", Method: http.MethodPost, Path: "/v1/triggers/{id}/backfill", Tags: tags, DefaultStatus: http.StatusAccepted,
		Summary: "Fire a trigger for what matches now",
		Description: "In the background: the objects that match are listed in one moment, then each is fired for once, if it still matches. " +
			"Only the query is asked: before_query and extra_filter speak of a change, and there is none. " +
			"Such a firing has {\"backfill\": id} as its cause. One backfill of a trigger at a time; 409 for a paused or invalid trigger.",
	}, func(ctx context.Context, in *startBackfill) (*Single[Backfill], error) {
		row, err := s.trigger(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		var limit *int64
		var perMinute *int32
		if in.Body != nil {
			limit, perMinute = in.Body.Limit, in.Body.PerMinute
		}
		b, err := backfill.Start(ctx, s.pool, s.jobs, row, limit, perMinute)
		if refused, ok := errors.AsType[*backfill.RefusedError](err); ok {
			return nil, conflict("%s", refused.Error())
		}
		if err != nil {
			return nil, err
		}
		return single(showBackfill(&b)), nil
	})

	type listInput struct {
		OrgParam
		Paged

		ID string `path:"id"`
	}
	route(s, huma.Operation{
		OperationID: "list-backfills", Method: http.MethodGet, Path: "/v1/triggers/{id}/backfills", Tags: tags,
		Summary: "A trigger's backfills", Description: "With their progress; the newest first.",
	}, func(ctx context.Context, in *listInput) (*List[Backfill], error) {
		row, err := s.trigger(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		before, err := idCursor(in.Cursor, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		rows, err := s.q.ListBackfills(ctx, dbq.ListBackfillsParams{TriggerID: row.ID, BeforeID: before, MaxRows: in.Limit + 1})
		if err != nil {
			return nil, err
		}
		return page(rows, in.Limit, showBackfill, func(b *dbq.PgautomateTriggerBackfill) string { return strconv.FormatInt(b.ID, 10) }), nil
	})

	type oneInput struct {
		OrgParam

		ID         string `path:"id"`
		BackfillID string `path:"backfill_id"`
	}
	one := func(ctx context.Context, in *oneInput) (*dbq.PgautomateTriggerBackfill, error) {
		row, err := s.trigger(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		id, err := parseID("backfill", in.BackfillID)
		if err != nil {
			return nil, err
		}
		b, err := s.q.GetBackfill(ctx, dbq.GetBackfillParams{ID: id, TriggerID: row.ID})
		return &b, orNotFound(err, "backfill", in.BackfillID)
	}
	route(s, huma.Operation{
		OperationID: "get-backfill", Method: http.MethodGet, Path: "/v1/triggers/{id}/backfills/{backfill_id}", Tags: tags, Summary: "Get a backfill",
	}, func(ctx context.Context, in *oneInput) (*Single[Backfill], error) {
		b, err := one(ctx, in)
		if err != nil {
			return nil, err
		}
		return single(showBackfill(b)), nil
	})
	route(s, huma.Operation{
		OperationID: "cancel-backfill", Method: http.MethodDelete, Path: "/v1/triggers/{id}/backfills/{backfill_id}", Tags: tags, Summary: "Cancel a backfill",
		Description: "It fires no more; what it fired stays. 409 when it has ended already.",
	}, func(ctx context.Context, in *oneInput) (*Single[Backfill], error) {
		b, err := one(ctx, in)
		if err != nil {
			return nil, err
		}
		ended, err := backfill.Cancel(ctx, s.pool, s.jobs, b.TriggerID, b.ID)
		if err != nil {
			return nil, err
		}
		if b, err = one(ctx, in); err != nil {
			return nil, err
		}
		if !ended {
			return nil, conflict("the backfill is %s: only a pending or running one can be canceled", b.Status)
		}
		return single(showBackfill(b)), nil
	})
}

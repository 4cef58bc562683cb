package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/firing"
)

func (s *Server) registerExplain() {
	type explainTrigger struct {
		OrgParam

		ID   string `path:"id"`
		Body struct {
			ObjectID  string `json:"object_id" minLength:"1" maxLength:"1000"`
			CommitLSN string `json:"commit_lsn,omitempty" maxLength:"20" doc:"The object's last change at or before this position is explained; without it, its latest."`
		}
	}
	route(s, huma.Operation{
		OperationID: "explain-trigger", Method: http.MethodPost, Path: "/v1/triggers/{id}/explain", Tags: []string{"triggers"},
		Summary: "Why a trigger fired for an object, or did not",
		Description: "Evaluates each node of the query before and after the commit, by the evaluator that decided, with related rows as they were then. " +
			"The latest changes are kept (32 MiB of them) by the process that feeds; of an object without one the row as it is now is explained.",
	}, func(ctx context.Context, in *explainTrigger) (*Single[firing.Explanation], error) {
		row, err := s.trigger(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		var at *string
		if in.Body.CommitLSN != "" {
			if _, err := change.ParseLSN(in.Body.CommitLSN); err != nil {
				return nil, invalid("/commit_lsn", "invalid", err.Error())
			}
			at = &in.Body.CommitLSN
		}
		x, err := firing.Ask(ctx, s.pool, row.ID, in.Body.ObjectID, at)
		if errors.Is(err, firing.ErrUnanswered) {
			return nil, problemf(http.StatusServiceUnavailable, "%s", err)
		}
		if err != nil {
			return nil, err
		}
		return single(*x), nil
	})
}

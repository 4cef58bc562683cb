package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/pgautomate/pgautomate/catalog"
)

func (s *Server) registerPreview() {
	type previewTrigger struct {
		OrgParam

		Body struct {
			OrganizationID string          `json:"organization_id,omitempty" maxLength:"500" doc:"For an operator's key."`
			ObjectType     string          `json:"object_type" minLength:"1" maxLength:"200" doc:"A watched object type."`
			Query          json.RawMessage `json:"query"`
		}
	}
	route(s, huma.Operation{
		OperationID: "preview-trigger", Method: http.MethodPost, Path: "/v1/triggers/preview", Tags: []string{"triggers"},
		Summary: "What a query matches now",
		Description: "Asked of the table by SQL, within the key's organization. Takes what a query may hold when it is asked once, also what a trigger can't: " +
			"moments relative to now, the text modes full_words, phrase and beginning_of_words, a bare text node.",
	}, func(ctx context.Context, in *previewTrigger) (*Single[catalog.Preview], error) {
		org, err := writer(ctx, &in.OrgParam, in.Body.OrganizationID)
		if err != nil {
			return nil, err
		}
		var f fields
		schemas, err := s.objects.Schemas(ctx)
		if err != nil {
			return nil, fmt.Errorf("schemas: %w", err)
		}
		if watched, err := s.isWatched(ctx, &f, schemas, in.Body.ObjectType); err != nil {
			return nil, err
		} else if !watched {
			return nil, f.err()
		}
		where, err := s.location(ctx, org)
		if err != nil {
			return nil, err
		}
		tables, err := s.objects.Snapshot(ctx)
		if err != nil {
			return nil, fmt.Errorf("tables: %w", err)
		}
		p, err := tables.Preview(ctx, s.pool, org, in.Body.ObjectType, in.Body.Query, where)
		if err != nil {
			if err := f.query("", err); err != nil {
				return nil, err
			}
			return nil, f.err()
		}
		return single(*p), nil
	})
}

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/trigger"
)

// Trigger is a trigger on the wire.
type Trigger struct {
	ID             string          `json:"id"`
	OrganizationID string          `json:"organization_id"`
	Name           string          `json:"name"`
	ObjectType     string          `json:"object_type"`
	Query          json.RawMessage `json:"query"`
	BeforeQuery    json.RawMessage `json:"before_query" doc:"What the object must have met before the commit; null: nothing."`
	ExtraFilter    json.RawMessage `json:"extra_filter" doc:"What must have happened to it; null: that it began to match."`
	ActionType     string          `json:"action_type"`
	ActionParams   json.RawMessage `json:"action_params"`
	Status         string          `json:"status" enum:"active,paused,invalid,degraded"`
	Error          *string         `json:"error" doc:"Why it is invalid or degraded, and what to do."`
	Version        int32           `json:"version"`
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      time.Time       `json:"updated_at"`
	PipelineID     *string         `json:"pipeline_id" doc:"The pipeline whose goal this is: change it there. null: a trigger of its own."`
}

func showTrigger(t *dbq.PgautomateTrigger) Trigger {
	return Trigger{
		strconv.FormatInt(t.ID, 10), t.OrganizationID, t.Name, t.ObjectType, t.Query, t.BeforeQuery, t.ExtraFilter, t.ActionType, t.ActionParams,
		t.Status, t.Error, t.Version, t.CreatedAt, t.UpdatedAt, idString(t.PipelineID),
	}
}

// ownTrigger refuses to change a trigger that its pipeline keeps.
func ownTrigger(t *dbq.PgautomateTrigger) error {
	if t.PipelineID != nil {
		return conflict("trigger %d is the goal of pipeline %d: change the pipeline's goal instead", t.ID, *t.PipelineID)
	}
	return nil
}

// Firing is one row of a trigger's audit on the wire.
type Firing struct {
	ID             string          `json:"id"`
	TriggerID      string          `json:"trigger_id"`
	TriggerVersion int32           `json:"trigger_version"`
	OrganizationID string          `json:"organization_id"`
	ObjectType     string          `json:"object_type"`
	ObjectID       string          `json:"object_id"`
	Action         string          `json:"action" enum:"created,updated"`
	ChangedFields  []string        `json:"changed_fields"`
	Data           json.RawMessage `json:"data"`
	PreviousData   json.RawMessage `json:"previous_data" doc:"null when the object was created."`
	CommitLSN      string          `json:"commit_lsn"`
	CommittedAt    time.Time       `json:"committed_at"`
	FiredAt        time.Time       `json:"fired_at"`
	Cause          json.RawMessage `json:"cause" doc:"The chain of automations that made the change; null for a person's or an app's."`
	Depth          int32           `json:"depth"`
	Related        json.RawMessage `json:"related" doc:"The changed object that made this one match; null when it is the object itself."`
}

func showFiring(f *dbq.ApiListFiringsRow) Firing {
	return Firing{
		strconv.FormatInt(f.ID, 10), strconv.FormatInt(f.TriggerID, 10), f.TriggerVersion, f.OrganizationID, f.ObjectType, f.ObjectID,
		f.Action, f.ChangedFields, f.Data, f.PreviousData, f.CommitLsn, f.CommittedAt, f.FiredAt, f.Cause, f.Depth, f.Related,
	}
}

func (s *Server) registerTriggers() { //nolint:cyclop // a list of routes
	tags := []string{"triggers"}

	type createTrigger struct {
		OrgParam

		Body struct {
			OrganizationID string          `json:"organization_id,omitempty" maxLength:"500" doc:"For an operator's key."`
			Name           string          `json:"name" minLength:"1" maxLength:"500"`
			ObjectType     string          `json:"object_type" minLength:"1" maxLength:"200" doc:"A watched object type."`
			Query          json.RawMessage `json:"query" doc:"Fires when the object did not match before a commit and matches after it."`
			BeforeQuery    json.RawMessage `json:"before_query,omitempty" doc:"A query that the object must have met before the commit: from A to B."`
			ExtraFilter    json.RawMessage `json:"extra_filter,omitempty" doc:"A filter on the change itself, e.g. that a field changed. Then the trigger fires for each such change after which the query holds."`
			ActionType     string          `json:"action_type" minLength:"1" maxLength:"200"`
			ActionParams   json.RawMessage `json:"action_params,omitempty"`
			Status         string          `json:"status,omitempty" enum:"active,paused" default:"active"`
		}
	}
	route(s, huma.Operation{
		OperationID: "create-trigger", Method: http.MethodPost, Path: "/v1/triggers", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make a trigger", Description: "It sees exactly the commits after its own.",
	}, func(ctx context.Context, in *createTrigger) (*Single[Trigger], error) {
		org, err := writer(ctx, &in.OrgParam, in.Body.OrganizationID)
		if err != nil {
			return nil, err
		}
		b := &in.Body
		if isNull(b.ActionParams) {
			b.ActionParams = json.RawMessage("{}")
		}
		if err := s.checkTrigger(ctx, org, b.ObjectType, &definition{b.Query, b.BeforeQuery, b.ExtraFilter}, b.ActionType, b.ActionParams); err != nil {
			return nil, err
		}
		row, err := s.q.ApiInsertTrigger(ctx, dbq.ApiInsertTriggerParams{
			OrganizationID: org, Name: b.Name, ObjectType: b.ObjectType, Query: b.Query, BeforeQuery: b.BeforeQuery, ExtraFilter: b.ExtraFilter,
			ActionType: b.ActionType, ActionParams: b.ActionParams, Status: b.Status,
		})
		if err != nil {
			return nil, err
		}
		return single(showTrigger(&row)), nil
	})

	type listInput struct {
		OrgParam
		Paged

		ObjectType string `query:"object_type" maxLength:"200"`
		Status     string `query:"status" enum:"active,paused,invalid,degraded"`
	}
	route(s, huma.Operation{
		OperationID: "list-triggers", Method: http.MethodGet, Path: "/v1/triggers", Tags: tags, Summary: "List triggers",
	}, func(ctx context.Context, in *listInput) (*List[Trigger], error) {
		org, err := scope(ctx, &in.OrgParam)
		if err != nil {
			return nil, err
		}
		after, err := idCursor(in.Cursor, 0)
		if err != nil {
			return nil, err
		}
		var rows []dbq.PgautomateTrigger
		if org != nil {
			rows, err = s.q.ApiListTriggers(ctx, dbq.ApiListTriggersParams{
				OrganizationID: *org, AfterID: after, ObjectType: optional(in.ObjectType), Status: optional(in.Status), MaxRows: in.Limit + 1,
			})
		} else {
			rows, err = s.q.ApiListAllTriggers(ctx, dbq.ApiListAllTriggersParams{
				AfterID: after, ObjectType: optional(in.ObjectType), Status: optional(in.Status), MaxRows: in.Limit + 1,
			})
		}
		if err != nil {
			return nil, err
		}
		return page(rows, in.Limit, showTrigger, func(t *dbq.PgautomateTrigger) string { return strconv.FormatInt(t.ID, 10) }), nil
	})

	type oneInput struct {
		OrgParam

		ID string `path:"id"`
	}
	route(s, huma.Operation{
		OperationID: "get-trigger", Method: http.MethodGet, Path: "/v1/triggers/{id}", Tags: tags, Summary: "Get a trigger",
	}, func(ctx context.Context, in *oneInput) (*Single[Trigger], error) {
		row, err := s.trigger(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		return single(showTrigger(row)), nil
	})

	type updateTrigger struct {
		OrgParam

		ID   string `path:"id"`
		Body struct {
			Name         *string         `json:"name,omitempty" minLength:"1" maxLength:"500"`
			ObjectType   *string         `json:"object_type,omitempty" minLength:"1" maxLength:"200"`
			Query        json.RawMessage `json:"query,omitempty"`
			BeforeQuery  json.RawMessage `json:"before_query,omitempty" doc:"null: none."`
			ExtraFilter  json.RawMessage `json:"extra_filter,omitempty" doc:"null: none."`
			ActionType   *string         `json:"action_type,omitempty" minLength:"1" maxLength:"200"`
			ActionParams json.RawMessage `json:"action_params,omitempty"`
			Status       *string         `json:"status,omitempty" enum:"active,paused"`
		}
	}
	route(s, huma.Operation{
		OperationID: "update-trigger", Method: http.MethodPatch, Path: "/v1/triggers/{id}", Tags: tags, Summary: "Change a trigger",
		Description: "What is left out stays. Changing or resuming a trigger never fires for the past.",
	}, func(ctx context.Context, in *updateTrigger) (*Single[Trigger], error) {
		row, err := s.trigger(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		if err := ownTrigger(row); err != nil {
			return nil, err
		}
		b := &in.Body
		set(&row.Name, b.Name)
		set(&row.ObjectType, b.ObjectType)
		set(&row.ActionType, b.ActionType)
		for _, part := range [...]struct{ to, from *json.RawMessage }{{&row.Query, &b.Query}, {&row.BeforeQuery, &b.BeforeQuery}, {&row.ExtraFilter, &b.ExtraFilter}} {
			if *part.from != nil {
				*part.to = *part.from
			}
		}
		if !isNull(b.ActionParams) {
			row.ActionParams = b.ActionParams
		}
		// Pausing must be possible whatever else is wrong with a trigger.
		if b.ObjectType != nil || b.Query != nil || b.BeforeQuery != nil || b.ExtraFilter != nil || b.ActionType != nil || b.ActionParams != nil {
			err := s.checkTrigger(ctx, row.OrganizationID, row.ObjectType, &definition{row.Query, row.BeforeQuery, row.ExtraFilter}, row.ActionType, row.ActionParams)
			if err != nil {
				return nil, err
			}
		}
		saved, err := s.q.ApiUpdateTrigger(ctx, dbq.ApiUpdateTriggerParams{
			ID: row.ID, Version: row.Version, Name: row.Name, ObjectType: row.ObjectType, Query: row.Query, BeforeQuery: row.BeforeQuery, ExtraFilter: row.ExtraFilter,
			ActionType: row.ActionType, ActionParams: row.ActionParams, Status: b.Status,
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, conflict("trigger %s was changed or deleted at the same moment: read it again", in.ID)
		}
		if err != nil {
			return nil, err
		}
		return single(showTrigger(&saved)), nil
	})

	route(s, huma.Operation{
		OperationID: "delete-trigger", Method: http.MethodDelete, Path: "/v1/triggers/{id}", Tags: tags,
		DefaultStatus: http.StatusNoContent, Summary: "Delete a trigger", Description: "Its firings stay.",
	}, func(ctx context.Context, in *oneInput) (*Empty, error) {
		row, err := s.trigger(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		if err := ownTrigger(row); err != nil {
			return nil, err
		}
		n, err := s.q.ApiDeleteTrigger(ctx, dbq.ApiDeleteTriggerParams{ID: row.ID, OrganizationID: &row.OrganizationID})
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, notFound("trigger", in.ID)
		}
		return &Empty{}, nil
	})

	type validateTrigger struct {
		OrgParam

		Body struct {
			ObjectType  string          `json:"object_type" minLength:"1" maxLength:"200"`
			Query       json.RawMessage `json:"query"`
			BeforeQuery json.RawMessage `json:"before_query,omitempty"`
			ExtraFilter json.RawMessage `json:"extra_filter,omitempty"`
		}
	}
	type validity struct {
		Valid bool `json:"valid"`
	}
	route(s, huma.Operation{
		OperationID: "validate-trigger", Method: http.MethodPost, Path: "/v1/triggers/validate", Tags: tags,
		Summary: "Check a query", Description: "200, or the 422 that saving it would give.",
	}, func(ctx context.Context, in *validateTrigger) (*Single[validity], error) {
		org, err := scope(ctx, &in.OrgParam)
		if err != nil {
			return nil, err
		}
		name := ""
		if org != nil {
			name = *org
		}
		var f fields
		if err := s.checkQuery(ctx, &f, name, in.Body.ObjectType, &definition{in.Body.Query, in.Body.BeforeQuery, in.Body.ExtraFilter}); err != nil {
			return nil, err
		}
		if err := f.err(); err != nil {
			return nil, err
		}
		return single(validity{true}), nil
	})

	type firingsInput struct {
		OrgParam
		Paged

		ID       string `path:"id"`
		ObjectID string `query:"object_id" maxLength:"1000"`
	}
	route(s, huma.Operation{
		OperationID: "list-firings", Method: http.MethodGet, Path: "/v1/triggers/{id}/firings", Tags: tags,
		Summary: "A trigger's audit", Description: "Every firing with what, when and why; the newest first.",
	}, func(ctx context.Context, in *firingsInput) (*List[Firing], error) {
		row, err := s.trigger(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		at, id, err := timeCursor(in.Cursor)
		if err != nil {
			return nil, err
		}
		rows, err := s.q.ApiListFirings(ctx, dbq.ApiListFiringsParams{
			TriggerID: row.ID, ObjectID: optional(in.ObjectID), BeforeAt: at, BeforeID: id, MaxRows: in.Limit + 1,
		})
		if err != nil {
			return nil, err
		}
		return page(rows, in.Limit, showFiring, func(f *dbq.ApiListFiringsRow) string {
			return f.CommittedAt.UTC().Format(time.RFC3339Nano) + " " + strconv.FormatInt(f.ID, 10)
		}), nil
	})
}

func (s *Server) trigger(ctx context.Context, o *OrgParam, id string) (*dbq.PgautomateTrigger, error) {
	org, err := scope(ctx, o)
	if err != nil {
		return nil, err
	}
	n, err := parseID("trigger", id)
	if err != nil {
		return nil, err
	}
	row, err := s.q.ApiGetTrigger(ctx, dbq.ApiGetTriggerParams{ID: n, OrganizationID: org})
	if err != nil {
		return nil, orNotFound(err, "trigger", id)
	}
	return &row, nil
}

// checkTrigger asks those who know: what is watched, the query language, the
// action type's handler.
func (s *Server) checkTrigger(ctx context.Context, org, objectType string, d *definition, actionType string, params json.RawMessage) error {
	var f fields
	if err := s.checkQuery(ctx, &f, org, objectType, d); err != nil {
		return err
	}
	s.checkAction(&f, "/action_type", "/action_params", actionType, params)
	stages, queries := s.actions.References(actionType, params)
	stages = slices.DeleteFunc(stages, func(r jobs.StageRef) bool { return strings.HasPrefix(r.Pointer, "/on_error") })
	if len(stages)+len(queries) > 0 {
		f.add("/action_type", "needs_pipeline", fmt.Sprintf(
			"%s leads on from a stage of a pipeline, and a trigger's action stands in none: take enter_stage, and put it into that stage", actionType), nil)
	}
	return f.err()
}

// definition is what a trigger fires on.
type definition struct{ query, before, filter json.RawMessage }

func (s *Server) checkQuery(ctx context.Context, f *fields, org, objectType string, d *definition) error {
	schemas, err := s.objects.Schemas(ctx)
	if err != nil {
		return fmt.Errorf("schemas: %w", err)
	}
	if watched, err := s.isWatched(ctx, f, schemas, objectType); err != nil || !watched {
		return err
	}
	full, alter, err := s.objects.Identity(ctx, objectType)
	if err != nil {
		return fmt.Errorf("replica identity of %s: %w", objectType, err)
	}
	if !full {
		f.add("/object_type", "replica_identity",
			"updates of this table come without the row before them, so that a trigger can't tell whether it matched: run "+alter, nil)
	}
	where, err := s.location(ctx, org)
	if err != nil {
		return err
	}
	if err := f.query("", trigger.Check(d.query, objectType, schemas, where)); err != nil {
		return err
	}
	if !isNull(d.before) {
		if err := f.query("", trigger.CheckBefore(d.before, objectType, schemas, where)); err != nil {
			return err
		}
	}
	if isNull(d.filter) {
		return nil
	}
	return f.query("", trigger.CheckFilter(d.filter))
}

// isWatched says whether an object type is watched; f says so when it is not.
func (s *Server) isWatched(ctx context.Context, f *fields, schemas trigger.Schemas, objectType string) (bool, error) {
	if schemas(objectType) != nil {
		return true, nil
	}
	watched, err := s.objects.Types(ctx)
	if err != nil {
		return false, fmt.Errorf("object types: %w", err)
	}
	message := fmt.Sprintf("%q is not watched: run `pgautomate watch TABLE --as NAME` for its table first", clip(objectType))
	if len(watched) > 0 {
		slices.Sort(watched)
		message += ", or take one that is: " + strings.Join(watched, ", ")
	}
	f.add("/object_type", "not_watched", message, nil)
	return false, nil
}

func (s *Server) checkAction(f *fields, typePointer, paramsPointer, actionType string, params json.RawMessage) (ok bool) {
	types := s.actions.Types()
	if !slices.Contains(types, actionType) {
		slices.Sort(types)
		f.add(typePointer, "unknown_action_type",
			fmt.Sprintf("there is no action type %q: take one of %s", clip(actionType), strings.Join(types, ", ")), nil)
		return false
	}
	if !isObject(params) {
		f.add(paramsPointer, "invalid", "the parameters must be a JSON object", nil)
		return false
	}
	if err := s.actions.Validate(actionType, params); err != nil {
		f.add(paramsPointer, "invalid_params", firstLine(err.Error()), nil)
		return false
	}
	return true
}

// location is the organization's time zone; one that Go does not know is UTC, as
// everywhere.
func (s *Server) location(ctx context.Context, org string) (*time.Location, error) {
	if org == "" {
		return time.UTC, nil
	}
	zone, err := s.q.ApiOrganizationTimeZone(ctx, org)
	if err != nil {
		return nil, err
	}
	where, err := time.LoadLocation(zone)
	if err != nil {
		return time.UTC, nil //nolint:nilerr // see above
	}
	return where, nil
}

// timeCursor reads "time id".
func timeCursor(cursor string) (*time.Time, int64, error) {
	raw, err := decodeCursor(cursor)
	if err != nil || raw == "" {
		return nil, 0, err
	}
	first, second, _ := strings.Cut(raw, " ")
	at, err := time.Parse(time.RFC3339Nano, first)
	if err != nil {
		return nil, 0, badCursor()
	}
	id, err := strconv.ParseInt(second, 10, 64)
	if err != nil {
		return nil, 0, badCursor()
	}
	return &at, id, nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || string(raw) == "null"
}

func isObject(raw json.RawMessage) bool {
	return strings.HasPrefix(strings.TrimLeft(string(raw), " \t\r\n"), "{")
}

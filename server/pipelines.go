package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgerrcode"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/scheduler"
	"github.com/pgautomate/pgautomate/trigger"
)

const (
	reenrolmentHelp = "give never, after_exit, always, or an interval since the last entry, e.g. 30 days"
	perHelp         = "give an interval longer than nothing, e.g. 1 minute"
)

// Pipeline is a pipeline on the wire.
type Pipeline struct {
	ID             string          `json:"id"`
	OrganizationID string          `json:"organization_id"`
	Name           string          `json:"name"`
	ObjectType     string          `json:"object_type"`
	Status         string          `json:"status" enum:"active,paused"`
	Reenrolment    string          `json:"reenrolment"`
	Goal           json.RawMessage `json:"goal" doc:"A query, or null."`
	Version        int32           `json:"version"`
	CreatedAt      time.Time       `json:"created_at"`
	Stages         []Stage         `json:"stages"`
}

// Stage is one stage of a pipeline on the wire.
type Stage struct {
	ID      string        `json:"id"`
	Name    string        `json:"name"`
	Actions []StageAction `json:"actions"`
}

// StageAction is one action of a stage on the wire.
type StageAction struct {
	ActionType string          `json:"action_type" minLength:"1" maxLength:"200"`
	Params     json.RawMessage `json:"params,omitempty"`
}

// StageInput is a stage as it is given.
type StageInput struct {
	ID      string        `json:"id,omitempty" doc:"Of the stage that this one is, to rename it; else the stage of the same name."`
	Name    string        `json:"name" minLength:"1" maxLength:"200"`
	Actions []StageAction `json:"actions,omitempty" maxItems:"200"`
}

// pipelineChange is what a request wants of a pipeline.
type pipelineChange struct {
	name, status, reenrolment *string
	goal                      json.RawMessage // nil: as it is; null: none
	stages                    []StageInput    // nil: as they are
}

func (s *Server) registerPipelines() {
	tags := []string{"pipelines"}

	type createPipeline struct {
		OrgParam

		Body struct {
			OrganizationID string          `json:"organization_id,omitempty" maxLength:"500" doc:"For an operator's key."`
			Name           string          `json:"name" minLength:"1" maxLength:"500"`
			ObjectType     string          `json:"object_type,omitempty" minLength:"1" maxLength:"200" default:"lead"`
			Status         string          `json:"status,omitempty" enum:"active,paused" default:"active"`
			Goal           json.RawMessage `json:"goal,omitempty" doc:"A query; a lead that matches it leaves, completed."`
			Reenrolment    string          `json:"reenrolment,omitempty" default:"after_exit" doc:"never, after_exit, always, or an interval."`
			Stages         []StageInput    `json:"stages" maxItems:"500" nullable:"false"`
		}
	}
	route(s, huma.Operation{
		OperationID: "create-pipeline", Method: http.MethodPost, Path: "/v1/pipelines", Tags: tags,
		DefaultStatus: http.StatusCreated, Summary: "Make a pipeline",
	}, func(ctx context.Context, in *createPipeline) (*Single[Pipeline], error) {
		org, err := writer(ctx, &in.OrgParam, in.Body.OrganizationID)
		if err != nil {
			return nil, err
		}
		b := &in.Body
		if err := s.checkPipeline(ctx, org, b.ObjectType, b.Goal, b.Stages, false); err != nil {
			return nil, err
		}
		var out Pipeline
		err = s.inTx(ctx, func(q *dbq.Queries) error {
			row, err := q.ApiInsertPipeline(ctx, dbq.ApiInsertPipelineParams{
				OrganizationID: org, Name: b.Name, ObjectType: b.ObjectType, Status: b.Status,
				Reenrolment: b.Reenrolment, Goal: orNil(b.Goal),
			})
			if err != nil {
				return pipelineError(err)
			}
			if err := replaceStages(ctx, q, row.ID, nil, b.Stages); err != nil {
				return err
			}
			out, err = loadPipeline(ctx, q, row)
			return err
		})
		if err != nil {
			return nil, err
		}
		return single(out), nil
	})

	type listInput struct {
		OrgParam
		Paged

		Name string `query:"name" maxLength:"500"`
	}
	route(s, huma.Operation{
		OperationID: "list-pipelines", Method: http.MethodGet, Path: "/v1/pipelines", Tags: tags, Summary: "List pipelines",
	}, func(ctx context.Context, in *listInput) (*List[Pipeline], error) {
		org, err := scope(ctx, &in.OrgParam)
		if err != nil {
			return nil, err
		}
		after, err := idCursor(in.Cursor, 0)
		if err != nil {
			return nil, err
		}
		rows, err := s.q.ApiListPipelines(ctx, dbq.ApiListPipelinesParams{
			OrganizationID: org, AfterID: after, Name: optional(in.Name), MaxRows: in.Limit + 1,
		})
		if err != nil {
			return nil, err
		}
		full, err := loadPipelines(ctx, s.q, rows)
		if err != nil {
			return nil, err
		}
		return page(full, in.Limit, func(p *Pipeline) Pipeline { return *p }, func(p *Pipeline) string { return p.ID }), nil
	})

	type oneInput struct {
		OrgParam

		ID string `path:"id"`
	}
	route(s, huma.Operation{
		OperationID: "get-pipeline", Method: http.MethodGet, Path: "/v1/pipelines/{id}", Tags: tags, Summary: "Get a pipeline",
	}, func(ctx context.Context, in *oneInput) (*Single[Pipeline], error) {
		row, err := s.pipeline(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		out, err := loadPipeline(ctx, s.q, *row)
		if err != nil {
			return nil, err
		}
		return single(out), nil
	})

	type replacePipeline struct {
		OrgParam

		ID   string `path:"id"`
		Body struct {
			OrganizationID string          `json:"organization_id,omitempty" maxLength:"500"`
			Name           string          `json:"name" minLength:"1" maxLength:"500"`
			ObjectType     string          `json:"object_type,omitempty" minLength:"1" maxLength:"200" doc:"Can't be changed."`
			Status         string          `json:"status,omitempty" enum:"active,paused" default:"active"`
			Goal           json.RawMessage `json:"goal,omitempty"`
			Reenrolment    string          `json:"reenrolment,omitempty" default:"after_exit"`
			Stages         []StageInput    `json:"stages" maxItems:"500" nullable:"false"`
		}
	}
	route(s, huma.Operation{
		OperationID: "replace-pipeline", Method: http.MethodPut, Path: "/v1/pipelines/{id}", Tags: tags, Summary: "Replace a pipeline",
		Description: "A new version. Stages of the same name (or the given id) stay the same stages; a stage that leads are in can't go. " +
			"Leads keep the actions of the stage they are in; the next stage is the newest version's.",
	}, func(ctx context.Context, in *replacePipeline) (*Single[Pipeline], error) {
		row, err := s.pipeline(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		b := &in.Body
		if b.OrganizationID != "" && b.OrganizationID != row.OrganizationID {
			return nil, invalid("/organization_id", "invalid", "a pipeline stays in its organization: leave this out")
		}
		if b.ObjectType != "" && b.ObjectType != row.ObjectType {
			return nil, invalid("/object_type", "invalid", fmt.Sprintf("a pipeline's object type can't be changed from %q: make another pipeline", row.ObjectType))
		}
		if b.Goal == nil {
			b.Goal = json.RawMessage("null")
		}
		return s.changePipeline(ctx, row, pipelineChange{&b.Name, &b.Status, &b.Reenrolment, b.Goal, b.Stages})
	})

	type updatePipeline struct {
		OrgParam

		ID   string `path:"id"`
		Body struct {
			Name        *string         `json:"name,omitempty" minLength:"1" maxLength:"500"`
			Status      *string         `json:"status,omitempty" enum:"active,paused"`
			Goal        json.RawMessage `json:"goal,omitempty" doc:"null removes it."`
			Reenrolment *string         `json:"reenrolment,omitempty"`
			Stages      []StageInput    `json:"stages,omitempty" maxItems:"500" nullable:"false"`
		}
	}
	route(s, huma.Operation{
		OperationID: "update-pipeline", Method: http.MethodPatch, Path: "/v1/pipelines/{id}", Tags: tags, Summary: "Change a pipeline",
		Description: "What is left out stays. With stages it is a new version, as with PUT.",
	}, func(ctx context.Context, in *updatePipeline) (*Single[Pipeline], error) {
		row, err := s.pipeline(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		b := &in.Body
		return s.changePipeline(ctx, row, pipelineChange{b.Name, b.Status, b.Reenrolment, b.Goal, b.Stages})
	})

	type applyInput struct {
		OrgParam

		ID   string `path:"id"`
		Body *struct {
			PerMinute int `json:"per_minute,omitempty" minimum:"0" maximum:"1000000" doc:"At most so many leads go on in a minute because of it; 0: all at once."`
		} `required:"false"`
	}
	route(s, huma.Operation{
		OperationID: "apply-pipeline", Method: http.MethodPost, Path: "/v1/pipelines/{id}/apply", Tags: tags, Summary: "Give parked leads the newest version",
		Description: "Leads keep the actions of the stage they are in until this is asked for. What a lead waits for stays if the stage still has it; a wait " +
			"of the same place takes the new time, counted from when it began; is it gone, the lead goes on from there.",
	}, func(ctx context.Context, in *applyInput) (*Single[scheduler.Applied], error) {
		row, err := s.pipeline(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		perMinute := 0
		if in.Body != nil {
			perMinute = in.Body.PerMinute
		}
		done, err := scheduler.Apply(ctx, s.pool, row.ID, perMinute)
		if err != nil {
			return nil, err
		}
		return single(done), nil
	})

	route(s, huma.Operation{
		OperationID: "delete-pipeline", Method: http.MethodDelete, Path: "/v1/pipelines/{id}", Tags: tags,
		DefaultStatus: http.StatusNoContent, Summary: "Delete a pipeline", Description: "Refused while leads are in it.",
	}, func(ctx context.Context, in *oneInput) (*Empty, error) {
		row, err := s.pipeline(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		err = s.inTx(ctx, func(q *dbq.Queries) error {
			if _, err := q.ApiLockPipeline(ctx, dbq.ApiLockPipelineParams{ID: row.ID, OrganizationID: &row.OrganizationID}); err != nil {
				return orNotFound(err, "pipeline", in.ID)
			}
			stages, err := q.ApiPipelineStages(ctx, []int64{row.ID})
			if err != nil {
				return err
			}
			if err := refuseInUse(ctx, q, stageIDs(stages)); err != nil {
				return err
			}
			return q.ApiDeletePipeline(ctx, row.ID)
		})
		if err != nil {
			return nil, err
		}
		return &Empty{}, nil
	})
}

func (s *Server) pipeline(ctx context.Context, o *OrgParam, id string) (*dbq.PgautomatePipeline, error) {
	org, err := scope(ctx, o)
	if err != nil {
		return nil, err
	}
	n, err := parseID("pipeline", id)
	if err != nil {
		return nil, err
	}
	row, err := s.q.ApiGetPipeline(ctx, dbq.ApiGetPipelineParams{ID: n, OrganizationID: org})
	if err != nil {
		return nil, orNotFound(err, "pipeline", id)
	}
	return &row, nil
}

func (s *Server) changePipeline(ctx context.Context, row *dbq.PgautomatePipeline, c pipelineChange) (*Single[Pipeline], error) {
	if err := s.checkPipeline(ctx, row.OrganizationID, row.ObjectType, c.goal, c.stages, true); err != nil {
		return nil, err
	}
	var out Pipeline
	err := s.inTx(ctx, func(q *dbq.Queries) error {
		locked, err := q.ApiLockPipeline(ctx, dbq.ApiLockPipelineParams{ID: row.ID, OrganizationID: &row.OrganizationID})
		if err != nil {
			return orNotFound(err, "pipeline", strconv.FormatInt(row.ID, 10))
		}
		set(&locked.Name, c.name)
		set(&locked.Status, c.status)
		set(&locked.Reenrolment, c.reenrolment)
		if c.goal != nil {
			locked.Goal = orNil(c.goal)
		}
		bump := int32(0)
		if c.stages != nil {
			bump = 1
			had, err := q.ApiPipelineStages(ctx, []int64{row.ID})
			if err != nil {
				return err
			}
			if err := replaceStages(ctx, q, row.ID, had, c.stages); err != nil {
				return err
			}
		}
		saved, err := q.ApiUpdatePipeline(ctx, dbq.ApiUpdatePipelineParams{
			ID: row.ID, Name: locked.Name, Status: locked.Status, Reenrolment: locked.Reenrolment, Goal: locked.Goal, Bump: bump,
		})
		if err != nil {
			return pipelineError(err)
		}
		out, err = loadPipeline(ctx, q, saved)
		return err
	})
	if err != nil {
		return nil, err
	}
	return single(out), nil
}

// pipelineError: the cast of a policy that is no interval fails before its check.
func pipelineError(err error) error {
	if isPG(err, pgerrcode.InvalidDatetimeFormat, pgerrcode.DatetimeFieldOverflow, pgerrcode.IntervalFieldOverflow) {
		return invalid("/reenrolment", "invalid", reenrolmentHelp)
	}
	return err
}

// checkPipeline asks those who know about the goal and every action. Stage ids are
// looked at later, with the stages locked.
func (s *Server) checkPipeline(ctx context.Context, org, objectType string, goal json.RawMessage, stages []StageInput, ids bool) error {
	var f fields
	asked := func() (trigger.Schemas, *time.Location, error) {
		schemas, err := s.objects.Schemas(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("schemas: %w", err)
		}
		where, err := s.location(ctx, org)
		return schemas, where, err
	}
	if !isNull(goal) {
		schemas, where, err := asked()
		if err != nil {
			return err
		}
		if schemas(objectType) == nil {
			f.add("/goal", "not_watched", fmt.Sprintf(
				"a goal is seen in the changes of its table, and %q is not watched: run `pgautomate watch TABLE --as %s` first", clip(objectType), clip(objectType)), nil)
		} else {
			if err := f.query("/goal", trigger.Check(goal, objectType, schemas, where)); err != nil {
				return err
			}
		}
	}
	names := map[string]bool{}
	for i := range stages {
		stage := &stages[i]
		at := fmt.Sprintf("/stages/%d", i)
		if names[stage.Name] {
			f.add(at+"/name", "repeated", fmt.Sprintf("there are two stages %q: names of stages are unique in a pipeline", clip(stage.Name)), nil)
		}
		names[stage.Name] = true
		if stage.ID != "" && !ids {
			f.add(at+"/id", "invalid", "a new pipeline's stages get their ids here: leave this out", nil)
		}
		for j := range stage.Actions {
			a := &stage.Actions[j]
			if isNull(a.Params) {
				a.Params = json.RawMessage("{}")
			}
			place := fmt.Sprintf("%s/actions/%d", at, j)
			if !s.checkAction(&f, place+"/action_type", place+"/params", a.ActionType, a.Params) {
				continue
			}
			refs, queries := s.actions.References(a.ActionType, a.Params)
			checkStageRefs(&f, place+"/params", refs, stage, stages)
			if len(queries) == 0 {
				continue
			}
			schemas, where, err := asked()
			if err != nil {
				return err
			}
			if err := checkQueries(&f, place+"/params", queries, objectType, schemas, where); err != nil {
				return err
			}
		}
	}
	return f.err()
}

// checkStageRefs makes sure that an action of a stage names stages that there are.
// An id may be that of a stage which is here by its name alone.
func checkStageRefs(f *fields, prefix string, refs []jobs.StageRef, own *StageInput, stages []StageInput) {
	for _, ref := range refs {
		switch {
		case strings.Contains(ref.Stage, "{"): // a template
		case !ref.Restart && (ref.Stage == own.Name || ref.Stage == own.ID):
			f.add(prefix+ref.Pointer, "same_stage", fmt.Sprintf(
				"stage %q is the one that the lead is in: name another, or add \"restart\": true to begin it again", clip(ref.Stage)), nil)
		case slices.ContainsFunc(stages, func(s StageInput) bool { return s.Name == ref.Stage || s.ID == ref.Stage }):
		default:
			if _, err := strconv.ParseInt(ref.Stage, 10, 64); err == nil {
				continue
			}
			names := make([]string, len(stages))
			for i := range stages {
				names[i] = stages[i].Name
			}
			f.add(prefix+ref.Pointer, "unknown_stage", fmt.Sprintf(
				"this pipeline has no stage %q: take one of %s", clip(ref.Stage), clip(strings.Join(names, ", "))), nil)
		}
	}
}

// checkQueries checks queries that are asked by SQL when their action runs.
func checkQueries(f *fields, prefix string, queries []jobs.QueryRef, objectType string, schemas trigger.Schemas, where *time.Location) error {
	if schemas(objectType) == nil {
		f.add(prefix+queries[0].Pointer, "not_watched", fmt.Sprintf(
			"the query is asked of the rows of a table, and %q is not watched: run `pgautomate watch TABLE --as %s` first", clip(objectType), clip(objectType)), nil)
		return nil
	}
	for _, q := range queries {
		if err := f.query(prefix+q.Pointer, trigger.CheckRuntime(q.Query, objectType, schemas, where)); err != nil {
			return err
		}
	}
	return nil
}

// refuseInUse makes sure that no lead is in stages that are to go, nor enters them.
func refuseInUse(ctx context.Context, q *dbq.Queries, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	if err := q.ApiCloseStagesToEntries(ctx, ids); err != nil {
		return err
	}
	used, err := q.ApiStagesInUse(ctx, ids)
	if err != nil || len(used) == 0 {
		return err
	}
	parts := make([]string, len(used))
	for i := range used {
		parts[i] = fmt.Sprintf("%q (%d)", used[i].Name, used[i].Leads)
	}
	return conflict("leads are in stage %s: move them on or let them finish first", strings.Join(parts, ", "))
}

// replaceStages makes a pipeline's stages those wanted; had are those that there
// are. The pipeline is locked, so that nobody else changes them over HTTP.
func replaceStages(ctx context.Context, q *dbq.Queries, pipelineID int64, had []dbq.PgautomatePipelineStage, want []StageInput) error {
	ids := make([]int64, len(want)) // 0: a new one
	kept := map[int64]bool{}
	for i := range want {
		if want[i].ID == "" {
			continue
		}
		at := slices.IndexFunc(had, func(h dbq.PgautomatePipelineStage) bool { return strconv.FormatInt(h.ID, 10) == want[i].ID })
		if at < 0 {
			return invalid(fmt.Sprintf("/stages/%d/id", i), "unknown_stage", "this pipeline has no stage of that id: leave it out for a new stage")
		}
		if kept[had[at].ID] {
			return invalid(fmt.Sprintf("/stages/%d/id", i), "repeated", "this id stands twice: leave it out for a new stage")
		}
		ids[i] = had[at].ID
		kept[had[at].ID] = true
	}
	for i := range want {
		at := slices.IndexFunc(had, func(h dbq.PgautomatePipelineStage) bool { return h.Name == want[i].Name })
		if ids[i] == 0 && at >= 0 && !kept[had[at].ID] {
			ids[i] = had[at].ID
			kept[had[at].ID] = true
		}
	}
	var gone []int64
	for i := range had {
		if !kept[had[i].ID] {
			gone = append(gone, had[i].ID)
		}
	}
	if len(gone) > 0 {
		if err := refuseInUse(ctx, q, gone); err != nil {
			return err
		}
		if err := q.ApiDeleteStages(ctx, gone); err != nil {
			return err
		}
	}
	var stay, renamed []int64
	for i := range had {
		if !kept[had[i].ID] {
			continue
		}
		stay = append(stay, had[i].ID)
		if want[slices.Index(ids, had[i].ID)].Name != had[i].Name {
			renamed = append(renamed, had[i].ID)
		}
	}
	if err := q.ApiFreeStageNames(ctx, renamed); err != nil {
		return err
	}
	if err := q.ApiDeleteStageActions(ctx, stay); err != nil {
		return err
	}
	for i := range want {
		position := int32(i + 1)
		if ids[i] == 0 {
			id, err := q.ApiInsertStage(ctx, dbq.ApiInsertStageParams{PipelineID: pipelineID, Name: want[i].Name, Position: position})
			if err != nil {
				return err
			}
			ids[i] = id
		} else if err := q.ApiUpdateStage(ctx, dbq.ApiUpdateStageParams{ID: ids[i], Name: want[i].Name, Position: position}); err != nil {
			return err
		}
		for j := range want[i].Actions {
			a := &want[i].Actions[j]
			err := q.ApiInsertStageAction(ctx, dbq.ApiInsertStageActionParams{
				PipelineStageID: ids[i], SequenceNumber: int32(j + 1),
				ActionType: a.ActionType, Params: a.Params,
			})
			if isPG(err, pgerrcode.CheckViolation) {
				return invalid(fmt.Sprintf("/stages/%d/actions/%d/params", i, j), "invalid_params",
					"the parameters must be an object, and max_attempts a whole number from 1 to 100")
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func loadPipeline(ctx context.Context, q *dbq.Queries, row dbq.PgautomatePipeline) (Pipeline, error) {
	list, err := loadPipelines(ctx, q, []dbq.PgautomatePipeline{row})
	if err != nil {
		return Pipeline{}, err
	}
	return list[0], nil
}

// loadPipelines reads the stages and actions of any number of pipelines in two queries.
func loadPipelines(ctx context.Context, q *dbq.Queries, rows []dbq.PgautomatePipeline) ([]Pipeline, error) {
	out := make([]Pipeline, len(rows))
	place := make(map[int64]int, len(rows))
	ids := make([]int64, len(rows))
	for i := range rows {
		r := &rows[i]
		out[i] = Pipeline{
			strconv.FormatInt(r.ID, 10), r.OrganizationID, r.Name, r.ObjectType, r.Status, r.Reenrolment, r.Goal, r.Version, r.CreatedAt, []Stage{},
		}
		ids[i], place[r.ID] = r.ID, i
	}
	stages, err := q.ApiPipelineStages(ctx, ids)
	if err != nil {
		return nil, err
	}
	actions, err := q.ApiStageActions(ctx, stageIDs(stages))
	if err != nil {
		return nil, err
	}
	byStage := map[int64][]StageAction{}
	for i := range actions {
		a := &actions[i]
		byStage[a.PipelineStageID] = append(byStage[a.PipelineStageID], StageAction{a.ActionType, a.Params})
	}
	for i := range stages {
		st := &stages[i]
		of := byStage[st.ID]
		if of == nil {
			of = []StageAction{}
		}
		p := &out[place[st.PipelineID]]
		p.Stages = append(p.Stages, Stage{strconv.FormatInt(st.ID, 10), st.Name, of})
	}
	return out, nil
}

func stageIDs(stages []dbq.PgautomatePipelineStage) []int64 {
	ids := make([]int64, len(stages))
	for i := range stages {
		ids[i] = stages[i].ID
	}
	return ids
}

func orNil(raw json.RawMessage) json.RawMessage {
	if isNull(raw) {
		return nil
	}
	return raw
}

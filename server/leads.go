package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgerrcode"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/trigger"
)

// Entered is what became of leads that were put into a pipeline.
type Entered struct {
	Entered int           `json:"entered"`
	Skipped []SkippedLead `json:"skipped"`
}

// SkippedLead is a lead that was not let in.
type SkippedLead struct {
	LeadID string `json:"lead_id"`
	Reason string `json:"reason" doc:"already_enrolled, goal_already_met, suppressed, …"`
}

// TimelineEntry is one thing that happened or will happen to a lead.
type TimelineEntry struct {
	Kind           string     `json:"kind" enum:"stage,action"`
	ID             string     `json:"id"`
	At             *time.Time `json:"at" doc:"When it happened or is to happen; null: when what is before it is done."`
	Status         string     `json:"status"`
	Reason         *string    `json:"reason"`
	PipelineID     *string    `json:"pipeline_id"`
	Pipeline       *string    `json:"pipeline"`
	Stage          *string    `json:"stage"`
	LeadStageID    *string    `json:"lead_stage_id"`
	SequenceNumber *int32     `json:"sequence_number,omitempty"`
	ActionType     *string    `json:"action_type,omitempty"`
	PerformAt      *time.Time `json:"perform_at,omitempty"`
	StartedAt      *time.Time `json:"started_at,omitempty"`
	FinishedAt     *time.Time `json:"finished_at"`
	Attempt        *int32     `json:"attempt,omitempty"`
	Error          *string    `json:"error,omitempty"`
	FiringID       *string    `json:"firing_id,omitempty"`
}

func showEntry(r *dbq.ApiTimelineRow) TimelineEntry {
	e := TimelineEntry{
		Kind: r.Kind, ID: strconv.FormatInt(r.ID, 10), Status: r.Status, Reason: r.Reason,
		PipelineID: idString(r.PipelineID), Pipeline: r.Pipeline, Stage: r.Stage, LeadStageID: idString(r.LeadStageID),
		FinishedAt: r.FinishedAt,
	}
	if r.Kind == "stage" {
		e.At = r.EnteredAt
		return e
	}
	e.SequenceNumber, e.ActionType, e.Attempt, e.Error = &r.SequenceNumber, &r.ActionType, &r.Attempt, r.Error
	e.PerformAt, e.StartedAt, e.FiringID = r.PerformAt, r.StartedAt, idString(r.FiringID)
	for _, at := range []*time.Time{r.StartedAt, r.FinishedAt, r.PerformAt} {
		if e.At == nil {
			e.At = at
		}
	}
	return e
}

func (s *Server) registerLeads() {
	type enterLeads struct {
		OrgParam

		ID   string `path:"id"`
		Body struct {
			LeadIDs []string `json:"lead_ids" minItems:"1" maxItems:"100000" nullable:"false"`
			Stage   string   `json:"stage,omitempty" maxLength:"200" doc:"Name or id; the first stage when left out."`
		}
	}
	route(s, huma.Operation{
		OperationID: "enter-leads", Method: http.MethodPost, Path: "/v1/pipelines/{id}/leads", Tags: []string{"pipelines"},
		Summary: "Put leads into a pipeline", Description: "The same as an INSERT into pgautomate.lead_stages, all leads in one transaction. " +
			"A lead in another stage of the pipeline is moved.",
		MaxBodyBytes: maxLeadsBody + 1,
	}, func(ctx context.Context, in *enterLeads) (*Single[Entered], error) {
		row, err := s.pipeline(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		for i, id := range in.Body.LeadIDs {
			if id == "" || len(id) > 1000 {
				return nil, invalid(fmt.Sprintf("/lead_ids/%d", i), "invalid", "an id has 1 to 1,000 bytes")
			}
		}
		stages, err := s.q.ApiPipelineStages(ctx, []int64{row.ID})
		if err != nil {
			return nil, err
		}
		stage, err := pickStage(stages, in.Body.Stage)
		if err != nil {
			return nil, err
		}
		met, err := s.meeting(ctx, row, in.Body.LeadIDs)
		if err != nil {
			return nil, err
		}
		// An app's statement that lists the same leads in another order may meet this one half-way.
		var out Entered
		err = db.Again(ctx, func() error {
			out = Entered{Skipped: []SkippedLead{}}
			return s.enterLeads(ctx, &out, dbq.ApiEnterLeadsParams{OrganizationID: row.OrganizationID, StageID: stage, LeadIds: in.Body.LeadIDs, Met: met})
		})
		if err != nil {
			return nil, err
		}
		return single(out), nil
	})

	type dryRunInput struct {
		OrgParam

		ID   string `path:"id"`
		Body struct {
			LeadID string `json:"lead_id" minLength:"1" maxLength:"1000"`
			Stage  string `json:"stage,omitempty" maxLength:"200" doc:"Name or id; the first stage when left out."`
		}
	}
	route(s, huma.Operation{
		OperationID: "dry-run-pipeline", Method: http.MethodPost, Path: "/v1/pipelines/{id}/dry-run", Tags: []string{"pipelines"},
		Summary: "What would happen to a lead that entered now", Description: "Nothing is written or sent. Branches are decided on the rows as they are now; " +
			"replies, and queries that are not met yet, are assumed not to come.",
	}, func(ctx context.Context, in *dryRunInput) (*Single[*jobs.DryRun], error) {
		row, err := s.pipeline(ctx, &in.OrgParam, in.ID)
		if err != nil {
			return nil, err
		}
		if s.dryRun == nil {
			return nil, problemf(http.StatusNotImplemented, "this process runs no engine: ask one that does")
		}
		stages, err := s.q.ApiPipelineStages(ctx, []int64{row.ID})
		if err != nil {
			return nil, err
		}
		stage, err := pickStage(stages, in.Body.Stage)
		if err != nil {
			return nil, err
		}
		run, err := s.dryRun(ctx, row.ID, stage, in.Body.LeadID)
		if err != nil {
			return nil, err
		}
		if run == nil {
			return nil, notFound(row.ObjectType, in.Body.LeadID)
		}
		return single(run), nil
	})

	type timelineInput struct {
		OrgParam
		Paged

		LeadID string `path:"lead_id" maxLength:"1000"`
	}
	route(s, huma.Operation{
		OperationID: "lead-timeline", Method: http.MethodGet, Path: "/v1/leads/{lead_id}/timeline", Tags: []string{"leads"},
		Summary: "What happened and will happen to one lead", Description: "Stages and actions in the order of time; what has no time yet comes last.",
	}, func(ctx context.Context, in *timelineInput) (*List[TimelineEntry], error) {
		org, err := writer(ctx, &in.OrgParam, "")
		if err != nil {
			return nil, err
		}
		args := dbq.ApiTimelineParams{OrganizationID: org, LeadID: in.LeadID, MaxRows: in.Limit + 1}
		raw, err := decodeCursor(in.Cursor)
		if err != nil {
			return nil, err
		}
		if raw != "" {
			part := strings.Split(raw, "|")
			if len(part) != 3 {
				return nil, badCursor()
			}
			if args.AfterID, err = strconv.ParseInt(part[2], 10, 64); err != nil {
				return nil, badCursor()
			}
			args.AfterAt, args.AfterAction = &part[0], part[1] == "action"
		}
		rows, err := s.q.ApiTimeline(ctx, args)
		if args.AfterAt != nil && isPG(err, pgerrcode.InvalidDatetimeFormat, pgerrcode.DatetimeFieldOverflow) {
			return nil, badCursor()
		}
		if err != nil {
			return nil, err
		}
		return page(rows, in.Limit, showEntry, func(r *dbq.ApiTimelineRow) string {
			return r.SortAt + "|" + r.Kind + "|" + strconv.FormatInt(r.ID, 10)
		}), nil
	})
}

// meeting gives the leads that meet a pipeline's goal already. What can't be asked
// now the engine asks before the run's first action.
func (s *Server) meeting(ctx context.Context, p *dbq.PgautomatePipeline, leads []string) ([]string, error) {
	met := []string{}
	if isNull(p.Goal) {
		return met, nil
	}
	now, err := s.objects.Snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("tables: %w", err)
	}
	if now.Schema(p.ObjectType) == nil {
		return met, nil
	}
	where, err := s.location(ctx, p.OrganizationID)
	if err != nil {
		return nil, err
	}
	at, err := s.q.ApiNow(ctx)
	if err != nil {
		return nil, err
	}
	found, err := now.Meeting(ctx, s.pool, p.ObjectType, p.Goal, leads, trigger.SQLOptions{Location: where, Now: at, Organization: p.OrganizationID}, goalWithin)
	var bad *trigger.ValidationError
	if errors.Is(err, catalog.ErrSlow) || errors.As(err, &bad) {
		return met, nil
	}
	if err != nil {
		return nil, err
	}
	for _, id := range leads {
		if found[id] {
			met = append(met, id)
		}
	}
	return met, nil
}

// goalWithin bounds the question which leads meet a goal.
const goalWithin = 5 * time.Second

// pickStage finds a stage by name, then by id; without either it is the first.
func pickStage(stages []dbq.PgautomatePipelineStage, wanted string) (int64, error) {
	if len(stages) == 0 {
		return 0, conflict("this pipeline has no stage: give it one first")
	}
	if wanted == "" {
		return stages[0].ID, nil
	}
	names := make([]string, len(stages))
	for i := range stages {
		if stages[i].Name == wanted {
			return stages[i].ID, nil
		}
		names[i] = stages[i].Name
	}
	for i := range stages {
		if strconv.FormatInt(stages[i].ID, 10) == wanted {
			return stages[i].ID, nil
		}
	}
	return 0, invalid("/stage", "unknown_stage", fmt.Sprintf("there is no stage %q: take one of %s", clip(wanted), clip(strings.Join(names, ", "))))
}

func idString(id *int64) *string {
	if id == nil {
		return nil
	}
	s := strconv.FormatInt(*id, 10)
	return &s
}

// enterLeads lets leads enter in one transaction, and counts what became of them.
func (s *Server) enterLeads(ctx context.Context, out *Entered, leads dbq.ApiEnterLeadsParams) error {
	return s.inTx(ctx, func(q *dbq.Queries) error {
		ids, err := q.ApiEnterLeads(ctx, leads)
		if isPG(err, pgerrcode.ForeignKeyViolation) {
			return conflict("the stage was removed at the same moment: read the pipeline again")
		}
		if err != nil {
			return err
		}
		entries, err := q.ApiEntries(ctx, ids)
		if err != nil {
			return err
		}
		for i := range entries {
			e := &entries[i]
			if e.Status != "exited" {
				out.Entered++
				continue
			}
			reason := ""
			set(&reason, e.Reason)
			out.Skipped = append(out.Skipped, SkippedLead{e.LeadID, reason})
		}
		return nil
	})
}

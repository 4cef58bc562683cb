package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
)

// Rows changes rows of watched tables (catalog.Catalog).
type Rows interface {
	UpdateRow(ctx context.Context, tx pgx.Tx, a *jobs.Action, object string, set map[string]any) (int64, error)
	InsertRow(ctx context.Context, tx pgx.Tx, a *jobs.Action, table string, values map[string]any) error
}

// Store carries out the effects of actions in the database: it moves leads
// between stages; rows of watched tables it leaves to Rows. It implements jobs.Store.
type Store struct {
	Rows

	// MaxEntries is how often within an hour an automation may let a lead enter the
	// stages of one pipeline; default 50. Beyond it, it goes round in a circle.
	MaxEntries int64
}

const defaultMaxEntries = 50

// circle says whether a lead has entered a pipeline so often that it goes round
// in a circle, and notes it.
func (s *Store) circle(ctx context.Context, q *dbq.Queries, a *jobs.Action, lead string, target dbq.FindStageRow) (bool, error) {
	most := s.MaxEntries
	if most == 0 {
		most = defaultMaxEntries
	}
	n, err := q.EntriesLately(ctx, dbq.EntriesLatelyParams{OrganizationID: a.OrganizationID, LeadID: lead, PipelineID: target.PipelineID})
	if err != nil {
		return false, fmt.Errorf("entries of lead %s: %w", lead, err)
	}
	if n < most {
		return false, nil
	}
	err = q.NoteLoop(ctx, dbq.NoteLoopParams{
		OrganizationID: a.OrganizationID, LeadID: lead, ActionID: a.ID, Pipeline: target.PipelineName, Stage: target.StageName, Entries: n,
	})
	if err != nil {
		return false, fmt.Errorf("note of a loop: %w", err)
	}
	return true, nil
}

// MoveLead closes the action's stage (reason moved) and enters another one, of
// the same pipeline unless another is named; the same one only with restart.
func (s *Store) MoveLead(ctx context.Context, tx pgx.Tx, a *jobs.Action, pipeline, stage string, restart bool) error {
	q := dbq.New(tx)
	if a.LeadStageID == 0 {
		return jobs.Permanentf("move: the action is in no pipeline: use enter_stage")
	}
	if err := q.LockRun(ctx, a.LeadStageID); err != nil {
		return fmt.Errorf("the lead's run: %w", err)
	}
	now, err := q.StagePipeline(ctx, a.LeadStageID)
	if err != nil {
		return fmt.Errorf("the action's stage: %w", err)
	}
	if now.Status != "active" {
		return nil // the lead has left meanwhile: where it is now is not ours to change
	}
	target, err := findStage(ctx, q, a.OrganizationID, &now.PipelineID, pipeline, stage)
	if err != nil {
		return err
	}
	if target.ID == now.PipelineStageID && !restart {
		return jobs.Permanentf("stage %q is the one that the lead is in: name another, or say restart: true to begin it again", stage)
	}
	if round, err := s.circle(ctx, q, a, a.LeadID, target); err != nil {
		return err
	} else if round {
		return s.endRun(ctx, tx, a, "exited", "loop_suppressed", "loop_suppressed")
	}
	if target.PipelineID != now.PipelineID {
		if _, err := q.CloseStages(ctx, dbq.CloseStagesParams{
			LeadStageIds: []int64{a.LeadStageID}, Status: "completed", Reason: "moved", ActionReason: "stage_left",
		}); err != nil {
			return fmt.Errorf("close stage: %w", err)
		}
	}
	return s.enter(ctx, q, a.OrganizationID, a.LeadID, target.ID, "moved", now.Cause, now.Depth)
}

// ExitLead ends the action's run.
func (s *Store) ExitLead(ctx context.Context, tx pgx.Tx, a *jobs.Action, _ string) error {
	return s.EndRun(ctx, tx, a, "exited", "exit")
}

// EndRun ends the action's run with a status and a reason.
func (s *Store) EndRun(ctx context.Context, tx pgx.Tx, a *jobs.Action, status, reason string) error {
	return s.endRun(ctx, tx, a, status, reason, "stage_left")
}

func (s *Store) endRun(ctx context.Context, tx pgx.Tx, a *jobs.Action, status, reason, actionReason string) error {
	if a.LeadStageID == 0 {
		return jobs.Permanentf("%s: the action is in no pipeline", a.Type)
	}
	_, err := dbq.New(tx).CloseStages(ctx, dbq.CloseStagesParams{
		LeadStageIds: []int64{a.LeadStageID}, Status: status, Reason: reason, ActionReason: actionReason,
	})
	if err != nil {
		return fmt.Errorf("close stage: %w", err)
	}
	return nil
}

// EnterStage puts a lead, by default the action's own, into a stage.
func (s *Store) EnterStage(ctx context.Context, tx pgx.Tx, a *jobs.Action, pipeline, stage, lead string) error {
	q := dbq.New(tx)
	target, err := findStage(ctx, q, a.OrganizationID, nil, pipeline, stage)
	if err != nil {
		return err
	}
	if lead == "" {
		lead = a.LeadID
	}
	if round, err := s.circle(ctx, q, a, lead, target); err != nil {
		return err
	} else if round {
		reason := "loop_suppressed"
		return q.RefuseEntry(ctx, dbq.RefuseEntryParams{OrganizationID: a.OrganizationID, LeadID: lead, PipelineStageID: target.ID, Reason: &reason})
	}
	var cause json.RawMessage
	depth := 0
	if a.Cause != nil {
		if cause, err = json.Marshal(a.Cause); err != nil {
			return fmt.Errorf("cause: %w", err)
		}
		depth = a.Cause.Depth
	}
	return s.enter(ctx, q, a.OrganizationID, lead, target.ID, "", cause, int32(depth))
}

// enter inserts the lead's stage; how is what the stage it leaves is told ("":
// it was moved from outside, moved_by_app).
func (s *Store) enter(ctx context.Context, q *dbq.Queries, organization, lead string, stage int64, how string, cause json.RawMessage, depth int32) error {
	if err := q.SetEntry(ctx, how); err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	_, err := q.EnterStage(ctx, dbq.EnterStageParams{
		OrganizationID: organization, LeadID: lead, PipelineStageID: stage, Cause: cause, Depth: depth,
	})
	if err != nil {
		return fmt.Errorf("entry of lead %s: %w", lead, err)
	}
	if err := q.SetEntry(ctx, ""); err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	return nil
}

// findStage finds a stage by name or id: in the pipeline that is named, else in
// the one that is given.
func findStage(ctx context.Context, q *dbq.Queries, organization string, pipelineID *int64, pipeline, stage string) (dbq.FindStageRow, error) {
	if pipeline != "" {
		pipelineID = nil
	}
	target, err := q.FindStage(ctx, dbq.FindStageParams{
		OrganizationID: organization, PipelineID: pipelineID, Pipeline: pipeline, Stage: stage,
	})
	if errors.Is(err, pgx.ErrNoRows) {
		where := "this pipeline"
		if pipeline != "" {
			where = fmt.Sprintf("pipeline %q of organization %q", pipeline, organization)
		}
		return target, jobs.Permanentf("there is no stage %q in %s", stage, where)
	}
	if err != nil {
		return target, fmt.Errorf("stage %q: %w", stage, err)
	}
	return target, nil
}

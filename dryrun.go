package pgautomate

// A dry run of one lead through a pipeline: reads, and writes nothing.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
)

// dryRunSteps bounds a dry run: pipelines may go round in circles.
const dryRunSteps = 200

// DryRun says what would happen to a lead that entered the stage (0: the first) of
// a pipeline now; nil when its table has no such row.
func (e *Engine) DryRun(ctx context.Context, pipeline, stage int64, lead string) (*jobs.DryRun, error) {
	q := dbq.New(e.pool)
	p, err := q.ApiGetPipeline(ctx, dbq.ApiGetPipelineParams{ID: pipeline})
	if err != nil {
		return nil, fmt.Errorf("pipeline %d: %w", pipeline, err)
	}
	stages, err := q.ApiPipelineStages(ctx, []int64{pipeline})
	if err != nil {
		return nil, fmt.Errorf("stages: %w", err)
	}
	now, err := q.ApiNow(ctx)
	if err != nil {
		return nil, err
	}
	d := &dry{e: e, q: q, stages: stages, action: jobs.Action{
		OrganizationID: p.OrganizationID, LeadID: lead, ObjectType: p.ObjectType, LeadStageID: -1, Attempt: 1, MaxAttempts: 1,
		Now: now, PerformAt: now, Location: e.zones.Location(p.OrganizationID),
	}, run: &jobs.DryRun{LeadID: lead, Actions: []jobs.DryRunAction{}, EndsAt: now}}
	d.action.Vars = e.vars(&jobs.Started{Action: d.action})
	// Another organization's lead is none.
	_, err = e.queries.First(ctx, &d.action, []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"type":"and","queries":[{"type":"object_type","object_type":%q}]}`, p.ObjectType))})
	if errors.Is(err, jobs.ErrNotVisible) || err != nil && e.catalog.Type(p.ObjectType) != nil {
		return nil, nil //nolint:nilnil // nil says: there is none
	}
	if d.run.Skipped, err = d.refused(ctx, p.Goal); err != nil {
		return nil, err
	}
	if d.run.Skipped != "" {
		d.run.Status, d.run.Reason = "exited", d.run.Skipped
		return d.run, nil
	}
	at := 0
	if stage != 0 {
		at = slices.IndexFunc(stages, func(s dbq.PgautomatePipelineStage) bool { return s.ID == stage })
	}
	for at >= 0 && at < len(stages) {
		if at, err = d.stage(ctx, at); err != nil {
			return nil, err
		}
	}
	return d.run, nil
}

type dry struct {
	e      *Engine
	q      *dbq.Queries
	stages []dbq.PgautomatePipelineStage
	action jobs.Action
	run    *jobs.DryRun
}

// refused is the reason for which the lead would not be let in.
func (d *dry) refused(ctx context.Context, goal json.RawMessage) (string, error) {
	_, err := d.q.Suppression(ctx, dbq.SuppressionParams{
		OrganizationID: d.action.OrganizationID, LeadType: d.action.ObjectType, LeadID: &d.action.LeadID, Channel: "*",
	})
	if err == nil {
		return "suppressed", nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("suppressions: %w", err)
	}
	if len(goal) == 0 || string(goal) == "null" {
		return "", nil
	}
	first, err := d.e.queries.First(ctx, &d.action, []json.RawMessage{goal})
	if class, _ := jobs.Classify(err); class == jobs.ClassPermanent || class == jobs.ClassNotVisible {
		return "", nil // as for the engine: see goalMet
	}
	if err != nil {
		return "", fmt.Errorf("the pipeline's goal: %w", err)
	}
	if first == 0 {
		return "goal_already_met", nil
	}
	return "", nil
}

// stage goes through one stage, and gives the place of the next; -1 when the run
// is over.
func (d *dry) stage(ctx context.Context, at int) (next int, err error) {
	stage := d.stages[at]
	actions, err := d.q.ApiStageActions(ctx, []int64{stage.ID})
	if err != nil {
		return 0, fmt.Errorf("actions: %w", err)
	}
	for _, a := range actions {
		if len(d.run.Actions) == dryRunSteps {
			d.run.Status, d.run.Reason = "active", "cut short here"
			return -1, nil
		}
		d.action.Type, d.action.Params, d.action.SequenceNumber = a.ActionType, a.Params, int(a.SequenceNumber)
		step := jobs.DryRunAction{Stage: stage.Name, SequenceNumber: int(a.SequenceNumber), ActionType: a.ActionType, At: d.action.PerformAt}
		planned, err := d.plan(ctx, &step)
		leads := planned.Stage
		switch {
		case err != nil:
			step.Error = err.Error()
			onError, _ := jobs.OnErrorOf(a.Params)
			switch {
			case onError.Policy == jobs.OnErrorStage:
				leads, step.Then = onError.Stage, "stage "+onError.Stage
			case onError.Policy != jobs.OnErrorSkip:
				planned.Ends, d.run.Status = "failed", "failed"
			}
		case planned.Stage != "":
			step.Then = "stage " + planned.Stage
		case planned.Ends != "":
			step.Then = planned.Ends
		}
		if planned.Pipeline != "" {
			step.Then += " of pipeline " + planned.Pipeline
		}
		d.run.Actions = append(d.run.Actions, step)
		d.run.EndsAt = d.action.PerformAt
		if planned.Ends != "" {
			if d.run.Reason = planned.Ends; d.run.Status == "" {
				d.run.Status = "exited"
			}
			return -1, nil
		}
		if leads == "" {
			continue
		}
		if planned.Pipeline != "" {
			d.run.Status, d.run.Reason = "completed", "moved"
			return -1, nil
		}
		if next := d.find(leads); next >= 0 {
			return next, nil
		}
		last := &d.run.Actions[len(d.run.Actions)-1]
		last.Error, d.run.Status, d.run.Reason = fmt.Sprintf("there is no stage %q in this pipeline", leads), "failed", "failed"
		return -1, nil
	}
	d.run.Status = "completed"
	return -1, nil
}

// plan asks what one action would do, and moves the time on.
func (d *dry) plan(ctx context.Context, step *jobs.DryRunAction) (jobs.Planned, error) {
	if channel := d.e.registry.Channel(d.action.Type); channel != "" {
		reason, err := d.e.suppressed(ctx, &d.action, channel)
		if err != nil || reason != "" {
			return jobs.Planned{Ends: reason}, err
		}
	}
	planned, err := d.e.registry.Plan(ctx, &d.action)
	step.Params, step.Outcome, step.Assumed = planned.Params, planned.Outcome, planned.Assumed
	if err == nil && !planned.Until.IsZero() {
		until := planned.Until
		step.Until = &until
		if until.After(d.action.PerformAt) {
			d.action.PerformAt, d.action.Now = until, until
		}
	}
	return planned, err
}

func (d *dry) find(stage string) int {
	at := slices.IndexFunc(d.stages, func(s dbq.PgautomatePipelineStage) bool { return s.Name == stage })
	if at < 0 {
		at = slices.IndexFunc(d.stages, func(s dbq.PgautomatePipelineStage) bool { return strconv.FormatInt(s.ID, 10) == stage })
	}
	return at
}

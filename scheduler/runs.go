package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// Runs ends runs from outside of them: the goal is met, the lead is gone.
type Runs struct {
	Pool *pgxpool.Pool
}

// Run names a lead's run through a pipeline, and why it is to end.
type Run struct {
	Organization, Lead string
	Pipeline           int64
	// Goal: the lead came to meet the pipeline's goal, At that time. A run that
	// was begun only later is one that should not have been.
	Goal bool
	At   time.Time
	// Reason of other ends, such as object_deleted.
	Reason string
}

type runKey struct {
	organization, lead string
	pipeline           int64
}

// End ends those of the runs that there are, and gives an error for each:
// ErrLookAgain where somebody held the run.
func (r *Runs) End(ctx context.Context, runs []Run) []error {
	answers := make([]error, len(runs))
	held, err := r.end(ctx, runs)
	pg, refused := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		for i := range runs {
			if held[runs[i].key()] {
				answers[i] = ErrLookAgain
			}
		}
	case refused && pg.Code == "55P03" && len(runs) > 1:
		// An app holds something of one of them, for longer than we wait: the others
		// don't suffer from that.
		for i := range runs {
			answers[i] = r.End(ctx, runs[i:i+1])[0]
		}
	case refused && pg.Code == "55P03":
		answers[0] = ErrLookAgain
	default:
		for i := range answers {
			answers[i] = err
		}
	}
	return answers
}

func (r *Run) key() runKey { return runKey{r.Organization, r.Lead, r.Pipeline} }

func (r *Runs) end(ctx context.Context, runs []Run) (held map[runKey]bool, err error) {
	var keys dbq.LockRunsParams
	why := make(map[runKey]*Run, len(runs))
	for i := range runs {
		w := &runs[i]
		if known := why[w.key()]; known != nil {
			if w.Goal && w.At.After(known.At) {
				known.At = w.At
			}
			continue
		}
		copied := *w
		why[w.key()] = &copied
		keys.OrganizationIds, keys.LeadIds = append(keys.OrganizationIds, w.Organization), append(keys.LeadIds, w.Lead)
		keys.PipelineIds = append(keys.PipelineIds, w.Pipeline)
	}
	held = map[runKey]bool{}
	err = pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return err
		}
		if err := q.BoundWaits(ctx); err != nil {
			return err
		}
		locked, err := q.LockRuns(ctx, keys)
		if err != nil {
			return err
		}
		ours := make(map[runKey]bool, len(locked))
		for _, l := range locked {
			ours[runKey{l.OrganizationID, l.LeadID, l.PipelineID}] = true
		}
		active, err := q.ActiveRuns(ctx, dbq.ActiveRunsParams(keys))
		if err != nil {
			return err
		}
		ends := map[[3]string][]int64{}
		for _, a := range active {
			k := runKey{a.OrganizationID, a.LeadID, a.PipelineID}
			if !ours[k] {
				held[k] = true
				continue
			}
			end := [3]string{"exited", why[k].Reason, why[k].Reason}
			if why[k].Goal {
				if end = [3]string{"completed", "goal", "goal"}; a.EnteredAt.After(why[k].At) {
					end = [3]string{"exited", "goal_already_met", "goal_already_met"}
				}
			}
			ends[end] = append(ends[end], a.ID)
		}
		for end, ids := range ends {
			_, err := q.CloseStages(ctx, dbq.CloseStagesParams{LeadStageIds: ids, Status: end[0], Reason: end[1], ActionReason: end[2]})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("end runs: %w", err)
	}
	return held, nil
}

// EndOf ends the runs of leads, in whichever pipeline of their organization; "": of
// any.
func (r *Runs) EndOf(ctx context.Context, organization, objectType string, leads []string, reason string) error {
	pipelines, err := dbq.New(r.Pool).PipelinesOf(ctx, dbq.PipelinesOfParams{ObjectType: objectType, OrganizationID: organization})
	if err != nil {
		return fmt.Errorf("pipelines: %w", err)
	}
	again := false
	for _, pipeline := range pipelines {
		runs := make([]Run, len(leads))
		for i, lead := range leads {
			runs[i] = Run{Organization: pipeline.OrganizationID, Lead: lead, Pipeline: pipeline.ID, Reason: reason}
		}
		for _, err := range r.End(ctx, runs) {
			if errors.Is(err, ErrLookAgain) {
				again = true
			} else if err != nil {
				return err
			}
		}
	}
	if again {
		return ErrLookAgain
	}
	return nil
}

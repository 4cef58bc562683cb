package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/scheduler"
)

// claims measures a claim among few and among many parked and finished actions.
func claims(ctx context.Context, r *run) error {
	small, err := r.parkedIn(ctx, "claims_small", r.fewParked, 0)
	if err != nil {
		return err
	}
	large, err := r.parkedIn(ctx, "claims_large", r.parked, r.finished)
	if err != nil {
		return err
	}
	t, err := r.claimByTurns(ctx, large, small, 0)
	if err != nil {
		return err
	}
	return r.add(t.into(Figure{
		Name: "claim_5m_parked", Unit: "ms", ReferenceName: fmt.Sprintf("the same with %d parked and none finished", r.fewParked), Reach: 1.3, most: true,
		Conditions: fmt.Sprintf("a round of the scheduler that claims %d due actions of %d organizations, River's jobs included; %d parked and %d finished rows, %d organizations",
			r.claim, claimed, r.parked, r.finished, manyOrganizations),
	}))
}

// claimByTurns measures claims of actions of the organizations from first on.
func (r *run) claimByTurns(ctx context.Context, value, reference *parked, first int) (t turns, err error) {
	for i := range 2 + 3*r.reps {
		b, err := reference.claim(ctx, r, first)
		if err != nil {
			return t, err
		}
		a, err := value.claim(ctx, r, first)
		if err != nil {
			return t, err
		}
		if i >= 2 { // plans are made and pages read by then
			t.add(a, b)
		}
	}
	return t, nil
}

// claimed is how many organizations have something due.
const claimed = 100

type parked struct {
	d *database
	s *scheduler.Scheduler
}

// parkedIn makes a database with so many rows. Its indexes are made after the rows: that is
// quicker, and they are packed as after a VACUUM.
func (r *run) parkedIn(ctx context.Context, name string, waiting, finished int) (*parked, error) {
	d, err := r.database(ctx, name)
	if err != nil {
		return nil, err
	}
	rows, err := d.pool.Query(ctx, statements["secondary_indexes"])
	if err != nil {
		return nil, err
	}
	type index struct{ Name, Definition string }
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
	if err != nil {
		return nil, err
	}
	for _, i := range indexes {
		if err := d.run(ctx, "DROP INDEX "+i.Name); err != nil {
			return nil, err
		}
	}
	if err := d.run(ctx, "ALTER TABLE pgautomate.lead_stage_actions DISABLE TRIGGER USER"); err != nil {
		return nil, err
	}
	if err := d.exec(ctx, "park", waiting, finished, manyOrganizations); err != nil {
		return nil, err
	}
	if err := d.exec(ctx, "lanes", manyOrganizations); err != nil {
		return nil, err
	}
	if err := d.exec(ctx, "throttles"); err != nil {
		return nil, err
	}
	for _, i := range indexes {
		if err := d.run(ctx, i.Definition); err != nil {
			return nil, err
		}
	}
	for _, statement := range []string{
		"ALTER TABLE pgautomate.lead_stage_actions ENABLE TRIGGER USER", "VACUUM (ANALYZE) pgautomate.lead_stage_actions", "CHECKPOINT",
	} {
		if err := d.run(ctx, statement); err != nil {
			return nil, err
		}
	}
	return r.scheduler(d)
}

// scheduler makes one that claims only when it is told to.
func (r *run) scheduler(d *database) (*parked, error) {
	client, err := river.NewClient(riverpgxv5.New(d.pool), &river.Config{Schema: db.Schema, Logger: r.Logger})
	if err != nil {
		return nil, fmt.Errorf("a client of River: %w", err)
	}
	s := &scheduler.Scheduler{Pool: d.pool, River: client, Logger: r.Logger}
	s.Init()
	return &parked{d, s}, nil
}

// claim makes actions due and gives the milliseconds of the rounds that claim them.
func (p *parked) claim(ctx context.Context, r *run, first int) (float64, error) {
	if err := p.d.exec(ctx, "make_due", r.claim, claimed, first); err != nil {
		return 0, err
	}
	began := time.Now()
	n := 0
	for n < r.claim {
		round, err := p.s.Round(ctx, map[string]int64{"log": int64(float64(r.claim) / p.s.Ahead)})
		if err != nil {
			return 0, err
		}
		if n += round.Actions; !round.More {
			break
		}
	}
	took := millis(time.Since(began))
	if n != r.claim {
		return 0, fmt.Errorf("%d of %d actions were claimed", n, r.claim)
	}
	return took, p.d.exec(ctx, "end_queued")
}

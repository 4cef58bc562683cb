package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Many organizations import their leads at one time, all through limits of their
// own, while the engine runs as a process of its own and one organization without a
// limit goes on as every day. What must not suffer: that organization; the actions
// that a limit would let start; the cost of a claim, with all the others parked.

const (
	importers  = 4                      // connections that import
	freeEvery  = 100 * time.Millisecond // a lead of the organization without a limit
	freeBefore = 20                     // leads of it that come before the imports: the reference
)

func imports(ctx context.Context, r *run) error {
	d, err := r.importing(ctx, "imports", r.importLimit, r.importPer)
	if err != nil {
		return err
	}
	p, err := r.process(ctx, d, "scheduler,workers")
	if err != nil {
		return err
	}
	took, before, err := r.importAll(ctx, d)
	if err := errors.Join(err, p.end()); err != nil {
		return err
	}
	conditions := fmt.Sprintf("%d organizations let %d leads each into a pipeline, one statement each, %d at a time, all in %s (%s leads/s), each held to %d starts in any %s; "+
		"%s more watched; the engine a process of its own on the server's CPUs", r.importingOrgs, r.imported, importers, took.Round(time.Second),
		number(float64(r.importingOrgs*r.imported)/took.Seconds()), r.importLimit, r.importPer, r.importAfter)
	var p99, most, held, starts float64
	if err := d.pool.QueryRow(ctx, statements["free_lateness"], r.free(0), before).Scan(&p99, &most); err != nil {
		return err
	}
	var p99Before, mostBefore float64
	if err := d.pool.QueryRow(ctx, statements["free_lateness_before"], r.free(0), before).Scan(&p99Before, &mostBefore); err != nil {
		return err
	}
	if err := d.pool.QueryRow(ctx, statements["not_held_lateness"], r.importLimit, r.importPer).Scan(&held, &starts); err != nil {
		return err
	}
	err = errors.Join(r.add(Figure{
		Name: "import_lateness_p99", Unit: "ms", Value: p99, ReferenceName: "the same organization's before the imports", Reference: p99Before, Reach: 2000, of: ofValue, most: true,
		Conditions: "perform_at to started_at of an organization without a limit, a lead every " + freeEvery.String() + fmt.Sprintf("; the latest %s ms late; ", number(most)) + conditions,
	}), r.add(Figure{
		Name: "import_lateness_max", Unit: "s", Value: max(held, most/1000), ReferenceName: "the worst of the organization without a limit, before the imports", Reference: mostBefore / 1000,
		Reach: 120, of: ofValue, most: true,
		Conditions: fmt.Sprintf("the latest start, and the longest wait of what has not started, since the action's time had come and its organization's limit let it; %s starts of limited organizations; ", number(starts)) + conditions,
	}))
	if err != nil || !r.wanted("import_claim") {
		return err
	}
	return r.claimAmongImported(ctx, d)
}

// free names an organization without a limit.
func (r *run) free(i int) string { return organization(r.importingOrgs + i) }

// importing makes a database in which each of the importing organizations has a
// pipeline of one action and a limit, and as many others have no limit.
func (r *run) importing(ctx context.Context, name string, limit int, per string) (*database, error) {
	d, err := r.database(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := d.exec(ctx, "pipelines", r.importingOrgs+claimed, 1); err != nil {
		return nil, err
	}
	return d, d.exec(ctx, "import_throttles", r.importingOrgs, r.importingOrgs+claimed, limit, per)
}

// importAll lets the organization without a limit be for a while, then all others
// import, and then all be for some more time. before is when the imports began.
func (r *run) importAll(ctx context.Context, d *database) (took time.Duration, before time.Time, err error) {
	enter := func(ctx context.Context, organization string, first, n int) error {
		return d.exec(ctx, "enter_organization", organization, first, n)
	}
	ticks := time.NewTicker(freeEvery)
	defer ticks.Stop()
	free := func(i int) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
		return enter(ctx, r.free(0), i, 1)
	}
	n := 0
	for ; n < freeBefore; n++ {
		if err := free(n); err != nil {
			return 0, before, err
		}
	}
	if err := d.pool.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&before); err != nil {
		return 0, before, err
	}
	over, end := context.WithCancel(ctx)
	var apart sync.WaitGroup
	var imported error
	apart.Go(func() {
		defer end()
		began := time.Now()
		g, importing := errgroup.WithContext(ctx) // which ends with the imports
		g.SetLimit(importers)
		for i := range r.importingOrgs {
			g.Go(func() error { return enter(importing, organization(i), 0, r.imported) })
		}
		imported = g.Wait()
		took = time.Since(began)
		select {
		case <-time.After(r.importAfter):
		case <-ctx.Done():
		}
	})
	for ; over.Err() == nil; n++ {
		if err = free(n); err != nil {
			break
		}
	}
	apart.Wait()
	return took, before, errors.Join(err, imported)
}

// claimAmongImported measures a claim for organizations without a limit among what the
// others have parked behind theirs, beside one among a hundredth of that.
func (r *run) claimAmongImported(ctx context.Context, large *database) error {
	small, err := r.importing(ctx, "imports_small", r.importLimit, r.importPer)
	if err != nil {
		return err
	}
	few := max(1, r.imported/100)
	for i := range r.importingOrgs {
		if err := small.exec(ctx, "enter_organization", organization(i), 0, few); err != nil {
			return err
		}
	}
	var schedulers []*parked
	for _, d := range []*database{small, large} {
		// All that a limit allows has started, and all without a limit is done: what is parked stays so.
		if err := d.exec(ctx, "end_unlimited", r.importingOrgs); err != nil {
			return err
		}
		for _, name := range []string{"end_queued", "forget_starts"} {
			if err := d.exec(ctx, name); err != nil {
				return err
			}
		}
		if err := d.exec(ctx, "use_limits", r.importingOrgs, r.importLimit); err != nil {
			return err
		}
		if err := d.run(ctx, "ANALYZE"); err != nil {
			return err
		}
		p, err := r.scheduler(d)
		if err != nil {
			return err
		}
		schedulers = append(schedulers, p)
	}
	var left int
	if err := large.pool.QueryRow(ctx, statements["still_parked"]).Scan(&left); err != nil {
		return err
	}
	t, err := r.claimByTurns(ctx, schedulers[1], schedulers[0], r.importingOrgs)
	if err != nil {
		return err
	}
	return r.add(t.into(Figure{
		Name: "import_claim", Unit: "ms", ReferenceName: fmt.Sprintf("the same with %d parked", r.importingOrgs*few), Reach: 1.3, most: true,
		Conditions: fmt.Sprintf("a round of the scheduler that claims %d due actions of %d organizations without a limit, River's jobs included; %d actions of %d other organizations are due and held by their limits",
			r.claim, claimed, left, r.importingOrgs),
	}))
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/db"
)

const (
	manyOrganizations = 1000
	perLead           = 2 // actions, one after the other
)

// actions measures the way of an action from due to completed.
func actions(ctx context.Context, r *run) error {
	alone, err := r.newRiverAlone(ctx)
	if err != nil {
		return err
	}
	defer alone.pool.Close()
	n := r.leads * perLead
	rate := 0.0
	for _, c := range []struct {
		name          string
		organizations int
	}{{"actions_1_org", 1}, {"actions_1000_orgs", manyOrganizations}} {
		if !r.wanted(c.name) && (c.organizations == 1 || !r.wanted("lateness_p99")) {
			continue
		}
		var t turns
		for i := range r.reps {
			d, err := r.pipelines(ctx, fmt.Sprintf("actions_%d_%d", c.organizations, i), c.organizations)
			if err != nil {
				return err
			}
			value, err := r.complete(ctx, d, c.organizations)
			if err != nil {
				return err
			}
			reference, err := alone.drain(ctx, n)
			if err != nil {
				return err
			}
			t.add(float64(n)/value, float64(n)/reference)
		}
		rate = median(t.values)
		err := r.add(t.into(Figure{
			Name: c.name, Unit: "actions/s", ReferenceName: "River's own drain of jobs that do nothing, same workers", Reach: 0.5,
			Conditions: fmt.Sprintf("%d actions that do nothing, from due to completed, %d organizations with a counted budget each, %d in a row for each lead; "+
				"%d workers, one process on the server's CPUs", n, c.organizations, perLead, r.workers),
		}))
		if err != nil {
			return err
		}
	}
	if !r.wanted("lateness_p99") {
		return nil
	}
	return r.lateness(ctx, alone, rate/2)
}

// pipelines makes a database with a pipeline for each organization.
func (r *run) pipelines(ctx context.Context, name string, organizations int) (*database, error) {
	d, err := r.database(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := d.exec(ctx, "pipelines", organizations, perLead); err != nil {
		return nil, err
	}
	return d, d.exec(ctx, "throttles")
}

// engine runs scheduler and workers until it is stopped.
func (r *run) engine(ctx context.Context, d *database) (stop func() error, err error) {
	_, stop, err = r.engineOf(ctx, d)
	return stop, err
}

func (r *run) engineOf(ctx context.Context, d *database) (e *pgautomate.Engine, stop func() error, err error) {
	e, err = pgautomate.New(ctx, pgautomate.Config{
		DatabaseURL: d.url, Logger: r.Logger, WorkersPerType: r.workers,
		Parts: []pgautomate.Part{pgautomate.SchedulerPart, pgautomate.WorkersPart},
	})
	if err != nil {
		return nil, nil, err
	}
	if err := e.Prepare(ctx); err != nil {
		e.Close()
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	return e, func() error {
		cancel()
		return <-ended
	}, nil
}

// complete gives the seconds from the engine's start until all actions are completed. A
// fifth of them goes before, so that the server knows the tables as it would have come to know them.
func (r *run) complete(ctx context.Context, d *database, organizations int) (float64, error) {
	if _, err := r.enterAndComplete(ctx, d, r.leads, r.leads/5, organizations); err != nil {
		return 0, err
	}
	took, err := r.enterAndComplete(ctx, d, 0, r.leads, organizations)
	if err != nil {
		return 0, err
	}
	var left int
	if err := d.pool.QueryRow(ctx, statements["not_completed"]).Scan(&left); err != nil {
		return 0, err
	}
	if left > 0 {
		return 0, fmt.Errorf("%d actions are not completed", left)
	}
	return took, nil
}

func (r *run) enterAndComplete(ctx context.Context, d *database, first, n, organizations int) (float64, error) {
	if err := d.exec(ctx, "enter", first, n, organizations); err != nil {
		return 0, err
	}
	if err := d.run(ctx, "VACUUM (ANALYZE)"); err != nil {
		return 0, err
	}
	stop, err := r.engine(ctx, d)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = d.untilNone(ctx, "active_left")
	took := time.Since(began).Seconds()
	return took, errors.Join(err, stop())
}

func (d *database) untilNone(ctx context.Context, question string) error {
	for {
		left := false
		if err := d.pool.QueryRow(ctx, statements[question]).Scan(&left); err != nil {
			return err
		}
		if !left {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// riverAlone is River by itself, in a database of its own, with the engine's settings.
type riverAlone struct {
	d       *database
	pool    *pgxpool.Pool
	workers int
	quiet   *run
}

type nothingArgs struct {
	ID int64 `json:"id"`
}

func (nothingArgs) Kind() string { return "nothing" }

// newRiverAlone uses the schema's own River tables; no engine runs there.
func (r *run) newRiverAlone(ctx context.Context) (*riverAlone, error) {
	d, err := r.database(ctx, "river")
	if err != nil {
		return nil, err
	}
	pool, err := db.Open(ctx, d.url, "pgautomate river", 10)
	return &riverAlone{d, pool, r.workers, r}, err
}

func (a *riverAlone) client(work func(*river.Job[nothingArgs])) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(_ context.Context, job *river.Job[nothingArgs]) error {
		work(job)
		return nil
	}))
	return river.NewClient(riverpgxv5.New(a.pool), &river.Config{
		Schema: db.Schema, Logger: a.quiet.Logger, Workers: workers, FetchCooldown: 5 * time.Millisecond, FetchPollInterval: 250 * time.Millisecond,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: a.workers}},
	})
}

func nothings(n int) []river.InsertManyParams {
	params := make([]river.InsertManyParams, n)
	for i := range params {
		params[i] = river.InsertManyParams{Args: nothingArgs{int64(i)}}
	}
	return params
}

// drain gives the seconds that River takes for n jobs that are there.
func (a *riverAlone) drain(ctx context.Context, n int) (float64, error) {
	if err := a.d.run(ctx, "TRUNCATE pgautomate.river_job"); err != nil {
		return 0, err
	}
	var worked atomic.Int64
	all := make(chan struct{})
	client, err := a.client(func(*river.Job[nothingArgs]) {
		if worked.Add(1) == int64(n) {
			close(all)
		}
	})
	if err != nil {
		return 0, err
	}
	for done := 0; done < n; done += 5000 {
		if _, err := client.InsertManyFast(ctx, nothings(min(5000, n-done))); err != nil {
			return 0, err
		}
	}
	if err := a.d.run(ctx, "VACUUM (ANALYZE) pgautomate.river_job"); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return 0, err
	}
	select {
	case <-all:
		err = a.d.untilNone(ctx, "river_left")
	case <-ctx.Done():
		err = ctx.Err()
	}
	took := time.Since(began).Seconds()
	return took, errors.Join(err, client.Stop(context.WithoutCancel(ctx)))
}

// tenths calls f ten times a second with how many are due by then.
func (r *run) tenths(ctx context.Context, rate float64, f func(first, n int) error) error {
	began, done := time.Now(), 0
	for time.Since(began) < r.steady {
		if n := int(time.Since(began).Seconds()*rate) - done; n > 0 {
			if err := f(done, n); err != nil {
				return err
			}
			done += n
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// lateness measures starts at a steady rate.
func (r *run) lateness(ctx context.Context, alone *riverAlone, rate float64) error {
	var t turns
	for i := range r.reps {
		value, err := r.lateOnce(ctx, fmt.Sprintf("lateness_%d", i), rate)
		if err != nil {
			return err
		}
		reference, err := alone.lateness(ctx, r, rate)
		if err != nil {
			return err
		}
		t.add(value, reference)
	}
	return r.add(t.into(Figure{
		Name: "lateness_p99", Unit: "ms", ReferenceName: "River's own: scheduled_at to work, same rate and workers", Reach: 250, of: ofValue, most: true,
		Conditions: fmt.Sprintf("%s actions/s, half of actions_1000_orgs, entered ten times a second, for %s; %d organizations; perform_at to started_at",
			number(rate), r.steady, manyOrganizations),
	}))
}

// lateOnce gives the 99th percentile of one turn, in milliseconds.
func (r *run) lateOnce(ctx context.Context, name string, rate float64) (p99 float64, err error) {
	d, err := r.pipelines(ctx, name, manyOrganizations)
	if err != nil {
		return 0, err
	}
	stop, err := r.engine(ctx, d)
	if err != nil {
		return 0, err
	}
	// What came first is not counted: plans and statistics are new.
	warm := time.Now().Add(r.steady / 4)
	err = r.tenths(ctx, rate/perLead, func(first, n int) error { return d.exec(ctx, "enter", first, n, manyOrganizations) })
	if err == nil {
		err = d.untilNone(ctx, "active_left")
	}
	if err := errors.Join(err, stop()); err != nil {
		return 0, err
	}
	err = d.pool.QueryRow(ctx, statements["lateness"], warm).Scan(&p99)
	return p99, err
}

func (a *riverAlone) lateness(ctx context.Context, r *run, rate float64) (float64, error) {
	if err := a.d.run(ctx, "TRUNCATE pgautomate.river_job"); err != nil {
		return 0, err
	}
	var mu sync.Mutex
	var late []float64
	client, err := a.client(func(job *river.Job[nothingArgs]) {
		took := millis(time.Since(job.ScheduledAt))
		mu.Lock()
		late = append(late, took)
		mu.Unlock()
	})
	if err != nil {
		return 0, err
	}
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return 0, err
	}
	err = r.tenths(ctx, rate, func(_, n int) error {
		_, err := client.InsertManyFast(ctx, nothings(n))
		return err
	})
	if err == nil {
		err = a.d.untilNone(ctx, "river_left")
	}
	err = errors.Join(err, client.Stop(context.WithoutCancel(ctx)))
	mu.Lock()
	defer mu.Unlock()
	return percentile(late[len(late)/4:], 0.99), err
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgautomate/pgautomate/change"
)

const (
	fewOrganizations = 100 // each has one trigger, which waits for what becomes hot
	writers          = 4   // connections of the app
	hotEvery         = 10  // every tenth change fires
)

// few is a database with few triggers and a feeder on it.
func (r *run) few(ctx context.Context) (*database, *feeder, error) {
	d, err := r.database(ctx, "few")
	if err != nil {
		return nil, nil, err
	}
	if err := d.triggers(ctx, fewOrganizations, fewOrganizations); err != nil {
		return nil, nil, err
	}
	if err := d.leads(ctx, r.rows, fewOrganizations); err != nil {
		return nil, nil, err
	}
	f, err := newFeeder(ctx, r, d)
	if err != nil {
		return nil, nil, err
	}
	return d, f, f.catchUp(ctx)
}

// changeLead is the nth change of the app, a transaction of its own. Each changes something.
func (d *database) changeLead(ctx context.Context, statement string, id, n int) error {
	text := "cold"
	if id%hotEvery == 0 {
		text = "hot"
	}
	_, err := d.pool.Exec(ctx, statement, id, text, "moved-"+strconv.Itoa(n))
	return err
}

// paced writes changes at a steady rate, of rows first+1 and so on.
func (r *run) paced(ctx context.Context, d *database, first int) error {
	n := int(float64(r.pace) * r.phase.Seconds())
	began := time.Now()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range writers {
		group.Go(func() error {
			for {
				i := int(next.Add(1))
				if i > n {
					return nil
				}
				at := began.Add(time.Duration(i) * time.Second / time.Duration(r.pace))
				if wait := time.Until(at); wait > 0 {
					time.Sleep(wait)
				}
				if err := d.changeLead(ctx, statements["change_lead"], first+i, i); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// commitToJob measures the time from a commit to its job's being visible to others.
func commitToJob(ctx context.Context, r *run) error {
	d, f, err := r.few(ctx)
	if f != nil {
		defer f.close()
	}
	if err != nil {
		return err
	}
	fires := everyNth(hotEvery)
	var mu sync.Mutex
	var latencies []float64
	f.applied = func(commits []*change.Commit) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range commits {
			for i := range c.Changes {
				if fires(c.Changes[i].ID) {
					latencies = append(latencies, millis(now.Sub(c.Time)))
				}
			}
		}
	}
	perTurn := int(float64(r.pace) * r.phase.Seconds())
	var p50, p99 turns
	for i := range r.reps {
		// The first changes of each turn are not counted: plans and connections are new.
		engine := func() error {
			b, err := f.begin(ctx, false)
			if err != nil {
				return err
			}
			first, err := d.mark(ctx)
			if err != nil {
				return err
			}
			if err := b.untilApplied(ctx, first); err != nil {
				return err
			}
			if err := r.paced(ctx, d, 2*i*perTurn); err != nil {
				return err
			}
			end, err := d.mark(ctx)
			if err != nil {
				return err
			}
			if err := b.untilApplied(ctx, end); err != nil {
				return err
			}
			return b.end()
		}
		var reference []float64
		bareTurn := func() error {
			bare, err := newBare(ctx, d, fires)
			if err != nil {
				return err
			}
			defer bare.close()
			if err := r.paced(ctx, d, (2*i+1)*perTurn); err != nil {
				return err
			}
			if err := bare.await(ctx, perTurn/hotEvery); err != nil {
				return err
			}
			reference, err = bare.end()
			return err
		}
		if err := f.catchUp(ctx); err != nil {
			return err
		}
		latencies = nil // those of what it caught up with
		if err := engine(); err != nil {
			return err
		}
		value := steady(latencies)
		if err := bareTurn(); err != nil {
			return err
		}
		reference = steady(reference)
		p50.add(percentile(value, 0.5), percentile(reference, 0.5))
		p99.add(percentile(value, 0.99), percentile(reference, 0.99))
	}
	conditions := fmt.Sprintf("%d changes/s from %d connections, one a commit; 1 in %d fires: the commit's time to its job's being committed; %s a turn",
		r.pace, writers, hotEvery, r.phase)
	err = r.add(p50.into(Figure{
		Name: "commit_to_job_p50", Unit: "ms", ReferenceName: bareLoop, Reach: 2, most: true, Conditions: conditions,
	}))
	if err != nil {
		return err
	}
	return r.add(p99.into(Figure{
		Name: "commit_to_job_p99", Unit: "ms", ReferenceName: bareLoop, Reach: 2, most: true, Conditions: conditions,
	}))
}

// steady leaves out the first fifth.
func steady(v []float64) []float64 { return v[len(v)/5:] }

// appWrites measures how fast an app can write a table that is watched.
func appWrites(ctx context.Context, r *run) error {
	d, f, err := r.few(ctx)
	if f != nil {
		defer f.close()
	}
	if err != nil {
		return err
	}
	if err := d.exec(ctx, "hand_written"); err != nil {
		return err
	}
	read := func(write func() error) error {
		b, err := f.begin(ctx, false)
		if err != nil {
			return err
		}
		first, err := d.mark(ctx)
		if err == nil {
			err = b.untilApplied(ctx, first)
		}
		if err == nil {
			err = write()
		}
		return errors.Join(err, b.end())
	}
	kinds := []struct {
		name, table string
		while       func(write func() error) error
	}{
		{"unwatched", "lead_unwatched", nil},
		{"read by the engine", "lead", read},
		{"row trigger", "lead_row_trigger", nil},
		{"unread", "lead", nil},
		{"received", "lead", func(write func() error) error { return r.received(ctx, d, write) }},
	}
	rates := map[string][]float64{}
	var unwatched, byHand turns
	for i := range r.reps {
		latest := map[string]float64{}
		for j := range kinds {
			k := kinds[(i+j)%len(kinds)]
			if err := f.catchUp(ctx); err != nil {
				return err
			}
			write := func() (err error) { latest[k.name], err = r.asFast(ctx, d, k.table); return err }
			if k.while != nil {
				err = k.while(write)
			} else {
				err = write()
			}
			if err != nil {
				return err
			}
			rates[k.name] = append(rates[k.name], latest[k.name])
			if err := d.run(ctx, "UPDATE "+k.table+" SET text0 = 'cold' WHERE text0 = 'hot'"); err != nil {
				return err
			}
			if err := d.run(ctx, "VACUUM "+k.table); err != nil {
				return err
			}
		}
		unwatched.add(latest["read by the engine"], latest["unwatched"])
		byHand.add(latest["read by the engine"], latest["row trigger"])
	}
	conditions := fmt.Sprintf("%d connections write as fast as they can, one row of 32 columns a commit, 1 in %d fires; the feed drains on the same CPUs; %s a turn; "+
		"%s commits/s when it is watched and nobody reads, %s when pg_recvlogical reads it to /dev/null",
		writers, hotEvery, r.phase, number(median(rates["unread"])), number(median(rates["received"])))
	err = r.add(unwatched.into(Figure{
		Name: "app_writes", Unit: "commits/s", ReferenceName: "the same table unwatched", Reach: 0.9, Conditions: conditions,
	}))
	if err != nil {
		return err
	}
	return r.add(byHand.into(Figure{
		Name: "app_writes_row_trigger", Unit: "commits/s", ReferenceName: "the same table with a hand-written row trigger that inserts a job", Reach: 1,
		Conditions: conditions,
	}))
}

// asFast writes for one phase and gives commits a second.
func (r *run) asFast(ctx context.Context, d *database, table string) (float64, error) {
	statement := "UPDATE " + table + " SET text0 = $2, text1 = $3 WHERE id = $1"
	end := time.Now().Add(r.phase)
	began := time.Now()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range writers {
		group.Go(func() error {
			for time.Now().Before(end) {
				n := int(next.Add(1))
				if err := d.changeLead(ctx, statement, 1+n%r.rows, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(next.Load()) / time.Since(began).Seconds(), err
}

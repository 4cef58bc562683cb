package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/jobs"
)

// backlog is what is written while nobody reads.
type backlog struct{ rows, perTx, nth int }

// make writes it and gives its end. A commit after it makes pg_recvlogical see that
// it is there.
func (b backlog) make(ctx context.Context, d *database) (change.LSN, error) {
	d.round++
	if err := d.run(ctx, fmt.Sprintf("CALL change_leads(%d, %d, %d, %d)", b.rows, b.perTx, b.nth, d.round)); err != nil {
		return 0, err
	}
	return d.mark(ctx)
}

// mark gives the end of the log and lets a commit follow.
func (d *database) mark(ctx context.Context) (change.LSN, error) {
	end, err := d.endOf(ctx)
	if err != nil {
		return 0, err
	}
	if err := d.run(ctx, "UPDATE lead SET text14 = clock_timestamp()::text WHERE id = 1"); err != nil {
		return 0, err
	}
	return end, d.run(ctx, "CHECKPOINT")
}

// turn makes a backlog, and lets the engine and pg_recvlogical drain it, one after the other.
func (r *run) turn(ctx context.Context, f *feeder, b backlog, engineFirst bool) (engine, reference used, err error) {
	if err := f.d.run(ctx, "VACUUM lead"); err != nil {
		return engine, reference, err
	}
	if err := f.catchUp(ctx); err != nil {
		return engine, reference, err
	}
	if err := f.d.exec(ctx, "make_slot", referenceSlot); err != nil {
		return engine, reference, err
	}
	end, err := b.make(ctx, f.d)
	if err != nil {
		return engine, reference, err
	}
	runtime.GC()
	steps := []func() error{
		func() (err error) { engine, err = f.drain(ctx, end); return err },
		func() (err error) { reference, err = r.receive(ctx, f.d, end); return err },
	}
	if !engineFirst {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return engine, reference, err
		}
	}
	return engine, reference, f.d.run(ctx, "SELECT pg_drop_replication_slot('"+referenceSlot+"')")
}

const receiving = "pg_recvlogical to /dev/null on the same log"

// drains measures rates of draining, and CPU seconds for a million changes.
func (r *run) drains(ctx context.Context, f *feeder, b backlog) (rate, burnt turns, err error) {
	for i := range r.reps {
		engine, reference, err := r.turn(ctx, f, b, i%2 == 1)
		if err != nil {
			return rate, burnt, err
		}
		n := float64(b.rows)
		rate.add(n/engine.seconds, n/reference.seconds)
		burnt.add(engine.cpu/n*1e6, reference.cpu/n*1e6)
	}
	return rate, burnt, nil
}

func (r *run) drainText(b backlog) string {
	return fmt.Sprintf("%d updates of 3 of 32 columns, whole old rows, in %d-row transactions, %d triggers over %d organizations loaded",
		b.rows, b.perTx, r.triggers, r.organizations)
}

// draining measures what has many triggers loaded.
func draining(ctx context.Context, r *run) error {
	d, err := r.database(ctx, "many")
	if err != nil {
		return err
	}
	if err := d.triggers(ctx, r.triggers, r.organizations); err != nil {
		return err
	}
	if err := d.leads(ctx, r.rows, r.organizations); err != nil {
		return err
	}
	f, err := newFeeder(ctx, r, d)
	if err != nil {
		return err
	}
	defer f.close()
	marks, stopMarks := context.WithCancel(ctx)
	defer stopMarks()
	go f.matcher.RunMarker(marks)
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	for _, step := range []struct {
		names []string
		run   func(context.Context, *feeder) error
	}{
		{[]string{"trigger_load"}, r.loading},
		{[]string{"trigger_edit_live"}, r.editing},
		{[]string{"feed_drain_1000", "cpu_per_change", "feed_drain_none"}, r.drainThousands},
		{[]string{"feed_drain_1"}, r.drainSingles},
		{[]string{"feed_fire_1pct"}, r.fireSome},
		{[]string{"feed_fire_all"}, r.fireAll},
		{[]string{"rss"}, r.resident},
	} {
		if slices.ContainsFunc(step.names, r.wanted) {
			if err := step.run(ctx, f); err != nil {
				return fmt.Errorf("%s: %w", step.names[0], err)
			}
		}
	}
	return nil
}

// loading measures a cold load, beside reading the definitions and doing nothing with them.
func (r *run) loading(ctx context.Context, f *feeder) error {
	var t turns
	for range r.reps {
		f.matcher = nil
		runtime.GC()
		reference, err := f.readDefinitions(ctx)
		if err != nil {
			return err
		}
		f.matcher = f.newMatcher()
		began := time.Now()
		if err := f.matcher.Preload(ctx); err != nil {
			return err
		}
		t.add(time.Since(began).Seconds(), reference)
	}
	return r.add(t.into(Figure{
		Name: "trigger_load", Unit: "s", ReferenceName: "reading the definitions from the database and dropping them", Reach: 15, of: ofValue, most: true,
		Conditions: fmt.Sprintf("%d triggers over %d organizations, from rows to ready", r.triggers, r.organizations),
	}))
}

func (f *feeder) readDefinitions(ctx context.Context) (float64, error) {
	began := time.Now()
	rows, err := f.pool.Query(ctx, statements["read_definitions"])
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		_ = rows.RawValues()
	}
	return time.Since(began).Seconds(), rows.Err()
}

// editing measures how long after its commit an edited trigger is live.
func (r *run) editing(ctx context.Context, f *feeder) error {
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	seen := make(chan time.Duration, 1)
	f.applied = func(commits []*change.Commit) {
		if len(commits) > 0 {
			select {
			case seen <- time.Since(commits[len(commits)-1].Time):
			default:
			}
		}
	}
	defer func() { f.applied = nil }()
	b, err := f.begin(ctx, false)
	if err != nil {
		return err
	}
	edit := func(i int) error {
		return f.d.exec(ctx, "edit_trigger", 1+(i*7919)%r.triggers, fmt.Sprintf("edited %d %d", i, time.Now().UnixNano()))
	}
	var values []float64
	for i := range r.edits {
		if err := edit(i); err != nil {
			return err
		}
		select {
		case took := <-seen:
			values = append(values, millis(took))
		case err := <-b.ended:
			return fmt.Errorf("the feed ended: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := b.end(); err != nil {
		return err
	}
	bare, err := newBare(ctx, f.d, func(string) bool { return true })
	if err != nil {
		return err
	}
	defer bare.close()
	for i := range r.edits {
		before := bare.count()
		if err := edit(i); err != nil {
			return err
		}
		if err := bare.await(ctx, before+1); err != nil {
			return err
		}
	}
	latencies, err := bare.end()
	if err != nil {
		return err
	}
	return r.add(Figure{
		Name: "trigger_edit_live", Unit: "ms", Value: median(values), ReferenceName: bareLoop, Reference: median(latencies), Reach: 50, of: ofValue, most: true,
		Conditions: fmt.Sprintf("from the commit of one edit to its being live, %d triggers loaded; median of %d edits", r.triggers, r.edits),
	})
}

func (r *run) drainThousands(ctx context.Context, f *feeder) error {
	b := backlog{r.batches, r.perTx, 0}
	rate, burnt, err := r.drains(ctx, f, b)
	if err != nil {
		return err
	}
	err = r.add(rate.into(Figure{
		Name: "feed_drain_1000", Unit: "changes/s", ReferenceName: receiving, Reach: 0.85, Conditions: r.drainText(b) + "; nothing fires",
	}))
	if err != nil {
		return err
	}
	err = r.add(burnt.into(Figure{
		Name: "cpu_per_change", Unit: "CPU s/1M changes", ReferenceName: "pg_recvlogical's own, without the server's", Reach: 3, most: true,
		Conditions: r.drainText(b) + "; nothing fires; the engine's process, GC included, without the server's",
	}))
	if err != nil || !r.wanted("feed_drain_none") {
		return err
	}
	d, err := r.database(ctx, "none")
	if err != nil {
		return err
	}
	if err := d.leads(ctx, r.rows, r.organizations); err != nil {
		return err
	}
	none, err := newFeeder(ctx, r, d)
	if err != nil {
		return err
	}
	defer none.close()
	var t turns
	for i := range r.reps {
		// By turns on both databases, though each with many was measured before.
		without, _, err := r.turn(ctx, none, b, i%2 == 1)
		if err != nil {
			return err
		}
		with, _, err := r.turn(ctx, f, b, i%2 == 1)
		if err != nil {
			return err
		}
		t.add(float64(b.rows)/with.seconds, float64(b.rows)/without.seconds)
	}
	if err := d.dropSlots(ctx); err != nil { // it would hold the log
		return err
	}
	return r.add(t.into(Figure{
		Name: "feed_drain_none", Unit: "changes/s", ReferenceName: "the same drain with no triggers", Reach: 0.8, Conditions: r.drainText(b) + "; nothing fires",
	}))
}

func (r *run) drainSingles(ctx context.Context, f *feeder) error {
	b := backlog{r.singles, 1, 0}
	rate, burnt, err := r.drains(ctx, f, b)
	if err != nil {
		return err
	}
	return r.add(rate.into(Figure{
		Name: "feed_drain_1", Unit: "changes/s", ReferenceName: receiving, Reach: 0.85,
		Conditions: r.drainText(b) + fmt.Sprintf("; nothing fires; CPU s/1M changes %s beside %s", number(median(burnt.values)), number(median(burnt.references))),
	}))
}

func (r *run) fireSome(ctx context.Context, f *feeder) error {
	b := backlog{r.batches, r.perTx, 100}
	rate, _, err := r.drains(ctx, f, b)
	if err != nil {
		return err
	}
	if err := r.coolDown(ctx, f); err != nil {
		return err
	}
	return r.add(rate.into(Figure{
		Name: "feed_fire_1pct", Unit: "changes/s", ReferenceName: receiving, Reach: 0.7,
		Conditions: r.drainText(b) + "; 1 % fire: an audit row with both rows as JSON, a job of River",
	}))
}

// coolDown makes all rows such that they fire when they become hot, and forgets what fired.
func (r *run) coolDown(ctx context.Context, f *feeder) error {
	if _, err := (backlog{r.rows, 10_000, 0}).make(ctx, f.d); err != nil {
		return err
	}
	if err := f.d.exec(ctx, "forget_firings"); err != nil {
		return err
	}
	return f.catchUp(ctx)
}

// fireAll measures changes that all fire, beside what River alone needs for the jobs.
func (r *run) fireAll(ctx context.Context, f *feeder) error {
	b := backlog{r.fires, r.perTx, 1}
	var t, log turns
	for i := range r.reps {
		if err := r.coolDown(ctx, f); err != nil {
			return err
		}
		inserted := 0.0
		insert := func() (err error) { inserted, err = r.insertMany(ctx, f, b.rows); return err }
		if i%2 == 0 {
			if err := insert(); err != nil {
				return err
			}
		}
		engine, reference, err := r.turn(ctx, f, b, i%2 == 1)
		if err != nil {
			return err
		}
		if i%2 == 1 {
			if err := insert(); err != nil {
				return err
			}
		}
		n := float64(b.rows)
		t.add(n/engine.seconds, n/inserted)
		log.add(n/engine.seconds, n/reference.seconds)
		var fired int
		if err := f.d.pool.QueryRow(ctx, "SELECT count(*) FROM pgautomate.trigger_firings").Scan(&fired); err != nil {
			return err
		}
		if fired != b.rows {
			return fmt.Errorf("%d of %d changes fired", fired, b.rows)
		}
	}
	if err := r.coolDown(ctx, f); err != nil {
		return err
	}
	return r.add(t.into(Figure{
		Name: "feed_fire_all", Unit: "firings/s", ReferenceName: "River's InsertManyFast, 5,000 jobs a call", Reach: 0.6,
		Conditions: r.drainText(b) + fmt.Sprintf("; every change fires: an audit row with both rows as JSON, a job of River; pg_recvlogical reads %s changes/s of the same log",
			number(median(log.references))),
	}))
}

// insertMany gives the seconds that River takes for so many of the same jobs.
func (r *run) insertMany(ctx context.Context, f *feeder, n int) (float64, error) {
	began := time.Now()
	for done := 0; done < n; done += 5000 {
		params := make([]river.InsertManyParams, min(5000, n-done))
		for i := range params {
			params[i] = river.InsertManyParams{
				Args: jobs.FiringArgs{ID: int64(done + i), At: began}, InsertOpts: &river.InsertOpts{Queue: jobs.FiringQueue, MaxAttempts: 25},
			}
		}
		if _, err := f.river.InsertManyFast(ctx, params); err != nil {
			return 0, fmt.Errorf("jobs of River: %w", err)
		}
	}
	took := time.Since(began).Seconds()
	return took, pgx.BeginFunc(ctx, f.d.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "TRUNCATE pgautomate.river_job")
		return err
	})
}

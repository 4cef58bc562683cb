//go:build faults

package faults

// Timers that come due while the engine is killed again and again: each moment that a
// row stood at when it came fires exactly once, as of that moment, whoever was there.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// margin is how far from its moment a row's moment is moved, at least: on which side of it
// the move lies is certain then.
const margin = 2 * time.Second

func (w *world) timersKilled() {
	w.exec(`ALTER TABLE lead ADD COLUMN at timestamptz`)
	timed := w.trigger("c", "the moment has come", query(field("at",
		`{"type":"moment_range","before":{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"seconds":0},"which_day_end":null}}`)),
		"log", `{"message":"timed"}`)
	p := w.engine()
	w.exec(`INSERT INTO lead (id, organization_id, at) SELECT nextval('lead_ids'), 'c', clock_timestamp() + interval '3 s' + i * interval '20 ms' FROM generate_series(1, 300) i`)
	w.write()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.moveMoments(ctx)
	}()
	w.underway()
	w.forAWhile(func() {
		pause(0, 1500*time.Millisecond)
		p.kill()
		pause(0, 500*time.Millisecond)
		p = w.engine()
	})
	cancel()
	<-done

	// A moment counts if nothing moved it before it came.
	type moment struct {
		id int64
		at time.Time
	}
	var want []moment
	last := time.Time{}
	rows, err := w.db.Pool.Query(context.Background(), `
		SELECT (new ->> 'id')::bigint, (new ->> 'at')::timestamptz,
		       coalesce(lead(new ->> 'status_id') OVER (PARTITION BY new ->> 'id' ORDER BY seq), 'had come') = 'had come'
		  FROM audit WHERE new ->> 'organization_id' = 'c' ORDER BY seq`)
	if err != nil {
		w.t.Fatal(err)
	}
	var m moment
	var counts bool
	if _, err := pgx.ForEachRow(rows, []any{&m.id, &m.at, &counts}, func() error {
		if counts {
			want = append(want, m)
			if m.at.After(last) {
				last = m.at
			}
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	w.until("the last moment has come", func() bool { return one[bool](w, `SELECT clock_timestamp() > $1`, last) })
	took := w.until("the last moment has fired", func() bool {
		return one[bool](w, `SELECT NOT EXISTS (SELECT FROM pgautomate.trigger_timers)`)
	})
	// The first microsecond after it.
	fired := map[string]int{}
	type key struct{ Key string }
	for _, f := range list[key](w, `SELECT object_id || ' ' || (committed_at - interval '1 microsecond') AT TIME ZONE 'UTC' FROM pgautomate.trigger_firings WHERE trigger_id = $1`, timed) {
		fired[f.Key]++
	}
	lost, twice := 0, 0
	for _, m := range want {
		key := fmt.Sprintf("%d %s", m.id, m.at.UTC().Format("2006-01-02 15:04:05.999999"))
		switch n := fired[key]; {
		case n == 0:
			lost++
			w.t.Errorf("lead %s did not fire", key)
		case n > 1:
			twice += n - 1
			w.t.Errorf("lead %s fired %d times", key, n)
		}
		delete(fired, key)
	}
	for key, n := range fired {
		w.t.Errorf("lead %s fired %d times and should not have", key, n)
	}
	if len(want) < 300 {
		w.t.Errorf("only %d moments came", len(want))
	}
	report.add(result{fault: w.fault + ", by the clock", times: w.times, firings: len(want), lost: lost, twice: twice, bad: len(fired), feed: took})
	w.check(w.caughtUp())
	p.terminate()
}

// moveMoments moves moments that are yet to come, and those that have come to new ones.
func (w *world) moveMoments(ctx context.Context) {
	for ctx.Err() == nil {
		w.exec(`UPDATE lead SET at = clock_timestamp() + interval '3 s' + random() * interval '3 s', status_id = 'moved' WHERE id IN
			(SELECT id FROM lead WHERE organization_id = 'c' AND at > clock_timestamp() + $1::interval ORDER BY random() LIMIT 5)`, margin)
		w.exec(`UPDATE lead SET at = clock_timestamp() + interval '3 s' + random() * interval '3 s', status_id = 'had come' WHERE id IN
			(SELECT id FROM lead WHERE organization_id = 'c' AND at < clock_timestamp() - $1::interval ORDER BY random() LIMIT 10)`, margin)
		time.Sleep(50 * time.Millisecond)
	}
}

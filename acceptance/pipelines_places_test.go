package acceptance

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate"
)

// most counts how many of an action's handlers run at one time.
type most struct {
	now, ever atomic.Int64
	let       chan struct{} // closed: they may end
}

func (m *most) work(context.Context, *pgautomate.Action) (pgautomate.Result, error) {
	n := m.now.Add(1)
	defer m.now.Add(-1)
	for {
		ever := m.ever.Load()
		if n <= ever || m.ever.CompareAndSwap(ever, n) {
			break
		}
	}
	<-m.let
	return pgautomate.Result{}, nil
}

const carried = `SELECT count(*) FROM pgautomate.river_job WHERE kind = 'action'`

// A process that schedules and works takes what it has places for, no more, and needs no job of River's for it.
func TestPlaces(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.WorkersPerType = 3
	stage := w.stage("a", "p", "s", act{"work", ""})
	m := &most{let: make(chan struct{})}
	w.run(handle("work", m.work))
	w.enterMany("a", stage, 20)
	w.until("all places are taken", func() bool { return m.now.Load() == 3 })
	time.Sleep(300 * time.Millisecond)
	if got := one[string](w, `SELECT string_agg(n || ' ' || status, ', ' ORDER BY status) FROM (SELECT status, count(*) AS n FROM pgautomate.lead_stage_actions GROUP BY 1) x`); got != "17 pending, 3 running" {
		t.Errorf("of 20 actions %s", got)
	}
	close(m.let)
	w.until("all are done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == 20
	})
	if n := m.ever.Load(); n != 3 {
		t.Errorf("%d ran at one time, want 3", n)
	}
	if n := one[int64](w, carried); n != 0 {
		t.Errorf("%d River jobs for actions of this process", n)
	}
}

// A process that is told to stop lets its actions end; what ends too late runs again elsewhere.
func TestPlacesDrain(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	stage := w.stage("a", "p", "s", act{"work", ""})
	m := &most{let: make(chan struct{})}
	w.run(handle("work", m.work))
	w.enterMany("a", stage, 5)
	w.until("they run", func() bool { return m.now.Load() == 5 })
	go func() {
		time.Sleep(500 * time.Millisecond)
		close(m.let)
	}()
	w.halt()
	if got := one[string](w, `SELECT string_agg(DISTINCT concat_ws(' ', status, attempt), ', ') FROM pgautomate.lead_stage_actions`); got != "completed 1" {
		t.Errorf("after the stop the actions are %s", got)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.workers`); n != 0 {
		t.Errorf("%d processes are left in pgautomate.workers", n)
	}
}

// A process that only works is sent what it is to do, as River jobs in the queue of its action's type.
func TestWorkersAreSentTheirActions(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.Parts = []pgautomate.Part{pgautomate.WorkersPart}
	w.config.WorkersPerType = 3
	stage := w.stage("a", "p", "s", act{"work", ""}, act{"log", `{"message": "x"}`})
	m := &most{let: make(chan struct{})}
	close(m.let)
	w.run(handle("work", m.work))
	w.config.Parts = []pgautomate.Part{pgautomate.SchedulerPart}
	w.another()
	w.enterMany("a", stage, 20)
	w.until("all are done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == 20
	})
	if n := m.ever.Load(); n > 3 {
		t.Errorf("%d ran at one time, want at most 3", n)
	}
	if got := one[string](w, `SELECT string_agg(n || ' ' || queue, ', ' ORDER BY queue) FROM (SELECT queue, count(*) AS n FROM pgautomate.river_job WHERE kind = 'action' GROUP BY 1) x`); got != "20 log, 20 work" {
		t.Errorf("River's jobs: %s", got)
	}
}

package jobs

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// writes is a Lifecycle that writes outcomes when it is told to.
type writes struct{ next chan struct{} }

func (writes) Start(context.Context, int64) (*Started, error) { return nil, nil }

func (w writes) Finish(context.Context, *Started, Outcome) error {
	<-w.next
	return nil
}

// TestSlots: an action that is done gives its place to another while its outcome is written, but for so many that as many
// outcomes as there are places, and no more, wait beside those that run.
func TestSlots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		do, write := make(chan struct{}), make(chan struct{})
		r := NewRegistry()
		if err := r.Register("own", HandlerFunc(func(context.Context, *Action) (Result, error) { <-do; return Result{}, nil })); err != nil {
			t.Fatal(err)
		}
		var woken atomic.Int64
		s := NewSlots(&Executor{Lifecycle: writes{write}, Registry: r, Logger: slog.New(slog.DiscardHandler), Timeout: time.Minute},
			map[string]int{"own": 3, "other": 2}, func() { woken.Add(1) })
		run := func(n int) {
			var all []*Started
			for range n {
				all = append(all, &Started{Action: Action{Type: "own"}})
			}
			s.Run(all)
		}
		tell := func(c chan struct{}, n int) {
			for range n {
				c <- struct{}{}
			}
		}
		free := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			if got := s.Free(); got["own"] != want || got["other"] != 2 {
				t.Errorf("%s: %v are free, want %d", when, got, want)
			}
		}
		free("at first", 3)
		run(3)
		free("three run", 0)
		tell(do, 1)
		free("one of them is done", 1)
		tell(do, 2)
		free("all are", 3)
		run(2)
		free("two more run", 1)
		tell(do, 2)
		free("five wait for their outcomes", 1)
		run(1)
		tell(do, 1)
		free("six wait for their outcomes", 0)
		tell(write, 1)
		free("one is written", 1)
		tell(write, 4)
		free("one still waits", 3)
		before := woken.Load()
		tell(write, 1)
		free("none waits", 3)
		if woken.Load() == before {
			t.Error("the end of an outcome wakes nobody")
		}
		if !s.Stop(t.Context(), time.Second) {
			t.Error("something still runs")
		}
	})
}

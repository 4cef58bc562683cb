package jobs

import (
	"context"
	"maps"
	"sync"
	"time"
)

// Slots are the places of a process in which actions run that it claimed for itself: so many of each type. A place is free
// again when the action is done; as many more may wait for their outcomes to be written.
type Slots struct {
	executor *Executor
	capacity map[string]int
	freed    func()

	ctx    context.Context //nolint:containedctx // of all that runs here, until Stop
	cancel context.CancelFunc

	mu      sync.Mutex
	used    map[string]int // by actions that are not done
	ending  map[string]int // actions that are, whose outcomes are not written
	running sync.WaitGroup
}

// NewSlots makes the places; freed is called whenever one becomes free, and must be quick.
func NewSlots(e *Executor, capacity map[string]int, freed func()) *Slots {
	s := &Slots{executor: e, capacity: capacity, freed: freed, used: map[string]int{}, ending: map[string]int{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Free says how many more actions of each type can be run now.
func (s *Slots) Free() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	free := maps.Clone(s.capacity)
	for actionType, n := range free {
		free[actionType] = max(0, n-s.used[actionType]-max(0, s.ending[actionType]-n))
	}
	return free
}

// Run runs actions that were started, and doesn't wait for their ends.
func (s *Slots) Run(started []*Started) {
	s.mu.Lock()
	for _, a := range started {
		s.used[a.Action.Type]++
	}
	s.mu.Unlock()
	for _, a := range started {
		s.running.Go(func() {
			done := false
			defer func() { s.ended(a.Action.Type, done) }()
			if err := s.executor.RunStarted(s.ctx, a, func() { done = true; s.done(a.Action.Type) }); err != nil {
				s.executor.Logger.WarnContext(s.ctx, "an action's outcome is lost; it runs again", "action", a.Action.ID, "error", err)
			}
		})
	}
}

func (s *Slots) done(actionType string) {
	s.mu.Lock()
	s.used[actionType]--
	s.ending[actionType]++
	s.mu.Unlock()
	s.freed()
}

func (s *Slots) ended(actionType string, done bool) {
	s.mu.Lock()
	if done {
		s.ending[actionType]--
	} else {
		s.used[actionType]--
	}
	s.mu.Unlock()
	s.freed()
}

// Stop waits for what runs: until soft, then it ends the actions' contexts, and waits for hard more. It is false when some
// have still not ended. Nothing may be given to Run any more.
func (s *Slots) Stop(soft context.Context, hard time.Duration) (ended bool) {
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	defer s.cancel()
	select {
	case <-done:
		return true
	case <-soft.Done():
	}
	s.cancel()
	select {
	case <-done:
		return true
	case <-time.After(hard):
		return false
	}
}

package bench

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// behind is how late the load may be before what it missed is let go: what comes is steady
// at most, never a heap that had to wait.
const behind = time.Second

// pacer gives out numbers, so many a second.
type pacer struct {
	began  time.Time
	rate   float64
	next   atomic.Int64
	missed atomic.Int64
}

// take waits for the next number's time.
func (p *pacer) take(ctx context.Context) (int, bool) {
	for {
		i := p.next.Add(1)
		at := p.began.Add(time.Duration(float64(i) / p.rate * float64(time.Second)))
		if time.Since(at) > behind {
			p.missed.Add(1)
			continue
		}
		return int(i), sleepUntil(ctx, at)
	}
}

// changes are the app's: one row a commit, all rows by turns.
func (s *soak) changes(ctx context.Context, began time.Time) error {
	p := &s.pacer
	p.began, p.rate = began, float64(s.Rate)
	group, ctx := errgroup.WithContext(ctx)
	var at atomic.Int64 // a number that was missed leaves no row out
	for range writers {
		group.Go(func() error {
			for {
				i, ok := p.take(ctx)
				if !ok {
					return nil
				}
				row := int(at.Add(1))%soakRows + 1
				if _, err := s.d.pool.Exec(ctx, statements["soak_change"], row, "moved-"+strconv.Itoa(i)); err != nil {
					return err
				}
				s.changed.Add(1)
			}
		})
	}
	return group.Wait()
}

// batches calls f some times a second with what is due by then.
func (s *soak) batches(ctx context.Context, began time.Time, rate float64, f func(first, n int) error) error {
	first := 0
	for tick := 1; ; tick++ {
		if !sleepUntil(ctx, began.Add(time.Duration(tick)*100*time.Millisecond)) {
			return nil
		}
		due := time.Since(began).Seconds() * rate
		n := int(due) - first
		if most := int(rate*behind.Seconds()) + 1; n > most {
			first, n = first+n-most, most
		}
		if n == 0 {
			continue
		}
		if err := f(first, n); err != nil {
			return err
		}
		first += n
	}
}

func (s *soak) enters(ctx context.Context, began time.Time) error {
	return s.batches(ctx, began, float64(s.Rate)/soakEnters, func(first, n int) error {
		return s.d.exec(ctx, "soak_enter", first, n, soakOrganizations, soakLeads)
	})
}

func (s *soak) notifies(ctx context.Context, began time.Time) error {
	return s.batches(ctx, began, float64(s.Rate)/soakNotifies, func(first, n int) error {
		return s.d.exec(ctx, "soak_notify", first, n, soakOrganizations, soakSubscribers)
	})
}

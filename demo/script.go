package demo

// What the app does to the sample CRM, written down beforehand: which rows change when. It depends on the seed alone.

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// statement is one of app.sql with its parameters.
type statement struct {
	name string
	args []any
}

// step is one transaction of the app, at its time since the phase's beginning.
type step struct {
	at   time.Duration
	does []statement
}

// changes counts rows of watched tables; enter_stage writes the engine's.
func (s *step) changes() int64 {
	var n int64
	for _, d := range s.does {
		if d.name != "enter_stage" {
			n++
		}
	}
	return n
}

const (
	arriving = 5 * time.Second // leads come in
	settling = 1 * time.Second // the last lead's changes
	closing  = 3 * time.Second // deals are closed
)

var (
	firstNames = []string{"Ada", "Bela", "Chen", "Dana", "Emre", "Fay", "Goran", "Hana", "Ines", "Jon", "Kofi", "Lena", "Mio", "Nora"}
	lastNames  = []string{"Abt", "Berg", "Costa", "Diaz", "Evans", "Fuchs", "Gupta", "Hill", "Ito", "Jansen", "Kim", "Lund", "Meyer"}
	titles     = []string{"CEO", "CTO", "Buyer", "Assistant", "Engineer"}
	plans      = []string{"silver", "gold", "bronze"}
)

func pick(r *rand.Rand, list []string) string { return list[r.IntN(len(list))] }

// writer makes up one organization's leads.
type writer struct {
	organization string
	random       *rand.Rand
	leads        int
	deals        []string // still open
}

func newWriter(seed uint64, organization string) *writer {
	h := fnv.New64a()
	_, _ = h.Write([]byte(organization))
	return &writer{organization: organization, random: rand.New(rand.NewPCG(seed, h.Sum64()))} //nolint:gosec // made-up people
}

// within is a moment in the span.
func (w *writer) within(span time.Duration) time.Duration {
	return time.Duration(w.random.Int64N(int64(span)))
}

// lead is a new lead at a time, and what becomes of it within a span after it.
func (w *writer) lead(at, span time.Duration) []step {
	r := w.random
	w.leads++
	id := fmt.Sprintf("%s-%d", w.organization, w.leads)
	name := pick(r, firstNames) + " " + pick(r, lastNames)
	source := "web"
	switch n := r.IntN(10); {
	case n < 4:
		source = "adwords"
	case n < 6:
		source = "referral"
	}
	arrival := step{at, []statement{
		{"add_lead", []any{id, w.organization, name, id + "@leads.test", source, "New", r.IntN(60)}},
		{"add_contact", []any{w.organization, id, name, pick(r, titles)}},
	}}
	if source == "referral" {
		arrival.does = append(arrival.does, statement{"enter_stage", []any{w.organization, id, nurture, "Welcome"}})
	}
	steps := []step{arrival}
	later := func(does ...statement) { steps = append(steps, step{at + 1 + w.within(span), does}) }
	for range r.IntN(4) {
		later(statement{"set_score", []any{id, r.IntN(101)}})
	}
	if r.IntN(10) == 0 {
		later(statement{"set_vip", []any{id, true}})
	}
	if r.IntN(3) == 0 {
		later(statement{"set_plan", []any{id, pick(r, plans)}})
	}
	if r.IntN(4) == 0 {
		later(statement{"add_message", []any{w.organization, id, "in", "Please call me back."}})
	}
	if r.IntN(2) == 0 {
		deal := id + "-deal"
		w.deals = append(w.deals, deal)
		open := at + 1 + w.within(span/2)
		steps = append(steps,
			step{open, []statement{{"add_opportunity", []any{deal, w.organization, id, 1000 * (1 + r.IntN(40))}}}},
			step{open + 1 + w.within(span/2), []statement{{"set_value", []any{deal, 1000 * (1 + r.IntN(90))}}}})
	}
	return steps
}

// close closes a deal at a time.
func (w *writer) close(deal string, at time.Duration) step {
	result := "won"
	if w.random.IntN(10) < 4 {
		result = "lost"
	}
	return step{at, []statement{{"close_deal", []any{deal, result}}}}
}

// arrivals is the first phase: n leads come in, and their data changes.
func (w *writer) arrivals(n int) []step {
	var steps []step
	for i := range n {
		at := time.Duration(int64(arriving) * int64(i) / int64(n))
		steps = append(steps, w.lead(at, settling)...)
	}
	return inOrder(steps)
}

// closings is the second phase: all open deals are closed.
func (w *writer) closings() []step {
	var steps []step
	for _, deal := range w.deals {
		steps = append(steps, w.close(deal, w.within(closing)))
	}
	w.deals = nil
	return inOrder(steps)
}

func inOrder(steps []step) []step {
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	return steps
}

// play carries out the phase of each organization beside each other; wrote is told of each commit.
func play(ctx context.Context, pool *pgxpool.Pool, phases [][]step, wrote func(changes int64)) error {
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for _, steps := range phases {
		group.Go(func() error {
			for i := range steps {
				if err := pause(ctx, time.Until(start.Add(steps[i].at))); err != nil {
					return err
				}
				if err := write(ctx, pool, &steps[i]); err != nil {
					return err
				}
				wrote(steps[i].changes())
			}
			return nil
		})
	}
	return group.Wait()
}

func write(ctx context.Context, pool *pgxpool.Pool, s *step) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, d := range s.does {
			if _, err := tx.Exec(ctx, statements[d.name], d.args...); err != nil {
				return fmt.Errorf("the sample app's %s: %w", d.name, err)
			}
		}
		return nil
	})
}

// trickle goes on gently until ctx ends: now and then a new lead, later the end of its deal.
func trickle(ctx context.Context, pool *pgxpool.Pool, writers []*writer, wrote func(changes int64)) error {
	for round := 0; ; round++ {
		w := writers[round%len(writers)]
		steps := w.lead(0, time.Second)
		if len(w.deals) > 3 {
			steps = append(steps, w.close(w.deals[0], 500*time.Millisecond))
			w.deals = w.deals[1:]
		}
		if err := play(ctx, pool, [][]step{inOrder(steps)}, wrote); err != nil {
			return err
		}
	}
}

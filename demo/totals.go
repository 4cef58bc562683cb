package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Totals are what came of a demo.
type Totals struct {
	// Changes counts the rows of watched tables that were inserted or updated, by the app and by automations.
	Changes int64 `json:"changes"`
	// Firings are counted by their triggers' names, over all organizations; one that never fired has 0.
	Firings map[string]int64 `json:"firings"`
	// Actions are counted by type and status.
	Actions map[string]map[string]int64 `json:"actions"`
	// Lateness is when actions started after they were due, in seconds.
	Lateness Lateness `json:"lateness_seconds"`
}

// Lateness sums up started - due, in seconds. What a throttle held back is late as well.
type Lateness struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// totals reads them; written is how many rows the app wrote.
func totals(ctx context.Context, pool *pgxpool.Pool, written int64) (*Totals, error) {
	t := &Totals{Changes: written, Firings: map[string]int64{}, Actions: map[string]map[string]int64{}}
	var effects int64
	if err := pool.QueryRow(ctx, statements["total_effects"]).Scan(&effects); err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	t.Changes += effects
	rows, err := pool.Query(ctx, statements["total_firings"])
	if err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return nil, fmt.Errorf("totals: %w", err)
		}
		t.Firings[name] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	rows, err = pool.Query(ctx, statements["total_actions"])
	if err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var actionType, status string
		var n int64
		if err := rows.Scan(&actionType, &status, &n); err != nil {
			return nil, fmt.Errorf("totals: %w", err)
		}
		if t.Actions[actionType] == nil {
			t.Actions[actionType] = map[string]int64{}
		}
		t.Actions[actionType][status] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	err = pool.QueryRow(ctx, statements["total_lateness"]).Scan(&t.Lateness.P50, &t.Lateness.P99, &t.Lateness.Max)
	if err != nil {
		return nil, fmt.Errorf("totals: %w", err)
	}
	return t, nil
}

// state is how far things are.
type state struct{ firings, acted, actions, waiting, failed, staged int64 }

func readState(ctx context.Context, pool *pgxpool.Pool) (s state, err error) {
	err = pool.QueryRow(ctx, statements["state"]).Scan(&s.firings, &s.acted, &s.actions, &s.waiting, &s.failed, &s.staged)
	if err != nil {
		return s, fmt.Errorf("state: %w", err)
	}
	return s, nil
}

// done says whether nothing is under way in what the feed has dealt with.
func (s state) done() bool { return s.waiting == 0 && s.staged == 0 && s.firings == s.acted }

// settle waits until everything is done: the feed has dealt with all that is committed, each firing with its action, each
// action with its work, and all that followed from that as well.
func settle(ctx context.Context, pool *pgxpool.Pool) error {
	var took time.Duration // by counting, which is not to be what the server is busy with
	for ; ; took = 0 {
		var busy bool
		if err := pool.QueryRow(ctx, statements["busy"]).Scan(&busy); err != nil {
			return fmt.Errorf("state: %w", err)
		}
		var before state
		if !busy {
			start := time.Now()
			var err error
			if before, err = readState(ctx, pool); err != nil {
				return err
			}
			took = time.Since(start)
		}
		if busy || !before.done() {
			if err := pause(ctx, 50*time.Millisecond+10*took); err != nil {
				return err
			}
			continue
		}
		// Nothing was under way then, so what can still start something was committed before this mark.
		if err := passMark(ctx, pool); err != nil {
			return err
		}
		after, err := readState(ctx, pool)
		if err != nil {
			return err
		}
		if after == before {
			return nil
		}
	}
}

// passMark waits until the feed has dealt with everything that is committed by now.
func passMark(ctx context.Context, pool *pgxpool.Pool) error {
	var mark string
	if err := pool.QueryRow(ctx, statements["mark"]).Scan(&mark); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	for {
		var passed bool
		if err := pool.QueryRow(ctx, statements["mark_passed"], mark).Scan(&passed); err != nil {
			return fmt.Errorf("mark: %w", err)
		}
		if passed {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

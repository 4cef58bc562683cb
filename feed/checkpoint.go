package feed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/change"
)

// Checkpoint is how far the stream of one slot has been applied. It belongs to
// one making (generation) of one slot of one server, for a position means
// nothing anywhere else.
type Checkpoint struct {
	Slot             string
	SystemIdentifier string
	Timeline         int32
	ConsistentPoint  change.LSN    // where the slot began; 0 while the slot is being made
	Position         change.EndLSN // everything before it is applied; 0 before the first slot
	Generation       int64         // counts the makings of the slot
	UpdatedAt        time.Time
}

// Checkpoints keeps one slot's row in pgautomate.feed_checkpoints, in the
// database in which the effects of commits are written: only so can both share
// a transaction. One Checkpoints belongs to one Feed.
type Checkpoints struct {
	pool *pgxpool.Pool
	slot string

	mu      sync.Mutex
	current Checkpoint // as last read, and moved on by what the feed saw committed
}

// NewCheckpoints uses the pool of the database where the effects are written.
func NewCheckpoints(pool *pgxpool.Pool, slot string) *Checkpoints {
	return &Checkpoints{pool: pool, slot: slot}
}

// Load reads the checkpoint. found is false when the slot was never made; a
// zero ConsistentPoint says that its making was begun and not completed. It
// does not change what Advance expects.
func (c *Checkpoints) Load(ctx context.Context) (cp Checkpoint, found bool, err error) {
	cp.Slot = c.slot
	var consistent, position string
	err = c.pool.QueryRow(ctx, sqlLoad, c.slot).Scan(&cp.SystemIdentifier, &cp.Timeline, &consistent, &position,
		&cp.Generation, &cp.UpdatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Checkpoint{}, false, nil
	}
	if err != nil {
		return Checkpoint{}, false, fmt.Errorf("read the feed's checkpoint: %w", err)
	}
	if consistent != "" {
		if cp.ConsistentPoint, err = change.ParseLSN(consistent); err != nil {
			return Checkpoint{}, false, err
		}
	}
	if position != "" {
		p, err := change.ParseLSN(position)
		if err != nil {
			return Checkpoint{}, false, err
		}
		cp.Position = change.EndLSN(p)
	}
	return cp, true, nil
}

// Advance moves the checkpoint to a position, inside the transaction that holds
// the effects of everything before it. It expects the checkpoint that the feed
// last knew (compare and set) and returns ErrFenced when another process has
// moved it; then the transaction must be rolled back.
func (c *Checkpoints) Advance(ctx context.Context, tx pgx.Tx, to change.EndLSN) error {
	c.mu.Lock()
	from := c.current
	c.mu.Unlock()
	if to < from.Position {
		return fmt.Errorf("checkpoint of slot %s would go back from %v to %v", c.slot, from.Position, to)
	}
	tag, err := tx.Exec(ctx, sqlAdvance, c.slot, from.Generation, from.Position.String(), to.String())
	if err != nil {
		return fmt.Errorf("move the feed's checkpoint: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("%w: slot %s is no longer at %v", ErrFenced, c.slot, from.Position)
	}
	return nil
}

// AdvanceAndCommit is the statements in b, then Advance, then the transaction's commit, in
// one round trip: a change's way to its job is that much shorter. After an error the
// transaction must be rolled back; after success tx may not be used, nor its own Commit or Rollback.
func (c *Checkpoints) AdvanceAndCommit(ctx context.Context, tx pgx.Tx, b *pgx.Batch, to change.EndLSN) (err error) {
	c.mu.Lock()
	from := c.current
	c.mu.Unlock()
	if to < from.Position {
		return fmt.Errorf("checkpoint of slot %s would go back from %v to %v", c.slot, from.Position, to)
	}
	before := b.Len()
	b.Queue(sqlAdvanceOrFail, c.slot, from.Generation, from.Position.String(), to.String())
	b.Queue("COMMIT")
	results := tx.SendBatch(ctx, b)
	defer func() {
		if closeErr := results.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("commit: %w", closeErr)
		}
	}()
	for range before {
		if _, err := results.Exec(); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	switch _, err := results.Exec(); {
	case sqlState(err) == divisionByZero:
		return fmt.Errorf("%w: slot %s is no longer at %v", ErrFenced, c.slot, from.Position)
	case err != nil:
		return fmt.Errorf("move the feed's checkpoint: %w", err)
	}
	if _, err := results.Exec(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// follow sets what the next Advance expects.
func (c *Checkpoints) follow(cp Checkpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = cp
}

// advanced says that the transaction of an Advance was committed.
func (c *Checkpoints) advanced(to change.EndLSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current.Position = to
}

// intention is a slot about to be made.
type intention struct {
	generation int64
	since      change.EndLSN // the former slot's checkpoint, where the gap starts; 0: none
	updatedAt  time.Time
}

// intend records that a slot is about to be made. It must be committed before
// the slot exists, so that a slot without any row is known to be foreign.
func (c *Checkpoints) intend(ctx context.Context, system string, timeline int32) (intention, error) {
	var i intention
	var position string
	err := c.pool.QueryRow(ctx, sqlIntend, c.slot, system, timeline).Scan(&i.generation, &position, &i.updatedAt)
	if err != nil {
		return i, fmt.Errorf("record the making of slot %s: %w", c.slot, err)
	}
	if position != "" {
		p, err := change.ParseLSN(position)
		if err != nil {
			return i, err
		}
		i.since = change.EndLSN(p)
	}
	return i, nil
}

// complete makes the intention the checkpoint and records the gap, if there is one.
func (c *Checkpoints) complete(ctx context.Context, tx pgx.Tx, i intention, consistent change.LSN, reason string) error {
	tag, err := tx.Exec(ctx, sqlComplete, c.slot, i.generation, consistent.String())
	if err != nil {
		return fmt.Errorf("write the feed's first checkpoint: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("%w: another process is making slot %s", ErrFenced, c.slot)
	}
	if i.since == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, sqlGap, c.slot, i.since.String(), consistent.String(), i.updatedAt, reason); err != nil {
		return fmt.Errorf("record the feed's gap: %w", err)
	}
	return nil
}

func (c *Checkpoints) setTimeline(ctx context.Context, cp Checkpoint, timeline int32) error {
	if _, err := c.pool.Exec(ctx, sqlTimeline, c.slot, cp.Generation, timeline); err != nil {
		return fmt.Errorf("note the server's new timeline: %w", err)
	}
	return nil
}

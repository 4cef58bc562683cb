package feed_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/feed"
)

// aheadReader is a recorder that reads ahead.
type aheadReader struct {
	*recorder

	wants atomic.Bool
	again atomic.Bool // the next Apply asks for the stream again
	seen  []string
	dones atomic.Int32
}

func (a *aheadReader) LookAhead(ctx context.Context, _ change.EndLSN) (*feed.LookAhead, error) {
	if !a.wants.Swap(false) {
		return nil, nil //nolint:nilnil // the interface says so
	}
	a.seen = nil
	var until string
	if err := a.pool.QueryRow(ctx, `SELECT pg_logical_emit_message(true, 'pgautomate.mark', '')::text`).Scan(&until); err != nil {
		return nil, err
	}
	lsn, err := change.ParseLSN(until)
	return &feed.LookAhead{
		Until: lsn,
		Commit: func(c *change.Commit) error {
			a.seen = append(a.seen, describe(c)...)
			return nil
		},
		Done: func() error { a.dones.Add(1); return nil },
	}, err
}

func (a *aheadReader) Apply(ctx context.Context, commits []*change.Commit, position change.EndLSN) error {
	if len(commits) > 0 && a.again.Swap(false) {
		a.wants.Store(true)
		return fmt.Errorf("more is needed: %w", feed.ErrAgain)
	}
	return a.recorder.Apply(ctx, commits, position)
}

// What was read ahead is applied afterwards all the same, once, also a transaction in
// files; and nothing that follows the mark is read ahead.
func TestLookAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start().state(feed.StateStreaming).stop()

	w.exec(`INSERT INTO lead VALUES (1, 'A', 'x', NULL)`)
	w.tx(`UPDATE lead SET v = 'y'`, `INSERT INTO lead SELECT i, 'A', 'many', repeat('d', 1000) FROM generate_series(2, 200) i`)
	w.exec(`DELETE FROM lead WHERE id > 1`)

	var a *aheadReader
	r := w.start(func(c *feed.Config, rec *recorder) {
		a = &aheadReader{recorder: rec}
		a.wants.Store(true)
		c.Applier = a
		c.MaxTransactionBytes = 64 << 10
	}).state(feed.StateStreaming)
	applied := w.lines()
	if a.dones.Load() != 1 || len(applied) != 1+200+199 {
		t.Errorf("read ahead %d times, %d changes applied, want 400", a.dones.Load(), len(applied))
	}
	r.stop()
	if diff := cmp.Diff(applied, a.seen); diff != "" {
		t.Errorf("applied -, read ahead +:\n%s", diff)
	}

	// Asked for again in the middle: the commit at hand is read ahead, and applied.
	r = w.start(func(c *feed.Config, rec *recorder) {
		a = &aheadReader{recorder: rec}
		c.Applier = a
	}).state(feed.StateStreaming)
	a.again.Store(true)
	w.exec(`UPDATE lead SET v = 'z'`)
	w.want("lead 1: id=1 org=A v=y -> id=1 org=A v=z")
	if n := a.dones.Load(); n != 1 {
		t.Errorf("read ahead %d times", n)
	}
	if s := r.feed.Status(); s.LastError != nil {
		t.Error(s.LastError)
	}
	r.stop()
	if !slices.Contains(a.seen, "lead 1: id=1 org=A v=y -> id=1 org=A v=z") {
		t.Errorf("read ahead: %q", a.seen)
	}
}

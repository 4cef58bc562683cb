package firing

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// TestSee: what depends on a commit's rows waits until they are seen, for the stream is ahead of that.
func TestSee(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	m := &Matcher{Config: Config{Source: d.Pool, Logger: slog.New(slog.DiscardHandler)}}
	tx, err := d.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	var xid int64
	if err := tx.QueryRow(t.Context(), `SELECT pg_current_xact_id()::text::bigint % (1::bigint << 32)`).Scan(&xid); err != nil {
		t.Fatal(err)
	}
	// Edits of triggers do: nothing else is looked at before.
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := (&batch{Matcher: m}).definitions(soon, &change.Commit{XID: uint32(xid)}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an edit: %v", err)
	}
	seen := make(chan error, 1)
	go func() { seen <- m.see(t.Context(), uint32(xid)) }()
	select {
	case err := <-seen:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-seen; err != nil || !m.sees.has(uint32(xid)) {
		t.Errorf("seen: %v, %v", m.sees, err)
	}
	d.Pool.Close() // what was seen is not asked for again
	if err := m.see(t.Context(), uint32(xid)); err != nil {
		t.Error(err)
	}
}

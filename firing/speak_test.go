package firing

import (
	"log/slog"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// slow is a commit that takes long to match and fires nothing.
type slow struct {
	changes int
	pause   time.Duration // after each thousand
}

func (s slow) Each(f func(*change.Change) error) error {
	object := &change.Object{Type: "lead"}
	for i := range s.changes {
		if err := f(&change.Change{Object: object, ID: "1"}); err != nil {
			return err
		}
		if i%1000 == 0 {
			time.Sleep(s.pause)
		}
	}
	return nil
}

// Who matches for longer than the server bears silence is not taken for frozen.
func TestSpeak(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	tx, err := dbtest.New(t).Pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	// 20 s in earnest; the matcher says something every 2 s.
	if _, err := tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = '8s'"); err != nil {
		t.Fatal(err)
	}
	b := &batch{Matcher: New(Config{Logger: slog.New(slog.DiscardHandler)}), tx: &lateTx{tx: tx}, q: dbq.New(tx), notes: newNotes()}
	if err := b.commit(ctx, &change.Commit{Large: slow{40_000, 300 * time.Millisecond}}); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "SELECT"); err != nil {
		t.Errorf("the transaction is gone: %v", err)
	}
}

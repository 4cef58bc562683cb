package scheduler

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// What is written late is committed, all or nothing, and the connection is good for the next one whatever happens.
func TestInOneGo(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	config := db.Pool.Config()
	config.MaxConns = 1 // so that each comes after the one before on the same connection
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	beat := func(q *dbq.Queries, id int64, capacity string) error {
		return q.Heartbeat(ctx, dbq.HeartbeatParams{ID: id, Hostname: "here", Capacity: json.RawMessage(capacity)})
	}
	there := func(id int64) (n int) {
		t.Helper()
		if err := pool.QueryRow(ctx, `SELECT count(*) FROM pgautomate.workers WHERE id = $1`, id).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	refused := errors.New("refused")
	for i, c := range []struct {
		name string
		f    func(tx pgx.Tx, q *dbq.Queries) error
		want bool // it is committed
	}{
		{"nothing but a read", func(_ pgx.Tx, q *dbq.Queries) error { _, err := q.AnythingDue(ctx); return err }, true},
		{"two writes", func(_ pgx.Tx, q *dbq.Queries) error { return errors.Join(beat(q, 1, "{}"), beat(q, 101, "{}")) }, true},
		{"f fails", func(_ pgx.Tx, q *dbq.Queries) error { return errors.Join(beat(q, 2, "{}"), refused) }, false},
		{"the second write fails", func(_ pgx.Tx, q *dbq.Queries) error { return errors.Join(beat(q, 3, "{}"), beat(q, 103, "{")) }, false},
		{"the commit fails", func(tx pgx.Tx, q *dbq.Queries) error {
			_, err := tx.Exec(ctx, `CREATE TABLE one (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO one VALUES (1), (1)`)
			return errors.Join(err, beat(q, 4, "{}"))
		}, false},
		{"a statement failed, and f says nothing", func(tx pgx.Tx, _ *dbq.Queries) error {
			_, _ = tx.Exec(ctx, `SELECT 1 / 0`)
			return nil
		}, false},
		{"the connection is lost", func(tx pgx.Tx, q *dbq.Queries) error {
			_ = tx.Conn().Close(ctx)
			return beat(q, 6, "{}")
		}, false},
		{"and all is well", func(_ pgx.Tx, q *dbq.Queries) error { return beat(q, 7, "{}") }, true},
	} {
		err := inOneGo(ctx, pool, asEngine, c.f)
		if (err == nil) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := there(int64(i)) == 1; i > 0 && got != c.want {
			t.Errorf("%s: written: %v", c.name, got)
		}
	}
	if there(101) != 1 || there(103) != 0 {
		t.Errorf("of two writes %d and %d were kept, want 1 and 0", there(101), there(103))
	}
	if err := inOneGo(ctx, pool, asEngine, func(_ pgx.Tx, q *dbq.Queries) error { return beat(q, 8, "{") }); !isBadValue(err) {
		t.Errorf("a value that can't be: %v", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic is lost")
			}
		}()
		_ = inOneGo(ctx, pool, asEngine, func(pgx.Tx, *dbq.Queries) error { panic("x") })
	}()
	if there(7) != 1 {
		t.Error("after a panic nothing goes")
	}
	var engine string
	if err := pool.QueryRow(ctx, `SELECT coalesce(current_setting('pgautomate.engine', true), '')`).Scan(&engine); err != nil || engine != "" {
		t.Errorf("afterwards the session is the engine's: %q, %v", engine, err)
	}
}

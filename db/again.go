package db

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// againTimes is how often Again tries.
const againTimes = 5

// Again calls do, a whole transaction, once more where the database ended it in favor
// of another one: a deadlock, a serialization failure. Nothing of it has happened
// then. After five tries it gives the error up.
func Again(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		pg, refused := errors.AsType[*pgconn.PgError](err)
		if !refused || try == againTimes || pg.Code != pgerrcode.DeadlockDetected && pg.Code != pgerrcode.SerializationFailure {
			return err
		}
		// Two that met once don't meet again at the same moment.
		t := time.NewTimer(rand.N(time.Duration(try) * 50 * time.Millisecond)) //nolint:gosec // spreads load, protects nothing
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}

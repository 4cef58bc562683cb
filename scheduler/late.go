package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// lateWrites sends what has no answer but its success with the COMMIT.
type lateWrites struct {
	pgx.Tx

	batch pgx.Batch
}

// Exec implements dbq.DBTX.
func (l *lateWrites) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	l.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// inOneGo runs f in a transaction. What f writes through q without an answer (:exec) goes with the COMMIT, in one round
// trip: its error is that of inOneGo, and what f reads doesn't see it.
func inOneGo(ctx context.Context, pool *pgxpool.Pool, how pgx.TxOptions, f func(tx pgx.Tx, q *dbq.Queries) error) (err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, how)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if p := recover(); p != nil {
			_ = conn.Conn().Close(context.WithoutCancel(ctx))
			panic(p)
		}
		if err == nil {
			return
		}
		ended, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(ended) // one that fails closes the connection
	}()
	l := &lateWrites{Tx: tx}
	if err := f(tx, dbq.New(l)); err != nil {
		return err
	}
	writes := l.batch.Len()
	l.batch.Queue("COMMIT")
	results := conn.SendBatch(ctx, &l.batch)
	for range writes {
		if _, err := results.Exec(); err != nil {
			_ = results.Close()
			return err
		}
	}
	tag, err := results.Exec()
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if err == nil && tag.String() != "COMMIT" {
		err = fmt.Errorf("commit: %w", pgx.ErrTxCommitRollback)
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

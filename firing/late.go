package firing

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// beginEngine opens a transaction as the query BeEngine does, without a further
// round trip.
const beginEngine = "BEGIN; SET LOCAL pgautomate.engine = 'on'; SET LOCAL idle_in_transaction_session_timeout = '20s'"

// beEngine is the same but for BEGIN, as one statement.
const beEngine = "SELECT set_config('pgautomate.engine', 'on', true), set_config('idle_in_transaction_session_timeout', '20s', true)"

// lateTx is a transaction that begins with its first statement: most commits fire
// nothing, and then there is nothing to write.
type lateTx struct {
	pool   *pgxpool.Pool
	engine bool // it begins as the engine's, see BeEngine
	conn   *pgxpool.Conn
	tx     pgx.Tx // nil: not begun, or ended, or all of it is one batch
	whole  bool   // all of it, from BEGIN to COMMIT, is one batch, which was sent
	over   bool   // it was begun and has ended
}

func (l *lateTx) begun() bool { return l.tx != nil || l.whole || l.over }

func (l *lateTx) begin(ctx context.Context) (pgx.Tx, error) {
	switch {
	case l.over, l.whole:
		return nil, pgx.ErrTxClosed
	case l.tx != nil:
		return l.tx, nil
	}
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	var options pgx.TxOptions
	if l.engine {
		options.BeginQuery = beginEngine
	}
	tx, err := conn.BeginTx(ctx, options)
	if err != nil {
		conn.Release()
		return nil, fmt.Errorf("begin: %w", err)
	}
	l.conn, l.tx = conn, tx
	return tx, nil
}

// ended says that the transaction was ended by its connection.
func (l *lateTx) ended() {
	l.conn.Release()
	l.conn, l.tx, l.whole, l.over = nil, nil, false, true
}

// Begin implements pgx.Tx: a savepoint.
func (l *lateTx) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Begin(ctx)
}

// Commit implements pgx.Tx.
func (l *lateTx) Commit(ctx context.Context) error {
	if l.tx == nil {
		return nil
	}
	err := l.tx.Commit(ctx)
	l.ended()
	return err
}

// Rollback implements pgx.Tx. Once ended, it does nothing.
func (l *lateTx) Rollback(ctx context.Context) error {
	if l.whole {
		_, err := l.conn.Exec(ctx, "ROLLBACK")
		l.ended()
		return err
	}
	if l.tx == nil {
		return nil
	}
	err := l.tx.Rollback(ctx)
	l.ended() // a connection that still is in a transaction, or broken, is closed
	if errors.Is(err, pgx.ErrTxClosed) {
		return nil
	}
	return err
}

// CopyFrom implements pgx.Tx.
func (l *lateTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	tx, err := l.begin(ctx)
	if err != nil {
		return 0, err
	}
	return tx.CopyFrom(ctx, table, columns, rows)
}

// sendWhole sends the transaction's statements with its BEGIN before them, and nothing may follow: the batch ends with COMMIT.
func (l *lateTx) sendWhole(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return failedBatch{err: fmt.Errorf("begin: %w", err)}
	}
	l.conn, l.whole = conn, true
	var all pgx.Batch
	all.Queue("BEGIN")
	if l.engine {
		all.Queue(beEngine)
	}
	first := all.Len()
	all.QueuedQueries = append(all.QueuedQueries, b.QueuedQueries...)
	results := conn.SendBatch(ctx, &all)
	for range first {
		if _, err := results.Exec(); err != nil {
			_ = results.Close()
			return failedBatch{err: fmt.Errorf("begin: %w", err)}
		}
	}
	return results
}

// SendBatch implements pgx.Tx.
func (l *lateTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if n := b.Len(); !l.begun() && n > 0 && b.QueuedQueries[n-1].SQL == "COMMIT" {
		return l.sendWhole(ctx, b)
	}
	tx, err := l.begin(ctx)
	if err != nil {
		return failedBatch{err: err}
	}
	return tx.SendBatch(ctx, b)
}

// LargeObjects implements pgx.Tx; nothing here uses them.
func (l *lateTx) LargeObjects() pgx.LargeObjects { return l.tx.LargeObjects() }

// Prepare implements pgx.Tx.
func (l *lateTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	tx, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Prepare(ctx, name, sql)
}

// Exec implements pgx.Tx.
func (l *lateTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	tx, err := l.begin(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return tx.Exec(ctx, sql, args...)
}

// Query implements pgx.Tx.
func (l *lateTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	tx, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Query(ctx, sql, args...)
}

// QueryRow implements pgx.Tx.
func (l *lateTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	tx, err := l.begin(ctx)
	if err != nil {
		return failedRow{err}
	}
	return tx.QueryRow(ctx, sql, args...)
}

// Conn implements pgx.Tx: nil before the first statement.
func (l *lateTx) Conn() *pgx.Conn {
	if l.tx == nil {
		return nil
	}
	return l.tx.Conn()
}

type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }

type failedBatch struct {
	pgx.BatchResults

	err error
}

func (b failedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b failedBatch) Query() (pgx.Rows, error)         { return nil, b.err }
func (b failedBatch) QueryRow() pgx.Row                { return failedRow{b.err} }
func (b failedBatch) Close() error                     { return b.err }

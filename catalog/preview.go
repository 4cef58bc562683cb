package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/trigger"
)

// Preview is what a query matches now.
type Preview struct {
	Count  int64     `json:"count" doc:"How many objects match."`
	More   bool      `json:"more" doc:"The search was cut, at 100,000 objects or after 5 s: there may be more than count."`
	Sample []Matched `json:"sample" doc:"Up to 10 of them, in no order."`
}

// Matched is one object that a query matches.
type Matched struct {
	ID   string          `json:"id"`
	Data json.RawMessage `json:"data" doc:"Its row, as in a firing."`
}

const (
	previewCount  = 100_000
	previewSample = 10
	previewWithin = 5 * time.Second
)

// Preview finds what a query matches, with bounded work. An error of the query
// is a *trigger.ValidationError.
func (s *Snapshot) Preview(ctx context.Context, pool *pgxpool.Pool, organization, objectType string, query []byte, where *time.Location) (*Preview, error) {
	var now time.Time
	if err := pool.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now); err != nil {
		return nil, err
	}
	m, err := s.Matching(query, objectType, trigger.SQLOptions{Location: where, Now: now, Organization: organization})
	if err != nil {
		return nil, err
	}
	p := &Preview{Sample: []Matched{}}
	end := time.Now().Add(previewWithin)
	cut, err := bounded(ctx, pool, end, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, fmt.Sprintf("SELECT %s, %s FROM %s WHERE %s LIMIT %d", m.ID, m.Row, m.From, m.Where, previewSample), m.Args...)
		if err != nil {
			return err
		}
		sample, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Matched])
		if err == nil && len(sample) > 0 {
			p.Sample = sample
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	p.Count = int64(len(p.Sample))
	if cut || p.Count < previewSample {
		p.More = cut
		return p, nil
	}
	cut, err = bounded(ctx, pool, end, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM (SELECT FROM %s WHERE %s LIMIT %d) s", m.From, m.Where, previewCount+1), m.Args...).Scan(&p.Count)
	})
	if p.More = cut; p.Count > previewCount {
		p.Count, p.More = previewCount, true
	}
	return p, err
}

// bounded runs do until a moment; cut says that it took longer.
func bounded(ctx context.Context, pool *pgxpool.Pool, end time.Time, do func(tx pgx.Tx) error) (cut bool, err error) {
	left := max(time.Until(end), 100*time.Millisecond)
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', '20s', true)",
			fmt.Sprintf("%dms", left.Milliseconds()))
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, trigger.SQLSettings); err != nil {
			return err
		}
		return do(tx)
	})
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && ctx.Err() == nil && (pg.Code == pgerrcode.QueryCanceled || pg.Code == pgerrcode.LockNotAvailable) {
		return true, nil
	}
	return false, err
}

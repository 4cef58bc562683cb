package catalog

// Queries that actions ask of one object, by SQL, when they run.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/trigger"
)

// askWithin bounds one question about one object.
const askWithin = 30 * time.Second

// Queries implements jobs.Queries on a pool.
type Queries struct {
	Catalog *Catalog
	Pool    *pgxpool.Pool
}

// First gives the place of the first query that the action's object meets; see
// jobs.Queries.
func (q *Queries) First(ctx context.Context, a *jobs.Action, queries []json.RawMessage) (int, error) {
	o := trigger.SQLOptions{Location: a.Location, Now: a.Now, Organization: a.OrganizationID}
	first, err := q.Catalog.known().first(ctx, q.Pool, a.ObjectType, a.LeadID, queries, o)
	if !q.Catalog.outdated(a.ObjectType, err) {
		return first, err
	}
	// What is known of the tables may be older than the query or the tables.
	s, failed := q.Catalog.Snapshot(ctx)
	if failed != nil {
		return 0, failed
	}
	return s.first(ctx, q.Pool, a.ObjectType, a.LeadID, queries, o)
}

// known is the watched tables as they were last read.
func (c *Catalog) known() *Snapshot {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return &Snapshot{c.types}
}

// outdated says whether an error may come from a catalog that is older than the tables.
func (c *Catalog) outdated(objectType string, err error) bool {
	if c.Type(objectType) == nil {
		return true
	}
	if err == nil || errors.Is(err, jobs.ErrNotVisible) {
		return false
	}
	class, _ := jobs.Classify(err)
	return class == jobs.ClassPermanent
}

func (s *Snapshot) first(ctx context.Context, pool *pgxpool.Pool, objectType, id string, queries []json.RawMessage, o trigger.SQLOptions) (int, error) {
	t := s.types[objectType]
	if t == nil {
		return 0, jobs.Permanent(NotWatched(objectType))
	}
	if t.Column(t.ID) == nil {
		return 0, jobs.Permanentf("table %s has no column %s any more: watch it again", t.Quoted, t.ID)
	}
	// The row must be the organization's: another's is not there for it.
	all, err := s.Matching([]byte(`{"type":"and","queries":[{"type":"object_type","object_type":`+quoteJSON(objectType)+`}]}`), objectType, o)
	if err != nil {
		return 0, queryError(err)
	}
	args := all.Args
	var cases strings.Builder
	o.Organization = "" // said once, of the row
	for i, query := range queries {
		o.FirstArg = len(args) + 1
		m, err := s.Matching(query, objectType, o)
		if err != nil {
			return 0, queryError(err)
		}
		fmt.Fprintf(&cases, " WHEN %s THEN %d", m.Where, i)
		args = append(args, m.Args...)
	}
	args = append(args, id)
	sql := fmt.Sprintf("SELECT CASE%s ELSE -1 END FROM %s WHERE %s AND %s", cases.String(), all.From, all.Where, t.byID("t", len(args)))
	first, found := -1, false
	cut, err := bounded(ctx, pool, time.Now().Add(askWithin), func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, sql, args...).Scan(&first)
		found = err == nil
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	switch {
	case cut:
		return 0, fmt.Errorf("the query took longer than %s, or somebody holds a lock on a table: give the columns that it asks for an index", askWithin)
	case err != nil:
		return 0, rowError(objectType+" "+id, err)
	case !found:
		return 0, fmt.Errorf("%s %s in table %s: %w", objectType, id, t.Quoted, jobs.ErrNotVisible)
	}
	return first, nil
}

// queryError is permanent when the query is what is wrong.
func queryError(err error) error {
	if _, ok := errors.AsType[*pgconn.PgError](err); ok {
		return err
	}
	return jobs.Permanent(err)
}

func quoteJSON(s string) string {
	raw, _ := json.Marshal(s) //nolint:errchkjson // a string
	return string(raw)
}

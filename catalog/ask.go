package catalog

// Queries that actions ask of one object, by SQL, when they run.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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

// ErrSlow says that a question took longer than it may.
var ErrSlow = errors.New("the query took too long, or somebody holds a lock on a table")

// meetingChunk bounds how many objects one statement asks of.
const meetingChunk = 5000

// Meeting gives those of the objects that meet a query now. within bounds each
// statement, of some thousand objects; ErrSlow when one took longer. An error of
// the query is a *trigger.ValidationError.
func (s *Snapshot) Meeting(ctx context.Context, pool *pgxpool.Pool, objectType string, query []byte, ids []string, o trigger.SQLOptions, within time.Duration) (map[string]bool, error) {
	meeting := map[string]bool{}
	m, err := s.Matching(query, objectType, o)
	if err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(ids, meetingChunk) {
		// By the key's type, so that its index serves; as text where one is no such value.
		for _, which := range []string{fmt.Sprintf("%s = ANY (($%d::text[])::%s[])", m.Key, len(m.Args)+1, m.Type), fmt.Sprintf("%s = ANY ($%d::text[])", m.ID, len(m.Args)+1)} {
			cut, err := bounded(ctx, pool, time.Now().Add(within), func(tx pgx.Tx) error {
				rows, err := tx.Query(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE %s AND %s", m.ID, m.From, which, m.Where), append(slices.Clone(m.Args), chunk)...)
				if err != nil {
					return err
				}
				found, err := pgx.CollectRows(rows, pgx.RowTo[string])
				for _, id := range found {
					meeting[id] = true
				}
				return err
			})
			if cut {
				return nil, ErrSlow
			}
			if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code[:2] == "22" && strings.Contains(which, "::text[])::") {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("query of %s: %w", objectType, err)
			}
			break
		}
	}
	return meeting, nil
}

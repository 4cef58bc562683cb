// Package backfill fires a trigger for the objects that match its query now, which
// the feed never does: switching on, editing and resuming don't fire for the past.
//
// What matches is listed once, in one statement, so in one moment; then the list is
// gone through in chunks. An object that comes to match after that moment is the
// feed's, and is fired for once. One that was listed and no longer matches when its
// turn comes is skipped. A chunk's firings, their jobs, and how far the list is done
// are one transaction; that is why a backfill can go on after any process died at any
// line and fires no object twice.
//
// The state is the row in trigger_backfills. A River job is a knock on the door: it
// works for some seconds and knocks again, so that many backfills share a few workers.
// Run knocks for those whose job was lost.
package backfill

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/trigger"
)

// Queue is the River queue of backfills, and Workers how many work at once.
const (
	Queue   = "backfills"
	Workers = 4
)

// Args carries one backfill to a worker.
type Args struct {
	ID int64 `json:"id"`
}

// Kind is River's name for it.
func (Args) Kind() string { return "backfill" }

const (
	maxChunk   = 500
	chunkBytes = 4 << 20 // of rows; above it the next chunk is smaller

	// searchWithin bounds the listing of what matches.
	searchWithin = time.Hour
)

// Observer counts firings.
type Observer interface {
	Fired(objectType string, n int)
}

// Worker carries out backfills.
type Worker struct {
	river.WorkerDefaults[Args]

	Pool     *pgxpool.Pool
	River    func() *river.Client[pgx.Tx] // asked when it works: the client is made after its workers
	Catalog  *catalog.Catalog
	Logger   *slog.Logger
	Observer Observer // may be nil

	// Slice is how long a job works before it knocks again; default 5 s.
	Slice time.Duration

	afterChunk func() // of tests
}

// Timeout is the longest that a job may take: a search.
func (w *Worker) Timeout(*river.Job[Args]) time.Duration { return searchWithin + time.Minute }

// NextRetry comes soon: what fails here is a database that is away.
func (w *Worker) NextRetry(job *river.Job[Args]) time.Time {
	return time.Now().Add(min(time.Duration(job.Attempt)*time.Second, time.Minute))
}

// Work works on a backfill for a while.
func (w *Worker) Work(ctx context.Context, job *river.Job[Args]) error {
	wait, done, err := w.work(ctx, job.Args.ID)
	if err != nil || done {
		return err
	}
	return river.JobSnooze(wait)
}

// work goes on until the backfill ended or the slice is over; wait is then how long
// there is nothing to do.
func (w *Worker) work(ctx context.Context, id int64) (wait time.Duration, done bool, err error) {
	slice := w.Slice
	if slice <= 0 {
		slice = 5 * time.Second
	}
	end := time.Now().Add(slice)
	size := int32(50)
	for {
		wait, done, err = w.step(ctx, id, &size)
		if err != nil || done {
			return wait, done, err
		}
		if left := time.Until(end); left <= 0 || wait > left {
			return wait, false, nil
		}
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// step does the next thing.
func (w *Worker) step(ctx context.Context, id int64, size *int32) (wait time.Duration, done bool, err error) {
	q := dbq.New(w.Pool)
	b, err := q.BackfillWork(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("backfill %d: %w", id, err)
	}
	if b.Status != "pending" && b.Status != "running" {
		return 0, true, w.clean(ctx, q, id)
	}
	if over := overtaken(&b); over != "" {
		return 0, false, w.end(ctx, q, id, "canceled", over)
	}
	if !b.Known {
		// A firing without its definition would have no action.
		const why = "waits for the feed, which has not come to the trigger's last change yet; see the view feed_status"
		return 2 * time.Second, false, q.DeferBackfill(ctx, dbq.DeferBackfillParams{ID: id, Error: why})
	}
	m, err := w.matching(ctx, &b)
	if err == nil {
		if b.Found == nil {
			wait, err = w.search(ctx, id, &b, m)
		} else {
			wait, err = w.chunk(ctx, id, &b, m, size)
		}
	}
	if errors.Is(err, errOvertaken) {
		return 0, false, nil
	}
	if permanent := permanentProblem(err); permanent != "" {
		return 0, false, w.end(ctx, q, id, "failed", permanent)
	}
	return wait, false, err
}

// overtaken says why a backfill makes no sense any more; "" while it does.
func overtaken(b *dbq.BackfillWorkRow) string {
	switch {
	case b.TriggerStatus == "deleted":
		return "the trigger was deleted"
	case b.TriggerVersionNow != b.TriggerVersion:
		return "the trigger was changed meanwhile: ask for another backfill"
	case b.TriggerStatus == "paused" || b.TriggerStatus == "invalid":
		return "the trigger became " + b.TriggerStatus + " meanwhile: mend that, then ask for another backfill"
	}
	return ""
}

func (w *Worker) end(ctx context.Context, q *dbq.Queries, id int64, status, why string) error {
	w.Logger.WarnContext(ctx, "a backfill ended", "backfill", id, "status", status, "problem", why)
	return q.EndBackfill(ctx, dbq.EndBackfillParams{ID: id, Status: status, Error: why})
}

// permanentProblem is what no further attempt can mend; "" for everything else.
func permanentProblem(err error) string {
	if err == nil {
		return ""
	}
	if _, ok := errors.AsType[*trigger.ValidationError](err); ok {
		return "the trigger's query does not fit the table any more: " + err.Error()
	}
	if gone, ok := errors.AsType[*unwatchedError](err); ok {
		return gone.Error()
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pgerrcode.IsDataException(pg.Code), pg.Code == pgerrcode.InsufficientPrivilege:
			return "the database refuses the query: " + pg.Message
		}
	}
	return ""
}

type unwatchedError struct{ error }

// matching compiles the trigger's query.
func (w *Worker) matching(ctx context.Context, b *dbq.BackfillWorkRow) (*catalog.Matching, error) {
	tables, err := w.Catalog.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if tables.Schema(b.ObjectType) == nil {
		return nil, &unwatchedError{catalog.NotWatched(b.ObjectType)}
	}
	loc, err := time.LoadLocation(b.TimeZone)
	if err != nil {
		loc = time.UTC // as everywhere
	}
	m, err := tables.Matching(b.Query, b.ObjectType, trigger.SQLOptions{Location: loc, Now: b.Now, Organization: b.OrganizationID, FirstArg: 2})
	if _, invalid := errors.AsType[*trigger.ValidationError](err); err != nil && !invalid {
		err = &unwatchedError{err}
	}
	return m, err
}

// search lists what matches, in one moment. It waits while somebody else is at it.
func (w *Worker) search(ctx context.Context, id int64, b *dbq.BackfillWorkRow, m *catalog.Matching) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, searchWithin)
	defer cancel()
	return wait, pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		q, err := begin(ctx, tx)
		if err != nil {
			return err
		}
		ours, err := q.TryLockBackfillSearch(ctx, id)
		if err != nil {
			return err
		}
		if !ours {
			wait = time.Second
			return nil
		}
		// Who had the lock before may have searched.
		unsearched, err := q.BackfillUnsearched(ctx, id)
		if err != nil {
			return err
		}
		if !unsearched {
			return errOvertaken
		}
		limit := "ALL"
		if b.MaxObjects != nil {
			limit = strconv.FormatInt(*b.MaxObjects, 10)
		}
		tag, err := tx.Exec(ctx, "INSERT INTO pgautomate.trigger_backfill_objects (backfill_id, position, object_id) "+
			"SELECT $1::bigint, row_number() OVER (ORDER BY s.k), s.id FROM (SELECT "+m.Key+" AS k, "+m.ID+" AS id FROM "+m.From+
			" WHERE "+m.Where+" ORDER BY "+m.Key+" LIMIT "+limit+") s",
			append([]any{id}, m.Args...)...)
		if err != nil {
			return fmt.Errorf("what matches: %w", err)
		}
		found := tag.RowsAffected()
		n, err := q.BackfillFound(ctx, dbq.BackfillFoundParams{ID: id, Found: &found})
		if err == nil && n == 0 {
			err = errOvertaken // canceled: the list goes with this transaction
		}
		return err
	})
}

var errOvertaken = errors.New("somebody else went on with the backfill, or ended it")

// begin opens one of the engine's transactions, in which values print as in the stream.
func begin(ctx context.Context, tx pgx.Tx) (*dbq.Queries, error) {
	q := dbq.New(tx)
	if err := q.BeEngine(ctx); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '30s', true)"); err != nil {
		return nil, err
	}
	_, err := tx.Exec(ctx, trigger.SQLSettings)
	return q, err
}

// chunk fires for the next objects of the list, or says how long to wait for that.
func (w *Worker) chunk(ctx context.Context, id int64, b *dbq.BackfillWorkRow, m *catalog.Matching, size *int32) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// Partitions are made outside of this transaction: others wait for who makes one.
	if err := dbq.New(w.Pool).EnsureFiringPartition(ctx, b.Now.UTC().Format(time.DateOnly)); err != nil {
		return 0, fmt.Errorf("partition of trigger_firings: %w", err)
	}
	fired := 0
	err = pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		q, err := begin(ctx, tx)
		if err != nil {
			return err
		}
		row, err := q.LockBackfill(ctx, id)
		if errors.Is(err, pgx.ErrNoRows) {
			return errOvertaken
		}
		if err != nil {
			return err
		}
		b.Now = row.Now
		if wait = time.Duration(row.WaitSeconds * float64(time.Second)); wait > 0 {
			return nil
		}
		most, pause := pace(row.PerMinute, *size)
		objects, err := q.BackfillObjects(ctx, dbq.BackfillObjectsParams{BackfillID: id, After: row.Position, MaxRows: most})
		if err != nil {
			return err
		}
		end := *row.Found
		var firings []firing
		if len(objects) > 0 {
			end = objects[len(objects)-1].Position
			if firings, err = matches(ctx, tx, m, objects); err != nil {
				return err
			}
			bytes := 0
			for i := range firings {
				bytes += len(firings[i].data)
			}
			if *size = min(2*max(*size, 1), maxChunk); bytes > chunkBytes {
				*size = max(int32(len(objects))/2, 1)
			}
		}
		fired = len(firings)
		if fired == 0 {
			pause = 0 // nothing was started, so nothing needs a pause
		}
		if err := w.fire(ctx, tx, q, id, b, row.Lsn, firings); err != nil {
			return err
		}
		wait = pause
		err = q.AdvanceBackfill(ctx, dbq.AdvanceBackfillParams{
			ID: id, Position: end, Fired: int64(fired), Skipped: int64(len(objects) - fired), WaitSeconds: pause.Seconds(),
		})
		if err != nil {
			return err
		}
		_, err = q.DropBackfillObjects(ctx, dbq.DropBackfillObjectsParams{BackfillID: id, UpTo: end})
		return err
	})
	if err == nil && fired > 0 {
		if w.Observer != nil {
			w.Observer.Fired(b.ObjectType, fired)
		}
		if w.afterChunk != nil {
			w.afterChunk()
		}
	}
	return wait, err
}

// pace gives how many objects may be fired for at once, and the pause after them,
// so that no minute has more than perMinute.
func pace(perMinute *int32, size int32) (most int32, pause time.Duration) {
	if perMinute == nil {
		return size, 0
	}
	most = min(max(*perMinute/60, 1), size)
	// So many chunks fit into a minute; what is left of it by rounding stays unused.
	chunks := *perMinute / most
	return most, (time.Minute + time.Duration(chunks) - 1) / time.Duration(chunks)
}

type firing struct {
	objectID string
	data     []byte
}

// matches gives those of the listed objects that still match, in the list's order.
func matches(ctx context.Context, tx pgx.Tx, m *catalog.Matching, objects []dbq.BackfillObjectsRow) ([]firing, error) {
	ids := make([]string, len(objects))
	place := make(map[string]int, len(objects))
	for i, o := range objects {
		ids[i] = o.ObjectID
		place[o.ObjectID] = i
	}
	// By id, whatever the planner thinks of the list.
	rows, err := tx.Query(ctx, "SELECT "+m.ID+", "+m.Row+" FROM "+m.From+" WHERE "+m.Key+" = ANY ($1::text[]::"+m.Type+"[]) AND "+m.Where,
		append([]any{ids}, m.Args...)...)
	if err != nil {
		return nil, fmt.Errorf("what matches: %w", err)
	}
	found := make([]firing, len(objects))
	var f firing
	_, err = pgx.ForEachRow(rows, []any{&f.objectID, (*json.RawMessage)(&f.data)}, func() error {
		if i, ok := place[f.objectID]; ok {
			found[i] = firing{f.objectID, append([]byte(nil), f.data...)}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("what matches: %w", err)
	}
	still := found[:0]
	for _, f := range found {
		if f.data != nil {
			still = append(still, f)
		}
	}
	return still, nil
}

// fire writes firings and their jobs, as the feed does.
func (w *Worker) fire(ctx context.Context, tx pgx.Tx, q *dbq.Queries, id int64, b *dbq.BackfillWorkRow, lsn string, firings []firing) error {
	n := len(firings)
	if n == 0 {
		return nil
	}
	ids, err := q.FiringIDs(ctx, int32(n))
	if err != nil {
		return fmt.Errorf("firing ids: %w", err)
	}
	position, err := change.ParseLSN(lsn)
	if err != nil {
		return err
	}
	cause := json.RawMessage(fmt.Sprintf(`{"backfill": %d}`, id))
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"pgautomate", "trigger_firings"}, []string{
		"id", "trigger_id", "trigger_version", "organization_id", "object_type", "object_id", "action", "changed_fields",
		"data", "commit_lsn", "committed_at", "fired_at", "cause",
	}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		return []any{
			ids[i], b.TriggerID, b.TriggerVersion, b.OrganizationID, b.ObjectType, firings[i].objectID, "updated", []string{},
			json.RawMessage(firings[i].data), binary.BigEndian.AppendUint64(nil, uint64(position)), b.Now, b.Now, cause,
		}, nil
	}))
	if err != nil {
		return fmt.Errorf("trigger_firings: %w", err)
	}
	carriers := make([]river.InsertManyParams, n)
	for i := range carriers {
		carriers[i] = river.InsertManyParams{
			Args:       jobs.FiringArgs{ID: ids[i], At: b.Now},
			InsertOpts: &river.InsertOpts{Queue: jobs.FiringQueue, MaxAttempts: 25},
		}
	}
	if _, err := w.River().InsertManyFastTx(ctx, tx, carriers); err != nil {
		return fmt.Errorf("jobs of River: %w", err)
	}
	return nil
}

// clean drops what is left of an ended backfill's list.
func (w *Worker) clean(ctx context.Context, q *dbq.Queries, id int64) error {
	for {
		n, err := q.DropBackfillObjects(ctx, dbq.DropBackfillObjectsParams{BackfillID: id, UpTo: 1<<63 - 1})
		if err != nil || n == 0 {
			return err
		}
	}
}

// Run knocks, until ctx ends, for backfills whose job was lost with its process.
func (w *Worker) Run(ctx context.Context) {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		if err := w.knock(ctx); err != nil && ctx.Err() == nil {
			w.Logger.WarnContext(ctx, "backfills not looked at", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (w *Worker) knock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.BeEngine(ctx); err != nil {
			return err
		}
		silent, err := q.SilentBackfills(ctx)
		if err != nil {
			return err
		}
		for _, b := range silent {
			if b.Status == "pending" { // a search is silent for as long as it takes
				free, err := q.TryLockBackfillSearch(ctx, b.ID)
				if err != nil {
					return err
				}
				if !free {
					continue
				}
			}
			if err := q.KnockedForBackfill(ctx, b.ID); err != nil {
				return err
			}
			if err := knockFor(ctx, w.River(), tx, b.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

func knockFor(ctx context.Context, client *river.Client[pgx.Tx], tx pgx.Tx, id int64) error {
	if _, err := client.InsertTx(ctx, tx, Args{id}, &river.InsertOpts{Queue: Queue}); err != nil {
		return fmt.Errorf("job of River: %w", err)
	}
	return nil
}

// Client makes a River client that only inserts jobs.
func Client(pool *pgxpool.Pool) (*river.Client[pgx.Tx], error) {
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: db.Schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("jobs of River: %w", err)
	}
	return client, nil
}

// RefusedError says why a trigger can't be backfilled now, and what to do.
type RefusedError struct{ message string }

func (e *RefusedError) Error() string { return e.message }

func refuse(format string, args ...any) error {
	return &RefusedError{strings.TrimSpace(fmt.Sprintf(format, args...))}
}

// Start asks for a backfill of a trigger as it was looked at. limit and perMinute may
// be nil. The error is a *RefusedError when the trigger's state forbids it.
func Start(ctx context.Context, pool *pgxpool.Pool, client *river.Client[pgx.Tx], t *dbq.PgautomateTrigger, limit *int64, perMinute *int32) (b dbq.PgautomateTriggerBackfill, err error) {
	switch t.Status {
	case "paused":
		return b, refuse("trigger %d is paused: set its status to active first, then ask again", t.ID)
	case "invalid":
		why := ""
		if t.Error != nil {
			why = " (" + *t.Error + ")"
		}
		return b, refuse("trigger %d is invalid%s: mend its query first, then ask again", t.ID, why)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.ApiBoundWaits(ctx); err != nil {
			return err
		}
		b, err = q.InsertBackfill(ctx, dbq.InsertBackfillParams{TriggerID: t.ID, Version: t.Version, MaxObjects: limit, PerMinute: perMinute})
		if err != nil {
			return err
		}
		return knockFor(ctx, client, tx, b.ID)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return b, refuse("trigger %d was changed or deleted at the same moment: look at it again", t.ID)
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.ConstraintName == "trigger_backfills_running_idx" {
		running, err := dbq.New(pool).RunningBackfill(ctx, t.ID)
		if errors.Is(err, pgx.ErrNoRows) {
			return b, refuse("a backfill of trigger %d ended this moment: ask again", t.ID)
		}
		if err != nil {
			return b, err
		}
		return b, refuse("backfill %d of trigger %d is not done yet: wait for it, or cancel it first", running, t.ID)
	}
	return b, err
}

// Cancel ends a backfill; ended is false when it had ended already. The job that works on it
// drops the rest of its list.
func Cancel(ctx context.Context, pool *pgxpool.Pool, client *river.Client[pgx.Tx], triggerID, id int64) (ended bool, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		q := dbq.New(tx)
		if err := q.ApiBoundWaits(ctx); err != nil {
			return err
		}
		n, err := q.CancelBackfill(ctx, dbq.CancelBackfillParams{ID: id, TriggerID: triggerID})
		if err != nil || n == 0 {
			return err
		}
		ended = true
		return knockFor(ctx, client, tx, id)
	})
	return ended, err
}

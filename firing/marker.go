package firing

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// marker writes onto the triggers' rows what the matcher found. The rows may be
// locked by an app, so this is not done in the feed's transaction: marks are
// gathered, let go when that transaction is through (flush), thrown away when it
// is not (drop), and written by a goroutine that tries until it succeeds.
type marker struct {
	pool   *pgxpool.Pool
	logger *slog.Logger
	wake   chan struct{}

	mu       sync.Mutex
	gathered []mark
	ready    []mark
}

type mark struct {
	id            int64
	version       int32
	status, error string
	objectType    string // set: all triggers of the type
	tries         int    // in vain so far: the trigger's row was not to be seen yet
}

// repliesStatus marks the object type itself: its reply query holds, or error says why not.
const repliesStatus = "replies"

func newMarker(pool *pgxpool.Pool, logger *slog.Logger) *marker {
	return &marker{pool: pool, logger: logger, wake: make(chan struct{}, 1)}
}

func (m *marker) add(k mark) {
	m.mu.Lock()
	m.gathered = append(m.gathered, k)
	m.mu.Unlock()
}

func (m *marker) mark(id int64, version int32, status, text string) {
	m.add(mark{id: id, version: version, status: status, error: text})
}

func (m *marker) degrade(objectType, text string) {
	m.add(mark{objectType: objectType, status: "degraded", error: text})
}

func (m *marker) recover(objectType string) { m.add(mark{objectType: objectType, status: "active"}) }

func (m *marker) drop() {
	m.mu.Lock()
	m.gathered = nil
	m.mu.Unlock()
}

func (m *marker) flush() {
	m.mu.Lock()
	m.ready = append(m.ready, m.gathered...)
	m.gathered = nil
	some := len(m.ready) > 0
	m.mu.Unlock()
	if some {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

func (m *marker) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		}
		for {
			m.mu.Lock()
			todo := m.ready
			m.ready = nil
			m.mu.Unlock()
			if len(todo) == 0 {
				break
			}
			if done, err := m.write(ctx, todo); err != nil {
				m.mu.Lock()
				m.ready = append(todo[done:], m.ready...)
				m.mu.Unlock()
				m.logger.WarnContext(ctx, "the triggers' status can't be shown yet", "error", err)
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Second):
				}
			}
		}
	}
}

// visibleTries and visibleEvery bound how long a mark waits for its trigger's row: the
// stream shows a commit a moment before others see it.
const (
	visibleTries = 100
	visibleEvery = 100 * time.Millisecond
)

// again tries a mark once more a little later.
func (m *marker) again(k mark) {
	time.AfterFunc(visibleEvery, func() {
		m.mu.Lock()
		m.ready = append(m.ready, k)
		m.mu.Unlock()
		select {
		case m.wake <- struct{}{}:
		default:
		}
	})
}

// write writes marks in order and says how many it wrote.
func (m *marker) write(ctx context.Context, todo []mark) (int, error) {
	for i, k := range todo {
		err := pgx.BeginFunc(ctx, m.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT set_config('lock_timeout', '2s', true), set_config('idle_in_transaction_session_timeout', '20s', true)"); err != nil {
				return err
			}
			q := dbq.New(tx)
			var n int64
			var err error
			switch {
			case k.status == repliesStatus:
				if n, err = q.MarkReplies(ctx, dbq.MarkRepliesParams{Error: k.error, Name: k.objectType}); err == nil && n > 0 && k.error != "" {
					m.logger.WarnContext(ctx, "no row of a watched table counts as a reply", "object_type", k.objectType, "problem", k.error)
				}
				return err
			case k.objectType != "" && k.status == "degraded":
				n, err = q.DegradeTriggers(ctx, dbq.DegradeTriggersParams{Error: k.error, ObjectType: k.objectType})
			case k.objectType != "":
				n, err = q.RecoverTriggers(ctx, k.objectType)
			default:
				n, err = q.MarkTrigger(ctx, dbq.MarkTriggerParams{Status: k.status, Error: k.error, ID: k.id, Version: k.version})
				if err == nil && n == 0 && k.tries < visibleTries {
					var there bool
					if there, err = q.TriggerVisible(ctx, dbq.TriggerVisibleParams{ID: k.id, Version: k.version}); err == nil && !there {
						k.tries++
						m.again(k)
					}
				}
			}
			if err == nil && n > 0 && k.status != "active" {
				m.logger.WarnContext(ctx, "triggers changed", "status", k.status, "id", k.id, "object_type", k.objectType, "count", n, "problem", k.error)
			}
			return err
		})
		if err != nil {
			return i, err
		}
	}
	return len(todo), nil
}

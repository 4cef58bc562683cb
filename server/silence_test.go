package server_test

// What a frozen server leaves behind in the database.

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/server"
)

// commits notes, of each transaction that is about to end, how long it might have been silent.
type commits struct {
	mu     sync.Mutex
	bounds []string
}

func (c *commits) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.EqualFold(data.SQL, "commit") {
		var bound string
		if err := conn.QueryRow(ctx, "SHOW idle_in_transaction_session_timeout").Scan(&bound); err != nil {
			bound = err.Error()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bounds = append(c.bounds, bound)
	}
	return ctx
}

func (c *commits) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Whatever the pool's own settings, a request's transaction lets go of its locks when the process is frozen.
func TestSilentTransactions(t *testing.T) {
	t.Parallel()
	seen := &commits{}
	s := newSite(t, func(c *server.Config) {
		cfg := c.Pool.Config()
		cfg.ConnConfig.Tracer = seen
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		ok(t, err)
		t.Cleanup(pool.Close)
		c.Pool = pool
	})
	path := "/v1/pipelines/" + s.call(201, "POST", "/v1/pipelines", s.a,
		`{"name":"p","stages":[{"name":"new","actions":[{"action_type":"email"}]}]}`).id()
	s.call(200, "POST", path+"/leads", s.a, `{"lead_ids":["1"]}`)
	s.call(200, "POST", "/v1/actions/"+s.text(`SELECT id::text FROM pgautomate.lead_stage_actions`)+"/cancel", s.a, "")
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if len(seen.bounds) < 3 {
		t.Errorf("%d transactions, want one for each request", len(seen.bounds))
	}
	for _, b := range seen.bounds {
		if b != "20s" {
			t.Errorf("a transaction might be silent for %s, want 20s", b)
		}
	}
}

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgautomate/pgautomate/catalog"
)

const bareLoop = "a bare loop on the same log: decode, one INSERT, commit"

// bare is the least that must be done for a change to become a job: it reads the
// same log with pglogrepl and writes a row for each commit that fires, in a transaction of its own.
// It has no checkpoint and nothing to decide.
type bare struct {
	d     *database
	fires func(id string) bool
	conn  *pgconn.PgConn
	stop  context.CancelFunc
	ended chan error

	mu        sync.Mutex
	latencies []float64 // ms from commit to the row's being visible
}

func newBare(ctx context.Context, d *database, fires func(id string) bool) (*bare, error) {
	if err := d.exec(ctx, "make_slot", referenceSlot); err != nil {
		return nil, err
	}
	config, err := pgconn.ParseConfig(d.url)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["replication"] = "database"
	b := &bare{d: d, fires: fires, ended: make(chan error, 1)}
	if b.conn, err = pgconn.ConnectConfig(ctx, config); err != nil {
		return nil, err
	}
	err = pglogrepl.StartReplication(ctx, b.conn, referenceSlot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names '" + catalog.Publication + "'"},
	})
	if err != nil {
		return nil, err
	}
	ctx, b.stop = context.WithCancel(ctx)
	go func() { b.ended <- b.run(ctx) }()
	return b, nil
}

func (b *bare) run(ctx context.Context) error {
	var last pglogrepl.LSN
	sent := time.Now()
	firing := []string{}
	for {
		if time.Since(sent) > time.Second {
			if err := pglogrepl.SendStandbyStatusUpdate(ctx, b.conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: last}); err != nil {
				return err
			}
			sent = time.Now()
		}
		receive, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		msg, err := b.conn.ReceiveMessage(receive)
		cancel()
		switch ne := net.Error(nil); {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // asked to stop
		case errors.As(err, &ne) && ne.Timeout() || pgconn.Timeout(err):
			continue
		case err != nil:
			return err
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok || data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		log, err := pglogrepl.ParseXLogData(data.Data[1:])
		if err != nil {
			return err
		}
		m, err := pglogrepl.Parse(log.WALData)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pglogrepl.UpdateMessage:
			if id := string(m.NewTuple.Columns[0].Data); b.fires(id) {
				firing = append(firing, id)
			}
		case *pglogrepl.CommitMessage:
			if len(firing) > 0 {
				if err := b.insert(ctx, firing); err != nil {
					return err
				}
				b.mu.Lock()
				b.latencies = append(b.latencies, millis(time.Since(m.CommitTime)))
				b.mu.Unlock()
				firing = firing[:0]
			}
			last = m.TransactionEndLSN
		}
	}
}

func (b *bare) insert(ctx context.Context, ids []string) error {
	args, err := json.Marshal(map[string]any{"ids": ids})
	if err != nil {
		return err
	}
	_, err = b.d.pool.Exec(ctx, "INSERT INTO bench_job (args) VALUES ($1)", args)
	return err
}

func (b *bare) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.latencies)
}

// await waits until so many commits became rows.
func (b *bare) await(ctx context.Context, n int) error {
	for b.count() < n {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-b.ended:
			b.ended <- err
			return fmt.Errorf("the bare loop ended: %w", err)
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// end gives the latencies.
func (b *bare) end() ([]float64, error) {
	b.stop()
	err := <-b.ended
	b.ended <- nil
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.latencies, err
}

// close ends it and drops its slot.
func (b *bare) close() {
	_, _ = b.end()
	closing, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = b.conn.Close(closing)
	for range 200 {
		if _, err := b.d.pool.Exec(closing, "SELECT pg_drop_replication_slot('"+referenceSlot+"')"); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// everyNth is the rule by which the app's changes fire.
func everyNth(n int) func(id string) bool {
	return func(id string) bool {
		i, err := strconv.Atoi(id)
		return err == nil && i%n == 0
	}
}

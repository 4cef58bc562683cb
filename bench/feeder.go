package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/feed"
	"github.com/pgautomate/pgautomate/firing"
)

// feeder is the engine's feed with its real applier. Unlike an engine it can be
// stopped while a backlog is made and go on with its triggers still loaded, so that what
// is measured is the draining.
type feeder struct {
	d           *database
	logger      *slog.Logger
	slot        string
	pool        *pgxpool.Pool
	river       *river.Client[pgx.Tx]
	catalog     *catalog.Catalog
	checkpoints *feed.Checkpoints
	matcher     *firing.Matcher
	metrics     *pgautomate.Metrics
	applied     func(commits []*change.Commit) // after each batch, when what it wrote is visible
}

func newFeeder(ctx context.Context, r *run, d *database) (*feeder, error) {
	f := &feeder{d: d, logger: r.Logger, slot: catalog.SlotName(d.name), metrics: pgautomate.NewMetrics()}
	var err error
	if f.pool, err = db.Open(ctx, d.url, "pgautomate feed", 4, db.Patient); err != nil {
		return nil, err
	}
	if f.river, err = river.NewClient(riverpgxv5.New(f.pool), &river.Config{
		Schema: db.Schema, Logger: r.Logger, FetchCooldown: 5 * time.Millisecond, // as the engine's, for its notifications
	}); err != nil {
		return nil, err
	}
	f.catalog = catalog.New(f.pool)
	if err := f.catalog.Reload(ctx); err != nil {
		return nil, err
	}
	f.checkpoints = feed.NewCheckpoints(f.pool, f.slot)
	f.matcher = f.newMatcher()
	return f, nil
}

func (f *feeder) newMatcher() *firing.Matcher {
	return firing.New(firing.Config{
		Pool: f.pool, Source: f.pool, River: f.river, Catalog: f.catalog, Checkpoints: f.checkpoints, Logger: f.logger, Observer: f.metrics,
	})
}

func (f *feeder) close() { f.pool.Close() }

// Apply implements feed.Applier.
func (f *feeder) Apply(ctx context.Context, commits []*change.Commit, position change.EndLSN) error {
	err := f.matcher.Apply(ctx, commits, position)
	if err == nil && f.applied != nil {
		f.applied(commits)
	}
	return err
}

// ApplyLazily implements feed.Lazy.
func (f *feeder) ApplyLazily(ctx context.Context, commits []*change.Commit, position change.EndLSN) (bool, error) {
	written, err := f.matcher.ApplyLazily(ctx, commits, position)
	if err == nil && f.applied != nil {
		f.applied(commits)
	}
	return written, err
}

// LookAhead implements feed.Ahead.
func (f *feeder) LookAhead(ctx context.Context, checkpoint change.EndLSN) (*feed.LookAhead, error) {
	return f.matcher.LookAhead(ctx, checkpoint)
}

// running is a feed that goes on until it is stopped.
type running struct {
	feed  *feed.Feed
	stop  context.CancelFunc
	ended chan error
}

// begin runs the feed; eager ones write checkpoints also where nothing is to be done.
func (f *feeder) begin(ctx context.Context, eager bool) (*running, error) {
	c := feed.Config{
		Conn: f.d.url, Slot: f.slot, Publication: catalog.Publication, Objects: f.matcher, Applier: f, Store: f.checkpoints,
		Init: f.matcher.Init, Logger: f.logger, StandbyInterval: 20 * time.Millisecond,
	}
	if eager {
		c.IdleDistance, c.IdleInterval, c.StatusInterval = -1, 10*time.Millisecond, 50*time.Millisecond
	}
	fd, err := feed.New(c)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	b := &running{feed: fd, stop: stop, ended: make(chan error, 1)}
	go func() { b.ended <- fd.Run(ctx) }()
	return b, nil
}

func (b *running) end() error {
	b.stop()
	return <-b.ended
}

// until waits for a status.
func (b *running) until(ctx context.Context, ok func(s feed.Status) bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s := b.feed.Status()
		if ok(s) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-b.ended:
			b.ended <- err
			return fmt.Errorf("the feed ended: %w", errors.Join(err, s.LastError))
		case <-tick.C:
		}
	}
}

// catchUp deals with all that was written before; at the first time it makes the slot.
func (f *feeder) catchUp(ctx context.Context) error {
	if _, found, err := f.checkpoints.Load(ctx); err != nil || !found {
		if err != nil {
			return err
		}
		b, err := f.begin(ctx, false)
		if err != nil {
			return err
		}
		err = b.until(ctx, func(s feed.Status) bool { return s.State == feed.StateStreaming })
		if err := errors.Join(err, b.end()); err != nil {
			return err
		}
	}
	// A slot begins to read at the last place that it need not know anything before of, which a
	// CHECKPOINT makes and the next one confirms. A fresh slot, as the references have, has no such way.
	for range 2 {
		if err := f.d.run(ctx, "CHECKPOINT"); err != nil {
			return err
		}
		end, err := f.d.endOf(ctx)
		if err != nil {
			return err
		}
		b, err := f.begin(ctx, true)
		if err != nil {
			return err
		}
		err = b.until(ctx, func(s feed.Status) bool { return change.LSN(s.Applied) >= end && change.LSN(s.Flushed) >= end })
		if err := errors.Join(err, b.end()); err != nil {
			return err
		}
	}
	return nil
}

// untilApplied waits until all before a position is dealt with.
func (b *running) untilApplied(ctx context.Context, end change.LSN) error {
	return b.until(ctx, func(s feed.Status) bool { return change.LSN(s.Applied) >= end })
}

func (d *database) endOf(ctx context.Context) (change.LSN, error) {
	text, err := d.position(ctx)
	if err != nil {
		return 0, err
	}
	return change.ParseLSN(text)
}

// used is what a drain took.
type used struct{ seconds, cpu float64 }

// drain reads what waits until the checkpoint is at its end.
func (f *feeder) drain(ctx context.Context, end change.LSN) (used, error) {
	b, err := f.begin(ctx, false)
	if err != nil {
		return used{}, err
	}
	err = b.until(ctx, func(s feed.Status) bool { return s.State == feed.StateStreaming })
	began, before := time.Now(), cpu()
	if err == nil {
		err = b.untilApplied(ctx, end)
	}
	u := used{time.Since(began).Seconds(), (cpu() - before).Seconds()}
	return u, errors.Join(err, b.end())
}

const referenceSlot = "bench_reference"

// receiver is pg_recvlogical, which reads from the reference's slot to /dev/null.
func (r *run) receiver(ctx context.Context, d *database, more ...string) (*exec.Cmd, *streamed) {
	tool := filepath.Join(r.server.BinDir(), "pg_recvlogical")
	if _, err := os.Stat(tool); err != nil {
		tool = "pg_recvlogical" // a server without client programs: the installed one
	}
	c := exec.CommandContext(ctx, tool, append([]string{
		"-v", "-d", d.url, "-S", referenceSlot, "--start", "-f", "/dev/null", "--no-loop",
		"-o", "proto_version=1", "-o", "publication_names=" + catalog.Publication, "-o", "messages=true",
	}, more...)...)
	heard := &streamed{}
	c.Stderr = heard
	return c, heard
}

// received does something while pg_recvlogical reads what is written.
func (r *run) received(ctx context.Context, d *database, do func() error) error {
	if err := d.exec(ctx, "make_slot", referenceSlot); err != nil {
		return err
	}
	c, heard := r.receiver(ctx, d)
	if err := c.Start(); err != nil {
		return fmt.Errorf("pg_recvlogical: %w", err)
	}
	err := do()
	if signal := c.Process.Signal(os.Interrupt); err == nil {
		err = signal // it has ended by itself
	}
	if ended := c.Wait(); err == nil && ended != nil {
		err = fmt.Errorf("pg_recvlogical: %w: %s", ended, heard.text.String())
	}
	return errors.Join(err, d.run(ctx, "SELECT pg_drop_replication_slot('"+referenceSlot+"')"))
}

// receive has pg_recvlogical read the same log to /dev/null, from when it streams.
func (r *run) receive(ctx context.Context, d *database, end change.LSN) (used, error) {
	c, heard := r.receiver(ctx, d, "-E", end.String())
	began := time.Now()
	if err := c.Run(); err != nil {
		return used{}, fmt.Errorf("pg_recvlogical: %w: %s", err, heard.text.String())
	}
	took := time.Since(began)
	if !heard.at.IsZero() {
		took = time.Since(heard.at)
	}
	return used{took.Seconds(), cpuOf(c).Seconds()}, nil
}

// streamed notes when pg_recvlogical says that it streams.
type streamed struct {
	mu   sync.Mutex
	text strings.Builder
	at   time.Time
}

func (s *streamed) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.IsZero() && strings.Contains(string(p), "streaming initiated") {
		s.at = time.Now()
	}
	return s.text.Write(p)
}

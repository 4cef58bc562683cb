package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/mailbox"
)

// Options say what a demo shows.
type Options struct {
	// DatabaseURL leads to a database of FreshDatabase or ClaimDatabase.
	DatabaseURL string
	// TableSchema is where the demo's tables are made; default public.
	TableSchema string
	Logger      *slog.Logger // default slog.Default()
	Progress    io.Writer    // default io.Discard

	// Leads is how many leads each organization of the sample CRM gets; default 200.
	Leads int
	// Seed decides what happens to them.
	Seed uint64

	// Log, when given, is replayed instead, in its order.
	Log []Event
	// Speed is the pace of the replay as a multiple of the log's own time; 0 as fast as it goes.
	Speed float64

	// Exit ends the demo when all is done; else it goes on until its context ends.
	Exit bool
}

// Demo is an engine with something to do. Run it once, or Close it.
type Demo struct {
	Engine  *pgautomate.Engine
	Mailbox *mailbox.Mailbox

	opts     Options
	pool     *pgxpool.Pool
	receiver *http.Server
	received atomic.Int64
	written  atomic.Int64
}

// New makes the tables and the automations, and readies an engine for them.
func New(ctx context.Context, opts Options) (*Demo, error) {
	if opts.TableSchema == "" {
		opts.TableSchema = "public"
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Progress == nil {
		opts.Progress = io.Discard
	}
	if opts.Leads == 0 {
		opts.Leads = 200
	}
	d := &Demo{opts: opts}
	if err := d.setUp(ctx); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Demo) setUp(ctx context.Context) error {
	cfg, err := pgxpool.ParseConfig(d.opts.DatabaseURL)
	if err != nil {
		return errors.New("the database's URL can't be read: write postgres://user:password@host:port/database")
	}
	cfg.MaxConns = 6
	cfg.ConnConfig.RuntimeParams["application_name"] = "pgautomate demo"
	cfg.ConnConfig.RuntimeParams["search_path"] = pgx.Identifier{d.opts.TableSchema}.Sanitize()
	if d.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return fmt.Errorf("the demo's database: %w", err)
	}
	quiet := db.Quiet(d.opts.Logger)
	if err := pgautomate.EnsureSchema(ctx, d.pool, quiet); err != nil {
		return err
	}
	sales, err := d.receive(ctx)
	if err != nil {
		return err
	}
	if d.opts.Log != nil {
		err = setUpLog(ctx, d.pool, d.opts.TableSchema, d.opts.Log)
	} else {
		err = setUpSample(ctx, d.pool, d.opts.TableSchema, sales)
	}
	if err != nil {
		return err
	}
	// It must outlive ctx: mails under way when the demo is asked to end are still sent.
	if d.Mailbox, err = mailbox.Start(context.WithoutCancel(ctx), "127.0.0.1:0"); err != nil {
		return fmt.Errorf("the local mailbox: %w", err)
	}
	workers := 50
	if d.opts.Log != nil {
		workers = 200 // a log action holds up nothing but its own bookkeeping
	}
	d.Engine, err = pgautomate.New(ctx, pgautomate.Config{
		DatabaseURL: d.opts.DatabaseURL, Logger: quiet, SMTPURL: d.Mailbox.URL(), SMTPOnly: true, WorkersPerType: workers,
		WebhookAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
	})
	if err != nil {
		return err
	}
	return d.Engine.Prepare(ctx)
}

// receive starts the receiver of webhooks and gives its URL.
func (d *Demo) receive(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("the receiver of webhooks: %w", err)
	}
	d.receiver = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<20))
			d.received.Add(1)
			w.WriteHeader(http.StatusNoContent)
		}),
	}
	go func() { _ = d.receiver.Serve(listener) }()
	return fmt.Sprintf("http://%s/sales", listener.Addr()), nil
}

// Close lets go of everything. Run does it at its end.
func (d *Demo) Close() {
	if d.Engine != nil {
		d.Engine.Close()
	}
	if d.receiver != nil {
		_ = d.receiver.Close()
	}
	if d.Mailbox != nil {
		_ = d.Mailbox.Close()
	}
	if d.pool != nil {
		d.pool.Close()
	}
}

// Webhooks is how many webhooks have arrived.
func (d *Demo) Webhooks() int64 { return d.received.Load() }

// Run runs the engine and drives leads through it; ready is called when the engine holds all triggers, before the first row
// is written. It returns when all is done (Options.Exit), else when ctx ends, after the engine has drained.
func (d *Demo) Run(ctx context.Context, ready func()) (*Totals, error) {
	defer d.Close()
	// The engine goes on while the totals are read.
	engineCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	driveCtx, stopDriving := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() {
		err := d.Engine.Run(engineCtx)
		if err == nil {
			err = errors.New("the engine ended")
		}
		stopDriving(err)
		ended <- err
	}()
	t, err := d.drive(ctx, driveCtx, ready)
	broken := driveCtx.Err() != nil && ctx.Err() == nil
	stopEngine()
	engineErr := <-ended
	stopDriving(nil)
	d.dropSlot(context.WithoutCancel(ctx))
	if broken {
		return nil, engineErr
	}
	return t, err
}

// dropSlot lets go of the slot: the next demo begins anew, and until then the server would keep its log for nobody.
func (d *Demo) dropSlot(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	slot := catalog.SlotName(d.pool.Config().ConnConfig.Database)
	for {
		_, err := d.pool.Exec(ctx, statements["drop_slot"], slot)
		left := false
		if err == nil {
			err = d.pool.QueryRow(ctx, statements["slot_left"], slot).Scan(&left)
		}
		if err == nil && !left {
			return
		}
		// Its reader's process ends a moment after its connection.
		if pause(ctx, 20*time.Millisecond) != nil {
			d.opts.Logger.WarnContext(ctx, "the demo's replication slot is left; the server keeps its log for it until it is dropped",
				"slot", slot, "error", err)
			return
		}
	}
}

// drive does what ctx, which also ends with the engine, lets it; outer is what the user ends.
func (d *Demo) drive(outer, ctx context.Context, ready func()) (*Totals, error) {
	if err := d.untilLive(ctx); err != nil {
		return nil, err
	}
	ready()
	shown, hide := context.WithCancel(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		newProgress(d.opts.Progress).run(shown, d.line)
	}()
	err := d.perform(ctx)
	hide()
	<-gone
	switch {
	case err == nil:
	case outer.Err() == nil:
		return nil, err
	case d.opts.Exit:
		return nil, errors.New("interrupted before all was done")
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return totals(last, d.pool, d.written.Load())
}

// untilLive waits until the engine is ready and the matcher holds all triggers.
func (d *Demo) untilLive(ctx context.Context) error {
	for {
		live := false
		if d.Engine.Ready(ctx) == nil {
			if err := d.pool.QueryRow(ctx, statements["triggers_live"]).Scan(&live); err != nil {
				return fmt.Errorf("triggers: %w", err)
			}
		}
		if live {
			break
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	var name, problem string
	err := d.pool.QueryRow(ctx, statements["trigger_problem"]).Scan(&name, &problem)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("triggers: %w", err)
	}
	return fmt.Errorf("trigger %q: %s", name, problem)
}

// perform writes rows; without Exit it returns only when ctx ends.
func (d *Demo) perform(ctx context.Context) error {
	wrote := func(n int64) { d.written.Add(n) }
	var writers []*writer
	if d.opts.Log != nil {
		err := d.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
			return replayLog(ctx, c.Conn(), d.opts.Log, d.opts.Speed, wrote)
		})
		if err != nil {
			return err
		}
	} else {
		for _, organization := range sampleOrganizations {
			writers = append(writers, newWriter(d.opts.Seed, organization))
		}
		phase := func(script func(w *writer) []step) error {
			phases := [][]step{}
			for _, w := range writers {
				phases = append(phases, script(w))
			}
			if err := play(ctx, d.pool, phases, wrote); err != nil {
				return err
			}
			return settle(ctx, d.pool)
		}
		if err := phase(func(w *writer) []step { return w.arrivals(d.opts.Leads) }); err != nil {
			return err
		}
		if err := phase((*writer).closings); err != nil {
			return err
		}
	}
	switch {
	case d.opts.Exit:
		return settle(ctx, d.pool)
	case writers == nil:
		<-ctx.Done()
		return ctx.Err()
	default:
		return trickle(ctx, d.pool, writers, wrote)
	}
}

// line is what the progress shows.
func (d *Demo) line(ctx context.Context) (string, error) {
	s, err := readState(ctx, d.pool)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("%d changes written, %d firings, %d actions done, %d waiting", d.written.Load(), s.firings,
		s.actions-s.waiting, s.waiting+s.firings-s.acted)
	if s.failed > 0 {
		text += fmt.Sprintf(", %d failed", s.failed)
	}
	if n := d.Mailbox.Count(); n > 0 {
		text += fmt.Sprintf(", %d mails", n)
	}
	if n := d.Webhooks(); n > 0 {
		text += fmt.Sprintf(", %d webhooks", n)
	}
	return text, nil
}

// Package pgautomate is an automation engine for teams that already run
// Postgres: apps write rows and get automations; DBAs read the state of every
// job with plain SQL.
//
// The command pgautomate is one user of this package. Another program embeds the
// engine, and teaches it its own action types:
//
//	engine, err := pgautomate.New(ctx, pgautomate.Config{DatabaseURL: url})
//	if err != nil { … }
//	err = engine.Register("assign_owner", pgautomate.HandlerFunc(
//		func(ctx context.Context, a *pgautomate.Action) (pgautomate.Result, error) { … }))
//	err = engine.Run(ctx) // until ctx ends
package pgautomate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"golang.org/x/sync/errgroup"

	"github.com/pgautomate/pgautomate/backfill"
	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/feed"
	"github.com/pgautomate/pgautomate/firing"
	"github.com/pgautomate/pgautomate/internal/batch"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/notification"
	"github.com/pgautomate/pgautomate/scheduler"
)

// What a program that embeds the engine needs of its own actions.
type (
	// Action is one action as its handler gets it.
	Action = jobs.Action
	// Result is what a handler reports when it did not fail.
	Result = jobs.Result
	// Handler runs one type of action.
	Handler = jobs.Handler
	// HandlerFunc makes a Handler of a function.
	HandlerFunc = jobs.HandlerFunc
)

// Permanent marks a handler's error that no further attempt can mend.
func Permanent(err error) error { return jobs.Permanent(err) }

// RetryAfter postpones an action without using an attempt.
func RetryAfter(d time.Duration, err error) error { return jobs.RetryAfter(d, err) }

// Config says what the engine works on. Zero fields take the defaults given.
type Config struct {
	// DatabaseURL is the source database, and the one of the jobs. Required. It
	// must lead to Postgres itself, not to a pooler: logical replication doesn't
	// pass through one.
	DatabaseURL string
	Logger      *slog.Logger // default slog.Default()

	// Parts says which parts this process runs; default (nil) all of them.
	Parts []Part
	// Queues limits the workers to these action types; default all that are registered.
	Queues []string
	// WorkersPerType is how many actions of one type run at once; default 100. Those that are done, while their outcomes are written, don't count, up to as many.
	WorkersPerType int

	// Slot is the replication slot; default pgautomate_<database>.
	Slot string
	// SMTPURL and EmailFrom are the default e-mail integration.
	SMTPURL, EmailFrom string
	// SMTPOnly sends all mail to SMTPURL, also that of organizations with integrations
	// of their own: to a mailbox that delivers nothing.
	SMTPOnly bool
	// WebhookAllow are networks that webhooks may reach although they are private.
	WebhookAllow []netip.Prefix
	// WebhookSecret signs webhooks after Standard Webhooks.
	WebhookSecret string

	// AttachmentsURL is where notifications' attachments are kept until they are
	// sent: file:///folder, s3://bucket; default a folder in the user's cache.
	AttachmentsURL string

	// ActionTimeout bounds one attempt of an action; default 5 minutes.
	ActionTimeout time.Duration
	// VisibleWithin bounds how long an action waits for its lead's row to become
	// visible; default 5 minutes.
	VisibleWithin time.Duration
	// DeadAfter is how long a worker process may be silent before its actions
	// run elsewhere; default 30 s.
	DeadAfter time.Duration
	// DrainTimeout is how long running actions may go on when Run is asked to
	// end; default 20 s.
	DrainTimeout time.Duration
	// MaxDepth is how many automations may follow from one another; default 8.
	MaxDepth int
	// MaxTransactionBytes bounds the memory of the transaction being read; default
	// 64 MiB. A larger one goes through temporary files.
	MaxTransactionBytes int

	// RelatedBytes bounds the memory of the rows that triggers across relations
	// (has_related) are decided on: about 60 bytes for each row of the tables
	// involved, beside its id and the columns that triggers mention. Default 1
	// GiB. Triggers that need more are invalid, and say so.
	RelatedBytes int
	// SpillDir is the folder of those files, of about the size of the transaction's
	// rows, old and new; default os.TempDir(). Not one in memory.
	SpillDir string
	// Poll is how often the scheduler looks for what became due; default 50 ms.
	Poll time.Duration
	// MaxEntriesPerHour is how often within an hour automations may let a lead enter
	// the stages of one pipeline; default 50. Then its run ends: loop_suppressed.
	MaxEntriesPerHour int
	// AskEvery is how often the queries of wait_until actions are asked that no
	// trigger can have; default 30 s.
	AskEvery time.Duration
	// ArchiveAfter is how long finished actions stay in the table of those to be
	// done, before they move to that of their month, which inherits from it; default
	// a day, at least a minute.
	ArchiveAfter time.Duration
	// KeepSpent is how long is kept what only the engine had a use for: completed jobs of
	// River, and counted starts that no throttle's window reaches any more (a window that is
	// prolonged knows of starts as long ago as this). Default an hour.
	KeepSpent time.Duration
	// KeepFinished is how long finished actions are kept, by whole months, and ended
	// notifications with what they sent; messages in feeds stay for a year at least.
	// Default 0: for ever.
	KeepFinished time.Duration
}

// Part is a part of the engine that a process may run by itself. Several
// processes may run the same part: one feeds and the others stand by; schedulers
// and workers share.
type Part string

// The parts.
const (
	FeedPart      Part = "feed"
	SchedulerPart Part = "scheduler"
	WorkersPart   Part = "workers"
)

func (c *Config) has(p Part) bool { return slices.Contains(c.Parts, p) }

// Engine is the whole: feed, scheduler and workers of one process.
type Engine struct {
	cfg      Config
	logger   *slog.Logger
	registry *jobs.Registry
	catalog  *catalog.Catalog
	zones    *zones
	metrics  *Metrics

	pool, feedPool, riverPool *pgxpool.Pool

	river     *river.Client[pgx.Tx]
	feed      *feed.Feed
	matcher   *firing.Matcher
	scheduler *scheduler.Scheduler
	slots     *jobs.Slots // nil: this process does not claim for itself
	lifecycle *scheduler.Lifecycle
	waits     *scheduler.Waits
	runs      *scheduler.Runs
	store     *scheduler.Store
	queries   *catalog.Queries
	firings   *batch.Batcher[firingKey, error]
	executor  *jobs.Executor
	backfills *backfill.Worker

	notifications *notification.Service
	attachments   *notification.Bucket

	worker  dbq.HeartbeatParams
	running atomic.Bool // River works
}

// Actions that wait for their turn are cheap, so these are small: River pays for
// each connection, and users' servers have few.
const (
	poolConns  = 16
	feedConns  = 4
	riverConns = 10
)

// New connects to the database, checks its schema, and readies all parts; Run
// starts them. The schema is made when there is none. Errors are one line that
// says what to do.
func New(ctx context.Context, cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	e := &Engine{cfg: cfg, logger: cfg.Logger, metrics: NewMetrics()}
	ok := false
	defer func() {
		if !ok {
			e.Close()
		}
	}()
	var err error
	if e.pool, err = db.Open(ctx, cfg.DatabaseURL, "pgautomate", poolConns); err != nil {
		return nil, err
	}
	if err := EnsureSchema(ctx, e.pool, cfg.Logger); err != nil {
		return nil, err
	}
	// Loading a million triggers takes a while, in which its transaction says nothing.
	if e.feedPool, err = db.Open(ctx, cfg.DatabaseURL, "pgautomate feed", feedConns, db.Patient); err != nil {
		return nil, err
	}
	if e.riverPool, err = db.Open(ctx, cfg.DatabaseURL, "pgautomate river", riverConns); err != nil {
		return nil, err
	}
	e.catalog = catalog.New(e.pool)
	if err := e.catalog.Reload(ctx); err != nil {
		return nil, err
	}
	e.zones = &zones{pool: e.pool, logger: cfg.Logger}
	if err := e.zones.reload(ctx); err != nil {
		return nil, err
	}
	e.queries = &catalog.Queries{Catalog: e.catalog, Pool: e.pool}
	e.store = &scheduler.Store{Rows: e.catalog, MaxEntries: int64(cfg.MaxEntriesPerHour)}
	e.runs = &scheduler.Runs{Pool: e.pool}
	e.waits = &scheduler.Waits{
		Pool: e.pool, Changed: func() { e.scheduler.Wake() }, Logger: cfg.Logger,
		CanFire: e.canFire, Meeting: e.meeting, AskEvery: cfg.AskEvery,
	}
	if e.attachments, err = notification.OpenBucket(ctx, cfg.AttachmentsURL); err != nil {
		return nil, err
	}
	e.notifications = &notification.Service{
		Pool: e.pool, River: lateRiver{e}, Logger: cfg.Logger, Integrations: integrations{e.pool},
		Location: e.zones.Location, Attachments: e.attachments, Changed: func() {
			if e.scheduler != nil {
				e.scheduler.Wake()
			}
		},
	}
	e.registry, err = jobs.Defaults(jobs.Config{
		SMTP:    jobs.SMTP{URL: cfg.SMTPURL, From: cfg.EmailFrom, Only: cfg.SMTPOnly},
		Webhook: jobs.Webhook{Secret: cfg.WebhookSecret, Allow: cfg.WebhookAllow},
		Store:   e.store,
		Queries: e.queries, Integrations: integrations{e.pool},
		Replies: e.waits, Awaiting: e.waits, Notifier: e.notifications,
		Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	e.notifications.Senders = e.registry
	e.metrics.refresh = e.refreshMetrics
	ok = true
	return e, nil
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Parts == nil {
		c.Parts = []Part{FeedPart, SchedulerPart, WorkersPart}
	}
	setDefault(&c.WorkersPerType, 100)
	setDefault(&c.ActionTimeout, 5*time.Minute)
	setDefault(&c.VisibleWithin, 5*time.Minute)
	setDefault(&c.DeadAfter, 30*time.Second)
	setDefault(&c.DrainTimeout, 20*time.Second)
	setDefault(&c.ArchiveAfter, 24*time.Hour)
	setDefault(&c.KeepSpent, time.Hour)
	return c
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// EnsureSchema makes the schema when there is none, and refuses one that this
// binary doesn't know.
func EnsureSchema(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) error {
	err := db.CheckSchema(ctx, pool, logger)
	if errors.Is(err, db.ErrNoSchema) {
		return db.Migrate(ctx, pool, logger)
	}
	return err
}

// Register adds an action type. Call it before Run. The name is lower-case
// letters, digits and underscores.
func (e *Engine) Register(actionType string, h Handler) error {
	return e.registry.Register(actionType, h)
}

// Registry gives the action types, for checking parameters.
func (e *Engine) Registry() *jobs.Registry { return e.registry }

// Catalog gives the watched tables.
func (e *Engine) Catalog() *catalog.Catalog { return e.catalog }

// Pool gives the engine's pool.
func (e *Engine) Pool() *pgxpool.Pool { return e.pool }

// River gives the River client; nil before Run.
func (e *Engine) River() *river.Client[pgx.Tx] { return e.river }

// Notifications gives what accepts triggers of workflows; they are shared out and
// run while an engine runs.
func (e *Engine) Notifications() *notification.Service { return e.notifications }

// lateRiver inserts through the engine's River client, which Prepare makes.
type lateRiver struct{ e *Engine }

func (l lateRiver) InsertManyFastTx(ctx context.Context, tx pgx.Tx, params []river.InsertManyParams) (int, error) {
	if l.e.river == nil {
		return 0, errors.New("the engine is not prepared yet: call Prepare first")
	}
	return l.e.river.InsertManyFastTx(ctx, tx, params)
}

// Metrics gives the engine's Prometheus registry.
func (e *Engine) Metrics() *prometheus.Registry { return e.metrics.registry }

// Close lets go of the database. Run does it at its end.
func (e *Engine) Close() {
	if e.lifecycle != nil {
		e.lifecycle.Stop()
		e.firings.Stop()
	}
	if e.notifications != nil { // it is what New failed before
		e.notifications.Stop()
	}
	for _, p := range []*pgxpool.Pool{e.pool, e.feedPool, e.riverPool} {
		if p != nil {
			p.Close()
		}
	}
	if e.attachments != nil {
		_ = e.attachments.Close() // nothing is written through it any more
		e.attachments = nil
	}
}

// Prepare readies what Run starts, so that River and the feed are there for the
// server before Run. It registers this process among the workers.
func (e *Engine) Prepare(ctx context.Context) error {
	if err := e.prepareWorker(ctx); err != nil {
		return err
	}
	if err := e.prepareRiver(); err != nil {
		return err
	}
	q := dbq.New(e.pool)
	e.lifecycle = scheduler.NewLifecycle(scheduler.LifecycleConfig{
		Pool: e.pool, Logger: e.logger, WorkerID: e.worker.ID, Store: e.store, Zones: e.zones,
		Changed: func() { e.scheduler.Wake() }, Observer: e.metrics,
	})
	e.notifications.Start()
	e.firings = batch.New(500, 2, func(ctx context.Context, keys []firingKey) ([]error, error) {
		return e.insertFiringActions(ctx, q, keys)
	})
	e.scheduler = &scheduler.Scheduler{
		Pool: e.pool, River: e.river, Logger: e.logger, Lifecycle: e.lifecycle, DeadAfter: e.cfg.DeadAfter, Poll: e.cfg.Poll,
		ArchiveAfter: max(e.cfg.ArchiveAfter, time.Minute), KeepFinished: e.cfg.KeepFinished, KeepStarts: e.cfg.KeepSpent,
	}
	e.scheduler.Init()
	e.executor = &jobs.Executor{
		Lifecycle: e.lifecycle, Registry: e.registry, Vars: e.vars, GoalMet: e.goalMet, Suppressed: e.suppressed, SuppressedAddresses: e.suppressedAddresses, Step: e.notifications, Logger: e.logger,
		Timeout: e.cfg.ActionTimeout, VisibleWithin: e.cfg.VisibleWithin,
	}
	if e.claims() {
		types, err := e.types()
		if err != nil {
			return err
		}
		places := map[string]int{}
		for _, t := range types {
			places[t] = e.cfg.WorkersPerType
		}
		e.slots = jobs.NewSlots(e.executor, places, e.scheduler.Wake)
		e.scheduler.Here = e.slots
	}
	if e.cfg.has(FeedPart) {
		return e.prepareFeed(ctx)
	}
	return nil
}

// claims says whether this process claims actions for its own workers.
func (e *Engine) claims() bool { return e.cfg.has(SchedulerPart) && e.cfg.has(WorkersPart) }

func (e *Engine) prepareWorker(ctx context.Context) error {
	hostname, _ := os.Hostname()
	capacity := map[string]int{}
	if e.cfg.has(WorkersPart) {
		types, err := e.types()
		if err != nil {
			return err
		}
		for _, t := range types {
			capacity[t] = e.cfg.WorkersPerType
		}
		if len(e.cfg.Queues) == 0 {
			capacity[jobs.UnknownQueue] = e.cfg.WorkersPerType
		}
	}
	raw, err := json.Marshal(capacity)
	if err != nil {
		return fmt.Errorf("capacity: %w", err)
	}
	e.worker = dbq.HeartbeatParams{Hostname: hostname, Pid: int32(os.Getpid()), Capacity: raw, Claims: e.claims()}
	e.worker.ID, err = dbq.New(e.pool).AddWorker(ctx, dbq.AddWorkerParams{
		Hostname: e.worker.Hostname, Pid: e.worker.Pid, Capacity: e.worker.Capacity, Claims: e.worker.Claims,
	})
	if err != nil {
		return fmt.Errorf("this process can't be registered in pgautomate.workers: %w", err)
	}
	return nil
}

// types are the action types that this process works.
func (e *Engine) types() ([]string, error) {
	all := e.registry.Types()
	for _, t := range notification.Types {
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	if len(e.cfg.Queues) == 0 {
		return all, nil
	}
	for _, t := range e.cfg.Queues {
		if !slices.Contains(all, t) {
			return nil, fmt.Errorf("there is no queue %q: queues are action types: %v", t, all)
		}
	}
	return e.cfg.Queues, nil
}

func (e *Engine) prepareRiver() error {
	workers := jobs.Workers(jobs.Work{
		Action: func(ctx context.Context, id int64) error { return e.executor.Run(ctx, id) },
		Firing: func(ctx context.Context, job *river.Job[jobs.FiringArgs]) error {
			own, err := e.firings.Do(ctx, firingKey{job.Args.ID, job.Args.At})
			if err == nil {
				err = again(own)
			}
			return err
		},
		ObjectGone:    e.objectGone,
		ObjectRenamed: e.objectRenamed,
		Replied:       e.replied,
	}, e.cfg.ActionTimeout)
	e.backfills = &backfill.Worker{
		Pool: e.pool, River: func() *river.Client[pgx.Tx] { return e.river }, Catalog: e.catalog, Logger: e.logger, Observer: e.metrics,
	}
	river.AddWorker(workers, e.backfills)
	jobs.AddWorker(workers, e.notifications.WorkEvent)
	jobs.AddWorker(workers, e.notifications.WorkCancel)
	jobs.AddWorker(workers, e.notifications.WorkRequest)
	config := &river.Config{
		Schema:  db.Schema,
		Logger:  db.Quiet(e.logger),
		Workers: workers,
		// River's own defaults are for long jobs on a quiet database: a job would
		// wait 100 ms for the next fetch, and a killed worker's job an hour.
		FetchCooldown:        5 * time.Millisecond,
		FetchPollInterval:    250 * time.Millisecond,
		JobTimeout:           10 * time.Second,
		RescueStuckJobsAfter: 10 * time.Second,
		// What an action or firing was is in our own tables; River's row is spent.
		CompletedJobRetentionPeriod: e.cfg.KeepSpent,
		// But that of arguments, which is not there (00061_river_args.sql).
		ReindexerIndexNames: slices.DeleteFunc(river.ReindexerIndexNamesDefault(), func(name string) bool { return name == "river_job_args_index" }),
	}
	if e.cfg.has(WorkersPart) {
		types, err := e.types()
		if err != nil {
			return err
		}
		config.Queues = map[string]river.QueueConfig{jobs.FiringQueue: {MaxWorkers: 200}, backfill.Queue: {MaxWorkers: backfill.Workers}, notification.Queue: {MaxWorkers: 4}}
		for _, t := range types {
			config.Queues[t] = river.QueueConfig{MaxWorkers: e.cfg.WorkersPerType}
		}
		if len(e.cfg.Queues) == 0 {
			config.Queues[jobs.UnknownQueue] = river.QueueConfig{MaxWorkers: e.cfg.WorkersPerType}
		}
	}
	var err error
	if e.river, err = river.NewClient(riverpgxv5.New(e.riverPool), config); err != nil {
		return fmt.Errorf("River: %w", err)
	}
	return nil
}

// ensurePublication must be done before the slot is made.
func (e *Engine) ensurePublication(ctx context.Context) error {
	return pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		statements, err := catalog.EnsurePublication(ctx, tx)
		if err != nil {
			return err
		}
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s); err != nil {
				return fmt.Errorf("%s: %w; grant CREATE on the database to this user, or run it as a superuser", s, err)
			}
		}
		return nil
	})
}

// FeedConfig is what the feed of this engine is made of.
func (e *Engine) feedConfig() feed.Config {
	slot := e.slotName()
	checkpoints := feed.NewCheckpoints(e.feedPool, slot)
	e.matcher = firing.New(firing.Config{
		Pool: e.feedPool, Source: e.feedPool, River: e.river, Catalog: e.catalog, Checkpoints: checkpoints, Logger: e.logger,
		Observer: e.metrics, MaxDepth: e.cfg.MaxDepth, MirrorBytes: int64(e.cfg.RelatedBytes),
	})
	return feed.Config{
		Conn: e.cfg.DatabaseURL, Slot: slot, Publication: catalog.Publication,
		Objects: e.matcher, Applier: e.matcher, Store: checkpoints, Init: e.matcher.Init, Logger: e.logger,
		MaxTransactionBytes: e.cfg.MaxTransactionBytes, SpillDir: e.cfg.SpillDir,
	}
}

func (e *Engine) prepareFeed(ctx context.Context) error {
	if err := e.ensurePublication(ctx); err != nil {
		return err
	}
	var err error
	if e.feed, err = feed.New(e.feedConfig()); err != nil {
		return fmt.Errorf("feed: %w", err)
	}
	e.metrics.feed = e.feed.Status
	return nil
}

// HasCheckpoint says whether a feed ever ran from the slot: then making it anew
// leaves a gap.
func (e *Engine) HasCheckpoint(ctx context.Context) (bool, error) {
	cp, found, err := feed.NewCheckpoints(e.feedPool, e.slotName()).Load(ctx)
	return found && cp.Position > 0, err
}

func (e *Engine) slotName() string {
	if e.cfg.Slot != "" {
		return e.cfg.Slot
	}
	return catalog.SlotName(e.pool.Config().ConnConfig.Database)
}

// RecreateSlot makes the slot anew after it was lost, and records the gap. No
// engine may be feeding from it.
func (e *Engine) RecreateSlot(ctx context.Context, reason string) (feed.Recreated, error) {
	if err := e.ensurePublication(ctx); err != nil {
		return feed.Recreated{}, err
	}
	return feed.Recreate(ctx, e.feedConfig(), reason)
}

// Run runs the engine until ctx ends, then drains: the feed applies what has
// arrived, running actions may finish (Config.DrainTimeout). It returns an error
// only for what a person must mend.
func (e *Engine) Run(ctx context.Context) error {
	defer e.Close()
	if e.river == nil {
		if err := e.Prepare(ctx); err != nil {
			return err
		}
	}
	if e.cfg.has(WorkersPart) {
		// Not ctx: its end would cut running actions short.
		if err := e.river.Start(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("River: %w", err)
		}
	}
	e.running.Store(true)
	group, parts := errgroup.WithContext(ctx)
	beat, stopBeat := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { e.heartbeat(beat); return nil })
	group.Go(func() error { e.zones.run(parts); return nil })
	if e.cfg.has(FeedPart) {
		marker, stopMarker := context.WithCancel(context.WithoutCancel(ctx))
		group.Go(func() error { e.matcher.RunMarker(marker); return nil })
		group.Go(func() error {
			return e.matcher.RunClock(parts, func() bool { return e.feed.Status().State == feed.StateStreaming })
		})
		group.Go(func() error {
			return e.matcher.Answer(parts, func() bool { return e.feed.Status().State == feed.StateStreaming })
		})
		group.Go(func() error {
			defer stopMarker()
			return e.feed.Run(parts)
		})
	}
	claimed := make(chan struct{}) // the scheduler has ended
	if !e.cfg.has(SchedulerPart) {
		close(claimed)
	} else {
		group.Go(func() error {
			defer close(claimed)
			return e.scheduler.Run(parts)
		})
		group.Go(func() error { e.waits.Tend(parts); return nil })
		group.Go(func() error { e.sweepNotifications(parts); return nil })
	}
	if e.cfg.has(WorkersPart) {
		group.Go(func() error { e.backfills.Run(parts); return nil })
	}
	group.Go(func() error {
		defer stopBeat()
		<-parts.Done()
		<-claimed
		return e.stopWorkers(context.WithoutCancel(ctx))
	})
	err := group.Wait()
	return errors.Join(err, e.registry.Close())
}

func (e *Engine) stopWorkers(ctx context.Context) error {
	e.running.Store(false)
	if !e.cfg.has(WorkersPart) {
		return e.removeWorker(ctx)
	}
	const hardTimeout = 10 * time.Second
	soft, cancel := context.WithTimeout(ctx, e.cfg.DrainTimeout)
	defer cancel()
	here := make(chan bool, 1)
	go func() { here <- e.slots == nil || e.slots.Stop(soft, hardTimeout) }()
	err := e.river.Stop(soft)
	if err != nil {
		hard, cancel := context.WithTimeout(ctx, hardTimeout)
		defer cancel()
		err = e.river.StopAndCancel(hard)
	}
	if ended := <-here; err != nil || !ended {
		// What still runs is given to another worker when our heartbeat stops.
		e.logger.Warn("some actions did not end in time; they run again elsewhere", "error", err)
		return nil
	}
	return e.removeWorker(ctx)
}

func (e *Engine) removeWorker(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := dbq.New(e.pool).RemoveWorker(ctx, e.worker.ID); err != nil {
		e.logger.Warn("this process stays in pgautomate.workers for a while", "error", err)
	}
	return nil
}

func (e *Engine) heartbeat(ctx context.Context) {
	t := time.NewTicker(e.cfg.DeadAfter / 6)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		beat, cancel := context.WithTimeout(ctx, e.cfg.DeadAfter/2)
		if err := dbq.New(e.pool).Heartbeat(beat, e.worker); err != nil && ctx.Err() == nil {
			e.logger.Warn("no heartbeat", "error", err)
		}
		cancel()
	}
}

// Ready says why the engine is not ready yet, in one line; nil when it is.
func (e *Engine) Ready(ctx context.Context) error {
	if !e.running.Load() {
		return errors.New("the workers are not running")
	}
	if e.feed != nil {
		s := e.feed.Status()
		if s.State != feed.StateStreaming && s.State != feed.StateStandby {
			if s.LastError != nil {
				return fmt.Errorf("the feed is %s: %w", s.State, s.LastError)
			}
			return fmt.Errorf("the feed is %s", s.State)
		}
	}
	if err := e.pool.Ping(ctx); err != nil {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	return nil
}

// FeedStatus tells about the feed; found is false when this process has none.
func (e *Engine) FeedStatus() (s feed.Status, found bool) {
	if e.feed == nil {
		return s, false
	}
	return e.feed.Status(), true
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/feed"
	"github.com/pgautomate/pgautomate/internal/garbage"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/mailbox"
	"github.com/pgautomate/pgautomate/server"
)

// parts are the words of --only; the server is ours, the others the engine's.
var parts = []string{string(pgautomate.FeedPart), string(pgautomate.SchedulerPart), string(pgautomate.WorkersPart), "server"}

func (a *app) run() *cobra.Command {
	var only, queues []string
	var listen, slot, memory, spillDir, related string
	var workers, keepDays int
	var archiveAfter, keepSpent, keepFinished time.Duration
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the engine: feed, scheduler, workers and HTTP",
		Long: `Runs the engine until SIGTERM or Ctrl-C, which drain it: what has arrived is
applied, running actions may finish. Prints "pgautomate ready" when all its parts serve.
Several processes on one database are safe: one feeds, the others stand by; schedulers
and workers share.

Settings: DATABASE_URL, PGAUTOMATE_LISTEN, SMTP_URL, EMAIL_FROM, PGAUTOMATE_WEBHOOK_ALLOW (CIDRs of
private networks that webhooks may reach), PGAUTOMATE_WEBHOOK_SECRET (whsec_…), PGAUTOMATE_DEV=1 (mail goes
to a local mailbox), PGAUTOMATE_MAX_TRANSACTION_MEMORY, PGAUTOMATE_SPILL_DIR.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, p := range only {
				if !slices.Contains(parts, p) {
					return usageError{fmt.Errorf("--only %s: the parts are %s", p, strings.Join(parts, ", "))}
				}
			}
			if len(only) == 0 {
				only = parts
			}
			cfg, err := a.config(queues, workers)
			if err != nil {
				return err
			}
			cfg.Slot = slot
			if cfg.MaxTransactionBytes, cfg.SpillDir, err = spilling(memory, spillDir); err != nil {
				return err
			}
			if cfg.RelatedBytes, err = size(related); err != nil || cfg.RelatedBytes < 1<<20 {
				return usageError{fmt.Errorf("--related-memory %q: give a size of at least 1MiB, such as 512MiB or 4GiB", related)}
			}
			if archiveAfter < time.Minute || keepSpent < time.Second || keepDays < 0 || keepFinished < 0 {
				return usageError{errors.New("--archive-after is at least 1m, --keep-spent at least 1s, --keep-finished-days at least 0")}
			}
			cfg.ArchiveAfter, cfg.KeepSpent, cfg.KeepFinished = archiveAfter, keepSpent, max(time.Duration(keepDays)*24*time.Hour, keepFinished)
			return a.serve(cmd.Context(), cfg, only, listen, func() error {
				fmt.Println("pgautomate ready")
				return nil
			})
		},
	}
	c.Flags().StringSliceVar(&only, "only", nil, "run only these `parts`: "+strings.Join(parts, ", "))
	c.Flags().StringSliceVar(&queues, "queues", nil, "work only these `action types`")
	c.Flags().StringVar(&listen, "listen", env("PGAUTOMATE_LISTEN", "127.0.0.1:8080"), "HTTP `address` (PGAUTOMATE_LISTEN)")
	c.Flags().IntVar(&workers, "workers", 100, "actions of one type that run at once")
	c.Flags().StringVar(&slot, "slot", "", "`name` of the replication slot (default pgautomate_<database>)")
	c.Flags().StringVar(&memory, "max-transaction-memory", env("PGAUTOMATE_MAX_TRANSACTION_MEMORY", "64MiB"),
		"`size` beyond which a transaction goes through temporary files (PGAUTOMATE_MAX_TRANSACTION_MEMORY)")
	c.Flags().StringVar(&related, "related-memory", env("PGAUTOMATE_RELATED_MEMORY", "1GiB"),
		"`size` of the rows that triggers with has_related may keep in memory (PGAUTOMATE_RELATED_MEMORY)")
	c.Flags().DurationVar(&archiveAfter, "archive-after", 24*time.Hour, "how long finished actions stay in lead_stage_actions itself; then they move to the table of their month, and are read as before")
	c.Flags().IntVar(&keepDays, "keep-finished-days", 0, "`days` after which finished actions, by whole months, and ended notifications may be deleted (default 0: never)")
	c.Flags().DurationVar(&keepSpent, "keep-spent", time.Hour, "how long completed jobs of River are kept, and counted starts that no throttle's window reaches any more")
	c.Flags().DurationVar(&keepFinished, "keep-finished", 0, "as --keep-finished-days, of any length: for `pgautomate soak`")
	_ = c.Flags().MarkHidden("keep-finished") // it is there
	c.Flags().StringVar(&spillDir, "spill-dir", os.Getenv("PGAUTOMATE_SPILL_DIR"),
		"`folder` of these files, about as large as the transaction's rows, old and new (PGAUTOMATE_SPILL_DIR; default TMPDIR)")
	return c
}

// spilling reads when a transaction goes through temporary files, and where they are. A
// folder that can't be written is told now, not when the first large transaction comes.
func spilling(memory, dir string) (limit int, where string, err error) {
	if limit, err = size(memory); err != nil || limit < 1<<20 {
		return 0, "", usageError{fmt.Errorf("--max-transaction-memory %q: give a size of at least 1MiB, such as 64MiB or 1GiB", memory)}
	}
	if dir == "" {
		return limit, "", nil
	}
	f, err := os.CreateTemp(dir, "pgautomate-spill-")
	if err == nil {
		_ = f.Close()
		err = os.Remove(f.Name())
	}
	if err != nil {
		return 0, "", usageError{fmt.Errorf("--spill-dir %s: no file can be made there: %w", dir, err)}
	}
	return limit, dir, nil
}

// size reads a number of bytes: 1048576, 64MiB, 1GB.
func size(s string) (int, error) {
	number := strings.TrimRight(s, "KMGiB")
	unit, ok := map[string]int64{"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "MB": 1e6, "GB": 1e9}[s[len(number):]]
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || !ok || n < 0 || n > math.MaxInt/unit {
		return 0, fmt.Errorf("%q is no size", s)
	}
	return int(n * unit), nil
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// config reads the settings of the environment.
func (a *app) config(queues []string, workers int) (pgautomate.Config, error) {
	if workers < 1 || workers > 1000 {
		return pgautomate.Config{}, usageError{fmt.Errorf("--workers %d: use 1 to 1000", workers)}
	}
	var allow []netip.Prefix
	if s := os.Getenv("PGAUTOMATE_WEBHOOK_ALLOW"); s != "" {
		var err error
		if allow, err = jobs.ParseAllow(s); err != nil {
			return pgautomate.Config{}, fmt.Errorf("PGAUTOMATE_WEBHOOK_ALLOW: %w", err)
		}
	}
	return pgautomate.Config{
		Logger: a.logger, Queues: queues, WorkersPerType: workers,
		SMTPURL: os.Getenv("SMTP_URL"), EmailFrom: os.Getenv("EMAIL_FROM"),
		WebhookAllow: allow, WebhookSecret: os.Getenv("PGAUTOMATE_WEBHOOK_SECRET"),
		AttachmentsURL: os.Getenv("ATTACHMENTS_URL"),
	}, nil
}

// serve runs an engine and its HTTP server until ctx ends; ready is called once
// all parts serve.
func (a *app) serve(ctx context.Context, cfg pgautomate.Config, only []string, listen string, ready func() error) error {
	var listener net.Listener
	if slices.Contains(only, "server") {
		var err error
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", listen); err != nil {
			return fmt.Errorf("the address %s can't be listened on: %w; choose another one with --listen or PGAUTOMATE_LISTEN", listen, err)
		}
		defer listener.Close()
	}
	var err error
	if cfg.DatabaseURL, err = a.database(ctx); err != nil {
		return err
	}
	jobs.GuardTransport(cfg.WebhookAllow) // push and chat dial through it
	var box *mailbox.Mailbox
	if os.Getenv("PGAUTOMATE_DEV") == "1" {
		if box, err = mailbox.Start(ctx, "127.0.0.1:0"); err != nil {
			return fmt.Errorf("the local mailbox: %w", err)
		}
		cfg.SMTPURL, cfg.SMTPOnly = box.URL(), true
	}
	cfg.Parts = []pgautomate.Part{}
	for _, p := range only {
		if p != "server" {
			cfg.Parts = append(cfg.Parts, pgautomate.Part(p))
		}
	}
	engine, err := pgautomate.New(ctx, cfg)
	if err != nil {
		return err
	}
	if err := engine.Prepare(ctx); err != nil {
		engine.Close()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { garbage.Tend(ctx); return nil })
	group.Go(func() error { return engine.Run(ctx) })
	if listener != nil {
		if err := serveHTTP(ctx, group, a.handlerConfig(engine, box), listener); err != nil {
			return err
		}
	}
	group.Go(func() error { return whenReady(ctx, engine, ready) })
	return group.Wait()
}

func (a *app) handlerConfig(engine *pgautomate.Engine, box *mailbox.Mailbox) server.Config {
	cfg := server.Config{
		Pool: engine.Pool(), River: engine.River(), Objects: engine.Catalog(), Actions: engine.Registry(), DryRun: engine.DryRun,
		Health: health{engine}, Registry: engine.Metrics(), Logger: a.logger, Version: version,
		Notifications: engine.Notifications(),
	}
	if box != nil {
		cfg.Mailbox = box.Handler()
	}
	return cfg
}

func serveHTTP(ctx context.Context, group *errgroup.Group, cfg server.Config, listener net.Listener) error {
	handler, err := server.New(cfg)
	if err != nil {
		return fmt.Errorf("HTTP: %w", err)
	}
	if err := handler.Start(ctx); err != nil {
		return fmt.Errorf("HTTP: %w", err)
	}
	httpServer := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       60 * time.Second,
		WriteTimeout:      120 * time.Second,
		IdleTimeout:       120 * time.Second,
	}
	group.Go(func() error {
		if err := httpServer.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("HTTP: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := httpServer.Shutdown(stop); err != nil {
			return httpServer.Close()
		}
		return nil
	})
	return nil
}

// whenReady waits until the engine is ready and says so once.
func whenReady(ctx context.Context, engine *pgautomate.Engine, ready func() error) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		if engine.Ready(ctx) == nil {
			return ready()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// health tells the server about the engine.
type health struct{ engine *pgautomate.Engine }

func (h health) Ready(ctx context.Context) error { return h.engine.Ready(ctx) }

func (h health) Feed() server.FeedState {
	s, found := h.engine.FeedStatus()
	if !found {
		return server.FeedState{State: "off"}
	}
	state := server.FeedState{State: string(s.State), Changes: uint64(s.Changes)}
	if s.Busy || s.Waiting > 0 {
		state.LagBytes = int64(s.Received) - int64(s.Applied)
		if !s.LastCommit.IsZero() {
			state.LagSeconds = time.Since(s.LastCommit).Seconds()
		}
	}
	if s.State == feed.StateStandby {
		state.State = "standing by"
	}
	return state
}

// Command pgautomate is the whole engine in one binary: it runs beside a
// Postgres, watches tables, and carries out automations. Here are only flags and
// wiring; what is done is in the packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // organizations' time zones, on machines without zone files

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/db/private"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// usageError is wrong usage: exit code 2.
type usageError struct{ error }

func run(ctx context.Context, args []string) int {
	a := &app{}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	a.close()
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "pgautomate: "+oneLine(err))
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		return 2
	}
	return 1
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
}

// app is what commands share: where the database is, and the log.
type app struct {
	databaseURL string
	dataDir     string
	logLevel    string

	private *private.Server
	logger  *slog.Logger
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pgautomate",
		Short: "Automations from rows: triggers, pipelines and notifications beside your Postgres",
		Long: `pgautomate runs beside a Postgres. Apps write rows; the engine reads each committed
change from the server's log, asks the triggers, moves leads through pipelines of
timed actions, and keeps the state of every job in tables that plain SQL can read.

Without a database (--database-url or DATABASE_URL) it runs a private Postgres.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.databaseURL, "database-url", os.Getenv("DATABASE_URL"), "the `URL` of the database (DATABASE_URL); without it a private Postgres is started")
	flags.StringVar(&a.dataDir, "data-dir", "", "the private Postgres's `folder` (default: in the user's cache folder)")
	flags.StringVar(&a.logLevel, "log-level", "info", "debug, info, warn or error")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see `%s --help`", err, c.CommandPath())}
	})
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		var level slog.Level
		if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
			return usageError{fmt.Errorf("--log-level %q: use debug, info, warn or error", a.logLevel)}
		}
		a.logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
		slog.SetDefault(a.logger)
		return nil
	}
	root.AddCommand(a.demo(), a.run(), a.migrate(), a.watch(), a.unwatch(), a.doctor(), a.trigger(), a.keys(), a.slot(), a.bench(), a.soak(), a.imports(),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: exactly(0),
			RunE: func(*cobra.Command, []string) error {
				fmt.Println("pgautomate " + version)
				return nil
			},
		})
	return root
}

// exactly is cobra.ExactArgs with the exit code of wrong usage.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%s takes %d arguments, not %d: see `%s --help`", c.CommandPath(), n, len(args), c.CommandPath())}
		}
		return nil
	}
}

// group makes a command that only holds others; called by itself, or with a word
// it doesn't know, it says so.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, RunE: func(c *cobra.Command, _ []string) error {
		names := make([]string, len(sub))
		for i, s := range sub {
			names[i] = s.Name()
		}
		return usageError{fmt.Errorf("`%s` needs one of %s", c.CommandPath(), strings.Join(names, ", "))}
	}}
	c.AddCommand(sub...)
	return c
}

// database gives the database's URL; it starts the private Postgres when none is set.
func (a *app) database(ctx context.Context) (string, error) {
	if a.databaseURL != "" {
		return a.databaseURL, nil
	}
	dir := a.dataDir
	if dir == "" {
		var err error
		if dir, err = private.DefaultDataDir(); err != nil {
			return "", err
		}
	}
	server, err := private.Start(ctx, private.Options{DataDir: dir, Logger: db.Quiet(a.logger)})
	if err != nil {
		return "", err
	}
	a.private = server
	a.databaseURL = server.URL("postgres")
	fmt.Fprintf(os.Stderr, "private Postgres %s: %s\n", server.Version(), a.databaseURL)
	return a.databaseURL, nil
}

// open gives a pool on a database whose schema is there and ours.
func (a *app) open(ctx context.Context) (*pgxpool.Pool, error) {
	url, err := a.database(ctx)
	if err != nil {
		return nil, err
	}
	pool, err := db.Open(ctx, url, "pgautomate command", 4)
	if err != nil {
		return nil, err
	}
	if err := pgautomate.EnsureSchema(ctx, pool, a.logger); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

func (a *app) close() {
	if a.private != nil {
		if err := a.private.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "pgautomate: "+oneLine(err))
		}
	}
}

// Package db holds the schema and the ways to the database: goose migrations
// (embedded) and River's under one lock, pools for each part of the engine, and
// the Go code that sqlc makes of the folder queries (package dbq).
//
// Everything lives in the schema pgautomate. Apps may write a few tables there
// and get automations; DBAs read the views. What the tables mean is said in the
// comments of the migrations, where it can't drift from them.
package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/pgautomate/pgautomate/db/line"
)

// Schema is where everything of pgautomate lives, River's tables too.
const Schema = "pgautomate"

// Migrations are the goose migrations of the schema.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// migrateLock is the session advisory lock under which migrations run.
const migrateLock = 7_294_310_885_112

// ErrSchema is returned by CheckSchema when the database's schema is not the
// one this binary was built with; its text says what to do.
var ErrSchema = errors.New("schema")

// ErrNoSchema is returned by CheckSchema when there is no schema yet.
var ErrNoSchema = fmt.Errorf("%w: the database has no pgautomate schema: run `pgautomate migrate up`", ErrSchema)

// silence bounds how long the server waits for us within a transaction: for its next statement, and for room to send
// results. One whose process is frozen, or cut off without a word, would hold its locks for ever, and with them whoever
// takes over.
const silence = 20 * time.Second

// Option changes what Open makes.
type Option func(*pgxpool.Config)

// Patient lets transactions be silent: those that think for long before they take
// their first lock, and set the bound themselves then.
func Patient(c *pgxpool.Config) {
	c.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
}

// Open makes a pool and says in one line what to do when the database can't be
// reached. maxConns 0 means pgx's default. The server ends a transaction that we neither
// go on with nor read the results of for 20 s.
func Open(ctx context.Context, url, application string, maxConns int32, options ...Option) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL can't be read (%s): give it as postgres://user:password@host:5432/database", parseProblem(err))
	}
	if maxConns > 0 {
		config.MaxConns = maxConns
	}
	config.ConnConfig.RuntimeParams["application_name"] = application
	bound := strconv.FormatInt(silence.Milliseconds(), 10)
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = bound
	config.ConnConfig.RuntimeParams["tcp_user_timeout"] = bound
	for _, o := range options {
		o(config)
	}
	config.ConnConfig.ConnectTimeout = 10 * time.Second
	// What struck one connection, a cut of the network, may have struck all.
	var made atomic.Pointer[pgxpool.Pool]
	line.Watch(&config.ConnConfig.Config, func() {
		if p := made.Load(); p != nil {
			p.Reset()
		}
	})
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return line.Identify(ctx, conn.PgConn()) }
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("the database can't be used: %w", err)
	}
	made.Store(pool)
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("no connection to the database %s: %s; check DATABASE_URL and that the server runs",
			Redacted(config.ConnConfig), firstLine(err))
	}
	return pool, nil
}

// Redacted names a database without its password.
func Redacted(c *pgx.ConnConfig) string {
	return fmt.Sprintf("%s@%s:%d/%s", c.User, c.Host, c.Port, c.Database)
}

// parseProblem keeps a password out of the message.
func parseProblem(err error) string {
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		if inner := errors.Unwrap(err); inner != nil && !strings.Contains(inner.Error(), "://") {
			return firstLine(inner)
		}
	}
	return "it is not a Postgres URL"
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	return strings.TrimSpace(line)
}

// Migrate brings the schema up to this binary's version. It is safe to call
// from several processes at once, and does nothing when all is up to date.
func Migrate(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) error {
	return underLock(ctx, pool, func() error {
		if _, err := pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+Schema); err != nil {
			return fmt.Errorf("the schema pgautomate can't be made: %w; grant CREATE on the database to this user", err)
		}
		river, err := riverMigrator(pool, logger)
		if err != nil {
			return err
		}
		if _, err := river.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return fmt.Errorf("migrations of River: %w", err)
		}
		return withGoose(pool, func(p *goose.Provider) error {
			if current, target, err := p.GetVersions(ctx); err == nil && current > target {
				return tooNew(current, target)
			}
			results, err := p.Up(ctx)
			for _, r := range results {
				logger.Info("migration applied", "file", r.Source.Path, "took", r.Duration)
			}
			if err != nil {
				return fmt.Errorf("migration: %w", err)
			}
			return nil
		})
	})
}

// MigrateDown removes the whole schema's content: first pgautomate's own
// tables, then River's, then the schema.
func MigrateDown(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) error {
	return underLock(ctx, pool, func() error {
		if there, err := schemaExists(ctx, pool); err != nil || !there {
			return err
		}
		err := withGoose(pool, func(p *goose.Provider) error {
			_, err := p.DownTo(ctx, 0)
			return err
		})
		if err != nil {
			return fmt.Errorf("migration: %w", err)
		}
		river, err := riverMigrator(pool, logger)
		if err != nil {
			return err
		}
		if _, err := river.Migrate(ctx, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1}); err != nil {
			return fmt.Errorf("migrations of River: %w", err)
		}
		if _, err := pool.Exec(ctx, "DROP TABLE IF EXISTS "+Schema+".goose_db_version; DROP SCHEMA IF EXISTS "+Schema+" CASCADE"); err != nil {
			return fmt.Errorf("the schema can't be removed: %w", err)
		}
		return nil
	})
}

// MigrationStatus is one migration and whether the database has it.
type MigrationStatus struct {
	Name      string
	Applied   bool
	AppliedAt time.Time
}

// Status lists all migrations, River's last.
func Status(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) ([]MigrationStatus, error) {
	var list []MigrationStatus
	there, err := schemaExists(ctx, pool)
	if err != nil {
		return nil, err
	}
	if !there {
		names, err := fs.Glob(Migrations, "migrations/*.sql")
		if err != nil {
			return nil, fmt.Errorf("embedded migrations: %w", err)
		}
		for _, name := range names {
			list = append(list, MigrationStatus{Name: strings.TrimPrefix(name, "migrations/")})
		}
		return append(list, MigrationStatus{Name: "river"}), nil
	}
	err = withGoose(pool, func(p *goose.Provider) error {
		all, err := p.Status(ctx)
		for _, s := range all {
			list = append(list, MigrationStatus{s.Source.Path, s.State == goose.StateApplied, s.AppliedAt})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("migration status: %w", err)
	}
	river, err := riverMigrator(pool, logger)
	if err != nil {
		return nil, err
	}
	valid, err := river.Validate(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("migrations of River: %w", err)
	}
	return append(list, MigrationStatus{Name: "river", Applied: valid.OK}), nil
}

// CheckSchema says whether the database's schema is exactly this binary's:
// ErrNoSchema when there is none, another error wrapping ErrSchema when it is
// older or newer.
func CheckSchema(ctx context.Context, pool *pgxpool.Pool, logger *slog.Logger) error {
	there, err := schemaExists(ctx, pool)
	if err != nil {
		return err
	}
	if !there {
		return ErrNoSchema
	}
	return withGoose(pool, func(p *goose.Provider) error {
		current, target, err := p.GetVersions(ctx)
		if err != nil {
			return fmt.Errorf("migration status: %w", err)
		}
		if current > target {
			return tooNew(current, target)
		}
		if current < target {
			return fmt.Errorf("%w: the database's schema is version %d, this binary needs %d: run `pgautomate migrate up`", ErrSchema, current, target)
		}
		river, err := riverMigrator(pool, logger)
		if err != nil {
			return err
		}
		valid, err := river.Validate(ctx, nil)
		if err != nil {
			return fmt.Errorf("migrations of River: %w", err)
		}
		if !valid.OK {
			return fmt.Errorf("%w: River's tables are not up to date: run `pgautomate migrate up`", ErrSchema)
		}
		return nil
	})
}

func tooNew(current, target int64) error {
	return fmt.Errorf("%w: the database's schema is version %d, this binary knows %d: run a newer pgautomate", ErrSchema, current, target)
}

func schemaExists(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	var there bool
	err := pool.QueryRow(ctx, "SELECT to_regclass('pgautomate.goose_db_version') IS NOT NULL").Scan(&there)
	if err != nil {
		return false, fmt.Errorf("the database does not answer: %w", err)
	}
	return there, nil
}

func riverMigrator(pool *pgxpool.Pool, logger *slog.Logger) (*rivermigrate.Migrator[pgx.Tx], error) {
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: Schema, Logger: quiet(logger)})
	if err != nil {
		return nil, fmt.Errorf("migrations of River: %w", err)
	}
	return m, nil
}

// quiet keeps River's line per migration out of the log.
func quiet(logger *slog.Logger) *slog.Logger {
	return slog.New(levelAbove{logger.Handler(), slog.LevelWarn})
}

type levelAbove struct {
	slog.Handler

	level slog.Level
}

func (h levelAbove) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.level && h.Handler.Enabled(ctx, l)
}

func (h levelAbove) WithAttrs(a []slog.Attr) slog.Handler {
	return levelAbove{h.Handler.WithAttrs(a), h.level}
}

func (h levelAbove) WithGroup(n string) slog.Handler {
	return levelAbove{h.Handler.WithGroup(n), h.level}
}

// Quiet gives a logger that lets only warnings and errors through: for
// libraries that talk much.
func Quiet(logger *slog.Logger) *slog.Logger { return quiet(logger) }

func withGoose(pool *pgxpool.Pool, do func(*goose.Provider) error) error {
	files, err := fs.Sub(Migrations, "migrations")
	if err != nil {
		return fmt.Errorf("embedded migrations: %w", err)
	}
	std := stdlib.OpenDBFromPool(pool)
	defer func(c *sql.DB) { _ = c.Close() }(std)
	p, err := goose.NewProvider(goose.DialectPostgres, std, files, goose.WithTableName(Schema+".goose_db_version"))
	if err != nil {
		return fmt.Errorf("embedded migrations: %w", err)
	}
	return do(p)
}

// underLock runs do while this session alone holds the migration lock.
func underLock(ctx context.Context, pool *pgxpool.Pool, do func() error) error {
	// A connection of its own: callers that wait for the lock must not hold what
	// the one at work needs.
	conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("no connection to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) // and the lock with it
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(migrateLock)); err != nil {
		return fmt.Errorf("the migration lock: %w", err)
	}
	return do()
}

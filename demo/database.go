package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db"
)

const (
	// Database is the demo's database in a private server.
	Database = "pgautomate_demo"
	// Schema holds the demo's tables in a database that was given.
	Schema = "pgautomate_demo"

	schemaComment = "Made by `pgautomate demo`, which drops it at its next start."
)

// FreshDatabase makes the database anew in a server of our own, and gives its URL. What an earlier demo left is dropped, its
// slot too. adminURL leads to another database of that server, as its superuser.
func FreshDatabase(ctx context.Context, adminURL string) (string, error) {
	u, err := url.Parse(adminURL)
	if err != nil {
		return "", errors.New("the server's URL can't be read")
	}
	conn, err := pgx.Connect(ctx, adminURL)
	if err != nil {
		return "", fmt.Errorf("the demo's database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := dropSlots(ctx, conn); err != nil {
		return "", err
	}
	name := pgx.Identifier{Database}.Sanitize()
	for _, statement := range []string{"DROP DATABASE IF EXISTS " + name + " WITH (FORCE)", "CREATE DATABASE " + name} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", fmt.Errorf("%s: %w", statement, err)
		}
	}
	u.Path = "/" + Database
	return u.String(), nil
}

// dropSlots drops the slots of the demo's database. A reader that was told to end needs a moment to let go.
func dropSlots(ctx context.Context, conn *pgx.Conn) error {
	for range 100 {
		for _, name := range []string{"end_slots", "drop_slots"} {
			// A slot that is taken between look and drop is an error; the next round sees to it.
			if _, err := conn.Exec(ctx, statements[name], Database); err != nil && ctx.Err() != nil {
				return err
			}
		}
		var left int
		if err := conn.QueryRow(ctx, statements["slots_left"], Database).Scan(&left); err != nil {
			return fmt.Errorf("the slots of the demo before: %w", err)
		}
		if left == 0 {
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("the replication slot of the demo before is still in use: end who reads database %s", Database)
}

// ClaimDatabase readies a database that was given: the demo's schema is made anew, and what the engine keeps of an earlier
// demo goes. It refuses, and changes nothing, when the engine was used there for anything else, or works there now.
func ClaimDatabase(ctx context.Context, databaseURL string, logger *slog.Logger) error {
	pool, err := db.Open(ctx, databaseURL, "pgautomate demo", 4)
	if err != nil {
		return err
	}
	defer pool.Close()
	another := "give the demo a database of its own: CREATE DATABASE demo, and that in DATABASE_URL"
	var there, ours, engine bool
	if err := pool.QueryRow(ctx, statements["holds"], Schema, schemaComment).Scan(&there, &ours, &engine); err != nil {
		return fmt.Errorf("what the database holds: %w", err)
	}
	if there && !ours {
		return fmt.Errorf("the schema %s is there and was not made by the demo: %s", Schema, another)
	}
	slot := catalog.SlotName(pool.Config().ConnConfig.Database)
	if engine {
		if err := db.CheckSchema(ctx, pool, logger); err != nil && !errors.Is(err, db.ErrNoSchema) {
			return err
		}
		var used, runs bool
		if err := pool.QueryRow(ctx, statements["used"], Schema, organizations()).Scan(&used); err != nil {
			return fmt.Errorf("what the engine is used for: %w", err)
		}
		if used {
			return fmt.Errorf("the engine in this database is used for something else: %s", another)
		}
		if err := pool.QueryRow(ctx, statements["engine_runs"], slot).Scan(&runs); err != nil {
			return fmt.Errorf("replication slots: %w", err)
		}
		if runs {
			return fmt.Errorf("an engine works in this database: stop it, or %s", another)
		}
	}
	if there && engine {
		if err := forget(ctx, pool, slot, logger); err != nil {
			return err
		}
	}
	name := pgx.Identifier{Schema}.Sanitize()
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, statement := range []string{
			"DROP SCHEMA IF EXISTS " + name + " CASCADE", "CREATE SCHEMA " + name,
			"COMMENT ON SCHEMA " + name + " IS '" + schemaComment + "'",
		} {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	})
}

// forget removes what the engine keeps of an earlier demo.
func forget(ctx context.Context, pool *pgxpool.Pool, slot string, logger *slog.Logger) error {
	if _, err := pool.Exec(ctx, statements["drop_slot"], slot); err != nil {
		return fmt.Errorf("the slot of the demo before: %w", err)
	}
	if _, err := pool.Exec(ctx, statements["drop_publication"]); err != nil {
		return fmt.Errorf("the publication of the demo before: %w", err)
	}
	return db.MigrateDown(ctx, pool, logger)
}

func organizations() []string { return slices.Concat(sampleOrganizations, []string{logOrganization}) }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

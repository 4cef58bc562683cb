package bench

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db"
	"github.com/pgautomate/pgautomate/internal/sqltext"
)

//go:embed sql
var sqlFiles embed.FS

var statements = sqltext.Statements(sqlFiles, "sql/bench.sql", "sql/soak.sql")

// database is one of the run's databases, with the engine's schema and the app's
// tables, watched.
type database struct {
	name, url string
	pool      *pgxpool.Pool
	round     int // of changes
}

const templateName = "bench_template"

// template makes what databases are copied from.
func (r *run) template(ctx context.Context) error {
	if err := r.admin(ctx, "CREATE DATABASE "+templateName); err != nil {
		return err
	}
	pool, err := db.Open(ctx, r.server.URL(templateName), "pgautomate bench", 2)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := db.Migrate(ctx, pool, r.Logger); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, sqltext.Script(sqlFiles, "sql/tables.sql")); err != nil {
		return fmt.Errorf("the tables: %w", err)
	}
	for _, table := range []string{"lead", "note", "company", "deal"} {
		o := catalog.WatchOptions{Table: "public." + table, As: table, Organization: "organization_id"}
		if _, _, err := catalog.Watch(ctx, pool, o, false); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) admin(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, r.server.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// database makes one; it lives until drop.
func (r *run) database(ctx context.Context, name string) (*database, error) {
	name = "bench_" + name
	if err := r.admin(ctx, "CREATE DATABASE "+name+" TEMPLATE "+templateName); err != nil {
		return nil, err
	}
	d := &database{name: name, url: r.server.URL(name)}
	r.databases = append(r.databases, d)
	config, err := pgxpool.ParseConfig(d.url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 16
	config.ConnConfig.RuntimeParams["application_name"] = "pgautomate bench"
	d.pool, err = pgxpool.NewWithConfig(ctx, config)
	return d, err
}

// drop drops all databases and their slots: nothing of one group is in the way of the next.
func (r *run) drop(ctx context.Context) error {
	var errs []error
	for _, d := range r.databases {
		if d.pool != nil {
			errs = append(errs, d.dropSlots(ctx))
			d.pool.Close()
		}
		errs = append(errs, r.admin(ctx, "DROP DATABASE "+d.name+" WITH (FORCE)"))
	}
	r.databases = nil
	return errors.Join(errs...)
}

// dropSlots drops the database's slots. A reader that ended needs a moment to let go.
func (d *database) dropSlots(ctx context.Context) error {
	for range 500 {
		_, err := d.pool.Exec(ctx, statements["drop_slots"])
		left := 0
		if err == nil {
			err = d.pool.QueryRow(ctx, statements["slots_left"]).Scan(&left)
		}
		if err == nil && left == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("a replication slot of %s is still in use", d.name)
}

func (d *database) exec(ctx context.Context, name string, args ...any) error {
	var err error
	if len(args) == 0 { // perhaps many statements
		_, err = d.pool.Exec(ctx, statements[name], pgx.QueryExecModeSimpleProtocol)
	} else {
		_, err = d.pool.Exec(ctx, statements[name], args...)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (d *database) run(ctx context.Context, statement string) error {
	if _, err := d.pool.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// leads fills the watched table and lets the log forget it.
func (d *database) leads(ctx context.Context, rows, organizations int) error {
	if err := d.exec(ctx, "fill_leads", rows, organizations); err != nil {
		return err
	}
	return d.run(ctx, "VACUUM (ANALYZE) lead")
}

// triggers writes so many triggers, evenly over the organizations: the first of each
// waits for what becomes hot, the others are considered and don't fire.
func (d *database) triggers(ctx context.Context, n, organizations int) error {
	rnd := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // the same world each time
	hot := query("lead", regular("text0", isOneOf("hot")))
	_, err := d.pool.CopyFrom(ctx, pgx.Identifier{"pgautomate", "triggers"},
		[]string{"organization_id", "name", "object_type", "query", "action_type", "action_params"},
		pgx.CopyFromSlice(n, func(i int) ([]any, error) {
			text := hot
			if i >= organizations {
				text = anyQuery(rnd, true)
			}
			return []any{organization(i % organizations), fmt.Sprintf("trigger %d", i), "lead", text, "log", `{"message": "x"}`}, nil
		}))
	if err != nil {
		return fmt.Errorf("triggers: %w", err)
	}
	return d.run(ctx, "ANALYZE pgautomate.triggers")
}

// position is the end of the log now.
func (d *database) position(ctx context.Context) (string, error) {
	var lsn string
	err := d.pool.QueryRow(ctx, statements["flushed"]).Scan(&lsn)
	return lsn, err
}

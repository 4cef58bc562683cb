// The template database: migrated once per server and version of the migrations, whichever test process comes first. Its
// name holds a hash of what made it, so a long-lived server never serves an old one.

package dbtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db"
)

// templateLock is the advisory lock under which templates are made; held in the database of the server's URL.
const templateLock = 7_294_310_885_113

var templates struct {
	sync.Mutex

	made map[string]string // by server URL
}

// template returns the name of the server's template, which it makes when it is missing.
func template(ctx context.Context, server string) (string, error) {
	templates.Lock()
	defer templates.Unlock()
	if name, ok := templates.made[server]; ok {
		return name, nil
	}
	hash, err := schemaHash()
	if err != nil {
		return "", err
	}
	name := "pgautomate_template_" + hash
	err = admin(ctx, server, func(conn *pgx.Conn) error {
		// The lock goes with the session.
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(templateLock)); err != nil {
			return err
		}
		var ready bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)", name).Scan(&ready)
		if err != nil || ready {
			return err
		}
		return makeTemplate(ctx, conn, server, name)
	})
	if err != nil {
		return "", err
	}
	if templates.made == nil {
		templates.made = map[string]string{}
	}
	templates.made[server] = name
	return name, nil
}

func makeTemplate(ctx context.Context, conn *pgx.Conn, server, name string) error {
	// One that is there but not marked is what a killed test process left.
	for _, sql := range []string{
		"DROP DATABASE IF EXISTS " + quote(name) + " WITH (FORCE)",
		"CREATE DATABASE " + quote(name) + " TEMPLATE template0",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	target, err := withDatabase(server, name)
	if err != nil {
		return err
	}
	if err := migrate(ctx, target); err != nil {
		return err
	}
	// Marking it also closes it to sessions, so that no clone ever fails because somebody looks at the template. Sessions
	// that are just ending are ended here.
	for _, sql := range []string{
		"ALTER DATABASE " + quote(name) + " WITH ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + name + "'",
		"ALTER DATABASE " + quote(name) + " WITH IS_TEMPLATE true",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

func migrate(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return db.Migrate(ctx, pool, slog.New(slog.DiscardHandler))
}

// schemaHash stands for the migrations and the version of River, which brings its own.
func schemaHash() (string, error) {
	hash := sha256.New()
	err := fs.WalkDir(db.Migrations, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := db.Migrations.ReadFile(path)
		fmt.Fprintf(hash, "%s %d\n", path, len(content))
		hash.Write(content)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("embedded migrations: %w", err)
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if strings.HasPrefix(module.Path, "github.com/riverqueue/river") {
				fmt.Fprintln(hash, module.Path, module.Version)
			}
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:8]), nil
}

// Package dbtest gives tests a real Postgres: each test a database of its own, cloned from a migrated template in some tens
// of milliseconds, so that tests may run in parallel and leave nothing to each other.
//
// The server is the one of PGAUTOMATE_TEST_URL (a superuser's URL; cmd/withpg sets it, so that the packages of one `go test
// ./...` share a server), else a private one that this test process starts when a test first needs it. A package that uses
// dbtest says so once:
//
//	func TestMain(m *testing.M) { dbtest.Main(m) }
//
// Tests of faults take a server of their own, which they may kill: OwnServer, with NewOn for a database on it.
package dbtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/pgautomate/pgautomate/db/private"
)

// URLEnv names the server that tests share: a superuser's URL of any database.
const URLEnv = "PGAUTOMATE_TEST_URL"

const (
	folderPrefix = "pgautomate-test-"

	setUpWithin   = 2 * time.Minute  // a server's or a template's start on a busy machine
	cleanUpWithin = 30 * time.Second // dropping one database
)

// DB is a test's own database. It is dropped, with its logical slots, when the test ends.
type DB struct {
	Name string
	URL  string
	Pool *pgxpool.Pool // closed when the test ends
}

// New returns a fresh database with the schema of this version.
func New(t testing.TB) *DB {
	t.Helper()
	return create(t, serverURL(t), true, true)
}

// NewEmpty returns a fresh database without any schema.
func NewEmpty(t testing.TB) *DB {
	t.Helper()
	return create(t, serverURL(t), false, true)
}

// NewOn is New on a server of OwnServer. That server's end is the database's end.
func NewOn(t testing.TB, server *private.Server) *DB {
	t.Helper()
	return create(t, server.URL("postgres"), true, false)
}

// OwnServer starts a private server for this test alone, which may Kill and Restart it. settings are such as
// "wal_level=replica". It takes one or two seconds.
func OwnServer(t testing.TB, settings ...string) *private.Server {
	t.Helper()
	all := map[string]string{}
	for _, setting := range settings {
		name, value, ok := strings.Cut(setting, "=")
		if !ok {
			t.Fatalf("dbtest.OwnServer: %q is not name=value", setting)
		}
		all[name] = value
	}
	server, remove, err := startServer(all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Errorf("dbtest: %v", err)
		}
	})
	return server
}

// Main runs the tests of a package and then stops the server that they started. It does not return.
func Main(m *testing.M) { os.Exit(run(m, nil)) }

// MainNoLeaks is Main for packages whose goroutines must all have ended with their tests.
func MainNoLeaks(m *testing.M, ignore ...goleak.Option) {
	os.Exit(run(m, func() error { return goleak.Find(ignore...) }))
}

func run(m *testing.M, check func() error) (code int) {
	shared.allowed = true
	defer func() {
		if shared.remove == nil {
			return
		}
		if err := shared.remove(); err != nil {
			fmt.Fprintln(os.Stderr, "dbtest:", err)
			code = max(code, 1)
		}
	}()
	code = m.Run()
	if check == nil || code != 0 {
		return code
	}
	if shared.remove != nil { // its goroutine is no leak
		err := shared.remove()
		shared.remove = nil
		if err != nil {
			fmt.Fprintln(os.Stderr, "dbtest:", err)
			return 1
		}
	}
	if err := check(); err != nil {
		fmt.Fprintln(os.Stderr, "dbtest: goroutines are left after the tests:", err)
		return 1
	}
	return code
}

// shared is this test process's server.
var shared struct {
	once    sync.Once
	allowed bool // Main is there to stop it
	url     string
	err     error
	remove  func() error
}

func serverURL(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() {
		if shared.url = os.Getenv(URLEnv); shared.url != "" {
			return
		}
		if !shared.allowed {
			shared.err = fmt.Errorf("add func TestMain(m *testing.M) { dbtest.Main(m) } to this package, or set %s", URLEnv)
			return
		}
		server, remove, err := startServer(nil)
		if err != nil {
			shared.err = err
			return
		}
		shared.url, shared.remove = server.URL("postgres"), remove
	})
	if shared.err != nil {
		t.Fatalf("dbtest: %v", shared.err)
	}
	return shared.url
}

// Folder makes a temporary folder for a throwaway server; who calls it removes it. All users may enter it, because root's
// server runs as another user; what is secret in it is closed to others.
func Folder() (string, error) {
	sweep(parentFolder())
	dir, err := os.MkdirTemp(parentFolder(), folderPrefix)
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// sweep removes the folders of test runs that were killed: theirs is the lock that nobody holds.
func sweep(parent string) {
	if parent == "" {
		parent = os.TempDir()
	}
	locks, err := filepath.Glob(filepath.Join(parent, folderPrefix+"*", "lock"))
	if err != nil {
		return
	}
	for _, path := range locks {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue // another user's
		}
		// A server that was killed this moment may still write; so only those that are older than any shutdown takes.
		info, err := f.Stat()
		if err == nil && time.Since(info.ModTime()) > time.Minute && syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		_ = f.Close()
	}
}

// startServer starts a throwaway server; remove stops it and removes its folder.
func startServer(settings map[string]string) (server *private.Server, remove func() error, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), setUpWithin)
	defer cancel()
	dir, err := Folder()
	if err != nil {
		return nil, nil, err
	}
	server, err = private.Start(ctx, private.Options{DataDir: dir, Volatile: true, Settings: settings})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, nil, err
	}
	return server, func() error {
		// Nothing of it is worth a checkpoint: an immediate shutdown.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := server.Stop(ctx); err != nil {
			return err
		}
		return os.RemoveAll(dir)
	}, nil
}

var counter atomic.Int64

func create(t testing.TB, server string, migrated, drop bool) *DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), setUpWithin)
	defer cancel()
	d := &DB{Name: newName()}
	var err error
	if d.URL, err = withDatabase(server, d.Name); err != nil {
		t.Fatalf("dbtest: %s: %v", URLEnv, err)
	}
	source := "template0"
	if migrated {
		if source, err = template(ctx, server); err != nil {
			t.Fatalf("dbtest: the template database: %v", err)
		}
	}
	err = admin(ctx, server, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE DATABASE "+quote(d.Name)+" TEMPLATE "+quote(source))
		return err
	})
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	config, err := pgxpool.ParseConfig(d.URL)
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = t.Name()[:min(len(t.Name()), 63)]
	if d.Pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Errorf("dbtest: %v", err)
		}
		if !drop {
			return
		}
		if err := dropDatabase(server, d.Name); err != nil {
			t.Errorf("dbtest: database %s is left on the test server: %v", d.Name, err)
		}
	})
	return d
}

// close closes the pool, but does not wait for ever for a connection that the test forgot to release.
func (d *DB) close() error {
	closed := make(chan struct{})
	go func() {
		d.Pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-time.After(cleanUpWithin):
		return fmt.Errorf("the test still holds %d connections of its pool", d.Pool.Stat().AcquiredConns())
	}
}

// dropDatabase ends all that goes on in a database and drops it. A slot outlives its database's sessions and forbids the
// drop, so slots go first, and their walsenders before them.
func dropDatabase(server, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpWithin)
	defer cancel()
	return admin(ctx, server, func(conn *pgx.Conn) error {
		for {
			left, err := dropSlots(ctx, conn, name)
			if err != nil {
				return err
			}
			if left == 0 {
				break
			}
			// A terminated walsender gives its slot back within milliseconds; the server sends no signal for it.
			select {
			case <-ctx.Done():
				return fmt.Errorf("%d replication slots stay in use: end the feed before the test ends", left)
			case <-time.After(5 * time.Millisecond):
			}
		}
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)")
		return err
	})
}

// dropSlots drops the free slots of a database, terminates the users of the others, and returns how many are left.
func dropSlots(ctx context.Context, conn *pgx.Conn, database string) (left int, err error) {
	rows, err := conn.Query(ctx, "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = $1", database)
	if err != nil {
		return 0, err
	}
	type slot struct {
		Name string
		PID  *int32
	}
	slots, err := pgx.CollectRows(rows, pgx.RowToStructByPos[slot])
	if err != nil {
		return 0, err
	}
	for _, s := range slots {
		if s.PID != nil {
			if _, err := conn.Exec(ctx, "SELECT pg_terminate_backend($1)", *s.PID); err != nil {
				return 0, err
			}
		}
		if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", s.Name); err != nil {
			left++ // still active, or dropped by its own user this moment: the next look tells
		}
	}
	return left, nil
}

// admin runs do on a connection to the server's own database.
func admin(ctx context.Context, server string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return fmt.Errorf("no connection to the test server: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(conn)
}

func newName() string {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails, says crypto/rand
	return fmt.Sprintf("pgautomate_test_%d_%d_%s", os.Getpid(), counter.Add(1), hex.EncodeToString(random))
}

func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme == "" {
		return "", errors.New("give it as postgres://user:password@host:port/database")
	}
	u.Path = "/" + name
	return u.String(), nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// Deadlock lets a lead enter a stage in a transaction, waits until what meanwhile is
// called waits for it, and then lets another lead, which that holds, enter: so that
// the other one is what the server ends. It returns what the other gave.
func Deadlock(t testing.TB, pool *pgxpool.Pool, organization string, stage int64, last, first string, other func() error) error {
	t.Helper()
	ctx := t.Context()
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	enter := func(lead string) {
		t.Helper()
		_, err := tx.Exec(ctx, `INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) VALUES ($1, $2, $3)`, organization, lead, stage)
		if err != nil {
			t.Fatalf("the one that was to win: %v", err)
		}
	}
	// Who waits for longer than this looks whether it waits in a circle, and gives way.
	if _, err := tx.Exec(ctx, `SET LOCAL deadlock_timeout = '5min'`); err != nil {
		t.Fatal(err)
	}
	enter(last)
	var me int32
	if err := tx.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&me); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- other() }()
	for waits := false; !waits; time.Sleep(5 * time.Millisecond) {
		if err := pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))`, me).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	enter(first)
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	return <-done
}
